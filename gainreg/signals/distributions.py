"""Distributions of what is not normal, in two forms, and points of the normal one.

On the nodes: the values, in order, of an increasing function of a unit Gaussian, at ``NODES``. At
quantiles: points of equal weight, which is what sums, products and samples are taken of.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from gainreg.signals.functions import NODES, WEIGHTS, FloatArray

# Points of equal weight that stand for a distribution where two are added or multiplied: enough
# for the second moment of what a kinked function makes of the result to 3 digits.
QUANTILES = 256

# Points on which functions of several variables are taken: randomised quasi-Monte Carlo, good to
# about 0.3 % of the second moment.
POINTS = 4096


@functools.lru_cache(16)
def levels(n: int) -> FloatArray:
    """Where the unit Gaussian has n quantiles of equal weight."""
    from scipy.special import ndtri

    found: FloatArray = ndtri((np.arange(n) + 0.5) / n)
    return found


@functools.cache
def normal_points(dimensions: int) -> FloatArray:
    """Quasi-random points of a standard normal distribution, always the same."""
    from scipy.special import ndtri
    from scipy.stats import qmc

    points = qmc.Sobol(dimensions, seed=0).random(POINTS)
    normal: FloatArray = ndtri(np.clip(points, 1e-12, 1 - 1e-12)).T
    return normal


def at_quantiles(values: FloatArray) -> FloatArray:
    """A distribution on the nodes, at ``QUANTILES`` points."""
    return np.interp(levels(QUANTILES), NODES, values)


def on_nodes(points: FloatArray) -> FloatArray:
    """A distribution at points of equal weight, on the nodes."""
    return np.interp(NODES, levels(points.size), np.sort(points.ravel()))


def fewer(points: FloatArray) -> FloatArray:
    """Points of equal weight, in order; ``QUANTILES`` of them where there are so many squared."""
    flat = np.sort(points.ravel())
    if flat.size <= QUANTILES:
        return flat
    groups: FloatArray = flat.reshape(QUANTILES, -1).mean(axis=1)
    return groups


def mixed(parts: Sequence[tuple[FloatArray, float]]) -> FloatArray:
    """On the nodes, what has each part's distribution, of which these are the values there, with
    such a probability."""
    from scipy.special import ndtri

    values = np.concatenate([part for part, _ in parts])
    weights = np.concatenate([share * WEIGHTS for _, share in parts])
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order]) - weights[order] / 2
    found: FloatArray = np.interp(NODES, ndtri(np.clip(below, 0, 1)), values[order])
    return found


def in_order(values: FloatArray) -> FloatArray:
    """On the nodes, the distribution of what has these values there, in any order."""
    steps = np.diff(values)
    if (steps >= 0).all():
        return values
    return values[::-1] if (steps <= 0).all() else mixed([(values, 1.0)])
