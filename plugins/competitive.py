"""Competitive units: each output depends on all members of a group of ``dim`` (or k) inputs.

The members are independent with the same std. All outputs of a group count alike. Maxout has a
closed form; the others are sampled.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from gainreg import Activation, hookimpl
from gainreg.moments import FloatArray, Moments
from gainreg.moments.quadrature import fixed_moments

log_ndtr: Callable[[FloatArray], FloatArray] = special.log_ndtr

QMC_LARGEST = 64  # dimension up to which Sobol' points are much better than random ones


def groups(std: float, count: int, dim: int, rng: np.random.Generator) -> FloatArray:
    """At least ``count`` groups of ``dim`` independent normals: Sobol' points if dim is small."""
    if dim > QMC_LARGEST:
        return std * rng.standard_normal((count, dim))
    from scipy.stats import qmc  # slow to import, and seldom needed

    points = qmc.Sobol(dim, rng=rng).random_base2(max(count - 1, 1).bit_length())
    # points are multiples of 2⁻³⁰, 0 among them
    return np.asarray(std * special.ndtri(np.clip(points, 2.0**-31, 1 - 2.0**-31)))


def sampler(function: Callable[[FloatArray], FloatArray]) -> Callable[..., FloatArray]:
    """Draws of all outputs of ``function``, which takes groups in rows."""

    def sample(std: float, size: int, rng: np.random.Generator, dim: float) -> FloatArray:
        y = function(groups(std, math.ceil(size / dim), int(dim), rng))
        # member by member: of those that are taken in full, so are the Sobol' points
        return y.T.ravel()[:size]

    return sample


def softmax(x: FloatArray) -> FloatArray:
    return np.asarray(special.softmax(x, axis=1))


def one_over_dim(std: FloatArray, dim: float) -> FloatArray:
    """The mean of what sums to 1."""
    return np.full_like(std, 1 / dim)


def log_softmax(x: FloatArray) -> FloatArray:
    return np.asarray(special.log_softmax(x, axis=1))


def sparsemax(x: FloatArray) -> FloatArray:
    """max(x − τ, 0) with the τ that makes the sum 1: algorithm 1 of the paper."""
    x = x - x.max(axis=1, keepdims=True)
    ranked = -np.sort(-x, axis=1)
    total = np.cumsum(ranked, axis=1) - 1
    rank = np.arange(1, x.shape[1] + 1)
    support = (rank * ranked > total).sum(axis=1, keepdims=True)
    tau = np.take_along_axis(total, support - 1, axis=1) / support
    return np.asarray(np.maximum(x - tau, 0))


# The largest of k normals has the density k·Φ(z)^{k−1}·Φ′(z). Its moments are those of
# z·√(k·Φ(z)^{k−1}) squared, and of k·z·Φ(z)^{k−1}, under one normal.


def maxout_moments(function: Callable[[FloatArray], FloatArray]) -> Moments:
    return fixed_moments(function, np.zeros_like, np.ones(1))


def maxout_mean(std: FloatArray, k: float) -> FloatArray:
    unit = maxout_moments(lambda z: k * z * np.exp((k - 1) * log_ndtr(z)))
    return std * unit.mean


def maxout_second_moment(std: FloatArray, k: float) -> FloatArray:
    unit = maxout_moments(lambda z: math.sqrt(k) * z * np.exp((k - 1) / 2 * log_ndtr(z)))
    return std**2 * unit.second_moment


def sample_maxout(std: float, size: int, rng: np.random.Generator, k: float) -> FloatArray:
    # the largest is below z with the probability Φ(z)ᵏ
    return np.asarray(std * special.ndtri_exp(np.log1p(-rng.random(size)) / k))


@hookimpl
def gainreg_activations() -> list[Activation]:
    whole_dim = {"a whole dim >= 2": lambda dim: dim >= 2 and dim == int(dim)}
    whole_k = {"a whole k >= 2": lambda k: k >= 2 and k == int(k)}
    return [
        Activation(
            "softmax",
            params={"dim": None},
            aliases=("softmax2d",),
            mean=one_over_dim,
            sample=sampler(softmax),
            constraints=whole_dim,
            reference="e^{xᵢ}/Σⱼe^{xⱼ} over groups of dim",
        ),
        Activation(
            "log_softmax",
            params={"dim": None},
            sample=sampler(log_softmax),
            constraints=whole_dim,
            reference="xᵢ − ln Σⱼe^{xⱼ} over groups of dim",
        ),
        Activation(
            "softmin",
            params={"dim": None},
            mean=one_over_dim,
            sample=sampler(lambda x: softmax(-x)),
            constraints=whole_dim,
            reference="e^{−xᵢ}/Σⱼe^{−xⱼ} over groups of dim",
        ),
        Activation(
            "sparsemax",
            params={"dim": None},
            mean=one_over_dim,
            sample=sampler(sparsemax),
            constraints=whole_dim,
            reference="the nearest point to x of the probability simplex, over groups of dim; "
            "Martins and Astudillo 2016, arXiv:1602.02068",
        ),
        Activation(
            "maxout",
            params={"k": None},
            mean=maxout_mean,
            second_moment=maxout_second_moment,
            derivative_second_moment=lambda std, k: np.full_like(std, 1 / k),
            variance_slope=lambda std, k: np.ones_like(std),
            sample=sample_maxout,
            constraints=whole_k,
            reference="the largest of k; E[φ′²] is by each of the k; "
            "Goodfellow et al. 2013, arXiv:1302.4389",
        ),
    ]
