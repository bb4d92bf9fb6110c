"""A signal: a step's output in the layout that it has here, and the parts that it was joined from.

What is joined along an axis, as class tokens and patches or the channels of a dense block, differs
in size from part to part. An operation that treats the parts apart, as a batch norm treats
channels and a layer norm positions, is therefore recorded for each of them; what mixes the parts
takes them as one, with their averages.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gainreg.signals import layout as layouts
from gainreg.signals.layout import Layout
from gainreg.signals.softmax import Rows
from gainreg.signals.state import Permutation
from gainreg.signals.tape import Node, Tape

# The rules that do to each element the same, wherever it is, and norms, for which ``apart`` says
# whether they mix the parts.
BY_PARTS = ("add", "dropout", "elementwise", "multiply", "normalise", "scale")


@dataclass(frozen=True)
class Signal:
    """What a tensor carries: a node's output in the layout that it has here.

    Attributes:
        node, layout: these.
        rows: of masked scores, how many keys which share of the rows has left.
        padded: what was padded with zeros, of which a convolution counts itself what lies outside.
        axis, parts: what it was joined from, in order along that axis.
    """

    node: Node
    layout: Layout
    rows: Rows | None = None
    padded: Padded | None = None
    axis: int = 0
    parts: tuple[Signal, ...] = ()

    @property
    def whole(self) -> Signal:
        """The same for an operation that mixes its parts."""
        return replace(self, axis=0, parts=())

    def apart(self, *mixed: int) -> Signal:
        """The same for an operation that mixes what lies along these axes."""
        return self.whole if self.axis in mixed else self


@dataclass(frozen=True)
class Padded:
    """What was padded with zeros: its signal and shape, and the zeros before it on each axis."""

    signal: Signal
    shape: tuple[int, ...]
    before: tuple[int, ...]


def record(
    tape: Tape, rule: str, inputs: Sequence[Signal], layout: Layout, weight: str = "", **facts: Any
) -> Signal:
    """A step of the tape with that output; of parts, if the rule treats them apart, one each."""
    axis, joined = _parts_of(rule, inputs, layout)
    if joined is None:
        node = tape.record(rule, [signal.node for signal in inputs], layout, **facts)
        node.weight = weight
        return Signal(node, layout)
    made = []
    for start, size in _places(joined):
        sides = [_beside(tape, signal, len(layout) - axis, start, size) for signal in inputs]
        made.append(record(tape, rule, sides, _with(layout, axis, size), weight, **facts))
    return join(tape, made, layout, axis)


def join(tape: Tape, signals: Sequence[Signal], layout: Layout, axis: int) -> Signal:
    """Signals one after the other along an axis."""
    parts = tuple(
        part
        for signal in signals
        for part in (signal.parts if signal.parts and signal.axis == axis else (signal.whole,))
    )
    node = tape.record("concatenate", [part.node for part in parts], layout)
    return Signal(node, layout, axis=axis, parts=parts)


def each(
    tape: Tape, signal: Signal, layout: Layout, axis: int, make: Callable[[Signal, Layout], Signal]
) -> Signal:
    """What ``make`` gives of a signal, or of each part of it, for a layout; the parts lie along
    ``axis`` of the result then."""
    if not signal.parts:
        return make(signal, layout)
    sizes = [size for _, size in _places(signal)]
    made = [
        make(part, _with(layout, axis, size))
        for part, size in zip(signal.parts, sizes, strict=True)
    ]
    return join(tape, made, layout, axis)


def reshaped(signal: Signal, layout: Layout) -> Signal:
    """The same elements in the same order, in another layout."""
    here = replace(signal, layout=layout)
    if not signal.parts:
        return here
    before = math.prod(map(layouts.size, signal.layout[: signal.axis]))
    for axis, size in enumerate(map(layouts.size, layout)):
        lies_there = math.prod(map(layouts.size, layout[:axis])) == before
        if lies_there and size == layouts.size(signal.layout[signal.axis]) > 1:
            parts = tuple(
                reshaped(part, _with(layout, axis, length))
                for part, (_, length) in zip(signal.parts, _places(signal), strict=True)
            )
            return replace(here, axis=axis, parts=parts)
    return here.whole


def permuted(tape: Tape, signal: Signal, layout: Layout, order: Sequence[int]) -> Signal:
    """Axes in another order; those of length 1 may move without a step."""
    axis = order.index(signal.axis)

    def make(part: Signal, own: Layout) -> Signal:
        shape = tuple(map(layouts.size, part.layout))
        moved = [i for i in order if shape[i] > 1]
        if moved == sorted(moved):
            return replace(part, layout=own)
        return record(tape, "view", [part], own, view=Permutation(tuple(order), shape))

    return each(tape, signal, layout, axis, make)


def sliced(
    tape: Tape, signal: Signal, layout: Layout, axis: int, start: int, size: int, step: int = 1
) -> Signal:
    """``size`` elements along an axis from ``start`` on; the axis may be left out of the layout."""
    view = ("slice", axis, start, size, step)
    gone = len(signal.layout) - len(layout)

    def cut(part: Signal, own: Layout, view: Hashable = view) -> Signal:
        return record(tape, "view", [part], own, view=view)

    if not signal.parts or (signal.axis == axis and step > 1):
        return cut(signal.whole, layout)
    if signal.axis != axis:
        return each(tape, signal, layout, signal.axis - gone * (axis < signal.axis), cut)
    found = []
    for part, (first, length) in zip(signal.parts, _places(signal), strict=True):
        low, high = max(start, first), min(start + size, first + length)
        own = layout if gone else _with(layout, axis, max(0, high - low))
        if high - low == length:
            found.append(replace(part, layout=own))
        elif high > low:
            found.append(cut(part, own, ("slice", axis, low - first, high - low, 1)))
    return found[0] if len(found) == 1 else join(tape, found, layout, axis)


# --- where parts lie ---


def _parts_of(rule: str, inputs: Sequence[Signal], layout: Layout) -> tuple[int, Signal | None]:
    """The axis of the output along which an input's parts lie, and that input."""
    for signal in inputs if rule in BY_PARTS else ():
        axis = len(layout) - len(signal.layout) + signal.axis
        if signal.parts and layouts.size(signal.layout[signal.axis]) == layouts.size(layout[axis]):
            return axis, signal
    return 0, None


def _places(joined: Signal) -> list[tuple[int, int]]:
    """Where each part of a signal begins, and its length."""
    sizes = [layouts.size(part.layout[joined.axis]) for part in joined.parts]
    return list(zip(itertools.accumulate(sizes, initial=0), sizes, strict=False))


def _with(layout: Layout, axis: int, size: int) -> Layout:
    own = layouts.resized(layout[axis], size) if size > 1 else ()
    return (*layout[:axis], own, *layout[axis + 1 :])


def _beside(tape: Tape, signal: Signal, from_end: int, start: int, size: int) -> Signal:
    """What of a signal meets a part that lies there; all of it if it is broadcast along the
    axis."""
    axis = len(signal.layout) - from_end
    if axis < 0 or layouts.size(signal.layout[axis]) == 1:
        return signal
    return sliced(tape, signal, _with(signal.layout, axis, size), axis, start, size)
