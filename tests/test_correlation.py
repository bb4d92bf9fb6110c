"""gainreg.correlation: closed forms of the literature, independent integrals, and laws."""

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import hermite_e
from scipy.special import ndtr, owens_t

import gainreg
from gainreg import Activation, MomentError, ParameterError, correlation
from gainreg.host import host

BESIDE = [1 - 2.0**-53, 1 - 1e-12, 1 - 1e-9, 1 - 1e-6, 0.9999, 0.99, 0.95]
INNER = [0.9, 0.7, 0.5, 1 / 3, 0.01, 1e-9]
RHO = np.array([-1.0, *(-r for r in (*BESIDE, *INNER)), 0.0, *INNER[::-1], *BESIDE[::-1], 1.0])
STDS = (1e-3, 0.05, 0.37, 1.0, 3.0, 30.0, 1e3)
HOMOGENEOUS = (1e-3, 1e3)  # for what is the same at every std


def density(x: np.ndarray | float) -> np.ndarray:
    """Of a standard normal."""
    return np.asarray(np.exp(-np.square(x) / 2) / math.sqrt(2 * math.pi))


# --- closed forms ---


def abs_pair(rho: np.ndarray) -> np.ndarray:
    """E[|u|·|v|] of standard normals: the arc cosine kernel of order 1, of both signs."""
    return 2 / np.pi * (np.sqrt((1 - rho) * (1 + rho)) + rho * np.arcsin(rho))


def leaky(a: float) -> Callable[[np.ndarray, float], np.ndarray]:
    """max(x, 0) + a·min(x, 0) = ((1 + a)·x + (1 − a)·|x|)/2; Cho and Saul 2009, eq. 6, at n = 1."""
    return lambda rho, std: ((1 + a) ** 2 * rho + (1 - a) ** 2 * abs_pair(rho)) / (2 * (1 + a * a))


def arc_cosine_2(rho: np.ndarray, std: float) -> np.ndarray:
    """max(x, 0)²; Cho and Saul 2009, eq. 6, at n = 2."""
    angle = np.arccos(rho)
    of_order_2 = 3 * np.sin(angle) * rho + (np.pi - angle) * (1 + 2 * rho**2)
    return np.asarray(of_order_2 / (3 * np.pi))


def erf(rho: np.ndarray, std: float) -> np.ndarray:
    """Williams 1998, Neural Computation 10(5), eq. 11."""
    share = 2 * std**2 / (1 + 2 * std**2)
    return np.asarray(np.arcsin(share * rho) / np.arcsin(share))


def sin(rho: np.ndarray, std: float) -> np.ndarray:
    """sinh(std²·rho)/sinh(std²), without overflow."""
    size, s = np.abs(rho), std**2
    return np.sign(rho) * np.exp(-s * (1 - size)) * np.expm1(-2 * s * size) / np.expm1(-2 * s)


def cos(rho: np.ndarray, std: float) -> np.ndarray:
    """cosh(std²·rho)/cosh(std²)."""
    return (np.exp(-(std**2) * (1 - rho)) + np.exp(-(std**2) * (1 + rho))) / (
        1 + np.exp(-2 * std**2)
    )


def gelu(rho: np.ndarray, std: float) -> np.ndarray:
    """Tsuchida et al. 2021, arXiv:2002.08517, proposition 3, at one std and without biases."""

    def pair(rho: np.ndarray | float) -> np.ndarray:
        s = std**2
        gap = (1 + s - s * rho) * (1 + s + s * rho)
        angle = rho * np.arcsin(s * rho / (1 + s))
        smooth = s * (1 + rho**2 + s * (1 - rho) * (1 + rho)) / ((1 + s) * np.sqrt(gap))
        return np.asarray(rho / 4 + (smooth + angle) / (2 * np.pi))

    return pair(rho) / pair(1.0)


