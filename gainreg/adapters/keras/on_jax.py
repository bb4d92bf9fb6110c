"""Keras models on the jax backend: pairs of a function and its params, as the JAX adapter takes
them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import jax
import keras

from gainreg.adapters.jax import models
from gainreg.signals.plan import Plan
from gainreg.signals.report import SignalReport


def plan(model: Any, variables: Mapping[str, Any], args: Any, kwargs: Any, **options: Any) -> Plan:
    """As ``gainreg.adapters.jax.plan``, of a Keras model and its trainable variables by name."""
    return models.plan(_pair(model, variables), _arrays(args), _arrays(kwargs), **options)


def apply_(model: Any, variables: Mapping[str, Any], plan: Plan, *, seed: Any, **how: Any) -> None:
    """As ``gainreg.adapters.jax.apply``, in place."""
    _assign(variables, models.apply(_pair(model, variables), plan, key=_key(seed), **how))


def measure(
    model: Any, variables: Mapping[str, Any], args: Any, kwargs: Any, **options: Any
) -> SignalReport:
    """As ``gainreg.adapters.jax.measure``."""
    return models.measure(_pair(model, variables), _arrays(args), _arrays(kwargs), **options)


def initialize_(
    model: Any, variables: Mapping[str, Any], args: Any, kwargs: Any, *, seed: Any, **options: Any
) -> SignalReport:
    """As ``gainreg.adapters.jax.initialize``, in place."""
    pair, key = _pair(model, variables), _key(seed)
    params, report = models.initialize(pair, _arrays(args), _arrays(kwargs), key=key, **options)
    _assign(variables, params)
    return report


def _pair(
    model: Any, variables: Mapping[str, Any]
) -> tuple[Callable[..., Any], dict[str, jax.Array]]:
    def apply(params: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        # as model.stateless_call, which does not convert the arguments as a call does
        with keras.StatelessScope([(variables[name], value) for name, value in params.items()]):
            return model(*args, **kwargs)

    apply.__name__ = type(model).__name__
    return apply, {name: variable.value for name, variable in variables.items()}


def _assign(variables: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    for name, variable in variables.items():
        variable.assign(params[name])


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
