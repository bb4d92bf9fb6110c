"""Sigmoids: steps, bounded or growing more slowly than x."""

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from gainreg import Activation, hookimpl
from gainreg.moments import FloatArray
from gainreg.moments.piecewise import Piecewise, X, piecewise

expit: Callable[[FloatArray], FloatArray] = special.expit
ndtr: Callable[[FloatArray], FloatArray] = special.ndtr
erfc: Callable[[FloatArray], FloatArray] = special.erfc
owens_t: Callable[[FloatArray, FloatArray], FloatArray] = special.owens_t


def sech_squared(x: FloatArray) -> FloatArray:
    """1/cosh²x = 1 − tanh²x."""
    e: FloatArray = np.exp(-2 * np.abs(x))
    return 4 * e / (1 + e) ** 2


def erf_derivative(x: FloatArray) -> FloatArray:
    return 2 / math.sqrt(math.pi) * np.exp(-x * x)


# Closed forms of erf: Williams 1997, "Computing with infinite networks", with t = std².
# asin(2t/(1 + 2t)) is written as an atan that keeps its digits.


def erf_angle(std: FloatArray) -> FloatArray:
    return np.arctan(2 * std**2 / np.sqrt(1 + 4 * std**2))


def erf_variance_slope(std: FloatArray) -> FloatArray:
    t = std**2
    return 2 * t / ((1 + 2 * t) * np.sqrt(1 + 4 * t) * erf_angle(std))


# Laplace is Φ((x − μ)/σ), with which it approximates the squared ReLU. Its moments are those of
# Φ(a + bz): Owen 1980, "A table of normal integrals", 10,010.8 and 20,010.4.
LAPLACE_MU, LAPLACE_SIGMA = math.sqrt(1 / 2), math.sqrt(1 / (4 * math.pi))
ROOT_PI, ROOT_PI_REST = math.sqrt(math.pi), 1.4537873992677332e-16  # √π is their sum


def laplace(x: FloatArray) -> FloatArray:
    # ½·erfc(u) with u = √π − √(2π)·x; what rounding leaves of u counts where erfc is steep
    scaled = math.sqrt(2 * math.pi) * x
    u = ROOT_PI - scaled
    rest = (ROOT_PI - (u + scaled)) + ROOT_PI_REST
    return erfc(u) / 2 - rest * np.exp(-u * u) / ROOT_PI


def laplace_derivative(x: FloatArray) -> FloatArray:
    y = (x - LAPLACE_MU) / LAPLACE_SIGMA
    return np.exp(-y * y / 2) / (LAPLACE_SIGMA * math.sqrt(2 * math.pi))


def laplace_h(std: FloatArray) -> FloatArray:
    return -LAPLACE_MU / np.hypot(LAPLACE_SIGMA, std)


def laplace_second_moment(std: FloatArray) -> FloatArray:
    h = laplace_h(std)
    closed = ndtr(h) - 2 * owens_t(h, 1 / np.sqrt(1 + 2 * (std / LAPLACE_SIGMA) ** 2))
    return np.where(std > 0.3, closed, np.nan)  # below, the difference loses digits


def laplace_derivative_second_moment(std: FloatArray) -> FloatArray:
    spread = LAPLACE_SIGMA**2 + 2 * std**2
    return np.exp(-(LAPLACE_MU**2) / spread) / (2 * math.pi * LAPLACE_SIGMA * np.sqrt(spread))


def laplace_variance_slope(std: FloatArray) -> FloatArray:
    # Plackett 1954: the derivatives of P(u < h, v < h), u and v normal with correlation b²/(1 + b²)
    h, t = laplace_h(std), (std / LAPLACE_SIGMA) ** 2
    root = np.sqrt(1 + 2 * t)
    by_correlation = t / (1 + t) / root * np.exp(-h * h * (1 + t) / (1 + 2 * t)) / (2 * math.pi)
    density = np.exp(-h * h / 2) / math.sqrt(2 * math.pi)
    by_h = -h * t / (1 + t) * density * ndtr(h / root)
    return (by_correlation + by_h) / laplace_second_moment(std)


