"""Keras models on the jax backend, as its adapter takes models apart."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Mapping
from typing import Any

import jax
import keras

from gainreg.adapters.jax import models
from gainreg.adapters.jax.opened import Opened
from gainreg.adapters.jax.tracer import Array, JaxTrace, rule
from gainreg.adapters.keras.models import recurrent, replaced
from gainreg.signals.plan import Plan
from gainreg.signals.report import SignalReport
from gainreg.signals.signal import Signal


def plan(model: Any, variables: Mapping[str, Any], args: Any, kwargs: Any, **options: Any) -> Plan:
    """As ``gainreg.adapters.jax.plan``, of a Keras model and its trainable variables by name."""
    return models.plan(_opened(model, variables), _arrays(args), _arrays(kwargs), **options)


def apply_(model: Any, variables: Mapping[str, Any], plan: Plan, *, seed: Any, **how: Any) -> None:
    """As ``gainreg.adapters.jax.apply``, in place."""
    _assign(variables, models.apply(_opened(model, variables), plan, key=_key(seed), **how))


def measure(
    model: Any, variables: Mapping[str, Any], args: Any, kwargs: Any, **options: Any
) -> SignalReport:
    """As ``gainreg.adapters.jax.measure``."""
    return models.measure(_opened(model, variables), _arrays(args), _arrays(kwargs), **options)


def initialize_(
    model: Any, variables: Mapping[str, Any], args: Any, kwargs: Any, *, seed: Any, **options: Any
) -> SignalReport:
    """As ``gainreg.adapters.jax.initialize``, in place."""
    opened, key = _opened(model, variables), _key(seed)
    values, report = models.initialize(opened, _arrays(args), _arrays(kwargs), key=key, **options)
    _assign(variables, values)
    return report


def _opened(model: Any, variables: Mapping[str, Any]) -> Opened:
    """A Keras model taken apart: what was created later has other names in it, so numbers are drawn
    by its variables' order."""
    values = {name: variable.value for name, variable in variables.items()}

    def run(values: Mapping[str, Any], others: Any, args: Any, kwargs: Any) -> Any:
        # as model.stateless_call, which does not convert the arguments as a call does
        mapping = [(variables[name], value) for name, value in values.items()]
        with keras.StatelessScope(mapping), contextlib.ExitStack() as stack:
            for layer in recurrent(model):
                stack.enter_context(replaced(layer, functools.partial(_unseen, layer)))
            return model(*args, **kwargs)

    return Opened(
        type(model).__name__, values, [], run, dict, values,
        draws={name: i for i, name in enumerate(variables)},
    )  # fmt: skip


def _unseen(layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    """A recurrent layer's call as one step, which the tracer does not look into."""
    kind = type(layer).__name__

    def outputs(trace: JaxTrace, *inputs: Array, **_: Any) -> tuple[Signal, ...]:
        signals = [trace.signal(x) for x in inputs if trace.is_signal(x)]
        return tuple(trace.opaque(y, signals, kind) for y in trace.outputs)

    def whole(sequence: Any, *args: Any, **kwargs: Any) -> Any:
        def recurrent_layer(sequence: Any) -> Any:
            with keras.StatelessScope():  # what the layer assigns stays in here
                return call(sequence, *args, **kwargs)

        recurrent_layer.__name__ = f"Keras's {kind}"
        rule(f"jit {recurrent_layer.__name__}")(outputs)
        return jax.jit(recurrent_layer)(sequence)

    return whole


def _assign(variables: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    for name, variable in variables.items():
        variable.assign(values[name])


def _arrays(value: Any) -> Any:
    """Arrays for an example input, and shapes for its symbolic tensors."""
    return keras.tree.map_structure(_array, value)


def _array(x: Any) -> Any:
    if isinstance(x, keras.KerasTensor):
        return jax.ShapeDtypeStruct(x.shape, x.dtype)  # type: ignore[no-untyped-call]
    return keras.ops.convert_to_tensor(x) if hasattr(x, "shape") else x


def _key(seed: int | None) -> Any:
    """A key; without a seed from Python's random numbers, as ``keras.utils.set_random_seed`` sets
    them and Keras takes its own default seeds from."""
    return jax.random.key(random.randrange(2**31) if seed is None else seed)
