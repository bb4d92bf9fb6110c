"""Gaussian moments of a φ of which nothing is known: where it is smooth is found out.

Windows in ln|z| are halved until φ times the root of the density is a polynomial in each. So they
close in on each kink, jump or narrow feature.
"""

from __future__ import annotations

import math

import numpy as np

from gainreg.moments import EPS, FloatArray, Function, Moments, weighted_sums
from gainreg.moments.windows import NODES, cut, deviation, halves, rule, sizes

# Where the windows lie at first, in ln|z|. Below LOW, 1e-16 of E[φ²] is left if φ is bounded there;
# above HIGH as little of whatever grows slowly. The windows above MIDDLE, where nearly all of the
# density is, are CLOSE wide, so that features down to a thousandth of their place are met.
LOW, MIDDLE, HIGH, WIDTH, CLOSE = -36.0, -5.0, 2.375, 0.125, 1 / 32
# If an outermost window holds more than NEGLIGIBLE of E[φ²], they go on to LOWEST and HIGHEST,
# where doubles end: |x| stays above SMALLEST_X, whose square is still a double. If then an
# outermost one still holds more than HEAVY, the terms do not die out, and the moment is infinite.
NEGLIGIBLE, HEAVY = 1e-17, 1e-9
LOWEST, LOWEST_WIDTH, HIGHEST = -700.0, 4.0, 3.625
SMALLEST_X = 1e-150

# A window is done if its error is below SHARE of E[φ²], and the part of E[φ′²] in it below
# SLOPE_SHARE of all. At std 1, max(x, −0.3) then has 13 narrow windows at its kink and an error of
# 3e-15; floor, which jumps all over, has 567 and an error of 1.5e-14.
SHARE, SLOPE_SHARE = 1e-17, 1e-9
# It is done too if φ deviates from a polynomial by no more than its own rounding: relative to φ, 64
# last digits, or those of single precision. The polynomial magnifies rounding up to 33-fold, at
# the outermost checks. Single precision is tried when more than BUDGET windows are open at a
# time, as they are when every one of them shows nothing but rounding.
DOUBLE, SINGLE = 64 * EPS, 2e-6
BUDGET = 4000

# φ jumps where it deviates from a polynomial in the narrowest window by more than this part of
# √E[φ²]: single precision makes changes of 1e-7.
JUMP = 1e-6
# φ′ is too singular for E[φ′²] if windows narrower than SINGULAR hold more than SINGULAR_PART of
# it. Around a kink they hold as little as they are wide.
SINGULAR, SINGULAR_PART = 1e-12, 1e-3
# φ′ is the slope of the polynomial in a window, where φ and x are taken to be right to so many last
# digits; and the relative error of E[φ′²] from which on it is not known.
ROUNDED, DOUBT = 2.0, 1e-6


def _narrowest(windows: FloatArray) -> FloatArray:
    """The half width at which ln|z| is down to its last digits."""
    return np.asarray(2 * EPS * np.maximum(1, np.abs(windows[1])))


def _density_root(z: FloatArray) -> FloatArray:
    """The root of the density of z by ln z."""
    return np.asarray(np.exp(-z * z / 4) * np.sqrt(z / math.sqrt(2 * math.pi)))


