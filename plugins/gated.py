"""Gated units: a·φ(b), one half of the pre-activations times φ of the other half.

The output is half as wide as the pre-activations: a gain is for weights behind it, whose fan_in
counts outputs. With twice as many pre-activations as outputs, a layer multiplies the mean squared
gradient by gain²·E[φ′²]/width.
"""

from gainreg import Activation, hookimpl

from . import rectifiers, self_gated, sigmoids

BILINEAR = Activation(
    "bilinear",
    gate=rectifiers.IDENTITY,
    width=0.5,
    reference="a·identity(b); Dauphin et al. 2016, arXiv:1612.08083",
)

GLU = Activation(
    "glu",
    gate=sigmoids.SIGMOID,
    width=0.5,
    reference="a·sigmoid(b); Dauphin et al. 2016, arXiv:1612.08083",
)

REGLU = Activation(
    "reglu",
    gate=rectifiers.RELU,
    width=0.5,
    reference="a·relu(b); Shazeer 2020, arXiv:2002.05202",
)

GEGLU = Activation(
    "geglu",
    gate=self_gated.GELU,
    width=0.5,
    reference="a·gelu(b); Shazeer 2020, arXiv:2002.05202",
)

GEGLU_TANH = Activation(
    "geglu_tanh",
    gate=self_gated.GELU_TANH,
    width=0.5,
    reference="a·gelu_tanh(b); Shazeer 2020, arXiv:2002.05202",
)

SWIGLU = Activation(
    "swiglu",
    gate=self_gated.SILU,
    width=0.5,
    reference="a·silu(b); Shazeer 2020, arXiv:2002.05202",
)


@hookimpl
def gainreg_activations() -> list[Activation]:
    return [value for value in globals().values() if isinstance(value, Activation)]
