"""What Keras's other backends do, each in a process of its own: Keras has one in each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras", reason="the backends are Keras's")

HERE = Path(__file__).parent
FILES = [HERE / "test_keras_models.py", HERE / "test_frameworks.py"]
FILES += [HERE.parent / "adapters" / "test_keras.py"]
# What goes through other code there, or through much of it; each compiles for seconds.
ON_JAX = (
    "same_model", "norms", "pooling", "transposed", "recurrent", "batch_norms", "no_mark",
    "half_way", "same_seed", "calibration", "saved", "every_distribution", "as_functions",
)  # fmt: skip

UNSUPPORTED = """
import keras, numpy as np
from gainreg.adapters.keras import plan, apply_, measure, initialize_
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
for call in (plan, measure, initialize_):
    try:
        call(model, np.ones((2, 4), "float32"))
    except ValueError as error:
        assert "backends torch and jax, and this is numpy" in str(error)
    else:
        raise AssertionError
"""


def process(backend: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KERAS_BACKEND": backend, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )


def test_another_backend_is_told_which_ones_work() -> None:
    done = process("numpy", "-c", UNSUPPORTED)
    assert done.returncode == 0, done.stderr


def test_all_of_this_on_the_jax_backend() -> None:
    pytest.importorskip("jax", reason="Keras on jax needs jax")
    chosen = f"keras and ({' or '.join(ON_JAX)})"
    done = process(
        "jax", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *map(str, FILES)
    )
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout
