"""Competitive units: each output depends on all members of a group of ``dim`` (or k) inputs.

The members are independent with the same std. All outputs of a group count alike. The moments of
maxout are one-dimensional integrals; those of the others are sampled.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import special

from gainreg import Activation

from . import FloatArray, all_of

# Up to this dim, groups are Sobol' points. With 2¹⁸ outputs of softmax at std 2, the standard error
# is 270 times smaller than with random points at dim 2, 6 times at 8, and hardly twice from 32 on,
# where random ones are made in a seventh of the time.
QMC_LARGEST = 64
WHOLE_DIM = {"a whole dim >= 2": lambda dim: dim >= 2 and dim == int(dim)}


def sampler(function: Callable[[FloatArray], FloatArray]) -> Callable[..., FloatArray]:
    """Draws of all outputs of ``function``, which takes groups of ``dim`` in rows."""

    def sample(std: float, size: int, rng: np.random.Generator, dim: float) -> FloatArray:
        count = math.ceil(size / dim)
        if dim > QMC_LARGEST:
            z = rng.standard_normal((count, int(dim)))
        else:
            from scipy.stats import qmc  # slow to import, and seldom needed

            points = qmc.Sobol(int(dim), rng=rng).random_base2(max(count - 1, 1).bit_length())
            # points are multiples of 2⁻³⁰, 0 among them
            z = special.ndtri(np.clip(points, 2.0**-31, 1 - 2.0**-31))
        # member by member: of those that are taken in full, so are the Sobol' points
        return function(std * z).T.ravel()[:size]

    return sample


SOFTMAX = Activation(
    "softmax",
    params={"dim": None},
    aliases=("softmax2d",),
    mean=lambda std, dim: np.full_like(std, 1 / dim),
    sample=sampler(lambda x: special.softmax(x, axis=1)),
    constraints=WHOLE_DIM,
    reference="e^{xᵢ}/Σⱼe^{xⱼ} over groups of dim",
)

LOG_SOFTMAX = Activation(
    "log_softmax",
    params={"dim": None},
    sample=sampler(lambda x: special.log_softmax(x, axis=1)),
    constraints=WHOLE_DIM,
    reference="xᵢ − ln Σⱼe^{xⱼ} over groups of dim",
)

SOFTMIN = Activation(
    "softmin",
    params={"dim": None},
    mean=lambda std, dim: np.full_like(std, 1 / dim),
    sample=sampler(lambda x: special.softmax(-x, axis=1)),
    constraints=WHOLE_DIM,
    reference="e^{−xᵢ}/Σⱼe^{−xⱼ} over groups of dim",
)


def sparsemax(x: FloatArray) -> FloatArray:
    """max(x − τ, 0) with the τ that makes the sum 1: algorithm 1 of the paper."""
    x = x - x.max(axis=1, keepdims=True)
    ranked = -np.sort(-x, axis=1)
    total = np.cumsum(ranked, axis=1) - 1
    rank = np.arange(1, x.shape[1] + 1)
    support = (rank * ranked > total).sum(axis=1, keepdims=True)
    tau = np.take_along_axis(total, support - 1, axis=1) / support
    return np.asarray(np.maximum(x - tau, 0))


SPARSEMAX = Activation(
    "sparsemax",
    params={"dim": None},
    mean=lambda std, dim: np.full_like(std, 1 / dim),
    sample=sampler(sparsemax),
    constraints=WHOLE_DIM,
    reference="the nearest point to x of the probability simplex, over groups of dim; "
    "Martins and Astudillo 2016, arXiv:1602.02068",
)


def largest(probability: FloatArray, k: float) -> FloatArray:
    """The z that the largest of k stays below with this probability, which is Φ(z)ᵏ."""
    return special.ndtri_exp(np.log(probability) / k)


@lru_cache
def maxout_moment(power: int, k: float) -> float:
    """E[(the largest of k)^power] at std 1, the integral of the quantile function's power."""
    from scipy.integrate import tanhsinh  # slow to import, and seldom needed

    def integrand(u: FloatArray) -> FloatArray:
        return largest(u, k) ** power

    return float(tanhsinh(integrand, 0, 1, rtol=1e-14).integral)


MAXOUT = Activation(
    "maxout",
    params={"k": None},
    mean=lambda std, k: std * maxout_moment(1, k),
    second_moment=lambda std, k: std**2 * maxout_moment(2, k),
    derivative_second_moment=lambda std, k: np.full_like(std, 1 / k),
    variance_slope=lambda std, k: np.ones_like(std),
    by_quadrature=True,
    sample=lambda std, size, rng, k: std * largest(1 - rng.random(size), k),
    constraints={"a whole k >= 2": lambda k: k >= 2 and k == int(k)},
    reference="the largest of k; E[φ′²] is by each of the k; "
    "Goodfellow et al. 2013, arXiv:1302.4389",
)

gainreg_activations = all_of(globals())
