"""A name → its number: what is remembered, then the shipped table, then a live answer.

Nothing here imports numpy, scipy, pluggy or a framework unless a live answer is needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gainreg.errors import ParameterError, TableError
from gainreg.params import check_std
from gainreg.table import load_table

if TYPE_CHECKING:
    from gainreg.activation import Activation
    from gainreg.entry import GainEntry

# Numbers that ``gain`` gave for names, by the name alone or with all in which a call differed from
# the usual one. The class of a number belongs to it: True == 1.0, but True is no number.
_remembered: dict[Any, float] = {}
# A sweep over stds must not fill the memory. An entry takes some 300 bytes, 3 MB in all.
LIMIT = 10_000


def gain(
    activation: str | Activation | Callable[..., Any],
    std: float = 1.0,
    mode: str = "forward",
    **params: float,
) -> float:
    """The gain of an activation: weights of standard deviation gain/√fan keep a signal's size.

    Answered from the shipped table where that holds the entry, else resolved and remembered.

    Args:
        activation: a registered name or alias; an ``Activation``; any vectorised callable; or a
            function or module of a framework that is imported already.
        std: standard deviation of the pre-activation (not its variance).
        mode: "forward" (or "fan_in") keeps the pre-activation variance, "backward" (or "fan_out")
            the gradient variance, with fan_out for fan_in; "centered" the variance of the
            activation itself.
        **params: the activation's parameters, where they differ from the defaults.

    Raises:
        UnknownActivationError: no activation has that name.
        ParameterError: a param, the std or the mode is not what it must be.
        MomentError: the gain does not exist: a moment is zero, infinite or undefined.
        PluginError: the activation's own functions fail, or its closed form is wrong.
    """
    key: Any = activation
    try:
        if std != 1.0 or mode != "forward" or std.__class__ is not float:
            key = key, std, std.__class__, mode
        if params:
            for name, value in params.items():
                key = key, name, value, value.__class__
        return _remembered[key]
    except (KeyError, TypeError, ValueError):  # not asked before, or no plain numbers
        pass
    number = look_up(activation, std, params).gain_for(mode)
    # other objects, and other kinds of numbers, may be changed in place
    if isinstance(activation, str) and all(
        isinstance(value, (float, int)) for value in (std, *params.values())
    ):
        if len(_remembered) >= LIMIT:
            _remembered.clear()
        _remembered[key] = number
    return number


def forget() -> None:
    """Forget the numbers that were remembered: what a name means has changed."""
    _remembered.clear()


def look_up(
    activation: str | Activation | Callable[..., Any], std: float, params: Mapping[str, Any]
) -> GainEntry:
    """The entry that ``gain`` answers from, by the shipped table or, for what that lacks, live.

    Args and errors are those of ``gain``, with the params as a mapping.
    """
    if not isinstance(activation, str):
        from gainreg.frameworks import as_activation

        activation, params = as_activation(activation, params)
    if isinstance(activation, str):
        with contextlib.suppress(TableError, ParameterError):  # the resolver says it better
            return load_table().lookup(activation, std, **params)
    from gainreg.host import host
    from gainreg.resolver import curve_of

    return curve_of(host().bind(activation, params), [check_std(std)])[0]
