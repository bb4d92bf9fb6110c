"""Piecewise sums of c·xᵏ·eᵃˣ, and their exact Gaussian moments.

A function is declared once, by its kinks and its pieces; forward, derivative, kinks and all closed
forms follow:

    hardtanh = piecewise(lambda lo, hi: Piecewise([lo, hi], [lo, X, hi]))
    relu = piecewise(lambda: Piecewise([0], [0, X]))
    elu = piecewise(lambda alpha: Piecewise([0], [alpha * (exp(1) - 1), X]))

The moments are sums of E[zᵏ·e^{az}; lo < z < hi] (truncated Gaussian moments): erfcx for k = 0,
then a recurrence by parts; close to 0, where that cancels, a series of positive terms for a = 0.
Around x = 0 exponentials cancel by their nature (eᵃˣ − 1 for small x), so for small std the sum is
taken as a power series in std instead. Where digits cancel for a far kink, the answer is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache, partial
from typing import Any

import numpy as np
from scipy import special

from gainreg.moments import FloatArray
from gainreg.moments.extended import gaussian_factor

SQRT2 = math.sqrt(2)
DENSITY0 = 1 / math.sqrt(2 * math.pi)

# The power series in std is used where rate·std is below 1; so many terms do up to such a rate·std.
SERIES = ((0.001, 9), (0.0625, 14), (1.0, 36))
# Terms of the series of E[zᵏ; 0 < z < h], enough for h² < k + 1 and k up to 12.
NEAR_TERMS = 40
# A sum whose terms are so many times larger has lost too many digits: for a far kink, where it gets
# worse quickly, and with exponentials at 0, where any ELU stays below.
CANCELLED, CANCELLED_AT_0 = 16.0, 32.0
# Long arrays of stds are worked through in runs that stay in the processor's cache.
RUN = 32768


def _double(number: Fraction) -> float:
    """The nearest double, infinite if there is none."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


class ExpPoly:
    """A sum of c·xᵏ·eᵃˣ with exact (rational) coefficients c and rates a."""

    def __init__(self, terms: Mapping[tuple[int, Fraction], Fraction]) -> None:
        self.terms = {key: c for key, c in terms.items() if c}

    @staticmethod
    def of(value: ExpPoly | Fraction | float) -> ExpPoly:
        """``value`` itself, or the constant function of that value."""
        return value if isinstance(value, ExpPoly) else ExpPoly({(0, Fraction(0)): Fraction(value)})

    def __add__(self, other: ExpPoly | float) -> ExpPoly:
        terms = dict(self.terms)
        for key, c in ExpPoly.of(other).terms.items():
            terms[key] = terms.get(key, Fraction(0)) + c
        return ExpPoly(terms)

    def __mul__(self, other: ExpPoly | float) -> ExpPoly:
        product = ExpPoly({})
        for (k, a), c in self.terms.items():
            for (m, b), d in ExpPoly.of(other).terms.items():
                product = product + ExpPoly({(k + m, a + b): c * d})
        return product

    def __neg__(self) -> ExpPoly:
        return self * -1

    def __sub__(self, other: ExpPoly | float) -> ExpPoly:
        return self + -ExpPoly.of(other)

    def __rsub__(self, other: float) -> ExpPoly:
        return -self + other

    def __truediv__(self, other: float) -> ExpPoly:
        return self * ExpPoly.of(1 / Fraction(other))

    __radd__, __rmul__ = __add__, __mul__

    def derivative(self) -> ExpPoly:
        """The derivative by x."""
        total = ExpPoly({})
        for (k, a), c in self.terms.items():
            total = total + ExpPoly({(k, a): c * a})
            if k:
                total = total + ExpPoly({(k - 1, a): c * k})
        return total

    def reflected(self) -> ExpPoly:
        """The function of −x."""
        return ExpPoly({(k, -a): c * (-1) ** k for (k, a), c in self.terms.items()})

    def taylor(self, count: int) -> FloatArray:
        """Taylor coefficients at 0: summed exactly, then rounded once."""
        sums = [Fraction(0)] * count
        for (k, a), c in self.terms.items():
            for n in range(k, count):
                sums[n] += c
                c = c * a / (n + 1 - k)
                if not c:
                    break
        return np.array([_double(s) for s in sums])

    def __call__(self, x: FloatArray) -> FloatArray:
        total = np.zeros_like(x)
        for (k, a), c in self.terms.items():
            term = np.full_like(x, _double(c)) if k == 0 else _double(c) * x**k
            total += term * np.exp(_double(a) * x) if a else term
        return total


