from pathlib import Path

import pytest

import gainreg

NAMES = ["identity", "relu", "leaky_relu", "elu", "selu", "tanh", "gelu", "silu"]


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One YAML table on disk, from which every framework's constants come."""
    path = tmp_path_factory.mktemp("adapters") / "gains.yaml"
    gainreg.build_table(NAMES, stds=[1.0]).write(path)
    return path
