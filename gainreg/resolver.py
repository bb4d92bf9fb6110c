"""From an activation and a std to its gains: checks what is asked, turns moments into gains."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gainreg.activation import Activation
from gainreg.bound import Bound
from gainreg.entry import GainEntry, Gains
from gainreg.errors import MomentError, ParameterError
from gainreg.evaluate import Names, moments
from gainreg.host import host
from gainreg.moments import EPS, FloatArray, Moments
from gainreg.params import METHODS, check_seed, check_std
from gainreg.verify import SMALLEST

CONSTANT = (8 * EPS) ** 2


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
        slopes = self.derivative_second_moment
        return _entry(
            self.activation,
            self.params,
            float(self.std[i]),
            float(self.mean[i]),
            float(self.second_moment[i]),
            math.nan if slopes is None else float(slopes[i]),
            float(self.centered_gain[i]),
            float(self.variance_slope[i]),
            str(self.method[i]),
            float(self.error[i]),
        )


def _entry(
    activation: str,
    params: Mapping[str, float],
    std: float,
    mean: float,
    second: float,
    slope_second: float,
    centered: float,
    variance_slope: float,
    method: str,
    error: float,
) -> GainEntry:
    return GainEntry(
        activation=activation,
        params=dict(params),
        std=std,
        mean=mean,
        second_moment=second,
        # below the least normal double there are digits missing
        derivative_second_moment=None
        if not math.isfinite(slope_second)
        else slope_second
        if slope_second >= SMALLEST
        else 0.0,
        centered_gain=centered if math.isfinite(centered) else None,
        variance_slope=variance_slope,
        method=method,
        error=error,
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
    return entries(activation, [check_std(std)], params, method, seed)[0]


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
    bound, std, m, used = _find(activation, check_stds(stds), params, method, seed)
    good = _in_range(m.second_moment, m.mean)
    if not good.all():
        i = np.argmin(good)
        raise _out_of_range(bound.name, float(std[i]), float(m.second_moment[i]))
    slopes = np.where(np.isinf(m.derivative_second_moment), np.nan, m.derivative_second_moment)
    with np.errstate(all="ignore"):
        centered = np.where(
            _constant(m.variance, m.second_moment), np.inf, std / np.sqrt(m.variance)
        )
    return GainCurve(
        activation=bound.name,
        params=dict(bound.params),
        std=std,
        mean=m.mean,
        second_moment=m.second_moment,
        derivative_second_moment=None if np.isnan(slopes).all() else slopes,
        centered_gain=centered,
        variance_slope=m.variance_slope,
        method=used,
        error=m.error,
    )


def entries(
    activation: str | Activation | Callable[..., Any],
    stds: Sequence[float] | FloatArray,
    params: Mapping[str, Any],
    method: str = "auto",
    seed: int = 0,
) -> list[GainEntry]:
    """``resolve`` at several stds that were checked, with the params in a mapping."""
    bound, std, m, used = _find(activation, stds, params, method, seed)
    found = []
    rows = zip(
        std.tolist(), *(row.tolist() for row in vars(m).values()), used.tolist(), strict=True
    )
    for at, mean, second, variance, variance_slope, slope_second, error, way in rows:
        if not _in_range(second, mean):
            raise _out_of_range(bound.name, at, second)
        centered = math.inf if _constant(variance, second) else at / math.sqrt(variance)
        found.append(
            _entry(
                bound.name,
                bound.params,
                at,
                mean,
                second,
                slope_second,
                centered,
                variance_slope,
                way,
                error,
            )
        )
    return found


def _constant(variance: Any, second: Any) -> Any:
    """Whether a variance is no larger than rounding makes it: φ is constant, in doubles."""
    return variance <= CONSTANT * second


def _find(
    activation: str | Activation | Callable[..., Any],
    stds: Sequence[float] | FloatArray,
    params: Mapping[str, Any],
    method: str,
    seed: int,
) -> tuple[Bound, FloatArray, Moments, Names]:
    """The activation with its params, the stds, and what ``moments`` finds there."""
    std = np.array(stds, dtype=np.float64)
    std.flags.writeable = False  # closed forms are handed this very array
    if method != "auto" and method not in METHODS:
        known = ", ".join(map(repr, ("auto", *METHODS)))
        raise ParameterError(f"method is one of {known}, got {method!r}")
    seed = check_seed(seed)
    the_host = host()
    bound = the_host.bind(as_activation(activation), params)
    with np.errstate(all="ignore"):  # what is out of range is found and said below
        m, used = moments(bound, std, method, seed)
    return bound, std, m, used


def as_activation(activation: str | Activation | Callable[..., Any]) -> str | Activation:
    """A name or Activation as it is; any other callable as an Activation that nobody registered."""
    if isinstance(activation, (str, Activation)):
        return activation
    if not callable(activation):
        raise ParameterError(
            f"an activation is a name, a gainreg.Activation or a callable, got {activation!r}"
        )
    name = getattr(activation, "__name__", type(activation).__name__)
    return Activation(name, activation, kinks=None)


def check_stds(stds: Any) -> FloatArray:
    """Stds of pre-activations as an array.

    Raises:
        ParameterError: they are no 1-D array of finite numbers above 0.
    """
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
    return std


def _in_range(second: Any, mean: Any) -> Any:
    return (second >= SMALLEST) & (abs(second + mean) < math.inf)


def _out_of_range(activation: str, std: float, second: float) -> MomentError:
    if second < SMALLEST:
        what = "is zero or underflows a double, so that no gain exists"
    else:
        what = "is infinite, overflows a double, or has tails too heavy to integrate"
    return MomentError(
        f"the second moment of {activation!r} at std = {std:.6g} {what}; "
        "try another std or other params"
    )
