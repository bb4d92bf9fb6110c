"""Equations with a jaxpr inside: functions, branches, scans and loops."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from gainreg.adapters.jax.tracer import Array, JaxTrace, Step, array_of, call, derived, rule
from gainreg.signals import layout as layouts
from gainreg.signals import operations
from gainreg.signals.functions import FloatArray
from gainreg.signals.layout import UNIT, Layout
from gainreg.signals.rules.opaque import Inside, Pull
from gainreg.signals.signal import Signal
from gainreg.signals.tape import Node
from gainreg.signals.trace import names

# A loop without weights of at most so many equations is followed step by step: a recurrence of a
# hundred steps takes as long to follow as a transformer of ten layers.
LONG = 1000

# A layer that is repeated so often at most is followed each time.
REPEATED = 100


@call("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint",
      "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")  # fmt: skip
def _called(trace: JaxTrace, params: Mapping[str, Any], inputs: list[Array]) -> list[Array]:
    inner = next(params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params)
    return _inside(trace, inner, inputs)


def _inside(trace: JaxTrace, inner: Any, inputs: Sequence[Array]) -> list[Array]:
    """Follow a jaxpr, closed or not."""
    if not hasattr(inner, "consts"):
        return trace.read(inner, [], inputs)
    consts = [array_of(v, c) for v, c in zip(inner.jaxpr.constvars, inner.consts, strict=True)]
    return trace.read(inner.jaxpr, consts, inputs)


def _followed(
    trace: JaxTrace, function: Callable[..., list[Any]], inputs: Sequence[Array]
) -> list[Array]:
    """Follow a function as if the model had called it."""
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs]  # type: ignore[no-untyped-call]
    return _inside(trace, jax.make_jaxpr(function)(*shapes), inputs)


@call("cond")
def _branched(
    trace: JaxTrace, params: Mapping[str, Any], inputs: list[Array]
) -> list[Array] | None:
    """The branch that is taken, where no signal decides; else all, if they agree."""
    which, operands = inputs[0], inputs[1:]
    branches = params["branches"]
    if not trace.is_signal(which):
        index = trace.value(which)
        if index is not None:
            return _inside(trace, branches[int(np.clip(index, 0, len(branches) - 1))], operands)
    tape, before = trace.tape, len(trace.tape.nodes)
    steps = len(trace.steps)
    sketches, outputs = [], []
    for branch in branches:
        trace.forget(before)
        del trace.steps[steps:]
        outputs = _inside(trace, branch, operands)
        entries = [e.node.id if isinstance(e, Signal) else e for e in map(trace.entry, outputs)]
        sketches.append(([_sketch(node) for node in tape.nodes[before:]], entries))
    if all(sketch == sketches[0] for sketch in sketches):
        return outputs
    trace.forget(before)
    del trace.steps[steps:]
    return None


def _sketch(node: Node) -> Any:
    """What two branches must do alike."""
    facts = {
        key: value.key if key == "operation" and hasattr(value, "key") else value
        for key, value in node.facts.items()
    }
    inputs = [parent.id for parent in node.inputs]
    return node.rule, inputs, node.layout, facts, node.weight, node.bias


@call("scan")
def _scanned(trace: JaxTrace, params: Mapping[str, Any], inputs: list[Array]) -> list[Array] | None:
    """Layer after layer, each with its slice of the weights; a recurrence is one operation."""
    n, carried = params["num_consts"], params["num_carry"]
    consts, carry, along = inputs[:n], inputs[n : n + carried], inputs[n + carried :]
    length, inner = params["length"], params["jaxpr"]
    if not any(trace.is_signal(x) or trace.is_weight(x) for x in inputs):
        return None
    if not carried and along:  # what is done to each alone is done to all at once
        every = jax.vmap(jaxpr_as_fun(inner), (*(None,) * n, *(0,) * len(along)))
        return _followed(trace, every, inputs)
    stacked = any(trace.is_stacked(x) for x in along)
    fed = any(trace.is_signal(x) for x in along)
    shared = any(trace.is_weight(x) for x in (*consts, *carry))
    short = length * len(inner.jaxpr.eqns) <= LONG
    if not (stacked or (shared and not fed and length <= REPEATED) or (short and not shared)):
        return None
    order = range(length - 1, -1, -1) if params["reverse"] else range(length)
    collected: list[list[Array]] = []
    for i in order:
        layer = [_layer(trace, x, i) for x in along]
        outputs = _inside(trace, inner, [*consts, *carry, *layer])
        carry, rest = outputs[:carried], outputs[carried:]
        collected.append(rest)
    if params["reverse"]:
        collected.reverse()
    for parts in zip(*collected, strict=True):
        carry += _followed(trace, lambda *layers: [jax.numpy.stack(layers)], parts)
    return carry


def _layer(trace: JaxTrace, x: Array, i: int) -> Array:
    """x[i]."""
    made = derived(lambda v: v[i], x, x.shape[1:])
    trace.steps.append(made.step)  # type: ignore[arg-type]
    entry = trace.entry(x)
    if isinstance(entry, Signal):
        trace.set(made, operations.cut(trace, x, made, 0, i))
    else:
        trace.set(made, trace.layer(x, i))
    return made


@rule("scan", "while", alone=True)
def _looped(trace: JaxTrace, *inputs: Array, **params: Any) -> Any:
    kind = "a loop"
    for x in inputs:
        for name in names(trace.entry(x)):
            trace.tape.keep(name, f"part of {kind}: recurrent layers are kept")
    return unseen(trace, inputs, kind)


# --- what is not followed inside ---


def unseen(trace: JaxTrace, inputs: Sequence[Array], kind: str) -> Any:
    """What the outputs are of an operation that is run on samples of what feeds it."""
    fed = [i for i, x in enumerate(inputs) if trace.is_signal(x)]
    if not fed:
        return trace.without_signal(*inputs)
    signals = [trace.signal(inputs[i]).whole for i in fed]
    own = tuple(signal.layout for signal in signals)
    inside = Inside(own, functools.partial(_on_samples, trace, trace.steps[-1], fed))
    real = [y for y in trace.outputs if trace.is_real(y)]
    found: list[Any] = []
    for y in trace.outputs:
        if y not in real:
            found.append(None)
            continue
        layout = _like(own[0], y.shape)
        facts: dict[str, Any] = {"inside": inside, "output": real.index(y), "own": layout}
        found.append(trace.record("opaque", signals, layout, kind=kind, **facts))
    return tuple(found)


def _like(x: Layout, shape: Sequence[int]) -> Layout:
    """The layout of an output: that of the sequence, or of one step of it."""
    sizes = tuple(map(layouts.size, x))
    for gone in ((), (0,), (1,)):
        left = [axis for i, axis in enumerate(x) if i not in gone]
        if len(left) == len(shape) and tuple(map(layouts.size, left[:-1])) == tuple(shape[:-1]):
            return (*left[:-1], ((UNIT, shape[-1]),)) if len(shape) else ()
    return layouts.fitted(x, shape) if len(sizes) == len(shape) else layouts.of_input(shape)


def _on_samples(
    trace: JaxTrace, step: Step, fed: list[int], inputs: list[FloatArray]
) -> tuple[list[FloatArray], Pull]:
    """An equation's real outputs for such inputs at those places, with all others as they are."""
    given = [_value(trace, x) for x in step.inputs]
    real = [i for i, y in enumerate(step.outputs) if trace.is_real(y)]

    def outputs(*xs: Any) -> list[Any]:
        values = list(given)
        for i, x in zip(fed, xs, strict=True):
            values[i] = x
        found = step.compute(*values)
        return [found[i] for i in real]

    xs = [jnp.asarray(x, step.inputs[i].dtype) for i, x in zip(fed, inputs, strict=True)]
    found, back = jax.vjp(outputs, *xs)

    def pull(output: int, gradient: FloatArray) -> list[FloatArray]:
        ends = [jnp.zeros_like(y) for y in found]
        ends[output] = jnp.asarray(gradient, found[output].dtype)
        return [np.asarray(g, np.float64) for g in back(ends)]

    return [np.asarray(y, np.float64) for y in found], pull


def _value(trace: JaxTrace, x: Array) -> Any:
    """A value, or where it has only a shape numbers as those of a layer that was just made."""
    known = trace.value(x)
    if known is not None or trace.is_signal(x):
        return known
    if not trace.is_weight(x) or len(x.shape) < 2:
        return jnp.zeros(x.shape, x.dtype)
    drawn = np.random.default_rng(0).standard_normal(x.shape) / math.sqrt(x.shape[-2])
    return jnp.asarray(drawn, x.dtype)
