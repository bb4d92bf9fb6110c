"""How moments are found: by closed form, quadrature, sampling; and their stated errors."""

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

import gainreg
from gainreg import Activation, MomentError, ParameterError, Piecewise, PluginError, X, exp
from gainreg.entry import to_dict
from gainreg.moments.truncated import half_moment

stds = st.floats(-6, 6).map(lambda e: 10.0**e)


# --- what nobody registered ---


def test_a_numpy_function_is_resolved_like_its_registered_twin() -> None:
    assert gainreg.gain(np.tanh) == pytest.approx(gainreg.gain("tanh"), rel=1e-15)
    assert gainreg.gain(np.tanh, mode="backward") == pytest.approx(
        gainreg.gain("tanh", mode="backward"), rel=1e-9
    )


def clipped_moment(c: float) -> float:
    """E[max(z, c)²], c < 0, straight from its definition at 40 digits."""
    with mpmath.workdps(40):
        edge = mpmath.mpf(c)
        below = edge**2 * mpmath.ncdf(edge)
        return float(below + mpmath.quad(lambda z: z * z * mpmath.npdf(z), [edge, 0, 3, 9, 40]))


def test_an_undeclared_kink_costs_no_accuracy() -> None:
    entry = gainreg.resolve(lambda x: np.maximum(x, -0.3))
    true = clipped_moment(-0.3)
    assert entry.second_moment == pytest.approx(true, rel=1e-13)
    assert entry.error <= 1e-9 * true
    assert entry.derivative_second_moment == pytest.approx(ndtr(0.3), rel=1e-8)


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=3), st.floats(-2, 2), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_whatever_is_piecewise_linear_gets_a_gain_within_its_stated_error(
    kinks: list[float], slope: float, seed: int
) -> None:
    kinks = sorted({round(k, 3) for k in kinks})
    slopes = np.random.default_rng(seed).uniform(-2, 2, len(kinks))

    def forward(x: np.ndarray) -> np.ndarray:
        return (
            1
            + slope * x
            + sum(s * np.maximum(x - k, 0) for s, k in zip(slopes, kinks, strict=True))
        )

    found = gainreg.resolve(forward)
    declared = gainreg.resolve(Activation("declared", forward, kinks=tuple(kinks)))
    assert abs(found.second_moment - declared.second_moment) <= found.error + declared.error
    assert found.error <= 1e-9 * found.second_moment


SMOOTH = [np.tanh, lambda x: 1 + 0 * x, lambda x: x / (1 + np.exp(-x)), lambda x: 0.3 - x]
BREAKS = {
    "kink": lambda d: np.maximum(d, 0),
    "bend": lambda d: np.maximum(d, 0) ** 2 / (1 + d * d),
    "jump": lambda d: 1.0 * (d > 0),
    "wave": lambda d: np.where(d > 0, np.sin(d), 0),
}


@given(
    st.sampled_from(SMOOTH),
    st.lists(
        st.tuples(
            st.sampled_from(sorted(BREAKS)),
            st.floats(-2.5, 2.5),
            st.sampled_from([1.0, -0.3, 1e-3, 1e-6]),
        ),
        min_size=1,
        max_size=4,
    ),
)
@settings(max_examples=30, deadline=None)
def test_whatever_is_piecewise_smooth_gets_a_gain_within_its_stated_error(
    smooth: Callable[[np.ndarray], np.ndarray], breaks: list[tuple[str, float, float]]
) -> None:
    def forward(x: np.ndarray) -> np.ndarray:
        return smooth(x) + sum(size * BREAKS[kind](x - at) for kind, at, size in breaks)

    found = gainreg.resolve(forward)
    kinks = tuple(at for _, at, _ in breaks)
    declared = gainreg.resolve(Activation("declared", forward, kinks=kinks))
    rounding = 4 * math.ulp(found.second_moment)
    assert (
        abs(found.second_moment - declared.second_moment) <= found.error + declared.error + rounding
    )
    assert found.error <= 1e-9 * found.second_moment
    assert found.method == "quadrature"


@pytest.mark.parametrize(
    "jumping", [np.sign, lambda x: np.where(x > 0.3, 1.0, 0.0), np.floor], ids=["0", "0.3", "floor"]
)
def test_what_jumps_has_no_backward_gain(jumping: object) -> None:
    for method in ("auto", "sampling"):
        entry = gainreg.resolve(jumping, method=method)
        assert entry.derivative_second_moment is None
        assert entry.gradient_factor is None
    with pytest.raises(MomentError, match="no backward gain"):
        entry.backward_gain  # noqa: B018
    with pytest.raises(MomentError, match="no backward gain"):
        gainreg.gain(jumping, mode="backward")


