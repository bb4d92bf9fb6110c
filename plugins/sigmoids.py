"""Sigmoids: bounded, or growing more slowly than x, and close to linear around 0."""

import numpy as np
from numpy.typing import NDArray

from gainreg import Activation, hookimpl


def tanh_derivative(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 - np.tanh(x) ** 2


@hookimpl
def gainreg_activations() -> list[Activation]:
    return [
        Activation("tanh", np.tanh, derivative=tanh_derivative, reference="tanh x"),
    ]
