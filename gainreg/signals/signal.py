"""A signal: a step's output in the layout that it has here, and the parts that it was joined from.

What is joined along an axis, as class tokens and patches or the channels of a dense block, differs
in size from part to part, and so do its gradients. An operation that treats the parts apart, as a
batch norm treats channels, and a layer norm or a linear map positions, is therefore recorded for
each of them; what mixes the parts takes them as one, with their averages.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gainreg.signals import layout as layouts
from gainreg.signals.layout import POSITION, Layout
from gainreg.signals.softmax import Rows
from gainreg.signals.state import Along, Permutation
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
        narrow: what it was expanded from, whose copies an elementwise operation makes itself.
        joint: what it was joined from.
    """

    node: Node
    layout: Layout
    rows: Rows | None = None
    padded: Padded | None = None
    narrow: Signal | None = None
    joint: Joint | None = None

    @property
    def whole(self) -> Signal:
        """The same for an operation that mixes its parts."""
        return replace(self, joint=None)

    @property
    def inside(self) -> Signal:
        """The same without the padding, for an operation in which that counts for little."""
        return self if self.padded is None else self.padded.signal

    def unpadded(self, axis: int) -> tuple[int, int]:
        """How long an axis is without the padding, and how many zeros that put before it."""
        if self.padded is None:
            return layouts.size(self.layout[axis]), 0
        return self.padded.shape[axis], self.padded.before[axis]

    @property
    def axis(self) -> int | None:
        """The axis along which the parts lie; None if they share one with others, or there are
        none."""
        if self.joint is None:
            return None
        before = 1
        for axis, size in enumerate(map(layouts.size, self.layout)):
            if before == self.joint.before and size == sum(self.joint.lengths):
                return axis
            before *= size
        return None

    def apart(self, *mixed: int) -> Signal:
        """The same for an operation that mixes what lies along these axes."""
        return self.whole if self.axis is None or self.axis in mixed else self


@dataclass(frozen=True)
class Padded:
    """What was padded with zeros: its signal and shape, and the zeros before it on each axis."""

    signal: Signal
    shape: tuple[int, ...]
    before: tuple[int, ...]


@dataclass(frozen=True)
class Joint:
    """Parts of a signal, one after the other.

    Attributes:
        before: how many elements the axes before theirs have; that survives all reshaping.
        parts: each in the signal's layout, but for their length.
        lengths: theirs.
    """

    before: int
    parts: tuple[Signal, ...]
    lengths: tuple[int, ...]

    @property
    def places(self) -> list[tuple[int, int]]:
        """Where each part begins, and its length."""
        starts = itertools.accumulate(self.lengths, initial=0)
        return list(zip(starts, self.lengths, strict=False))


def record(
    tape: Tape, rule: str, inputs: Sequence[Signal], layout: Layout, weight: str = "", **facts: Any
) -> Signal:
    """A step of the tape with that output; of parts, if the rule treats them apart, one each."""
    axis, joint = _parts_of(rule, inputs, layout)
    if joint is None:
        node = tape.record(rule, [signal.node for signal in inputs], layout, **facts)
        node.weight = weight
        return Signal(node, layout)
    made = []
    for start, size in joint.places:
        sides = [_beside(tape, signal, len(layout) - axis, start, size) for signal in inputs]
        made.append(record(tape, rule, sides, _with(layout, axis, size), weight, **facts))
    return join(tape, made, layout, axis)


def portions(tape: Tape, whole: Node, fed: Signal, over: int) -> Signal:
    """The output of a linear map over the last axes of what feeds it, so many; where the parts of
    that lie along the others, joined from what it makes of each."""
    joint, kept = fed.joint, len(fed.layout) - over
    rows = math.prod(map(layouts.size, whole.layout[:kept]))
    if joint is None or rows % (joint.before * sum(joint.lengths)):
        return Signal(whole, whole.layout)
    whole.facts["observed"] = True
    parts = []
    for part in joint.parts:
        nodes = (part.node, fed.node, whole, *whole.inputs[1:])
        layout = (*part.layout[:kept], *whole.layout[kept:])
        parts.append(Signal(tape.record("portion", nodes, layout), layout))
    node = tape.record("concatenate", [part.node for part in parts], whole.layout)
    return Signal(node, whole.layout, joint=replace(joint, parts=tuple(parts)))


