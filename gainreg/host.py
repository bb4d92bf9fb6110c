"""The plugin host: finds plugins, keeps name → Activation, and contains what plugins do wrong."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import inspect
import math
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
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
from gainreg.params import NAME, check_params, close_names, known_name

ENTRY_POINT_GROUP = "gainreg"
ENVIRONMENT = "GAINREG_PLUGINS"
HOST, PROGRAM = "gainreg.host", "gainreg.register"  # the plugins that are not found but built in
FAULTS = (Exception, SystemExit)  # what a plugin's own code may raise without taking others down


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
        self._left_out: dict[str, list[object]] = {}  # by hook: the plugins that failed in it

    # --- plugins ---

    def load_installed(self) -> None:
        """Load every entry point of the group ``gainreg``; warn of what does not load.

        gainreg's own come first, so that a newcomer that claims one of their names is refused.
        """
        found = [
            (name != "gainreg", name, version, point)
            for name, version, points in _distributions()
            for point in points
        ]
        for _, name, version, point in sorted(found, key=lambda row: (*row[:2], row[3].name)):
            taken = point.name in self._plugins
            shown = f"{point.name} of {name}" if taken else point.name
            self._load_or_warn(shown, point.load, name, version)

    def load_environment(self) -> None:
        """Load the files named in ``GAINREG_PLUGINS``; warn of what does not load."""
        for path in filter(None, os.environ.get(ENVIRONMENT, "").split(os.pathsep)):
            self._load_or_warn(path, functools.partial(self._import_file, path), ENVIRONMENT)

    def load_file(self, path: str) -> None:
        """Load a plugin from a Python file, once.

        Raises:
            PluginError: the file is missing, does not import, or is refused.
        """
        self._load(path, functools.partial(self._import_file, path), "file")

    def _import_file(self, path: str) -> object | None:
        """The module of a plugin file, None if it is loaded already."""
        file = Path(path).expanduser().resolve()
        if not file.is_file():
            raise PluginError("there is no such file")
        name = f"gainreg_plugin_file_{file.stem}_{abs(hash(file))}"
        known = sys.modules.get(name)
        if known is not None and self._manager.is_registered(known):
            return None
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise PluginError("it is no Python file; its name must end in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickle look a class's module up there
        try:
            spec.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(name, None)
            raise
        return module

    def register(self, activation: Activation, replace: bool = False) -> None:
        """Take in an activation of the running program; see ``gainreg.register``."""
        if not isinstance(activation, Activation):
            raise PluginError(
                f"register takes a gainreg.Activation, got {type(activation).__name__}; "
                "wrap a function as gainreg.Activation('my_name', forward=my_function)"
            )
        old = self._activations.get(activation.name)
        mine = old is not None and old.name == activation.name and self._owners[old.name] == PROGRAM
        self._adopt([activation], PROGRAM, old if replace and mine else None)

    def plugins(self) -> list[PluginInfo]:
        """Every plugin, the broken ones with the reason."""
        listed = list(self._plugins.values())
        own = tuple(name for name, owner in self._owners.items() if owner == PROGRAM)
        if own:
            listed.append(PluginInfo(PROGRAM, "", "", ("gainreg_activations",), own))
        return listed

    def _load_or_warn(
        self, name: str, load: Callable[[], object | None], distribution: str, version: str = ""
    ) -> None:
        try:
            self._load(name, load, distribution, version)
        except PluginError as error:
            warnings.warn(f"{error}; it is left out", RuntimeWarning, stacklevel=2)

    def _load(
        self, name: str, load: Callable[[], object | None], distribution: str, version: str = ""
    ) -> None:
        try:
            plugin = load()
            if plugin is None:
                return
            registered = self._register_plugin(plugin, name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a plugin does, it falls alone
            reason = _reason(error)
            self._plugins[name] = PluginInfo(name, distribution, version, error=reason)
            raise PluginError(f"plugin {name!r} failed to load: {reason}") from error
        hooks = tuple(sorted(c.name for c in self._manager.get_hookcallers(plugin) or ()))
        self._plugins[name] = PluginInfo(name, distribution, version, hooks, registered)

    def _register_plugin(self, plugin: object, name: str) -> tuple[str, ...]:
        marked = 0
        for attribute, value in inspect.getmembers(plugin, inspect.isroutine):
            is_marked = hasattr(value, "gainreg_impl")
            is_hook = hasattr(self._manager.hook, attribute) and attribute.startswith("gainreg_")
            if is_marked and not is_hook:
                raise PluginError(f"{attribute} is no hook of gainreg; see gainreg/hookspecs.py")
            if is_hook and not is_marked:
                raise PluginError(f"{attribute} is not marked with @gainreg.hookimpl")
            marked += is_marked
        if not marked:
            raise PluginError(
                "it has no hook of gainreg: mark a gainreg_… function with @gainreg.hookimpl"
            )
        if self._manager.is_registered(plugin):
            raise PluginError("it is loaded already, under another name")
        self._manager.register(plugin, name)
        try:
            declared: list[Any] = []
            for implementation in self._manager.hook.gainreg_activations.get_hookimpls():
                if implementation.plugin is plugin:
                    found: Any = implementation.function()
                    if isinstance(found, Activation):
                        raise PluginError("gainreg_activations returns one Activation, not a list")
                    declared.extend(found or ())
            self._adopt(declared, name)
        except BaseException:
            self._manager.unregister(plugin)
            raise
        return tuple(a.name for a in declared)

    def _adopt(self, declared: list[Activation], owner: str, old: Activation | None = None) -> None:
        """Check and take in the activations of one plugin, all or none, in place of ``old``."""
        new: dict[str, Activation] = {}
        for activation in declared:
            if not isinstance(activation, Activation):
                raise PluginError(f"it declares {activation!r}, which is no gainreg.Activation")
            if activation.forward is None and activation.sample is None:
                raise PluginError(f"{activation.name!r} needs a forward or a sample function")
            for name in (activation.name, *activation.aliases):
                if not isinstance(name, str) or not NAME.fullmatch(name):
                    raise PluginError(f"{name!r} is no name: use lower_snake_case, as in 'my_act'")
                other = new.get(name, self._activations.get(name))
                if other is not None and other is not old:
                    holder = self._owners.get(other.name, owner)
                    hint = "; pass replace=True to replace it" if holder == owner == PROGRAM else ""
                    raise PluginError(
                        f"{name!r} of {activation.name!r} from {owner} is already taken by "
                        f"{other.name!r} from {holder}{hint}"
                    )
                new[name] = activation
            if None not in activation.params.values():
                try:
                    self._check_constraints(activation, activation.params)
                except ParameterError as error:
                    raise PluginError(f"the default params are out of range: {error}") from None
        if old is not None:
            for name in (old.name, *old.aliases):
                del self._activations[name]
            self._bound = {key: a for key, a in self._bound.items() if key[0] != old.name}
        self._activations.update(new)
        self._owners.update((a.name, owner) for a in declared)

    # --- activations ---

    def activations(self) -> list[Activation]:
        """Every registered activation, in the order of registration."""
        return [self._activations[name] for name in self._owners]

    def owner(self, activation: Activation) -> str:
        """The plugin that declares an activation; "" for one that is not registered."""
        known = self._activations.get(activation.name)
        same = known is not None and (known.forward, known.sample) == (
            activation.forward,
            activation.sample,
        )
        if known is None or not same:
            return ""  # a namesake
        return self._owners[activation.name]

    def activation(self, name: str) -> Activation:
        """The activation of that name or alias, which may be spelled as a class, "LeakyReLU".

        Raises:
            UnknownActivationError: there is none; the message suggests close names.
        """
        if (known := known_name(name, self._activations)) is not None:
            return self._activations[known]
        hint = close_names(name, self._activations) or "see 'gainreg list'"
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
        self._check_constraints(known, values)
        if self._activations.get(known.name) is not known:
            return known.bind(values)
        key = (known.name, tuple(values.items()))
        if key not in self._bound:
            if len(self._bound) > 1000:
                self._bound.clear()
            self._bound[key] = known.bind(values)
        return self._bound[key]

    def _check_constraints(self, activation: Activation, values: Mapping[str, Any]) -> None:
        for text, holds in activation.constraints.items():
            try:
                satisfied = bool(holds(**values))
            except FAULTS as error:
                fault = f"raised {_reason(error)} in its constraint {text!r}"
                self._blame(activation, fault, error)
            if not satisfied:
                given = ", ".join(f"{name}={value:g}" for name, value in values.items())
                raise ParameterError(f"{activation.name!r} needs {text}, got {given}")

    # --- what hooks return, checked ---

    def _ask(
        self,
        hook: str,
        where: str,
        accept: Callable[[Any], Any],
        activation: Activation,
        **arguments: Any,
    ) -> Any:
        """The first result of a hook, as ``accept`` returns it; None where there is none.

        A plugin that fails in it for an activation that is not its own is left out from then on,
        with a warning.
        """
        while True:
            caller = getattr(self._manager.hook, hook)
            if hook in self._left_out:
                caller = self._manager.subset_hook_caller(hook, self._left_out[hook])
            cause: BaseException
            try:
                value = caller(activation=activation, **arguments)
            except FAULTS as error:
                cause, fault = error, f"raised {_reason(error)}{where}"
                culprit = _culprit(caller, error)
            else:
                try:
                    return None if value is None else accept(value)
                except _JunkError as error:
                    cause, fault = error, str(error)
                    culprit = self._provider(caller, activation, arguments)
            name = self._manager.get_name(culprit) if culprit else HOST
            if name in (HOST, self.owner(activation)):
                self._blame(activation, fault, cause)
            self._left_out.setdefault(hook, []).append(culprit)
            warnings.warn(
                f"plugin {name!r} {fault} for activation {activation.name!r}, which is not its "
                f"own; its {hook} is left out",
                RuntimeWarning,
                stacklevel=2,
            )

    def provider(self, hook: str, activation: Activation, **arguments: Any) -> str:
        """The plugin whose answer to a hook counts; "" for the activation's own."""
        plugin = self._provider(getattr(self._manager.hook, hook), activation, arguments)
        name = self._manager.get_name(plugin) if plugin else HOST
        return "" if name in (HOST, self.owner(activation)) else str(name)

    def _provider(
        self, caller: Any, activation: Activation, arguments: Mapping[str, Any]
    ) -> object | None:
        known = {"activation": activation, **arguments}
        for implementation in reversed(caller.get_hookimpls()):
            if implementation.wrapper or implementation.hookwrapper:
                continue
            if implementation.plugin in self._left_out.get(caller.name, ()):
                continue
            if implementation.function(*(known[name] for name in implementation.argnames)) is None:
                continue
            plugin: object = implementation.plugin
            return plugin
        return None

    def forward(self, activation: Activation, x: FloatArray) -> FloatArray:
        """φ(x) by the hooks.

        Raises:
            PluginError: φ raises, or returns NaN, complex numbers or another shape.
        """
        # a copy of x: φ may work in place, and φ′ is evaluated at the same points
        y = self._ask(
            "gainreg_forward", "", lambda y: _checked("forward", y, x), activation, x=x.copy()
        )
        if y is None:
            self._blame(activation, "returned None from its forward, expected float64 numbers")
        return np.asarray(y)

    def derivative(self, activation: Activation, x: FloatArray) -> FloatArray:
        """φ′(x) by the Activation's own field; same checks as ``forward``."""
        assert activation.derivative is not None
        try:
            y = activation.derivative(x, **activation.params)
        except FAULTS as error:
            self._blame(activation, f"raised {_reason(error)} in its derivative", error)
        try:
            return _checked("derivative", y, x)
        except _JunkError as error:
            self._blame(activation, str(error), error)

    def kinks(self, activation: Activation) -> tuple[float, ...] | None:
        """Where φ or φ′ jumps, as the Activation declares it; None if that is not known."""
        kinks: Any = activation.kinks
        if kinks is None:
            return None
        try:
            if callable(kinks):
                kinks = kinks(**activation.params)
            kinks = tuple(float(k) for k in kinks)
        except FAULTS as error:
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

        def accept(value: Any) -> FloatArray:
            try:
                if np.iscomplexobj(value):
                    raise TypeError
                found = np.array(value, dtype=np.float64)  # a copy, to be worked on
                return found if found.shape == std.shape else np.full(std.shape, found)
            except (TypeError, ValueError):
                raise _JunkError(f"returned no array of shape {std.shape} as {name}") from None

        with np.errstate(all="ignore"):
            if name == "second_moment":
                found: FloatArray | None = self._ask(
                    "gainreg_second_moment", f" in its {name}", accept, activation, std=std
                )
                return found
            if field is None:
                return None
            try:
                value = field(std, **activation.params)
            except FAULTS as error:
                self._blame(activation, f"raised {_reason(error)} in its {name}", error)
        try:
            return accept(value)
        except _JunkError as error:
            self._blame(activation, str(error), error)

    def sampler(self, activation: Activation) -> Callable[..., FloatArray] | None:
        """``sample(std, size, rng)`` by the hooks, or None where no plugin has a sampler."""

        def sample(std: float, size: int, rng: np.random.Generator) -> Any:
            return self._ask(
                "gainreg_sample",
                " in its sampler",
                lambda y: _checked("sample", y, np.empty(size)),
                activation,
                std=std,
                size=size,
                rng=rng,
            )

        return None if sample(1.0, 16, np.random.default_rng(0)) is None else sample

    def _blame(
        self, activation: Activation, fault: str, cause: BaseException | None = None
    ) -> NoReturn:
        owner = self.owner(activation)
        by = f" (plugin {owner})" if owner else ""
        raise PluginError(f"activation {activation.name!r}{by} {fault}") from cause


