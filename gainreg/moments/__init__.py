"""Gaussian moments E[g(std·z)], z standard normal: closed forms, quadrature, sampling.

This layer takes plain functions and arrays. It knows nothing of plugins, names or tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """The Gaussian moments of one activation φ at an array of stds, x = std·z.

    Attributes:
        mean: E[φ(x)].
        second_moment: E[φ(x)²].
        variance: E[φ(x)²] − E[φ(x)]², computed without the cancellation of that difference.
        variance_slope: d ln second_moment / d ln std² = E[φ(x)²(z² − 1)] / (2·second_moment).
        derivative_second_moment: E[φ′(x)²]; NaN where it does not exist or is not known.
        error: bound or standard error, absolute, of second_moment.
    """

    mean: FloatArray
    second_moment: FloatArray
    variance: FloatArray
    variance_slope: FloatArray
    derivative_second_moment: FloatArray
    error: FloatArray


def fields(moments: Moments) -> tuple[FloatArray, ...]:
    """The arrays of ``moments``, in the order of their declaration."""
    return tuple(vars(moments).values())


def concatenate(parts: Sequence[Moments]) -> Moments:
    """The moments at the stds of all parts, one after the other."""
    return Moments(*(np.concatenate(arrays) for arrays in zip(*map(fields, parts), strict=True)))