def map_of(node: Node) -> Node | None:
    """The linear map that a step is the output of, in whatever order of its axes; None if of
    none."""
    if node.rule == "portion":
        return node.inputs[2]
    if node.rule not in ("view", "concatenate"):
        return node if node.rule == "linear" else None
    maps = {map_of(parent) for parent in node.inputs}
    return maps.pop() if len(maps) == 1 else None


def join(tape: Tape, signals: Sequence[Signal], layout: Layout, axis: int) -> Signal:
    """Signals one after the other along an axis."""
    parts: list[Signal] = []
    for signal in signals:
        joint = signal.joint
        parts += joint.parts if joint is not None and signal.axis == axis else [signal.whole]
    node = tape.record("concatenate", [part.node for part in parts], layout)
    lengths = tuple(layouts.size(part.layout[axis]) for part in parts)
    before = math.prod(map(layouts.size, layout[:axis]))
    return Signal(node, layout, joint=Joint(before, tuple(parts), lengths))


def each(
    tape: Tape, signal: Signal, layout: Layout, axis: int, make: Callable[[Signal, Layout], Signal]
) -> Signal:
    """What ``make`` gives of a signal, or of each part of it, for a layout; the parts lie along
    ``axis`` of the result then."""
    if signal.joint is None or signal.axis is None:
        return make(signal.whole, layout)
    made = [
        make(part, _with(layout, axis, size))
        for part, size in zip(signal.joint.parts, signal.joint.lengths, strict=True)
    ]
    return join(tape, made, layout, axis)


def reshaped(tape: Tape, signal: Signal, layout: Layout) -> Signal:
    """The same elements in the same order, in another layout."""
    here, joint = replace(signal, layout=layout, narrow=None), signal.joint
    if list(map(layouts.size, layout)) != list(map(layouts.size, signal.layout)):
        here = replace(here, padded=None)
    if joint is None:
        copied = math.prod(map(layouts.size, layout)) > signal.node.size > 1
        if copied and signal.node.rule != "given":  # what follows counts the copies as positions
            return record(tape, "view", [signal], layout, view=("copied", len(tape.nodes)))
        return here
    length, before = sum(joint.lengths), 1
    for axis, size in enumerate(map(layouts.size, layout)):
        if joint.before % before == 0 and before * size % (joint.before * length) == 0:
            parts = []
            for part, own in zip(joint.parts, joint.lengths, strict=True):
                sizes = list(map(layouts.size, layout))
                sizes[axis] = size // length * own
                parts.append(reshaped(tape, part, layouts.reshaped(part.layout, sizes)))
            return replace(here, joint=replace(joint, parts=tuple(parts)))
        before *= size
    return here.whole


def expanded(tape: Tape, signal: Signal, layout: Layout) -> Signal:
    """A signal again and again, along axes that it has of length 1 or not yet. Copies along the
    same axes, counted from the last, are the same variables, wherever they are made."""
    signal = replace(signal.whole, padded=None)
    if signal.node.rule == "given" or signal.node.size == 1:
        return replace(signal, layout=layout, narrow=signal)
    sizes = tuple(map(layouts.size, layout))[::-1]
    own = tuple(map(layouts.size, signal.layout))[::-1]
    copied = tuple(i for i, n in enumerate(sizes) if i >= len(own) or own[i] < n > 1)
    made = record(tape, "view", [signal], layout, view=Along(copied, signal.node.positions))
    return replace(made, rows=signal.rows, narrow=signal)