class _JunkError(Exception):
    """What a function of a plugin returned is not what it must return."""


def _checked(what: str, y: Any, x: FloatArray) -> FloatArray:
    """``y`` as a float64 array, if it is what a vectorised real function of x returns."""
    y = np.asarray(y)
    if y.dtype.kind not in "biuf":
        raise _JunkError(f"returned {y.dtype} numbers from its {what}, expected float64")
    if y.shape != x.shape:
        raise _JunkError(
            f"returned shape {y.shape} from its {what} for input of shape {x.shape}; "
            "it must be vectorised, element by element"
        )
    if np.isnan(y.sum()) and np.isnan(y).any():  # the sum is quicker, and NaN if one of them is
        if what == "sample":
            raise _JunkError("returned NaN from its sampler")
        where = float(x[np.isnan(y)][0])
        raise _JunkError(
            f"returned NaN from its {what} at x = {where:.6g}; use a form that does not "
            "overflow (expm1, log1p, logaddexp, scipy.special.expit)"
        )
    return np.asarray(y, dtype=np.float64)


def _distributions() -> Iterator[tuple[str, str, list[Any]]]:
    """Name, version and entry points of each installed distribution that has some for gainreg."""
    seen = set()
    for distribution in importlib.metadata.distributions():
        try:
            points = distribution.entry_points.select(group=ENTRY_POINT_GROUP)
            if not points:
                continue
            name, version = distribution.metadata["Name"], str(distribution.version)
            if not isinstance(name, str):
                raise PluginError("it has no name")
        except Exception as error:  # metadata that somebody broke
            warnings.warn(
                f"the metadata of an installed package cannot be read ({_reason(error)}); "
                "its plugins, if any, are left out",
                RuntimeWarning,
                stacklevel=2,
            )
            continue
        if name not in seen:  # the first on the path counts
            seen.add(name)
            yield name, version, list(points)


