"""gainreg.critical: the figures of the literature, the definitions, and a deep network."""

import dataclasses
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
from scipy.special import ndtr

import gainreg
from gainreg import Activation, CriticalPoint, MomentError, ParameterError, critical

# Roberts, Yaida and Hanin 2022, The Principles of Deep Learning Theory, section 5.3.4: K*, and the
# variances of weights (times fan_in) and biases, to the digits of the book
BOOK = {
    "gelu": (3.5616, 1.98305826, 0.17292239),
    "silu": (14.32017362, 1.98800468, 0.55514317),
}


@pytest.mark.parametrize("name", BOOK)
def test_all_digits_of_the_book_come_out(name: str) -> None:
    point = critical(name)
    variances = point.std**2, point.gain**2, point.bias_std**2
    for found, printed in zip(variances, BOOK[name], strict=True):
        decimals = len(str(printed).partition(".")[2])
        assert round(found, decimals) == printed
    assert point.kind == "half_stable"


def test_gelu_is_critical_at_half_of_3_and_the_root_of_17() -> None:
    """E[φ·φ″] = 0, which is E[φ′²] = dE[φ²]/dK, is for GELU K² − 3K − 2 = 0."""
    assert critical("gelu").std == pytest.approx(math.sqrt((3 + math.sqrt(17)) / 2), rel=1e-12)


@pytest.mark.parametrize(
    "name",
    ["gelu", "silu", "mish", "hardswish", "quick_gelu", "gelu_tanh", "snake", "laplace"],
)
def test_half_stable_is_where_an_error_of_the_variance_keeps_its_size(name: str) -> None:
    point = critical(name)
    assert point.kind == "half_stable"
    entry = gainreg.resolve(name, point.std)
    assert entry.variance_slope == pytest.approx(entry.gradient_factor, rel=1e-10)
    assert entry.gradient_factor >= 1
    assert point.gain == pytest.approx(entry.backward_gain, rel=1e-14)
    # the variance stays, the slope of its map is 1, and the gradient stays
    stays = point.gain**2 * entry.second_moment + point.bias_std**2
    assert stays == pytest.approx(point.std**2, rel=1e-12)
    step = 1e-4
    up, down = gainreg.curve(name, point.std * np.sqrt([1 + step, 1 - step])).second_moment
    slope = point.gain**2 * (up - down) / (2 * step * point.std**2)
    assert slope == pytest.approx(1, abs=1e-7)
    # and on one side of it errors die out, on the other they grow
    below, above = gainreg.curve(name, [point.std * 0.9, point.std * 1.1])
    assert (below.variance_slope - below.gradient_factor) * (
        above.variance_slope - above.gradient_factor
    ) < 0


@pytest.mark.parametrize(
    ("name", "gain"),
    [
        ("tanh", 1),
        ("sin", 1),
        ("elu", 1),
        ("erf", np.sqrt(np.pi) / 2),
        ("selu", np.sqrt(2 / (1 + 1.6732632423543772**2)) / 1.0507009873554805),
        ("softsign", 1),
        ("atan", 1),
        ("hardtanh", 1),
        ("relu6", np.sqrt(2)),
    ],
)
def test_at_the_origin_the_gain_is_that_of_the_slopes_at_0(name: str, gain: float) -> None:
    point = critical(name)
    assert (point.kind, point.std, point.bias_std) == ("origin", 0.0, 0.0)
    assert point.gain == pytest.approx(gain, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "params", "gain"),
    [
        ("relu", {}, np.sqrt(2)),
        ("leaky_relu", {"negative_slope": 0.3}, np.sqrt(2 / 1.09)),
        ("prelu", {}, np.sqrt(2 / (1 + 1 / 16))),
        ("rrelu", {"lower": 0.5, "upper": 0.5}, np.sqrt(2 / 1.25)),
        ("identity", {}, 1),
        ("abs", {}, 1),
        ("crelu", {}, np.sqrt(2)),
    ],
)
def test_what_is_homogeneous_is_critical_at_every_std(
    name: str, params: dict[str, float], gain: float
) -> None:
    point = critical(name, **params)
    assert (point.kind, point.std, point.bias_std) == ("scale_invariant", 1.0, 0.0)
    assert point.gain == pytest.approx(gain, rel=1e-13)


@pytest.mark.parametrize(
    "name",
    # E[φ²] not 0 at 0; grows too fast; exists at few stds; 0 around 0; jumps
    ["softplus", "sigmoid", "square", "relu_squared", "exp", "tanhshrink", "softshrink", "step"],
)
def test_others_have_none(name: str) -> None:
    point = critical(name)
    assert point == CriticalPoint(name, {**point.params}, "none", None, None, None)


