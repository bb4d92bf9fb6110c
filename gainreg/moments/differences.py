"""What can be learnt of a function by evaluating it: its derivative, and whether it jumps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gainreg.moments import FloatArray, Function


def derivative(
    forward: Function, x: FloatArray, step: FloatArray, breaks: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """φ′(x) by finite differences that reach neither across 0 nor across a break, and their error.

    Args:
        forward: φ, vectorised.
        x: where, any shape.
        step: over what distance φ is smooth around each x.
        breaks: where φ or φ′ jumps.
    """
    from scipy import differentiate  # slow to import, and not needed for what is declared

    edges = np.unique(np.concatenate([breaks, [-np.inf, 0.0, np.inf]]))
    flat, steps = x.ravel(), np.broadcast_to(step, x.shape).ravel()
    after = np.searchsorted(edges, flat).clip(1, len(edges) - 1)
    left, right = flat - edges[after - 1], edges[after] - flat
    sideways = np.minimum(left, right) <= steps
    found = differentiate.derivative(
        forward,
        flat,
        initial_step=np.where(sideways, np.minimum(steps, 0.9 * np.maximum(left, right)), steps),
        step_direction=np.where(sideways, np.where(left > right, -1, 1), 0),
        order=8,
        maxiter=8,
        tolerances={"rtol": 1e-13, "atol": 0},
    )
    return np.asarray(found.df).reshape(x.shape), np.asarray(found.error).reshape(x.shape)


def jumps_at(forward: Function, points: Sequence[float]) -> bool:
    """Whether φ jumps at one of the points: between the doubles next to it as much as around it."""
    at = np.array(points)
    with np.errstate(all="ignore"):
        # at 0 far enough that x² is still a double
        next_to = np.where(at == 0, 1e-150, np.spacing(np.abs(at)))
        around = np.where(at == 0, 1e-140, 1e-13 * np.abs(at))
        x = np.array([at - next_to, at + next_to, at - around, at + around])
        left, right, far_left, far_right = forward(x)
        change = np.abs(right - left)
        size = np.maximum(np.abs(left), np.abs(right))
        return bool(((change > 0.5 * np.abs(far_right - far_left)) & (change > 1e-13 * size)).any())


def jumps_between(forward: Function, a: FloatArray, b: FloatArray, least: float) -> np.ndarray:
    """Whether φ jumps between each a and its b: its change does not die out as they close in.

    Changes below ``least`` may be the rounding of a φ computed in single precision.
    """
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
        return np.asarray((changes[-1] > 0.5 * changes[9]) & (changes[-1] > least))


def wrong_slope(
    forward: Function, derivative: Function, breaks: Sequence[float]
) -> tuple[float, float, float] | None:
    """Where φ′ is not the slope of φ: x, what φ′ says there, and what φ says; None if nowhere.

    The change of φ over each of many intervals is held against the integral of φ′ over it.
    """
    sizes = np.geomspace(1e-3, 30, 40)
    edges = np.unique(np.concatenate([-sizes, [0.0], sizes, np.asarray(breaks, float)]))
    edges = edges[np.abs(edges) <= 30]
    a, b = edges[:-1], edges[1:]
    with np.errstate(all="ignore"):
        # at the ends as seen from within, for φ may jump there
        true = (forward(np.nextafter(b, a)) - forward(np.nextafter(a, b))) / (b - a)
        means, largest = [], np.abs(true)
        for count in (8, 12):
            nodes, weights = np.polynomial.legendre.leggauss(count)
            slopes = derivative((a + b)[:, None] / 2 + (b - a)[:, None] / 2 * nodes)
            means.append(slopes @ weights / 2)
            largest = np.maximum(largest, np.abs(slopes).max(axis=1))
        claimed = means[1]
        resolved = np.abs(claimed - means[0]) <= 0.01 * largest
        rounding = 1e-12 * (1 + np.abs(forward(b)) / (b - a))
        wrong = resolved & (np.abs(true - claimed) > 0.1 * largest + rounding)
    if wrong.any():
        wrong[wrong] = ~jumps_between(forward, a[wrong], b[wrong], 0.0)
    # an undeclared kink makes one interval wrong; a wrong derivative, most of a region
    run = wrong[1:-1] & wrong[:-2] & wrong[2:]
    if not run.any():
        return None
    i = int(np.argmax(run)) + 1
    return float((a[i] + b[i]) / 2), float(claimed[i]), float(true[i])