def _culprit(caller: Any, error: BaseException) -> object | None:
    """The plugin in whose hook an error was raised."""
    trace, codes = error.__traceback__, set()
    while trace is not None:
        codes.add(trace.tb_frame.f_code)
        trace = trace.tb_next
    for implementation in caller.get_hookimpls():
        if getattr(inspect.unwrap(implementation.function), "__code__", None) in codes:
            plugin: object = implementation.plugin
            return plugin
    return None


def _reason(error: BaseException) -> str:
    """An exception in a line."""
    if isinstance(error, PluginError):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} (line {error.lineno})"
    try:
        text = str(error)
    except FAULTS:
        text = "(an error that cannot be shown)"
    return " ".join(f"{type(error).__name__}: {text}".split())


_lock = threading.Lock()
_host: Host | None = None
_loading = threading.local()


def host() -> Host:
    """The process's host, with all installed plugins and those of ``GAINREG_PLUGINS``.

    No lock is held while plugins are imported: one may be waiting for another thread's import. A
    plugin that calls gainreg while it is imported sees what has been loaded so far.
    """
    global _host
    if _host is not None:
        return _host
    unfinished: Host | None = getattr(_loading, "host", None)
    if unfinished is not None:
        return unfinished
    found = _loading.host = Host()
    try:
        found.load_installed()
        found.load_environment()
    finally:
        del _loading.host
    with _lock:
        if _host is None:  # or another thread was quicker
            _host = found
        return _host


def forget() -> None:
    """Forget the process's host; the next call of ``host`` finds plugins anew."""
    global _host
    with _lock:
        _host = None
