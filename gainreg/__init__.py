"""gainreg: how large initial weights must be so that signals keep their size through depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gainreg.errors import (
    GainregError,
    MomentError,
    ParameterError,
    PluginError,
    TableError,
    UnknownActivationError,
)

if TYPE_CHECKING:
    from gainreg.activation import Activation
    from gainreg.build import build_table
    from gainreg.entry import GainEntry
    from gainreg.hookspecs import hookimpl
    from gainreg.resolver import GainCurve, curve, resolve
    from gainreg.table import GainTable, load_table

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "GainCurve",
    "GainEntry",
    "GainTable",
    "GainregError",
    "MomentError",
    "ParameterError",
    "PluginError",
    "TableError",
    "UnknownActivationError",
    "build_table",
    "curve",
    "gain",
    "hookimpl",
    "load_table",
    "register",
    "resolve",
]

# Where the public names live. They are imported when first used, so that `import gainreg` and a
# look-up in a table import neither numpy nor scipy nor pluggy.
_HOMES = {
    "Activation": "activation",
    "GainCurve": "resolver",
    "GainEntry": "entry",
    "GainTable": "table",
    "build_table": "build",
    "curve": "resolver",
    "hookimpl": "hookspecs",
    "load_table": "table",
    "resolve": "resolver",
}

# Forward gains at std 1 by name, and all others that were asked for by name.
_usual: dict[object, float] = {}
_remembered: dict[object, float] = {}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gainreg' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"gainreg.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def gain(
    activation: str | Activation | Callable[..., Any],
    std: float = 1.0,
    mode: str = "forward",
    **params: float,
) -> float:
    """The gain of an activation: weights of standard deviation gain/√fan keep a signal's size.

    Answered from the shipped table where that holds the entry, else resolved and remembered.

    Args:
        activation: a registered name or alias, an ``Activation``, or any vectorised callable.
        std: standard deviation of the pre-activation (not its variance).
        mode: "forward" keeps the pre-activation variance, "centered" the variance of the
            activation itself, "backward" the gradient variance (with fan_out for fan_in).
        **params: the activation's parameters, where they differ from the defaults.

    Raises:
        UnknownActivationError: no activation has that name.
        ParameterError: a param, the std or the mode is not what it must be.
        MomentError: the gain does not exist: a moment is zero, infinite or undefined.
        PluginError: the activation's own functions fail, or its closed form is wrong.
    """
    try:
        if not params and std.__class__ is float:  # True == 1, but it is no std
            if std == 1.0 and mode == "forward":
                return _usual[activation]
            return _remembered[activation, std, mode]
    except (KeyError, TypeError):  # not asked before, not hashable
        pass
    from gainreg.table import entry_for

    entry = entry_for(activation, std, params)
    value = entry.gain_for(mode)
    if isinstance(activation, str) and not params and len(_remembered) < 10_000:
        if entry.std == 1.0 and mode == "forward":
            _usual[activation] = value
        _remembered[activation, entry.std, mode] = value
    return value


def register(activation: Activation, *, replace: bool = False) -> None:
    """Make an activation known by name to this program.

    Args:
        activation: its declaration.
        replace: take the place of one registered earlier under the same name, as when a notebook
            cell runs again; what a plugin declares is never replaced.

    Raises:
        PluginError: the name or an alias is taken, or is not lower_snake_case.
    """
    from gainreg.host import host

    host().register(activation, replace)
    _usual.clear()
    _remembered.clear()
