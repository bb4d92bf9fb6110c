"""Look-ups: from the shipped table, cold and warm."""

import importlib.util
import math
import subprocess
import sys

import numpy as np
import pytest

import gainreg
from gainreg import GainEntry, MomentError, ParameterError, TableError, scaling


def test_a_cold_look_up_imports_neither_numpy_nor_scipy_nor_pluggy() -> None:
    code = (
        "import sys, gainreg\n"
        "assert not {'numpy', 'yaml', 'pluggy'} & set(sys.modules)\n"
        "assert gainreg.gain('elu') == gainreg.gain('elu', alpha=1) == 1.2451983007007066\n"
        "assert gainreg.gain('leaky_relu', negative_slope=0.01) == gainreg.gain('leaky_relu')\n"
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
        "gainreg.build_table([abs]).lookup('abs'), gainreg.gain(lambda x: 2 * x)\n"
        "assert not {'torch', 'jax', 'keras', 'tensorflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_module_hides_a_public_name() -> None:
    # importing a submodule of that name would put the module in the place of the function
    for name in gainreg.__all__:
        assert importlib.util.find_spec(f"gainreg.{name}") is None, name


def test_the_shipped_table_answers_as_a_live_resolve_does() -> None:
    for entry in gainreg.load_table():
        if entry.activation in ("relu", "elu", "selu", "tanh"):
            live = gainreg.resolve(entry.activation, entry.std, **entry.params)
            assert live.gain == pytest.approx(entry.gain, rel=1e-14)


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
    entry = gainreg.load_table().lookup("tanh")
    assert gainreg.gain("tanh") == gainreg.gain("tanh", mode="fan_in") == entry.gain
    assert gainreg.gain("tanh", mode="centered") == entry.centered_gain
    assert gainreg.gain("tanh", mode="backward") == entry.backward_gain
    assert gainreg.gain("tanh", mode="fan_out") == entry.backward_gain
    for mode in ("fan_avg", "", None, ["forward"]):
        with pytest.raises(ParameterError, match="mode is one of 'forward', 'fan_in'"):
            gainreg.gain("tanh", mode=mode)  # type: ignore[arg-type]


def test_gain_checks_its_numbers_whatever_was_asked_before() -> None:
    gainreg.gain("elu")
    for std in (True, 1 + 0j, "1", [1.0], np.array([1.0, 2.0])):
        with pytest.raises(ParameterError, match="std"):
            gainreg.gain("elu", std)  # type: ignore[arg-type]
    assert gainreg.gain("elu", 1) == gainreg.gain("elu")
    for alpha in (1.0, 0.3):
        gainreg.gain("elu", alpha=alpha)
    for wrong in (True, 1 + 0j, "0.3", None, [0.3]):
        with pytest.raises(ParameterError, match="alpha"):
            gainreg.gain("elu", alpha=wrong)  # type: ignore[arg-type]
    assert gainreg.gain("elu", alpha=1) == gainreg.gain("elu")


def test_gain_tells_calls_that_look_alike_from_each_other() -> None:
    calls = {
        (name, std, mode, alpha)
        for name in ("elu", "celu")
        for std in (1.0, 2.0)
        for mode in ("forward", "backward")
        for alpha in (1.0, 2.0)
    }
    for _ in range(2):
        for name, std, mode, alpha in calls:
            live = gainreg.resolve(name, std, alpha=alpha).gain_for(mode)
            assert gainreg.gain(name, std, mode, alpha=alpha) == pytest.approx(live, rel=1e-13)
    swapped = gainreg.gain("hardtanh", max_val=2.0, min_val=-1.0)
    assert gainreg.gain("hardtanh", min_val=-1.0, max_val=2.0) == swapped


def test_a_number_that_changes_in_place_is_asked_anew() -> None:
    std = np.array(1.0)
    assert gainreg.gain("elu", std) == gainreg.gain("elu")  # type: ignore[arg-type]
    std[...] = 2.0
    assert gainreg.gain("elu", std) == gainreg.gain("elu", 2.0)  # type: ignore[arg-type]


@pytest.mark.usefixtures("fresh_host")
def test_what_a_name_means_is_not_remembered_when_it_changes() -> None:
    gainreg.register(gainreg.Activation("mine", lambda x, a: a * x, params={"a": 1.0}))
    assert gainreg.gain("mine") == gainreg.gain("mine", a=1.0) == 1.0
    twice = gainreg.Activation("mine", lambda x, a: 2 * a * x, params={"a": 1.0})
    gainreg.register(twice, replace=True)
    assert gainreg.gain("mine") == gainreg.gain("mine", a=1.0) == pytest.approx(0.5)
    gainreg.reload_plugins()
    with pytest.raises(gainreg.UnknownActivationError):
        gainreg.gain("mine")


@pytest.mark.usefixtures("fresh_host")
def test_activations_lists_the_names_that_are_known() -> None:
    names = gainreg.activations()
    assert {"relu", "elu", "softmax", "swiglu"} <= set(names)
    assert "swish" not in names  # an alias
    gainreg.register(gainreg.Activation("mine", lambda x: x))
    assert gainreg.activations() == [*names, "mine"]
    gainreg.reload_plugins()
    assert gainreg.activations() == names


def test_objects_of_an_imported_framework_are_understood() -> None:
    torch = pytest.importorskip("torch")
    assert gainreg.gain(torch.relu) == gainreg.gain("relu")
    assert gainreg.gain(torch.nn.GELU()) == gainreg.gain("gelu")
    leaky = torch.nn.LeakyReLU(0.2)
    assert gainreg.gain(leaky, 2.0) == gainreg.gain("leaky_relu", 2.0, negative_slope=0.2)
    assert gainreg.resolve(leaky).params == {"negative_slope": pytest.approx(0.2)}
    assert gainreg.curve(torch.nn.functional.silu, [1.0]).activation == "silu"
    table = gainreg.build_table([torch.tanh, (torch.nn.ELU(), {})])
    assert [entry.activation for entry in table] == ["tanh", "elu"]


def test_an_object_that_is_changed_is_asked_anew() -> None:
    torch = pytest.importorskip("torch")
    unit = torch.nn.PReLU()
    before = gainreg.gain(unit)
    torch.nn.init.constant_(unit.weight, 1.0)
    assert gainreg.gain(unit) == 1.0 != before


def test_gain_takes_no_options_of_resolve_for_params() -> None:
    for options in ({"method": "sampling"}, {"seed": 1}):
        with pytest.raises(ParameterError, match="has no param"):
            gainreg.gain("elu", **options)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="seed"):
        gainreg.resolve("tanh", method="sampling", seed=-1)


