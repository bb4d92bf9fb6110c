"""Rectifiers: linear or polynomial on each side of 0 or of a few kinks."""

import math

import numpy as np

from gainreg import Activation, Piecewise, X, piecewise

from . import FloatArray, all_of

# E[max(z, 0)] of a standard normal z
HALF_MEAN = 1 / math.sqrt(2 * math.pi)

IDENTITY = Activation(
    "identity",
    aliases=("linear", "positive"),
    **piecewise(lambda: Piecewise([], [X])),
    reference="φ(x) = x",
)

RELU = Activation(
    "relu",
    **piecewise(lambda: Piecewise([0], [0, X])),
    reference="max(x, 0); gain √2: He et al. 2015, arXiv:1502.01852, eq. 10",
)

LEAKY_RELU = Activation(
    "leaky_relu",
    params={"negative_slope": 0.01},
    **piecewise(lambda negative_slope: Piecewise([0], [negative_slope * X, X])),
    reference="max(x, 0) + negative_slope·min(x, 0); Maas, Hannun and Ng 2013",
)

PRELU = Activation(
    "prelu",
    params={"weight": 0.25},
    **piecewise(lambda weight: Piecewise([0], [weight * X, X])),
    reference="max(x, 0) + weight·min(x, 0); He et al. 2015, arXiv:1502.01852, eq. 1",
)


def sample_rrelu(
    std: float, size: int, rng: np.random.Generator, lower: float, upper: float
) -> FloatArray:
    x = std * rng.standard_normal(size)
    return np.where(x > 0, x, rng.uniform(lower, upper, size) * x)


def rrelu_mean_square(lower: float, upper: float) -> float:
    """E[φ²]/std²: ½ of 1 + E[a²] of a slope a drawn evenly from [lower, upper]."""
    return (1 + (lower * lower + lower * upper + upper * upper) / 3) / 2


RRELU = Activation(
    "rrelu",
    params={"lower": 1 / 8, "upper": 1 / 3},
    mean=lambda std, lower, upper: std * HALF_MEAN * (1 - (lower + upper) / 2),
    second_moment=lambda std, lower, upper: std**2 * rrelu_mean_square(lower, upper),
    derivative_second_moment=lambda std, lower, upper: np.full_like(
        std, rrelu_mean_square(lower, upper)
    ),
    variance_slope=lambda std, lower, upper: np.ones_like(std),
    sample=sample_rrelu,
    constraints={"lower <= upper": lambda lower, upper: lower <= upper},
    reference="x for x > 0, else a·x with a drawn evenly from [lower, upper]; "
    "Xu et al. 2015, arXiv:1505.00853",
)

RELU6 = Activation(
    "relu6",
    **piecewise(lambda: Piecewise([0, 6], [0, X, 6])),
    reference="min(max(x, 0), 6); Krizhevsky 2010",
)

RELU_SQUARED = Activation(
    "relu_squared",
    aliases=("squared_relu", "relu2"),
    **piecewise(lambda: Piecewise([0], [0, X * X])),
    reference="max(x, 0)²; So et al. 2021, arXiv:2109.08668",
)

STAR_RELU = Activation(
    "star_relu",
    **piecewise(lambda: Piecewise([0], [-0.4472, 0.8944 * X * X - 0.4472])),
    reference="0.8944·max(x, 0)² − 0.4472; Yu et al. 2022, arXiv:2210.13452",
)


def sample_crelu(std: float, size: int, rng: np.random.Generator) -> FloatArray:
    x = std * rng.standard_normal((size + 1) // 2)
    return np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)])[:size]


# All moments are of one output, but E[φ′²] is by an input, which reaches the loss through one half
# of the outputs or the other: it is 1.
CRELU = Activation(
    "crelu",
    mean=lambda std: std * HALF_MEAN,
    second_moment=lambda std: std**2 / 2,
    derivative_second_moment=np.ones_like,
    variance_slope=np.ones_like,
    sample=sample_crelu,
    width=2.0,
    reference="[max(x, 0), max(−x, 0)], twice as wide as x: the gain is for weights whose "
    "fan_in counts both halves; Shang et al. 2016, arXiv:1603.05201",
)

THRESHOLD = Activation(
    "threshold",
    params={"threshold": None, "value": None},
    **piecewise(lambda threshold, value: Piecewise([threshold], [value, X])),
    reference="x for x > threshold, else value; torch.nn.Threshold",
)

ABS = Activation(
    "abs",
    aliases=("absolute",),
    **piecewise(lambda: Piecewise([0], [-X, X])),
    reference="|x|",
)

gainreg_activations = all_of(globals())
