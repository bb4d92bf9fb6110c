"""From an activation and a std to its gains: checks what is asked, turns moments into gains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gainreg.activation import Activation
from gainreg.entry import GainEntry, Gains
from gainreg.errors import MomentError, ParameterError
from gainreg.host import host
from gainreg.methods import SMALLEST, moments
from gainreg.moments import EPS, FloatArray, Moments
from gainreg.params import METHODS, check_seed, check_std

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
    return entries(activation, check_stds(stds), params, method, seed)


def entries(
    activation: str | Activation | Callable[..., Any],
    stds: Sequence[float] | FloatArray,
    params: Mapping[str, Any],
    method: str = "auto",
    seed: int = 0,
) -> GainCurve:
    """``curve`` at stds that were checked, with the params in a mapping."""
    std = np.array(stds, dtype=np.float64)
    std.flags.writeable = False  # closed forms are handed this very array
    if method != "auto" and method not in METHODS:
        known = ", ".join(map(repr, ("auto", *METHODS)))
        raise ParameterError(f"method is one of {known}, got {method!r}")
    seed = check_seed(seed)
    bound = host().bind(as_activation(activation), params)
    with np.errstate(all="ignore"):  # what is out of range is found and said below
        m, used = moments(host(), bound, std, method, seed)
        _check_range(bound, std, m)
        derivative = m.derivative_second_moment
        derivative[derivative == np.inf] = np.nan
        # a variance no larger than rounding makes it is none: φ is constant, to double precision
        constant = m.variance <= CONSTANT * m.second_moment
        centered = np.where(constant, np.inf, std / np.sqrt(m.variance))
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
