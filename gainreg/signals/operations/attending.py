"""Sums over two signals, masks and softmax, also where a model writes them out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gainreg.signals import layout as layouts
from gainreg.signals.layout import POSITION, SAMPLE, UNIT, Axis, Layout
from gainreg.signals.operations.moves import moved
from gainreg.signals.signal import Signal, each
from gainreg.signals.softmax import Rows, causal, full, left_by
from gainreg.signals.tape import CONSTANT, Node
from gainreg.signals.trace import MASKED, Constant, Trace, measured

# Steps whose numbers are those of their input, but for factors and what is added to all of them.
SAME = ("view", "dropout", "scale", "add", "concatenate")

# So many sums of two signals are looked through for scores: these pass one, with a table of biases
# or the scores of the layer before, or two. In a stream of residual sums the search had no end.
SUMS = 3

# Steps that make each unit of that unit; multiplied is a key that is divided by its norm.
UNITWISE = (*SAME, "normalise", "multiply", "elementwise")


def contracted(
    trace: Trace,
    left: Signal,
    right: Signal,
    over: tuple[Axis, Axis],
    layout: Layout,
    places: tuple[Mapping[int, int], Mapping[int, int]] | None = None,
) -> Signal:
    """Σ a·b of two signals over what lies along an axis that both have; each part of one that has
    parts along another axis for itself, the queries' rather than the keys'.

    Args:
        over, layout: what is summed over, as either has it, and the output's layout.
        places: where in the output the axes of each are; None where those of the left one but its
            last are where they were, and the last of the right one is last.
    """
    if places is None:
        last = {len(right.layout) - 1: len(layout) - 1}
        places = {i: i for i in range(len(left.layout) - 1)}, last
        layout = tuple(
            right.layout[i] if i < len(layout) - 2 and _windows(axis, right.layout[i]) else axis
            for i, axis in enumerate(layout)
        )
    parted: dict[int, Signal] = {}
    for signal, own in zip((right, left), reversed(places), strict=True):
        axis = signal.axis
        if axis is not None and axis in own and signal.layout[axis] == layout[own[axis]]:
            parted[own[axis]] = signal
    if not parted:
        return _contracted(trace, left.whole, right.whole, over, layout)
    place = min(parted)

    def make(part: Signal, own: Layout) -> Signal:
        if parted[place] is left:
            return _contracted(trace, part, right.whole, over, own)
        return _contracted(trace, left.whole, part, over, own)

    return each(trace.tape, parted[place], layout, place, make)


def _windows(axis: Axis, other: Axis) -> bool:
    """Whether what lies along an axis, copies of queries for one, meets windows of positions."""
    own, met = (layouts.count([it])[POSITION] for it in (axis, other))
    return own < met and layouts.size(axis) == layouts.size(other)


def _contracted(
    trace: Trace, left: Signal, right: Signal, over: tuple[Axis, Axis], layout: Layout
) -> Signal:
    width = layouts.size(over[0])
    for weights, value, along in ((left, right, over[1]), (right, left, over[0])):  # p·v, vᵀ·pᵀ
        node = _before_heads(weights.node, "softmax")
        if node is None:
            continue
        known = [*_inside(weights.node, value.node, node), node, node.inputs[0]]
        keys, scores = origin(node.inputs[0]), _before_heads(node.inputs[0], "scores")
        if scores is not None:
            known += [keys, *scores.inputs]
            keys = scores.inputs[1]
        common = _images(keys, known[1])
        inputs = [Signal(it, ()) for it in known]
        units = node.facts["units"] and layouts.role(along) == UNIT
        if known[0] is not weights.node:
            width = node.facts["size"]
        return trace.record("attend", inputs, layout, size=width, common=common, units=units)
    positions = POSITION in map(layouts.role, over)
    facts: dict[str, Any] = {
        "width": width,
        "positions": positions,
        "keys": layouts.size(layout[-1]) > 1 and layouts.role(layout[-1]) == POSITION,
        "common": positions and _images(left.node, right.node),
    }
    return trace.record("scores", [left, right], layout, **facts)


def _inside(weights: Node, value: Node, soft: Node) -> tuple[Node, Node]:
    """Weights and values without what pads them, where it adds nothing: weights of 0, and values
    that those or a mask leave no weight, as in bands of keys."""
    banded = _without_pads(weights)
    if banded is not weights or soft.facts["rows"] != full(soft.facts["size"]):
        value = _without_pads(value)
    return banded, value


def _without_pads(node: Node) -> Node:
    """What numbers were put beside and maybe moved since; the step itself if there are none."""
    found = node
    while node.rule in ("view", "concatenate"):
        parts = [parent for parent in node.inputs if parent.rule != "given"]
        if len(parts) != 1:
            break
        padded = len(node.inputs) > 1
        node = parts[0]
        found = node if padded else found
    return found


def _before_heads(node: Node, rule: str) -> Node | None:
    """The step of that rule that weights or scores come from, maybe mixed among heads since."""
    node = origin(node)
    if node.rule == "linear":
        node = origin(node.inputs[0])
    return node if node.rule == rule else None


def origin(node: Node, sums: int = SUMS) -> Node:
    """Where a signal comes from, but for what leaves it what it is; through so many sums of two
    signals, one of them being scores."""
    while node.rule in SAME and node.inputs:
        if node.rule == "add" and len(node.inputs) > 1:  # a sum with a mask or a bias
            signals = [parent for parent in node.inputs if parent.rule != "given"]
            if len(signals) != 1:
                found = [origin(parent, sums - 1) for parent in signals] if sums else []
                scored = [it for it in found if it.rule == "scores"]
                return scored[0] if len(scored) == 1 else node
            node = signals[0]
        else:
            node = node.inputs[0]
    if node.rule == "elementwise" and len(node.inputs) == 1:  # scores may be capped, as by a tanh
        capped = origin(node.inputs[0], sums)
        return capped if capped.rule == "scores" else node
    return node


def _images(key: Node, value: Node) -> bool:
    """Whether keys and values are images of the same."""
    a, b = map(_image_of, (key, value))
    return a is not None and a is b


def _image_of(node: Node) -> Node | None:
    while node.rule in UNITWISE and node.inputs:
        node = node.inputs[0]
    if node.rule == "portion":
        node = node.inputs[2]
    return node.inputs[0] if node.rule == "linear" else None


def kept_where(trace: Trace, x: Any, condition: Any, value: float, keep: bool) -> Signal:
    """x where a condition that no signal decides holds (or does not), else a number."""
    signal = trace.signal(x)
    holds = trace.values(condition)
    left = None if holds is None else (holds != 0) == keep
    if value < MASKED:
        triangular = isinstance(trace.entry(condition), Constant)
        keys = x.shape[-1]
        rows = left_by(left, keys) if left is not None else causal(keys) if triangular else None
        return replace(signal, rows=rows)
    if left is None or left.all():
        return signal
    weights = origin(signal.node)
    twice = weights.rule == "softmax" and weights.facts["rows"] == left_by(left, x.shape[-1])
    if twice and not value:  # what was masked before has no weight
        return signal
    return trace.record("dropout", [signal], keep=float(left.mean()), factor=1.0, elements=True)


def masked(trace: Trace, mask: Any, signal: Signal) -> Signal | None:
    """Scores with a mask added; None if it is none."""
    if trace.is_signal(mask) or origin(signal.node).rule != "scores":
        return None
    keys = layouts.size(signal.layout[-1])
    numbers = trace.values(mask)
    learned = trace.is_weight(mask)
    if numbers is None:
        triangular = isinstance(trace.entry(mask), Constant)
        return None if learned else replace(signal, rows=causal(keys) if triangular else None)
    left = numbers > MASKED
    if left.all():
        return None if learned or numbers.any() else signal
    if learned or numbers[left].any():  # a bias besides
        layout = signal.layout
        inputs = [signal, trace.signal(mask, layout)]
        signal = trace.record("add", inputs, layout, factors=(1.0, 1.0))
    return replace(signal, rows=left_by(left, keys))


def softmax(trace: Trace, signal: Signal, axis: int, layout: Layout) -> Signal:
    """Softmax of a signal along an axis."""
    size = layouts.size(signal.layout[axis])
    rows = signal.rows or full(size)
    scored = origin(signal.node)
    known = scored.rule != "scores" or scored.facts["positions"]
    over_units = known and layouts.role(signal.layout[axis]) == UNIT
    signal = signal.apart(axis % len(layout))

    def make(part: Signal, own: Layout) -> Signal:
        return trace.record("softmax", [part], own, size=size, rows=rows, units=over_units)

    return each(trace.tape, signal, layout, signal.axis or 0, make)


def attention(
    trace: Trace, queries: Signal, key: Signal, value: Signal, *, factor: float, rows: Rows
) -> Signal:
    """Scores, softmax and sums in one operation, units being each one's last axis and positions
    the one before."""
    units, keys = queries.layout[-1], ((POSITION, layouts.size(key.layout[-2])),)
    scaled = trace.record("add", [queries], queries.layout, factors=(factor,))
    before = len(queries.layout) - 1
    places = {i: i for i in range(before)}, {len(key.layout) - 2: before}
    over = ((UNIT, layouts.size(units)),)
    layout = (*queries.layout[:-1], keys)
    scores = contracted(trace, scaled, key, (over, over), layout, places)
    weights = softmax(trace, replace(scores, rows=rows), before, layout)
    return contracted(trace, weights, value, (keys, keys), (*layout[:-1], value.layout[-1]))


# Where an operation is compared with an exponential; to 1e-6, as the constants in it may be
# single-precision ones.
_AT = np.array([-0.6, 0.25, 1.0, 2.5])


def _exponent(trace: Trace, signal: Signal) -> Signal | None:
    """What a signal is the exponential of, by its values, masked or not; None if it is none."""
    node = signal.node
    inside = node.inputs[0] if node.rule == "dropout" else node
    recipe = trace.made_by("elementwise", inside)
    if recipe is None or len(recipe.inputs) != 1:
        return None
    with np.errstate(all="ignore"):
        found = recipe.facts["operation"].call(_AT.copy())
    return recipe.inputs[0] if np.allclose(found, np.exp(_AT), rtol=1e-6) else None


def soft(trace: Trace, x: Signal, total: Signal, layout: Layout) -> Signal | None:
    """e^s, or some weights of a softmax of s, over its own sum: the softmax of s, or of those
    scores, as routers have it; None if it is something else."""
    sum_of = trace.made_by("mean", total.node)
    if sum_of is None or sum_of.inputs[0].node is not x.node:
        return None
    scores, weights = _exponent(trace, x), origin(x.node)
    if scores is None and weights.rule == "softmax":
        chosen = Signal(weights.inputs[0], weights.inputs[0].layout)
        scores = moved(trace, chosen, tuple(map(layouts.size, x.layout)), x.layout)
    if scores is None:
        return None
    less = trace.made_by("add", scores.node)
    if less is not None and len(less.inputs) == 2:  # less its maximum
        scores = less.inputs[0]
    gone = [
        axis
        for axis, length in enumerate(map(layouts.size, layout))
        if length > 1 and layouts.size(total.layout[axis]) == 1
    ]
    if len(gone) > 1:
        return None
    return softmax(trace, scores, gone[0] if gone else len(layout) - 1, layout)


# Steps that make of each row of a table a row of another, whatever the others are.
BY_ROWS = ("linear", "elementwise", "add", "scale", "view")


def by_rows(trace: Trace, bias: Signal) -> Signal:
    """A bias of scores by positions that a model makes of rows of constants, and picks from: made
    again of the rows that it picked, as these are unlike all rows. Queries are in place of samples
    then, as in scores."""
    node, steps, rows = bias.node, [], None
    while node not in trace.numbers:
        if node.rule not in BY_ROWS or not node.inputs:
            return bias
        if node in trace.picked:
            rows = trace.picked[node]
        elif node.rule != "view":
            steps.append(node)
        node = node.inputs[0]
    numbers, places = trace.numbers[node], tuple(map(layouts.size, bias.layout[-2:]))
    if rows is None or math.prod(places) != rows.size or numbers.ndim < 2:
        return bias
    units = numbers.shape[-1]
    table = numbers.reshape(-1, units)[rows.astype(int)].reshape(*places, units)
    roles = (SAMPLE, POSITION, UNIT)
    own: Layout = tuple(((role, n),) for role, n in zip(roles, table.shape, strict=True))
    moments = measured(table, own)
    made = trace.tape.record("given", (), own, moments=moments, phrase=CONSTANT)
    for step in reversed(steps):
        if step.rule == "linear":
            step.facts["observed"] = True
            own = (*own[:2], ((UNIT, layouts.count(step.layout)[UNIT]),))
            made = trace.tape.record("portion", (made, step.inputs[0], step, *step.inputs[1:]), own)
        else:
            made = trace.tape.record(step.rule, (made,), own, **step.facts)
            made.weight = step.weight
    return Signal(made, bias.layout)
