"""Moments of a normal distribution cut off at some place, to the last digits.

z is standard normal and x = std·z. ``place`` is where x is cut off; it comes apart from std, since
their quotient as one double does not hold the digits that e^{−(place/std)²/2} needs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from gainreg.moments import FloatArray

DENSITY_AT_0 = 1 / math.sqrt(2 * math.pi)


def half_moment(k: int) -> float:
    """E[zᵏ; z > 0] = (k−1)!!·(½ for even k, 1/√(2π) for odd k)."""
    double_factorial = math.prod(range(k - 1, 0, -2))
    return double_factorial * (DENSITY_AT_0 if k % 2 else 0.5)


def below_moment(k: int, place: float, std: FloatArray) -> FloatArray:
    """E[zᵏ; 0 < x < place]."""
    return np.asarray(half_moment(k) * special.gammainc((k + 1) / 2, (place / std) ** 2 / 2))


def tail_moments(count: int, rate: float, place: float, std: FloatArray) -> list[Any]:
    """E[zᵏ·e^{rate·x}; x > place] for k below ``count``, by parts; place ≥ 0."""
    if not rate and not place:
        return [half_moment(k) for k in range(count)]
    a, z = rate * std, place / std
    boundary = gaussian_factor(place, std, 2.0) * np.exp(rate * place) if place else 1.0
    w = (z - a) / math.sqrt(2)
    # e^{a²/2}·erfc(w)/2, so written that for large w no factor overflows or underflows
    first = 0.5 * boundary * special.erfcx(w)
    if rate > 0:
        growth = 1 / gaussian_factor(a, np.ones_like(std), 2.0)  # e^{a²/2}
        first = np.where(w > 0, first, 0.5 * growth * special.erfc(w))
    boundary = DENSITY_AT_0 * boundary
    moments = [first]
    for k in range(count - 1):
        moments.append(a * moments[k] + (k * moments[k - 1] if k else 0.0) + boundary)
        boundary = boundary * z
    return moments


def gaussian_factor(place: FloatArray | float, std: FloatArray, divisor: float) -> FloatArray:
    """exp(−(place/std)²/divisor), place ≥ 0, divisor a power of 2; 0 where it underflows.

    Plainly coded it loses (place/std)² times as much. Here place/std is ``high + rest``, and the
    square of ``high``, which has half the digits of a double, is exact.
    """
    z = np.minimum(place / std, 1e3)  # beyond, the factor has underflowed
    high, std_high = _leading_half(z), _leading_half(std)
    rest = ((place - high * std_high) - high * (std - std_high)) / std
    return np.asarray(np.exp(-high * high / divisor) * np.exp(-rest * (2 * high + rest) / divisor))


def _leading_half(a: FloatArray) -> FloatArray:
    """The leading 26 bits of a, after Veltkamp: Dekker 1971, Numerische Mathematik 18, 224–242."""
    scaled = a * (2.0**27 + 1)
    return scaled - (scaled - a)
