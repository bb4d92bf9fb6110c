"""What holds of the built-in activations by mathematics, whatever the digits."""

import math
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mpf
from numpy.typing import NDArray

import gainreg
from gainreg import GainCurve, MomentError, ParameterError

FloatArray = NDArray[np.float64]

stds = st.floats(-6, 6).map(lambda e: 10.0**e)
params = st.floats(-2, 2).map(lambda e: 10.0**e)

# values for params without a default
FREE: dict[str, dict[str, float]] = {
    "threshold": {"threshold": 0.1, "value": 20.0},
    "maxout": {"k": 3},
    **{name: {"dim": 4} for name in ("softmax", "log_softmax", "softmin", "sparsemax")},
}
DECLARED: dict[str, gainreg.Activation] = {
    activation.name: activation
    for point in sorted(entry_points(group="gainreg"))
    if point.value.startswith("gainreg_plugins.")
    for activation in point.load().gainreg_activations()
}
ELEMENTWISE = [name for name, a in DECLARED.items() if a.forward]
GATED = {name: a.gate.name for name, a in DECLARED.items() if a.gate}
OTHERS = [name for name, a in DECLARED.items() if a.sample and a.second_moment]
SAMPLED = [name for name, a in DECLARED.items() if a.sample and not a.second_moment]
ODD = ["identity", "tanh", "lecun_tanh", "tanhshrink", "softsign", "hardtanh", "hardshrink"]
ODD += ["softshrink", "sin", "erf", "atan", "asinh", "sign"]
JUMPS = ["hardshrink", "threshold", "sign", "step"]
HOMOGENEOUS = ["identity", "relu", "leaky_relu", "prelu", "abs", "rrelu", "crelu", "maxout"]
RELU_LIKE = ["relu", "elu", "celu", "selu", "gelu", "gelu_tanh", "quick_gelu", "silu", "mish"]
RELU_LIKE += ["telu", "softplus", "squareplus", "sparse_plus", "hardswish"]


def resolve(name: str, std: float = 1.0, **given: float) -> gainreg.GainEntry:
    return gainreg.resolve(name, std, **FREE.get(name, {}) | given)


def phi(name: str, x: FloatArray, **given: float) -> FloatArray:
    declared = DECLARED[name]
    assert declared.forward is not None
    return np.asarray(declared.forward(x, **{**declared.params, **FREE.get(name, {}), **given}))


def slope(name: str, x: FloatArray) -> FloatArray:
    declared = DECLARED[name]
    assert declared.derivative is not None
    return np.asarray(declared.derivative(x, **{**declared.params, **FREE.get(name, {})}))


# --- forward and derivative ---


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_phi_never_overflows_nor_warns(name: str) -> None:
    sizes = np.concatenate([[0.0], np.logspace(-300, 9, 2000)])
    x = np.concatenate([-sizes[::-1], sizes])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert not np.isnan(phi(name, x)).any()
        assert not np.isnan(slope(name, x)).any()


def exact_mish(x: Any) -> Any:
    return x * mpmath.tanh(mpmath.log1p(mpmath.exp(x)))


EXACT: dict[str, Callable[[Any], Any]] = {
    "tanhshrink": lambda x: x - mpmath.tanh(x),
    "squareplus": lambda x: (x + mpmath.sqrt(x * x + 4)) / 2,
    "bent_identity": lambda x: (mpmath.sqrt(x * x + 1) - 1) / 2 + x,
    "mish": exact_mish,
    "telu": lambda x: x * mpmath.tanh(mpmath.exp(x)),
    "gelu": lambda x: x * mpmath.ncdf(x),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    "logsigmoid": lambda x: -mpmath.log1p(mpmath.exp(-x)),
    "elu": lambda x: x if x > 0 else mpmath.expm1(x),
    "xielu": lambda x: 0.8 * x * x + x / 2 if x > 0 else mpf(0.8) * (mpmath.exp(x) - 1 - x) + x / 2,
    "lecun_tanh": lambda x: mpf(1.7159) * mpmath.tanh(2 * x / 3),
    "asinh": mpmath.asinh,
    "laplace": lambda x: mpmath.ncdf((x - mpmath.sqrt(0.5)) * 2 * mpmath.sqrt(mpmath.pi)),
}