X = ExpPoly({(1, Fraction(0)): Fraction(1)})


def exp(rate: float) -> ExpPoly:
    """The function e^{rate·x}."""
    return ExpPoly({(0, Fraction(rate)): Fraction(1)})


@lru_cache(maxsize=128)
def half_moment(k: int) -> float:
    """E[zᵏ; z > 0] = (k−1)!!·(½ for even k, 1/√(2π) for odd k)."""
    double_factorial = math.prod(range(k - 1, 0, -2))
    return double_factorial * (0.5 if k % 2 == 0 else DENSITY0)


def _tail_moments(
    kmax: int, a: FloatArray | float, lo: FloatArray | float, density: FloatArray | float
) -> list[Any]:
    """E[zᵏ·e^{az}; z > lo] for k = 0…kmax and lo ≥ 0, by parts; density is exp(−lo²/2)."""
    w = (lo - a) / SQRT2
    edge = density * np.exp(a * lo) if np.any(lo) else 1.0
    # e^{a²/2}·erfc(w)/2, without the overflow of the first factor or the underflow of the second
    first = 0.5 * edge * special.erfcx(np.maximum(w, 0))
    if not np.all(w > 0):
        first = np.where(w > 0, first, 0.5 * np.exp(a * a / 2) * special.erfc(w))
    moments = [first]
    boundary = DENSITY0 * edge
    for k in range(kmax):
        by_parts = a * moments[k] + boundary
        moments.append(by_parts + k * moments[k - 1] if k else by_parts)
        boundary = boundary * lo
    return moments


def _near_moment(k: int, hi: FloatArray) -> FloatArray:
    """E[zᵏ; 0 < z < hi] for hi² < k + 1, by a series of positive terms (DLMF 8.7.1)."""
    square = hi * hi
    term = total = np.full_like(hi, 1 / (k + 1))
    for n in range(k + 3, k + 2 * NEAR_TERMS, 2):
        term = term * square / n
        total = total + term
    return np.asarray(total * DENSITY0 * np.exp(-square / 2) * hi ** (k + 1))


class _Truncated:
    """Truncated moments at one array of stds, each computed once."""

    def __init__(self, std: FloatArray) -> None:
        self.std = std
        self._powers: list[FloatArray | float] = [1.0, std]
        self._tails: dict[tuple[float, float], list[Any]] = {}
        self._moments: dict[tuple[int, float, float, float], tuple[Any, Any]] = {}

    def power(self, k: int) -> FloatArray | float:
        """std**k."""
        while len(self._powers) <= k:
            self._powers.append(self._powers[-1] * self.std)
        return self._powers[k]

    def _tail(self, k: int, rate: float, lo: float) -> Any:
        """E[zᵏ·e^{rate·x}; x > lo]."""
        if not rate and not lo:
            return half_moment(k)
        if len(self._tails.get((rate, lo), ())) <= k:
            a = rate * self.std if rate else 0.0
            z = lo / self.std if lo else 0.0
            density = gaussian_factor(lo, self.std, 2.0) if lo else 1.0
            self._tails[rate, lo] = _tail_moments(max(k, 2), a, z, density)
        return self._tails[rate, lo][k]

    def moment(self, k: int, rate: float, lo: float, hi: float) -> tuple[Any, Any]:
        """E[zᵏ·e^{rate·x}; lo < x < hi] for 0 ≤ lo < hi, and the size of what it is made of."""
        if hi == math.inf:
            value = self._tail(k, rate, lo)
            return value, value
        key = (k, rate, lo, hi)
        if key not in self._moments:
            value = self._tail(k, rate, lo) - self._tail(k, rate, hi)
            size = self._tail(k, rate, lo) + self._tail(k, rate, hi)
            z_lo, z_hi = lo / self.std, hi / self.std
            near = z_hi * z_hi < k + 1
            if not rate and near.any():
                below = [_near_moment(k, np.where(near, z, 0)) for z in (z_lo, z_hi)]
                value = np.where(near, below[1] - below[0], value)
                size = np.where(near, below[1] + below[0], size)
            self._moments[key] = value, size
        return self._moments[key]


