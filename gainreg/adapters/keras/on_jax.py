"""Keras models on the jax backend, as its adapter takes models apart."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Mapping
from typing import Any

import jax
import keras

from gainreg.adapters.jax.models import Model
from gainreg.adapters.jax.opened import Opened
from gainreg.adapters.jax.rules.calls import unseen
from gainreg.adapters.jax.tracer import Array, JaxTrace, rule
from gainreg.adapters.keras.models import recurrent, replaced


class _Model(Model):
    """A Keras model, whose variables are assigned to. What was created later has other names in it,
    so numbers are drawn by its variables' order."""

    def __init__(self, opened: Opened, variables: Mapping[str, Any]) -> None:
        super().__init__(opened, {name: i for i, name in enumerate(variables)})
        self.variables = variables

    def finish(self) -> None:
        """Give the variables what was set."""
        for name, variable in self.variables.items():
            variable.assign(self.opened.leaves[name])


def opened(model: Any, variables: Mapping[str, Any]) -> Model:
    """A Keras model with its trainable variables by name."""
    values = {name: variable.value for name, variable in variables.items()}

    def output(values: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        # as model.stateless_call, which does not convert the arguments as a call does
        mapping = [(variables[name], value) for name, value in values.items()]
        with keras.StatelessScope(mapping), contextlib.ExitStack() as stack:
            for layer in recurrent(model):
                stack.enter_context(replaced(layer, functools.partial(_unseen, layer)))
            return model(*args, **kwargs)

    parts = Opened(type(model).__name__, values, [], lambda own, _: own, output)
    return _Model(parts, variables)


def _unseen(layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    """A recurrent layer's call as one step, which the tracer does not look into."""
    kind = type(layer).__name__

    def outputs(trace: JaxTrace, *inputs: Array, **_: Any) -> Any:
        return unseen(trace, inputs, kind)

    def whole(sequence: Any, *args: Any, **kwargs: Any) -> Any:
        def recurrent_layer(sequence: Any) -> Any:
            with keras.StatelessScope():  # what the layer assigns stays in here
                return call(sequence, *args, **kwargs)

        recurrent_layer.__name__ = f"Keras's {kind}"
        rule(f"jit {recurrent_layer.__name__}")(outputs)
        return jax.jit(recurrent_layer)(sequence)

    return whole


def example(x: Any) -> Any:
    """An array of JAX for one of an example input, and a shape for a symbolic tensor."""
    if isinstance(x, keras.KerasTensor):
        return jax.ShapeDtypeStruct(x.shape, x.dtype)  # type: ignore[no-untyped-call]
    return keras.ops.convert_to_tensor(x) if hasattr(x, "shape") else x


def source(seed: int | None) -> Any:
    """A key; without a seed from Python's random numbers, as ``keras.utils.set_random_seed`` sets
    them and Keras takes its own default seeds from."""
    return jax.random.key(random.randrange(2**31) if seed is None else seed)