@pytest.mark.parametrize("name", EXACT)
def test_phi_keeps_its_digits_near_0_and_in_its_tails(name: str) -> None:
    sizes = np.concatenate([np.logspace(-12, -2, 21), np.linspace(0.03, 5, 60), [0.999, 1, 1.001]])
    for x in np.concatenate([-sizes, sizes]):
        with mpmath.workdps(60):
            exact = EXACT[name](mpf(x))
            off = abs(mpf(float(phi(name, np.array([x]))[0])) / exact - 1)
        # the conditioning of e^{−x²}-like tails costs x² units
        assert off < 1e-15 * (3 + x * x * (12 if name == "laplace" else 1)), f"{name} at {x}"


def test_xielu_keeps_its_digits_near_0_without_its_linear_term() -> None:
    for x in -np.logspace(-9, 1, 60):
        with mpmath.workdps(60):
            exact = mpmath.exp(mpf(x)) - 1 - mpf(x)
            y = phi("xielu", np.array([x]), alpha_p=1.0, alpha_n=1.0, beta=0.0)
            assert abs(mpf(float(y[0])) / exact - 1) < 1e-15


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_derivative_is_that_of_phi(name: str) -> None:
    x = np.linspace(-4.987, 5.013, 301)
    step = 1e-5
    quotient = (phi(name, x + step) - phi(name, x - step)) / (2 * step)
    kinks = DECLARED[name].kinks
    at = kinks(**{**DECLARED[name].params, **FREE.get(name, {})}) if callable(kinks) else kinks
    away = np.all([np.abs(x - k) > 2 * step for k in (0.0, *at)], axis=0)
    size = np.maximum(1, np.abs(phi(name, x)))
    assert np.all(np.abs(quotient - slope(name, x))[away] < 1e-8 * size[away])


# --- laws ---


@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("name", HOMOGENEOUS)
@given(std=stds)
def test_what_is_homogeneous_has_one_gain_for_all_stds(name: str, std: float) -> None:
    entry = resolve(name, std)
    assert entry.gain == pytest.approx(resolve(name).gain, rel=1e-14)
    assert entry.variance_slope == pytest.approx(1, abs=1e-14)


@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("name", ODD)
@given(std=stds)
def test_what_is_odd_has_mean_0(name: str, std: float) -> None:
    if name in ("hardshrink", "softshrink"):
        std = max(std, 0.02)  # below, their second moment underflows
    entry = resolve(name, std)
    assert abs(entry.mean) <= 1e-13 * entry.second_moment**0.5


def test_a_second_moment_that_just_underflows_is_an_error_without_a_warning() -> None:
    with pytest.raises(MomentError, match="underflows"):
        resolve("softshrink", 0.0132)


@pytest.mark.parametrize("name", [n for n in ELEMENTWISE if n not in JUMPS])
def test_at_small_std_the_gain_is_one_over_the_slope_at_0(name: str) -> None:
    at_0 = np.zeros(1)
    left, right = slope(name, np.array([-1e-12])), slope(name, np.array([1e-12]))
    if phi(name, at_0)[0] != 0 or max(abs(left[0]), abs(right[0])) < 1e-9:
        return
    mean_square = (left[0] ** 2 + right[0] ** 2) / 2
    assert resolve(name, 1e-6).gain == pytest.approx(mean_square**-0.5, rel=1e-5)


@pytest.mark.parametrize("name", RELU_LIKE)
def test_at_large_std_it_is_a_relu(name: str) -> None:
    scale = 1.0507009873554805 if name == "selu" else 1.0
    assert resolve(name, 1e6).second_moment / 1e12 == pytest.approx(scale**2 / 2, rel=1e-5)


@settings(max_examples=15, deadline=None)
@given(std=stds, beta=params)
def test_a_swish_of_beta_is_a_silu_of_beta_x(std: float, beta: float) -> None:
    # x·σ(βx) = silu(βx)/β
    swish, silu = resolve("swish_beta", std, beta=beta), resolve("silu", beta * std)
    assert swish.second_moment * beta**2 == pytest.approx(silu.second_moment, rel=1e-13)


@settings(max_examples=15, deadline=None)
@given(std=stds, alpha=params)
def test_a_celu_of_alpha_is_an_elu_of_x_over_alpha(std: float, alpha: float) -> None:
    celu, elu = resolve("celu", std, alpha=alpha), resolve("elu", std / alpha)
    assert celu.gain == pytest.approx(elu.gain, rel=1e-13)


@settings(max_examples=15, deadline=None)
@given(std=stds, beta=params)
def test_a_softplus_of_beta_scales_like_celu(std: float, beta: float) -> None:
    scaled, plain = resolve("softplus", std, beta=beta), resolve("softplus", std * beta)
    assert scaled.gain == pytest.approx(plain.gain, rel=1e-13)


# --- where one way of computing hands over to another ---

