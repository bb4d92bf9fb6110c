"""Soft rectifiers: smooth bends between two straight lines."""

import numpy as np
from scipy.special import expit

from gainreg import Activation, Piecewise, X, piecewise

from . import FloatArray, all_of

SOFTPLUS = Activation(
    "softplus",
    lambda x, beta: np.logaddexp(0, beta * x) / beta,
    params={"beta": 1.0},
    derivative=lambda x, beta: expit(beta * x),
    constraints={"beta > 0": lambda beta: beta > 0},
    reference="ln(1 + e^{beta·x})/beta; Dugas et al. 2000",
)

LOGSIGMOID = Activation(
    "logsigmoid",
    lambda x: -np.logaddexp(0, -x),
    aliases=("log_sigmoid", "log_expit"),
    derivative=lambda x: expit(-x),
    reference="ln(1/(1 + e⁻ˣ))",
)


def squareplus(x: FloatArray, b: float) -> FloatArray:
    outer = np.hypot(x, np.sqrt(b)) + np.abs(x)
    return np.where(x > 0, outer / 2, b / (2 * outer))


SQUAREPLUS = Activation(
    "squareplus",
    squareplus,
    params={"b": 4.0},
    derivative=lambda x, b: squareplus(x, b) / np.hypot(x, np.sqrt(b)),
    constraints={"b > 0": lambda b: b > 0},
    reference="(x + √(x² + b))/2; Barron 2021, arXiv:2112.11687",
)

SPARSE_PLUS = Activation(
    "sparse_plus",
    **piecewise(lambda: Piecewise([-1, 1], [0, (X + 1) * (X + 1) / 4, X])),
    reference="0 for x ≤ −1, (x + 1)²/4, x for x ≥ 1; the integral of sparse_sigmoid; "
    "Blondel, Martins and Niculae 2019, arXiv:1901.02324",
)

BENT_IDENTITY = Activation(
    "bent_identity",
    lambda x: x * x / (np.hypot(x, 1) + 1) / 2 + x,
    derivative=lambda x: x / np.hypot(x, 1) / 2 + 1,
    reference="(√(x² + 1) − 1)/2 + x",
)

gainreg_activations = all_of(globals())
