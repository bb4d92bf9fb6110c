import os
from pathlib import Path

import pytest

import gainreg

# before keras is first imported; the other backend has a process of its own in test_keras.py
os.environ.setdefault("KERAS_BACKEND", "torch")

NAMES = ["identity", "relu", "leaky_relu", "elu", "selu", "tanh", "gelu", "silu"]


def pytest_configure(config: pytest.Config) -> None:
    # Keras 3.15 on torch converts tensors to arrays in a way that NumPy 2 deprecates
    config.addinivalue_line(
        "filterwarnings", "ignore:__array__ implementation doesn't accept:DeprecationWarning"
    )


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One YAML table on disk, from which every framework's constants come."""
    path = tmp_path_factory.mktemp("adapters") / "gains.yaml"
    gainreg.build_table(NAMES, stds=[1.0]).write(path)
    return path
