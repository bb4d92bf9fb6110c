"""Recurrent layers, which go unseen: each is a step that is run on samples of what feeds it.

Their weights are kept. ATen has such a layer as one operation, in another form on each device, and
Keras unrolls its own; so the module is taken as a whole.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from gainreg.adapters.torch.tracer import TorchTrace, Tracing, rule
from gainreg.signals import layout as layouts
from gainreg.signals import operations
from gainreg.signals.functions import FloatArray
from gainreg.signals.layout import POSITION, SAMPLE, UNIT, Axis, Layout
from gainreg.signals.rules.opaque import Inside, Pull
from gainreg.signals.signal import join

aten = torch.ops.aten

# A layer on the meta device is stood in for by one of at most so many units, in proportion, with
# the values that PyTorch begins with: the sums in its gates are as large then.
WIDEST = 128

# So many numbers are run, of fewer sequences than the model's if need be: sequencer's rows of
# patches are 256 sequences with a batch of 8. At least four of each kind make pairs.
ENOUGH, FEWEST = 2**15, 4

KINDS = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)
WIDTHS = ("input_size", "hidden_size", "proj_size")
OPTIONS = ("num_layers", "bias", "batch_first", "bidirectional", "nonlinearity", "dropout")


class Opaque(nn.Module):
    """A module that goes unseen, as recurrent layers do."""


@contextlib.contextmanager
def unseen(model: nn.Module, mode: Tracing) -> Iterator[None]:
    """While it lasts, what recurrent layers do inside is not followed."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    handles = []

    def enter(module: nn.Module, _args: Any) -> None:
        mode.paused += 1

    def leave(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        if mode.paused == 1:
            for parameter in module.parameters():
                reason = f"part of {type(module).__name__}: recurrent layers are kept"
                mode.trace.tape.keep(names[id(parameter)], reason)
            _record(mode.trace, _Call(module, *_leaves((args, kwargs))), result)
        mode.paused -= 1

    for module in model.modules():
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase, Opaque)):
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _record(trace: TorchTrace, call: _Call, result: Any) -> None:
    """A step for each output, and of the states of stacked layers for each layer's."""
    tensors = [_tensor(leaf) for leaf in call.leaves]
    fed = {i: trace.signal(x).whole for i, x in enumerate(tensors) if trace.is_signal(x)}
    if not fed:
        return
    signals = list(fed.values())
    layouts_of = {i: call.unpacked(it.layout) for i, it in fed.items()}
    sequence = next(iter(layouts_of.values()))
    batch = sequence[call.batch_axis(next(iter(fed)))]
    few = _fewer(batch, ENOUGH / signals[0].node.size)
    inside = Inside(
        tuple(call.narrowed(own, call.batch_axis(i), few) for i, own in layouts_of.items()),
        functools.partial(call.run, list(fed), layouts.size(few)),
    )
    kind, steps = type(call.module).__name__, 0
    for y, parts in call.outputs(result):
        own = call.layout(sequence, batch, parts[0], steps > 0)
        layout = own if len(own) == y.dim() else (*signals[0].layout[:-1], own[-1])
        less = call.narrowed(own, call.batch_axis(steps), few)
        made = []
        for _ in parts:
            facts: dict[str, Any] = {"inside": inside, "output": steps, "own": less, "kind": kind}
            made.append(trace.record("opaque", signals, layout, **facts))
            steps += 1
        if len(made) > 1:
            made = [join(trace.tape, made, (((UNIT, len(made)),), *layout[1:]), 0)]
        trace.set(y, made[0])


