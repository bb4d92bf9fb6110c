"""What is learnt of a function by evaluating it: whether it jumps, whether φ′ is its slope."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gainreg.moments import EPS, FloatArray, Function
from gainreg.moments.windows import NODES, cut, deviation, halves, rule, sizes


def jumps_at(forward: Function, points: Sequence[float]) -> bool:
    """Whether φ jumps at one of the points: between the doubles next to it as much as around it."""
    at = np.array(points)
    with np.errstate(all="ignore"):
        # at 0 far enough that x² is still a double
        next_to = np.where(at == 0, 1e-150, np.spacing(np.abs(at)))
        around = np.where(at == 0, 1e-140, 1e-13 * np.abs(at))
        left, right, far_left, far_right = forward(
            np.array([at - next_to, at + next_to, at - around, at + around])
        )
        change, rounding = np.abs(right - left), 1e-13 * np.maximum(np.abs(left), np.abs(right))
    return bool(((change > 0.5 * np.abs(far_right - far_left)) & (change > rounding)).any())


# --- whether a derivative is the slope of its function ---

# Where a derivative is looked at, as (lowest, highest, width of the windows) in ln|x|: up to 30,
# and down to where x² is no double, for formulas that divide by it have no digits left there.
LOOKED_AT = ((-368.0, -36.0, 4.0), (-36.0, -6.0, 1.0), (-6.0, 3.4, 0.125))
# Windows are halved, up to so many times, until φ and φ′ are polynomials up to such a part of
# their largest values: single precision leaves 2e-6, an oscillation that is not resolved all of
# it. What is no more uneven than φ is between those |x|, or φ′ beside its largest value there, is
# rounding: where terms cancel, as in 1 − cos x, it does not die out along with φ, and often
# nothing is left of φ to show it.
DEPTH, SMOOTH, TYPICAL = 16, 1e-5, (1e-3, 1.0)
TINY = 1e-280  # what is smaller loses its digits on the way to 0, as e^{−x²} does
# Of the windows that are to be halved no more than so many are, evenly chosen: evidence is wanted,
# not all of it.
KEPT = 2000
# φ′ is wrong if its mean over a window is off from that of φ by this part of the largest |φ′|, and
# by so many times what both deviate from polynomials, for both may be rounded, and φ may jump:
# right ones, in single precision, are off by 1e-6, and 2 % has to be noticed.
OFF, BELIEVED = 5e-3, 8.0
# Of the integral of φ′²: what may be left where φ′ is not smooth. A kink that nobody declared
# leaves 4e-7; automatic differentiation that divides by zero, as of sinc at 0, everything.
OPEN = 1e-4


@dataclass(frozen=True)
class SlopeCheck:
    """What comparing φ′ with φ has shown.

    Attributes:
        settled: whether φ′ could be compared with φ everywhere that counts.
        wrong: an x around which φ′ is not the slope of φ, what φ′ says there and what φ says.
    """

    settled: bool
    wrong: tuple[float, float, float] | None = None


def check_slope(forward: Function, derivative: Function) -> SlopeCheck:
    """Hold the change of φ over many windows against the integral of φ′ over them.

    Args:
        forward: φ, vectorised.
        derivative: what is said to be φ′, vectorised.
    """
    with np.errstate(all="ignore"):
        windows, rounding, typical = _smooth_windows(forward, derivative)
        x, phi, slope, highest, steepest, rough, uneven = _look(forward, derivative, windows)
        _, weights, _, slopes = rule()
        length = windows[2] * (x[:, :NODES] @ weights)
        claimed = windows[2] * ((slope * x)[:, :NODES] @ weights) / length
        true = phi[:, :NODES] @ (slopes.T @ weights) / length
        length = np.abs(length)
        unsure = (np.maximum(rough, rounding) + EPS * highest) / length + uneven
        allowed = OFF * np.maximum(steepest, np.abs(true)) + BELIEVED * unsure
        wrong = np.flatnonzero(np.isfinite(claimed) & (np.abs(true - claimed) > allowed))
        if wrong.size:
            i = wrong[np.argmin(np.abs(np.log(np.abs(x[wrong, 0]))))]
            return SlopeCheck(True, (float(x[i, 0]), float(claimed[i]), float(true[i])))
        unresolved = ~(uneven <= SMOOTH * np.maximum(steepest, typical) + TINY)
        share = steepest**2 * length
        return SlopeCheck(bool(share[unresolved].sum() <= OPEN * share[~unresolved].sum()))


def _look(forward: Function, derivative: Function, windows: FloatArray) -> tuple[FloatArray, ...]:
    """x, φ and φ′ at the points of each window; there the largest |φ| and |φ′|, and how far φ and
    φ′ are from polynomials.
    """
    x = windows[0][:, None] * sizes(windows)
    values = forward(x), derivative(x)
    return x, *values, *(np.abs(y).max(axis=1) for y in values), *map(deviation, values)


def _smooth_windows(forward: Function, derivative: Function) -> tuple[FloatArray, float, float]:
    """Windows in which φ and φ′ are smooth, and at last those in which they were not seen to be;
    the rounding of φ and the largest |φ′| at TYPICAL places.
    """
    windows, kept = np.hstack([cut(*place) for place in LOOKED_AT]), []
    rounding = typical = 0.0
    for _ in range(DEPTH):
        x, _, _, highest, steepest, rough, uneven = _look(forward, derivative, windows)
        at = np.abs(x[:, 0])
        here = (at >= TYPICAL[0]) & (at <= TYPICAL[1]) & (rough <= SMOOTH * highest)
        rounding = float(rough[here].max(initial=rounding))
        typical = float(steepest[here].max(initial=typical))
        smooth = rough <= np.maximum(SMOOTH * highest, rounding) + TINY
        smooth &= uneven <= SMOOTH * np.maximum(steepest, typical) + TINY
        kept.append(windows[:, smooth])
        left = np.flatnonzero(~smooth)
        windows = halves(windows[:, left[:: math.ceil(len(left) / KEPT) or 1]])
        if not left.size:
            break
    return np.hstack([*kept, windows]), rounding, typical
