from collections.abc import Iterator

import pytest

import gainreg


@pytest.fixture
def fresh_host() -> Iterator[None]:
    """The registry as a new process finds it; whatever the test registers is forgotten."""
    gainreg.reload_plugins()
    yield
    gainreg.reload_plugins()
