"""JAX models taken apart, whatever they are written in: parameters by name, and a function of
them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gainreg.adapters.jax.tracer import sliced_aliases, sliced_name
from gainreg.errors import ParameterError


@dataclass
class Opened:
    """A model taken apart: its parameters by name, what else it holds, and how it is run. What is
    set is the parts.

    Attributes:
        kind: what it is called.
        leaves: the parameters: arrays, or their shapes.
        others: arrays that are no parameters, as running means or the states of random numbers.
        merged: ``merged(leaves, others)`` is the model with these, or the params of a pair.
        output: ``output(merged, *args, **kwargs)`` is its output.
        aliases: other names of leaves.
        divided: of what was divided into its layers along an axis: itself, the axis, their names.
        is_pair, is_single: whether it is a pair, or a module of Equinox, made for one sample.
    """

    kind: str
    leaves: dict[str, Any]
    others: list[Any]
    merged: Callable[[Mapping[str, Any], Sequence[Any]], Any]
    output: Callable[..., Any]
    aliases: dict[str, str] = field(default_factory=dict)
    divided: dict[str, tuple[Any, int, list[str]]] = field(default_factory=dict)
    is_pair: bool = False
    is_single: bool = False

    def divide(self, names: Sequence[str]) -> None:
        """Let layers of a scan that a plan names, as "w[:, 3]", be leaves of their own."""
        for name in names:
            found = _LAYER.match(name)
            if name in self.leaves or found is None or found[1] not in self.leaves:
                continue
            leaf, axis = self.leaves[found[1]], found[2].count(":")
            if axis < len(leaf.shape):
                parts = [sliced_name(found[1], axis, i) for i in range(leaf.shape[axis])]
                self.divided[found[1]] = leaf, axis, parts
                self.aliases = sliced_aliases(self.aliases, found[1], axis, parts)
                del self.leaves[found[1]]
                self.leaves.update((part, leaf.take(i, axis)) for i, part in enumerate(parts))

    def whole(self) -> dict[str, Any]:
        """The leaves as the model has them, put together from their layers."""
        found = dict(self.leaves)
        for name, (leaf, axis, parts) in self.divided.items():
            module: Any = jnp if isinstance(leaf, jax.Array) else np
            found[name] = like(leaf, module.stack([found.pop(part) for part in parts], axis))
        return found


_LAYER = re.compile(r"^(.*)\[((?::, )*)(\d+)\]$")


def like(leaf: Any, numbers: Any) -> Any:
    """Numbers as an array of a leaf's kind and type, where that is."""
    if not isinstance(leaf, jax.Array):
        return np.asarray(numbers).astype(leaf.dtype)
    numbers = jnp.asarray(numbers).astype(leaf.dtype)
    return jax.device_put(numbers, leaf.sharding) if numbers.sharding != leaf.sharding else numbers


def open_model(model: Any) -> Opened:
    """A model taken apart.

    Raises:
        ParameterError: it is none, or has no parameters.
    """
    nnx: Any = sys.modules.get("flax.nnx")
    equinox: Any = sys.modules.get("equinox")
    linen: Any = sys.modules.get("flax.linen")
    if isinstance(model, tuple) and len(model) == 2 and callable(model[0]):
        opened = _of_tree(model[1], getattr(model[0], "__name__", "the pair's function"), model[0])
        opened.is_pair = True
    elif nnx and isinstance(model, nnx.Module):
        opened = _of_nnx(model, nnx)
    elif equinox and isinstance(model, equinox.Module):
        name = type(model).__name__
        opened = _of_tree(model, name, _called)
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


# --- trees ---


def is_array(x: Any) -> bool:
    return isinstance(x, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))


def is_parameter(x: Any) -> bool:
    return is_array(x) and jnp.issubdtype(x.dtype, jnp.inexact)


def has_values(x: Any) -> bool:
    return not isinstance(x, jax.ShapeDtypeStruct)


def parted(tree: Any) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """The arrays among a tree's leaves, and a function that puts others in their places."""
    leaves, structure = jax.tree_util.tree_flatten(tree)
    places = [i for i, leaf in enumerate(leaves) if is_array(leaf)]

    def put(arrays: Sequence[Any]) -> Any:
        found = list(leaves)
        for i, array in zip(places, arrays, strict=True):
            found[i] = array
        return jax.tree_util.tree_unflatten(structure, found)

    return [leaves[i] for i in places], put


def _called(model: Any, *args: Any, **kwargs: Any) -> Any:
    return model(*args, **kwargs)


def _of_tree(tree: Any, kind: str, output: Callable[..., Any]) -> Opened:
    """A pytree, of which floating-point arrays are parameters."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = [_name(path) if is_parameter(leaf) else "" for path, leaf in paths if is_array(leaf)]
    arrays, put = parted(tree)

    def merged(leaves: Mapping[str, Any], others: Sequence[Any]) -> Any:
        rest = iter(others)
        return put([leaves[name] if name else next(rest) for name in names])

    leaves = {name: leaf for name, leaf in zip(names, arrays, strict=True) if name}
    others = [leaf for name, leaf in zip(names, arrays, strict=True) if not name]
    return Opened(kind, leaves, others, merged, output)


def _of_nnx(model: Any, nnx: Any) -> Opened:
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    paths, structure = jax.tree_util.tree_flatten_with_path(params)
    names = [_name(path[:-1] if _ends_in_value(path) else path) for path, _ in paths]
    others, others_structure = jax.tree_util.tree_flatten(rest)

    def merged(leaves: Mapping[str, Any], others: Sequence[Any]) -> Any:
        found = jax.tree_util.tree_unflatten(structure, [leaves[name] for name in names])
        return nnx.merge(graph, found, jax.tree_util.tree_unflatten(others_structure, others))

    leaves = {name: leaf for name, (_, leaf) in zip(names, paths, strict=True)}
    opened = Opened(type(model).__name__, leaves, others, merged, _called)
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
    kinds = ("key", "name", "idx")  # what the steps of a path are called by
    parts = [str(getattr(x, kind)) for x in path for kind in kinds if hasattr(x, kind)]
    return "/".join(parts) or "params"  # of a tree that is one array
