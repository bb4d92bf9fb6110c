"""Gated units: a·φ(b), one half of the pre-activations times φ of the other half.

The output is half as wide as the pre-activations: a gain is for weights behind it, whose fan_in
counts outputs. With twice as many pre-activations as outputs, a layer multiplies the mean squared
gradient by gain²·E[φ′²]/width.
"""

from gainreg import Activation

from . import all_of, rectifiers, self_gated, sigmoids


def gated(name: str, gate: Activation, paper: str) -> Activation:
    """a·gate(b)."""
    return Activation(name, gate=gate, width=0.5, reference=f"a·{gate.name}(b); {paper}")


BILINEAR = gated("bilinear", rectifiers.IDENTITY, "Dauphin et al. 2016, arXiv:1612.08083")
GLU = gated("glu", sigmoids.SIGMOID, "Dauphin et al. 2016, arXiv:1612.08083")
REGLU = gated("reglu", rectifiers.RELU, "Shazeer 2020, arXiv:2002.05202")
GEGLU = gated("geglu", self_gated.GELU, "Shazeer 2020, arXiv:2002.05202")
GEGLU_TANH = gated("geglu_tanh", self_gated.GELU_TANH, "Shazeer 2020, arXiv:2002.05202")
SWIGLU = gated("swiglu", self_gated.SILU, "Shazeer 2020, arXiv:2002.05202")

gainreg_activations = all_of(globals())
