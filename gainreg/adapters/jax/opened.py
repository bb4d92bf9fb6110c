"""JAX models taken apart, whatever they are written in: parameters by name, and a function of
them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gainreg.errors import ParameterError


@dataclass
class Opened:
    """A model taken apart: its parameters by name, what else it holds, and how it is run.

    Attributes:
        kind: what it is called.
        leaves: the parameters: arrays, or their shapes.
        others: arrays that are no parameters, as running means or the states of random numbers.
        run: ``run(leaves, others, args, kwargs)`` is the model's output.
        rebuild: the model with other leaves.
        aliases: other names of leaves.
        value: the model itself, or the params of a pair.
        draws: what tells each parameter's random numbers apart, where that is not its name.
        is_pair, is_single: whether it is a pair, or a module of Equinox, made for one sample.
    """

    kind: str
    leaves: dict[str, Any]
    others: list[Any]
    run: Callable[..., Any]
    rebuild: Callable[[Mapping[str, Any]], Any]
    value: Any
    aliases: dict[str, str] = field(default_factory=dict)
    draws: Mapping[str, int] = field(default_factory=dict)
    is_pair: bool = False
    is_single: bool = False

    def having(self, leaves: dict[str, Any]) -> Opened:
        """The model with other parameters, each where the old one is."""
        for name, old in self.leaves.items():
            new = leaves[name]
            if isinstance(old, jax.Array) and new is not old and old.sharding != new.sharding:
                leaves[name] = jax.device_put(new, old.sharding)
        return replace(self, leaves=leaves, value=self.rebuild(leaves))


def open_model(model: Any) -> Opened:
    """A model taken apart.

    Raises:
        ParameterError: it is none, or has no parameters.
    """
    nnx: Any = sys.modules.get("flax.nnx")
    equinox: Any = sys.modules.get("equinox")
    linen: Any = sys.modules.get("flax.linen")
    if isinstance(model, Opened):
        return model
    if isinstance(model, tuple) and len(model) == 2 and callable(model[0]):
        opened = _of_tree(model[1], getattr(model[0], "__name__", "the pair's function"), model[0])
        opened.is_pair = True
    elif nnx and isinstance(model, nnx.Module):
        opened = _of_nnx(model, nnx)
    elif equinox and isinstance(model, equinox.Module):
        name = type(model).__name__
        opened = _of_tree(model, name, lambda own, *args, **kwargs: own(*args, **kwargs))
        opened.is_single = True
    elif linen and isinstance(model, linen.Module):
        raise ParameterError(
            "a linen module comes without its params; give the pair (module.apply, variables)"
        )
    else:
        raise ParameterError(
            "a model is a Flax NNX or Equinox module, or a pair (apply, params), got "
            f"{type(model).__name__}"
        )
    if not opened.leaves:
        raise ParameterError(f"{opened.kind} has no parameters: there is nothing to set")
    return opened


def _of_tree(tree: Any, kind: str, apply: Callable[..., Any]) -> Opened:
    """A pytree, of which floating-point arrays are parameters."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [_name(path) if is_parameter(leaf) else None for path, leaf in paths]
    held = [leaf for _, leaf in paths]
    kept = [i for i, leaf in enumerate(held) if names[i] is None and is_array(leaf)]

    def rebuild(leaves: Mapping[str, Any]) -> Any:
        found = [
            leaf if name is None else leaves[name] for name, leaf in zip(names, held, strict=True)
        ]
        return jax.tree_util.tree_unflatten(structure, found)

    def run(leaves: Mapping[str, Any], others: list[Any], args: Any, kwargs: Any) -> Any:
        found = list(held)
        for i, other in zip(kept, others, strict=True):
            found[i] = other
        for i, name in enumerate(names):
            if name is not None:
                found[i] = leaves[name]
        return apply(jax.tree_util.tree_unflatten(structure, found), *args, **kwargs)

    leaves = {name: leaf for name, leaf in zip(names, held, strict=True) if name is not None}
    return Opened(kind, leaves, [held[i] for i in kept], run, rebuild, tree)