@dataclass(frozen=True, eq=False)
class _Call:
    """A recurrent layer and what it was given.

    Attributes:
        module: it.
        leaves, form: the tensors and whatever else is among its arguments, and how these lie.
    """

    module: nn.Module
    leaves: list[Any]
    form: TreeSpec

    @functools.cached_property
    def packed(self) -> bool:
        """Whether its sequences are packed, which lie step by step; they count as of one length."""
        return isinstance(self.leaves[0], PackedSequence)

    @functools.cached_property
    def divisor(self) -> int:
        """How many times narrower it is run."""
        on_meta = any(parameter.is_meta for parameter in self.module.parameters())
        widest = max(getattr(self.module, name, 1) for name in WIDTHS)
        return -(-widest // WIDEST) if on_meta else 1

    def unpacked(self, own: Layout) -> Layout:
        """The layout of a sequence that was packed, or of anything else, which stays as it is."""
        if not self.packed or len(own) != 2:
            return own
        sizes = self.leaves[0].batch_sizes
        return ((POSITION, len(sizes)),), ((SAMPLE, int(sizes[0])),), own[-1]

    def batch_axis(self, i: int) -> int:
        """The axis of its sequences, of the sequence itself or of an initial or last state."""
        if not isinstance(self.module, nn.RNNBase):
            return 0
        first = self.module.batch_first and not self.packed
        return 0 if first and not i else 1

    def narrowed(self, own: Layout, axis: int, batch: Axis) -> Layout:
        """A layout with fewer sequences, and fewer units where it is run narrower."""
        units = ((UNIT, max(1, layouts.size(own[-1]) // self.divisor)),)
        return (*own[:axis], batch, *own[axis + 1 : -1], units)

    def outputs(self, result: Any) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
        """Its outputs, and the parts that each is made of."""
        found = [y for y in map(_tensor, _leaves(result)[0]) if y is not None]
        states = isinstance(self.module, nn.RNNBase)
        return [(y, torch.split(y, 1) if states and i else (y,)) for i, y in enumerate(found)]

    def layout(self, x: Layout, batch: Axis, y: Tensor, state: bool) -> Layout:
        """The layout of a part of an output, from that of the sequence."""
        last = ((UNIT, y.shape[-1]),)
        if state and isinstance(self.module, nn.RNNBase):
            return ((), batch, last)
        return (*x[:-1], last) if self.packed or y.dim() == len(x) else (batch, last)

    @functools.cached_property
    def twin(self) -> nn.Module:
        """The layer, or one with values."""
        if not any(parameter.is_meta for parameter in self.module.parameters()):
            return self.module
        kind: Any = next(kind for kind in KINDS if isinstance(self.module, kind))
        has = vars(self.module)
        options: dict[str, Any] = {name: has[name] for name in OPTIONS if name in has}
        options |= {name: max(1, has[name] // self.divisor) for name in WIDTHS if has.get(name)}
        made: nn.Module = kind(**options)
        for name, parameter in made.named_parameters():
            if "bias" in name:  # as large as in the wide one, while the weights are larger
                parameter.detach().mul_(self.divisor**-0.5)
        return made.train(self.module.training)

    def run(
        self, fed: list[int], rows: int, inputs: list[FloatArray]
    ) -> tuple[list[FloatArray], Pull]:
        """Its outputs for such inputs, of so many sequences, at those places among its
        arguments."""
        turned = self.packed and bool(self.module.batch_first)
        with (
            torch.random.fork_rng(),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            torch.manual_seed(0)
            at = next(self.twin.parameters(), torch.empty(0))
            xs = [torch.from_numpy(x).to(at.device, at.dtype).requires_grad_() for x in inputs]
            leaves = [self._constant(i, rows) for i in range(len(self.leaves))]
            for i, x in zip(fed, xs, strict=True):
                leaves[i] = x.transpose(0, 1) if turned and not i else x
            args, kwargs = tree_unflatten(leaves, self.form)
            made = [part for _, parts in self.outputs(self.twin(*args, **kwargs)) for part in parts]
            if turned:
                made[0] = made[0].transpose(0, 1)

        def pull(output: int, gradient: FloatArray) -> list[FloatArray]:
            y = made[output]
            by_y = torch.from_numpy(gradient).to(y.device, y.dtype)
            found = torch.autograd.grad(y, xs, by_y, retain_graph=True, allow_unused=True)
            return [
                np.zeros(x.shape) if g is None else _doubles(g)
                for x, g in zip(xs, found, strict=True)
            ]

        return [_doubles(y) for y in made], pull

    def _constant(self, i: int, rows: int) -> Any:
        """An argument that is no signal, for so many sequences."""
        leaf = self.leaves[i]
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.is_meta:
            shape = (*leaf.shape[:-1], max(1, leaf.shape[-1] // self.divisor))
            leaf = torch.zeros(shape, dtype=leaf.dtype)
        return leaf.detach().narrow(self.batch_axis(i), 0, rows)


def _fewer(axis: Axis, share: float) -> Axis:
    """An axis of which about that share is left."""
    left = min(1.0, share) ** (1 / max(1, len(axis)))
    return tuple((role, min(size, max(FEWEST, round(left * size)))) for role, size in axis)


def _leaves(values: Any) -> tuple[list[Any], TreeSpec]:
    """What is in a nest of tuples and the like, and the nest; packed sequences are one each."""
    return tree_flatten(values, is_leaf=lambda x: isinstance(x, PackedSequence))


def _tensor(leaf: Any) -> Tensor | None:
    """The real numbers that a leaf holds."""
    leaf = leaf.data if isinstance(leaf, PackedSequence) else leaf
    return leaf if isinstance(leaf, Tensor) and leaf.is_floating_point() else None


def _doubles(x: Tensor) -> FloatArray:
    numbers: FloatArray = x.detach().to(torch.float64).cpu().numpy()
    return numbers


# --- sequences of several lengths ---


@rule(aten._pack_padded_sequence)
def _packed(trace: TorchTrace, x: Tensor, lengths: Tensor, batch_first: bool) -> Any:
    """The sequences step by step; where they are of several lengths, a row is a sample."""
    steps, samples = (x.shape[1], x.shape[0]) if batch_first else x.shape[:2]
    rows = trace.outputs[0].shape[0]
    axis: Axis = ((POSITION, steps), (SAMPLE, samples))
    axis = axis if rows == steps * samples else ((SAMPLE, rows),)
    layout = (axis, *trace.signal(x).layout[2:])
    return operations.moved(trace, trace.signal(x), trace.outputs[0].shape, layout)
