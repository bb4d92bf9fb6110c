"""What the adapters share, and the law that their weights obey, in every framework alike."""

import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gainreg
from gainreg import scaling

SHAPE = (300, 700)  # (in, out)
DISTRIBUTIONS = ["normal", "uniform", "truncated_normal", "orthogonal"]
ARGUMENTS = {"std": 2.0, "alpha": 0.5}
EXTRAS = {"torch": "torch", "jax": "jax", "keras": "keras"}


def of_numpy(distribution: str, shape: tuple[int, ...], *args: Any, **kwargs: Any) -> Any:
    from gainreg.adapters import numpy as adapter

    return getattr(adapter, distribution)(shape, *args, rng=1, **kwargs)


def of_torch(distribution: str, shape: tuple[int, ...], *args: Any, **kwargs: Any) -> Any:
    torch = pytest.importorskip("torch", reason="the PyTorch adapter needs PyTorch")
    from gainreg.adapters import torch as adapter

    name = "trunc_normal_" if distribution == "truncated_normal" else f"{distribution}_"
    generator = torch.Generator().manual_seed(2)
    tensor = torch.empty(*reversed(shape))
    return getattr(adapter, name)(tensor, *args, generator=generator, **kwargs).T.numpy()


def of_jax(distribution: str, shape: tuple[int, ...], *args: Any, **kwargs: Any) -> Any:
    jax = pytest.importorskip("jax", reason="the JAX adapter needs JAX")
    from gainreg.adapters import jax as adapter

    return np.asarray(getattr(adapter, distribution)(*args, **kwargs)(jax.random.key(3), shape))


def of_keras(distribution: str, shape: tuple[int, ...], *args: Any, **kwargs: Any) -> Any:
    keras = pytest.importorskip("keras", reason="the Keras adapter needs Keras")
    from gainreg.adapters.keras import VarianceScaling

    activation, mode = (*args, "fan_in")[:2]
    name = "untruncated_normal" if distribution == "normal" else distribution
    draw = VarianceScaling(activation, mode, name, 5, **kwargs)
    return keras.ops.convert_to_numpy(draw(shape))


every_framework = pytest.mark.parametrize("draw", [of_numpy, of_torch, of_jax, of_keras])


def weight_std(entry: gainreg.GainEntry, mode: str, fan_in: int, fan_out: int) -> float:
    return math.sqrt(scaling.variance(entry, mode, fan_in, fan_out))


def test_the_std_of_the_weights_follows_the_three_formulas() -> None:
    entry = gainreg.resolve("elu", **ARGUMENTS)
    std = partial(weight_std, entry)
    m2, d2 = entry.second_moment, entry.derivative_second_moment
    assert d2 is not None
    assert std("fan_in", 30, 70) == pytest.approx(entry.gain / 30**0.5, rel=1e-14)
    assert std("fan_out", 30, 70) == pytest.approx(entry.backward_gain / 70**0.5, rel=1e-14)
    assert std("fan_avg", 30, 70) == pytest.approx((2 / (30 * m2 / 4 + 70 * d2)) ** 0.5, rel=1e-14)
    glorot = weight_std(gainreg.resolve("identity"), "fan_avg", 30, 70)
    assert glorot == pytest.approx((2 / 100) ** 0.5, rel=1e-14)


@every_framework
def test_an_entry_stands_for_its_activation_and_stands_alone(
    draw: Callable[..., Any], table: Path
) -> None:
    entry = gainreg.resolve("elu", **ARGUMENTS)
    drawn = draw("normal", (4, 5), entry)
    np.testing.assert_array_equal(drawn, draw("normal", (4, 5), "elu", **ARGUMENTS))
    np.testing.assert_array_equal(drawn, draw("normal", (4, 5), entry, std=entry.std))
    for beside in ({"alpha": 1.0}, {"std": 3.0}, {"table": table}):
        with pytest.raises(gainreg.ParameterError, match="give it alone"):
            draw("normal", (4, 5), entry, **beside)