def test_rounding_decides_no_kind() -> None:
    """Where both factors are 1, the last digits of their difference have a sign too."""
    for slope in (1e-9, 0.1, 1 / 3, 0.999, 1.0):
        assert critical("leaky_relu", negative_slope=slope).kind == "scale_invariant"
    for declared in (
        Activation("nearly_linear", lambda x: x + 1e-4 * np.tanh(x)),
        Activation("far_kink", lambda x: np.clip(x, -50.0, 50.0), kinks=(-50.0, 50.0)),
    ):
        assert critical(declared).kind == "origin"


def test_of_several_it_is_that_of_least_std() -> None:
    """A bump far out adds crossings to GELU's."""

    def bump(x: np.ndarray) -> np.ndarray:
        return np.exp(-((np.abs(x) - 20) ** 2) / 8)

    wavy = Activation(
        "wavy",
        lambda x: x * ndtr(x) + 0.2 * x**2 * bump(x),
        derivative=lambda x: (
            ndtr(x)
            + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
            + 0.2 * (2 * x - x**2 * (np.abs(x) - 20) * np.sign(x) / 4) * bump(x)
        ),
    )
    point = critical(wavy)
    curve = gainreg.curve(wavy, np.geomspace(0.3, 100, 25))
    changes = np.flatnonzero(np.diff(np.sign(curve.variance_slope - curve.gradient_factor)))
    assert len(changes) > 1
    assert curve.std[changes[0]] <= point.std <= curve.std[changes[0] + 1]


@pytest.mark.parametrize("name", ["gelu", "tanh", "relu"])
def test_callables_are_answered_like_their_registered_twins(name: str) -> None:
    twin = {
        "gelu": lambda x: x * ndtr(x),
        "tanh": lambda x: np.tanh(x),
        "relu": lambda x: np.maximum(x, 0),
    }[name]
    found, known = critical(twin), critical(name)
    assert found.kind == known.kind
    assert found.std == pytest.approx(known.std, rel=1e-9)
    assert found.gain == pytest.approx(known.gain, rel=1e-9)
    assert found.bias_std == pytest.approx(known.bias_std, rel=1e-9)


def test_params_shift_the_point_as_they_shift_the_function() -> None:
    """swish_beta is silu(beta·x)/beta: its K* is silu's by beta²."""
    point, silu = critical("swish_beta", beta=2.0), critical("silu")
    assert point.params == {"beta": 2.0}
    assert point.std == pytest.approx(silu.std / 2, rel=1e-10)
    assert point.gain == pytest.approx(silu.gain, rel=1e-10)


@pytest.mark.parametrize(
    ("name", "params", "why"),
    [
        ("softmax", {"dim": 4}, "random or not elementwise"),
        ("geglu", {}, "not elementwise"),
        ("swiglu", {}, "not elementwise"),
    ],
)
def test_what_is_known_by_samples_or_not_elementwise_is_refused(
    name: str, params: dict[str, float], why: str
) -> None:
    with pytest.raises(MomentError, match=why):
        critical(name, **params)


def test_what_has_no_moments_is_refused() -> None:
    with pytest.raises(MomentError, match="no second moment"):
        critical(Activation("nothing", np.zeros_like))
    with pytest.raises(ParameterError):
        critical("relu", slope=1.0)


def test_a_point_is_plain_data_and_its_module_does_not_hide_the_function() -> None:
    point = critical("gelu")
    assert pickle.loads(pickle.dumps(point)) == point
    assert set(dataclasses.asdict(point)) == {
        "activation",
        "params",
        "kind",
        "std",
        "gain",
        "bias_std",
    }
    code = (
        "import gainreg, gainreg.correlation_map, gainreg.criticality; "
        "print(gainreg.critical('relu').kind, gainreg.correlation('relu', 1.0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["scale_invariant", "1.0"]


def test_gelu_keeps_signals_and_gradients_through_depth_at_its_point_and_not_without() -> None:
    def levels(std: float, gain: float, bias_std: float) -> tuple[float, float]:
        """What 30 layers of width 512 make of the level of signals, and of gradients."""
        rng = np.random.default_rng(0)
        width, depth = 512, 30
        x = std * rng.standard_normal((width, 64))
        layers = []
        for _ in range(depth):
            weight = gain / np.sqrt(width) * rng.standard_normal((width, width))
            layers.append((weight, x))
            x = weight @ (x * ndtr(x)) + bias_std * rng.standard_normal((width, 1))
        gradient = rng.standard_normal(x.shape)
        for weight, before in reversed(layers):
            density = np.exp(-before * before / 2) / np.sqrt(2 * np.pi)
            gradient = (ndtr(before) + before * density) * (weight.T @ gradient)
        return float(np.sqrt(np.mean(x**2)) / std), float(np.sqrt(np.mean(gradient**2)))

    point = critical("gelu")
    signal, gradient = levels(point.std, point.gain, point.bias_std)
    assert signal == pytest.approx(1, abs=0.15)
    assert gradient == pytest.approx(1, abs=0.25)
    signal, gradient = levels(1.0, gainreg.gain("gelu"), 0.0)
    assert abs(np.log(signal)) > 1 or abs(np.log(gradient)) > 1
