"""The claims of the forum thread and the papers that gainreg grew from, each put to the test."""

import math

import numpy as np
import pytest
from scipy.special import erfc

import gainreg
from gainreg import Activation, PluginError

STDS = [0.01, 0.3, 1.0, 3.0, 100.0]


@pytest.mark.parametrize("std", STDS)
def test_claim_relu_weights_have_variance_two_over_n(std: float) -> None:
    assert gainreg.gain("relu", std) ** 2 == pytest.approx(2, rel=1e-15)


def test_claim_sampling_elu_gives_0_645_and_its_inverse_1_55() -> None:
    entry = gainreg.resolve("elu", method="sampling")
    assert entry.method == "sampling"
    assert round(entry.second_moment, 3) == 0.645
    assert round(1 / entry.second_moment, 2) == 1.55


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0, 5.0])
@pytest.mark.parametrize("std", [1e-6, 1e-3, *STDS, 1e6])
def test_claim_refuted_that_elu_has_no_closed_form(std: float, alpha: float) -> None:
    closed = gainreg.resolve("elu", std, method="analytic", alpha=alpha)
    integrated = gainreg.resolve("elu", std, method="quadrature", alpha=alpha)
    assert closed.second_moment == pytest.approx(integrated.second_moment, rel=1e-14)


def test_the_closed_form_of_elu_is_the_known_number() -> None:
    assert gainreg.resolve("elu").second_moment == pytest.approx(0.64494541749292386, rel=1e-15)
    assert gainreg.gain("elu") == 1.2451983007007066


def test_claim_elus_constant_tends_to_1_as_the_variance_tends_to_0() -> None:
    gains = [gainreg.gain("elu", std) ** 2 for std in (1e-2, 1e-4, 1e-6)]
    assert gains == sorted(gains, reverse=True)
    assert gains[-1] == pytest.approx(1, abs=1e-6)


def test_claim_elus_second_moment_over_variance_tends_to_a_half_as_it_grows() -> None:
    ratios = [gainreg.resolve("elu", std).second_moment / std**2 for std in (1e2, 1e4, 1e6)]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] == pytest.approx(0.5, abs=1e-11)


@pytest.mark.parametrize("name", ["identity", "selu"])
def test_claim_holds_that_mean_zero_means_a_constant_of_1(name: str) -> None:
    entry = gainreg.resolve(name)
    assert abs(entry.mean) < 1e-15
    assert entry.gain == pytest.approx(1, rel=1e-15)


def test_claim_refuted_by_tanh_that_mean_zero_means_a_constant_of_1() -> None:
    entry = gainreg.resolve("tanh")
    assert entry.mean == 0
    assert round(entry.second_moment, 3) == 0.394
    assert entry.gain == pytest.approx(1.5925374197228314, rel=1e-15)


def printed_variance_of_elu(std: np.ndarray) -> np.ndarray:
    """The formula as the thread printed it."""
    a = 0.5 * np.exp(std**2 / 2) * erfc(std / math.sqrt(2))
    b = 0.5 * np.exp(2 * std**2) * erfc(math.sqrt(2) * std)
    return 0.5 * std + a - 2 * b**2 + (2 * b - 1) ** 2


def test_claim_refuted_of_the_printed_variance_of_elu() -> None:
    entry = gainreg.resolve("elu")
    assert float(printed_variance_of_elu(np.array(1.0))) == pytest.approx(1.146, abs=5e-4)
    assert entry.second_moment - entry.mean**2 == pytest.approx(0.6192, abs=5e-5)
    assert (entry.std / entry.centered_gain) ** 2 == pytest.approx(0.6192, abs=5e-5)


def test_a_plugin_offering_the_printed_formula_is_refused_with_both_numbers(
    fresh_host: None,
) -> None:
    def elu(x: np.ndarray) -> np.ndarray:
        return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))

    gainreg.register(Activation("thread_elu", elu, second_moment=printed_variance_of_elu))
    with pytest.raises(PluginError, match=r"1\.1456\d* where quadrature gives 0\.6449\d*"):
        gainreg.gain("thread_elu")


def test_the_true_formula_coded_as_printed_is_used_where_it_keeps_its_digits(
    fresh_host: None,
) -> None:
    def naive(std: np.ndarray) -> np.ndarray:  # overflows above std 13, cancels for small std
        a = np.exp(2 * std**2) * erfc(math.sqrt(2) * std) / 2
        b = np.exp(std**2 / 2) * erfc(std / math.sqrt(2))
        return std**2 / 2 + 0.5 + a - b

    def elu(x: np.ndarray) -> np.ndarray:
        return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))

    gainreg.register(Activation("naive_elu", elu, second_moment=naive))
    stds = np.array([1e-6, 1e-3, 1.0, 3.0, 100.0, 1e6])
    curve = gainreg.curve("naive_elu", stds)
    assert curve.second_moment == pytest.approx(gainreg.curve("elu", stds).second_moment, rel=2e-13)
    assert list(curve.method) == ["quadrature"] * 2 + ["analytic"] * 2 + ["quadrature"] * 2
