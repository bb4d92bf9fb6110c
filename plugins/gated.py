"""Gated units: a·φ(b), one half of the pre-activations times φ of the other half.

a and b are independent with the same std. Hence the mean is 0, E[y²] = std²·E[φ²], exactly, and
the variance slope is 1 + that of φ. The output is half as wide as the pre-activations: a gain is
for weights behind it, whose fan_in counts outputs. E[φ′²] is here the mean square of the
derivative by a pre-activation, averaged over a and b: (E[φ²] + std²·E[φ′²])/2; with twice as many
pre-activations as outputs, a layer multiplies the mean squared gradient by twice gradient_factor.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from gainreg import Activation, hookimpl
from gainreg.moments import FloatArray, Moments
from gainreg.moments.quadrature import fixed_moments

from . import self_gated

Function = Callable[[FloatArray], FloatArray]

expit: Function = special.expit


def gated(
    phi: Function, second_moment: Function, derivative_second_moment: Function, slope: Function
) -> dict[str, Any]:
    """The fields of the Activation a·φ(b) that follow from those of φ."""

    def sample(std: float, size: int, rng: np.random.Generator) -> FloatArray:
        a: FloatArray = std * rng.standard_normal(size)
        return a * phi(std * rng.standard_normal(size))

    return {
        "mean": np.zeros_like,
        "second_moment": lambda std: std**2 * second_moment(std),
        "derivative_second_moment": lambda std: (
            (second_moment(std) + std**2 * derivative_second_moment(std)) / 2
        ),
        "variance_slope": lambda std: 1 + slope(std),
        "sample": sample,
        "width": 0.5,
    }


def gated_by_quadrature(phi: Function, derivative: Function) -> dict[str, Any]:
    """The same for a φ without closed forms."""

    def moment(name: str) -> Function:
        return lambda std: getattr(Moments(*fixed_moments(phi, derivative, std)), name)

    names = ("second_moment", "derivative_second_moment", "variance_slope")
    return gated(phi, *map(moment, names))


@hookimpl
def gainreg_activations() -> list[Activation]:
    return [
        Activation(
            "bilinear",
            **gated(lambda b: b, np.square, np.ones_like, np.ones_like),
            reference="a·b; Dauphin et al. 2016, arXiv:1612.08083",
        ),
        Activation(
            "glu",
            **gated_by_quadrature(expit, lambda b: expit(b) * expit(-b)),
            reference="a·sigmoid(b); Dauphin et al. 2016, arXiv:1612.08083",
        ),
        Activation(
            "reglu",
            **gated(
                lambda b: np.maximum(b, 0),
                lambda std: std**2 / 2,
                lambda std: np.full_like(std, 0.5),
                np.ones_like,
            ),
            reference="a·relu(b); Shazeer 2020, arXiv:2002.05202",
        ),
        Activation(
            "geglu",
            **gated(
                self_gated.gelu,
                self_gated.gelu_second_moment,
                self_gated.gelu_derivative_second_moment,
                self_gated.gelu_variance_slope,
            ),
            reference="a·gelu(b); Shazeer 2020, arXiv:2002.05202",
        ),
        Activation(
            "geglu_tanh",
            **gated_by_quadrature(self_gated.gelu_tanh, self_gated.gelu_tanh_derivative),
            reference="a·gelu_tanh(b); Shazeer 2020, arXiv:2002.05202",
        ),
        Activation(
            "swiglu",
            **gated_by_quadrature(self_gated.silu, self_gated.silu_derivative),
            reference="a·silu(b); Shazeer 2020, arXiv:2002.05202",
        ),
    ]
