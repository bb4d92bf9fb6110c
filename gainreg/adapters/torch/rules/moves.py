"""What only moves numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gainreg.adapters.torch.rules.attention import by_condition
from gainreg.adapters.torch.rules.linear import cropped
from gainreg.adapters.torch.tracer import TorchTrace, rule
from gainreg.signals import layout as layouts
from gainreg.signals import operations
from gainreg.signals.layout import POSITION, UNIT
from gainreg.signals.signal import Signal, reshaped
from gainreg.signals.trace import NotUnderstoodError, Tokens, Weight

aten = torch.ops.aten


# --- what only moves numbers ---


@rule(
    aten.view, aten._unsafe_view, aten.reshape, aten.unsqueeze, aten.squeeze, aten.clone,
    aten.alias, aten.detach, aten._to_copy, aten.lift_fresh, aten.contiguous, aten._reshape_alias,
    aten._reshape_copy, aten.view_as, aten.to, aten.flatten, aten.lift, alone=True,
)  # fmt: skip
def _reshaped(trace: TorchTrace, x: Tensor, *rest: Any, **more: Any) -> Any:
    entry, y = trace.entry(x), trace.outputs[0]
    if not isinstance(entry, Signal) or x.shape == y.shape:
        return entry
    return reshaped(trace.tape, entry, layouts.reshaped(entry.layout, y.shape))


@rule(aten.t, aten.transpose, aten.permute, aten.numpy_T, alone=True)
def _permuted(trace: TorchTrace, x: Tensor, *axes: Any) -> Any:
    n = x.dim()
    order = list(range(n))
    if len(axes) == 2:
        i, j = (axis % n for axis in axes)
        order[i], order[j] = order[j], order[i]
    elif axes:
        order = [axis % n for axis in axes[0]]
    else:
        order.reverse()
    return operations.reordered(trace, x, order)


@rule(aten.slice, aten.narrow, alone=True)
def _sliced(
    trace: TorchTrace, x: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    axis, y = dim % x.dim(), trace.outputs[0]
    first = (start or 0) % x.shape[axis] if x.shape[axis] else 0
    middle = cropped(trace, x, axis, first) if step == 1 else None
    return middle or operations.cut(trace, x, y, axis, first, step)


@rule(aten.select, alone=True)
def _selected(trace: TorchTrace, x: Tensor, dim: int, index: int) -> Any:
    return operations.cut(trace, x, trace.outputs[0], dim % x.dim(), index)


@rule(aten.split, aten.split_with_sizes, aten.unsafe_split, aten.unsafe_split_with_sizes,
      aten.chunk, aten.unsafe_chunk, alone=True)  # fmt: skip
def _split(trace: TorchTrace, x: Tensor, size: Any, dim: int = 0) -> Any:
    dim %= x.dim()
    starts = itertools.accumulate((y.shape[dim] for y in trace.outputs), initial=0)
    return tuple(
        operations.cut(trace, x, y, dim, start)
        for y, start in zip(trace.outputs, starts, strict=False)
    )


@rule(aten.unbind, alone=True)
def _unbound(trace: TorchTrace, x: Tensor, dim: int = 0) -> Any:
    return tuple(operations.cut(trace, x, y, dim % x.dim(), i) for i, y in enumerate(trace.outputs))


@rule(aten.expand, alone=True)
def _expanded(trace: TorchTrace, x: Tensor, sizes: Any, **rest: Any) -> Any:
    y, entry = trace.outputs[0], trace.entry(x)
    return entry if x.shape == y.shape else operations.expanded(trace, entry, y.shape)


@rule(
    aten.repeat, aten.repeat_interleave, aten.flip, aten.roll, aten.gather, aten.index_select,
    aten.unfold, aten.diagonal, aten.pixel_shuffle, aten.pixel_unshuffle, aten.as_strided,
    aten.upsample_nearest1d, aten.upsample_nearest2d, aten.upsample_nearest3d,
    aten.reflection_pad1d, aten.reflection_pad2d, aten.replication_pad2d, aten.index,
    aten._unsafe_index, aten.masked_select, aten.channel_shuffle, aten.native_channel_shuffle,
    aten.reflection_pad3d, aten.replication_pad1d, aten.replication_pad3d, aten.sort, aten.topk,
    alone=True,
)  # fmt: skip
def _rearranged(trace: TorchTrace, x: Tensor, *rest: Any, **more: Any) -> Any:
    y = trace.outputs[0]
    entry = trace.entry(x)
    if isinstance(entry, Weight) and rest and isinstance(trace.entry(_index(rest)), Tokens):
        return operations.looked_up(trace, x, _index(rest), _index(rest).shape, whole=True)
    if not isinstance(entry, Signal):
        return entry
    if trace.operation.overloadpacket in (aten.index, aten._unsafe_index) and len(rest[0]) == 1:
        return operations.picked(trace, x, rest[0][0])
    made = operations.moved(trace, entry, y.shape)
    return (made, *(None for _ in trace.outputs[1:]))


@rule(aten.im2col, alone=True)
def _unfolded(trace: TorchTrace, x: Tensor, size: Sequence[int], *rest: Any) -> Any:
    """Windows one beside the other, as positions of what is in each."""
    if not isinstance(trace.entry(x), Signal):
        return trace.entry(x)
    y, signal = trace.outputs[0], trace.signal(x)
    within = (UNIT, x.shape[-3]), (POSITION, math.prod(size))
    layout = (*signal.layout[:-3], within, ((POSITION, y.shape[-1]),))
    return operations.moved(trace, signal, y.shape, layout)


def _index(rest: Sequence[Any]) -> Any:
    first = rest[0]
    return first[0] if isinstance(first, (tuple, list)) and first else first


@rule(aten.cat, aten.concat, aten.stack, alone=True)
def _concatenated(trace: TorchTrace, tensors: Sequence[Tensor], dim: int = 0) -> Any:
    return operations.concatenated(trace, tensors, dim % trace.outputs[0].dim())


@rule(aten.index_put, alone=True)
def _put(
    trace: TorchTrace, x: Tensor, indices: Any, values: Tensor, accumulate: bool = False, *rest: Any
) -> Any:
    """Some rows replaced, as where inputs are masked by a learned one."""
    if not trace.is_signal(x):
        entry = trace.entry(values)
        y = trace.outputs[0]
        return operations.moved(trace, entry, y.shape) if isinstance(entry, Signal) else None
    if accumulate:
        raise NotUnderstoodError
    mask = indices[0] if len(indices) == 1 else None
    if mask is not None and mask.dtype == torch.bool and mask.shape == x.shape:
        chosen = by_condition(trace, mask, values, x)
        if chosen is not None:
            return chosen
    signals = [trace.signal(x).whole, trace.signal(values).whole]
    return trace.record("concatenate", signals, signals[0].layout)


@rule(aten.copy, alone=True)
def _copied(trace: TorchTrace, x: Tensor, source: Tensor, *rest: Any) -> Any:
    entry = trace.entry(source)
    if isinstance(entry, Signal) and source.shape != x.shape:
        return replace(entry.whole, layout=layouts.broadcast([entry.layout], x.shape))
    return entry


@rule(aten.constant_pad_nd, alone=True)
def _padded(trace: TorchTrace, x: Tensor, padding: Sequence[int], value: float = 0) -> Any:
    before = tuple(padding[-2::-2])  # of the last axes, as many as are padded
    return operations.padded(trace, x, (0,) * (x.dim() - len(before)) + before, float(value))


@rule(aten.empty_like, aten.zeros_like, aten.ones_like, aten.rand_like, aten.randn_like,
      aten.full_like, aten.new_empty, aten.new_zeros, aten.new_ones, aten.new_full,
      aten.new_empty_strided, aten.fill, aten.zero, aten.uniform, aten.normal,
      alone=True)  # fmt: skip
def _new(trace: TorchTrace, *rest: Any, **more: Any) -> Any:
    return None
