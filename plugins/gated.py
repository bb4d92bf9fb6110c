"""Gated units: a·φ(b), one half of the pre-activations times φ of the other half.

a and b are independent with the same std. Hence the mean is 0, E[y²] = std²·E[φ²], exactly, and
the variance slope is 1 + that of φ. The output is half as wide as the pre-activations: a gain is
for weights behind it, whose fan_in counts outputs. E[φ′²] is here the mean square of the
derivative by a pre-activation, averaged over a and b: (E[φ²] + std²·E[φ′²])/2; with twice as many
pre-activations as outputs, a layer multiplies the mean squared gradient by twice gradient_factor.
"""

from collections.abc import Callable

import numpy as np

from gainreg import Activation, hookimpl
from gainreg.moments import FloatArray
from gainreg.moments.quadrature import fixed_moments

from . import rectifiers, self_gated, sigmoids

DAUPHIN = "Dauphin et al. 2016, arXiv:1612.08083"
SHAZEER = "Shazeer 2020, arXiv:2002.05202"
UNITS = [
    ("bilinear", "identity", DAUPHIN),
    ("glu", "sigmoid", DAUPHIN),
    ("reglu", "relu", SHAZEER),
    ("geglu", "gelu", SHAZEER),
    ("geglu_tanh", "gelu_tanh", SHAZEER),
    ("swiglu", "silu", SHAZEER),
]
GATES = {
    gate.name: gate
    for family in (rectifiers, self_gated, sigmoids)
    for gate in family.gainreg_activations()
}


def gated(name: str, gate: Activation, source: str) -> Activation:
    """The unit a·φ(b), from φ alone: by its closed forms, or else by quadrature."""
    phi, derivative = gate.forward, gate.derivative
    assert phi is not None

    def moment(of: str) -> Callable[[FloatArray], FloatArray]:
        def by_quadrature(std: FloatArray) -> FloatArray:
            found: FloatArray = getattr(fixed_moments(phi, derivative, std), of)
            return found

        return getattr(gate, of) or by_quadrature

    second_moment, slope_second, slope = map(
        moment, ("second_moment", "derivative_second_moment", "variance_slope")
    )

    def sample(std: float, size: int, rng: np.random.Generator) -> FloatArray:
        a: FloatArray = std * rng.standard_normal(size)
        return a * phi(std * rng.standard_normal(size))

    return Activation(
        name,
        mean=np.zeros_like,
        second_moment=lambda std: std**2 * second_moment(std),
        derivative_second_moment=lambda std: (second_moment(std) + std**2 * slope_second(std)) / 2,
        variance_slope=lambda std: 1 + slope(std),
        sample=sample,
        width=0.5,
        reference=f"a·{gate.name}(b); {source}",
    )


@hookimpl
def gainreg_activations() -> list[Activation]:
    return [gated(name, GATES[gate], source) for name, gate, source in UNITS]
