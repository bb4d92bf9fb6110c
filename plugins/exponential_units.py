"""Exponential linear units: linear above 0, exponential below."""

import numpy as np
from numpy.typing import NDArray

from gainreg import Activation, hookimpl
from gainreg.moments.piecewise import Piecewise, X, exp, piecewise

# Klambauer et al. 2017, arXiv:1706.02515, eq. 14: the fixed point at mean 0 and variance 1
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


def elu(x: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def selu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return SELU_SCALE * elu(x, SELU_ALPHA)


@hookimpl
def gainreg_activations() -> list[Activation]:
    return [
        Activation(
            "elu",
            params={"alpha": 1.0},
            **piecewise(lambda alpha: Piecewise([0], [alpha * (exp(1) - 1), X]), forward=elu),
            reference="x for x > 0, else alpha·(eˣ − 1); Clevert et al. 2015, arXiv:1511.07289",
        ),
        Activation(
            "selu",
            **piecewise(
                lambda: SELU_SCALE * Piecewise([0], [SELU_ALPHA * (exp(1) - 1), X]), forward=selu
            ),
            reference="scale·elu(x, alpha); Klambauer et al. 2017, arXiv:1706.02515",
        ),
    ]
