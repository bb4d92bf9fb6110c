"""The algebra of sums of c·xᵏ·eᵃˣ, of which the pieces of an activation are made.

Coefficients and rates are fractions: what cancels in a sum, product or derivative cancels exactly,
and a number is rounded once, when its double is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.polynomial.polynomial import polyval

from gainreg.moments import FloatArray

# Exponentials that cancel near 0, as in eˣ − 1, keep their digits in so many terms of the Taylor
# series: up to rate·|x| = 1 what is left out is below 1e-17, and from there on they cancel little.
TAYLOR = 24


class ExpPoly:
    """A sum of c·xᵏ·eᵃˣ. It is written with ``X``, ``exp`` and numbers: ``X * (X + 3) / 6``.

    Attributes:
        terms: the coefficients c by (k, a).
    """

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

    def __mul__(self, other: ExpPoly | Fraction | float) -> ExpPoly:
        product = ExpPoly({})
        for (k, a), c in self.terms.items():
            for (m, b), d in ExpPoly.of(other).terms.items():
                product += ExpPoly({(k + m, a + b): c * d})
        return product

    def __neg__(self) -> ExpPoly:
        return self * -1

    def __sub__(self, other: ExpPoly | float) -> ExpPoly:
        return self + -ExpPoly.of(other)

    def __rsub__(self, other: float) -> ExpPoly:
        return -self + other

    def __truediv__(self, other: float) -> ExpPoly:
        return self * (1 / Fraction(other))

    __radd__, __rmul__ = __add__, __mul__

    def derivative(self) -> ExpPoly:
        """The derivative by x."""
        slope = ExpPoly({})
        for (k, a), c in self.terms.items():
            slope += ExpPoly({(k, a): c * a})
            if k:
                slope += ExpPoly({(k - 1, a): c * k})
        return slope

    def reflected(self) -> ExpPoly:
        """The function of −x."""
        return ExpPoly({(k, -a): c * (-1) ** k for (k, a), c in self.terms.items()})

    def taylor(self, count: int) -> list[Fraction]:
        """The first coefficients of its power series around 0."""
        found = [Fraction(0)] * count
        for (k, a), c in self.terms.items():
            for n in range(k, count):
                found[n] += c
                c *= a / (n + 1 - k)
        return found

    @cached_property
    def _near(self) -> tuple[float, list[float]]:
        """Below which |x| it is its Taylor polynomial, and the coefficients of that."""
        rate = to_double(max((abs(a) for _, a in self.terms), default=Fraction(0)))
        return (1 / rate, [to_double(c) for c in self.taylor(TAYLOR)]) if rate else (0.0, [0.0])

    def __call__(self, x: FloatArray) -> FloatArray:
        total = np.zeros_like(x)
        with np.errstate(over="ignore"):  # an exponential beyond all doubles is infinite
            for (k, a), c in self.terms.items():
                term = to_double(c) * x**k
                total += term * np.exp(to_double(a) * x) if a else term
        reach, coefficients = self._near
        near = np.abs(x) < reach
        total[near] = polyval(x[near], coefficients)
        return total


X = ExpPoly({(1, Fraction(0)): Fraction(1)})


def exp(rate: float) -> ExpPoly:
    """The function e^{rate·x}."""
    return ExpPoly({(0, Fraction(rate)): Fraction(1)})


def to_double(number: Fraction) -> float:
    """The nearest double, infinite where there is none."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
