"""What all tests share: a fresh registry, and a JAX that compiles fast."""

import os
from collections.abc import Iterator

import pytest

import gainreg

# Before jax is first imported, here or in a process of a test's: nearly all that the tests spend on
# JAX is compilation, for functions that run once or twice. Unoptimised it takes half the time, and
# two thirds of that where XLA's older code fuses loops; a version without that choice ignores it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
)

# Before keras is first imported; the other backend has a process of its own where it is tested.
os.environ.setdefault("KERAS_BACKEND", "torch")


def pytest_configure(config: pytest.Config) -> None:
    # Keras 3.15 on torch converts tensors to arrays in a way that NumPy 2 deprecates
    config.addinivalue_line(
        "filterwarnings", "ignore:__array__ implementation doesn't accept:DeprecationWarning"
    )


@pytest.fixture
def fresh_host() -> Iterator[None]:
    """The registry as a new process finds it; whatever the test registers is forgotten."""
    gainreg.reload_plugins()
    yield
    gainreg.reload_plugins()
