"""Shrinkage: small values are set to, or pulled towards, 0."""

import numpy as np

from gainreg import Activation, Piecewise, X, piecewise

from . import FloatArray, all_of


def tanhshrink(x: FloatArray) -> FloatArray:
    # tanh x = x/(1 + c), c = x²/(3 + x²/(5 + …)): Lambert 1761, DLMF 4.39.1; up to 21 for |x| < 1
    square = np.minimum(x * x, 1)
    tail = np.zeros_like(x)
    for n in range(21, 3, -2):
        tail = square / (n + tail)
    c = square / (3 + tail)
    return np.where(np.abs(x) < 1, x * c / (1 + c), x - np.tanh(x))


TANHSHRINK = Activation(
    "tanhshrink",
    tanhshrink,
    aliases=("tanh_shrink",),
    derivative=lambda x: np.tanh(x) ** 2,
    reference="x − tanh x; torch.nn.Tanhshrink",
)

SOFTSHRINK = Activation(
    "softshrink",
    params={"lambd": 0.5},
    aliases=("soft_shrink",),
    **piecewise(lambda lambd: Piecewise([-lambd, lambd], [X + lambd, 0, X - lambd])),
    constraints={"lambd >= 0": lambda lambd: lambd >= 0},
    reference="sign(x)·max(|x| − lambd, 0); Donoho 1995, De-noising by soft-thresholding",
)

HARDSHRINK = Activation(
    "hardshrink",
    params={"lambd": 0.5},
    aliases=("hard_shrink",),
    **piecewise(lambda lambd: Piecewise([-lambd, lambd], [X, 0, X]))
    | {"forward": lambda x, lambd: np.where(np.abs(x) > lambd, x, 0.0)},
    constraints={"lambd >= 0": lambda lambd: lambd >= 0},
    reference="x for |x| > lambd, else 0; Donoho and Johnstone 1994",
)

gainreg_activations = all_of(globals())