def together(tape: Tape, signals: Sequence[Signal], layout: Layout) -> list[Signal]:
    """Signals that an elementwise operation broadcasts to a layout: before they were expanded, but
    for axes that none of them has else."""
    narrow = [signal.narrow or signal for signal in signals]
    shape = tuple(map(layouts.size, layout))
    reach = tuple(map(max, zip(*(_sizes(signal, len(shape)) for signal in narrow), strict=True)))
    found = []
    for wide, signal in zip(signals, narrow, strict=True):
        own = _sizes(signal, len(shape))
        sizes = tuple(n if most < n else k for n, most, k in zip(shape, reach, own, strict=True))
        if sizes == own:
            found.append(_along_other(tape, signal, layout))
        elif sizes == _sizes(wide, len(shape)):
            found.append(wide)
        else:
            axes = zip(layout, sizes, strict=True)
            found.append(expanded(tape, signal, tuple(axis if n > 1 else () for axis, n in axes)))
    return found


def _along_other(tape: Tape, signal: Signal, layout: Layout) -> Signal:
    """A signal that lacks an axis of positions: another variable where it, or what it is a function
    of, first had its positions along another axis."""
    places, node = _positions(signal.layout), signal.node
    if node.rule == "given" or not places or len(_positions(layout)) <= len(places):
        return signal
    while node.rule in ("add", "elementwise") and len(node.inputs) == 1:
        node = node.inputs[0]
    same = (node.use, node.inputs[0]) if node.use else node  # a map used twice is one signal
    if tape.places.setdefault(same, places) == places:
        return signal
    view = Along(places, signal.node.positions)
    return record(tape, "view", [signal.whole], signal.layout, view=view)


def _positions(layout: Layout) -> tuple[int, ...]:
    """The axes that hold positions, counted from the last."""
    return tuple(
        i for i, axis in enumerate(reversed(layout)) if layouts.count([axis])[POSITION] > 1
    )


def _sizes(signal: Signal, axes: int) -> tuple[int, ...]:
    return (1,) * (axes - len(signal.layout)) + tuple(map(layouts.size, signal.layout))


def permuted(tape: Tape, signal: Signal, order: Sequence[int]) -> Signal:
    """Axes in another order; those of length 1 may move without a step."""
    axis = signal.axis

    def make(part: Signal, own: Layout) -> Signal:
        shape = tuple(map(layouts.size, part.layout))
        moved = [i for i in order if shape[i] > 1]
        if moved == sorted(moved):
            return replace(part, layout=own, narrow=None)
        return record(tape, "view", [part], own, view=Permutation(tuple(order), shape))

    layout = tuple(signal.layout[i] for i in order)
    made = each(tape, signal, layout, 0 if axis is None else order.index(axis), make)
    return replace(made, rows=signal.rows)


def sliced(
    tape: Tape, signal: Signal, layout: Layout, axis: int, start: int, size: int, step: int = 1
) -> Signal:
    """``size`` elements along an axis from ``start`` on; the axis may be left out of the layout."""
    view, along = ("slice", axis, start, size, step), signal.axis
    gone = len(signal.layout) > len(layout)

    def cut(part: Signal, own: Layout, view: Hashable = view) -> Signal:
        return record(tape, "view", [part], own, view=view)

    if signal.joint is None or along is None or (along == axis and step > 1):
        return cut(signal.whole, layout)
    if along != axis:
        return each(tape, signal, layout, along - (gone and axis < along), cut)
    found = []
    for part, (first, length) in zip(signal.joint.parts, signal.joint.places, strict=True):
        low, high = max(start, first), min(start + size, first + length)
        own = layout if gone else _with(layout, axis, max(0, high - low))
        if high - low == length:
            found.append(replace(part, layout=own))
        elif high > low:
            found.append(cut(part, own, ("slice", axis, low - first, high - low, 1)))
    return found[0] if len(found) == 1 else join(tape, found, layout, axis)


# --- where parts lie ---


def _parts_of(rule: str, inputs: Sequence[Signal], layout: Layout) -> tuple[int, Joint | None]:
    """The axis of the output along which an input's parts lie, and these."""
    for signal in inputs if rule in BY_PARTS else ():
        own = signal.axis
        if own is not None and signal.joint is not None:
            axis = len(layout) - len(signal.layout) + own
            if layouts.size(signal.layout[own]) == layouts.size(layout[axis]):
                return axis, signal.joint
    return 0, None


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
