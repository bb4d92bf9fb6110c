"""gainreg: how large initial weights must be so that signals keep their size through depth."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gainreg.errors import (
    GainregError,
    MomentError,
    ParameterError,
    PlanError,
    PluginError,
    TableError,
    UnknownActivationError,
)

if TYPE_CHECKING:
    from gainreg.activation import Activation
    from gainreg.build import build_table
    from gainreg.correlation_map import correlation
    from gainreg.criticality import CriticalPoint, critical
    from gainreg.entry import GainEntry
    from gainreg.hookspecs import hookimpl
    from gainreg.lookup import gain
    from gainreg.moments.piecewise import Piecewise, X, exp, piecewise
    from gainreg.resolver import GainCurve, curve, resolve
    from gainreg.signals.plan import load_plan
    from gainreg.table import GainTable, load_table

__version__ = "0.2.0"

__all__ = [
    "Activation",
    "CriticalPoint",
    "GainCurve",
    "GainEntry",
    "GainTable",
    "GainregError",
    "MomentError",
    "ParameterError",
    "Piecewise",
    "PlanError",
    "PluginError",
    "TableError",
    "UnknownActivationError",
    "X",
    "activations",
    "build_table",
    "correlation",
    "critical",
    "curve",
    "exp",
    "gain",
    "hookimpl",
    "load_plan",
    "load_table",
    "piecewise",
    "register",
    "reload_plugins",
    "resolve",
]

# Where the other public names live. They are imported when first used, so that `import gainreg` and
# a look-up in a table import neither numpy nor scipy nor pluggy.
_HOMES = {
    "activation": ("Activation",),
    "build": ("build_table",),
    "correlation_map": ("correlation",),
    "criticality": ("CriticalPoint", "critical"),
    "entry": ("GainEntry",),
    "hookspecs": ("hookimpl",),
    "lookup": ("gain",),
    "moments.piecewise": ("Piecewise", "X", "exp", "piecewise"),
    "resolver": ("GainCurve", "curve", "resolve"),
    "signals.plan": ("load_plan",),
    "table": ("GainTable", "load_table"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            module = import_module(f"gainreg.{home}")
            # all at once: a module and a function of one name must not hide each other
            globals().update((each, getattr(module, each)) for each in names)
            return globals()[name]
    raise AttributeError(f"module 'gainreg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def activations() -> list[str]:
    """The names of all activations that are known, in the order of their registration."""
    from gainreg.host import host

    return [activation.name for activation in host().activations()]


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
    from gainreg.lookup import forget

    host().register(activation, replace)
    forget()


def reload_plugins() -> None:
    """Forget all that was registered and remembered; plugins are loaded anew when next needed."""
    from gainreg import host, lookup

    host.forget()
    lookup.forget()
