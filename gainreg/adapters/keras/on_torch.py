"""Keras models on the torch backend: modules of PyTorch, as its adapter takes them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import keras
import torch
from torch import Tensor, nn

from gainreg.adapters.keras.models import recurrent, replaced
from gainreg.adapters.torch.models import Model
from gainreg.adapters.torch.rules.recurrent import Opaque
from gainreg.adapters.torch.tracer import TorchTrace
from gainreg.signals import layout as layouts

Kind = TypeVar("Kind", bound=nn.Module)


def opened(model: Any, variables: Mapping[str, Any]) -> Model:
    """A Keras model with its trainable variables by name."""
    return Model(_named(_Module, model)(model, variables))


def source(seed: int | None) -> torch.Generator | None:
    """A source of random numbers; None for torch's own, which ``keras.utils.set_random_seed``
    sets."""
    return None if seed is None else torch.Generator().manual_seed(seed)


def example(x: Any) -> Any:
    """A tensor for an array of an example input; for a symbolic tensor, one without values."""
    if isinstance(x, keras.KerasTensor):
        return torch.empty(x.shape, dtype=keras.ops.zeros((), x.dtype).dtype, device="meta")
    return keras.ops.convert_to_tensor(x) if hasattr(x, "shape") else x


def _named(kind: type[Kind], layer: Any) -> type[Kind]:
    """A kind of module by the name of a layer's class, which is what sentences call it."""
    return type(type(layer).__name__, (kind,), {})


class _Module(nn.Module):
    """A Keras model, its trainable variables as parameters; it runs in a scope in which no variable
    changes."""

    def __init__(self, model: Any, variables: Mapping[str, Any]) -> None:
        super().__init__()
        self.held = (model,)  # in a tuple, where PyTorch does not look for modules
        self.variables = variables
        self.recurrent = [(layer, _named(_Unseen, layer)()) for layer in recurrent(model)]
        self.unseen = nn.ModuleList(module for _, module in self.recurrent)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The variables' names and tensors."""
        for name, variable in self.variables.items():
            yield name, variable.value

    def describe_input(self, trace: TorchTrace, tensor: Tensor) -> None:
        """Say what an input is, whose units Keras has last or first."""
        self.trace = trace
        channels = 1 if keras.config.image_data_format() == "channels_first" else -1
        trace.describe_input(tensor, layouts.of_input(tensor.shape, channels))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's outputs."""
        with keras.StatelessScope(), contextlib.ExitStack() as stack:
            for layer, module in self.recurrent:
                stack.enter_context(replaced(layer, module.running))
            args, kwargs = keras.tree.map_structure(self._with_values, (args, kwargs))
            return self.held[0](*args, **kwargs)

    def _with_values(self, x: Any) -> Any:
        """A tensor with values for one without: Keras mixes none without them with others."""
        if not isinstance(x, Tensor) or not x.is_meta:
            return x
        made = torch.ones(x.shape, dtype=x.dtype, device=keras.ops.zeros(()).device)
        self.trace.set(made, self.trace.entry(x))
        return made


class _Unseen(Opaque):
    """Stands in for a recurrent layer, which PyTorch's operations would unroll step by step."""

    def running(self, call: Callable[..., Any]) -> _Unseen:
        """The module, with the layer's own call to run."""
        self.run = call
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's outputs; what it assigns stays in here."""
        with keras.StatelessScope():
            return self.run(*args, **kwargs)