HAND_OVERS = [
    # power series in std, up to rate·std, of rate 2
    *((name, at) for name in ("elu", "selu", "celu", "xielu") for at in (0.0005, 1 / 32, 1 / 2)),
    *(("relu6", at) for at in (6.0, 6 / math.sqrt(3), 1.0)),
    *(("hardtanh", at) for at in (1.0, 1 / math.sqrt(3), 0.1)),
    ("gelu", 1e-8),
    ("exp", 10.0),
    ("sin", 1e-4),
    ("sin", 3.1622776601683795),
    ("snake", 3.1622776601683795),
    ("tanhshrink", 1.0),
]


@pytest.mark.parametrize(("name", "at"), HAND_OVERS)
def test_both_sides_of_a_hand_over_are_one_smooth_curve(name: str, at: float) -> None:
    # over so short a run, ln m₂ is a straight line in ln std, of which the slope is known
    steps = 1e-9 * np.arange(-4, 5)
    curve = gainreg.curve(name, at * np.exp(steps))
    middle = len(steps) // 2
    expected = 2 * curve.variance_slope[middle] * steps
    actual = np.log(curve.second_moment / curve.second_moment[middle])
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(
        curve.variance_slope, curve.variance_slope[middle], rtol=1e-7, atol=1e-7
    )


def test_tanhshrink_and_xielu_hand_over_without_a_step() -> None:
    for name, at in (("tanhshrink", 1.0), ("tanhshrink", -1.0), ("xielu", -1.0)):
        x = np.array([np.nextafter(at, -9), at, np.nextafter(at, 9)])
        assert np.ptp(phi(name, x)) <= 1e-15


# --- what does not exist ---


@pytest.mark.parametrize("name", JUMPS)
def test_where_phi_jumps_there_is_no_backward_gain(name: str) -> None:
    entry = resolve(name)
    assert entry.derivative_second_moment is None
    assert entry.gradient_factor is None
    with pytest.raises(MomentError, match="no backward gain"):
        gainreg.gain(name, mode="backward", **FREE.get(name, {}))


def test_a_threshold_without_a_step_does_not_jump() -> None:
    entry = resolve("threshold", threshold=0.5, value=0.5)
    assert entry.derivative_second_moment == pytest.approx(float(mpmath.ncdf(-0.5)), rel=1e-14)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("celu", {"alpha": 0}),
        ("softplus", {"beta": -1}),
        ("squareplus", {"b": 0}),
        ("hardtanh", {"min_val": 1, "max_val": 1}),
        ("hardshrink", {"lambd": -0.1}),
        ("softshrink", {"lambd": -0.1}),
        ("rrelu", {"lower": 0.5, "upper": 0.4}),
        ("snake", {"alpha": 0}),
        ("softmax", {"dim": 2.5}),
        ("log_softmax", {"dim": 1}),
        ("softmin", {"dim": -3}),
        ("sparsemax", {"dim": 0}),
        ("maxout", {"k": 1.5}),
        ("elu", {"alpha": math.nan}),
    ],
)
def test_a_param_out_of_range_is_refused(name: str, given: dict[str, float]) -> None:
    with pytest.raises(ParameterError):
        gainreg.resolve(name, 1.0, **given)


@pytest.mark.parametrize("name", FREE)
def test_a_param_without_default_must_be_given(name: str) -> None:
    with pytest.raises(ParameterError, match="needs its param"):
        gainreg.resolve(name)


# --- random, or not elementwise ---


@pytest.mark.parametrize(
    ("name", "std"), [*((n, std) for n in OTHERS for std in (0.2, 3.0)), *((n, 3.0) for n in GATED)]
)
def test_samples_agree_with_the_closed_forms(name: str, std: float) -> None:
    entry = resolve(name, std)
    assert entry.method != "sampling"
    given = FREE.get(name, {})
    sampled = gainreg.resolve(name, std, method="sampling", seed=1, **given)
    assert abs(sampled.second_moment - entry.second_moment) <= 5 * sampled.error
    # the mean of a million draws
    assert abs(sampled.mean - entry.mean) <= 5e-3 * entry.second_moment**0.5


@settings(max_examples=10, deadline=None)
@pytest.mark.parametrize(("name", "inner"), GATED.items())
@given(std=stds)
def test_a_gated_unit_multiplies_the_second_moments(name: str, inner: str, std: float) -> None:
    unit, gate = resolve(name, std), resolve(inner, std)
    assert unit.mean == 0
    assert unit.second_moment == pytest.approx(std**2 * gate.second_moment, rel=1e-14)
    assert unit.variance_slope == pytest.approx(1 + gate.variance_slope, rel=1e-13)
    assert gate.derivative_second_moment is not None
    by_a, by_b = gate.second_moment, std**2 * gate.derivative_second_moment
    assert unit.derivative_second_moment == pytest.approx((by_a + by_b) / 2, rel=1e-14)


