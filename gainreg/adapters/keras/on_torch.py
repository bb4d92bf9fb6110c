"""Keras models on the torch backend: modules of PyTorch, as its adapter takes them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import torch
from torch import Tensor, nn

from gainreg.adapters.torch import models
from gainreg.adapters.torch.models import Opaque
from gainreg.adapters.torch.tracer import Trace
from gainreg.signals import layout as layouts
from gainreg.signals.plan import Plan
from gainreg.signals.report import SignalReport
from gainreg.signals.state import Moments
from gainreg.signals.trace import Signal

# Layers that would be followed step by step through time, and Bidirectional, which on some devices
# runs its two layers as one operation.
RECURRENT = (keras.layers.RNN, keras.layers.Bidirectional)


def plan(model: Any, variables: Mapping[str, Any], args: Any, kwargs: Any, **options: Any) -> Plan:
    """As ``gainreg.adapters.torch.plan``, of a Keras model and its trainable variables by name."""
    module = _Model(model, variables)
    return models.plan(module, module.example(args), module.example(kwargs), **options)


def apply_(model: Any, variables: Mapping[str, Any], plan: Plan, *, seed: Any, **how: Any) -> None:
    """As ``gainreg.adapters.torch.apply_``."""
    models.apply_(_Model(model, variables), plan, generator=_generator(seed), **how)


def measure(
    model: Any, variables: Mapping[str, Any], args: Any, kwargs: Any, **options: Any
) -> SignalReport:
    """As ``gainreg.adapters.torch.measure``."""
    module = _Model(model, variables)
    return models.measure(module, module.example(args), module.example(kwargs), **options)


def initialize_(
    model: Any, variables: Mapping[str, Any], args: Any, kwargs: Any, *, seed: Any, **options: Any
) -> SignalReport:
    """As ``gainreg.adapters.torch.initialize_``."""
    module, generator = _Model(model, variables), _generator(seed)
    args, kwargs = module.example(args), module.example(kwargs)
    return models.initialize_(module, args, kwargs, generator=generator, **options)


def _generator(seed: int | None) -> torch.Generator | None:
    """A source of random numbers; None for torch's own, which ``keras.utils.set_random_seed``
    sets."""
    return None if seed is None else torch.Generator().manual_seed(seed)


class _Named(nn.Module):
    """A module of that name, with the values of variables as its parameters."""

    def __init__(self, name: str, variables: Mapping[str, Any]) -> None:
        super().__init__()
        self.kind, self.variables = name, variables

    def _get_name(self) -> str:
        return self.kind

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The variables' names and tensors."""
        for name, variable in self.variables.items():
            yield name, variable.value


class _Model(_Named):
    """A Keras model; it runs in a scope in which no variable changes."""

    def __init__(self, model: Any, variables: Mapping[str, Any]) -> None:
        super().__init__(type(model).__name__, variables)
        self.model = [model]  # in a list, where PyTorch does not look for modules
        self.shapes: list[Tensor] = []
        names = {id(variable): name for name, variable in variables.items()}
        self.recurrent = [
            (layer, _Recurrent(type(layer).__name__, _of(layer, names)))
            for layer in model._flatten_layers()
            if isinstance(layer, RECURRENT)
        ]
        self.opaque = nn.ModuleList(module for _, module in self.recurrent)

    def example(self, value: Any) -> Any:
        """Tensors for the arrays of an example input, and for its symbolic tensors."""
        return keras.tree.map_structure(self._tensor, value)

    def _tensor(self, x: Any) -> Any:
        if isinstance(x, keras.KerasTensor):
            made = keras.ops.ones(x.shape, x.dtype)
            self.shapes.append(made)
            return made
        return keras.ops.convert_to_tensor(x) if hasattr(x, "shape") else x

    def describe_input(self, trace: Trace, tensor: Tensor) -> None:
        """Say what an input is: one whose shape alone is known counts as standard normal."""
        channels = 1 if keras.config.image_data_format() == "channels_first" else -1
        own = layouts.of_input(tensor.shape, channels)
        if any(tensor.shape == made.shape and bool((tensor == 1).all()) for made in self.shapes):
            made = trace.record("given", (), own, moments=Moments(0.0, 1.0, 0.0, 0.0), phrase="data")
            trace.set(tensor, made)
        trace.describe_input(tensor, own)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's outputs."""
        with keras.StatelessScope(), contextlib.ExitStack() as stack:
            for layer, module in self.recurrent:
                stack.enter_context(module.in_place_of(layer))
            return self.model[0](*args, **kwargs)


class _Recurrent(_Named, Opaque):
    """A recurrent layer, as a module that goes unseen."""

    @contextlib.contextmanager
    def in_place_of(self, layer: Any) -> Iterator[None]:
        """Run in the layer's place while it lasts."""
        self.run = layer.call
        object.__setattr__(layer, "call", self)
        try:
            yield
        finally:
            object.__delattr__(layer, "call")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's outputs."""
        return self.run(*args, **kwargs)


def _of(layer: Any, names: Mapping[int, str]) -> dict[str, Any]:
    """The variables of a layer, by their names in the model."""
    return {names[id(v)]: v for v in layer.weights if id(v) in names}