@pytest.mark.parametrize("kept", [0.5, 0.9, 0.99])
def test_a_random_function_falls_back_to_sampling(kept: float) -> None:
    rng = np.random.default_rng(0)
    entry = gainreg.resolve(lambda x: x * (rng.random(x.shape) < kept))
    assert entry.method == "sampling"
    assert abs(entry.second_moment - kept) < 4 * entry.error
    with pytest.raises(MomentError, match="it is random"):
        gainreg.resolve(lambda x: x * (rng.random(x.shape) < kept), method="quadrature")


def test_single_precision_is_owned_up_to_in_the_error() -> None:
    entry = gainreg.resolve(lambda x: np.tanh(x.astype(np.float32)))
    true = gainreg.resolve("tanh").second_moment
    assert abs(entry.second_moment - true) <= entry.error <= 1e-5


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda x: np.exp(x**2), "infinite"),
        (lambda x: 0 * x, "zero"),
        (lambda x: 1 / x, "infinite"),
        (lambda x: np.where(np.abs(x) > 50, x, 0), "zero"),
    ],
    ids=["exp(x²)", "0", "1/x", "far"],
)
def test_where_no_gain_exists_the_error_says_why(forward: object, reason: str) -> None:
    with pytest.raises(MomentError, match=reason):
        gainreg.gain(forward)


def test_a_heavy_but_finite_moment_is_found() -> None:
    # E[exp(x²)²] = 1/√(1 − 4·std²)
    entry = gainreg.resolve(lambda x: np.exp(x**2), 0.45)
    assert entry.second_moment == pytest.approx(1 / math.sqrt(1 - 4 * 0.45**2), rel=1e-12)


def test_a_pole_that_can_be_integrated_is_integrated() -> None:
    entry = gainreg.resolve(lambda x: np.abs(x) ** -0.4)
    true = 2**-0.4 * math.gamma(0.1) / math.sqrt(math.pi)  # E|z|^-0.8
    assert abs(entry.second_moment - true) <= entry.error + 4 * math.ulp(true)
    assert entry.error <= 1e-9 * true


@pytest.mark.parametrize(
    ("forward", "fault"),
    [
        (lambda x: x / 0, "ZeroDivisionError"),
        (lambda x: x + 1j, "complex128"),
        (lambda x: x.sum(), "shape"),
        (lambda x: x[..., :3], "shape"),
        (lambda x: np.sqrt(x), "NaN"),
        (lambda x: None, "None"),
        (lambda x: "text", "numbers"),
    ],
)
def test_a_faulty_function_is_named_with_its_fault(forward: object, fault: str) -> None:
    def broken(x: np.ndarray) -> object:
        return [][0] if fault == "IndexError" else forward(x)  # type: ignore[operator]

    if fault == "ZeroDivisionError":

        def broken(x: np.ndarray) -> object:
            return 1 // 0

    with pytest.raises(PluginError, match=f"'broken'.*{fault}"):
        gainreg.gain(broken)


@pytest.mark.parametrize("bad", [None, 3, ["relu"], b"relu"])
def test_what_is_no_activation_is_refused(bad: object) -> None:
    with pytest.raises(ParameterError, match="an activation is a name"):
        gainreg.gain(bad)


@pytest.mark.parametrize(
    ("forward", "std", "exact"),
    [
        (np.sin, 30.0, 0.5),
        (lambda x: np.sin(30 * x), 1.0, 450.0),
        (lambda x: np.tanh(1e3 * (x - 0.7)), 1.0, 416.3418),
        (lambda x: x + np.sin(x) ** 2, 10.0, 1.5),
    ],
    ids=["sin", "sin 30x", "steep tanh", "snake"],
)
def test_the_derivative_of_a_lively_function_is_found(
    forward: object, std: float, exact: float
) -> None:
    found = gainreg.resolve(forward, std).derivative_second_moment
    assert found == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(
    "singular", [lambda x: np.sqrt(np.abs(x)), lambda x: np.sqrt(np.maximum(x - 0.3, 0))]
)
def test_a_singular_derivative_has_no_second_moment(singular: object) -> None:
    assert gainreg.resolve(singular).derivative_second_moment is None


