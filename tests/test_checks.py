"""No right declaration is refused, however lively; no wrong one has any effect."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

import gainreg
from gainreg import Activation, PluginError

# φ, φ′ and E[φ(std·z)²], where it has a simple closed form, at a rate a
LIVELY: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any] | None]] = {
    "sin(ax)": (
        lambda x, a: np.sin(a * x),
        lambda x, a: a * np.cos(a * x),
        lambda std, a: -np.expm1(-2 * (a * std) ** 2) / 2,
    ),
    "x·sin(ax)": (
        lambda x, a: x * np.sin(a * x),
        lambda x, a: np.sin(a * x) + a * x * np.cos(a * x),
        lambda std, a: (
            std**2 * (1 - (1 - 4 * (a * std) ** 2) * np.exp(-2 * (a * std) ** 2)) / 2
            if a * std > 0.1
            else np.nan * std  # the difference loses digits
        ),
    ),
    "x + sin²(ax)/a": (
        lambda x, a: x + np.sin(a * x) ** 2 / a,
        lambda x, a: 1 + np.sin(2 * a * x),
        None,
    ),
    "sinc(ax)": (
        lambda x, a: np.sinc(a * x / np.pi),
        lambda x, a: np.where(
            np.abs(a * x) < 1e-4,
            -(a**2) * x / 3,
            (np.cos(a * x) - np.sinc(a * x / np.pi)) / np.where(x == 0, 1, x),
        ),
        None,
    ),
}
rates = st.floats(np.log(0.03), np.log(50)).map(np.exp)
stds = st.floats(np.log(0.05), np.log(20)).map(np.exp)


@given(st.sampled_from(sorted(LIVELY)), rates, stds)
@settings(max_examples=60, deadline=None)
def test_a_right_derivative_is_accepted_at_any_scale(kind: str, a: float, std: float) -> None:
    forward, derivative, _ = LIVELY[kind]
    declared = Activation(
        "lively", forward, params={"a": 1.0}, derivative=derivative, reference=kind
    )
    entry = gainreg.resolve(declared, std, a=a)
    # equal steps are exact for what is analytic, once they resolve it
    z = np.linspace(-10, 10, 2**16)
    weight = np.exp(-z * z / 2)
    true = (forward(std * z, a) ** 2 * weight).sum() / weight.sum()
    assert abs(entry.second_moment - true) <= 4 * entry.error + 1e-13 * true


@given(st.sampled_from(sorted(LIVELY)), rates, stds, st.sampled_from([0.98, 1.02]))
@settings(max_examples=60, deadline=None)
def test_a_derivative_2_percent_off_is_refused_at_any_scale(
    kind: str, a: float, std: float, factor: float
) -> None:
    forward, derivative, _ = LIVELY[kind]
    wrong = Activation(
        "lively", lambda x: forward(x, a), derivative=lambda x: factor * derivative(x, a)
    )
    with pytest.raises(PluginError, match="derivative of 'lively' is wrong"):
        gainreg.resolve(wrong, std)


@given(st.sampled_from(["sin(ax)", "x·sin(ax)"]), rates, stds, st.sampled_from([0.98, 1.02]))
@settings(max_examples=30, deadline=None)
def test_a_closed_form_is_believed_if_right_and_refused_if_2_percent_off(
    kind: str, a: float, std: float, factor: float
) -> None:
    forward, derivative, second = LIVELY[kind]
    assert second is not None
    right, wrong = (
        Activation(
            "lively",
            lambda x: forward(x, a),
            derivative=lambda x: derivative(x, a),
            second_moment=lambda std, f=f: f * np.array([second(s, a) for s in std]),
        )
        for f in (1.0, factor)
    )
    entry = gainreg.resolve(right, std)
    if np.isfinite(second(std, a)):
        assert entry.second_moment == pytest.approx(second(std, a), rel=1e-12)
    with pytest.raises(PluginError, match="closed form for the second_moment of 'lively' is wrong"):
        gainreg.resolve(wrong, std)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0, 40.0])
def test_snake_is_accepted_at_any_alpha(alpha: float) -> None:
    # gain² = std²/(std² + …): the closed form is snake's own; what counts is that it is believed
    assert gainreg.resolve("snake", 3.0, alpha=alpha).method == "analytic"


def test_a_siren_may_declare_its_derivative() -> None:
    siren = Activation("siren", lambda x: np.sin(30 * x), derivative=lambda x: 30 * np.cos(30 * x))
    entry = gainreg.resolve(siren)
    assert entry.second_moment == pytest.approx(0.5, rel=1e-12)
    assert entry.derivative_second_moment == pytest.approx(450, rel=1e-12)


def test_a_narrow_step_with_its_derivative_is_accepted() -> None:
    for width in (1e-2, 1e-4, 1e-6):
        step = Activation(
            "step_like",
            lambda x, w=width: np.tanh((x - 0.7) / w),
            derivative=lambda x, w=width: 1 / np.cosh(np.clip((x - 0.7) / w, -300, 300)) ** 2 / w,
        )
        entry = gainreg.resolve(step)
        assert abs(entry.second_moment - 1) < 2 * width


def test_rounding_that_a_lively_function_magnifies_is_no_dependence_on_other_points() -> None:
    entry = gainreg.resolve(lambda x: np.sin(1e9 * np.exp(x)))
    assert abs(entry.second_moment - 0.5) <= 6 * entry.error


def test_a_heavy_tailed_random_function_may_have_its_closed_form() -> None:
    # e^x times a random sign: E[e^{2x}] = e^{2·std²}, which no number of samples shows at std 10
    def sample(std: float, size: int, rng: np.random.Generator) -> np.ndarray:
        return np.exp(std * rng.standard_normal(size)) * rng.choice([-1.0, 1.0], size)

    flip = Activation("flip", sample=sample, second_moment=lambda std: np.exp(2 * std**2))
    assert gainreg.resolve(flip).second_moment == np.exp(2.0)
    wrong = Activation("flip", sample=sample, second_moment=lambda std: 1.1 * np.exp(2 * std**2))
    with pytest.raises(PluginError, match=r"is wrong: at std = 0\.1"):
        gainreg.resolve(wrong)


CANCELLING: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "eˣ − 1": (lambda x: np.exp(x) - 1, np.exp),
    "ELU by eˣ − 1": (
        lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
        lambda x: np.exp(np.minimum(x, 0)),
    ),
    "ln(½eˣ + ½)": (lambda x: np.log(0.5 * np.exp(x) + 0.5), lambda x: 1 / (1 + np.exp(-x))),
    "ln(1 + x²)": (lambda x: np.log(1 + x * x), lambda x: 2 * x / (1 + x * x)),
    "1 − cos x": (lambda x: 1 - np.cos(x), np.sin),
    "cos(x/100) − 1": (lambda x: np.cos(x / 100) - 1, lambda x: -np.sin(x / 100) / 100),
    "√(1 + x²) − 1": (lambda x: np.sqrt(1 + x * x) - 1, lambda x: x / np.sqrt(1 + x * x)),
    "1/(1 + e⁻ˣ) − ½": (
        lambda x: 1 / (1 + np.exp(-x)) - 0.5,
        lambda x: 0.25 / np.cosh(x / 2) ** 2,
    ),
    "GELU by 1 + erf": (
        lambda x: x * (1 + special.erf(x / np.sqrt(2))) / 2,
        lambda x: special.ndtr(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi),
    ),
    "ln(1 + eˣ) in single precision": (
        lambda x: np.log(1 + np.exp(x.astype(np.float32))),
        lambda x: 1 / (1 + np.exp(-x)),
    ),
}


@pytest.mark.parametrize("name", CANCELLING)
def test_digits_that_a_function_loses_to_cancelling_terms_are_no_evidence_against_its_derivative(
    name: str,
) -> None:
    forward, derivative = CANCELLING[name]
    entry = gainreg.resolve(Activation("cancelling", forward, derivative=derivative))
    bare = gainreg.resolve(forward)
    assert entry.second_moment == pytest.approx(bare.second_moment, rel=1e-6)
    wrong = Activation("cancelling", forward, derivative=lambda x: 1.02 * derivative(x))
    with pytest.raises(PluginError, match="derivative of 'cancelling' is wrong"):
        gainreg.resolve(wrong)


@pytest.mark.parametrize("rate", [3.0, 50.0, 122.0])
def test_a_function_with_many_jumps_may_declare_its_slope_between_them(rate: float) -> None:
    for forward, derivative in (
        (lambda x: (rate * x) % 1, lambda x: np.full_like(x, rate)),
        (lambda x: np.sin(x) + np.floor(rate * x) / 10, np.cos),
        (lambda x: np.round(rate * x) / rate, np.zeros_like),
    ):
        entry = gainreg.resolve(Activation("jumping", forward, derivative=derivative, kinks=None))
        assert entry.derivative_second_moment is None
        wrong = Activation(
            "jumping", forward, derivative=lambda x, d=derivative: d(x) + 0.02 * rate
        )
        with pytest.raises(PluginError, match="derivative of 'jumping' is wrong"):
            gainreg.resolve(wrong)


def cosine_less_1(rate: float, factor: float = 1.0) -> Activation:
    """cos(rate·x) − 1 by a form that keeps its digits, with a right closed form that does not."""
    return Activation(
        "cosine_less_1",
        lambda x: -2 * np.sin(rate * x / 2) ** 2,
        derivative=lambda x: -rate * np.sin(rate * x),
        second_moment=lambda std: (
            factor
            * (1.5 + np.exp(-2 * (rate * std) ** 2) / 2 - 2 * np.exp(-((rate * std) ** 2) / 2))
        ),
    )


@pytest.mark.parametrize("rate", [0.0157, 0.0171, 0.3, 1.65, 20.0])
def test_a_right_closed_form_may_cancel_at_any_scale_and_is_used_only_where_it_does_not(
    rate: float,
) -> None:
    small = 1e-3 / rate  # there E[φ²] is 3·(rate·std)⁴/4 to a part of 1e-6
    entry = gainreg.resolve(cosine_less_1(rate), small)
    assert entry.method == "quadrature"
    assert entry.second_moment == pytest.approx(0.75e-12, rel=1e-5)
    far = gainreg.resolve(cosine_less_1(rate), 1e3 / rate)
    assert (far.method, far.second_moment) == ("analytic", pytest.approx(1.5, rel=1e-14))
    with pytest.raises(PluginError, match="closed form for the second_moment"):
        gainreg.resolve(cosine_less_1(rate, factor=1.02))


def test_a_closed_form_is_not_trusted_where_quadrature_is_silent_and_it_has_cancelled_before() -> (
    None
):
    # cos x − 1 has lost its digits as well, so that quadrature settles on none at small std
    both_cancel = Activation(
        "both_cancel",
        lambda x: np.cos(1.65 * x) - 1,
        derivative=lambda x: -1.65 * np.sin(1.65 * x),
        second_moment=cosine_less_1(1.65).second_moment,
    )
    entry = gainreg.resolve(both_cancel, 0.0022)
    right = gainreg.resolve(cosine_less_1(1.65), 0.0022)
    assert abs(entry.second_moment - right.second_moment) <= entry.error + right.error


def test_a_closed_form_that_is_wrong_only_where_quadrature_is_silent_is_refused_by_samples() -> (
    None
):
    def second_moment(std: np.ndarray) -> np.ndarray:
        return -np.expm1(-2 * std**2) / 2 * np.where(std > 200, 1.2, 1.0)

    wave = Activation("wave", np.sin, derivative=np.cos, second_moment=second_moment)
    with pytest.raises(PluginError, match=r"at std = 1000 it gives 0\.6 where sampling gives"):
        gainreg.resolve(wave)
