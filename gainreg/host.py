"""The plugin host: finds plugins, keeps name → Activation, and contains what plugins do wrong."""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import importlib.util
import math
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pluggy

from gainreg import hookspecs
from gainreg.activation import Activation
from gainreg.errors import ParameterError, PluginError, UnknownActivationError
from gainreg.hookspecs import hookimpl
from gainreg.moments import FloatArray
from gainreg.params import check_params, finite_float

ENTRY_POINT_GROUP = "gainreg"
ENVIRONMENT = "GAINREG_PLUGINS"
HOST, PROGRAM = "gainreg", "gainreg.register"  # the plugins that are not found but built in
NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
TAKEN = (
    "activation",
    "std",
    "mode",
    "method",
    "seed",
    "table",
)  # of the functions that take params


@dataclass(frozen=True)
class PluginInfo:
    """What ``gainreg plugins`` shows of one plugin."""

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    activations: tuple[str, ...] = ()
    error: str = ""


class _Defaults:
    """The host's own hooks, asked last: they answer from the fields of the Activation."""

    @hookimpl(trylast=True)
    def gainreg_forward(self, activation: Activation, x: FloatArray) -> Any:
        if activation.forward is None:
            return None
        return activation.forward(x, **activation.params)

    @hookimpl(trylast=True)
    def gainreg_second_moment(self, activation: Activation, std: FloatArray) -> Any:
        if activation.second_moment is None:
            return None
        return activation.second_moment(std, **activation.params)

    @hookimpl(trylast=True)
    def gainreg_sample(
        self, activation: Activation, std: float, size: int, rng: np.random.Generator
    ) -> Any:
        if activation.sample is None:
            return None
        return activation.sample(std, size, rng, **activation.params)


