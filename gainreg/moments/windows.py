"""Windows in ln|x|, narrow enough for a function to be a polynomial in each where it is smooth.

A function is taken for the polynomial through its values at Gauss-Legendre nodes. Many points in
between show how far it deviates from that: by a kink or a feature that is not resolved, or by its
own rounding. The points reach a bit beyond the ends of their window, lest a kink hide between an
end and the outermost node.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.polynomial import legendre

from gainreg.moments import FloatArray

# Of a window: the nodes of its polynomial, the points at which that is checked, and how far these
# reach, in half widths. At 34 checks a kink anywhere within leaves a deviation that halving shows.
NODES, CHECKS, BEYOND = 16, 34, 1.02


@lru_cache(maxsize=1)
def rule() -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Nodes and then checks in (−1, 1), and weights of the nodes; from values at the nodes, those
    of the polynomial at the checks and its slopes at the nodes.
    """
    nodes, weights = legendre.leggauss(NODES)
    checks = np.linspace(-BEYOND, BEYOND, CHECKS)
    through = np.linalg.inv(legendre.legvander(nodes, NODES - 1))
    predict = legendre.legvander(checks, NODES - 1) @ through
    slopes = legendre.legval(nodes, legendre.legder(np.eye(NODES))).T @ through
    return np.concatenate([nodes, checks]), weights, predict, np.asarray(slopes)


def cut(low: float, high: float, width: float) -> FloatArray:
    """Windows as columns (sign of x, middle and half width in ln|x|), on both half lines."""
    edges = np.linspace(low, high, math.ceil((high - low) / width) + 1)
    middle, half = (edges[:-1] + edges[1:]) / 2, np.diff(edges) / 2
    both = [[np.full_like(half, sign), middle, half] for sign in (1.0, -1.0)]
    return np.asarray(np.concatenate(both, axis=1))


def halves(windows: FloatArray) -> FloatArray:
    """Each window as two."""
    sign, middle, half = windows
    quarter = half / 2
    both = [[sign, middle + s * quarter, quarter] for s in (1.0, -1.0)]
    return np.asarray(np.concatenate(both, axis=1))


def sizes(windows: FloatArray) -> FloatArray:
    """|x| at the nodes and the checks of each window, a row each."""
    return np.asarray(np.exp(windows[1][:, None] + windows[2][:, None] * rule()[0]))


def deviation(values: FloatArray) -> FloatArray:
    """How far a function with these values at the points of each window is from a polynomial."""
    apart = values[:, NODES:] - values[:, :NODES] @ rule()[2].T
    return np.asarray(np.abs(apart).max(axis=1))