CLOSED_FORMS = [
    ("identity", {}, HOMOGENEOUS, lambda rho, std: rho),
    ("relu", {}, HOMOGENEOUS, leaky(0.0)),
    ("leaky_relu", {}, HOMOGENEOUS, leaky(0.01)),
    ("prelu", {"weight": -3.0}, HOMOGENEOUS, leaky(-3.0)),
    ("abs", {}, HOMOGENEOUS, leaky(-1.0)),
    ("relu_squared", {}, HOMOGENEOUS, arc_cosine_2),
    ("square", {}, HOMOGENEOUS, lambda rho, std: (1 + 2 * rho**2) / 3),
    ("sign", {}, HOMOGENEOUS, lambda rho, std: 2 / np.pi * np.arcsin(rho)),
    ("step", {}, HOMOGENEOUS, lambda rho, std: 1 / 2 + np.arcsin(rho) / np.pi),
    ("exp", {}, STDS[:5], lambda rho, std: np.exp(std**2 * (rho - 1))),
    ("sin", {}, STDS[:6], sin),
    ("cos", {}, STDS[:6], cos),
    ("erf", {}, STDS, erf),
    ("gelu", {}, STDS, gelu),
]


@pytest.mark.parametrize(
    ("name", "params", "stds", "formula"), CLOSED_FORMS, ids=[form[0] for form in CLOSED_FORMS]
)
def test_closed_forms_hold_at_every_std_and_rho(
    name: str,
    params: dict[str, float],
    stds: tuple[float, ...],
    formula: Callable[[np.ndarray, float], np.ndarray],
) -> None:
    for std in stds:
        found = correlation(name, RHO, std, **params)
        assert found == pytest.approx(formula(RHO, std), rel=0, abs=1e-11), f"at std {std}"


def below_both(h: float, k: float, rho: float) -> float:
    """P(x < h, y < k) of standard normals by Owen's T (Owen 1956, eq. 3.5), for h, k < 0."""
    root = math.sqrt((1 - rho) * (1 + rho))
    t = owens_t(h, (k / h - rho) / root) + owens_t(k, (h / k - rho) / root)
    return float((ndtr(h) + ndtr(k)) / 2 - t)


def elu_pair(rho: float, std: float) -> float:
    """E[ELU(u)·ELU(v)], quadrant by quadrant (Tsuchida et al. 2021, arXiv:2002.08517)."""
    root = math.sqrt((1 - rho) * (1 + rho))

    def right_above(a: float, b: float) -> float:
        """E[(x + a)·1{x > −a, y < −b}]."""
        first = density(a) * ndtr((rho * a - b) / root)
        second = rho * density(b) * ndtr((a - rho * b) / root)
        beside = ndtr(-b) - (below_both(-a, -b, rho) if b else 1 / 4 + math.asin(rho) / 2 / math.pi)
        return float(first - second + a * beside)

    both_right = std**2 / (2 * math.pi) * (root + rho * (math.pi - math.acos(rho)))
    growth = math.exp(std**2 / 2)
    across = std * (growth * right_above(rho * std, std) - right_above(0.0, 0.0))
    both_left = (
        growth**2 * math.exp(std**2 * rho) * below_both(-std * (1 + rho), -std * (1 + rho), rho)
        - 2 * growth * below_both(-std, -rho * std, rho)
        + (1 / 4 + math.asin(rho) / (2 * math.pi))
    )
    return both_right + 2 * across + both_left


@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
def test_elu_agrees_with_its_closed_form(std: float) -> None:
    for rho in (0.05, 0.3, 0.7, 0.97):
        true = elu_pair(rho, std) / gainreg.resolve("elu", std).second_moment
        assert correlation("elu", rho, std) == pytest.approx(true, rel=1e-11)


# --- beside rho = 1, where 1 − C counts ---


def exactly(formula: Callable[[mpmath.mpf], mpmath.mpf], rho: float) -> float:
    """1 − C at 50 digits."""
    with mpmath.workdps(50):
        return float(1 - formula(mpmath.mpf(rho)))


@pytest.mark.parametrize("rho", BESIDE)
def test_beside_1_all_digits_of_1_less_c_are_right_that_c_has(rho: float) -> None:
    one_digit = 2.0**-53

    def relu(r: mpmath.mpf) -> mpmath.mpf:
        return (mpmath.sqrt(1 - r * r) + r * (mpmath.pi - mpmath.acos(r))) / mpmath.pi

    def smooth(r: mpmath.mpf) -> mpmath.mpf:
        return mpmath.asin(2 * r / 3) / mpmath.asin(mpmath.mpf(2) / 3)

    def sign(r: mpmath.mpf) -> mpmath.mpf:
        return 2 / mpmath.pi * mpmath.asin(r)

    for name, formula in {"relu": relu, "erf": smooth, "sign": sign}.items():
        true = exactly(formula, rho)
        found = 1 - correlation(name, rho)
        assert found == pytest.approx(true, rel=2e-11, abs=2 * one_digit), name
        if name != "relu":  # odd: as near to −1 at −rho
            assert 1 + correlation(name, -rho) == pytest.approx(true, rel=2e-11, abs=4 * one_digit)


