import pytest

import gainreg
import gainreg.host


@pytest.fixture
def fresh_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry as a new process finds it; whatever the test registers is forgotten."""
    monkeypatch.setattr(gainreg.host, "_host", None)
    monkeypatch.setattr(gainreg, "_usual", {})
    monkeypatch.setattr(gainreg, "_remembered", {})