@pytest.mark.parametrize("k", [2, 7, 1000, 1e9])
def test_maxout_is_the_largest_of_k(k: float) -> None:
    entry = resolve("maxout", k=k)
    assert entry.method == "quadrature"
    with mpmath.workdps(25):
        top = mpmath.sqrt(2 * mpmath.log(k))
        cuts = [-12, 0, top / 2, top, top + 1, top + 3, top + 8]

        def moment(power: int) -> Any:
            def density(z: Any) -> Any:
                return k * mpmath.exp((k - 1) * mpmath.log1p(-mpmath.ncdf(-z))) * mpmath.npdf(z)

            return mpmath.quad(lambda z: z**power * density(z), cuts)

        assert abs(entry.mean / moment(1) - 1) < 1e-13
        assert abs(entry.second_moment / moment(2) - 1) < 1e-13


def test_the_known_values_of_the_others() -> None:
    assert resolve("maxout", k=2).second_moment == pytest.approx(1, rel=1e-14)
    assert resolve("maxout", k=2).mean == pytest.approx(math.pi**-0.5, rel=1e-14)
    assert resolve("maxout", k=3).second_moment == pytest.approx(
        1 + math.sqrt(3) / (2 * math.pi), rel=1e-14
    )
    assert resolve("maxout", k=3).mean == pytest.approx(1.5 * math.pi**-0.5, rel=1e-14)
    assert resolve("crelu").gain == pytest.approx(math.sqrt(2), rel=1e-14)
    assert resolve("rrelu", lower=0.25, upper=0.25).gain == pytest.approx(
        resolve("prelu").gain, rel=1e-14
    )


@pytest.mark.parametrize("name", ["softmax", "softmin", "sparsemax"])
@pytest.mark.parametrize("dim", [2, 5, 100])
def test_what_sums_to_1_has_mean_one_over_dim(name: str, dim: int) -> None:
    entry = resolve(name, 2.0, dim=dim)
    assert entry.method == "sampling"
    assert entry.mean == pytest.approx(1 / dim, rel=1e-3)
    assert 0 < entry.error < 0.02 * entry.second_moment


def test_a_softmax_of_two_is_a_sigmoid_of_their_difference() -> None:
    entry = resolve("softmax", 1.5, dim=2)
    exact = resolve("sigmoid", 1.5 * math.sqrt(2)).second_moment
    assert abs(entry.second_moment - exact) <= 5 * entry.error


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize(("size", "dim"), [(10, 4), (1, 7), (1000, 200), (3, 64)])
def test_a_sampler_returns_as_many_draws_as_asked_for(name: str, size: int, dim: int) -> None:
    sample = DECLARED[name].sample
    assert sample is not None
    draws = sample(1e6, size, np.random.default_rng(0), dim=dim)
    assert draws.shape == (size,)
    assert np.isfinite(draws).all()


@pytest.mark.parametrize(("name", "dim"), [("softmax", 64), ("softmax", 3), ("sparsemax", 2)])
def test_a_sampled_slope_is_that_of_the_sampled_second_moment(name: str, dim: int) -> None:
    entry, step = resolve(name, 2.0, dim=dim), 1.2
    above, below = (resolve(name, 2.0 * s, dim=dim).second_moment for s in (step, 1 / step))
    slope = math.log(above / below) / (4 * math.log(step))
    assert entry.variance_slope == pytest.approx(slope, abs=0.02)


def test_samples_that_all_agree_are_still_not_exact() -> None:
    entry = resolve("sparsemax", 1e6, dim=2)
    exact = resolve("sparse_sigmoid", 1e6 * math.sqrt(2)).second_moment
    assert abs(entry.second_moment - exact) <= 4 * entry.error


# --- far kinks, extreme params ---


@pytest.mark.parametrize("lambd", [0.013, 0.7, 9.1])
def test_a_far_kink_costs_no_digits(lambd: float) -> None:
    curve = gainreg.curve("softshrink", lambd / np.geomspace(1, 33, 80), lambd=lambd)
    for entry in curve:
        with mpmath.workdps(60):
            s, a = mpf(entry.std), mpf(lambd) / mpf(entry.std)
            # 2∫(sz − λ)² over z > a
            tail, density = mpmath.ncdf(-a), mpmath.npdf(a)
            exact = 2 * s**2 * ((1 + a * a) * tail - a * density)
            assert abs(entry.second_moment / exact - 1) < 1e-13


