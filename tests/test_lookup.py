"""Look-ups: from the shipped table, cold and warm."""

import math
import subprocess
import sys

import pytest

import gainreg
from gainreg import GainEntry, ParameterError, TableError


def test_a_cold_look_up_imports_neither_numpy_nor_scipy_nor_pluggy() -> None:
    code = (
        "import sys, gainreg\n"
        "assert gainreg.gain('elu') == 1.2451983007007066\n"
        "assert gainreg.load_table().lookup('linear', std=2.0).gain == 1.0\n"
        "from gainreg.cli import main\n"
        "main(['gain', 'tanh'])\n"
        "heavy = {'numpy', 'scipy', 'pluggy', 'torch', 'jax', 'keras'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1.5925374197228315\n"


def test_importing_gainreg_imports_no_framework() -> None:
    code = (
        "import sys, gainreg\n"
        "gainreg.resolve, gainreg.build_table\n"
        "assert not {'torch', 'jax', 'keras', 'tensorflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_shipped_table_answers_as_a_live_resolve_does() -> None:
    for entry in gainreg.load_table():
        if entry.activation in ("relu", "elu", "selu", "tanh"):
            live = gainreg.resolve(entry.activation, entry.std, **entry.params)
            assert live.gain == pytest.approx(entry.gain, rel=1e-14)


def test_gain_looks_in_the_shipped_table_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gainreg, "_usual", {})
    monkeypatch.setattr(gainreg, "_remembered", {})
    monkeypatch.setattr("gainreg.resolver.resolve", None)
    assert gainreg.gain("elu") == 1.2451983007007066
    assert gainreg.gain("elu", alpha=1) == 1.2451983007007066
    assert gainreg.gain("linear", 0.5) == 1.0


def test_a_look_up_fills_in_defaults_and_knows_aliases() -> None:
    table = gainreg.load_table()
    entry = table.lookup("elu")
    assert isinstance(entry, GainEntry)
    assert entry == table.lookup("elu", std=1, alpha=1.0)
    assert entry.params == {"alpha": 1.0}
    assert table.lookup("linear").activation == "identity"


def test_a_look_up_is_exact_and_names_the_nearest_entries() -> None:
    table = gainreg.load_table()
    with pytest.raises(
        TableError, match=r"no entry for elu\(std=1\.1, alpha=1\); nearest: elu\(std=1, "
    ):
        table.lookup("elu", std=1.1)
    with pytest.raises(TableError, match=r"alpha=1\.0+1|alpha=1"):
        table.lookup("elu", alpha=1.0000001)
    with pytest.raises(TableError, match="did you mean 'leaky_relu'"):
        table.lookup("leakyrelu")
    with pytest.raises(ParameterError, match="'beta'"):
        table.lookup("elu", beta=1)
    with pytest.raises(ParameterError, match="std"):
        table.lookup("elu", std=0)


def test_gain_modes_are_the_entrys_gains() -> None:
    entry = gainreg.resolve("tanh")
    assert gainreg.gain("tanh") == entry.gain == entry.std / entry.second_moment**0.5
    assert gainreg.gain("tanh", mode="centered") == entry.centered_gain
    assert gainreg.gain("tanh", mode="backward") == entry.backward_gain
    assert entry.gradient_factor == pytest.approx(1.178, abs=5e-4)
    assert entry.variance_slope == pytest.approx(0.461, abs=5e-4)


def test_gain_checks_its_std_whatever_was_asked_before() -> None:
    gainreg.gain("elu")
    for std in (True, 1 + 0j, "1"):
        with pytest.raises(ParameterError, match="std"):
            gainreg.gain("elu", std)  # type: ignore[arg-type]
    assert gainreg.gain("elu", 1) == gainreg.gain("elu")


def test_gain_takes_no_options_of_resolve_for_params() -> None:
    for options in ({"method": "sampling"}, {"seed": 1}):
        with pytest.raises(ParameterError, match="has no param"):
            gainreg.gain("elu", **options)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="seed"):
        gainreg.resolve("tanh", method="sampling", seed=-1)


def test_the_gain_of_relu_is_the_double_nearest_to_the_root_of_2() -> None:
    for std in (0.5, 1.0, 2.0, 4.0):
        assert gainreg.gain("relu", std) == math.sqrt(2)