@hookimpl
def gainreg_activations() -> list[Activation]:
    return [
        Activation(
            "tanh",
            np.tanh,
            derivative=sech_squared,
            reference="tanh x",
        ),
        Activation(
            "lecun_tanh",
            lambda x: 1.7159 * np.tanh(x * 2 / 3),
            derivative=lambda x: 1.7159 * 2 / 3 * sech_squared(x * 2 / 3),
            reference="1.7159·tanh(2x/3); LeCun et al. 1998, Efficient BackProp",
        ),
        Activation(
            "sigmoid",
            expit,
            derivative=lambda x: expit(x) * expit(-x),
            reference="1/(1 + e⁻ˣ)",
        ),
        Activation(
            "hardsigmoid",
            aliases=("hard_sigmoid",),
            **piecewise(
                lambda: Piecewise([-3, 3], [0, (X + 3) / 6, 1]),
                forward=lambda x: np.clip(x + 3, 0, 6) / 6,
            ),
            reference="min(max(x + 3, 0), 6)/6; Howard et al. 2019, arXiv:1905.02244",
        ),
        Activation(
            "hardtanh",
            params={"min_val": -1.0, "max_val": 1.0},
            aliases=("hard_tanh",),
            **piecewise(
                lambda min_val, max_val: Piecewise([min_val, max_val], [min_val, X, max_val])
            ),
            constraints={"min_val < max_val": lambda min_val, max_val: min_val < max_val},
            reference="min(max(x, min_val), max_val); Collobert 2004",
        ),
        Activation(
            "softsign",
            lambda x: x / (1 + np.abs(x)),
            aliases=("soft_sign",),
            derivative=lambda x: (1 + np.abs(x)) ** -2.0,
            reference="x/(1 + |x|); Turian, Bergstra and Bengio 2009",
        ),
        Activation(
            "erf",
            special.erf,
            derivative=erf_derivative,
            mean=np.zeros_like,
            second_moment=lambda std: 2 / math.pi * erf_angle(std),
            derivative_second_moment=lambda std: 4 / math.pi / np.sqrt(1 + 4 * std**2),
            variance_slope=erf_variance_slope,
            reference="erf x; moments: Williams 1997, Computing with infinite networks",
        ),
        Activation(
            "atan",
            np.arctan,
            aliases=("arctan",),
            derivative=lambda x: 1 / (1 + x * x),
            reference="arctan x",
        ),
        Activation(
            "asinh",
            np.arcsinh,
            aliases=("arcsinh",),
            derivative=lambda x: 1 / np.hypot(1, x),
            reference="ln(x + √(x² + 1))",
        ),
        Activation(
            "laplace",
            laplace,
            derivative=laplace_derivative,
            mean=lambda std: ndtr(laplace_h(std)),
            second_moment=laplace_second_moment,
            derivative_second_moment=laplace_derivative_second_moment,
            variance_slope=laplace_variance_slope,
            reference="Φ((x − μ)/σ), μ = √(1/2), σ = √(1/4π); Ma et al. 2022, arXiv:2209.10655; "
            "moments: Owen 1980, A table of normal integrals",
        ),
        Activation(
            "sparse_sigmoid",
            **piecewise(
                lambda: Piecewise([-1, 1], [0, (X + 1) / 2, 1]),
                forward=lambda x: np.clip(x + 1, 0, 2) / 2,
            ),
            reference="min(max(x + 1, 0), 2)/2; Martins and Astudillo 2016, arXiv:1602.02068",
        ),
        Activation(
            "sign",
            **piecewise(lambda: Piecewise([0], [-1, 1]), forward=np.sign),
            reference="x/|x|, and 0 at 0",
        ),
        Activation(
            "step",
            **piecewise(lambda: Piecewise([0], [0, 1])),
            reference="1 for x > 0, else 0; McCulloch and Pitts 1943",
        ),
    ]