@pytest.mark.parametrize("limit", [1e9, 1e16, 1e25, 3.4028234663852886e38, 1e155, 1.79e308])
@pytest.mark.parametrize("std", [1e-6, 1.0, 1e6])
def test_a_limit_out_of_reach_is_no_limit(limit: float, std: float) -> None:
    entry = resolve("hardtanh", std, min_val=-limit, max_val=limit)
    assert entry.second_moment == pytest.approx(std**2, rel=1e-14)
    assert entry.derivative_second_moment == pytest.approx(1, rel=1e-14)
    assert entry.variance_slope == pytest.approx(1, rel=1e-13)
    beyond = resolve("threshold", std, threshold=limit, value=1.0)
    assert beyond.second_moment == pytest.approx(1, rel=1e-14)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("elu", {"alpha": 1e200}),
        ("leaky_relu", {"negative_slope": 1e160}),
        ("xielu", {"alpha_p": 1e300}),
        ("threshold", {"threshold": 1.0, "value": 1e300}),
        ("rrelu", {"lower": 0.0, "upper": 1e300}),
    ],
)
def test_params_that_overflow_are_a_moment_error(name: str, given: dict[str, float]) -> None:
    with pytest.raises(MomentError, match="overflows"):
        resolve(name, 1.0, **given)


@pytest.mark.parametrize("alpha", [1e-8, 1e-10, 1e-12])
def test_a_celu_of_hardly_any_alpha_is_a_relu(alpha: float) -> None:
    assert resolve("celu", alpha=alpha).gain == pytest.approx(math.sqrt(2), rel=1e-7)


@pytest.mark.parametrize(
    ("threshold", "value", "jumps"),
    [(0, 1e-9, True), (0, -1e-11, True), (1, 1.000000001, True), (1, 1, False), (0, 0, False)],
)
def test_however_small_a_jump_is_there_is_no_derivative(
    threshold: float, value: float, jumps: bool
) -> None:
    entry = resolve("threshold", threshold=threshold, value=value)
    assert (entry.derivative_second_moment is None) == jumps


def test_a_constant_has_no_centered_gain() -> None:
    assert resolve("threshold", 1.1, threshold=1000.0, value=1.0).centered_gain is None
    assert resolve("hardtanh", 1e-6, min_val=1.0, max_val=2.0).centered_gain is None


# --- the list ---


def test_every_built_in_activation_is_known_and_says_where_it_comes_from() -> None:
    assert set(DECLARED) <= set(gainreg.activations())
    assert [name for name, a in DECLARED.items() if not a.reference] == []


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_curve_over_all_stds_is_complete(name: str) -> None:
    low = -1 if name in ("hardshrink", "softshrink") else -6  # underflow below
    high = 1.2 if name == "exp" else 6
    curve = gainreg.curve(name, np.logspace(low, high, 25), **FREE.get(name, {}))
    assert isinstance(curve, GainCurve)
    assert np.isfinite(curve.gain).all()
    assert (curve.error <= 1e-13 * curve.second_moment).all()
    assert set(curve.method) <= {"analytic", "quadrature"}


@pytest.mark.parametrize(
    ("alpha_p", "alpha_n", "beta", "std"),
    [
        (-1.3894302891246098, 217.0941224313749, -0.6748766358785889, 0.7108466193608723),
        (-0.300015, 451.55, 2.7779, 0.72882),
        (-0.00126, 0.015, 0.0024, 1.01),
        (0.457461, -2.371895, -0.0193463, 0.0308823),
    ],
)
def test_pieces_that_nearly_cancel_keep_their_digits(
    alpha_p: float, alpha_n: float, beta: float, std: float
) -> None:
    entry = resolve("xielu", std, alpha_p=alpha_p, alpha_n=alpha_n, beta=beta)
    with mpmath.workdps(40):
        up, down, slope, s = map(mpf, (alpha_p, alpha_n, beta, std))

        def both_sides(z: Any) -> Any:
            x = s * z
            right, left = up * x * x + slope * x, down * (mpmath.exp(-x) - 1 + x) - slope * x
            return (right**2 + left**2) * mpmath.npdf(z)

        exact = mpmath.quad(both_sides, [0, 0.25, 0.5, 1, 2, 3, 4, 6, 8, 12, 16, 25])
        off = float(abs(entry.second_moment - exact))
    assert off <= entry.error + 4 * math.ulp(entry.second_moment)
    assert off <= 1e-14 * entry.second_moment
