"""What only moves numbers, and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gainreg.adapters.jax.tracer import Array, JaxTrace, derived, rule
from gainreg.signals import layout as layouts
from gainreg.signals import operations
from gainreg.signals.layout import POSITION, SAMPLE
from gainreg.signals.signal import Signal, join, reshaped
from gainreg.signals.trace import Tokens, Weight


@rule("convert_element_type", alone=True)
def _converted(trace: JaxTrace, x: Array, **_: Any) -> Any:
    y = trace.outputs[0]
    if x.narrow is not None:
        y.narrow = derived(lambda v: v.astype(y.dtype), x.narrow, x.narrow.shape)
        y.narrow.dtype = y.dtype
        trace.set(y.narrow, trace.entry(x.narrow))
    entry = trace.entry(x)
    if isinstance(entry, Tokens) and trace.is_real(y):
        return None
    if isinstance(entry, Signal) and trace.is_real(x) and not trace.is_real(y):
        return trace.elementwise(np.trunc, x)
    return entry


@rule(
    "copy", "copy_p", "stop_gradient", "sharding_constraint", "name", "reduce_precision",
    "mesh_cast", "reshard", "pvary", "optimization_barrier", "device_put", "real", alone=True,
)  # fmt: skip
def _same(trace: JaxTrace, *inputs: Array, **_: Any) -> Any:
    for x, y in zip(inputs, trace.outputs, strict=True):
        y.narrow = x.narrow
    return tuple(trace.entry(x) for x in inputs)


@rule("reshape", "squeeze", "expand_dims", alone=True)
def _reshaped(trace: JaxTrace, x: Array, **_: Any) -> Any:
    y, entry = trace.outputs[0], trace.entry(x)
    if x.narrow is not None and x.narrow.size == 1:
        one = (1,) * len(y.shape)
        y.narrow = derived(lambda v: v.reshape(one), x.narrow, one)
    if not isinstance(entry, Signal):
        return entry
    return reshaped(trace.tape, entry, layouts.reshaped(entry.layout, y.shape))


@rule("broadcast_in_dim", alone=True)
def _broadcast(
    trace: JaxTrace, x: Array, *_: Array, shape: Any, broadcast_dimensions: Any, **more: Any
) -> Any:
    y, source = trace.outputs[0], x.narrow or x
    one = [1] * len(shape)
    axes: list[layouts.Axis] = [()] * len(shape)
    entry = trace.entry(source)
    for i, axis in enumerate(broadcast_dimensions):
        one[axis] = source.shape[i]
        if isinstance(entry, Signal):
            axes[axis] = entry.layout[i]
    narrow = tuple(one)
    small = reshaped(trace.tape, entry, tuple(axes)) if isinstance(entry, Signal) else entry
    if narrow == y.shape:
        return small
    y.narrow = derived(lambda v: v.reshape(narrow), source, narrow)
    trace.set(y.narrow, small)
    return operations.expanded(trace, small, y.shape)


@rule("transpose", alone=True)
def _transposed(trace: JaxTrace, x: Array, *, permutation: Sequence[int], **_: Any) -> Any:
    order = [int(axis) for axis in permutation]
    y = trace.outputs[0]
    if x.narrow is not None:
        shape = tuple(x.narrow.shape[axis] for axis in order)
        y.narrow = derived(lambda v: v.transpose(order), x.narrow, shape)
        trace.set(y.narrow, operations.reordered(trace, x.narrow, order))
    return operations.reordered(trace, x, order)


@rule("slice", alone=True)
def _sliced(trace: JaxTrace, x: Array, *, start_indices: Any, strides: Any, **_: Any) -> Any:
    return _part(trace, x, start_indices, strides or (1,) * len(start_indices))


@rule("dynamic_slice", alone=True)
def _sliced_at(trace: JaxTrace, x: Array, *starts: Array, **_: Any) -> Any:
    found = [trace.number(start) for start in starts]
    if any(trace.is_tensor(start) for start in found):
        return _moved(trace, x)
    return _part(trace, x, [int(start) for start in found], (1,) * len(found))


def _part(trace: JaxTrace, x: Array, starts: Sequence[int], steps: Sequence[int]) -> Any:
    """Some of x along each axis where there are fewer."""
    y, here = trace.outputs[0], x
    for axis, (start, step) in enumerate(zip(starts, steps, strict=True)):
        if y.shape[axis] == x.shape[axis]:
            continue
        shape = (*here.shape[:axis], y.shape[axis], *here.shape[axis + 1 :])
        there = Array(shape, x.dtype, None)
        trace.set(there, operations.cut(trace, here, there, axis, start, step))
        here = there
    return trace.entry(here)


@rule("split", alone=True)
def _split(trace: JaxTrace, x: Array, *, sizes: Sequence[int], axis: int, **_: Any) -> Any:
    starts = np.cumsum([0, *sizes])
    return tuple(
        operations.cut(trace, x, y, axis, int(start))
        for y, start in zip(trace.outputs, starts, strict=False)
    )


@rule("unstack", alone=True)
def _unstacked(trace: JaxTrace, x: Array, *, axis: int = 0, **_: Any) -> Any:
    return tuple(operations.cut(trace, x, y, axis, i) for i, y in enumerate(trace.outputs))


@rule("rev", "tile", "roll", alone=True)
def _moved(trace: JaxTrace, x: Array, *rest: Any, **_: Any) -> Any:
    entry = trace.entry(x)
    if not isinstance(entry, Signal):
        return entry
    return operations.moved(trace, entry, trace.outputs[0].shape)


@rule("sort", "top_k", alone=True)
def _sorted(trace: JaxTrace, *inputs: Array, **_: Any) -> Any:
    found = [_moved(trace, x) for x in inputs]
    return (*found, *(None for _ in trace.outputs[len(found) :]))


@rule("gather", alone=True)
def _gathered(
    trace: JaxTrace, x: Array, indices: Array, *, dimension_numbers: Any, slice_sizes: Any, **_: Any
) -> Any:
    entry, y = trace.entry(x), trace.outputs[0]
    offsets = dimension_numbers.offset_dims
    gone = {*dimension_numbers.collapsed_slice_dims, *dimension_numbers.operand_batching_dims}
    rows = tuple(y.shape[i] for i in range(len(y.shape)) if i not in offsets)
    if isinstance(entry, Weight):
        is_table = len(x.shape) == 2 and offsets == (len(y.shape) - 1,)
        if not is_table or slice_sizes[-1] != x.shape[-1]:
            return entry
        return operations.looked_up(trace, x, indices, rows, True)
    if not isinstance(entry, Signal):
        return entry
    kept = iter([i for i in range(len(x.shape)) if i not in gone])
    layout = tuple(
        layouts.resized(entry.layout[next(kept)], size)
        if i in offsets
        else ((POSITION if i else SAMPLE, size),)
        for i, size in enumerate(y.shape)
    )
    if 0 in gone and len(gone) == 1:
        return operations.picked(trace, x, indices, layout)
    return operations.moved(trace, entry, y.shape, layout)


@rule("concatenate", "stack", alone=True)
def _concatenated(trace: JaxTrace, *inputs: Array, **params: Any) -> Any:
    axis = params.get("dimension", params.get("axis", 0))
    return operations.concatenated(trace, inputs, axis)


@rule("pad", alone=True)
def _padded(trace: JaxTrace, x: Array, value: Array, *, padding_config: Any, **_: Any) -> Any:
    if any(between for _, _, between in padding_config) or any(
        low < 0 or high < 0 for low, high, _ in padding_config
    ):
        return _moved(trace, x)
    number = trace.number(value)
    before = [low for low, _, _ in padding_config]
    return operations.padded(trace, x, before, number if isinstance(number, float) else 0.0)


@rule("dynamic_update_slice", alone=True)
def _written(trace: JaxTrace, x: Array, update: Array, *starts: Array, **_: Any) -> Any:
    before, new = trace.entry(x), trace.entry(update)
    if not isinstance(new, Signal):
        return before
    layout = layouts.fitted(new.layout, x.shape)
    if isinstance(before, Signal):
        return join(trace.tape, [before, new], layout, 0).whole
    return replace(new.whole, layout=layout)  # the rest of it is to be written yet
