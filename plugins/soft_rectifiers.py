"""Soft rectifiers: smooth bends between two straight lines."""

from collections.abc import Callable

import numpy as np
from scipy import special

from gainreg import Activation, hookimpl
from gainreg.moments import FloatArray
from gainreg.moments.piecewise import Piecewise, X, piecewise

expit: Callable[[FloatArray], FloatArray] = special.expit


def softplus(x: FloatArray, beta: float) -> FloatArray:
    return np.logaddexp(0, beta * x) / beta


def squareplus(x: FloatArray, b: float) -> FloatArray:
    outer = np.hypot(x, np.sqrt(b)) + np.abs(x)
    return np.where(x > 0, outer / 2, b / (2 * outer))


def squareplus_derivative(x: FloatArray, b: float) -> FloatArray:
    return squareplus(x, b) / np.hypot(x, np.sqrt(b))


def sparse_plus(x: FloatArray) -> FloatArray:
    return np.where(x > 1, x, (np.clip(x, -1, 1) + 1) ** 2 / 4)


def bent_identity(x: FloatArray) -> FloatArray:
    root: FloatArray = np.hypot(x, 1)
    return x * x / (root + 1) / 2 + x


@hookimpl
def gainreg_activations() -> list[Activation]:
    return [
        Activation(
            "softplus",
            softplus,
            params={"beta": 1.0},
            derivative=lambda x, beta: expit(beta * x),
            constraints={"beta > 0": lambda beta: beta > 0},
            reference="ln(1 + e^{beta·x})/beta; Dugas et al. 2000",
        ),
        Activation(
            "logsigmoid",
            lambda x: -np.logaddexp(0, -x),
            aliases=("log_sigmoid",),
            derivative=lambda x: expit(-x),
            reference="ln(1/(1 + e⁻ˣ))",
        ),
        Activation(
            "squareplus",
            squareplus,
            params={"b": 4.0},
            derivative=squareplus_derivative,
            constraints={"b > 0": lambda b: b > 0},
            reference="(x + √(x² + b))/2; Barron 2021, arXiv:2112.11687",
        ),
        Activation(
            "sparse_plus",
            **piecewise(
                lambda: Piecewise([-1, 1], [0, (X + 1) * (X + 1) / 4, X]), forward=sparse_plus
            ),
            reference="0 for x ≤ −1, (x + 1)²/4, x for x ≥ 1; the integral of sparse_sigmoid; "
            "Blondel, Martins and Niculae 2019, arXiv:1901.02324",
        ),
        Activation(
            "bent_identity",
            bent_identity,
            derivative=lambda x: x / np.hypot(x, 1) / 2 + 1,
            reference="(√(x² + 1) − 1)/2 + x",
        ),
    ]
