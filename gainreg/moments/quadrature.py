"""Gaussian moments by quadrature, for any elementwise deterministic φ.

Each half line, split at the kinks, is mapped to the whole line by x = c + eᵘ (from a kink c to
infinity) or by a logistic curve (between two kinks), and summed by the trapezoid rule, which
converges geometrically there (Trefethen and Weideman, SIAM Review 56(3), 2014). Since the nodes
crowd towards every kink on a logarithmic scale, one fixed rule serves every std: features of φ far
smaller or larger than std are resolved alike. Every second node makes the rule of twice the step;
where the two differ, φ has a kink nobody declared or a feature narrower than the step, and an
adaptive rule of ``scipy.integrate`` takes over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from gainreg.moments import FloatArray, Moments, concatenate, fields
from gainreg.moments.extended import gaussian_factor

Function = Callable[[FloatArray], FloatArray]

EPS = float(np.finfo(float).eps)
# In u = ln x the rule's error is e^{-2π(π/4)/step} for a smooth φ: far below rounding at step
# 0.055, and still at twice that.
LENGTH = 36.0  # e^-36 is below the rounding of anything that is bounded at the kink
LOWEST = -700.0  # the same for what has a pole there, as far as doubles go
KINK_LENGTH = 100.0  # the same where the distance between kinks may be e^60 times the std
# (largest z, step), tried in turn. The density at the first z is below 1e-24; for what outgrows
# that, or is too lively for the step, the second is where the density leaves a double's range.
RULES = ((10.5, 0.055), (38.5, 0.055 / 4))
SETTLED_NUMERICAL = 1e-7  # the same for E[φ′²] with a numerically differentiated φ′
SETTLED = 5e-14  # relative difference of the two rules at which the finer one is taken as exact
ADAPTIVE, MAX_SUBDIVISIONS = 2e-14, 120  # relative error asked of the adaptive rule, and its budget
NEGLIGIBLE = 1e-16  # of the sum, for the outermost terms
RUN = 400_000  # nodes evaluated at once


@dataclass(frozen=True)
class _Rule:
    """Nodes x = std·z in rows (std, row, node); half of the rows are those of twice the step."""

    x: FloatArray
    z_square: FloatArray
    root_weight: FloatArray
    far: FloatArray | None = None  # (kink/std)² of each row: what rounding x costs there


@lru_cache(maxsize=8)
def _grid(high: float, length: float, step: float) -> FloatArray:
    """u in two rows, the even and the odd nodes of the trapezoid rule."""
    count = math.ceil(length / step / 2)
    return np.asarray(high - step * np.arange(2.0 * count)[::-1].reshape(count, 2).T, float)


def _segment(
    c: float, d: float, std: FloatArray, reach: float, step: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """x, z and the roots of the weights between the kinks 0 ≤ c < d."""
    column = std[:, None, None]
    a = c / column
    if d == math.inf:
        # the density falls from c on over a length of std or, far out, of std²/c
        length = reach / (np.hypot(a, reach) + a)
        y = length * np.exp(_grid(math.log(reach), KINK_LENGTH, step))
        x, spacing = c + column * y, y
    else:
        u = _grid(LENGTH, KINK_LENGTH, step)
        rise, fall = 1 / (1 + np.exp(-u)), 1 / (1 + np.exp(u))
        y = (d - c) / column * rise
        x, spacing = c + (d - c) * rise, y * fall
    decay = np.exp(-a * y / 2 - y * y / 4) * gaussian_factor(c, std, 4.0)[:, None, None]
    root_weight = decay * np.sqrt(spacing * (step / math.sqrt(2 * math.pi)))
    # rounded onto a kink, x would be on the wrong side of it
    x = np.clip(x, np.nextafter(c, math.inf) if c else 0.0, np.nextafter(d, 0.0))
    x, root_weight = np.broadcast_arrays(x, root_weight)
    return x, a + y, root_weight


@lru_cache(maxsize=4)
def _plain_nodes(reach: float, step: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """z, the roots of the weights, and z² without kinks other than 0, the same for every std."""
    z = np.exp(_grid(math.log(reach), LENGTH + math.log(reach), step))
    weight = z * (step / math.sqrt(2 * math.pi))
    # below the first node φ is constant, and what is left of the sum is a geometric series
    weight[:, 0] /= -math.expm1(-2 * step)
    root_weight = np.exp(-z * z / 4) * np.sqrt(weight)
    # rows: even nodes right and left of 0, odd nodes right and left
    z = np.array([z[0], -z[0], z[1], -z[1]])[None]
    return z, root_weight[[0, 0, 1, 1]][None], z * z


def _rule(std: FloatArray, kinks: Sequence[float], reach: float, step: float) -> _Rule:
    if not any(kinks):
        z, root_weight, z_square = _plain_nodes(reach, step)
        return _Rule(std[:, None, None] * z, z_square, root_weight)
    rows, far = [], []
    for sign in (1.0, -1.0):
        edges = sorted({0.0, math.inf, *(sign * k for k in kinks if sign * k > 0)})
        for c, d in pairwise(edges):
            x, z, root_weight = _segment(c, d, std, reach, step)
            rows.append((sign * x, z * z, root_weight))
            far.append((c / std) ** 2)
    parts = [
        np.concatenate([row[i][:, half : half + 1] for half in (0, 1) for row in rows], axis=1)
        for i in range(3)
    ]
    return _Rule(parts[0], parts[1], parts[2], np.array(far * 2).T)


def fixed_moments(
    forward: Function,
    derivative: Function,
    std: FloatArray,
    kinks: Sequence[float] = (),
    slope_settled: float = SETTLED,
) -> Moments:
    """All moments by the fixed rule, for all stds at once.

    Args:
        forward: φ, vectorised.
        derivative: φ′, vectorised.
        std: stds of the pre-activation, a 1-D array.
        kinks: where φ or φ′ jumps.
        slope_settled: relative difference at which E[φ′²] counts as settled; larger where φ′ is
            itself an approximation.

    Returns:
        The moments, with ``error`` infinite where the rule has not settled, and likewise
        ``derivative_second_moment`` infinite where its own sum has not, NaN where φ′ is so
        singular that none exists.
    """
    nodes_a_std = 1500 * (1 if not any(kinks) else 3 + 3 * len(kinks))
    run = max(1, RUN // nodes_a_std)
    parts = []
    with np.errstate(all="ignore"):
        for i in range(0, len(std), run):
            part = std[i : i + run]
            moments = _apply(part, kinks, RULES[0], forward, derivative, slope_settled)
            again = np.isinf(moments.error) | np.isinf(moments.derivative_second_moment)
            if again.any():
                finer = _apply(part[again], kinks, RULES[1], forward, derivative, slope_settled)
                for whole, new in zip(fields(moments), fields(finer), strict=True):
                    whole[again] = new
            parts.append(moments)
    return parts[0] if len(parts) == 1 else concatenate(parts)


def _apply(
    std: FloatArray,
    kinks: Sequence[float],
    reach_and_step: tuple[float, float],
    forward: Function,
    derivative: Function,
    slope_settled: float,
) -> Moments:
    """The moments by one rule."""
    rule = _rule(std, kinks, *reach_and_step)
    phi, slope = forward(rule.x), derivative(rule.x)
    # the terms of second moment, E[φ²z²], E[φ′²] and mean; squared last, so that neither φ² nor
    # the weight leaves the range of a double
    terms = np.empty((4, *phi.shape))
    root = phi * rule.root_weight
    np.multiply(root, root, out=terms[0])
    np.multiply(terms[0], rule.z_square, out=terms[1])
    slope_root = slope * rule.root_weight
    np.multiply(slope_root, slope_root, out=terms[2])
    np.multiply(root, rule.root_weight, out=terms[3])
    rows = terms.sum(axis=-1)
    even, odd = rows.reshape(4, len(std), 2, -1).sum(axis=-1).transpose(2, 0, 1)
    sums = even + odd
    second, stretched, slope_second, mean = sums
    scale = sums.copy()
    scale[3] = np.sqrt(second)
    off = np.abs(even - odd)
    settled = off <= SETTLED * scale
    good = settled[0] & settled[1] & settled[3]
    # what is cut off beyond the outermost nodes
    good &= terms[0, ..., -1].max(axis=-1) <= NEGLIGIBLE * second
    slope_second = np.where(off[2] <= slope_settled * slope_second, slope_second, np.inf)
    # … and what is cut off below the first, if φ or φ′ is singular there
    weighty = terms[::2, ..., 0] > NEGLIGIBLE * sums[::2, :, None]
    if weighty.any():
        good &= ~(weighty[0] & _steep_at_first(phi)).any(axis=-1)
        slope_second[(weighty[1] & _steep_at_first(slope)).any(axis=-1)] = np.nan
    error = off[0] + 2 * EPS * second
    if rule.far is not None:
        error += 0.1 * EPS * np.where(rows[0] > 0, rows[0] * rule.far, 0.0).sum(axis=-1)
    variance = second - mean * mean
    if (variance < 0.1 * second).any():
        centred = (phi - mean[:, None, None]) * rule.root_weight
        variance = (centred * centred).sum(axis=(-1, -2))
    return Moments(
        mean=mean,
        second_moment=second,
        variance=variance,
        variance_slope=(stretched / second - 1) / 2,
        derivative_second_moment=slope_second,
        error=np.where(good, error, np.inf),
    )


def _steep_at_first(values: FloatArray) -> np.ndarray:
    """Whether a function still changes at the nodes next to the kink, row by row."""
    first, second = values[..., 0], values[..., 1]
    return np.asarray(~(np.abs(first - second) <= 1e-3 * np.abs(first)))


def numerical_derivative(forward: Function, x: FloatArray) -> FloatArray:
    """φ′(x) by finite differences to the left, to the right and around, the surest of the three.

    A difference that reaches across a kink does not converge; one of the other two does.
    """
    from scipy import differentiate  # slow to import, and not needed for what is declared

    # a step that fits both the distance from 0 and, at 0, features of size 1 and of size std
    size = np.abs(x)
    step = 0.1 * size + 1e-3 * np.minimum(size.max(axis=-1, keepdims=True), 1.0)
    flat, steps = x.ravel(), step.ravel()
    best, best_error = np.zeros_like(flat), np.full_like(flat, np.inf)
    for direction in (0, 1, -1):
        found = differentiate.derivative(
            forward,
            flat,
            initial_step=steps,
            step_direction=direction,
            order=8,
            maxiter=12,
            tolerances={"rtol": 1e-13, "atol": 0},
        )
        error = np.where(np.isfinite(found.error), found.error, np.inf)
        better = np.isfinite(found.df) & (error < best_error)
        best, best_error = np.where(better, found.df, best), np.where(better, error, best_error)
    return np.asarray(best.reshape(x.shape))


def dense_second_moment(forward: Function, std: float) -> float:
    """E[φ²] by a rule so dense that it meets features which the fixed rule may step over."""
    z, root_weight, _ = _plain_nodes(RULES[1][0], RULES[1][1] / 8)
    with np.errstate(all="ignore"):
        return float(((forward(std * z) * root_weight) ** 2).sum())


def adaptive_moments(forward: Function, std: float) -> tuple[Moments, tuple[float, ...]]:
    """The moments of φ at one std by ``scipy.integrate.cubature``, and the kinks met on the way.

    In u = ln|x|, Gauss-Kronrod panels are halved until they close in on each undeclared kink.
    ``error`` is scipy's estimate; second_moment is infinite where its terms do not die out;
    ``derivative_second_moment`` is left infinite, that is: not settled.
    """
    from scipy import integrate  # as above

    high = math.log(RULES[1][0])
    scale = np.ones(3)

    def terms(u: FloatArray) -> FloatArray:
        z = np.exp(u[:, 0])
        z = np.concatenate([z, -z])
        root_weight = np.exp(-z * z / 4) * np.sqrt(np.abs(z) / math.sqrt(2 * math.pi))
        root = forward(std * z) * root_weight
        values = np.array([root * root, (root * z) ** 2, root * root_weight])
        return np.asarray((values / scale[:, None]).reshape(3, 2, -1).sum(axis=1).T)

    with np.errstate(all="ignore"):
        for low in (-LENGTH, LOWEST):
            u = np.linspace(low, high, 4000)
            sizes = terms(u[:, None])[:, :2]
            # a first look for the sizes, so that all three are found to the same relative error
            total = sizes.sum(axis=0) * (u[1] - u[0])
            if sizes[0, 0] <= NEGLIGIBLE * total[0]:
                break
        if total[0] == 0:
            return Moments(*(np.zeros(1) for _ in range(6))), ()
        if not np.isfinite(total).all() or sizes[[0, -1], 0].max() > 1e-9 * total[0]:
            return Moments(*(np.full(1, np.inf) for _ in range(6))), ()
        scale[:] = *np.where(total > 0, total, 1.0), math.sqrt(total[0]) or 1.0

        def cut(offset: float) -> list[Any]:
            edges = np.array([low, -16.0, -8.0, *np.arange(-4.0 + offset, high, 0.47), high])
            return [
                integrate.cubature(
                    terms,
                    edges[i : i + 1],
                    edges[i + 1 : i + 2],
                    rtol=0,
                    atol=ADAPTIVE / len(edges),
                    max_subdivisions=MAX_SUBDIVISIONS,
                )
                for i in range(len(edges) - 1)
            ]

        # in panels, lest the first and widest step over all that there is; and cut in two ways, as
        # a kink hides between the end of a panel and the outermost of its nodes
        ways = sorted((cut(-0.123), cut(0.071)), key=lambda way: sum(len(r.regions) for r in way))
    other, best = [np.sum([r.estimate for r in way], axis=0) for way in ways]
    second, stretched, mean = best * scale
    slope = (stretched / second - 1) / 2 if second > 0 else math.nan
    # next to a kink the estimate is as often too small as too large, and with a noisy φ more so
    doubt = 20.0 if all(r.status == "converged" for r in ways[1]) else 40.0
    error = doubt * sum(r.error[0] for r in ways[1]) + 2 * abs(best[0] - other[0])
    moments = Moments(
        mean=np.array([mean]),
        second_moment=np.array([second]),
        variance=np.array([second - mean * mean]),
        variance_slope=np.array([slope]),
        derivative_second_moment=np.array([np.inf]),
        error=np.array([error * scale[0] + 2 * EPS * second]),
    )
    panels = sorted((float(r.a[0]), float(r.b[0])) for result in ways[1] for r in result.regions)
    return moments, _kinks_in(forward, std, panels)


def _kinks_in(
    forward: Function, std: float, panels: Sequence[tuple[float, float]]
) -> tuple[float, ...]:
    """Where the panels shrank to next to nothing, to the last digits; none if they are many."""
    narrow: list[list[float]] = []
    for a, b in panels:
        if b - a < 1e-4:
            if narrow and a - narrow[-1][1] < 1e-9:
                narrow[-1][1] = b
            else:
                narrow.append([a, b])
    if not 0 < len(narrow) <= 32:
        return ()
    kinks = []
    ends = std * np.exp(np.array(narrow))
    for sign in (1.0, -1.0):
        for a, b in np.sort(sign * ends, axis=1):
            kinks += _kink_between(forward, a, b)
    return tuple(kinks)


def _kink_between(forward: Function, a: float, b: float) -> list[float]:
    """The jump or the kink of φ in [a, b]: where its tangents from both sides meet."""
    lo, hi = _close_in(forward, np.array([a]), np.array([b]))
    if jumps_between(forward, np.array([a]), np.array([b]))[0]:
        return [float(lo[0] + hi[0]) / 2]
    width = b - a
    x = np.array([a, b])
    step = 0.05 * np.array([-width, width])
    # one-sided slopes by the three-point rule
    y = [forward(x + k * step) for k in (0, 1, 2)]
    slope = (-3 * y[0] + 4 * y[1] - y[2]) / (2 * step)
    bend = slope[1] - slope[0]
    if abs(bend) <= 1e-4 * max(abs(slope)):
        return []
    kink = (y[0][0] - y[0][1] + slope[1] * b - slope[0] * a) / bend
    return [float(kink)] if a <= kink <= b else []


def _close_in(forward: Function, a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The halves of [a, b], halved again, over which φ changes most."""
    at_a, at_b = forward(a), forward(b)
    for _ in range(60):
        middle = (a + b) / 2
        at_middle = forward(middle)
        left = np.abs(at_middle - at_a) >= np.abs(at_b - at_middle)
        a, at_a = np.where(left, a, middle), np.where(left, at_a, at_middle)
        b, at_b = np.where(left, middle, b), np.where(left, at_middle, at_b)
    return a, b


def jumps_between(forward: Function, a: FloatArray, b: FloatArray) -> np.ndarray:
    """Whether φ jumps somewhere between a and b: its change does not die out as they close in."""
    with np.errstate(all="ignore"):
        change = np.abs(forward(b) - forward(a))
        at_lo, at_hi = (forward(x) for x in _close_in(forward, a, b))
        final = np.abs(at_hi - at_lo)
        size = np.maximum(np.abs(at_lo), np.abs(at_hi))
    return np.asarray((final > 0.1 * change) & (final > 1e-13 * size))