# coefficients of a polynomial in std; (c, k, rate, lo, hi) for c·E[xᵏ·e^{rate·x}; lo < x < hi]
_ClosedSum = tuple[FloatArray, list[tuple[float, int, float, float, float]]]


class Piecewise:
    """A function of one variable, a sum of c·xᵏ·eᵃˣ between each two neighbours of ``kinks``.

    Args:
        kinks: where one piece hands over to the next, ascending.
        pieces: one more than kinks: ``ExpPoly`` (built from ``X`` and ``exp``) or numbers. At a
            kink the left piece holds.
    """

    def __init__(self, kinks: Sequence[float], pieces: Sequence[ExpPoly | float]) -> None:
        if len(pieces) != len(kinks) + 1 or sorted(kinks) != list(kinks):
            raise ValueError("a Piecewise needs ascending kinks and one more piece than kinks")
        self.kinks = tuple(float(k) for k in kinks)
        self.pieces = [ExpPoly.of(p) for p in pieces]
        self.slopes = [p.derivative() for p in self.pieces]
        squares = [p * p for p in self.pieces]
        # mean, second moment, second moment of the derivative, E[φ²·x²]
        integrands = (
            self.pieces,
            squares,
            [p * p for p in self.slopes],
            [p * X * X for p in squares],
        )
        half_lines = [self._half_lines(pieces) for pieces in integrands]
        self._sums = [self._closed_sum(pieces) for pieces in half_lines]
        # the pieces that touch 0 and end at ±∞ can be expanded in std if they hold exponentials
        rates = [abs(a) for p in squares for _, a in p.terms]
        rate = _double(max(rates, default=Fraction(0)))
        # a kink far away is where little is left of large terms
        self._limit = CANCELLED if any(self.kinks) else math.inf
        self._bounds: list[float] = []
        self._methods: list[Callable[[FloatArray], Sequence[FloatArray]]] = []
        if rate and not any(self.kinks):
            for reach, terms in SERIES:
                self._bounds.append(reach / rate)
                series = np.array([self._expand(pieces, terms) for pieces in half_lines])
                self._methods.append(partial(self._power_series, series))
        self._methods.append(self._closed_forms)
        self._last: tuple[FloatArray, list[FloatArray]] | None = None
        if self._bounds:  # look once whether digits cancel anywhere, lest each answer look for it
            self._limit = CANCELLED_AT_0
            if not np.isnan(self.moments(np.geomspace(1e-3, 1e3, 121) / rate)[1]).any():
                self._limit = math.inf

    def _half_lines(self, pieces: Sequence[ExpPoly]) -> list[tuple[ExpPoly, float, float]]:
        """The pieces as functions of x > 0 on (lo, hi): those on x < 0 reflected."""
        found = []
        edges = (-math.inf, *self.kinks, math.inf)
        for piece, lo, hi in zip(pieces, edges, edges[1:], strict=False):
            if piece.terms and hi > 0 and hi > lo:
                found.append((piece, max(lo, 0.0), hi))
            if piece.terms and lo < 0 and hi > lo:
                found.append((piece.reflected(), max(-hi, 0.0), -lo))
        return found

    def __rmul__(self, factor: float) -> Piecewise:
        return Piecewise(self.kinks, [factor * piece for piece in self.pieces])

    @staticmethod
    def _closed_sum(pieces: Sequence[tuple[ExpPoly, float, float]]) -> _ClosedSum:
        """Powers of x on whole half lines are a polynomial in std; the rest are terms."""
        powers: dict[int, Fraction] = {}
        terms = []
        for piece, lo, hi in pieces:
            for (k, rate), c in piece.terms.items():
                if not rate and not lo and hi == math.inf:
                    powers[k] = powers.get(k, Fraction(0)) + c
                else:
                    terms.append((_double(c), k, _double(rate), lo, hi))
        polynomial = np.zeros(max(powers, default=0) + 1)
        for k, c in powers.items():
            polynomial[k] = _double(c) * half_moment(k)
        return polynomial, terms

    @staticmethod
    def _expand(pieces: Sequence[tuple[ExpPoly, float, float]], terms: int) -> FloatArray:
        """Coefficients of the power series in std of a sum over half lines."""
        moments = np.array([half_moment(n) for n in range(terms)])
        return moments * sum((piece.taylor(terms) for piece, _, _ in pieces), np.zeros(terms))

    def _evaluate(self, x: FloatArray, pieces: Sequence[ExpPoly]) -> FloatArray:
        index = np.searchsorted(self.kinks, x, side="left")
        result = np.empty_like(x)
        for i, piece in enumerate(pieces):
            here = index == i
            result[here] = piece(x[here])
        return result

    def forward(self, x: FloatArray) -> FloatArray:
        """φ(x)."""
        return self._evaluate(x, self.pieces)

    def derivative(self, x: FloatArray) -> FloatArray:
        """φ′(x); at a kink that of the left piece."""
        return self._evaluate(x, self.slopes)

    def moments(self, std: FloatArray) -> list[FloatArray]:
        """Mean, second moment, second moment of the derivative, and variance slope.

        All at once, since they share their special functions; the last answer is kept, since they
        are asked for one after the other.
        """
        last = self._last
        if last is not None and last[0] is std and not std.flags.writeable:
            return last[1]
        result = [np.empty_like(std) for _ in range(4)]
        with np.errstate(all="ignore"):
            for start in range(0, len(std), RUN):
                run = std[start : start + RUN]
                band = sum((run > bound for bound in self._bounds), np.zeros(len(run), np.intp))
                for i, method in enumerate(self._methods):
                    here = np.flatnonzero(band == i)
                    if here.size:
                        for whole, part in zip(result, method(run[here]), strict=True):
                            whole[start + here] = part
        self._last = (std, result)
        return result

    def _closed_forms(self, std: FloatArray) -> list[FloatArray]:
        truncated = _Truncated(std)
        values, sizes = [], []
        for polynomial, terms in self._sums:
            value = _polynomial(polynomial, std)
            size = _polynomial(np.abs(polynomial), std) if self._limit < math.inf else value
            for c, k, rate, lo, hi in terms:
                moment, its_size = truncated.moment(k, rate, lo, hi)
                factor = c * truncated.power(k)
                value += factor * moment
                if self._limit < math.inf:
                    size += np.abs(factor) * its_size
            values.append(value)
            sizes.append(size)
        return self._kept(std, np.array(values), np.array(sizes))

    def _kept(self, std: FloatArray, values: FloatArray, sizes: FloatArray) -> list[FloatArray]:
        """Mean, second moment, E[φ′²] and variance slope, NaN where they have cancelled."""
        mean, second, slope_second, stretched = values
        found = [mean, second, slope_second, (stretched / (second * std * std) - 1) / 2]
        if self._limit < math.inf:
            lost = ~(sizes <= self._limit * np.array([np.sqrt(second), *np.abs(values[1:])]))
            lost[3] |= lost[1]
            for value, where in zip(found, lost, strict=True):
                value[where] = np.nan
        return found

    def _power_series(self, series: FloatArray, std: FloatArray) -> list[FloatArray]:
        values = _polynomial(series, std)
        sizes = _polynomial(np.abs(series), std) if self._limit < math.inf else values
        return self._kept(std, values, sizes)