class Host:
    """All plugins and the activations they declare."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager("gainreg")
        self._manager.add_hookspecs(hookspecs)
        self._manager.register(_Defaults(), HOST)
        self._activations: dict[str, Activation] = {}  # by name and by alias
        self._owners: dict[str, str] = {}  # canonical name → plugin
        self._plugins: dict[str, PluginInfo] = {}
        self._bound: dict[tuple[str, tuple[tuple[str, float], ...]], Activation] = {}

    # --- plugins ---

    def load_installed(self) -> None:
        """Load every entry point of the group ``gainreg``; warn of what does not load."""
        points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
        for point in sorted(points, key=lambda p: (p.dist.name if p.dist else "", p.name)):
            distribution = (point.dist.name, point.dist.version) if point.dist else ("", "")
            self._load_or_warn(point.name, point.load, *distribution)

    def load_environment(self) -> None:
        """Load the files named in ``GAINREG_PLUGINS``; warn of what does not load."""
        for path in filter(None, os.environ.get(ENVIRONMENT, "").split(os.pathsep)):
            self._load_or_warn(path, functools.partial(_import_file, path), ENVIRONMENT)

    def load_file(self, path: str) -> None:
        """Load a plugin from a Python file.

        Raises:
            PluginError: the file is missing, does not import, or is refused.
        """
        self._load(path, functools.partial(_import_file, path), "file")

    def register(self, activation: Activation, replace: bool = False) -> None:
        """Take in an activation of the running program; see ``gainreg.register``."""
        if not isinstance(activation, Activation):
            raise PluginError(
                f"register takes a gainreg.Activation, got {type(activation).__name__}; "
                "wrap a function as gainreg.Activation('my_name', forward=my_function)"
            )
        old = self._activations.get(activation.name)
        if replace and old is not None and self._owners[old.name] == PROGRAM:
            self._forget(old)
        self._adopt([activation], PROGRAM)

    def plugins(self) -> list[PluginInfo]:
        """Every plugin, the broken ones with the reason."""
        listed = list(self._plugins.values())
        own = tuple(name for name, owner in self._owners.items() if owner == PROGRAM)
        if own:
            listed.append(PluginInfo(PROGRAM, "", "", ("gainreg_activations",), own))
        return listed

    def _load_or_warn(
        self, name: str, load: Callable[[], object], distribution: str, version: str = ""
    ) -> None:
        try:
            self._load(name, load, distribution, version)
        except PluginError as error:
            warnings.warn(f"{error}; it is left out", RuntimeWarning, stacklevel=2)

    def _load(
        self, name: str, load: Callable[[], object], distribution: str, version: str = ""
    ) -> None:
        try:
            plugin = load()
            registered = self._register_plugin(plugin, name)
        except (Exception, SystemExit) as error:  # whatever a plugin does, it falls alone
            reason = _reason(error)
            self._plugins[name] = PluginInfo(name, distribution, version, error=reason)
            raise PluginError(f"plugin {name!r} failed to load: {reason}") from error
        hooks = tuple(sorted(c.name for c in self._manager.get_hookcallers(plugin) or ()))
        self._plugins[name] = PluginInfo(name, distribution, version, hooks, registered)

    def _register_plugin(self, plugin: object, name: str) -> tuple[str, ...]:
        unknown = [
            attribute
            for attribute in dir(plugin)
            if attribute.startswith("gainreg_") and not hasattr(self._manager.hook, attribute)
        ]
        if unknown:
            raise PluginError(f"{unknown[0]} is no hook of gainreg; see gainreg/hookspecs.py")
        if self._manager.register(plugin, name) is None:
            raise PluginError("a plugin of that name is loaded already")
        try:
            if not self._manager.get_hookcallers(plugin):
                raise PluginError(
                    "it has no hook; mark its functions with @gainreg.hookimpl, "
                    "as in gainreg/hookspecs.py"
                )
            declared: list[Any] = []
            for implementation in self._manager.hook.gainreg_activations.get_hookimpls():
                if implementation.plugin is plugin:
                    found: Any = implementation.function()
                    declared.extend(found or ())
            self._adopt(declared, name)
        except BaseException:
            self._manager.unregister(plugin)
            raise
        return tuple(a.name for a in declared)

    def _adopt(self, declared: list[Activation], owner: str) -> None:
        """Check and take in the activations of one plugin, all or none."""
        new: dict[str, Activation] = {}
        for activation in declared:
            if not isinstance(activation, Activation):
                raise PluginError(f"it declares {activation!r}, which is no gainreg.Activation")
            fault = _fault_of(activation)
            if fault:
                raise PluginError(f"{activation.name!r} {fault}")
            if activation.forward is None and activation.sample is None:
                raise PluginError(f"{activation.name!r} needs a forward or a sample function")
            for name in (activation.name, *activation.aliases):
                if not isinstance(name, str) or not NAME.match(name):
                    raise PluginError(f"{name!r} is no name: use lower_snake_case, as in 'my_act'")
                other = new.get(name, self._activations.get(name))
                if other is not None:
                    holder = self._owners.get(other.name, owner)
                    hint = "; pass replace=True to replace it" if holder == owner == PROGRAM else ""
                    raise PluginError(
                        f"{name!r} of {activation.name!r} from {owner} is already taken by "
                        f"{other.name!r} from {holder}{hint}"
                    )
                new[name] = activation
        self._activations.update(new)
        self._owners.update((a.name, owner) for a in declared)

    def _forget(self, activation: Activation) -> None:
        for name in (activation.name, *activation.aliases):
            del self._activations[name]
        del self._owners[activation.name]
        self._bound = {key: a for key, a in self._bound.items() if key[0] != activation.name}

    # --- activations ---

    def activations(self) -> list[Activation]:
        """Every registered activation, in the order of registration."""
        return [self._activations[name] for name in self._owners]

    def owner(self, activation: Activation) -> str:
        """The plugin that declares an activation; "" for one that is not registered."""
        known = self._activations.get(activation.name)
        if known is None or known.forward is not activation.forward:
            return ""  # a namesake
        return self._owners[activation.name]

    def activation(self, name: str) -> Activation:
        """The activation of that name or alias.

        Raises:
            UnknownActivationError: there is none; the message suggests close names.
        """
        if name in self._activations:
            return self._activations[name]
        near = difflib.get_close_matches(str(name).lower(), self._activations, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see 'gainreg list'"
        broken = [info.name for info in self._plugins.values() if info.error]
        lost = f" (plugins that failed to load: {', '.join(broken)})" if broken else ""
        raise UnknownActivationError(f"no activation is called {name!r}; {hint}{lost}")

    def bind(self, activation: str | Activation, params: Mapping[str, Any]) -> Activation:
        """An activation, by name or itself, with its params filled in and checked.

        Raises:
            UnknownActivationError: no such name.
            ParameterError: a param is unknown, missing, not a finite number, or out of range.
        """
        known = self.activation(activation) if isinstance(activation, str) else activation
        values = check_params(known.name, known.params, params)
        for text, holds in known.constraints.items():
            try:
                satisfied = holds(**values)
            except Exception as error:
                self._blame(known, f"raised {_reason(error)} in its constraint {text!r}", error)
            if not satisfied:
                given = ", ".join(f"{name}={value:g}" for name, value in values.items())
                raise ParameterError(f"{known.name!r} needs {text}, got {given}")
        if self._activations.get(known.name) is not known:
            return known.bind(values)
        key = (known.name, tuple(values.items()))
        if key not in self._bound:
            if len(self._bound) > 1000:
                self._bound.clear()
            self._bound[key] = known.bind(values)
        return self._bound[key]

    # --- what hooks return, checked ---

    def forward(self, activation: Activation, x: FloatArray) -> FloatArray:
        """φ(x) by the hooks.

        Raises:
            PluginError: φ raises, or returns NaN, complex numbers or another shape.
        """
        try:  # a copy of x: φ may work in place, and φ′ is evaluated at the same points
            y = self._manager.hook.gainreg_forward(activation=activation, x=x.copy())
        except Exception as error:
            self._blame(activation, f"raised {_reason(error)}", error)
        return self.checked(activation, "forward", y, x)

    def derivative(self, activation: Activation, x: FloatArray) -> FloatArray:
        """φ′(x) by the Activation's own field; same checks as ``forward``."""
        assert activation.derivative is not None
        try:
            y = activation.derivative(x, **activation.params)
        except Exception as error:
            self._blame(activation, f"raised {_reason(error)} in its derivative", error)
        return self.checked(activation, "derivative", y, x)

    def kinks(self, activation: Activation) -> tuple[float, ...] | None:
        """Where φ or φ′ jumps, as the Activation declares it; None if that is not known."""
        kinks: Any = activation.kinks
        if kinks is None:
            return None
        try:
            if callable(kinks):
                kinks = kinks(**activation.params)
            kinks = tuple(float(k) for k in kinks)
        except Exception as error:
            self._blame(activation, f"raised {_reason(error)} in its kinks", error)
        if not all(map(math.isfinite, kinks)):
            self._blame(activation, f"has kinks that are not finite: {kinks}")
        return tuple(kinks)

    def closed_form(self, activation: Activation, name: str, std: FloatArray) -> FloatArray | None:
        """A closed form's values at ``std``, NaN where it has none, or None if there is no such.

        Args:
            name: "second_moment" (by the hooks), or another moment (by the Activation's field).
        """
        field = getattr(activation, name)
        try:
            with np.errstate(all="ignore"):
                if name == "second_moment":
                    hook = self._manager.hook.gainreg_second_moment
                    value = hook(activation=activation, std=std)
                else:
                    value = None if field is None else field(std, **activation.params)
        except Exception as error:
            self._blame(activation, f"raised {_reason(error)} in its {name}", error)
        if value is None:
            return None
        try:
            if np.iscomplexobj(value):
                raise TypeError
            value = np.array(value, dtype=np.float64)  # a copy, to be worked on
            return value if value.shape == std.shape else np.full(std.shape, value)
        except (TypeError, ValueError) as error:
            self._blame(activation, f"returned no array of shape {std.shape} as {name}", error)

    def sampler(self, activation: Activation) -> Callable[..., FloatArray] | None:
        """``sample(std, size, rng)`` by the hooks, or None where no plugin has a sampler."""
        rng = np.random.default_rng(0)
        if self._sample(activation, 1.0, 16, rng) is None:
            return None

        def sample(std: float, size: int, rng: np.random.Generator) -> FloatArray:
            draws = self._sample(activation, std, size, rng)
            return self.checked(activation, "sample", draws, np.empty(size))

        return sample

    def _sample(
        self, activation: Activation, std: float, size: int, rng: np.random.Generator
    ) -> Any:
        try:
            return self._manager.hook.gainreg_sample(
                activation=activation, std=std, size=size, rng=rng
            )
        except Exception as error:
            self._blame(activation, f"raised {_reason(error)} in its sampler", error)

    def checked(self, activation: Activation, what: str, y: Any, x: FloatArray) -> FloatArray:
        """``y`` as a float64 array, if it is what a vectorised real function of x returns."""
        y = np.asarray(y)
        if y.dtype.kind not in "biuf":
            self._blame(activation, f"returned {y.dtype} numbers from its {what}, expected float64")
        if y.shape != x.shape:
            self._blame(
                activation,
                f"returned shape {y.shape} from its {what} for input of shape {x.shape}; "
                "it must be vectorised, element by element",
            )
        # squares cannot cancel, so their sum is NaN only if one of them is
        flat = y.ravel()
        if np.isnan(flat.dot(flat)) and np.isnan(y).any():
            where = float(x[np.isnan(y)][0])
            self._blame(
                activation,
                f"returned NaN from its {what} at x = {where:.6g}; use a form that does not "
                "overflow (expm1, log1p, logaddexp, scipy.special.expit)",
            )
        return np.asarray(y, dtype=np.float64)

    def _blame(
        self, activation: Activation, fault: str, cause: BaseException | None = None
    ) -> NoReturn:
        owner = self.owner(activation)
        by = f" (plugin {owner})" if owner else ""
        raise PluginError(f"activation {activation.name!r}{by} {fault}") from cause


def _fault_of(activation: Activation) -> str:
    """What is wrong with a declaration, "" if nothing is."""
    for name, default in activation.params.items():
        if not isinstance(name, str) or not NAME.match(name) or name in TAKEN:
            return f"has a param {name!r}: use lower_snake_case, and none of {', '.join(TAKEN)}"
        if default is not None:
            try:
                finite_float(default, "")
            except ParameterError:
                return f"has a param {name!r} whose default {default!r} is no finite number"
    if not isinstance(activation.constraints, Mapping):
        return "has constraints that are no mapping of a text to a test"
    return ""


def _reason(error: BaseException) -> str:
    """An exception in a line."""
    if isinstance(error, PluginError):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} (line {error.lineno})"
    return " ".join(f"{type(error).__name__}: {error}".split())


def _import_file(path: str) -> object:
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise PluginError("there is no such file")
    name = f"gainreg_plugin_file_{file.stem}_{abs(hash(file))}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError("it is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


_lock = threading.RLock()
_host: Host | None = None


def host() -> Host:
    """The process's host, with all installed plugins and those of ``GAINREG_PLUGINS``."""
    global _host
    with _lock:
        if _host is None:
            found = Host()
            found.load_installed()
            found.load_environment()
            _host = found
    return _host
