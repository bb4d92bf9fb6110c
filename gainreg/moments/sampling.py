"""Gaussian moments by sampling: for what is random, not elementwise, or too wild for quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gainreg.moments import EPS, FloatArray, Moments, weighted_sums

# Independent replicates, from whose spread the standard error follows: to a fifth of itself; and
# the draws of each, a million in all.
REPLICATES, DRAWS = 16, 1 << 16
# Of ln|z|: beyond them nothing is left in a double.
LOW, HIGH = -38.0, math.log(38.5)
# In ln std, for the variance slope of what only a sampler is known of: its own error is the square
# of this, and the random one does not grow, since both sides use the same random numbers.
RELATIVE_STEP = 1e-3

Sampler = Callable[[float, int, np.random.Generator], FloatArray]


def elementwise_moments(
    forward: Callable[[FloatArray], FloatArray],
    derivative: Callable[[FloatArray], FloatArray] | None,
    std: float,
    seed: int,
    draws: int = DRAWS,
) -> Moments:
    """Moments of an elementwise φ by randomised quasi-Monte Carlo (Owen 1997).

    Points are drawn evenly in ln|z| and weighted by the density, so that features of φ of any size
    and the Gaussian's far tails are all met. ``draws``, of a replicate, is a power of 2.
    """
    from scipy.stats import qmc  # slow to import, and seldom needed

    sums = []
    for stream in np.random.SeedSequence(seed).spawn(REPLICATES):
        points = qmc.Sobol(1, rng=np.random.default_rng(stream)).random(draws)[:, 0]
        z = np.exp(LOW + (HIGH - LOW) * points)
        root_weight = np.exp(-z * z / 4) * np.sqrt(z * ((HIGH - LOW) / math.sqrt(2 * math.pi)))
        z, root_weight = np.concatenate([z, -z]), np.concatenate([root_weight, root_weight])
        slope = np.full_like(z, np.nan) if derivative is None else derivative(std * z)
        sums.append(weighted_sums(forward(std * z), slope, z, root_weight) / draws)
    second, stretched, slope_second, mean = np.array(sums).T
    slope = (stretched.mean() / second.mean() - 1) / 2
    return _from_replicates(mean, second, slope, slope_second.mean(), 0.0)


def sampled_moments(sample: Sampler, std: float, seed: int, draws: int = DRAWS) -> Moments:
    """Moments of whatever ``sample(std, size, rng)`` draws.

    The slope is a difference quotient over the same random numbers; E[φ′²] is unknown (NaN).
    """

    def replicates(at: float) -> FloatArray:
        # made anew each time: scipy's Sobol' points spawn from the sequence, and so change it
        streams = [np.random.SeedSequence(seed, spawn_key=(i,)) for i in range(REPLICATES)]
        samples = (sample(at, draws, np.random.default_rng(stream)) for stream in streams)
        return np.array([(np.mean(y), np.mean(y * y)) for y in samples]).T

    step = math.exp(RELATIVE_STEP)
    mean, second = replicates(std)
    above, below = (replicates(at)[1].mean() for at in (std * step, std / step))
    # (z² − 1)/2 is at least −½, whatever the samples
    slope = max(np.log(above / below) / (4 * RELATIVE_STEP), -0.5)
    rare = second.mean() / (REPLICATES * draws)  # what all draws agree on may be rare to miss
    return _from_replicates(mean, second, slope, np.nan, rare)


def _from_replicates(
    mean: FloatArray, second: FloatArray, slope: float, slope_second: float, rare: float
) -> Moments:
    total = second.mean()
    variance = max(float(total - mean.mean() ** 2), 0.0)
    error = second.std(ddof=1) / math.sqrt(REPLICATES) + 4 * EPS * total + rare
    return Moments(*np.array([mean.mean(), total, variance, slope, slope_second, error])[:, None])
