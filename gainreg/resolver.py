"""From an activation and a std to its gains: picks the method, checks it, fills in the moments."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gainreg.activation import Activation
from gainreg.entry import GainEntry, Gains
from gainreg.errors import MomentError, ParameterError, PluginError
from gainreg.host import Host, host
from gainreg.moments import FloatArray, Moments, fields, quadrature, sampling
from gainreg.params import check_std

METHODS = ("auto", "analytic", "quadrature", "sampling")
ANALYTIC, QUADRATURE, SAMPLING = 1, 2, 3
_METHOD_NAMES = np.array(METHODS)
EPS = float(np.finfo(float).eps)
SMALLEST = float(np.finfo(float).tiny)  # below it doubles lose digits

# Closed forms are compared with quadrature at these stds before their first use.
PROBES = 10.0 ** np.arange(-8, 8.5, 0.5)
PROBES.flags.writeable = False
# Relative difference from quadrature up to which a closed form is used between two probes …
TRUSTED = 4e-14
# … and, times max(std², 1/std²), from which on it is called wrong rather than rounded badly. In
# addition a difference this small beside E[φ(z)²] may be rounding where terms cancel at small std.
WRONG, ROUNDING = 1e-9, 1e-12
MOMENTS = ("mean", "second_moment", "variance_slope", "derivative_second_moment")
# Quadrature with a larger relative error than this gives way to sampling.
USEFUL = 1e-5
# A sampled check of a closed form: it is refused this many standard errors away.
SIGMAS = 6.0


@dataclass(frozen=True)
class GainCurve(Gains):
    """The gains and moments of one activation at an array of stds: ``GainEntry`` with arrays.

    ``curve[i]`` is the GainEntry at the i-th std. ``derivative_second_moment`` is None where φ
    jumps, NaN at a std where it could not be found; ``centered_gain`` is infinite where φ is
    constant.
    """

    activation: str
    params: Mapping[str, float]
    std: FloatArray
    mean: FloatArray
    second_moment: FloatArray
    derivative_second_moment: FloatArray | None
    centered_gain: FloatArray
    variance_slope: FloatArray
    method: np.ndarray[Any, np.dtype[np.str_]]
    error: FloatArray

    def __len__(self) -> int:
        return len(self.std)

    def __iter__(self) -> Iterator[GainEntry]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> GainEntry:
        derivative, centered = self.derivative_second_moment, float(self.centered_gain[i])
        slope_second = np.nan if derivative is None else float(derivative[i])
        return GainEntry(
            activation=self.activation,
            params=dict(self.params),
            std=float(self.std[i]),
            mean=float(self.mean[i]),
            second_moment=float(self.second_moment[i]),
            derivative_second_moment=None if np.isnan(slope_second) else slope_second,
            centered_gain=centered if np.isfinite(centered) else None,
            variance_slope=float(self.variance_slope[i]),
            method=str(self.method[i]),
            error=float(self.error[i]),
        )


def resolve(
    activation: str | Activation | Callable[..., Any],
    std: float = 1.0,
    *,
    method: str = "auto",
    seed: int = 0,
    **params: float,
) -> GainEntry:
    """The gains and moments of an activation at one std.

    Args:
        activation: a registered name or alias, an ``Activation``, or any vectorised callable.
        std: standard deviation of the pre-activation (not its variance).
        method: "auto" tries a closed form, then quadrature, then sampling; "analytic",
            "quadrature" and "sampling" each insist on one.
        seed: of the sampling method.
        **params: the activation's parameters, where they differ from the defaults.

    Raises:
        UnknownActivationError: no activation has that name.
        ParameterError: a param, the std or the method is not what it must be.
        MomentError: the second moment is zero, infinite or out of a double's range.
        PluginError: the activation's own functions fail, or its closed form is wrong.
    """
    return curve(activation, np.array([check_std(std)]), method=method, seed=seed, **params)[0]


def curve(
    activation: str | Activation | Callable[..., Any],
    stds: Any,
    *,
    method: str = "auto",
    seed: int = 0,
    **params: float,
) -> GainCurve:
    """The gains and moments of an activation at an array of stds, in one vectorised pass.

    Arguments and errors are those of ``resolve``, with a 1-D array of stds.
    """
    std = _check_stds(stds)
    if method not in METHODS:
        raise ParameterError(f"method is one of {', '.join(map(repr, METHODS))}, got {method!r}")
    bound = host().bind(as_activation(activation), params)
    with np.errstate(all="ignore"):  # what is out of range is found and said below
        m, used = _moments(host(), bound, std, method, seed)
        _check_range(bound, std, m)
        derivative = m.derivative_second_moment
        centered = std / np.sqrt(m.variance)
    return GainCurve(
        activation=bound.name,
        params=dict(bound.params),  # type: ignore[arg-type]
        std=std,
        mean=m.mean,
        second_moment=m.second_moment,
        derivative_second_moment=None if np.isnan(derivative).all() else derivative,
        centered_gain=centered,
        variance_slope=m.variance_slope,
        method=used,
        error=m.error,
    )


def as_activation(activation: str | Activation | Callable[..., Any]) -> str | Activation:
    """A name or Activation as it is; any other callable as an Activation that nobody registered."""
    if isinstance(activation, (str, Activation)):
        return activation
    if not callable(activation):
        raise ParameterError(
            f"an activation is a name, a gainreg.Activation or a callable, got {activation!r}"
        )
    return Activation(getattr(activation, "__name__", type(activation).__name__), activation)


def _check_stds(stds: Any) -> FloatArray:
    try:
        array = np.asarray(stds)
        if array.dtype.kind not in "iuf" and array.size:
            raise TypeError
    except (TypeError, ValueError):
        raise ParameterError(f"stds must be an array of numbers, got {stds!r}") from None
    std: FloatArray = array.astype(np.float64)
    if std.ndim != 1:
        raise ParameterError(f"stds must be a 1-D array, got shape {std.shape}")
    bad = ~(np.isfinite(std) & (std > 0))
    if bad.any():
        raise ParameterError(f"std must be finite and above 0, got {std[bad][0]}")
    std.flags.writeable = False  # closed forms are handed this very array
    return std


def _check_range(activation: Activation, std: FloatArray, m: Moments) -> None:
    second = m.second_moment
    if not len(std) or (second.min() >= SMALLEST and np.isfinite(second.max() + m.mean.sum())):
        return
    bad = ~((second >= SMALLEST) & np.isfinite(second) & np.isfinite(m.mean))
    if bad.any():
        i = int(np.argmax(bad))
        if second[i] < SMALLEST:
            what = "is zero or underflows a double, so that no gain exists"
        else:
            what = "is infinite, overflows a double, or has tails too heavy to integrate"
        raise MomentError(
            f"the second moment of {activation.name!r} at std = {std[i]:.6g} {what}; "
            "try another std or other params"
        )


def _moments(
    the_host: Host, activation: Activation, std: FloatArray, method: str, seed: int
) -> tuple[Moments, np.ndarray[Any, np.dtype[np.str_]]]:
    """The moments at each std, and the method that found each second moment."""
    facts = _facts(the_host, activation)
    elementwise = activation.forward is not None
    m = None
    used = np.zeros(len(std), dtype=np.intp)  # an index into METHODS; 0: none yet
    if method in ("auto", "analytic") and "second_moment" in facts.off:
        m = _closed_moments(the_host, activation, facts, std)
        used[~np.isnan(m.second_moment)] = ANALYTIC
    if method == "analytic" and not used.all():
        raise MomentError(
            f"{activation.name!r} has no closed form that is accurate at "
            f"std = {std[used == 0][0]:.6g}; use method='auto' or method='quadrature'"
        )
    if method != "sampling" and elementwise:
        m = _with_quadrature(the_host, activation, facts, std, m)
        used[used == 0] = QUADRATURE
        lost = np.isnan(m.second_moment)
        if lost.any():
            used[lost] = 0
    if method == "quadrature" and not used.all():
        why = (
            f"quadrature does not settle at std = {std[used == 0][0]:.6g}"
            if elementwise
            else "it is random or not elementwise, so that quadrature does not apply"
        )
        raise MomentError(
            f"{activation.name!r} has no moments by quadrature: {why}; use method='auto' or "
            "method='sampling'"
        )
    if m is None:
        m = _unknown(len(std))
    if not used.all():
        for i in np.flatnonzero(used == 0):
            _put(m, slice(i, i + 1), _sampled(the_host, activation, float(std[i]), seed))
            used[i] = SAMPLING
    if not elementwise:
        for i in np.flatnonzero(np.isnan([m.mean, m.variance_slope]).any(axis=0)):
            one = slice(i, i + 1)
            _fill(m, one, _sampled(the_host, activation, float(std[i]), seed))
    if facts.jumps:
        m.derivative_second_moment[:] = np.nan
    if len(used) > 1000 and (used == used[0]).all():  # one name for all, not a copy each
        return m, np.broadcast_to(_METHOD_NAMES[used[0]], used.shape)
    return m, _METHOD_NAMES[used]


def _unknown(count: int) -> Moments:
    return Moments(*(np.full(count, np.nan) for _ in range(6)))


def _put(m: Moments, where: Any, new: Moments) -> None:
    for whole, values in zip(fields(m), fields(new), strict=True):
        whole[where] = values


def _with_quadrature(
    the_host: Host, activation: Activation, facts: _Facts, std: FloatArray, m: Moments | None
) -> Moments:
    """``m`` with what it lacks filled in by quadrature."""
    if m is None:
        return _integrated(the_host, activation, facts, std)
    wanted = [v for name, v in vars(m).items() if not (facts.jumps and "derivative" in name)]
    if np.isnan([v.sum() for v in wanted]).any():  # a quick look at all before a close one
        lacking = np.flatnonzero(np.isnan(wanted).any(axis=0))
        _fill(m, lacking, _integrated(the_host, activation, facts, std[lacking]))
    return m


def _fill(m: Moments, where: Any, new: Moments) -> None:
    """``_put``, but only what ``m`` lacks."""
    for whole, values in zip(fields(m), fields(new), strict=True):
        whole[where] = np.where(np.isnan(whole[where]), values, whole[where])


# --- what is found out about an activation before its first use ---


@dataclass(frozen=True)
class _Facts:
    """Whether φ jumps, and how far each closed form is from quadrature.

    ``off[name][i]`` is the worse of the relative differences at PROBES[i − 1] and PROBES[i];
    infinite beyond the first and the last.
    """

    jumps: bool
    off: Mapping[str, FloatArray]


_known: weakref.WeakKeyDictionary[Activation, _Facts] = weakref.WeakKeyDictionary()


def _facts(the_host: Host, activation: Activation) -> _Facts:
    if activation not in _known:
        elementwise = activation.forward is not None
        jumps = elementwise and _jumps(the_host, activation, the_host.kinks(activation))
        check = _compare_with_quadrature if elementwise else _compare_with_samples
        off = check(the_host, activation)
        between = {name: np.maximum(v[:-1], v[1:]) for name, v in off.items()}
        _known[activation] = _Facts(
            jumps, {name: np.pad(v, 1, constant_values=np.inf) for name, v in between.items()}
        )
    return _known[activation]


def _jumps(the_host: Host, activation: Activation, kinks: Sequence[float]) -> bool:
    at = np.array([0.0, *kinks])
    reach = 1e-9 * np.where(at == 0, 1.0, np.abs(at))
    forward = partial(the_host.forward, activation)
    return bool(quadrature.jumps_between(forward, at - reach, at + reach).any())


def _closed_forms(the_host: Host, activation: Activation, std: FloatArray) -> dict[str, FloatArray]:
    """The values of all closed forms that the activation has, by the name of the moment."""
    values = {name: the_host.closed_form(activation, name, std) for name in MOMENTS}
    return {name: value for name, value in values.items() if value is not None}


def _compare_with_quadrature(the_host: Host, activation: Activation) -> dict[str, FloatArray]:
    """How far closed forms are from quadrature at PROBES, in units of ``_closed_moments``' scale.

    Where quadrature itself does not settle, rounding is all that is known of.

    Raises:
        PluginError: a closed form is wrong.
    """
    closed = _closed_forms(the_host, activation, PROBES)
    if not closed:
        return {}
    exact = quadrature.fixed_moments(
        partial(the_host.forward, activation),
        _derivative(the_host, activation)[0],
        PROBES,
        the_host.kinks(activation),
        _derivative(the_host, activation)[1],
    )
    second = exact.second_moment
    typical = second[len(PROBES) // 2]
    allowed = np.maximum(PROBES**2, PROBES**-2)
    off = {}
    with np.errstate(all="ignore"):
        for name, value in closed.items():
            true = getattr(exact, name)
            scale = _scale(name, true, second)
            settled = np.isfinite(exact.error) & np.isfinite(true) & (second >= SMALLEST)
            difference = np.abs(value - true)
            wrong = settled & np.isfinite(value) & (difference > WRONG * allowed * scale)
            wrong &= difference > ROUNDING * (1.0 if name == "variance_slope" else typical)
            if wrong.any():
                i = np.flatnonzero(wrong)[np.argmin(np.abs(np.log(PROBES[wrong])))]
                raise PluginError(
                    f"the closed form for the {name} of {activation.name!r} is wrong: at "
                    f"std = {PROBES[i]:.6g} it gives {value[i]:.10g} where quadrature gives "
                    f"{true[i]:.10g}; correct it, or leave it out and let quadrature answer"
                )
            off[name] = np.where(settled, difference / scale, 4 * EPS)
            off[name][np.isnan(value)] = np.inf
    return off


def _scale(name: str, value: FloatArray, second: FloatArray) -> FloatArray:
    """What an error of a moment is measured against."""
    if name == "mean":
        return np.sqrt(second)
    if name == "variance_slope":
        return np.maximum(np.abs(value), 1.0)
    return value


def _compare_with_samples(the_host: Host, activation: Activation) -> dict[str, FloatArray]:
    """The same for what is random or not elementwise, by sampling the second moment."""
    closed = _closed_forms(the_host, activation, PROBES)
    sampler = the_host.sampler(activation)
    if "second_moment" in closed and sampler is not None:
        for std in (0.1, 10.0):
            sampled, standard_error = sampling.second_moment(sampler, std, seed=0)
            value = closed["second_moment"][np.searchsorted(PROBES, std * 0.999)]
            if not abs(value - sampled) <= SIGMAS * standard_error + WRONG * sampled:
                raise PluginError(
                    f"the closed form for the second_moment of {activation.name!r} is wrong: at "
                    f"std = {std:g} it gives {value:.10g} where sampling gives {sampled:.10g} "
                    f"± {standard_error:.2g}; correct it, or leave it out"
                )
    return {name: np.where(np.isnan(value), np.inf, 4 * EPS) for name, value in closed.items()}


# --- the methods ---


def _closed_moments(
    the_host: Host, activation: Activation, facts: _Facts, std: FloatArray
) -> Moments:
    """The closed forms between those probes where they agree with quadrature, NaN elsewhere."""
    interval = np.clip(np.ceil(2 * np.log10(std) + 16), 0, len(PROBES)).astype(np.intp)
    low, high = interval.min(initial=0), interval.max(initial=0)
    found = {}
    for name, value in _closed_forms(the_host, activation, std).items():
        off = facts.off[name]
        if not off[low : high + 1].max() <= TRUSTED:
            value = np.where(off[interval] <= TRUSTED, value, np.nan)
        found[name] = value
    for name in MOMENTS:
        if name not in found:
            found[name] = np.full(len(std), np.nan)
    second = found["second_moment"]
    error = np.maximum(2 * facts.off["second_moment"], 6 * EPS)[interval] * second
    m = Moments(variance=second - found["mean"] ** 2, error=error, **found)
    cancels = m.variance < 0.05 * second
    if activation.forward is not None and cancels.any():
        m.variance[cancels] = np.nan  # quadrature takes it directly
    return m


def _derivative(
    the_host: Host, activation: Activation
) -> tuple[Callable[[FloatArray], FloatArray], float]:
    """φ′ and the accuracy to expect of sums over it."""
    if activation.derivative is not None:
        return partial(the_host.derivative, activation), quadrature.SETTLED
    forward = partial(the_host.forward, activation)
    return partial(quadrature.numerical_derivative, forward), quadrature.SETTLED_NUMERICAL


def _integrated(the_host: Host, activation: Activation, facts: _Facts, std: FloatArray) -> Moments:
    """Moments by quadrature; NaN where it does not settle."""
    forward = partial(the_host.forward, activation)
    derivative, settled = _derivative(the_host, activation)
    if facts.jumps:
        derivative = np.zeros_like
    kinks = the_host.kinks(activation)
    m = quadrature.fixed_moments(forward, derivative, std, kinks, settled)
    slope_second = m.derivative_second_moment
    declared = bool(the_host.owner(activation)) or any(kinks)
    dense = np.full(len(std), np.nan) if declared else _dense(forward, std, m)
    if np.isfinite(m.error + slope_second).all():
        return m
    for i in np.flatnonzero(np.isinf(m.error) | np.isinf(slope_second)):
        new, found = quadrature.adaptive_moments(forward, float(std[i]))
        if found:  # with the kinks known, the fixed rule may do after all
            jumps = _jumps(the_host, activation, found)
            kinked = quadrature.fixed_moments(
                forward,
                np.zeros_like if jumps else derivative,
                std[i : i + 1],
                (*kinks, *found),
                settled,
            )
            off = abs(kinked.second_moment[0] - new.second_moment[0])
            if off <= new.error[0] + kinked.error[0]:  # or not all kinks were found
                new = kinked
            if jumps:
                new.derivative_second_moment[0] = np.nan
        if abs(new.second_moment[0] - dense[i]) > 0.01 * dense[i]:  # neither is to be believed
            new.error[0] = np.inf
        if np.isinf(m.error[i]):
            _put(m, slice(i, i + 1), new)
        else:
            slope_second[i] = new.derivative_second_moment[0]
    slope_second[np.isinf(slope_second)] = np.nan
    lost = ~(m.error <= USEFUL * m.second_moment) & ~np.isinf(m.second_moment)
    for values in fields(m):
        values[lost] = np.nan
    return m


def _dense(forward: Callable[[FloatArray], FloatArray], std: FloatArray, m: Moments) -> FloatArray:
    """E[φ²] of what nobody declared, by a rule that steps over less than the fixed one.

    Where the two differ, ``m`` is marked as not settled.
    """
    dense = np.full(len(std), np.nan)
    for i in np.flatnonzero(np.isfinite(m.error)):
        try:
            dense[i] = quadrature.dense_second_moment(forward, float(std[i]))
        except PluginError:  # NaN so far out that the fixed rule had no need to look
            continue
        if abs(dense[i] - m.second_moment[i]) > 1e-12 * dense[i]:
            m.error[i] = np.inf
    return dense


def _sampled(the_host: Host, activation: Activation, std: float, seed: int) -> Moments:
    sampler = the_host.sampler(activation)
    if sampler is not None:
        return sampling.sampled_moments(sampler, std, seed)
    forward = partial(the_host.forward, activation)
    derivative = None if activation.derivative is None else partial(the_host.derivative, activation)
    with np.errstate(all="ignore"):
        return sampling.elementwise_moments(forward, derivative, std, seed)