def _polynomial(coefficients: FloatArray, x: FloatArray) -> FloatArray:
    """Horner's rule; the last axis of ``coefficients`` is the power, others are kept."""
    columns = coefficients[..., None]
    total = np.zeros((*coefficients.shape[:-1], len(x))) + columns[..., -1, :]
    for i in range(2, coefficients.shape[-1] + 1):
        total *= x
        total += columns[..., -i, :]
    return total


def piecewise(
    pieces: Callable[..., Piecewise], forward: Callable[..., Any] | None = None
) -> dict[str, Any]:
    """The fields of an ``Activation`` that follow from its pieces, to be passed on with ``**``.

    Args:
        pieces: ``pieces(**params)``, the function's declaration.
        forward: φ itself where the pieces, as written, would lose digits (eˣ − 1 near 0).
    """
    declared = lru_cache(maxsize=64)(pieces)

    def closed_form(index: int) -> Callable[..., FloatArray]:
        return lambda std, **params: declared(**params).moments(std)[index]

    return {
        "forward": forward or (lambda x, **params: declared(**params).forward(x)),
        "derivative": lambda x, **params: declared(**params).derivative(x),
        "kinks": lambda **params: declared(**params).kinks,
        "mean": closed_form(0),
        "second_moment": closed_form(1),
        "derivative_second_moment": closed_form(2),
        "variance_slope": closed_form(3),
    }