def test_a_derivative_that_rounding_hides_is_not_known() -> None:
    # φ′ is 1e-6 where φ is 1
    assert gainreg.resolve(lambda x: 1 + x**2, 1e-6).derivative_second_moment is None


def test_stds_far_out_of_the_ordinary_are_no_problem() -> None:
    for std in (1e-140, 1e-30, 1e30, 1e140):
        assert gainreg.gain(lambda x: np.maximum(x, 0), std) == pytest.approx(2**0.5, rel=1e-9)
    with pytest.raises(MomentError):
        gainreg.gain("relu", 1e200)


def test_what_a_closed_form_leaves_open_is_sampled_if_need_be() -> None:
    wave = Activation("wave", np.sin, derivative=np.cos, second_moment=lambda std: 0.5 + 0 * std)
    with pytest.raises(PluginError):  # right for large std only
        gainreg.resolve(wave, 1e4)
    right = Activation("wave", np.sin, second_moment=lambda std: -np.expm1(-2 * std**2) / 2)
    entry = gainreg.resolve(right, 1e5)
    assert entry.second_moment == 0.5
    assert entry.variance_slope == pytest.approx(0, abs=0.05)


# --- stds and params ---


@pytest.mark.parametrize("std", [0, -1.0, math.nan, math.inf, "1", None, 1j, [1.0]])
@pytest.mark.parametrize("ask", [gainreg.gain, gainreg.resolve])
def test_a_std_that_is_none_is_refused(ask: object, std: object) -> None:
    with pytest.raises(ParameterError, match="std"):
        ask("elu", std)  # type: ignore[operator]


@pytest.mark.parametrize("params", [{"beta": 1}, {"alpha": math.nan}, {"alpha": "1"}])
def test_a_param_that_is_none_is_refused(params: dict[str, object]) -> None:
    with pytest.raises(ParameterError, match=next(iter(params))):
        gainreg.resolve("elu", **params)


def test_method_and_mode_are_checked() -> None:
    with pytest.raises(ParameterError, match="'quadrature'"):
        gainreg.resolve("elu", method="guess")
    with pytest.raises(ParameterError, match="'backward'"):
        gainreg.gain("elu", mode="sideways")
    with pytest.raises(MomentError, match="no closed form"):
        gainreg.resolve("tanh", method="analytic")


def test_a_curve_takes_a_one_dimensional_array_of_numbers_only() -> None:
    for stds in (1.0, [[1.0]], ["a"], [1.0, 0.0], None):
        with pytest.raises(ParameterError, match="std"):
            gainreg.curve("elu", stds)
    assert len(gainreg.curve("elu", [])) == 0


# --- a curve is its entries ---


@pytest.mark.parametrize("name", ["elu", "tanh", "hardshrink"])
def test_a_curve_holds_what_resolve_finds_at_each_std(name: str) -> None:
    stds = np.geomspace(0.05, 1e4, 23)
    curve = gainreg.curve(name, stds)
    for entry, std in zip(curve, stds, strict=True):
        alone = to_dict(gainreg.resolve(name, float(std)))
        for key, value in to_dict(entry).items():
            same = alone[key]
            if isinstance(value, float):
                same = pytest.approx(same, rel=1e-13, abs=1e-13)
            assert value == same, key
    assert curve.gain == pytest.approx([entry.gain for entry in curve], rel=1e-15)


def test_a_curve_does_not_keep_or_change_the_array_it_was_given() -> None:
    stds = np.array([0.5, 1.0])
    curve = gainreg.curve("elu", stds)
    stds[0] = 7
    assert curve.std[0] == 0.5


# --- small variances ---


@given(stds.filter(lambda s: s < 1e-2))
@settings(max_examples=20, deadline=None)
def test_the_centered_gain_keeps_its_digits_where_the_variance_is_tiny(std: float) -> None:
    # φ = 3 + x: variance std² beside a second moment of 9
    entry = gainreg.resolve(Activation("shifted", lambda x: 3 + x, derivative=np.ones_like), std)
    assert entry.centered_gain == pytest.approx(1, rel=1e-15 / std)


# --- sampling ---


