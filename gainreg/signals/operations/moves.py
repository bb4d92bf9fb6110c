"""What only moves numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gainreg.signals import layout as layouts
from gainreg.signals.layout import POSITION, SAMPLE, UNIT, Axis, Layout
from gainreg.signals.signal import Padded, Signal, join, permuted, reshaped, sliced
from gainreg.signals.signal import expanded as copies
from gainreg.signals.state import Moments
from gainreg.signals.tape import CONSTANT
from gainreg.signals.trace import Entry, Trace


def cut(trace: Trace, x: Any, y: Any, axis: int, start: int, step: int = 1) -> Entry:
    """What y is: so many elements of x along an axis, which is gone if there is but one."""
    entry = trace.entry(x)
    if not isinstance(entry, Signal):
        return entry
    if len(y.shape) < len(x.shape):
        layout = (*entry.layout[:axis], *entry.layout[axis + 1 :])
        size = 1
    else:
        layout, size = layouts.fitted(entry.layout, y.shape), y.shape[axis]
    if size == x.shape[axis]:
        return reshaped(trace.tape, entry, layout)
    return sliced(trace.tape, entry, layout, axis, start % x.shape[axis], size, step)


def reordered(trace: Trace, x: Any, order: Sequence[int]) -> Entry:
    """x with its axes in another order."""
    entry = trace.entry(x)
    if not isinstance(entry, Signal):
        return entry
    made = permuted(trace.tape, entry, order)
    if entry.padded is None:
        return made
    inside, shape, before = entry.padded.signal, entry.padded.shape, entry.padded.before
    turned = Padded(
        permuted(trace.tape, inside, order),
        tuple(shape[axis] for axis in order),
        tuple(before[axis] for axis in order),
    )
    return replace(made, padded=turned)


def expanded(trace: Trace, entry: Entry, shape: Sequence[int]) -> Entry:
    """A signal again and again. Copies of whole matrices of positions and units are keys and values
    for several heads, which are units."""
    if not isinstance(entry, Signal):
        return entry
    added: Layout = ((),) * (len(shape) - len(entry.layout))
    matrix = {layouts.role(axis) for axis in entry.layout[-2:] if axis} == {POSITION, UNIT}
    heads = UNIT if matrix and len(shape) > 3 else POSITION

    def copied(axis: int) -> str:
        return SAMPLE if not axis else heads if axis < len(shape) - 2 else POSITION

    grown = tuple(
        axis if layouts.size(axis) == size else ((copied(i), size),)
        for i, (axis, size) in enumerate(zip(added + entry.layout, shape, strict=True))
    )
    return copies(trace.tape, entry, grown)


def moved(
    trace: Trace, signal: Signal, shape: Sequence[int], layout: Layout | None = None
) -> Signal:
    """The elements of a signal, or some of them, in whatever order."""
    if layout is None:
        if len(signal.layout) == len(shape):
            layout = layouts.fitted(signal.layout, shape)
        elif math.prod(map(layouts.size, signal.layout)) == math.prod(shape):
            layout = layouts.reshaped(signal.layout, shape)
        else:
            layout = layouts.of_input(shape)
    return trace.record("view", [signal], layout, view=("moved", len(trace.tape.nodes)))


def picked(trace: Trace, x: Any, indices: Any, layout: Layout | None = None) -> Entry:
    """Rows of what may be made of constants."""
    made = moved(trace, trace.signal(x), trace.outputs[0].shape, layout)
    rows = None if trace.entry(indices) is not None else trace.values(indices)
    if rows is not None:
        trace.picked[made.node] = rows.ravel()
    return made


def concatenated(trace: Trace, tensors: Sequence[Any], axis: int) -> Entry:
    """Tensors one after the other along an axis, which may be a new one."""
    shape = trace.outputs[0].shape
    tensors = [t for t in tensors if math.prod(t.shape)]
    signals = [entry for entry in map(trace.entry, tensors) if isinstance(entry, Signal)]
    if not signals:
        entries = {trace.entry(t) for t in tensors}
        return entries.pop() if len(entries) == 1 else trace.without_signal(*tensors)
    like = signals[0].layout
    stacked = len(like) < len(shape)
    if stacked:
        layout = (*like[:axis], ((UNIT, shape[axis]),), *like[axis:])
    else:
        layout = layouts.fitted(like, shape)
    if len(tensors) == 1:
        return reshaped(trace.tape, trace.signal(tensors[0]), layout)
    sides = [trace.signal(t, layouts.fitted(like, t.shape)) for t in tensors]
    if stacked:
        return trace.record("concatenate", sides, layout)
    return join(trace.tape, sides, layout, axis)


def padded(trace: Trace, x: Any, before: Sequence[int], value: float) -> Entry:
    """x with a number around it, 0 most often, so many before it on each axis."""
    entry, shape = trace.entry(x), trace.outputs[0].shape
    if not isinstance(entry, Signal):
        return entry
    layout = layouts.fitted(entry.layout, shape)
    here, there = math.prod(x.shape), math.prod(shape)
    if here == there:
        return reshaped(trace.tape, entry, layout)
    longer = [axis for axis, n in enumerate(shape) if n > x.shape[axis]]
    if len(longer) == 1:
        axis = longer[0]
        lengths = before[axis], shape[axis] - x.shape[axis] - before[axis]
        first, last = (_numbers(trace, layout, axis, n, value) for n in lengths)
        made = join(trace.tape, [*first, entry, *last], layout, axis)
        if value:
            return made
    else:
        view = trace.record("view", [entry], layout, view=("padded", len(trace.tape.nodes)))
        made = trace.record("dropout", [view], layout, keep=here / there, factor=1.0, elements=True)
    return replace(made, padded=Padded(entry, tuple(x.shape), tuple(before)))


def _numbers(trace: Trace, layout: Layout, axis: int, length: int, value: float) -> list[Signal]:
    """One and the same number so many times along an axis, if any."""
    if length < 1:
        return []
    along: Axis = ((layouts.role(layout[axis]), length),) if length > 1 else ()
    own = (*layout[:axis], along, *layout[axis + 1 :])
    m = Moments(value, value**2, value**2, value**2)
    return [Signal(trace.tape.record("given", (), own, moments=m, phrase=CONSTANT), own)]
