"""From an activation and its stds to their moments, as a GainCurve or a GainEntry: live answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gainreg.activation import Activation
from gainreg.bound import Bound
from gainreg.entry import SMALLEST, GainEntry, Gains
from gainreg.errors import MomentError, ParameterError
from gainreg.evaluate import moments
from gainreg.frameworks import bind
from gainreg.moments import FloatArray
from gainreg.params import METHODS, check_choice, check_seed, check_std


class GainCurve(Gains[FloatArray]):
    """The moments and gains of one activation at an array of stds: arrays, NaN where there is none.

    ``curve[i]`` is the GainEntry at the i-th std.
    """

    def _where(self, holds: Any, value: Callable[[], Any]) -> Any:
        """``value()`` where it holds, NaN elsewhere."""
        with np.errstate(all="ignore"):
            return np.where(holds, value(), np.nan)

    def __len__(self) -> int:
        return len(self.std)

    def __iter__(self) -> Iterator[GainEntry]:
        return (self[i] for i in range(len(self)))

    def _repr_html_(self) -> str:
        from gainreg import notebook

        return notebook.curve(self)

    def __getitem__(self, i: int) -> GainEntry:
        entry = {
            name: value.item(i) if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }
        if math.isnan(entry["derivative_second_moment"]):
            entry["derivative_second_moment"] = None
        return GainEntry(**{**entry, "params": dict(self.params)})


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
        activation: a registered name or alias; an ``Activation``; any vectorised callable; or a
            function or module of a framework that is imported already.
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
    stds = [check_std(std)]
    return curve_of(bind(activation, params), stds, method, seed)[0]


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
    stds = check_stds(stds)
    return curve_of(bind(activation, params), stds, method, seed)


def curve_of(
    bound: Bound, stds: Sequence[float] | FloatArray, method: str = "auto", seed: int = 0
) -> GainCurve:
    """``curve`` of an activation with its params, at stds that were checked."""
    std = np.array(stds, dtype=np.float64)
    std.flags.writeable = False  # closed forms are handed this very array
    check_choice(method, "method", ("auto", *METHODS))
    seed = check_seed(seed)
    with np.errstate(all="ignore"):  # what is out of range is found and said below
        m, used = moments(bound, std, method, seed)
        good = (m.second_moment >= SMALLEST) & (abs(m.second_moment + m.mean) < math.inf)
    if not good.all():
        i = np.argmin(good)
        what = "is infinite, overflows a double, or has tails too heavy to integrate"
        if m.second_moment[i] < SMALLEST:
            what = "is zero or underflows a double, so that no gain exists"
        raise MomentError(
            f"the second moment of {bound.name!r} at std = {std[i]:.6g} {what}; "
            "try another std or other params"
        )
    # Here E[φ′²] gets its meaning for users: unknown or not existing is NaN, and what is below the
    # least normal double has lost its digits and is 0.
    slope = m.derivative_second_moment
    slope = np.where(np.isfinite(slope), slope * (slope >= SMALLEST), np.nan)
    return GainCurve(
        activation=bound.name,
        params=dict(bound.params),
        std=std,
        width=bound.width,
        method=used,
        **{**vars(m), "derivative_second_moment": slope},
    )


def known_at(bound: Bound, stds: Sequence[float] | FloatArray) -> list[GainEntry]:
    """The entries at those of the stds at which an activation has moments.

    Raises:
        MomentError: it has them at none.
    """

    def entries(stds: Sequence[float] | FloatArray) -> list[GainEntry]:
        try:
            return list(curve_of(bound, stds))
        except MomentError:
            half = len(stds) // 2
            return entries(stds[:half]) + entries(stds[half:]) if half else []

    return entries(stds) or list(curve_of(bound, stds[:1]))


def check_stds(stds: Any) -> FloatArray:
    """Stds of pre-activations as an array.

    Raises:
        ParameterError: they are no 1-D array of finite numbers above 0.
    """
    std = numbers(stds, "stds must be an array of numbers")
    if std.ndim != 1:
        raise ParameterError(f"stds must be a 1-D array, got shape {std.shape}")
    bad = ~(np.isfinite(std) & (std > 0))
    if bad.any():
        raise ParameterError(f"std must be finite and above 0, got {std[bad][0]}")
    return std


def numbers(values: Any, expected: str) -> FloatArray:
    """Real numbers, in an array or not, as an array.

    Raises:
        ParameterError: they are none; it begins with what is expected.
    """
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "iuf" and array.size:
            raise TypeError
    except (TypeError, ValueError):
        raise ParameterError(f"{expected}, got {values!r}") from None
    return array.astype(np.float64)
