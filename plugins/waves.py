"""Waves and bumps: periodic functions, the Gaussian, the parabola.

Sines of large x oscillate faster than any quadrature can follow. Their moments all follow from
E[cos(k·std·z)] = e^{−k²std²/2}, the characteristic function of the Gaussian.
"""

import numpy as np

from gainreg import Activation, Piecewise, X, piecewise

from . import FloatArray, all_of

SIN = Activation(
    "sin",
    np.sin,
    derivative=np.cos,
    mean=np.zeros_like,
    second_moment=lambda std: -np.expm1(-2 * std**2) / 2,
    derivative_second_moment=lambda std: (1 + np.exp(-2 * std**2)) / 2,
    variance_slope=lambda std: -2 * std**2 * np.exp(-2 * std**2) / np.expm1(-2 * std**2),
    reference="sin x; Sitzmann et al. 2020, arXiv:2006.09661",
)

COS = Activation(
    "cos",
    np.cos,
    derivative=lambda x: -np.sin(x),
    mean=lambda std: np.exp(-(std**2) / 2),
    second_moment=lambda std: (1 + np.exp(-2 * std**2)) / 2,
    derivative_second_moment=lambda std: -np.expm1(-2 * std**2) / 2,
    variance_slope=lambda std: -2 * std**2 * np.exp(-2 * std**2) / (1 + np.exp(-2 * std**2)),
    reference="cos x",
)


# φ = x + (1 − cos 2αx)/(2α); below q = 1 − E[cos 2αx]


def snake_q(std: FloatArray, alpha: float) -> FloatArray:
    return -np.expm1(-2 * (alpha * std) ** 2)


def snake_second_moment(std: FloatArray, alpha: float) -> FloatArray:
    q = snake_q(std, alpha)
    return std**2 + (q / alpha) ** 2 * (6 - 4 * q + q * q) / 8


def snake_variance_slope(std: FloatArray, alpha: float) -> FloatArray:
    q = snake_q(std, alpha)
    bend = (1 - q) * q * (3 - 3 * q + q * q)
    return std**2 * (1 + bend) / snake_second_moment(std, alpha)


SNAKE = Activation(
    "snake",
    lambda x, alpha: x + np.sin(alpha * x) ** 2 / alpha,
    params={"alpha": 1.0},
    derivative=lambda x, alpha: 1 + np.sin(2 * alpha * x),
    mean=lambda std, alpha: snake_q(std, alpha) / (2 * alpha),
    second_moment=snake_second_moment,
    derivative_second_moment=lambda std, alpha: 1 - np.expm1(-8 * (alpha * std) ** 2) / 2,
    variance_slope=snake_variance_slope,
    constraints={"0 < |alpha| < 1e100": lambda alpha: 0 < abs(alpha) < 1e100},
    reference="x + sin²(alpha·x)/alpha; Ziyin et al. 2020, arXiv:2006.08195",
)

GAUSSIAN = Activation(
    "gaussian",
    lambda x: np.exp(-x * x),
    derivative=lambda x: -2 * x * np.exp(-x * x),
    mean=lambda std: 1 / np.sqrt(1 + 2 * std**2),
    second_moment=lambda std: 1 / np.sqrt(1 + 4 * std**2),
    derivative_second_moment=lambda std: 4 * std**2 / (1 + 4 * std**2) ** 1.5,
    variance_slope=lambda std: -2 * std**2 / (1 + 4 * std**2),
    reference="exp(−x²); Gaussian integrals",
)

SQUARE = Activation(
    "square",
    **piecewise(lambda: Piecewise([], [X * X])),
    reference="x²",
)

gainreg_activations = all_of(globals())
