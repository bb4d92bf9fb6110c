"""The Gaussian factor to the last digit: its exponent, to twice the digits of a double."""

from __future__ import annotations

import numpy as np

from gainreg.moments import FloatArray

_SPLIT = 134217729.0  # 2²⁷ + 1 halves the digits of a double


def _split(a: FloatArray) -> tuple[FloatArray, FloatArray]:
    """a as the sum of two doubles of half the digits (Veltkamp)."""
    scaled = a * _SPLIT
    high = scaled - (scaled - a)
    return high, a - high


def _product(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """a·b as an unevaluated sum of two doubles (Dekker, Numerische Mathematik 18, 1971)."""
    (a_high, a_low), (b_high, b_low) = _split(a), _split(b)
    product = a * b
    rest = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, rest


def gaussian_factor(c: FloatArray | float, std: FloatArray, divisor: float) -> FloatArray:
    """exp(−(c/std)²/divisor), a power of 2; plainly coded it loses (c/std)² times as much.

    Where c/std is so large that the factor underflows, it is 0.
    """
    a = c / std
    far = np.abs(a) > 1e3
    a = np.where(far, 1e3, a)
    square, rest = _product(a, a)
    product, below = _product(a, std)
    remainder = np.where(far, 0.0, (c - product) - below)  # c = a·std + remainder
    correction = (rest + 2 * a * remainder / std) / divisor
    return np.asarray(np.exp(-square / divisor) * (1 - correction))
