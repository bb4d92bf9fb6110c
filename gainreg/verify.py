"""What is found out about an activation before its first use: nothing declared is taken on trust.

Is φ random, does it jump, is the declared derivative its slope, and how far is each closed form
from quadrature, from small stds to large? What is wrong is refused. A check may only refuse on
evidence that has itself settled; where it has not, the check says nothing, and what is then not
known is not used.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gainreg.entry import SMALLEST
from gainreg.errors import PluginError
from gainreg.moments import (
    EPS,
    BoolArray,
    FloatArray,
    Function,
    Moments,
    quadrature,
    sampling,
    slopes,
    windows,
)

if TYPE_CHECKING:
    from gainreg.bound import Bound

CLOSED = ("mean", "second_moment", "variance_slope", "derivative_second_moment")

# The stds at which closed forms are compared with quadrature before their first use. A form that
# begins to cancel between two of them leaves more than TRUSTED at the second.
A_DECADE = 4
PROBES = 10.0 ** (np.arange(-8 * A_DECADE, 8 * A_DECADE + 1) / A_DECADE)
PROBES.flags.writeable = False
# Windows around them, in each of which a closed form that keeps its digits is a polynomial.
AROUND_PROBES = np.array([np.ones_like(PROBES), np.log(PROBES), np.full_like(PROBES, 0.01)])
# φ is searched for kinks that nobody declared only at the probes between these stds, as a search
# takes up to 60 ms a std; where φ′ too has to be found, only at those near 1.
ORDINARY, NEAR = (1e-2, 1e2), (0.3, 3.0)
# A closed form is called wrong from this relative difference on, times max(std², 1/std²): one that
# is right may cancel so far out, and there it is merely not used. Nor is it wrong if it differs by
# no more than so many times its deviation from a polynomial at that std or, up to 1, at a larger
# one: terms that cancel at small std may leave no more.
WRONG = 1e-9
# The same for E[φ′²] where φ′ is not declared: quadrature then knows it to 1e-6.
NUMERICAL = 1e-4
# A closed form is used between two probes if it is this close to quadrature at both: quadrature's
# own rounding reaches 2e-15 in the worst of the reference rows, and a form that has begun to cancel
# leaves this behind within a quarter of a decade.
TRUSTED = 4e-14
# φ is random, or not elementwise, if two evaluations differ by more than this part, and near 0 by
# more than the second: those of single precision, in another order, differ by 1e-7. Where φ itself
# changes by more within so many last digits of x, two loops that round otherwise may differ so.
SAME, SAME_NEAR_0, LAST_DIGITS = 1e-6, 1e-9, 64
# Where quadrature is silent, as φ is random, not elementwise or too lively, closed forms are
# compared at these stds with samples, a quarter as many as usual for the sake of time.
SAMPLED, FEWER = (0.1, 10.0, 1e3, 1e6), 4
# A closed form is wrong if it is so many standard errors off, and beyond them this part of its
# size: a sampler of groups may leave out part of the last group.
SIGMAS, GROUPS = 6.0, 1e-2
# What that of a sampled mean is at the most, beside √E[φ²]; no closed form is held to less.
LEAST_ERROR = math.sqrt(FEWER / (sampling.REPLICATES * sampling.DRAWS))
# A standard error is believed up to this part of the second moment: where few samples make up most
# of that, as of an exponential at std 10, it is larger, and says nothing.
LARGEST_STANDARD_ERROR = 0.05


def closed_forms(bound: Bound, std: FloatArray) -> dict[str, FloatArray]:
    """The values of all closed forms that the activation has, by the name of the moment."""
    values = {name: bound.closed_form(name, std) for name in CLOSED}
    return {name: value for name, value in values.items() if value is not None}


def is_random(bound: Bound) -> bool:
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


def derivative_is_settled(bound: Bound) -> bool:
    """Whether the declared φ′ was seen to be the slope of φ; False where that cannot be seen.

    Raises:
        PluginError: it is wrong.
    """
    found = slopes.check_slope(bound.forward, bound.declared_derivative)
    if found.wrong is not None:
        x, claimed, true = found.wrong
        raise PluginError(
            f"the derivative of {bound.name!r} is wrong: around x = {x:.6g} it gives "
            f"{claimed:.10g} where φ has the slope {true:.10g}; correct it, or leave it out"
        )
    return found.settled


def how_far_off(bound: Bound) -> dict[str, FloatArray]:
    """How far off closed forms are, as ``Bound.closed_form_errors``.

    Raises:
        PluginError: a closed form is wrong.
    """
    derivative, closed = bound.derivative, closed_forms(bound, PROBES)
    if bound.jumps:
        closed.pop("derivative_second_moment", None)
    if not closed:
        return {}
    exact = Moments.all(np.nan, len(PROBES))
    if bound.integrable:
        # φ′ is not looked for where nothing depends on it, as that may take long
        slope_counts = "derivative_second_moment" in closed
        searched = NEAR if slope_counts and derivative is None else ORDINARY
        slope = derivative if slope_counts else np.zeros_like
        exact = quadrature.integrated(bound.forward, slope, PROBES, bound.kinks, searched)
    drawn = _fill_with_samples(bound, exact)
    off = {}
    for name, value in closed.items():
        numerical = name == "derivative_second_moment" and derivative is None
        differs = _compare(bound, name, value, exact, drawn, NUMERICAL if numerical else 0.0)
        between = np.pad(np.maximum(differs[:-1], differs[1:]), 1, constant_values=np.inf)
        # the worst of a few probes around, as digits that cancel may be right at some by chance
        kept = np.where(between <= TRUSTED, between, 0.0)
        around = np.max([np.roll(kept, shift) for shift in (-1, 0, 1)], axis=0)
        off[name] = np.where(between <= TRUSTED, around, np.inf)
    return off


def _fill_with_samples(bound: Bound, exact: Moments) -> BoolArray:
    """Sample mean and second moment where they are not known, at some of PROBES; at which."""
    drawn = np.zeros(len(PROBES), bool)
    for i in np.searchsorted(PROBES, np.multiply(SAMPLED, 0.999)):
        if np.isnan(exact.second_moment[i]):
            found = sampled(bound, None, PROBES[i], 0, FEWER)
            if found is not None and found.error <= LARGEST_STANDARD_ERROR * found.second_moment:
                exact.mean[i], exact.second_moment[i] = found.mean[0], found.second_moment[0]
                exact.error[i], drawn[i] = found.error[0], True
    return drawn


def _compare(
    bound: Bound, name: str, value: FloatArray, exact: Moments, drawn: BoolArray, numerical: float
) -> FloatArray:
    """How far a closed form is from quadrature at PROBES, relative.

    Where quadrature itself does not settle, it is taken to be as far off as at the next probe
    towards std 1 where it does, or, if it does at none of these, to be right within rounding.

    Args:
        bound, name, value: the closed form and its values.
        exact: the moments by quadrature or sampling, NaN where they are not known.
        drawn: where they are by sampling.
        numerical: by how much quadrature may be off itself, beyond what ``exact.error`` says.

    Raises:
        PluginError: it is wrong.
    """
    true, second = getattr(exact, name), exact.second_moment
    # what an error is measured against
    scale = {"mean": np.sqrt(second), "variance_slope": np.maximum(np.abs(true), 1.0)}.get(
        name, true
    )
    known = np.isfinite(true) & np.isfinite(second) & (second >= SMALLEST)
    difference, its_error = np.abs(value - true), exact.error / second
    tolerance = WRONG * np.maximum(PROBES**2, PROBES**-2) + 2 * its_error + numerical
    tolerance[drawn] = SIGMAS * np.maximum(its_error[drawn], LEAST_ERROR) + GROUPS
    wrong = known & np.isfinite(value) & (difference > tolerance * scale)
    middle = len(PROBES) // 2
    around = np.asarray(bound.closed_form(name, windows.sizes(AROUND_PROBES).ravel()))
    rounding = np.nan_to_num(windows.deviation(around.reshape(len(PROBES), -1)), posinf=0.0)
    rounding[:middle] = np.maximum.accumulate(rounding[middle::-1])[:0:-1]
    wrong &= difference > slopes.BELIEVED * rounding
    if wrong.any():
        i = np.flatnonzero(wrong)[np.argmin(np.abs(np.log(PROBES[wrong])))]
        plugin, sampler = bound.providers.get(name), bound.providers.get("sample")
        evidence = "quadrature"
        if drawn[i]:
            evidence = f"the sampler of plugin {sampler!r}" if sampler else "sampling"
        raise PluginError(
            f"the closed form for the {name} of {bound.name!r}"
            f"{f', from plugin {plugin!r},' if plugin else ''} is wrong: at std = {PROBES[i]:.6g} "
            f"it gives {value[i]:.10g} where {evidence} gives {true[i]:.10g} "
            f"± {tolerance[i] * scale[i]:.2g}; correct it, or leave it out"
        )
    off = np.where(known & ~drawn, difference / scale, np.nan)
    for outward in (range(middle, -1, -1), range(middle, len(PROBES))):
        last = 4 * EPS
        for i in outward:
            last = off[i] = last if np.isnan(off[i]) else off[i]
    # where a moment dies out its closed form has cancelled long before
    off[np.isnan(value) | (second < SMALLEST)] = np.inf
    return off


def sampled(
    bound: Bound, derivative: Function | None, std: float, seed: int, fewer: int = 1
) -> Moments | None:
    """Moments by sampling, by 1/fewer of the usual draws; None if there is nothing to draw."""
    draws = sampling.DRAWS // fewer
    if bound.sampler is not None:
        return sampling.sampled_moments(bound.sampler, std, seed, draws)
    if bound.activation.forward is not None:
        return sampling.elementwise_moments(bound.forward, derivative, std, seed, draws)
    return None
