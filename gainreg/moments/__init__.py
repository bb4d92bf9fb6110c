"""Gaussian moments E[g(std·z)], z standard normal: closed forms, quadrature, sampling.

This layer takes plain functions and arrays. It knows nothing of plugins, names or tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Function = Callable[[FloatArray], FloatArray]

EPS = float(np.finfo(float).eps)


@dataclass(frozen=True, eq=False)
class Moments:
    """The Gaussian moments of one activation φ, x = std·z, each an array over the stds.

    NaN means not known; infinite means known not to exist.

    Attributes:
        mean: E[φ(x)].
        second_moment: E[φ(x)²]; infinite where its terms do not die out.
        variance: E[φ(x)²] − E[φ(x)]², computed without the cancellation of that difference.
        variance_slope: d ln second_moment / d ln std² = E[φ(x)²(z² − 1)] / (2·second_moment).
        derivative_second_moment: E[φ′(x)²]; infinite where φ jumps or φ′ is too singular.
        error: bound or standard error, absolute, of second_moment.
    """

    mean: FloatArray
    second_moment: FloatArray
    variance: FloatArray
    variance_slope: FloatArray
    derivative_second_moment: FloatArray
    error: FloatArray

    @classmethod
    def all(cls, value: float, count: int = 1) -> Moments:
        """Every moment at ``count`` stds the same number."""
        return cls(*np.full((6, count), value))

    def missing(self) -> BoolArray:
        """The stds at which something besides E[φ′²] is not known."""
        return np.isnan(self.mean + self.second_moment + self.variance + self.variance_slope)

    def fill(self, where: BoolArray, others: Moments) -> None:
        """Take from ``others``, which are the moments at the stds ``where``, what is not known."""
        everywhere = bool(where.all())
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(others, field.name)
            if everywhere:
                np.copyto(mine, theirs, where=np.isnan(mine))
            else:
                mine[where] = np.where(np.isnan(mine[where]), theirs, mine[where])


def weighted_sums(
    phi: FloatArray, slope: FloatArray, z: FloatArray, root_weight: FloatArray
) -> FloatArray:
    """Sums over the last axis: E[φ²], E[φ²z²], E[φ′²] and E[φ], stacked in front.

    Products with the root of the weight are squared last, so that neither φ² nor the weight leaves
    the range of a double.
    """
    root = phi * root_weight
    terms = [root**2, (root * z) ** 2, (slope * root_weight) ** 2, root * root_weight]
    return np.array([term.sum(axis=-1) for term in terms])
