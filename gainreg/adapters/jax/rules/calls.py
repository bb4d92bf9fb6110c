"""Equations with a jaxpr inside: functions, branches, scans and loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from gainreg.adapters.jax.tracer import Array, JaxTrace, array_of, call, derived, rule
from gainreg.signals import operations
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
    signals = [trace.signal(x) for x in inputs if trace.is_signal(x)]
    if not signals:
        return trace.without_signal(*inputs)
    return tuple(
        trace.opaque(y, signals, kind) if trace.is_real(y) else None for y in trace.outputs
    )