# --- independent integrals ---


Piece = tuple[float, float, float, float, float]  # from, to; φ = a + b·x + c·eˣ there


def conditional_mean(pieces: list[Piece], mean: np.ndarray, std: float) -> np.ndarray:
    """E[φ(x)] of x with that mean and std, in closed form."""

    def probability(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return np.where(low > 0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))

    total = np.zeros_like(mean)
    for low, high, a, b, c in pieces:
        start, end = (low - mean) / std, (high - mean) / std
        inside = probability(start, end)
        total += a * inside + b * (mean * inside + std * (density(start) - density(end)))
        if c:
            total += c * np.exp(mean + std**2 / 2) * probability(start - std, end - std)
    return total


def by_one_integral(pieces: list[Piece], rho: float, std: float) -> float:
    """E[φ(u)φ(v)]/E[φ²], by v in closed form and by u with many nodes around each kink."""
    width = std * math.sqrt((1 - rho) * (1 + rho))
    kinks = [piece[0] for piece in pieces[1:]]
    near = [(k + width * w) / rho for k in kinks for w in np.arange(-9.0, 9.5, 0.5)]
    edges = np.unique([*np.arange(-12.0, 12.5, 0.25) * std, *kinks, *near])
    nodes, weights = np.polynomial.legendre.leggauss(24)
    low, high = edges[:-1, None], edges[1:, None]
    u, weight = (low + high + (high - low) * nodes) / 2, (high - low) / 2 * weights
    value = np.select(
        [u < piece[1] for piece in pieces],
        [a + b * u + c * np.exp(np.minimum(u, 0)) for _, _, a, b, c in pieces],
    )
    weight = weight * density(u / std)
    other = conditional_mean(pieces, rho * u, width)
    return float((weight * value * other).sum() / (weight * value**2).sum())


PIECES: dict[str, list[Piece]] = {
    "elu": [(-math.inf, 0, -1, 0, 1), (0, math.inf, 0, 1, 0)],
    "hardtanh": [(-math.inf, -1, -1, 0, 0), (-1, 1, 0, 1, 0), (1, math.inf, 1, 0, 0)],
    "hardshrink": [(-math.inf, -0.5, 0, 1, 0), (-0.5, 0.5, 0, 0, 0), (0.5, math.inf, 0, 1, 0)],
}


@pytest.mark.parametrize("name", PIECES)
@pytest.mark.parametrize(("rho", "std"), [(0.97, 0.4), (-0.9999, 2.7), (1 - 1e-7, 1.3)])
def test_what_is_declared_in_pieces_agrees_with_an_integral_over_one_of_both(
    name: str, rho: float, std: float
) -> None:
    true = by_one_integral(PIECES[name], rho, std)
    assert correlation(name, rho, std) == pytest.approx(true, rel=0, abs=1e-11)


@pytest.mark.parametrize("name", ["tanh", "silu", "mish", "softplus", "gaussian", "snake"])
def test_what_is_smooth_agrees_with_gauss_and_hermite_in_the_plane(name: str) -> None:
    nodes, weights = hermite_e.hermegauss(150)
    weights = np.outer(weights, weights) / (2 * np.pi)
    rho, std = 0.83, 0.6
    bound = host().bind(name, {})
    u = bound.forward(std * nodes)[:, None]
    v = bound.forward(std * (rho * nodes[:, None] + math.sqrt(1 - rho**2) * nodes))
    true = (weights * u * v).sum() / (weights * u**2).sum()
    assert correlation(name, rho, std) == pytest.approx(true, rel=1e-12)


# --- what nobody declared ---


