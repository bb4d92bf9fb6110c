"""Gaussian moments by sampling: for what is random, not elementwise, or too wild for quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gainreg.moments import EPS, FloatArray, Moments

# Independent replicates, from whose spread the standard error follows: to a fifth of itself.
REPLICATES = 16
# Of a replicate: Sobol' points of an elementwise φ, and draws from a sampler; a million in all.
LOG2_POINTS, DRAWS = 16, 1 << 16
TOTAL = REPLICATES * DRAWS
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
) -> Moments:
    """Moments of an elementwise φ by randomised quasi-Monte Carlo (Owen 1997).

    Points are drawn evenly in ln|z| and weighted by the density, so that features of φ of any size
    and the Gaussian's far tails are all met.
    """
    from scipy.stats import qmc  # slow to import, and seldom needed

    sums = []
    for stream in np.random.SeedSequence(seed).spawn(REPLICATES):
        points = qmc.Sobol(1, rng=np.random.default_rng(stream)).random_base2(LOG2_POINTS)[:, 0]
        z = np.exp(LOW + (HIGH - LOW) * points)
        root_weight = np.exp(-z * z / 4) * np.sqrt(z * ((HIGH - LOW) / math.sqrt(2 * math.pi)))
        z = np.concatenate([z, -z])
        root_weight = np.concatenate([root_weight, root_weight])
        root = forward(std * z) * root_weight
        slope = np.nan if derivative is None else _total((derivative(std * z) * root_weight) ** 2)
        square = root * root
        sums.append((_total(root * root_weight), _total(square), _total(square * z * z), slope))
    mean, second, stretched, slope_second = np.array(sums).T
    slope = (stretched.mean() / second.mean() - 1) / 2
    return _from_replicates(mean, second, slope, slope_second.mean())


def _total(terms: FloatArray) -> float:
    return float(terms.sum() * 2 / len(terms))


def sampled_moments(sample: Sampler, std: float, seed: int) -> Moments:
    """Moments of whatever ``sample(std, size, rng)`` draws.

    The slope is a difference quotient over the same random numbers; E[φ′²] is unknown (NaN).
    """
    draws = [_draw(sample, std, seed, i) for i in range(REPLICATES)]
    mean, second = np.array([(np.mean(y), np.mean(y * y)) for y in draws]).T
    step = np.exp(RELATIVE_STEP)
    above, below = (_mean_squares(sample, at, seed).mean() for at in (std * step, std / step))
    # (z² − 1)/2 is at least −½, whatever the samples
    slope = max(np.log(above / below) / (4 * RELATIVE_STEP), -0.5)
    found = _from_replicates(mean, second, slope, np.nan)
    found.error[:] += second.mean() / TOTAL  # what all draws agree on may still be rare to miss
    return found


def second_moment(sample: Sampler, std: float, seed: int) -> tuple[float, float]:
    """E[φ²] by a sampler, quickly, and its standard error."""
    replicates = _mean_squares(sample, std, seed, DRAWS // 16)
    return float(replicates.mean()), _standard_error(replicates)


def mean(sample: Sampler, std: float, seed: int) -> tuple[float, float]:
    """E[φ] likewise."""
    replicates = np.array(
        [np.mean(_draw(sample, std, seed, i, DRAWS // 16)) for i in range(REPLICATES)]
    )
    return float(replicates.mean()), _standard_error(replicates)


def _draw(sample: Sampler, std: float, seed: int, replicate: int, size: int = DRAWS) -> FloatArray:
    # made anew each time: scipy's Sobol' points spawn from the sequence, and so change it
    stream = np.random.SeedSequence(seed, spawn_key=(replicate,))
    return sample(std, size, np.random.default_rng(stream))


def _mean_squares(sample: Sampler, std: float, seed: int, size: int = DRAWS) -> FloatArray:
    draws = (_draw(sample, std, seed, i, size) for i in range(REPLICATES))
    return np.array([np.mean(y * y) for y in draws])


def _standard_error(replicates: FloatArray) -> float:
    return float(replicates.std(ddof=1) / np.sqrt(len(replicates)))


def _from_replicates(
    mean: FloatArray, second: FloatArray, slope: float, slope_second: float
) -> Moments:
    total = second.mean()
    variance = max(float(total - mean.mean() ** 2), 0.0)
    error = _standard_error(second) + 4 * EPS * total
    found = (mean.mean(), total, variance, slope, slope_second, error)
    return Moments(*np.array(found)[:, None])
