"""The moments of an activation by closed form, quadrature or sampling, each held against another.

A closed form is never taken on trust: before its first use with given params it is compared with
quadrature at stds small and large, refused where it is wrong, and used only where it is accurate.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gainreg.activation import Activation
from gainreg.errors import MomentError, PluginError
from gainreg.host import Host
from gainreg.moments import (
    EPS,
    FloatArray,
    Function,
    Moments,
    adaptive,
    differences,
    quadrature,
    sampling,
)

SAMPLING, QUADRATURE, ANALYTIC = 1, 2, 3
NAMES = ("", "sampling", "quadrature", "analytic")
SECOND, SLOPE = (
    Moments._fields.index("second_moment"),
    Moments._fields.index("derivative_second_moment"),
)
SMALLEST = float(np.finfo(float).tiny)  # below it doubles lose digits

# Closed forms are compared with quadrature at these stds before their first use.
A_DECADE = 4
PROBES = 10.0 ** (np.arange(-8 * A_DECADE, 8 * A_DECADE + 1) / A_DECADE)
PROBES.flags.writeable = False
# … and in between whatever it takes to find the moments by quadrature; φ′ may take long
ORDINARY, NEAR = (1e-2, 1e2), (0.3, 3.0)
# Relative difference from quadrature up to which a closed form is used between two probes …
TRUSTED = 4e-14
# … and, times max(std², 1/std²), from which on it is called wrong rather than rounded badly. In
# addition a difference this small beside E[φ(z)²] may be rounding where terms cancel at small std.
WRONG, ROUNDING = 1e-9, 1e-12
NUMERICAL = 1e-4  # the same for E[φ′²], where φ′ is found by finite differences
CLOSED = ("mean", "second_moment", "variance_slope", "derivative_second_moment")
# Quadrature with a larger relative error than this gives way to sampling.
USEFUL = 1e-5
# Samples whose standard error is a larger part of the second moment say nothing.
UNSETTLED = 0.2
# Of the mean slope: what E[z·φ] may differ from it where kinks are not declared.
MISMATCH = 1e-3
# A sampled check of a closed form: it is refused this many standard errors away.
SIGMAS, GROUPS = 6.0, 1e-2


def moments(
    host: Host, activation: Activation, std: FloatArray, method: str, seed: int
) -> tuple[Moments, NDArray[np.intp]]:
    """The moments at each std, and the method that found each second moment, an index into NAMES.

    Args:
        host: whose hooks answer.
        activation: with the values of its params.
        std: a 1-D array.
        method: by which second_moment is to be found: "analytic", "quadrature", "sampling", or
            "auto" for the first of them that does.
        seed: of the sampling.

    Raises:
        MomentError: that method does not apply.
        PluginError: the activation's own functions fail, or its closed form is wrong.
    """
    facts = _facts(host, activation)
    integrable = activation.forward is not None and not facts.random
    found = None
    used = np.zeros(len(std), dtype=np.intp)  # 0: not found yet

    if method in ("auto", "analytic"):
        if facts.off:
            found = _closed_moments(host, activation, facts, std)
            used[~np.isnan(found[SECOND])] = ANALYTIC
            if facts.jumps:
                found[SLOPE] = np.inf  # and is not lacking
        if method == "analytic" and not used.all():
            raise MomentError(
                f"{activation.name!r} has no closed form that is accurate at "
                f"std = {std[used == 0][0]:.6g}; use method='auto' or method='quadrature'"
            )

    if integrable and method != "sampling":
        if found is None:
            found = _integrated(host, activation, facts.jumps, std)
            used[:] = QUADRATURE
        elif np.isnan(found.sum()):
            lacking = np.isnan(found).any(axis=0)
            new = _integrated(host, activation, facts.jumps, std[lacking])
            found[:, lacking] = _either(found[:, lacking], new)
            used = np.maximum(used, QUADRATURE)
        if np.isnan(found[SECOND].sum()):
            used[np.isnan(found[SECOND])] = 0
    if method == "quadrature" and not used.all():
        why = (
            f"quadrature does not settle at std = {std[used == 0][0]:.6g}"
            if integrable
            else "it is random or not elementwise, so that quadrature does not apply"
        )
        raise MomentError(
            f"{activation.name!r} has no moments by quadrature: {why}; use method='auto' or "
            "method='sampling'"
        )

    if found is None:
        found = np.full((6, len(std)), np.nan)
    # where second_moment has a closed form, samples may still be all that is known of the others
    if np.isnan(found[:SLOPE].sum()):
        for i in np.flatnonzero(np.isnan(found[:SLOPE]).any(axis=0)):
            found[:, i] = _either(found[:, i], _sampled(host, activation, float(std[i]), seed))
            used[i] = used[i] or SAMPLING
        m = Moments(*found)
        if not integrable:  # one may have a closed form and the other not: let them agree
            m.variance[:] = np.maximum(m.second_moment - m.mean**2, 0.0)
    if facts.jumps:
        found[SLOPE] = np.inf
    return Moments(*found), used


def _either(old: FloatArray, new: FloatArray) -> FloatArray:
    """The old moments, and the new where those are not known."""
    return np.where(np.isnan(old), new, old)


# --- what is found out about an activation before its first use ---


@dataclass(frozen=True)
class _Facts:
    """Whether φ jumps or is random, and how far each closed form is from quadrature.

    ``off[name][i]`` is the worse of the relative differences at PROBES[i − 1] and PROBES[i];
    infinite beyond the first and the last.
    """

    jumps: bool
    random: bool
    off: Mapping[str, FloatArray]


_known: weakref.WeakKeyDictionary[Activation, _Facts] = weakref.WeakKeyDictionary()


def _facts(host: Host, activation: Activation) -> _Facts:
    if activation not in _known:
        integrable, jumps = activation.forward is not None, False
        random = integrable and _is_random(host, activation)
        if integrable := integrable and not random:
            jumps = _jumps(host, activation)
        closed = _closed_forms(host, activation, PROBES)
        if integrable and closed:
            off = _compare_with_quadrature(host, activation, jumps, closed)
        else:
            off = _compare_with_samples(host, activation, closed)
        between = {name: np.maximum(v[:-1], v[1:]) for name, v in off.items()}
        _known[activation] = _Facts(
            jumps,
            random,
            {name: np.pad(v, 1, constant_values=np.inf) for name, v in between.items()},
        )
    return _known[activation]


def _is_random(host: Host, activation: Activation) -> bool:
    """Whether φ, asked twice, answers differently.

    Raises:
        PluginError: φ is not elementwise.
    """
    forward = partial(host.forward, activation)
    points = np.random.default_rng(0).normal(size=2000)
    whole = forward(points)
    parts = np.concatenate([forward(points[:1:-1]), forward(points[1::-1])])[::-1]
    close = partial(np.allclose, whole, rtol=1e-6, atol=1e-9)
    if close(parts):
        return False
    if not close(forward(points)):
        return True
    raise PluginError(
        f"activation {activation.name!r} is not elementwise: φ at one point depends on the "
        "other points; declare it with a sample function in place of forward"
    )


def _jumps(host: Host, activation: Activation) -> bool:
    """Whether φ jumps at 0 or at a declared kink.

    Raises:
        PluginError: the derivative is wrong.
    """
    forward = partial(host.forward, activation)
    kinks = [0.0, *(host.kinks(activation) or ())]
    jumps = differences.jumps_at(forward, kinks)
    if activation.derivative is not None:
        derivative = partial(host.derivative, activation)
        fault = fault_of_derivative(forward, derivative, kinks, jumps)
        if fault:
            raise PluginError(
                f"the derivative of {activation.name!r} is wrong: {fault}; correct it, or leave it "
                "out"
            )
    return jumps


def fault_of_derivative(
    forward: Function, derivative: Function, kinks: Sequence[float] = (), jumps: bool = False
) -> str:
    """In what φ′ is not the slope of φ, "" if nothing is found."""
    wrong = differences.wrong_slope(forward, derivative, kinks)
    if wrong is not None:
        x, claimed, true = wrong
        return f"around x = {x:.6g} it gives {claimed:.10g} where φ has the slope {true:.10g}"
    for std in () if jumps else (0.1, 1.0, 10.0):
        with np.errstate(all="ignore"):
            off = quadrature.slope_mismatch(forward, derivative, std, kinks)
        if off > MISMATCH and _has_slope(forward, std):
            return f"at std = {std:g} its mean is {off:.2g} off, relative, what E[z·φ] says"
    return ""


def _has_slope(forward: Function, std: float) -> bool:
    """Whether φ is smooth enough for its mean slope to be known."""
    found = adaptive.adaptive_moments(forward, None, std)
    return bool(np.isfinite(found[SLOPE]))


def _closed_forms(host: Host, activation: Activation, std: FloatArray) -> dict[str, FloatArray]:
    """The values of all closed forms that the activation has, by the name of the moment."""
    values = {name: host.closed_form(activation, name, std) for name in CLOSED}
    return {name: value for name, value in values.items() if value is not None}


def _compare_with_quadrature(
    host: Host, activation: Activation, jumps: bool, closed: Mapping[str, FloatArray]
) -> dict[str, FloatArray]:
    """How far closed forms are from quadrature at PROBES, in units of ``_scale``.

    Where quadrature itself does not settle, rounding is all that is known of.

    Raises:
        PluginError: a closed form is wrong.
    """
    # φ′ is not looked at where nothing depends on it, as finding it may take long
    slope_counts = "derivative_second_moment" in closed and not jumps
    hard = ORDINARY if activation.derivative is not None or not slope_counts else NEAR
    exact = Moments(*_integrated(host, activation, not slope_counts, PROBES, hard))
    second = exact.second_moment
    typical = second[len(PROBES) // 2]
    allowed = np.maximum(PROBES**2, PROBES**-2)
    off = {}
    for name, value in closed.items():
        true = getattr(exact, name)
        scale = _scale(name, true, second)
        settled = np.isfinite(true) & np.isfinite(second) & (second >= SMALLEST)
        difference = np.abs(value - true)
        tolerance = WRONG * allowed * scale
        if name == "second_moment":
            tolerance += 2 * exact.error
        if name == "derivative_second_moment" and activation.derivative is None:
            tolerance += NUMERICAL * scale
        wrong = settled & np.isfinite(value) & (difference > tolerance)
        wrong &= difference > ROUNDING * (1.0 if name == "variance_slope" else typical)
        if wrong.any():
            i = np.flatnonzero(wrong)[np.argmin(np.abs(np.log(PROBES[wrong])))]
            foreign = ""
            if name == "second_moment":
                foreign = host.provider("gainreg_second_moment", activation, std=PROBES)
            raise PluginError(
                f"the closed form for the {name} of {activation.name!r}"
                f"{foreign and f', from plugin {foreign!r},'} is wrong: at "
                f"std = {PROBES[i]:.6g} it gives {value[i]:.10g} where quadrature gives "
                f"{true[i]:.10g}; correct it, or leave it out and let quadrature answer"
            )
        off[name] = np.where(settled, difference / scale, 4 * EPS)
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


def _compare_with_samples(
    host: Host, activation: Activation, closed: Mapping[str, FloatArray]
) -> dict[str, FloatArray]:
    """The same for what is random or not elementwise, by sampling mean and second moment."""
    sampler = host.sampler(activation)
    if sampler is None and activation.forward is not None:
        forward = partial(host.forward, activation)
        sampler = lambda std, size, rng: forward(std * rng.standard_normal(size))  # noqa: E731
    trusted = {name: np.where(np.isnan(v), np.inf, 4 * EPS) for name, v in closed.items()}
    if sampler is None or not closed:
        return trusted
    for std in (0.1, 1.0, 10.0):
        second = sampling.second_moment(sampler, std, seed=0)
        ways = {"second_moment": (second, second[0])}
        if "mean" in closed:
            ways["mean"] = sampling.mean(sampler, std, seed=0), second[0] ** 0.5
        for name, ((sampled, standard_error), size) in ways.items():
            value = closed.get(name, PROBES * np.nan)[np.searchsorted(PROBES, std * 0.999)]
            if not (np.isfinite(value) and np.isfinite(sampled)):
                continue
            # a sampler of groups may leave part of the last one out
            if not abs(value - sampled) <= SIGMAS * standard_error + GROUPS * size:
                raise PluginError(
                    f"the closed form for the {name} of {activation.name!r} is wrong: at "
                    f"std = {std:g} it gives {value:.10g} where sampling gives {sampled:.10g} "
                    f"± {standard_error:.2g}; correct it, or leave it out"
                )
    return trusted


# --- the methods ---


def _closed_moments(
    host: Host, activation: Activation, facts: _Facts, std: FloatArray
) -> FloatArray:
    """The closed forms between those probes where they agree with quadrature, NaN elsewhere."""
    found = np.full((6, len(std)), np.nan)
    m = Moments(*found)
    interval = np.ceil(A_DECADE * (np.log10(std) + 8)).clip(0, len(PROBES)).astype(np.intp)
    low, high = interval.min(initial=0), interval.max(initial=0)
    for name, value in _closed_forms(host, activation, std).items():
        off = facts.off[name]
        row = getattr(m, name)
        row[:] = value
        if not off[low : high + 1].max() <= TRUSTED:
            row[off[interval] > TRUSTED] = np.nan
    np.subtract(m.second_moment, m.mean**2, out=m.variance)
    if activation.forward is not None:
        m.variance[m.variance < 0.05 * m.second_moment] = np.nan  # quadrature takes it directly
    if "second_moment" in facts.off:
        # the worst of a few probes around, as digits that cancel may be right at some by chance
        off = facts.off["second_moment"]
        off = np.where(off <= TRUSTED, off, 0.0)
        around = np.max([np.roll(off, shift) for shift in (-1, 0, 1)], axis=0)
        np.multiply(np.maximum(4 * around, 6 * EPS)[interval], m.second_moment, out=m.error)
    return found


def _integrated(
    host: Host,
    activation: Activation,
    jumps: bool,
    std: FloatArray,
    hard: tuple[float, float] = (0.0, np.inf),
) -> FloatArray:
    """Moments by quadrature; NaN where it does not settle.

    Args:
        hard: the stds between which all is tried to find them.
    """
    forward = partial(host.forward, activation)
    derivative: Function | None = None
    if jumps:
        derivative = np.zeros_like  # there is no such moment
    elif activation.derivative is not None:
        derivative = partial(host.derivative, activation)
    kinks = host.kinks(activation)
    if kinks is None:
        found = np.full((6, len(std)), np.nan)
    else:
        found = quadrature.fixed_moments(forward, derivative or np.zeros_like, std, kinks)
        if derivative is None:
            found[SLOPE] = np.nan
    if np.isnan(found.sum()):
        unsettled = np.isnan(found).any(axis=0)
        for i in np.flatnonzero(unsettled & (std >= hard[0]) & (std <= hard[1])):
            new = adaptive.adaptive_moments(forward, derivative, float(std[i]))
            found[:, i] = _either(found[:, i], new)
        m = Moments(*found)
        found[:, m.error > USEFUL * m.second_moment] = np.nan
    if jumps:
        found[SLOPE] = np.inf
    return found


def _sampled(host: Host, activation: Activation, std: float, seed: int) -> FloatArray:
    """Moments by sampling.

    Raises:
        MomentError: the samples do not agree on the second moment.
    """
    sampler = host.sampler(activation)
    if sampler is not None:
        found = sampling.sampled_moments(sampler, std, seed)
    elif activation.forward is None:
        raise PluginError(f"activation {activation.name!r} needs a forward or a sample function")
    else:
        forward = partial(host.forward, activation)
        derivative = None if activation.derivative is None else partial(host.derivative, activation)
        found = sampling.elementwise_moments(forward, derivative, std, seed)
    m = Moments(*found)
    if m.error > UNSETTLED * m.second_moment:
        raise MomentError(
            f"samples of {activation.name!r} at std = {std:.6g} do not agree on its second moment: "
            f"{m.second_moment:.4g} ± {m.error:.2g}; its tails may be too heavy to have one"
        )
    return found
