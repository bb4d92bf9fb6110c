"""Gaussian moments E[g(std·z)], z standard normal: closed forms, quadrature, sampling.

This layer takes plain functions and arrays. It knows nothing of plugins, names or tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Function = Callable[[FloatArray], FloatArray]

EPS = float(np.finfo(float).eps)


class Moments(NamedTuple):
    """The Gaussian moments of one activation φ at an array of stds, x = std·z.

    They are handed around as one array with a row each, of which ``Moments(*array)`` is a view.

    Attributes:
        mean: E[φ(x)].
        second_moment: E[φ(x)²]; infinite where its terms do not die out.
        variance: E[φ(x)²] − E[φ(x)]², computed without the cancellation of that difference.
        variance_slope: d ln second_moment / d ln std² = E[φ(x)²(z² − 1)] / (2·second_moment).
        derivative_second_moment: E[φ′(x)²]; NaN where φ jumps or it is not known, infinite where
            φ′ is too singular to be integrated.
        error: bound or standard error, absolute, of second_moment.
    """

    mean: FloatArray
    second_moment: FloatArray
    variance: FloatArray
    variance_slope: FloatArray
    derivative_second_moment: FloatArray
    error: FloatArray


def weighted_sums(
    phi: FloatArray, slope: FloatArray, z: FloatArray, root_weight: FloatArray
) -> FloatArray:
    """Sums over the last axis: second moment, E[φ²z²], E[φ′²] and mean, stacked in front.

    Products with the root of the weight are squared last, so that neither φ² nor the weight leaves
    the range of a double.
    """
    terms = np.empty((4, *phi.shape))
    root, slope_root = phi * root_weight, slope * root_weight
    np.multiply(root, root, out=terms[0])
    np.multiply(root, z, out=terms[1])
    np.multiply(terms[1], terms[1], out=terms[1])
    np.multiply(slope_root, slope_root, out=terms[2])
    np.multiply(root, root_weight, out=terms[3])
    return np.asarray(terms.sum(axis=-1))
