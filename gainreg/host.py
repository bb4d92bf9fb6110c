"""The plugin host: finds plugins, keeps name → Activation, and contains what plugins do wrong."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pluggy

from gainreg import hookspecs
from gainreg.activation import Activation
from gainreg.bound import Bound, reason
from gainreg.errors import ParameterError, PluginError, UnknownActivationError
from gainreg.params import NAME, check_params, close_names, known_name

ENTRY_POINT_GROUP = "gainreg"
ENVIRONMENT = "GAINREG_PLUGINS"
MOST_BOUND = 1000  # params of one activation that are remembered: a program may go through many
PROGRAM = "gainreg.register"  # the owner of what the running program registers


@dataclass(frozen=True)
class PluginInfo:
    """What ``gainreg plugins`` shows of one plugin."""

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    activations: tuple[str, ...] = ()
    error: str = ""


class Host:
    """All plugins and the activations they declare."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager("gainreg")
        self._manager.add_hookspecs(hookspecs)
        self._activations: dict[str, Activation] = {}  # by name and by alias
        self._owners: dict[str, str] = {}  # canonical name → plugin
        self._plugins: dict[str, PluginInfo] = {}
        self._digests: dict[str, str] = {}  # of plugin files, by their paths
        # by declaration and params; what is replaced or forgotten takes its bound ones along
        self._bound: WeakKeyDictionary[Activation, dict[tuple[float, ...], Bound]]
        self._bound = WeakKeyDictionary()
        self._left_out: set[tuple[str, str]] = set()  # hooks and the plugins that failed in them

    # --- plugins ---

    def load_installed(self) -> None:
        """Load every entry point of the group ``gainreg``; warn of what does not load.

        gainreg's own come first, so that a newcomer that claims one of their names is refused.
        """
        found: dict[str, Any] = {}
        for distribution in importlib.metadata.distributions():
            try:
                if points := distribution.entry_points.select(group=ENTRY_POINT_GROUP):
                    # of two of one name the first on the path counts
                    found.setdefault(str(distribution.metadata["Name"]), (distribution, points))
            except Exception as error:  # metadata that somebody broke
                warnings.warn(
                    f"the metadata of an installed package cannot be read ({reason(error)}); "
                    "its plugins, if any, are left out",
                    RuntimeWarning,
                    stacklevel=2,
                )
        for name in sorted(found, key=lambda name: (name != "gainreg", name)):
            distribution, points = found[name]
            for point in sorted(points, key=lambda point: point.name):
                taken = point.name in self._plugins
                shown = f"{point.name} of {name}" if taken else point.name
                self._load_or_warn(shown, point.load, name, str(distribution.version))

    def load_environment(self) -> None:
        """Load the files named in ``GAINREG_PLUGINS``; warn of what does not load."""
        for path in filter(None, os.environ.get(ENVIRONMENT, "").split(os.pathsep)):
            self._load_or_warn(path, functools.partial(self._import_file, path), ENVIRONMENT)

    def load_file(self, path: str) -> None:
        """Load a plugin from a Python file, once.

        Raises:
            PluginError: the file is missing, does not import, or is refused.
        """
        self.load(path, functools.partial(self._import_file, path), "file")

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
            self._digests[str(file)] = hashlib.sha256(file.read_bytes()).hexdigest()
            spec.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(name, None)
            raise
        return module

    def files(self) -> dict[str, str]:
        """The whole paths of the plugin files that are loaded, in that order, and a digest of each.

        By it a worker that has been at hand for longer knows whether it has the same ones.
        """
        paths = (getattr(plugin, "__file__", "") for _, plugin in self._manager.list_name_plugin())
        return {path: self._digests[path] for path in paths if path in self._digests}

    def register(self, activation: Activation, replace: bool = False) -> None:
        """Take in an activation of the running program; see ``gainreg.register``."""
        old = self._activations.get(getattr(activation, "name", ""))
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
            self.load(name, load, distribution, version)
        except PluginError as error:
            warnings.warn(f"{error}; it is left out", RuntimeWarning, stacklevel=2)

    def load(
        self,
        name: str,
        load: Callable[[], object | None],
        distribution: str = "",
        version: str = "",
    ) -> None:
        """Take in all of the plugin that ``load`` returns, or nothing; None is nothing to do.

        Raises:
            PluginError: it does not load, or is refused; the message names it and says why.
        """
        try:
            plugin = load()
            if plugin is None:
                return
            registered = self._register_plugin(plugin, name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a plugin does, it falls alone
            why = reason(error)
            self._plugins[name] = PluginInfo(name, distribution, version, error=why)
            raise PluginError(f"plugin {name!r} failed to load: {why}") from error
        hooks = tuple(sorted(c.name for c in self._manager.get_hookcallers(plugin) or ()))
        self._plugins[name] = PluginInfo(name, distribution, version, hooks, registered)

    def _register_plugin(self, plugin: object, name: str) -> tuple[str, ...]:
        hooks = 0
        for attribute, value in inspect.getmembers(plugin, inspect.isroutine):
            options = getattr(value, "gainreg_impl", None)
            is_hook = attribute.startswith("gainreg_") and hasattr(self._manager.hook, attribute)
            if options is None and is_hook:
                raise PluginError(f"{attribute} is not marked with @gainreg.hookimpl")
            if options is not None and not is_hook:
                raise PluginError(f"{attribute} is no hook of gainreg; see gainreg/hookspecs.py")
            if options and (options["wrapper"] or options["hookwrapper"]):
                raise PluginError(f"{attribute} is a hook wrapper, which gainreg does not call")
            hooks += is_hook
        if not hooks:
            raise PluginError(
                "it has no hook of gainreg: mark a gainreg_… function with @gainreg.hookimpl"
            )
        self._manager.register(plugin, name)
        try:
            declare: Any = getattr(plugin, "gainreg_activations", lambda: ())
            declared = list(declare() or ())
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
                raise PluginError(
                    f"got {activation!r}, which is no gainreg.Activation; wrap a function as "
                    "gainreg.Activation('my_name', forward=my_function)"
                )
            if not (activation.forward or activation.sample or activation.gate):
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
                    Bound(activation, owner, self).check_constraints()
                except ParameterError as error:
                    raise PluginError(f"the default params are out of range: {error}") from None
        if old is not None:
            for name in (old.name, *old.aliases):
                del self._activations[name]
        self._activations.update(new)
        self._owners.update((a.name, owner) for a in declared)

    # --- activations ---

    def activations(self) -> list[Activation]:
        """Every registered activation, in the order of registration."""
        return [self._activations[name] for name in self._owners]

    def owner(self, name: str) -> str:
        """The plugin that declares the activation of that canonical name."""
        return self._owners[name]

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

    def bind(self, activation: str | Activation, params: Mapping[str, Any]) -> Bound:
        """An activation, by name or itself, with its params filled in and checked.

        Raises:
            UnknownActivationError: no such name.
            ParameterError: a param is unknown, missing, not a finite number, or out of range.
        """
        known = self.activation(activation) if isinstance(activation, str) else activation
        values = check_params(known.name, known.params, params)
        bound = self._bound.setdefault(known, {})
        key = tuple(values.values())
        if key not in bound:
            owner = self._owners[known.name] if self._activations.get(known.name) is known else ""
            new = Bound(dataclasses.replace(known, params=values), owner, self)
            new.check_constraints()
            if len(bound) > MOST_BOUND:
                bound.clear()
            bound[key] = new
        return bound[key]

    # --- hooks ---

    def implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """Who implements a hook, the last one loaded first."""
        return [
            implementation
            for implementation in reversed(getattr(self._manager.hook, hook).get_hookimpls())
            if (hook, implementation.plugin_name) not in self._left_out
        ]

    def leave_out(self, hook: str, plugin: str) -> None:
        """Ask a plugin no more for a hook in which it failed."""
        self._left_out.add((hook, plugin))


_process: dict[str, Host] = {}  # the host of this process, once it is complete
_loading = threading.local()  # the one that this thread is about to complete


def host() -> Host:
    """The process's host, with all installed plugins and those of ``GAINREG_PLUGINS``.

    No lock is held while plugins are imported: one may be waiting for another thread's import. A
    plugin that calls gainreg while it is imported sees what has been loaded so far.
    """
    known = _process.get("host") or getattr(_loading, "host", None)
    if known is not None:
        return known
    found = _loading.host = Host()
    try:
        found.load_installed()
        found.load_environment()
    finally:
        del _loading.host
    return _process.setdefault("host", found)  # of two threads the first


def forget() -> None:
    """Forget the process's host; the next call of ``host`` finds plugins anew."""
    _process.clear()