@every_framework
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg", "critical"])
def test_the_weights_have_the_variance_of_the_formula(
    draw: Callable[..., Any], distribution: str, mode: str
) -> None:
    weights = draw(distribution, SHAPE, "elu", mode, **ARGUMENTS).astype(np.float64)
    assert weights.shape == SHAPE
    wanted = weight_std(gainreg.resolve("elu", **ARGUMENTS), mode, *SHAPE)
    scaled = weights / wanted
    # standard error of a mean square: √((kurtosis − 1)/n); an orthogonal matrix has none
    kurtosis = {"normal": 3.0, "uniform": 1.8, "truncated_normal": 2.37, "orthogonal": 1.0}
    five_errors = 5 * math.sqrt((kurtosis[distribution] - 1) / weights.size)
    assert np.mean(scaled**2) == pytest.approx(1.0, abs=five_errors + 1e-5)
    assert abs(np.mean(scaled)) < 5 / math.sqrt(weights.size)
    if distribution == "uniform":
        assert np.abs(scaled).max() == pytest.approx(3**0.5, rel=1e-3)
        assert np.abs(scaled).max() <= 3**0.5 * (1 + 1e-5)
    if distribution == "truncated_normal":
        assert np.abs(scaled).max() <= 2 / scaling.TRUNCATED_STD * (1 + 1e-5)
    if distribution == "orthogonal":
        gram = scaled @ scaled.T / 700
        np.testing.assert_allclose(gram, np.eye(300), atol=1e-5)


@every_framework
def test_the_modes_of_gain_are_understood(draw: Callable[..., Any]) -> None:
    for mode, fan in (("forward", "fan_in"), ("backward", "fan_out")):
        drawn = draw("normal", (4, 5), "elu", mode)
        np.testing.assert_array_equal(drawn, draw("normal", (4, 5), "elu", fan))


@every_framework
def test_errors_are_the_same_everywhere(draw: Callable[..., Any]) -> None:
    normal = partial(draw, "normal", (4, 5))
    with pytest.raises(gainreg.ParameterError, match="mode is one of 'fan_in', 'fan_out'"):
        normal("relu", "fan_on")
    with pytest.raises(gainreg.UnknownActivationError, match="'relu'"):
        normal("rellu")
    with pytest.raises(gainreg.ParameterError, match="no param 'alpha'"):
        normal("relu", alpha=1.0)
    with pytest.raises(gainreg.ParameterError, match="std must be above 0"):
        normal("relu", std=0.0)
    with pytest.raises(gainreg.MomentError, match="no backward gain"):
        normal("step", "fan_out")
    with pytest.raises(gainreg.MomentError, match="no backward gain"):
        normal("step", "fan_avg")
    with pytest.raises(gainreg.ParameterError, match="an activation is"):
        normal(3)
    with pytest.raises(gainreg.ParameterError, match="need elements, got shape"):
        draw("normal", (0, 5), "relu")
    with pytest.raises(gainreg.ParameterError, match="two axes"):
        draw("normal", (5,), "relu")


@every_framework
def test_every_constant_comes_from_the_table(draw: Callable[..., Any], table: Path) -> None:
    for given in (table, str(table), gainreg.load_table(table)):
        drawn = draw("normal", (40, 50), "tanh", table=given)
        # the shipped table may be of another processor
        last_bits = 1e-13 if drawn.dtype == np.float64 else 1e-6
        np.testing.assert_allclose(drawn, draw("normal", (40, 50), "tanh"), rtol=last_bits)
    for lacking in ({"std": 3.0}, {"alpha": 0.7}):
        with pytest.raises(gainreg.TableError):
            draw("normal", (4, 5), "elu", table=table, **lacking)
    with pytest.raises(gainreg.TableError):
        draw("normal", (4, 5), "mish", table=table)
    with pytest.raises(gainreg.TableError, match="by name"):
        draw("normal", (4, 5), lambda x: x, table=table)


@every_framework
def test_callables_that_are_no_elementwise_functions_are_refused(draw: Callable[..., Any]) -> None:
    with pytest.raises(gainreg.PluginError, match="not elementwise"):
        draw("normal", (4, 5), lambda x: x - x.mean())
    with pytest.raises(gainreg.PluginError, match="from its forward"):
        draw("normal", (4, 5), lambda x: None)
    with pytest.raises(gainreg.ParameterError, match="an instance"):
        draw("normal", (4, 5), int)
    with pytest.raises(gainreg.PluginError, match="ZeroDivisionError"):
        draw("normal", (4, 5), lambda x: 1 / 0)


def test_the_shared_part_imports_neither_numpy_nor_a_framework() -> None:
    code = (
        "import sys, gainreg.scaling; entry = gainreg.load_table().lookup('tanh'); "
        "gainreg.scaling.variance(entry, 'fan_avg', 2, 3); "
        "print({'numpy', 'scipy', 'torch', 'jax', 'keras'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize("framework", EXTRAS)
def test_a_missing_framework_names_the_command_that_installs_it(framework: str) -> None:
    code = (
        f"import sys; sys.modules[{framework!r}] = None\n"
        f"try:\n    import gainreg.adapters.{framework}\n"
        "except ImportError as error:\n    print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert f"pip install --upgrade {framework}" in run.stdout