def test_undeclared_kinks_and_jumps_cost_no_accuracy() -> None:
    pieces: dict[str, list[Piece]] = {
        "kinks": [(-math.inf, -1.7, -1.7, 0, 0), (-1.7, 2.2, 0, 1, 0), (2.2, math.inf, 2.2, 0, 0)],
        "a jump far out": [(-math.inf, 4.1, 0, 0, 0), (4.1, math.inf, 1, 0, 0)],
        "a jump and a slope": [(-math.inf, -0.3, 0, 0.5, 0), (-0.3, math.inf, 1, -2, 0)],
    }
    for name, of in pieces.items():

        def forward(x: np.ndarray, of: list[Piece] = of) -> np.ndarray:
            where = [x < piece[1] for piece in of]
            return np.select(where, [a + b * x for _, _, a, b, _ in of])

        for rho in (0.4, 0.97, -0.995, 1 - 1e-6):
            true = by_one_integral(of, rho, 0.9)
            assert correlation(forward, rho, 0.9) == pytest.approx(true, abs=1e-11), (name, rho)


def test_a_narrow_feature_nobody_declared_is_found() -> None:
    def bump(x: np.ndarray) -> np.ndarray:
        return np.exp(-(((x - 1.3) / 1e-3) ** 2) / 2)

    # of two such bumps, exactly: a product of Gaussians in the plane
    rho, width = 0.95, 1e-3

    def pair(r: float) -> float:
        spread = (1 + width**2) ** 2 - r**2
        return width**2 / math.sqrt(spread) * math.exp(-(1.3**2) / (1 + width**2 + r))

    same = width / math.sqrt(2 + width**2) * math.exp(-(1.3**2) / (2 + width**2))
    assert correlation(bump, rho) == pytest.approx(pair(rho) / same, rel=0, abs=1e-11)


@pytest.mark.parametrize("power", [-0.1, 0.5, 1.5, 30.0])
def test_powers_agree_with_the_hypergeometric_function(power: float) -> None:
    """E[|u|^a·|v|^a] ∝ ₂F₁(−a/2, −a/2; ½; rho²), by Mehler's series, singular at 0 or not."""

    def pair(rho: float) -> float:
        return float(mpmath.hyp2f1(-power / 2, -power / 2, 0.5, mpmath.mpf(rho) ** 2))

    phi = gainreg.Activation("power", lambda x: np.abs(x) ** power)
    for rho in (0.5, -0.97, 0.999, 1 - 1e-9):
        found = correlation(phi, rho, 0.7)
        assert found == pytest.approx(pair(rho) / pair(1.0), rel=0, abs=1e-10)


def test_a_lively_function_is_settled_or_refused_but_never_wrong() -> None:
    for std in (10.0, 100.0):
        near = np.array([1e-6, 1e-3, 0.05, 0.5])
        found = correlation(lambda x: np.sin(x + 0.5), 1 - near, std)
        assert found == pytest.approx(np.exp(-(std**2) * near), abs=1e-10)

    def staircase(of: np.ndarray) -> np.ndarray:
        return np.asarray(np.round(of))

    steps = [
        (k - 0.5 if k > -40 else -math.inf, k + 0.5, float(k), 0.0, 0.0) for k in range(-40, 40)
    ]
    true = by_one_integral([*steps, (39.5, math.inf, 40.0, 0.0, 0.0)], 0.97, 3.0)
    assert correlation(staircase, 0.97, 3.0) == pytest.approx(true, abs=1e-11)
    with pytest.raises(MomentError, match="does not settle"):  # it has 100 steps on each side
        correlation(staircase, 0.95, 10.0)
    noise = np.random.default_rng(0).normal(size=1 << 16)
    with pytest.raises(MomentError, match="does not settle"):
        correlation(lambda x: noise[(x * 1e9).astype(np.int64) % (1 << 16)], 0.5)


# --- laws ---

rhos = st.floats(-1, 1)
some_stds = st.floats(-2, 2).map(lambda e: 10.0**e)


@given(st.sampled_from(["tanh", "gelu", "elu", "hardtanh", "softplus", "step"]), some_stds)
@settings(max_examples=20, deadline=None)
def test_at_0_it_is_the_share_of_the_mean_and_at_1_it_is_1(name: str, std: float) -> None:
    entry = gainreg.resolve(name, std)
    at_0, at_1 = correlation(name, np.array([0.0, 1.0]), std)
    assert at_0 == pytest.approx(entry.mean**2 / entry.second_moment, abs=1e-12)
    assert at_1 == 1


@given(rhos, st.sampled_from(["tanh", "hardtanh", "sin", "sign", "abs", "square", "cos"]))
@settings(max_examples=30, deadline=None)
def test_of_what_is_odd_the_sign_turns_with_rho_and_of_what_is_even_not(
    rho: float, name: str
) -> None:
    sign = 1 if name in ("abs", "square", "cos") else -1
    turned = correlation(name, -rho)
    assert turned == pytest.approx(sign * correlation(name, rho), abs=1e-14)


