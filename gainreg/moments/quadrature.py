"""Gaussian moments by quadrature, for any elementwise deterministic φ.

Each half line, split at the kinks, is mapped to the whole line by x = c + eᵘ (from a kink c to
infinity) or by a logistic curve (between two kinks), and summed by the trapezoid rule, which
converges geometrically there (Trefethen and Weideman, SIAM Review 56(3), 2014). Since the nodes
crowd towards every kink on a logarithmic scale, one fixed rule serves every std: features of φ far
smaller or larger than std are resolved alike. Every second node makes the rule of twice the step;
where the two differ, φ has a kink nobody declared or a feature narrower than the step, and
``gainreg.moments.adaptive`` takes over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from gainreg.moments import EPS, FloatArray, Function, Moments, weighted_sums
from gainreg.moments.adaptive import adaptive_moments
from gainreg.moments.truncated import gaussian_factor

# (largest z, step in u = ln x), tried in turn. For a smooth φ the rule's error is
# e^{−2π(π/4)/step}: far below rounding at 1/16, and still at twice that. The density at the first z
# is below 1e-24; for what outgrows that, or is too lively for the step, the second is where the
# density leaves a double's range.
RULES = ((10.5, 1 / 16), (38.5, 1 / 64))
# How far the nodes reach towards a kink, in u: e^-36 is below the rounding of anything that is
# bounded there; the same where the distance between two kinks may be e^60 times the std.
LENGTH, KINK_LENGTH = 36.0, 100.0
# From so many standard deviations on the density is less than the least double.
BEYOND_ALL = 60.0
# The finer rule is taken as exact where the two differ by no more than this, relative. Where φ is
# resolved they differ by 1e-15; a kink that nobody declared, of max(x, −0.3), leaves 2e-5.
SETTLED = 5e-14
# What is cut off beyond the outermost nodes is negligible if the root of their terms is below this
# part of the root of the sum: the terms are then below 1e-16 of it.
CUT_OFF = 1e-8
# φ is singular at a kink if its first two nodes, e^-100 apart from it, still differ by this part.
SINGULAR = 1e-3
# E[φ²] − E[φ]² has lost a digit where the variance is below this part of E[φ²]; it is summed then.
CANCELLED = 0.1
# Nodes evaluated at once: what stays in the processor's cache. Each piece of a std takes 1500.
RUN, NODES_A_PIECE = 400_000, 1500
# Relative error from which on the search's answer gives way to sampling: quasi-random points reach
# 1e-6 for what is smooth, so that a search that ends above 1e-5 has met what it cannot resolve.
USEFUL = 1e-5


# x = std·z, z and the roots of the weights, in rows (std, row, node), half of them those of twice
# the step; and (kink/std)² of each row: what rounding x costs there
_Rule = tuple[FloatArray, FloatArray, FloatArray, FloatArray | None]


@lru_cache(maxsize=8)
def _grid(high: float, length: float, step: float) -> FloatArray:
    """u in two rows, the even and the odd nodes of the trapezoid rule: exact multiples of step."""
    count = math.ceil(length / step / 2)
    top = math.ceil(high / step)
    return np.asarray(step * (top - np.arange(2.0 * count)[::-1].reshape(count, 2).T), float)


def _segment(
    c: float, d: float, std: FloatArray, reach: float, step: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """x, z and the roots of the weights between the kinks 0 ≤ c < d."""
    column = std[:, None, None]
    # where the density has left a double's range, one place to cut is as good as another
    nothing = BEYOND_ALL * column
    low, high = np.minimum(c, nothing), np.minimum(d, nothing)
    a = low / column
    if d == math.inf:
        # the density falls from c on over a length of std or, far out, of std²/c
        length = reach / (np.hypot(a, reach) + a)
        y = length * np.exp(_grid(math.log(reach), KINK_LENGTH, step))
        x, spacing = low + column * y, y
    else:
        u = _grid(LENGTH, KINK_LENGTH, step)
        rise, fall = 1 / (1 + np.exp(-u)), 1 / (1 + np.exp(u))
        y = (high - low) / column * rise
        x, spacing = low + (high - low) * rise, y * fall
        x = np.minimum(x, np.nextafter(high, 0.0))  # rounded onto a kink, it would be beyond it
    decay = np.exp(-a * y / 2 - y * y / 4) * gaussian_factor(low, column, 4.0)
    root_weight = decay * np.sqrt(spacing * (step / math.sqrt(2 * math.pi)))
    x = np.maximum(x, np.nextafter(low, math.inf) if c else 0.0)
    x, root_weight = np.broadcast_arrays(x, root_weight)
    return x, a + y, root_weight


@lru_cache(maxsize=4)
def _plain_nodes(reach: float, step: float) -> tuple[FloatArray, FloatArray]:
    """z and the roots of the weights without kinks other than 0, the same for every std."""
    z = np.exp(_grid(math.log(reach), LENGTH + math.log(reach), step))
    weight = z * (step / math.sqrt(2 * math.pi))
    # below the first node φ is constant, and what is left of the sum is a geometric series
    weight[:, 0] /= -math.expm1(-2 * step)
    root_weight = np.exp(-z * z / 4) * np.sqrt(weight)
    # rows: even nodes right and left of 0, odd nodes right and left
    z = np.array([z[0], -z[0], z[1], -z[1]])[None]
    return z, root_weight[[0, 0, 1, 1]][None]


def _rule(std: FloatArray, kinks: Sequence[float], reach: float, step: float) -> _Rule:
    if not any(kinks):
        z, root_weight = _plain_nodes(reach, step)
        return std[:, None, None] * z, z, root_weight, None
    rows, far = [], []
    for sign in (1.0, -1.0):
        edges = sorted({0.0, math.inf, *(sign * k for k in kinks if sign * k > 0)})
        for c, d in pairwise(edges):
            x, z, root_weight = _segment(c, d, std, reach, step)
            rows.append((sign * x, z, root_weight))
            far.append(np.minimum(c / std, BEYOND_ALL) ** 2)
    parts = [
        np.concatenate([row[i][:, half : half + 1] for half in (0, 1) for row in rows], axis=1)
        for i in range(3)
    ]
    return parts[0], parts[1], parts[2], np.array(far * 2).T


def integrated(
    forward: Function,
    derivative: Function | None,
    std: FloatArray,
    kinks: Sequence[float] | None,
    searched: tuple[float, float] = (0.0, math.inf),
) -> Moments:
    """The moments of an elementwise φ, NaN where nothing settles: by the fixed rule, and by search
    where that does not settle. numpy may warn of what φ does far out.

    Args:
        forward: φ, vectorised.
        derivative: φ′, vectorised; None to have it found where φ is searched.
        std: stds of the pre-activation, a 1-D array.
        kinks: where φ or φ′ jumps; None if that is not known, so that φ is searched at every std.
        searched: the stds between which φ is searched for what nobody declared.
    """
    found = Moments.all(math.nan, len(std))
    if kinks is not None:
        run = max(1, RUN // (NODES_A_PIECE * (1 if not any(kinks) else 3 + 3 * len(kinks))))
        for start in range(0, len(std), run):
            part = std[start : start + run]
            rows = _apply(part, kinks, RULES[0], forward, derivative)
            if np.isnan(rows.sum()):
                again = np.isnan(rows).any(axis=0)
                rows[:, again] = _apply(part[again], kinks, RULES[1], forward, derivative)
            for whole, row in zip(vars(found).values(), rows, strict=True):
                whole[start : start + run] = row
        if derivative is None:
            found.derivative_second_moment[:] = math.nan
    lacking = found.missing() | np.isnan(found.derivative_second_moment)
    if lacking.any():
        for i in np.flatnonzero(lacking & (std >= searched[0]) & (std <= searched[1])):
            at = np.arange(len(std)) == i
            found.fill(at, adaptive_moments(forward, derivative, float(std[i])))
        unsettled = found.error > USEFUL * found.second_moment
        if unsettled.any():
            found = Moments(*np.where(unsettled, math.nan, list(vars(found).values())))
    return found


def _apply(
    std: FloatArray,
    kinks: Sequence[float],
    reach_and_step: tuple[float, float],
    forward: Function,
    derivative: Function | None,
) -> FloatArray:
    """The moments by one rule, a row each in the order of ``Moments``; NaN where unsettled."""
    x, z, root_weight, far = _rule(std, kinks, *reach_and_step)
    phi = forward(x)
    slope = np.zeros_like(x) if derivative is None else derivative(x)
    rows = weighted_sums(phi, slope, z, root_weight)
    # the outermost values of each row; from here on plain numbers, which are quicker by the dozen
    ends = [(values[..., :2] * root_weight[..., :1]).tolist() for values in (phi, slope)]
    last = (phi[..., -1] * root_weight[..., -1]).tolist()
    sums = rows.transpose(1, 0, 2).tolist()
    m = np.array([_settle(*each) for each in zip(sums, ends[0], ends[1], last, strict=True)]).T
    mean, second, variance, *_, error = m
    if far is not None:
        error += 0.1 * EPS * np.where(rows[0] > 0, rows[0] * far, 0.0).sum(axis=-1)
    if (variance < CANCELLED * second).any():
        centred = (phi - mean[:, None, None]) * root_weight
        variance[:] = (centred * centred).sum(axis=(-1, -2))
    return m


def _settle(
    sums: list[list[float]],
    phi_ends: list[list[float]],
    slope_ends: list[list[float]],
    phi_last: list[float],
) -> list[float]:
    """The moments at one std from the sums of its rows and the roots of their outermost terms."""
    half = len(phi_last) // 2
    evens = [sum(row[:half]) for row in sums]
    odds = [sum(row[half:]) for row in sums]
    second, stretched, slope_second, mean = map(float.__add__, evens, odds)
    off = [abs(even - odd) for even, odd in zip(evens, odds, strict=True)]
    root = math.sqrt(second) if second < math.inf else math.nan
    if not (
        off[0] <= SETTLED * second
        and off[1] <= SETTLED * stretched
        and off[3] <= SETTLED * root
        # what is cut off beyond the outermost nodes, and below the first if φ is singular there
        and max(map(abs, phi_last)) <= CUT_OFF * root
        and not _singular(phi_ends, root)
    ):
        return [math.nan] * 6
    if _singular(slope_ends, math.sqrt(slope_second)):
        slope_second = math.inf
    elif not off[2] <= SETTLED * slope_second:
        slope_second = math.nan
    variance_slope = (stretched / second - 1) / 2 if second else math.nan
    error = off[0] + 2 * EPS * second
    return [mean, second, second - mean * mean, variance_slope, slope_second, error]


def _singular(ends: list[list[float]], root: float) -> bool:
    """Whether a function still changes at the first two nodes of a row, where its terms count."""
    return any(abs(a) > CUT_OFF * root and abs(a - b) > SINGULAR * abs(a) for a, b in ends)
