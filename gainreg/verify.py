"""What is found out about an activation before its first use: nothing declared is taken on trust.

Is φ random, does it jump, is the declared derivative its slope, and how far is each closed form
from quadrature, from small stds to large? What is wrong is refused. A check may only refuse on
evidence that has itself settled; where it has not, the check says nothing, and what is then not
known is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gainreg.bound import Bound
from gainreg.entry import SMALLEST
from gainreg.errors import PluginError
from gainreg.moments import EPS, FloatArray, Function, differences, quadrature, sampling, windows

CLOSED = ("mean", "second_moment", "variance_slope", "derivative_second_moment")

# Closed forms are compared with quadrature at these stds before their first use, …
A_DECADE = 4
PROBES = 10.0 ** (np.arange(-8 * A_DECADE, 8 * A_DECADE + 1) / A_DECADE)
PROBES.flags.writeable = False
AROUND_PROBES = np.array([np.ones_like(PROBES), np.log(PROBES), 0.01 + 0 * PROBES])
# … and φ is searched for kinks that nobody declared only at those between these, for a search takes
# 60 ms a std; where φ′ too has to be found by differences, only near 1.
ORDINARY, NEAR = (1e-2, 1e2), (0.3, 3.0)
# A closed form is called wrong from this relative difference on, times max(std², 1/std²): one that
# is right may cancel so far out, and there it is merely not used. A difference below ROUNDING
# beside E[φ(z)²], or below differences.BELIEVED times its deviation from a polynomial at that std
# or, up to 1, at a larger one, may be what is left of terms that cancel at small std.
WRONG, ROUNDING = 1e-9, 1e-12
NUMERICAL = 1e-4  # the same for E[φ′²] where φ′ is found by differences, which promise 1e-6
# Two evaluations of φ differ by more than this part if φ is random, or not elementwise; those of
# single precision, in another order, by 1e-7. What the last digits of x change may differ more.
SAME, SAME_NEAR_0, LAST_DIGITS = 1e-6, 1e-9, 64
# A closed form of what is random is refused this many standard errors away from samples, beyond a
# part of its size: a sampler of groups may leave part of the last one out …
SIGMAS, GROUPS = 6.0, 1e-2
# … and only where the standard error itself can be believed: where few samples make up most of the
# second moment (an exponential at std 10), it is a large part of it, and says nothing.
LARGEST_STANDARD_ERROR = 0.05


@dataclass(frozen=True)
class Facts:
    """What was found out about an activation with its params.

    Attributes:
        integrable: whether φ is a fixed function of one number, so that quadrature applies.
        jumps: whether φ jumps at 0 or at a declared kink, so that E[φ′²] does not exist.
        derivative: φ′ as declared, if it could be seen to be the slope of φ; None otherwise.
        off: by the name of a moment that has a closed form, how far that is from quadrature:
            ``off[name][i]`` is the worse of the relative differences at PROBES[i − 1] and
            PROBES[i], infinite beyond the first and the last.
    """

    integrable: bool
    jumps: bool
    derivative: Function | None
    off: Mapping[str, FloatArray]


def facts(bound: Bound) -> Facts:
    """Look at an activation, once; see ``Bound.facts``."""
    integrable = bound.activation.forward is not None and not _is_random(bound)
    jumps, derivative = False, None
    if integrable:
        kinks = [0.0, *(bound.kinks or ())]
        jumps = differences.jumps_at(bound.forward, kinks)
        if bound.activation.derivative is not None:
            derivative = _checked_derivative(bound, kinks)
    closed = closed_forms(bound, PROBES)
    if integrable and closed:
        off = _compare_with_quadrature(bound, jumps, derivative, closed)
    else:
        off = _compare_with_samples(bound, closed)
    between = {name: np.maximum(v[:-1], v[1:]) for name, v in off.items()}
    padded = {name: np.pad(v, 1, constant_values=np.inf) for name, v in between.items()}
    return Facts(integrable, jumps, derivative, padded)


def closed_forms(bound: Bound, std: FloatArray) -> dict[str, FloatArray]:
    """The values of all closed forms that the activation has, by the name of the moment."""
    values = {name: bound.closed_form(name, std) for name in CLOSED}
    return {name: value for name, value in values.items() if value is not None}


def _is_random(bound: Bound) -> bool:
    """Whether φ, asked twice, answers differently.

    Raises:
        PluginError: φ is not elementwise.
    """
    points = np.random.default_rng(0).normal(size=2000)
    whole = bound.forward(points)

    def close(others: FloatArray) -> bool:
        return bool(np.allclose(whole, others, rtol=SAME, atol=SAME_NEAR_0))

    parts = np.concatenate([bound.forward(points[:1:-1]), bound.forward(points[1::-1])])[::-1]
    if close(parts):
        return False
    if not close(bound.forward(points)):
        return True
    # a lively φ may answer differently because another loop rounds another way within it
    nearby = [bound.forward(points * (1 + digits * EPS)) for digits in (-LAST_DIGITS, LAST_DIGITS)]
    if not (np.abs(whole - parts) > np.abs(nearby - whole).max(axis=0) + SAME).any():
        return False
    raise PluginError(
        f"activation {bound.name!r} is not elementwise: φ at one point depends on the other "
        "points; declare it with a sample function in place of forward"
    )


def _checked_derivative(bound: Bound, kinks: list[float]) -> Function | None:
    """The declared φ′ where it was seen to be the slope of φ, None where that cannot be seen.

    Raises:
        PluginError: it is wrong.
    """
    found = differences.check_slope(bound.forward, bound.derivative)
    if found.wrong is not None:
        x, claimed, true = found.wrong
        raise PluginError(
            f"the derivative of {bound.name!r} is wrong: around x = {x:.6g} it gives "
            f"{claimed:.10g} where φ has the slope {true:.10g}; correct it, or leave it out"
        )
    return bound.derivative if found.settled else None


def _compare_with_quadrature(
    bound: Bound, jumps: bool, derivative: Function | None, closed: Mapping[str, FloatArray]
) -> dict[str, FloatArray]:
    """How far closed forms are from quadrature at PROBES, in units of ``_scale``.

    Where quadrature itself does not settle, a closed form is taken to be as far off as at the next
    probe towards std 1 where it does, or, if it does at none of these, to be right within rounding.

    Raises:
        PluginError: a closed form is wrong.
    """
    # φ′ is not looked for where nothing depends on it, as that may take long
    slope_counts = "derivative_second_moment" in closed and not jumps
    searched = NEAR if slope_counts and derivative is None else ORDINARY
    slope = derivative if slope_counts else np.zeros_like
    exact = quadrature.integrated(bound.forward, slope, PROBES, bound.kinks, searched)
    second = exact.second_moment
    middle = len(PROBES) // 2
    typical = second[middle]
    allowed = np.maximum(PROBES**2, PROBES**-2)
    off = {}
    for name, value in closed.items():
        if name == "derivative_second_moment" and not slope_counts:
            continue
        true = getattr(exact, name)
        scale = _scale(name, true, second)
        settled = np.isfinite(true) & np.isfinite(second) & (second >= SMALLEST)
        difference = np.abs(value - true)
        tolerance = (WRONG * allowed + 2 * exact.error / second) * scale
        if name == "derivative_second_moment" and derivative is None:
            tolerance += NUMERICAL * scale
        wrong = settled & np.isfinite(value) & (difference > tolerance)
        around = np.asarray(bound.closed_form(name, windows.sizes(AROUND_PROBES).ravel()))
        seen = np.nan_to_num(windows.deviation(around.reshape(len(PROBES), -1)), posinf=0.0)
        seen[:middle] = np.maximum.accumulate(seen[middle::-1])[:0:-1]
        cancelling = ROUNDING * (1.0 if name == "variance_slope" else typical)
        wrong &= difference > np.maximum(cancelling, differences.BELIEVED * seen)
        if wrong.any():
            i = np.flatnonzero(wrong)[np.argmin(np.abs(np.log(PROBES[wrong])))]
            plugin = bound.providers.get(name)
            raise PluginError(
                f"the closed form for the {name} of {bound.name!r}"
                f"{f', from plugin {plugin!r},' if plugin else ''} is wrong: at "
                f"std = {PROBES[i]:.6g} it gives {value[i]:.10g} where quadrature gives "
                f"{true[i]:.10g}; correct it, or leave it out and let quadrature answer"
            )
        off[name] = np.where(settled, difference / scale, np.nan)
        for outward in (range(middle, -1, -1), range(middle, len(PROBES))):
            last = 4 * EPS
            for i in outward:
                last = off[name][i] = last if np.isnan(off[name][i]) else off[name][i]
        # where a moment dies out its closed form has cancelled long before
        off[name][np.isnan(value) | (second < SMALLEST)] = np.inf
    return off


def _scale(name: str, value: FloatArray, second: FloatArray) -> FloatArray:
    """What an error of a moment is measured against."""
    if name == "mean":
        return np.sqrt(second)
    if name == "variance_slope":
        return np.maximum(np.abs(value), 1.0)
    return value


def _compare_with_samples(bound: Bound, closed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """The same for what is random or not elementwise, by sampling mean and second moment.

    Raises:
        PluginError: a closed form is wrong.
    """
    sampler = bound.sampler
    if sampler is None and bound.activation.forward is not None:
        sampler = lambda std, size, rng: bound.forward(std * rng.standard_normal(size))  # noqa: E731
    trusted = {name: np.where(np.isnan(v), np.inf, 4 * EPS) for name, v in closed.items()}
    if sampler is None or not closed:
        return trusted
    for std in (0.1, 1.0, 10.0):
        second, its_error = sampling.second_moment(sampler, std, seed=0)
        if not its_error <= LARGEST_STANDARD_ERROR * second:
            continue
        ways = {"second_moment": ((second, its_error), second)}
        if "mean" in closed:
            ways["mean"] = sampling.mean(sampler, std, seed=0), second**0.5
        for name, ((sampled, standard_error), size) in ways.items():
            value = closed.get(name, PROBES * np.nan)[np.searchsorted(PROBES, std * 0.999)]
            if not (np.isfinite(value) and np.isfinite(sampled)):
                continue
            if not abs(value - sampled) <= SIGMAS * standard_error + GROUPS * size:
                raise PluginError(
                    f"the closed form for the {name} of {bound.name!r} is wrong: at "
                    f"std = {std:g} it gives {value:.10g} where sampling gives {sampled:.10g} "
                    f"± {standard_error:.2g}; correct it, or leave it out"
                )
    return trusted
