"""What is learnt of a function by evaluating it: whether it jumps, whether φ′ is its slope."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gainreg.moments import EPS, Function
from gainreg.moments.adaptive import smooth_windows
from gainreg.moments.windows import NODES, deviation, rule, sizes


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

# φ′ is looked at in the windows in which φ is smooth, as pre-activations of the first std see it,
# up to |x| = 32; or, where there it is too lively to say all (8000 jumps are), of the second.
STDS = (3.0, 0.3)
# φ counts as smooth if it is a polynomial up to this: then windows around a kink are so narrow that
# they hold 1e-6 of the integral of φ′², and what cancels or lacks digits costs the fewest windows.
SMOOTH = 1e-8
# A window shows φ′ to be wrong only if φ is a polynomial there up to this part of its largest value
# (single precision leaves 2e-6) or is no more uneven than between the next two |x|: where terms
# cancel, as in 1 − cos x, rounding does not die out along with φ, and often nothing is left of φ.
# In windows that are narrower than the last, x in single precision stands still, and φ with it.
RESOLVED, TYPICAL, NARROW = 1e-5, (1e-3, 1.0), 1e-5
# It is wrong if its mean over a window is off from that of φ by this part of the largest |φ′|, and
# by so many times what both deviate from polynomials, for both may be rounded, and φ may jump:
# right ones, in single precision, are off by 1e-6, and 2 % has to be noticed.
OFF, BELIEVED = 5e-3, 8.0
# By what part φ′ may leave the integral of φ′² in doubt, being no polynomial in a window. A kink
# that nobody declared leaves 1e-6; automatic differentiation that divides by zero, as of sinc at 0,
# everything.
OPEN = 1e-4


@dataclass(frozen=True)
class SlopeCheck:
    """What comparing φ′ with φ has shown.

    Attributes:
        settled: whether φ′ was seen to be the slope of φ everywhere that counts.
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
    for std in STDS:
        windows, _ = smooth_windows(forward, std, rounding=SMOOTH)
        if windows.size:
            break
    else:
        return SlopeCheck(False)
    with np.errstate(all="ignore"):
        x = windows[0][:, None] * std * sizes(windows)
        phi, slope = forward(x), derivative(x)
        highest, steepest = np.abs(phi).max(axis=1), np.abs(slope).max(axis=1)
        rough, uneven = deviation(phi), deviation(slope)
        at = np.abs(x[:, 0])
        typical = (at >= TYPICAL[0]) & (at <= TYPICAL[1]) & (rough <= RESOLVED * highest)
        rounding = rough[typical].max(initial=0.0)
        # the means of φ′ over each window: by the integral of what is claimed, by the change of φ
        _, weights, _, slopes = rule()
        length = windows[2] * (x[:, :NODES] @ weights)
        claimed = windows[2] * ((slope * x)[:, :NODES] @ weights) / length
        true = phi[:, :NODES] @ (slopes.T @ weights) / length
        length = np.abs(length)
        unsure = (np.maximum(rough, rounding) + EPS * highest) / length + uneven
        allowed = OFF * np.maximum(steepest, np.abs(true)) + BELIEVED * unsure
        resolved = (rough <= np.maximum(RESOLVED * highest, rounding)) & (windows[2] > NARROW)
        differs = np.abs(true - claimed) > allowed
        wrong = np.flatnonzero(resolved & differs)
        if wrong.size:
            i = wrong[np.argmin(np.abs(np.log(np.abs(x[wrong, 0]))))]
            return SlopeCheck(False, (float(x[i, 0]), float(claimed[i]), float(true[i])))
        # how far off E[φ′²] may be: by all of φ′ where it differs after all, else by its unevenness
        counts = length * np.exp(-((at / std) ** 2) / 2)
        off = np.where(differs, np.maximum(steepest, np.abs(true)), uneven)
        doubt = (off * (2 * steepest + off) * counts).sum()
        known = doubt <= OPEN * (steepest**2 * counts).sum() < math.inf
        return SlopeCheck(bool(known) and std == STDS[0])