@given(
    st.lists(st.floats(0, 1), min_size=3, max_size=8, unique=True),
    st.sampled_from(["gelu", "relu", "hardshrink", "selu"]),
    some_stds,
)
@settings(max_examples=20, deadline=None)
def test_from_0_to_1_it_rises_and_bends_upwards(rho: list[float], name: str, std: float) -> None:
    """All coefficients of the power series are squares."""
    rho = sorted(rho)
    try:
        found = correlation(name, rho, std)
    except MomentError:  # hardshrink at small std is 0
        return
    digits = 1e-12
    assert (np.diff(found) >= -digits).all()
    for (a, b, c), (x, y, z) in zip(windowed(rho), windowed(found.tolist()), strict=True):
        share = (b - a) / (c - a)
        assert y <= x + (z - x) * share + digits


def windowed(values: list[float]) -> list[tuple[float, float, float]]:
    """Each three in a row."""
    return list(zip(values, values[1:], values[2:], strict=False))


@pytest.mark.parametrize("name", ["tanh", "gelu", "elu", "silu", "sin"])
def test_its_slope_at_1_is_the_gradient_factor(name: str) -> None:
    for std in (0.3, 1.0, 2.0):
        step = 1e-6
        slope = (1 - correlation(name, 1 - step, std)) / step
        # what lacks is half of C″(1)·step; where φ′ has a kink, √step
        assert slope == pytest.approx(gainreg.resolve(name, std).gradient_factor, rel=3e-5)


# --- what is asked and answered ---


def test_a_number_gives_a_float_and_an_array_one_of_its_shape() -> None:
    assert type(correlation("relu", 0.5)) is float
    assert correlation("relu", 0.5) == pytest.approx(0.6089977810442293, rel=1e-14)
    assert type(correlation("relu", 1)) is float
    assert correlation("relu", np.float32(0.5)) == correlation("relu", 0.5)
    grid = np.array([[0.5, -0.5, 0.99], [0.0, 1.0, -1.0]])
    found = correlation("relu", grid)
    assert found.shape == grid.shape
    assert found[0, 2] == pytest.approx(correlation("relu", 0.99), abs=1e-15)
    assert correlation("relu", [0.5, 1.0]).shape == (2,)
    assert correlation("relu", np.empty((0, 2))).shape == (0, 2)


def test_names_activations_and_callables_answer_alike() -> None:
    declared = Activation("my_tanh", lambda x, a: np.tanh(a * x), params={"a": 1.0})
    by_name = correlation("tanh", 0.7, 0.8)
    assert correlation(declared, 0.7, 0.8) == pytest.approx(by_name, rel=1e-14)
    assert correlation(np.tanh, 0.7, 0.8) == pytest.approx(by_name, rel=1e-14)
    twice = correlation(declared, 0.7, 0.4, a=2.0)
    assert twice == pytest.approx(by_name, rel=1e-14)
    assert correlation("leaky_relu", -1.0, negative_slope=0.5) == pytest.approx(-0.8, rel=1e-14)


@pytest.mark.parametrize("rho", [1.0000001, -2, math.nan, [0.5, math.inf], "0.5", None, True, 1j])
def test_what_is_no_correlation_is_refused(rho: object) -> None:
    with pytest.raises(ParameterError, match="rho"):
        correlation("relu", rho)


@pytest.mark.parametrize(
    ("name", "params"),
    [("softmax", {"dim": 4}), ("maxout", {"k": 2}), ("rrelu", {}), ("crelu", {}), ("swiglu", {})],
)
def test_what_is_random_or_not_elementwise_has_none(name: str, params: dict[str, float]) -> None:
    with pytest.raises(MomentError, match="not elementwise"):
        correlation(name, 0.5, **params)


def test_a_random_function_has_none() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(MomentError, match="random"):
        correlation(lambda x: x + rng.standard_normal(x.shape), 0.5)


def test_what_has_no_second_moment_has_none() -> None:
    for forward in (np.zeros_like, lambda x: np.exp(x * x)):
        for rho in (0.5, 1.0, -1.0):
            with pytest.raises(MomentError, match="does not settle"):
                correlation(forward, rho)
