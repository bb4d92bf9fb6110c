"""What can be learnt of a function by evaluating it: its derivative, and whether it jumps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gainreg.moments import FloatArray, Function


def derivative(forward: Function, x: FloatArray, breaks: Sequence[float] = ()) -> FloatArray:
    """φ′(x) by finite differences that reach neither across 0 nor across a break.

    Args:
        forward: φ, vectorised.
        x: where, any shape.
        breaks: where φ or φ′ jumps.
    """
    from scipy import differentiate  # slow to import, and not needed for what is declared

    edges = np.array(sorted({-np.inf, 0.0, *breaks, np.inf}))
    flat = x.ravel()
    after = np.searchsorted(edges, flat)
    left, right = flat - edges[after - 1], edges[after] - flat
    # a step that fits both the distance from 0 and, at 0, features of size 1 and of size std
    size = np.abs(flat)
    step = 0.1 * size + 1e-3 * min(size.max(initial=0.0), 1.0)
    sideways = np.minimum(left, right) <= step
    found = differentiate.derivative(
        forward,
        flat,
        initial_step=np.where(sideways, np.minimum(step, 0.9 * np.maximum(left, right)), step),
        step_direction=np.where(sideways, np.where(left > right, -1, 1), 0),
        order=8,
        maxiter=12,
        tolerances={"rtol": 1e-13, "atol": 0},
    )
    return np.asarray(found.df).reshape(x.shape)


def jumps(forward: Function, a: FloatArray, b: FloatArray) -> np.ndarray:
    """Whether φ jumps somewhere between a and b: its change does not die out as they close in."""
    changes = []
    with np.errstate(all="ignore"):
        at_a, at_b = forward(a), forward(b)
        for _ in range(60):
            middle = (a + b) / 2
            at_middle = forward(middle)
            left = np.abs(at_middle - at_a) >= np.abs(at_b - at_middle)
            a, at_a = np.where(left, a, middle), np.where(left, at_a, at_middle)
            b, at_b = np.where(left, middle, b), np.where(left, at_middle, at_b)
            changes.append(np.abs(at_b - at_a))
        size = np.maximum(np.abs(at_a), np.abs(at_b))
    return np.asarray((changes[-1] > 0.5 * changes[9]) & (changes[-1] > 1e-13 * size))