def _of_nnx(model: Any, nnx: Any) -> Opened:
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    paths, structure = jax.tree_util.tree_flatten_with_path(params)
    names = [_name(path[:-1] if _ends_in_value(path) else path) for path, _ in paths]
    others, others_structure = jax.tree_util.tree_flatten(rest)

    def merged(leaves: Mapping[str, Any], others: list[Any]) -> Any:
        found = jax.tree_util.tree_unflatten(structure, [leaves[name] for name in names])
        return nnx.merge(graph, found, jax.tree_util.tree_unflatten(others_structure, others))

    def run(leaves: Mapping[str, Any], others: list[Any], args: Any, kwargs: Any) -> Any:
        return merged(leaves, others)(*args, **kwargs)

    leaves = {name: leaf for name, (_, leaf) in zip(names, paths, strict=True)}
    opened = Opened(
        type(model).__name__, leaves, others, run, lambda leaves: merged(leaves, others), model
    )
    found: dict[int, list[str]] = {}
    for path, variable in _variables(model, nnx, (), ()):
        found.setdefault(id(variable), []).append("/".join(map(str, path)))
    for same in found.values():
        first = next((name for name in same if name in leaves), None)
        opened.aliases.update((name, first) for name in same if first and name != first)
    return opened


def _variables(node: Any, nnx: Any, path: tuple[Any, ...], above: tuple[int, ...]) -> Iterator[Any]:
    """The parameters of a module by every path that leads to them."""
    if isinstance(node, nnx.Param):
        yield path, node
        return
    if id(node) in above:
        return
    children: Any = ()
    if isinstance(node, (list, tuple)) or type(node).__name__ == "List":
        children = enumerate(node)
    elif isinstance(node, Mapping):
        children = node.items()
    elif isinstance(node, nnx.Module):
        children = ((k, v) for k, v in vars(node).items() if not k.startswith("_pytree"))
    for name, child in children:
        yield from _variables(child, nnx, (*path, name), (*above, id(node)))


def _ends_in_value(path: Any) -> bool:
    return bool(path) and getattr(path[-1], "name", "") in ("value", "raw_value")


def _name(path: Any) -> str:
    parts = []
    for entry in path:
        for attribute in ("key", "name", "idx"):
            if hasattr(entry, attribute):
                parts.append(str(getattr(entry, attribute)))
                break
    return "/".join(parts) or "params"  # of a tree that is one array


def is_array(x: Any) -> bool:
    return isinstance(x, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))


def is_parameter(x: Any) -> bool:
    return is_array(x) and jnp.issubdtype(x.dtype, jnp.inexact)


def has_values(x: Any) -> bool:
    return not isinstance(x, jax.ShapeDtypeStruct)


# --- layers of a parameter ---

_LAYER = re.compile(r"^(.*)\[((?::, )*)(\d+)\]$")


@dataclass(frozen=True)
class Layer:
    """A parameter, or layer i of it along an axis."""

    parameter: str
    axis: int | None = None
    i: int = 0

    def of(self, leaves: Mapping[str, Any]) -> Any:
        """Its numbers."""
        leaf = leaves[self.parameter]
        return leaf if self.axis is None else jnp.take(leaf, self.i, self.axis)


def layer_of(name: str, leaves: Mapping[str, Any]) -> Layer:
    """What a name of a plan stands for: "w", or "w[:, 3]" as NumPy would index it."""
    found = _LAYER.match(name)
    if name in leaves or found is None:
        return Layer(name)
    return Layer(found[1], found[2].count(":"), int(found[3]))


def put(leaves: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of which some, or layers of some, are new; each of its own kind and type."""
    found, layers = dict(leaves), dict[str, dict[Layer, Any]]()
    for name, numbers in new.items():
        layer = layer_of(name, leaves)
        if layer.axis is None:
            found[name] = _like(leaves[name], numbers)
        else:
            layers.setdefault(layer.parameter, {})[layer] = numbers
    for name, some in layers.items():
        leaf, axis = leaves[name], next(iter(some)).axis
        assert axis is not None
        parts = [Layer(name, axis, i) for i in range(leaf.shape[axis])]
        stacked = [_like(leaf, some.get(part, part.of(leaves))) for part in parts]
        module: Any = jnp if isinstance(leaf, jax.Array) else np
        found[name] = module.stack(stacked, axis)
    return found


def _like(leaf: Any, numbers: Any) -> Any:
    if not isinstance(leaf, jax.Array):
        numbers = np.asarray(numbers)
    return numbers.astype(leaf.dtype)
