"""What can be learnt of a function by evaluating it: its derivative, and whether it jumps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gainreg.moments import EPS, BoolArray, FloatArray, Function


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


def jumps_between(forward: Function, a: FloatArray, b: FloatArray, least: float) -> BoolArray:
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


# --- whether a derivative is the slope of its function ---

# Where a derivative is looked at: intervals between so many points from 1e-3 to 30 on both sides,
# and from there down to where x² is no double, for formulas that divide by it have no digits left.
LOOKED_AT = np.concatenate(
    [np.geomspace(1e-160, 1e-3, 30, endpoint=False), np.geomspace(1e-3, 30, 40)]
)
# A mean of φ′ over an interval is believed if one Gauss-Legendre rule and two of them on its halves
# agree to this part of the largest |φ′| there. An unresolved oscillation makes them differ at
# random, by about that largest, so that one interval in a million is believed by chance.
NODES, SETTLED = 12, 1e-6
# Otherwise it is cut into so many, this many times: to a millionth of its length. Of what is then
# still open no more than so many are kept, evenly chosen: evidence is wanted, not all of it.
CUTS, DEPTH, KEPT = 4, 10, 2000
# A settled mean of φ′ is wrong if it is off by this part of the largest |φ′|, beyond what rounding
# makes of the change of φ: right ones, in single precision, are off by 1e-6, and 2 % has to be
# noticed.
OFF = 5e-3
# The rounding of φ is looked for at these |x|, between so many points that lie a millionth of |x|
# apart: the sixth differences of what is smooth vanish there, up to rates of 1e4. Where terms
# cancel, as in 1 − cos x, it is that of the terms, and does not die out along with φ: what is seen
# at one |x| up to 1 holds for all below, and what is seen from 1e-3 on holds for all above.
PLACES, POINTS_APART, POINTS, ORDER = np.geomspace(1e-20, 10**1.5, 87), 1e-6, 12, 6
HOLDS_ABOVE, HOLDS_BELOW = 1e-3, 1.0
# The root mean square of rounding, by its sixth differences (Moré and Wild, SIAM J. Sci. Comput.
# 33(3), 2011); a change of φ is believed from so many times that on. Where all of φ is rounded to
# multiples of something, a change may be 3.5 times it off.
ROUGHNESS, BELIEVED = math.factorial(ORDER) / math.sqrt(math.factorial(2 * ORDER)), 16.0
# Of the integral of φ′²: what may be left where the mean of φ′ does not settle. A kink that nobody
# declared leaves 4e-7; automatic differentiation that divides by zero, as of sinc at 0, everything.
OPEN = 1e-4
# φ may have a jump or a narrow step in one place, which φ′ does not show: only where the mean is
# wrong in most of so many parts of an interval is φ′ itself wrong there.
PARTS = 16


@dataclass(frozen=True)
class SlopeCheck:
    """What comparing φ′ with φ has shown.

    Attributes:
        settled: whether φ′ could be compared with φ everywhere that counts.
        wrong: an x around which φ′ is not the slope of φ, what φ′ says there and what φ says.
    """

    settled: bool
    wrong: tuple[float, float, float] | None = None


def check_slope(forward: Function, derivative: Function, breaks: Sequence[float]) -> SlopeCheck:
    """Hold the change of φ over many intervals against the integral of φ′ over them.

    Intervals in which that integral has not converged are cut until it has; where it does not,
    nothing is said.

    Args:
        forward: φ, vectorised.
        derivative: what is said to be φ′, vectorised.
        breaks: where φ or φ′ jumps.
    """
    edges = np.unique(np.concatenate([-LOOKED_AT, [0.0], LOOKED_AT, np.asarray(breaks, float)]))
    edges = edges[np.abs(edges) <= LOOKED_AT[-1]]
    a, b = edges[:-1], edges[1:]
    with np.errstate(all="ignore"):
        known, worse = 0.0, np.maximum(rounding(forward, PLACES), rounding(forward, -PLACES))
        for _ in range(DEPTH):
            settled, wrong, claimed, true, largest = _compare(forward, derivative, worse, a, b)
            for i in np.flatnonzero(wrong):
                if not _is_jumping(forward, derivative, worse, float(a[i]), float(b[i])):
                    where = float((a[i] + b[i]) / 2)
                    return SlopeCheck(True, (where, float(claimed[i]), float(true[i])))
            share = largest**2 * (b - a)
            known += float(share[settled].sum())
            left = float(share[~settled].sum())
            a, b = _cut(a[~settled], b[~settled])
            if not a.size:
                break
    return SlopeCheck(left <= OPEN * known)


def rounding(function: Function, places: FloatArray) -> FloatArray:
    """The root mean square of a function's rounding at each of the places; infinite where that is
    not known.
    """
    # the median of three, at numbers that are not round, lest one meets a jump
    near = np.array([0.8713, 0.9127, 0.9541])[:, None] * (1 + POINTS_APART * np.arange(POINTS))
    x = places[:, None, None] * near
    values = function(x.ravel()).reshape(x.shape)
    seen = ROUGHNESS * np.sqrt(np.mean(np.diff(values, ORDER) ** 2, axis=-1))
    found = np.maximum(np.median(seen, axis=-1), EPS * np.abs(values[:, 0, 0]))
    return np.asarray(np.where(np.isfinite(found), found, np.inf))


def _rounding_between(worse: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    """How large the rounding of φ may be between each a and its b, both on one side of 0.

    Args:
        worse: the rounding of φ at PLACES, on the worse side of 0.
        a, b: ends of intervals.
    """
    low, high = np.minimum(np.abs(a), np.abs(b)), np.maximum(np.abs(a), np.abs(b))
    first, last = np.searchsorted(PLACES, [HOLDS_ABOVE, HOLDS_BELOW])
    below = np.maximum.accumulate(worse[last::-1])[::-1]  # the largest from here up to 1
    above = np.maximum.accumulate(worse[first:])  # the largest from 1e-3 up to here
    at_low = np.searchsorted(PLACES, np.minimum(low, HOLDS_ABOVE), side="right") - 1
    at_high = np.searchsorted(PLACES, np.maximum(high, HOLDS_BELOW)).clip(max=len(PLACES) - 1)
    return np.asarray(np.maximum(below[at_low.clip(min=0)], above[at_high - first]))


def _is_jumping(
    forward: Function, derivative: Function, worse: FloatArray, a: float, b: float
) -> bool:
    """Whether φ from a to b is off the integral of φ′ only where it jumps.

    What is left of φ when the slope that φ′ claims is taken away dies out as one closes in on
    nothing but a wrong φ′, and does not on a jump, however many there are.
    """
    edges = np.linspace(a, b, PARTS + 1)
    _, wrong, claimed, *_ = _compare(forward, derivative, worse, edges[:-1], edges[1:])
    claimed = claimed[wrong]
    jumps = jumps_between(
        lambda x: forward(x) - claimed * x, edges[:-1][wrong], edges[1:][wrong], 0.0
    )
    return bool(np.count_nonzero(~jumps) <= PARTS / 2)


def _cut(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Each interval in ``CUTS`` parts, or evenly chosen ones if that makes too many."""
    edges = np.linspace(a, b, CUTS + 1, axis=-1)
    low, high = edges[:, :-1].ravel(), edges[:, 1:].ravel()
    chosen = np.unique(np.linspace(0, max(len(low) - 1, 0), min(len(low), KEPT)).astype(int))
    return low[chosen], high[chosen]


