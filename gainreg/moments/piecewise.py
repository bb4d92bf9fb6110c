"""Piecewise functions, whose closed forms follow from their pieces.

A function is declared once, by its kinks and its pieces; forward, derivative, kinks and all closed
forms follow:

    hardtanh = piecewise(lambda lo, hi: Piecewise([lo, hi], [lo, X, hi]))
    relu = piecewise(lambda: Piecewise([0], [0, X]))
    elu = piecewise(lambda alpha: Piecewise([0], [alpha * (exp(1) - 1), X]))

φ, φ², φ′² and φ²x² are sums of c·xᵏ·eᵃˣ between kinks, so their means are weighted sums of
truncated moments E[xᵏ·eᵃˣ; lo < x < hi]. Exponentials cancel by their nature near 0 (eᵃˣ − 1): for
small std their means are power series in std instead. Where a sum has lost digits all the same, for
a kink far out say, the answer is NaN, and quadrature takes over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from gainreg.moments import FloatArray
from gainreg.moments.exppoly import ExpPoly, X, exp, to_double
from gainreg.moments.truncated import below_moment, half_moment, tail_moments

__all__ = ["Piecewise", "X", "exp", "piecewise"]

# Below rate·std = REACH, of the largest rate in φ², exponentials are summed as power series in std,
# and above from truncated moments. There both lose about as much: the truncated moments of any ELU
# add up to at most 23 times their sum, the terms of its series to 9 times; at half that std it is
# 78 and 2 times, at twice that 8 and 112. What TERMS terms leave out is below 1e-17 of each sum.
REACH, TERMS = 1.0, 36
# A sum is given up where what it is made of adds up to so many times its size: more than it ever is
# for an ELU, see above. Of 100,000 sums with random kinks the worst that was kept is off by 9e-15,
# or by 7e-14 where an exponential grows, which is the rounding of its exponent.
CANCELLED = 32.0
# So many stds are worked through at once that the arrays stay in the processor's cache: ELU at
# 100,000 stds takes 9 ms so and with half as many, 13 ms with an eighth, and 12 ms all at once.
RUN = 32768


class _Term(NamedTuple):
    """xᵏ·e^{rate·x} where lo < x < hi, with 0 ≤ lo < hi."""

    k: int
    rate: Fraction
    lo: float
    hi: float


class Piecewise:
    """A function of one variable, a sum of c·xᵏ·eᵃˣ between each two neighbours of ``kinks``.

    Args:
        kinks: where one piece hands over to the next, ascending.
        pieces: one more than kinks, made of ``X``, ``exp(rate)`` and numbers by sums and products.
            At a kink the left piece holds.

    Raises:
        ValueError: the kinks do not ascend, or are not one fewer than the pieces.
    """

    def __init__(self, kinks: Sequence[float], pieces: Sequence[ExpPoly | float]) -> None:
        if len(pieces) != len(kinks) + 1 or sorted(kinks) != list(kinks):
            raise ValueError("a Piecewise needs ascending kinks and one more piece than kinks")
        self.kinks = tuple(float(k) for k in kinks)
        self.pieces = [ExpPoly.of(p) for p in pieces]
        self.slopes = [p.derivative() for p in self.pieces]
        squares = [p * p for p in self.pieces]
        slope_squares = [p * p for p in self.slopes]
        stretched = [p * X * X for p in squares]
        sums = [self._folded(f) for f in (self.pieces, squares, slope_squares, stretched)]
        self._terms = list(dict.fromkeys(term for terms in sums for term in terms))
        self._weights = np.array(
            [[to_double(terms.get(t, Fraction(0))) for t in self._terms] for terms in sums]
        )
        self._series, self._reach = np.empty((4, 0)), 0.0  # by power of std, up to which std
        self._may_cancel = True
        self._last: tuple[FloatArray, FloatArray] | None = None
        rate = to_double(max((abs(t.rate) for t in self._terms), default=Fraction(0)))
        if rate and not any(self.kinks):
            self._series, self._reach = np.array([_power_series(f) for f in sums]), REACH / rate
            # looked at once, as a function of rate·std, lest each answer spend a third on it
            tried = self.moments(np.geomspace(1e-3, 1e3, 121) / rate)
            self._may_cancel = bool(np.isnan(tried).any())

    def _folded(self, pieces: Sequence[ExpPoly]) -> dict[_Term, Fraction]:
        """A function of these pieces, folded onto x > 0: what is on x < 0 is reflected."""
        terms: dict[_Term, Fraction] = {}
        edges = pairwise((-math.inf, *self.kinks, math.inf))
        for piece, (left, right) in zip(pieces, edges, strict=True):
            for part, lo, hi in ((piece, left, right), (piece.reflected(), -right, -left)):
                start = max(lo, 0.0)
                if start < hi:
                    for (k, rate), c in part.terms.items():
                        term = _Term(k, rate, start, hi)
                        terms[term] = terms.get(term, Fraction(0)) + c
        return terms

    def forward(self, x: FloatArray) -> FloatArray:
        """φ(x)."""
        return self._evaluate(self.pieces, x)

    def derivative(self, x: FloatArray) -> FloatArray:
        """φ′(x); at a kink that of the left piece."""
        return self._evaluate(self.slopes, x)

    def _evaluate(self, pieces: Sequence[ExpPoly], x: FloatArray) -> FloatArray:
        index = np.searchsorted(self.kinks, x, side="left")
        return np.piecewise(x, [index == i for i in range(len(pieces))], pieces)

    def moments(self, std: FloatArray) -> FloatArray:
        """Mean, second moment, second moment of the derivative, and variance slope, in rows.

        All at once, since they share their special functions; the last answer is kept, since they
        are asked for one after the other.
        """
        if self._last is not None and self._last[0] is std and not std.flags.writeable:
            return self._last[1]
        result = np.empty((4, len(std)))
        with np.errstate(all="ignore"):
            for start in range(0, len(std), RUN):
                run = std[start : start + RUN]
                near = run <= self._reach
                for sums, where in ((self._by_series, near), (self._by_truncation, ~near)):
                    here = np.flatnonzero(where)
                    found = self._from_sums(*sums(run[here]), run[here])
                    for whole, part in zip(result, found, strict=True):
                        whole[start + here] = part
        self._last = (std, result)
        return result

    def _from_sums(
        self, sums: Sequence[FloatArray], sizes: Sequence[FloatArray], std: FloatArray
    ) -> list[FloatArray]:
        """The moments from E[φ], E[φ²], E[φ′²] and E[φ²x²], NaN where they have lost digits.

        ``sizes`` are what the terms of each add up to without their signs.
        """
        mean, second, slope_second, stretched = sums
        found = [mean, second, slope_second, (stretched / (second * std * std) - 1) / 2]
        if self._may_cancel:
            scales = [np.sqrt(second), second, slope_second, stretched]
            kept = [size <= CANCELLED * scale for size, scale in zip(sizes, scales, strict=True)]
            kept[3] &= kept[1]
            found = [np.where(k, value, np.nan) for k, value in zip(kept, found, strict=True)]
        return found

    def _by_series(self, std: FloatArray) -> tuple[list[FloatArray], list[FloatArray]]:
        """The four sums as power series in std, and their sizes."""

        def polynomials(coefficients: FloatArray) -> list[FloatArray]:
            found = np.zeros((4, len(std)))
            for column in coefficients.T[::-1]:
                found *= std
                found += column[:, None]
            return list(found)

        sums = polynomials(self._series)
        return sums, polynomials(np.abs(self._series)) if self._may_cancel else sums

    def _by_truncation(self, std: FloatArray) -> tuple[list[FloatArray], list[FloatArray]]:
        """The four sums from the truncated moment of each term, and their sizes."""
        tails: dict[tuple[Fraction, float], list[Any]] = {}
        for rate, place in {(t.rate, place) for t in self._terms for place in (t.lo, t.hi)}:
            if place < math.inf:
                count = 1 + max(t.k for t in self._terms if t.rate == rate)
                tails[rate, place] = tail_moments(count, to_double(rate), place, std)
        parts, sizes = [], []
        for k, rate, lo, hi in self._terms:
            part = size = tails[rate, lo][k]
            if hi < math.inf:
                part, size = part - tails[rate, hi][k], part + tails[rate, hi][k]
                if not rate:  # where the difference cancels there is a series
                    near = np.flatnonzero(hi * hi < (k + 1) * std * std)
                    inner, outer = (below_moment(k, place, std[near]) for place in (lo, hi))
                    part[near], size[near] = outer - inner, outer + inner
            power = math.prod([std] * k)
            parts.append(power * part)
            sizes.append(power * size)

        def weighted(weights: FloatArray, parts: list[FloatArray]) -> list[FloatArray]:
            # not weights @ parts, of which BLAS would make other last digits for one std
            rows = (zip(row, parts, strict=True) for row in weights)
            return [sum((w * p for w, p in row if w), np.zeros(len(std))) for row in rows]

        sums = weighted(self._weights, parts)
        return sums, weighted(np.abs(self._weights), sizes) if self._may_cancel else sums


def _power_series(terms: Mapping[_Term, Fraction]) -> list[float]:
    """The coefficients of E[f(std·z); z > 0] in std, for f made of terms from 0 to infinity."""
    whole = ExpPoly({(k, rate): c for (k, rate, _, _), c in terms.items()})
    return [to_double(c) * half_moment(n) for n, c in enumerate(whole.taylor(TERMS))]


def piecewise(pieces: Callable[..., Piecewise]) -> dict[str, Any]:
    """The fields of an ``Activation`` that follow from its pieces, to be passed on with ``**``.

    Those that are known better are written behind: ``**piecewise(…) | {"forward": np.sign}``, for
    at a kink the left piece holds.

    Args:
        pieces: ``pieces(**params)``, the function's declaration.
    """
    declared = lru_cache(maxsize=64)(pieces)

    def closed_form(index: int) -> Callable[..., FloatArray]:
        return lambda std, **params: declared(**params).moments(std)[index]

    return {
        "forward": lambda x, **params: declared(**params).forward(x),
        "derivative": lambda x, **params: declared(**params).derivative(x),
        "kinks": lambda **params: declared(**params).kinks,
        "mean": closed_form(0),
        "second_moment": closed_form(1),
        "derivative_second_moment": closed_form(2),
        "variance_slope": closed_form(3),
    }
