"""Chains of PyTorch layers as plans: an ``nn.Sequential`` is read off its modules, without data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gainreg import scaling
from gainreg.adapters.torch.activations import FRAMEWORK
from gainreg.adapters.torch.models import apply_
from gainreg.adapters.torch.weights import LAYERS, weights_and_fans
from gainreg.errors import MomentError, ParameterError, PluginError
from gainreg.host import host
from gainreg.params import check_choice
from gainreg.signals.flow import Aims, Flow
from gainreg.signals.functions import Operation
from gainreg.signals.layout import UNIT
from gainreg.signals.state import Moments
from gainreg.signals.summary import plan_of
from gainreg.signals.tape import Node, Parameter, Tape

ACTIVATIONS = [getattr(nn, name) for name in nn.modules.activation.__all__]
PASSED = (nn.Identity, nn.Flatten, nn.Unflatten)  # φ(x) = x, and what only moves numbers


def init_sequential_(
    model: nn.Sequential,
    table: scaling.Table = None,
    *,
    criterion: str = "forward",
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Initialise a chain of layers, each for the activation before it, and return the chain.

    It is ``apply_`` of a plan that needs no example input: data count as of mean square 1. Every
    Linear and Conv gets normal weights that keep the forward variance (mode "fan_in") for the
    activation that feeds it, and pre-activations have standard deviation 1; zero padding is not
    counted. Biases become 0. Sequentials within are flattened; Identity, Flatten and Unflatten
    are passed over. Nothing is changed if anything is refused.

    Args:
        model: a Sequential of Linear, Conv, ConvTranspose and activation modules.
        table: a ``GainTable`` or its path: every constant comes from there.
        criterion: "forward"; or "critical" for weights and biases as by ``critical_``, where an
            activation has a critical point and the layer behind it a bias. Pre-activations then
            have the critical std of the activation that they enter; data and outputs have 1.
        generator: the random numbers' source.

    Raises:
        ParameterError: what is not such a chain, naming the module; another criterion.
        TableError, MomentError: as ``normal_``.
    """
    from gainreg.table import GainTable, load_table

    check_choice(criterion, "criterion", ("forward", "critical"))
    if criterion == "critical" and table is not None:
        raise ParameterError("a table says nothing of critical points; leave table= out")
    if table is not None and not isinstance(table, GainTable):
        table = load_table(table)
    tape = _tape(model, table, as_function=criterion == "critical")
    flow = Flow(tape, Aims(residual=None, critical=criterion == "critical"))
    apply_(model, plan_of(flow, {"criterion": criterion}), generator=generator)
    return model


def _tape(model: nn.Sequential, table: scaling.Table, as_function: bool) -> Tape:
    """What a chain does to its signals."""
    tape = Tape()
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    node = tape.record("given", (), (), moments=Moments(0.0, 1.0, 0.0, 0.0), phrase="data")
    storages: set[int] = set()
    before: tuple[str, nn.Module] | None = None
    for where, module in _modules(model, "model"):
        if isinstance(module, LAYERS):
            try:
                if before:
                    node = _activated(tape, node, before[1], table, as_function)
                weight, fans = weights_and_fans(module)
                storage = weight.untyped_storage().data_ptr()
                if storage in storages:
                    raise ParameterError("it has the weight of a layer before it")
            except (ParameterError, MomentError, PluginError) as error:
                fed = f" after {_name(*before)}" if before else ""
                raise ParameterError(f"{_name(where, module)}{fed}: {error}") from error
            storages.add(storage)
            facts: dict[str, Any] = {"fan_in": fans.fan_in, "units": fans.fan_in, "taps": 1.0}
            layout = (((UNIT, fans.matrix[2]),),)
            node = tape.record("linear", (node,), layout, operation="linear", **facts)
            node.weight = names[weight]
            node.bias = "" if module.bias is None else names[module.bias]
            before = None
        elif type(module) in ACTIVATIONS:
            if before:
                raise ParameterError(
                    f"{_name(where, module)} follows the activation {_name(*before)}: "
                    "initialise the next layer yourself, with the composed function"
                )
            before = where, module
        elif type(module) not in PASSED:
            raise ParameterError(
                f"{_name(where, module)} is no part of a chain that init_sequential_ knows: "
                "Linear, Conv, ConvTranspose, activation modules, Identity, Flatten, Unflatten and "
                "plain Sequential; give initialize_ an example input, which knows any model"
            )
    for parameter, name in names.items():
        tape.parameters[name] = Parameter(name, tuple(parameter.shape), None, None)
    tape.outputs.append(node)
    return tape


def _activated(
    tape: Tape, node: Node, module: nn.Module, table: scaling.Table, as_function: bool
) -> Node:
    """An activation's output: a function of its input, or with the moments of the entry at 1,
    which a table and units that are not elementwise have too."""
    entry = scaling.entry_of(FRAMEWORK, module, 1.0, {}, table)
    bound = host().bind(entry.activation, entry.params)
    if as_function and bound.activation.forward is not None and bound.width == 1:
        key = (entry.activation, *entry.params.items())
        operation = Operation(key, bound.forward, entry.activation, tuple(entry.params.items()))
        return tape.record("elementwise", (node,), node.layout, operation=operation)
    moments = Moments(0.0, entry.gain**-2, 0.0, 0.0)
    return tape.record("given", (node,), node.layout, moments=moments, phrase=entry.activation)


def _modules(model: nn.Module, where: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a Sequential, with those of Sequentials within it, and where they stand."""
    if not isinstance(model, nn.Sequential) or type(model).forward is not nn.Sequential.forward:
        raise ParameterError(f"{_name(where, model)} is no plain nn.Sequential")
    # named_children would leave out repetitions
    for key, module in model._modules.items():
        place = f"{where}[{key}]"
        if isinstance(module, nn.Sequential):
            yield from _modules(module, place)
        elif module is not None:
            yield place, module


def _name(where: str, module: object) -> str:
    return f"{where} ({type(module).__name__})"
