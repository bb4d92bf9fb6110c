"""What only moves numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gainreg.adapters.torch.rules.linear import looked_up
from gainreg.adapters.torch.tracer import (
    Tokens,
    Trace,
    Weight,
    rule,
)
from gainreg.signals import layout as layouts
from gainreg.signals.layout import POSITION, SAMPLE, UNIT
from gainreg.signals.signal import Padded, Signal, join, permuted, reshaped, sliced

aten = torch.ops.aten


# --- what only moves numbers ---


def _layout(trace: Trace, x: Tensor) -> layouts.Layout:
    entry = trace.entry(x)
    return entry.layout if isinstance(entry, Signal) else layouts.of_input(x.shape)


@rule(
    aten.view, aten._unsafe_view, aten.reshape, aten.unsqueeze, aten.squeeze, aten.clone,
    aten.alias, aten.detach, aten._to_copy, aten.lift_fresh, aten.contiguous, aten._reshape_alias,
    aten._reshape_copy, aten.view_as, aten.to, aten.flatten, aten.lift, alone=True,
)  # fmt: skip
def _reshaped(trace: Trace, x: Tensor, *rest: Any, **more: Any) -> Any:
    entry, y = trace.entry(x), trace.outputs[0]
    if not isinstance(entry, Signal) or x.shape == y.shape:
        return entry
    return reshaped(trace.tape, entry, layouts.reshaped(entry.layout, y.shape))


@rule(aten.t, aten.transpose, aten.permute, aten.numpy_T, alone=True)
def _permuted(trace: Trace, x: Tensor, *axes: Any) -> Any:
    n = x.dim()
    order = list(range(n))
    if len(axes) == 2:
        i, j = (axis % n for axis in axes)
        order[i], order[j] = order[j], order[i]
    elif axes:
        order = [axis % n for axis in axes[0]]
    else:
        order.reverse()
    entry = trace.entry(x)
    if not isinstance(entry, Signal):
        return entry
    return permuted(trace.tape, entry, order)


def _cut(trace: Trace, x: Tensor, y: Tensor, dim: int, start: int, step: int = 1) -> Any:
    """What y is: so many elements of x along an axis, which is gone if there is but one."""
    entry = trace.entry(x)
    if not isinstance(entry, Signal):
        return entry
    if y.dim() < x.dim():
        layout = (*entry.layout[:dim], *entry.layout[dim + 1 :])
        size = 1
    else:
        layout, size = layouts.fitted(entry.layout, y.shape), y.shape[dim]
    if size == x.shape[dim]:
        return reshaped(trace.tape, entry, layout)
    return sliced(trace.tape, entry, layout, dim, start % x.shape[dim], size, step)


@rule(aten.slice, aten.narrow, alone=True)
def _sliced(
    trace: Trace, x: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    return _cut(trace, x, trace.outputs[0], dim % x.dim(), start or 0, step)


@rule(aten.select, alone=True)
def _selected(trace: Trace, x: Tensor, dim: int, index: int) -> Any:
    return _cut(trace, x, trace.outputs[0], dim % x.dim(), index)


@rule(aten.split, aten.split_with_sizes, aten.unsafe_split, aten.unsafe_split_with_sizes,
      aten.chunk, aten.unsafe_chunk, alone=True)  # fmt: skip
def _split(trace: Trace, x: Tensor, size: Any, dim: int = 0) -> Any:
    dim %= x.dim()
    starts = itertools.accumulate((y.shape[dim] for y in trace.outputs), initial=0)
    return tuple(
        _cut(trace, x, y, dim, start) for y, start in zip(trace.outputs, starts, strict=False)
    )


@rule(aten.unbind, alone=True)
def _unbound(trace: Trace, x: Tensor, dim: int = 0) -> Any:
    return tuple(_cut(trace, x, y, dim % x.dim(), i) for i, y in enumerate(trace.outputs))


@rule(aten.expand, alone=True)
def _expanded(trace: Trace, x: Tensor, sizes: Any, **rest: Any) -> Any:
    entry, y = trace.entry(x), trace.outputs[0]
    if not isinstance(entry, Signal) or x.shape == y.shape:
        return entry
    added: layouts.Layout = ((),) * (y.dim() - x.dim())
    grown = tuple(
        axis if layouts.size(axis) == size else ((POSITION if i else SAMPLE, size),)
        for i, (axis, size) in enumerate(zip(added + entry.layout, y.shape, strict=True))
    )
    # the same element again and again: what is elementwise on it still is
    return replace(entry.whole, layout=grown)


@rule(
    aten.repeat, aten.repeat_interleave, aten.flip, aten.roll, aten.gather, aten.index_select,
    aten.unfold, aten.diagonal, aten.pixel_shuffle, aten.pixel_unshuffle, aten.as_strided,
    aten.upsample_nearest1d, aten.upsample_nearest2d, aten.upsample_nearest3d, aten.im2col,
    aten.reflection_pad1d, aten.reflection_pad2d, aten.replication_pad2d, aten.index,
    aten._unsafe_index, aten.masked_select, aten.channel_shuffle, aten.native_channel_shuffle,
    aten.reflection_pad3d, aten.replication_pad1d, aten.replication_pad3d, aten.sort, aten.topk,
    alone=True,
)  # fmt: skip
def _rearranged(trace: Trace, x: Tensor, *rest: Any, **more: Any) -> Any:
    y = trace.outputs[0]
    entry = trace.entry(x)
    if isinstance(entry, Weight) and rest and isinstance(trace.entry(_index(rest)), Tokens):
        return looked_up(trace, x, _index(rest), x.shape[-1])
    if not isinstance(entry, Signal):
        return entry
    layout = entry.layout
    if len(layout) == y.dim():
        layout = layouts.fitted(layout, y.shape)
    elif x.numel() == y.numel():
        layout = layouts.reshaped(layout, y.shape)
    else:
        layout = layouts.of_input(y.shape)
    made = trace.record("view", [entry], layout, view=("moved", len(trace.tape.nodes)))
    return (made, *(None for _ in trace.outputs[1:]))


def _index(rest: Sequence[Any]) -> Any:
    first = rest[0]
    return first[0] if isinstance(first, (tuple, list)) and first else first


@rule(aten.cat, aten.concat, aten.stack, alone=True)
def _concatenated(trace: Trace, tensors: Sequence[Tensor], dim: int = 0) -> Any:
    y = trace.outputs[0]
    tensors = [t for t in tensors if t.numel()]
    if not any(trace.is_signal(t) for t in tensors):
        entries = {trace.entry(t) for t in tensors}
        if len(entries) == 1:
            return entries.pop()
        return trace.without_signal(*tensors)
    like = next(trace.entry(t).layout for t in tensors if trace.is_signal(t))  # type: ignore[union-attr]
    dim %= y.dim()
    if len(like) < y.dim():
        layout = (*like[:dim], ((UNIT, y.shape[dim]),), *like[dim:])
    else:
        layout = layouts.fitted(like, y.shape)
    if len(tensors) == 1:
        return reshaped(trace.tape, trace.signal(tensors[0]), layout)
    sides = [_part(trace, t, like) for t in tensors]
    if len(like) < y.dim():  # stacked along a new axis
        return trace.record("concatenate", sides, layout)
    return join(trace.tape, sides, layout, dim)


def _part(trace: Trace, tensor: Tensor, like: layouts.Layout) -> Signal:
    entry = trace.entry(tensor)
    if isinstance(entry, Signal):
        return entry
    return trace.signal(tensor, layouts.fitted(like, tensor.shape))


@rule(aten.copy, alone=True)
def _copied(trace: Trace, x: Tensor, source: Tensor, *rest: Any) -> Any:
    entry = trace.entry(source)
    if isinstance(entry, Signal) and source.shape != x.shape:
        return replace(entry.whole, layout=layouts.broadcast([entry.layout], x.shape))
    return entry


@rule(aten.constant_pad_nd, alone=True)
def _padded(trace: Trace, x: Tensor, padding: Sequence[int], value: float = 0) -> Any:
    y = trace.outputs[0]
    if not trace.is_signal(x):
        return trace.entry(x)
    layout = layouts.fitted(_layout(trace, x), y.shape)
    if x.numel() == y.numel():
        return reshaped(trace.tape, trace.signal(x), layout)
    inside = trace.signal(x)
    view = trace.record("view", [inside], layout, view=("padded", len(trace.tape.nodes)))
    made = trace.record(
        "dropout", [view], layout, keep=x.numel() / y.numel(), factor=1.0, elements=True
    )
    before = tuple(padding[-2::-2])  # of the last axes, as many as are padded
    before = (0,) * (x.dim() - len(before)) + before
    return replace(made, padded=Padded(inside, tuple(x.shape), before))


@rule(aten.empty_like, aten.zeros_like, aten.ones_like, aten.rand_like, aten.randn_like,
      aten.full_like, aten.new_empty, aten.new_zeros, aten.new_ones, aten.new_full,
      aten.new_empty_strided, aten.fill, aten.zero, aten.uniform, aten.normal,
      alone=True)  # fmt: skip
def _new(trace: Trace, *rest: Any, **more: Any) -> Any:
    return None