def _compare(
    forward: Function, derivative: Function, worse: FloatArray, a: FloatArray, b: FloatArray
) -> tuple[BoolArray, BoolArray, FloatArray, FloatArray, FloatArray]:
    """Of each interval: whether the mean of φ′ is settled, whether it is then wrong, that mean,
    the mean slope of φ, and the largest |φ′|.
    """
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    middle = (a + b) / 2
    means, largest = [], np.zeros(len(a))
    for low, high in ((a, b), (a, middle), (middle, b)):
        points = ((low + high)[:, None] + (high - low)[:, None] * nodes) / 2
        slopes = derivative(points)
        means.append(slopes @ weights / 2)
        largest = np.maximum(largest, np.abs(slopes).max(axis=1))
    claimed = (means[1] + means[2]) / 2
    # at the ends as seen from within, for φ may jump there
    left, right = forward(np.nextafter(a, b)), forward(np.nextafter(b, a))
    true = (right - left) / (b - a)
    settled = np.abs(claimed - means[0]) <= SETTLED * largest
    unsure = np.maximum(
        EPS * np.maximum(np.abs(left), np.abs(right)), _rounding_between(worse, a, b)
    )
    allowed = OFF * np.maximum(largest, np.abs(true)) + BELIEVED * unsure / (b - a)
    wrong = settled & (np.abs(true - claimed) > allowed)
    return settled, wrong, claimed, true, largest