@pytest.mark.parametrize("name", ["identity", "relu", "leaky_relu", "elu", "selu", "tanh"])
@pytest.mark.parametrize("std", [0.01, 1.0, 100.0])
def test_sampling_agrees_within_four_of_its_standard_errors(name: str, std: float) -> None:
    exact = gainreg.resolve(name, std)
    sampled = gainreg.resolve(name, std, method="sampling")
    assert sampled.method == "sampling"
    assert abs(sampled.second_moment - exact.second_moment) <= 4 * sampled.error
    assert sampled.error <= 1e-5 * exact.second_moment
    assert sampled.mean == pytest.approx(exact.mean, abs=1e-4 * std)
    assert sampled.variance_slope == pytest.approx(exact.variance_slope, abs=1e-3)


def test_sampling_gives_the_same_numbers_for_the_same_seed_only() -> None:
    first, again = (gainreg.resolve("tanh", method="sampling", seed=5) for _ in range(2))
    assert first == again
    assert first.second_moment != gainreg.resolve("tanh", method="sampling", seed=6).second_moment


# --- the building blocks ---


def test_half_moments_are_those_of_the_half_normal() -> None:
    for k in range(12):
        with mpmath.workdps(30):
            true = mpmath.quad(lambda z, k=k: z**k * mpmath.npdf(z), [0, 2, 8, 40])
        assert half_moment(k) == pytest.approx(float(true), rel=1e-15)


@given(st.floats(0.05, 10), st.floats(-3, 3), st.floats(0.1, 2))
@settings(max_examples=40, deadline=None)
def test_moments_of_exponential_pieces_equal_quadrature(
    std: float, height: float, rate: float
) -> None:
    function = Piecewise([0], [height * exp(rate) + X, X - X * exp(-rate) + 2 * X * X])
    _assert_moments_equal_quadrature(function, std)


@given(st.floats(0.5, 1e6), st.floats(-3, 3), st.floats(0.1, 3), st.floats(-3, 3))
@settings(max_examples=40, deadline=None)
def test_moments_of_polynomial_pieces_equal_quadrature(
    std: float, kink: float, width: float, slope: float
) -> None:
    function = Piecewise([kink, kink + width], [1 + slope * X, 2 - X * X, 3])
    _assert_moments_equal_quadrature(function, std)


def _assert_moments_equal_quadrature(function: Piecewise, std: float) -> None:
    """Where digits cancel, a moment of pieces is NaN; elsewhere it is right."""
    kinks = tuple(function.kinks)
    whole, slope = (
        gainreg.resolve(Activation("pieces", part, kinks=kinks), std, method="quadrature")
        for part in (function.forward, function.derivative)  # where φ jumps, it has no E[φ′²]
    )
    exact = {
        "mean": (whole.mean, math.sqrt(whole.second_moment)),
        "second_moment": (whole.second_moment, whole.second_moment),
        "derivative_second_moment": (slope.second_moment, slope.second_moment),
        "variance_slope": (whole.variance_slope, max(1, abs(whole.variance_slope))),
    }
    found = zip(exact, (row[0] for row in function.moments(np.array([std]))), strict=True)
    for name, value in found:
        true, size = exact[name]
        assert math.isnan(value) or abs(value - true) <= 1e-12 * size, name


def test_forward_and_derivative_of_a_piecewise_follow_its_pieces() -> None:
    f = Piecewise([-1, 2], [0, 3 * X - exp(0.5), 7])
    x = np.array([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0])
    middle = 3 * x - np.exp(0.5 * x)
    assert list(f.forward(x)) == [0, 0, *middle[2:5], 7]
    assert list(f.derivative(x)) == [0, 0, *(3 - 0.5 * np.exp(0.5 * x))[2:5], 0]
    with pytest.raises(ValueError, match="ascending"):
        Piecewise([1, 0], [X, X, X])


def test_the_rules_error_estimate_is_never_below_the_true_error() -> None:
    # a feature narrower than the step: the fixed rule must not claim to have settled
    def bump(x: np.ndarray) -> np.ndarray:
        return 1 + np.exp(-(((x - 0.7) / 1e-3) ** 2))

    entry = gainreg.resolve(bump)
    with mpmath.workdps(30):
        mass = [
            mpmath.quad(
                lambda z, n=n: (
                    mpmath.exp(-n * ((z - mpmath.mpf("0.7")) / mpmath.mpf("1e-3")) ** 2)
                    * mpmath.npdf(z)
                ),
                [0.69, 0.699, 0.7, 0.701, 0.71],
            )
            for n in (1, 2)
        ]
    true = float(1 + 2 * mass[0] + mass[1])
    bound = 4 * entry.error if entry.method == "sampling" else entry.error  # a standard error
    assert abs(entry.second_moment - true) <= bound + 4 * math.ulp(true)
