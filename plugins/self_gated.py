"""Self-gated units: x times a smooth step from 0 to 1."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import expit, ndtr

from gainreg import Activation, Piecewise, X, piecewise

from . import FloatArray, all_of
from .sigmoids import sech_squared


def self_gated(step: Callable[..., FloatArray], slope: Callable[..., FloatArray]) -> dict[str, Any]:
    """φ and φ′ of x·step(x), by the step and its slope."""
    return {
        "forward": lambda x, **params: x * step(x, **params),
        "derivative": lambda x, **params: step(x, **params) + x * slope(x, **params),
    }


# The closed forms follow from E[Φ(x)²] = ¼ + asin(t/(1 + t))/(2π), t = std², and E[x·f] = t·E[f′]:
# Tsuchida et al. 2021. The asin is written as an atan that keeps its digits.


def gelu_mixed(std: FloatArray) -> FloatArray:
    """E[x·Φ(x)·Φ′(x)]."""
    t = std**2
    return t / (1 + t) / np.sqrt(1 + 2 * t) / (2 * math.pi)


def gelu_ratio(std: FloatArray) -> FloatArray:
    """E[φ²]/t = E[Φ(x)²] + 2·E[x·Φ(x)·Φ′(x)]."""
    t = std**2
    return 0.25 + np.arctan(t / np.sqrt(1 + 2 * t)) / (2 * math.pi) + 2 * gelu_mixed(std)


def gelu_variance_slope(std: FloatArray) -> FloatArray:
    t = std**2
    return 1 + gelu_mixed(std) * (1 + 2 / (1 + t) - 2 * t / (1 + 2 * t)) / gelu_ratio(std)


GELU = Activation(
    "gelu",
    **self_gated(ndtr, lambda x: np.exp(-x * x / 2) / math.sqrt(2 * math.pi)),
    mean=lambda std: std**2 / np.sqrt(2 * math.pi * (1 + std**2)),
    second_moment=lambda std: std**2 * gelu_ratio(std),
    derivative_second_moment=lambda std: (
        gelu_ratio(std) + std**2 / (1 + 2 * std**2) ** 1.5 / (2 * math.pi)
    ),
    variance_slope=gelu_variance_slope,
    reference="x·Φ(x); Hendrycks and Gimpel 2016, arXiv:1606.08415; "
    "moments: Tsuchida et al. 2021, arXiv:2002.08517",
)


ROOT_2_PI = math.sqrt(2 / math.pi)


def gelu_tanh(x: FloatArray) -> FloatArray:
    return x * expit(2 * ROOT_2_PI * (x + 0.044715 * x**3))


def gelu_tanh_derivative(x: FloatArray) -> FloatArray:
    x = np.clip(x, -30, 30)  # beyond it is 0 or 1
    u = 2 * ROOT_2_PI * (x + 0.044715 * x**3)
    slope = 2 * ROOT_2_PI * (1 + 3 * 0.044715 * x * x)
    return expit(u) * (1 + x * slope * expit(-u))


GELU_TANH = Activation(
    "gelu_tanh",
    gelu_tanh,
    aliases=("gelu_new", "gelu_fast", "gelu_pytorch_tanh"),
    derivative=gelu_tanh_derivative,
    reference="x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2; Hendrycks and Gimpel 2016",
)


SWISH = self_gated(
    lambda x, beta=1.0: expit(beta * x),
    lambda x, beta=1.0: beta * expit(beta * x) * expit(-beta * x),
)

QUICK_GELU = Activation(
    "quick_gelu",
    lambda x: SWISH["forward"](x, beta=1.702),
    derivative=lambda x: SWISH["derivative"](x, beta=1.702),
    reference="x·sigmoid(1.702·x); Hendrycks and Gimpel 2016",
)

SILU = Activation(
    "silu",
    **SWISH,
    aliases=("swish",),
    reference="x·sigmoid(x); Elfwing et al. 2017, arXiv:1702.03118",
)

SWISH_BETA = Activation(
    "swish_beta",
    **SWISH,
    params={"beta": 1.0},
    reference="x·sigmoid(beta·x); Ramachandran et al. 2017, arXiv:1710.05941",
)

MISH = Activation(
    "mish",
    **self_gated(
        lambda x: np.tanh(np.logaddexp(0, x)),
        lambda x: sech_squared(np.logaddexp(0, x)) * expit(x),
    ),
    reference="x·tanh(ln(1 + eˣ)); Misra 2019, arXiv:1908.08681",
)


def bounded_exp(x: FloatArray) -> FloatArray:
    return np.exp(np.minimum(x, 10))  # beyond, its tanh is 1


TELU = Activation(
    "telu",
    **self_gated(
        lambda x: np.tanh(bounded_exp(x)), lambda x: bounded_exp(x) * sech_squared(bounded_exp(x))
    ),
    reference="x·tanh(eˣ); Fernandez and Mali 2024, arXiv:2412.20269",
)

HARDSWISH = Activation(
    "hardswish",
    aliases=("hard_swish", "hard_silu"),
    **piecewise(lambda: Piecewise([-3, 3], [0, X * (X + 3) / 6, X])),
    reference="x·min(max(x + 3, 0), 6)/6; Howard et al. 2019, arXiv:1905.02244",
)

gainreg_activations = all_of(globals())