def _examine(
    forward: Function, std: float, windows: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Of each window: its part of E[φ²], how far off that may be, its part of E[φ′²], roughly; and
    the deviation of φ from a polynomial, its size, and that of 1, times the root of the density.
    """
    weights = rule()[1]
    sign, _, half = windows[:, :, None]
    z = sizes(windows)
    density_root = _density_root(z)
    phi = forward(sign * std * z)
    root = phi * density_root
    part: FloatArray = windows[2] * (root[:, :NODES] ** 2 @ weights)
    apart, largest = deviation(root), np.abs(root).max(axis=1)
    off = 2 * windows[2] * apart * (2 * largest + apart)
    slope, _ = _slopes(phi[:, :NODES], sign * std * z[:, :NODES], half)
    slope_part = windows[2] * ((slope * density_root[:, :NODES]) ** 2 @ weights)
    return part, off, slope_part, apart, largest, density_root[:, NODES // 2]


def adaptive_moments(forward: Function, derivative: Function | None, std: float) -> Moments:
    """The moments of any φ at one std.

    Args:
        forward: φ, vectorised.
        derivative: φ′, vectorised; None to take the slope of the polynomials.
        std: standard deviation of the pre-activation.

    Returns:
        The moments at that one std. All are infinite where the terms of E[φ²] do not die out, and
        NaN where φ is too lively or random.
    """
    windows, error = smooth_windows(forward, std)
    if not windows.size:
        return Moments.all(error)
    with np.errstate(all="ignore"):
        return _from_windows(forward, derivative, std, windows, error)


def smooth_windows(
    forward: Function, std: float, share: float = SHARE, rounding: float = DOUBLE
) -> tuple[FloatArray, float]:
    """Windows in each of which φ is smooth, or its error negligible.

    Args:
        forward: φ, vectorised.
        std: standard deviation of the pre-activation.
        share: of E[φ²]: the error that a window may have. With 0, whatever is not smooth ends up in
            windows as narrow as doubles allow.
        rounding: relative deviation of what is smooth.

    Returns:
        The windows as columns (sign of x, middle and half width in ln|z|), and how far off E[φ²]
        by them may be; or no windows, and what all moments are: 0, infinite, or NaN where φ is too
        lively or random.
    """
    none = np.empty((3, 0))
    with np.errstate(all="ignore"):
        windows = np.concatenate([cut(LOW, MIDDLE, WIDTH), cut(MIDDLE, HIGH, CLOSE)], axis=1)
        part, *rest = _examine(forward, std, windows)
        lowest = max(LOWEST, math.log(SMALLEST_X) - math.log(std))
        low, high = LOW, HIGH
        beyond = []
        if lowest < LOW and not part[windows[1] < LOW + WIDTH].max() <= NEGLIGIBLE * part.sum():
            beyond.append(cut(low := lowest, LOW, LOWEST_WIDTH))
        if not part[windows[1] > HIGH - CLOSE].max() <= NEGLIGIBLE * part.sum():
            beyond.append(cut(HIGH, high := HIGHEST, CLOSE))
        if beyond:
            windows = np.concatenate([windows, *beyond], axis=1)
            part, *rest = _examine(forward, std, windows)
        off, slope_part, apart, largest, density_root = rest
        total, slope_total = part.sum(), slope_part.sum()
        if total == 0:
            return none, 0.0
        _, middle, half = windows
        outermost = (middle - half < low + 1e-6) | (middle + half > high - 1e-6)
        left = part[outermost].max()
        if not left <= HEAVY * total < math.inf:  # or total is no number
            return none, math.inf

        kept, error, rms = [], 8 * left + 2 * EPS * total, math.sqrt(total)
        while True:
            # The rounding of φ near a zero is that of the terms that cancel there, whose size is
            # taken to be √E[φ²]: it does not shrink along with φ.
            size = largest + rms * density_root + np.finfo(float).tiny
            done = (off <= share * total) & (slope_part <= SLOPE_SHARE * slope_total)
            done |= (apart / size <= rounding) | (windows[2] <= _narrowest(windows))
            done |= ~np.isfinite(off)
            if np.count_nonzero(~done) > BUDGET:
                if rounding >= SINGLE:
                    return none, math.nan
                rounding = SINGLE
                continue
            kept.append(windows[:, done])
            error += off[done].sum()
            if done.all():
                break
            windows = halves(windows[:, ~done])
            _, off, slope_part, apart, largest, density_root = _examine(forward, std, windows)
        return np.concatenate(kept, axis=1), float(error)


def _slopes(phi: FloatArray, x: FloatArray, half: FloatArray) -> tuple[FloatArray, FloatArray]:
    """φ′ at the nodes of each window, as the slope of the polynomial, and how far off it may be."""
    slopes = rule()[3].T
    slope = phi @ slopes / (half * x)
    rounding = ROUNDED * EPS * (np.abs(phi) + np.abs(x * slope))  # of φ, and of x
    error = rounding @ np.abs(slopes) / (half * np.abs(x))
    # Near 0 windows are much narrower than φ is smooth, and a slope may be all rounding: there it
    # is left out, and may be as large as the largest.
    slope = np.where(np.abs(slope) > error, slope, 0.0)
    return slope, np.minimum(error, np.abs(slope).max() or np.inf)


def _from_windows(
    forward: Function, derivative: Function | None, std: float, windows: FloatArray, error: float
) -> Moments:
    """The moments by the Gauss-Legendre rule in each window."""
    sign, _, half = windows[:, :, None]
    z = sizes(windows)[:, :NODES]
    x = sign * std * z
    root_weight = _density_root(z) * np.sqrt(half * rule()[1])
    phi = forward(x)
    if derivative is None:
        slope, slope_error = _slopes(phi, x, half)
    else:
        slope, slope_error = derivative(x), np.zeros_like(x)
    parts = weighted_sums(phi, slope, z, root_weight)
    second, stretched, slope_second, mean = parts.sum(axis=-1)
    centred = (phi - mean) * root_weight
    doubt = (slope_error * (2 * np.abs(slope) + slope_error) * root_weight**2).sum()
    singular = parts[2, windows[2] < SINGULAR].sum()
    near_0 = windows[1] < windows[1].min() + WIDTH
    narrowest = windows[:, windows[2] <= _narrowest(windows)]
    changes = deviation(forward(narrowest[0][:, None] * std * sizes(narrowest)))
    if (
        (changes > JUMP * math.sqrt(second)).any()
        or singular > SINGULAR_PART * slope_second
        or parts[2, near_0].sum() > HEAVY * slope_second
    ):
        slope_second = np.inf
    elif not doubt + singular <= DOUBT * slope_second:
        slope_second = np.nan
    variance, variance_slope = (centred * centred).sum(), (stretched / second - 1) / 2
    found = (mean, second, variance, variance_slope, slope_second, error)
    return Moments(*np.array(found)[:, None])