def test_the_gain_of_relu_is_the_double_nearest_to_the_root_of_2() -> None:
    for std in (0.5, 1.0, 2.0, 4.0):
        assert gainreg.gain("relu", std) == math.sqrt(2)


# --- an entry is its moments ---


def test_the_gains_follow_from_the_moments() -> None:
    entry = gainreg.resolve("elu", 2.0, alpha=0.5)
    assert entry.gain**2 == pytest.approx(4 / entry.second_moment)
    assert entry.centered_gain**2 == pytest.approx(4 / entry.variance)
    assert entry.variance == pytest.approx(entry.second_moment - entry.mean**2)
    assert entry.backward_gain**2 == pytest.approx(1 / entry.derivative_second_moment)
    assert entry.gradient_factor == pytest.approx((entry.gain / entry.backward_gain) ** 2)
    bias = 2.0 * math.sqrt(1 - 1 / entry.gradient_factor)
    assert entry.critical_bias_std == pytest.approx(bias)


def test_the_numbers_of_tanh_are_those_of_the_design() -> None:
    entry = gainreg.resolve("tanh")
    assert entry.gradient_factor == pytest.approx(1.178, abs=5e-4)
    assert entry.variance_slope == pytest.approx(0.461, abs=5e-4)


def test_the_gradient_factor_is_by_a_layers_outputs_whatever_the_width() -> None:
    # a·b of independent halves: E[φ²] = std⁴, E[φ′²] = std² for each of two pre-activations
    entry = gainreg.resolve("bilinear")
    assert entry.width == 0.5
    assert entry.gradient_factor == pytest.approx(2.0)
    assert gainreg.resolve("crelu").gradient_factor == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["identity", "relu", "leaky_relu", "abs", "crelu"])
@pytest.mark.parametrize("std", [1e-6, 0.3, 1.0, 7.7, 1e6])
def test_what_is_critical_at_any_std_needs_no_biases(name: str, std: float) -> None:
    assert gainreg.resolve(name, std).critical_bias_std == 0.0


def test_where_gradients_shrink_there_is_no_critical_bias() -> None:
    assert gainreg.resolve("sigmoid").critical_bias_std is None
    assert gainreg.resolve("sign").critical_bias_std is None


@pytest.mark.parametrize("name", ["tanh", "swiglu"])
def test_biases_and_weights_at_the_critical_point_keep_the_variance(name: str) -> None:
    entry = gainreg.resolve(name, 0.8)
    weights = 100 * scaling.variance(entry, "critical", fan_in=100, fan_out=100)
    assert weights == pytest.approx(entry.width * entry.backward_gain**2, rel=1e-13)
    variance = weights * entry.second_moment + entry.critical_bias_std**2
    assert variance == pytest.approx(0.8**2, rel=1e-13)


def test_what_is_none_in_an_entry_is_nan_in_a_curve() -> None:
    curve = gainreg.curve("sign", [0.5, 1.0])
    for numbers in (curve.backward_gain, curve.gradient_factor, curve.critical_bias_std):
        assert np.isnan(numbers).all()
    curve = gainreg.curve("gaussian", [1.0, 3.0])
    assert np.isnan(curve.critical_bias_std).tolist() == [True, False]
    assert curve.critical_bias_std[1] == pytest.approx(curve[1].critical_bias_std)
    constant = gainreg.curve("threshold", [1.0], threshold=1000.0, value=1.0)
    assert np.isnan(constant.centered_gain).all()


def test_a_missing_backward_gain_is_laid_to_what_is_the_matter() -> None:
    with pytest.raises(MomentError, match="φ is constant"):
        gainreg.gain("threshold", mode="backward", threshold=1000.0, value=1.0)
    with pytest.raises(MomentError, match="φ jumps"):
        gainreg.gain("sign", mode="backward")
    with pytest.raises(MomentError, match="φ is constant"):
        gainreg.gain("threshold", mode="centered", threshold=1000.0, value=1.0)
