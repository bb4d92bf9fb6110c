"""Sigmoids: steps, bounded or growing more slowly than x."""

import math

import numpy as np
from scipy.special import erf, expit, ndtr

from gainreg import Activation, Piecewise, X, piecewise

from . import FloatArray, all_of


def sech_squared(x: FloatArray) -> FloatArray:
    """1/cosh²x = 1 − tanh²x."""
    e: FloatArray = np.exp(-2 * np.abs(x))
    return 4 * e / (1 + e) ** 2


TANH = Activation(
    "tanh",
    np.tanh,
    derivative=sech_squared,
    reference="tanh x",
)

LECUN_TANH = Activation(
    "lecun_tanh",
    lambda x: 1.7159 * np.tanh(x * 2 / 3),
    derivative=lambda x: 1.7159 * 2 / 3 * sech_squared(x * 2 / 3),
    reference="1.7159·tanh(2x/3); LeCun et al. 1998, Efficient BackProp",
)

SIGMOID = Activation(
    "sigmoid",
    expit,
    aliases=("expit", "logistic"),
    derivative=lambda x: expit(x) * expit(-x),
    reference="1/(1 + e⁻ˣ)",
)

HARDSIGMOID = Activation(
    "hardsigmoid",
    aliases=("hard_sigmoid",),
    **piecewise(lambda: Piecewise([-3, 3], [0, (X + 3) / 6, 1])),
    reference="min(max(x + 3, 0), 6)/6; Howard et al. 2019, arXiv:1905.02244",
)

HARDTANH = Activation(
    "hardtanh",
    params={"min_val": -1.0, "max_val": 1.0},
    aliases=("hard_tanh",),
    **piecewise(lambda min_val, max_val: Piecewise([min_val, max_val], [min_val, X, max_val])),
    constraints={"min_val < max_val": lambda min_val, max_val: min_val < max_val},
    reference="min(max(x, min_val), max_val); Collobert 2004",
)

SOFTSIGN = Activation(
    "softsign",
    lambda x: x / (1 + np.abs(x)),
    aliases=("soft_sign",),
    derivative=lambda x: (1 + np.abs(x)) ** -2.0,
    reference="x/(1 + |x|); Turian, Bergstra and Bengio 2009",
)


def erf_angle(std: FloatArray) -> FloatArray:
    """asin(2t/(1 + 2t)), t = std², written as an atan that keeps its digits."""
    return np.arctan(2 * std**2 / np.sqrt(1 + 4 * std**2))


ERF = Activation(
    "erf",
    erf,
    derivative=lambda x: 2 / math.sqrt(math.pi) * np.exp(-x * x),
    mean=np.zeros_like,
    second_moment=lambda std: 2 / math.pi * erf_angle(std),
    derivative_second_moment=lambda std: 4 / math.pi / np.sqrt(1 + 4 * std**2),
    variance_slope=lambda std: (
        2 * std**2 / ((1 + 2 * std**2) * np.sqrt(1 + 4 * std**2) * erf_angle(std))
    ),
    reference="erf x; moments: Williams 1997, Computing with infinite networks",
)

ATAN = Activation(
    "atan",
    np.arctan,
    aliases=("arctan",),
    derivative=lambda x: 1 / (1 + x * x),
    reference="arctan x",
)

ASINH = Activation(
    "asinh",
    np.arcsinh,
    aliases=("arcsinh",),
    derivative=lambda x: 1 / np.hypot(1, x),
    reference="ln(x + √(x² + 1))",
)

# With these μ and σ, (x − μ)/σ is √(4π)·x − √(2π).
LAPLACE = Activation(
    "laplace",
    lambda x: ndtr(math.sqrt(4 * math.pi) * x - math.sqrt(2 * math.pi)),
    derivative=lambda x: math.sqrt(2) * np.exp(-math.pi * (math.sqrt(2) * x - 1) ** 2),
    reference="Φ((x − μ)/σ), μ = √(1/2), σ = √(1/4π); Ma et al. 2022, arXiv:2209.10655",
)

SPARSE_SIGMOID = Activation(
    "sparse_sigmoid",
    **piecewise(lambda: Piecewise([-1, 1], [0, (X + 1) / 2, 1])),
    reference="min(max(x + 1, 0), 2)/2; Martins and Astudillo 2016, arXiv:1602.02068",
)

SIGN = Activation(
    "sign",
    **piecewise(lambda: Piecewise([0], [-1, 1])) | {"forward": np.sign},
    reference="x/|x|, and 0 at 0",
)

STEP = Activation(
    "step",
    **piecewise(lambda: Piecewise([0], [0, 1])),
    reference="1 for x > 0, else 0; McCulloch and Pitts 1943",
)

gainreg_activations = all_of(globals())
