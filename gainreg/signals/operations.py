"""What an operation is once its framework's spelling is gone: what the rules of every tracer call.

Arguments a, b, x are tensors of the framework, or numbers where that is said; what comes back is
what the output is. A tensor knows its ``shape``; all else is asked of the ``Trace``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gainreg.signals import layout as layouts
from gainreg.signals.functions import RECIPROCAL
from gainreg.signals.layout import POSITION, SAMPLE, UNIT, Axis, Layout
from gainreg.signals.signal import Padded, Signal, each, join, permuted, reshaped, sliced
from gainreg.signals.softmax import Rows, causal, full, left_by
from gainreg.signals.state import Moments
from gainreg.signals.tape import Node
from gainreg.signals.trace import (
    MASKED,
    WITHOUT_VALUES,
    Constant,
    Entry,
    Mask,
    Recipe,
    Tokens,
    Trace,
    Weight,
    measured,
)

# --- weights ---


def role(summed_over: Axis) -> str:
    """What a weight's outputs are: positions where it sums over nothing else, as token mixing."""
    return POSITION if {name for name, _ in summed_over} == {POSITION} else UNIT


def shared(summed_over: Axis, layout: Layout) -> float:
    """Of an output's weights, the share that outputs at other positions have too: where a sum goes
    over positions, none if its outputs are positions themselves, or no others are left."""
    alone = role(summed_over) == POSITION or layouts.count(layout)[POSITION] == 1
    return 0.0 if alone and layouts.count([summed_over])[POSITION] > 1 else 1.0


def looked_up(trace: Trace, weight: Any, indices: Any, rows: Sequence[int], whole: bool) -> Entry:
    """Rows of a table: its own to set by tokens, as it is by anything else, as positions.

    Args:
        weight, indices: the table and which rows of it.
        rows: the shape of the indices; the output has the table's units behind it.
        whole: whether they are the output, and not summed on.
    """
    entry, y = trace.entry(weight), trace.outputs[0]
    if not isinstance(entry, Weight):
        return trace.signal(weight) if isinstance(entry, Signal) else entry
    units = weight.shape[-1]
    by_tokens = isinstance(trace.entry(indices), Tokens)
    layout = _of_rows(rows, units, y.shape, SAMPLE if by_tokens or len(rows) > 1 else POSITION)
    if not by_tokens:
        numbers = trace.values(y)
        if numbers is None:
            return entry
        trace.tape.keep(entry.name, "a position or type embedding: kept as it is")
        moments = measured(numbers, layout)
        return trace.record("given", [], layout, moments=moments, phrase=entry.name)
    made = trace.record("embedding", [], layout, units=units, copies=float(math.prod(rows)))
    made.node.weight = entry.name
    if whole:
        trace.weighed(made.node, y, y, math.prod(y.shape))
    return made


def _of_rows(rows: Sequence[int], units: int, shape: Sequence[int], first: str) -> Layout:
    if len(rows) + 1 != len(shape):
        return layouts.of_input(shape)
    found = ((POSITION if i else first, n) for i, n in enumerate(rows))
    return (*((part,) for part in found), ((UNIT, units),))


# --- sums and products ---


def summed(trace: Trace, a: Any, b: Any, j: float, k: float) -> Entry:
    """j·a + k·b, of tensors and numbers."""
    if not trace.is_tensor(a):
        a, b, j, k = b, a, k, j
    if not trace.is_tensor(b):
        return line(trace, a, j, k * float(b))
    if not any(trace.is_signal(t) for t in (a, b)):
        left, right = trace.entry(a), trace.entry(b)
        if isinstance(left, Constant) and isinstance(right, Constant):  # two draws
            mixed = 2 * j * k * left.mean * right.mean
            square = j**2 * left.square + k**2 * right.square + mixed
            return Constant(j * left.mean + k * right.mean, square)
        return trace.without_signal(a, b)
    if j == k == 1.0:
        biased = trace.biased(a, b) or trace.biased(b, a)
        if biased is not None:
            return biased
        for mask, scores in ((a, b), (b, a)):
            signal = trace.entry(scores)
            if isinstance(signal, Signal) and (found := masked(trace, mask, signal)):
                return found
    layout, signals = trace.broadcast(a, b)
    if any(origin(signal.node).rule == "scores" for signal in signals):
        signals = [by_rows(trace, signal) for signal in signals]
    return trace.record("add", signals, layout, factors=(j, k))


def line(trace: Trace, x: Any, factor: float, shift: float = 0.0) -> Entry:
    """factor·x + shift."""
    entry = trace.entry(x)
    if isinstance(entry, Mask) and not shift:
        return replace(entry, factor=entry.factor * factor)
    if isinstance(entry, Constant) and not entry.triangular:
        square = factor**2 * entry.square + 2 * factor * shift * entry.mean + shift**2
        return Constant(factor * entry.mean + shift, square)
    if not isinstance(entry, Signal):
        return trace.without_signal(x)
    if factor == 1.0 and not shift:
        return entry
    recipe = trace.recipes.get(entry.node)
    if recipe is not None and recipe.axes and not shift:  # a sum over n, divided by n
        whole, axes = recipe.inputs[0], list(recipe.axes)
        made = averaged(trace, whole, axes, False, recipe.facts["factor"] * factor)
        return replace(made, layout=entry.layout)
    made = trace.record("add", [entry], entry.layout, factors=(factor,), shift=shift)
    return replace(made, rows=entry.rows)


def multiplied(trace: Trace, a: Any, b: Any) -> Entry:
    """a·b, of tensors and numbers."""
    if not trace.is_tensor(a):
        a, b = b, a
    if not trace.is_tensor(b):
        return line(trace, a, float(b))
    for x, other in ((a, b), (b, a)):
        entry = trace.entry(other)
        if not trace.is_signal(x):
            continue
        if isinstance(entry, Mask):
            return dropped(trace, x, entry, math.prod(other.shape) == math.prod(x.shape))
        if not isinstance(entry, Signal) and math.prod(other.shape) > 1:
            return scaled(trace, x, other)
    if not any(trace.is_signal(t) for t in (a, b)):
        return trace.without_signal(a, b)
    layout, signals = trace.broadcast(a, b)
    return trace.record("multiply", signals, layout)


def divided(trace: Trace, a: Any, b: Any) -> Entry:
    """a/b, of tensors, b being a signal."""
    layout, (x, y) = trace.broadcast(a, b)
    found = soft(trace, x, y, layout)
    if found is not None:
        return found
    one = trace.record("elementwise", [y], y.layout, operation=RECIPROCAL)
    return trace.record("multiply", [x, one], layout)


def scaled(trace: Trace, x: Any, other: Any) -> Signal:
    """A signal times a parameter or a constant tensor."""
    layout, (signal, _) = trace.broadcast(x, x)
    entry = trace.entry(other)
    learned = entry.name if isinstance(entry, Weight) else ""
    if learned:
        trace.tape.keep(learned, "a scale: kept as it is")
    if isinstance(entry, Constant):
        mean, square = entry.mean, entry.square
        return trace.record("scale", [signal], layout, learned, mean=mean, square=square)
    if trace.values(other) is None:
        if trace.is_weight(other):
            trace.tape.warn(WITHOUT_VALUES)
            return trace.record("scale", [signal], layout, learned, mean=1.0, square=1.0)
        layout, signals = trace.broadcast(x, other)
        return trace.record("multiply", signals, layout)
    _, (_, given) = trace.broadcast(x, other)
    moments = given.node.facts["moments"]
    anew = moments.across_positions < moments.second_moment * 0.999
    return trace.record(
        "scale",
        [signal],
        layout,
        learned,
        mean=moments.mean,
        square=moments.second_moment,
        positions=moments.across_positions if anew else None,
    )


def dropped(trace: Trace, x: Any, mask: Mask, elements: bool) -> Signal:
    """A signal times what dropout drew."""
    return trace.record(
        "dropout", [trace.signal(x)], keep=mask.keep, factor=mask.factor, elements=elements
    )


# --- sums over two signals, masks and softmax ---


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
        common = common_width(keys, known[1])
        inputs = [Signal(it, ()) for it in known]
        units = node.facts["units"] and layouts.role(along) == UNIT
        if known[0] is not weights.node:
            width = node.facts["size"]
        return trace.record("attend", inputs, layout, size=width, common=common, units=units)
    positions = layouts.role(over[0]) == POSITION
    facts: dict[str, Any] = {
        "width": width,
        "positions": positions,
        "keys": layouts.role(layout[-1]) == POSITION,
        "common": common_width(left.node, right.node) if positions else None,
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


def origin(node: Node) -> Node:
    """Where a signal comes from, but for what leaves it what it is."""
    while node.rule in ("view", "dropout", "scale", "add", "concatenate") and node.inputs:
        if node.rule == "add" and len(node.inputs) > 1:  # a sum with a mask or a bias
            signals = [parent for parent in node.inputs if parent.rule != "given"]
            scored = [it for it in map(origin, signals) if it.rule == "scores"]
            if len(signals) != 1 and len(scored) != 1:
                return node
            node = signals[0] if len(signals) == 1 else scored[0]
        else:
            node = node.inputs[0]
    if node.rule == "elementwise" and len(node.inputs) == 1:  # scores may be capped, as by a tanh
        capped = origin(node.inputs[0])
        return capped if capped.rule == "scores" else node
    return node


def common_width(key: Node, value: Node) -> int | None:
    """How many units keys and values are both images of; None if they are not."""
    found = [_image_of(node) for node in (key, value)]
    (a, width), (b, _) = found
    return width if a is not None and a is b else None


# Steps that change no unit into another; multiplied is a key that is divided by its norm.
UNITWISE = ("view", "add", "normalise", "multiply", "scale", "concatenate", "elementwise")


def _image_of(node: Node) -> tuple[Node | None, int]:
    while node.rule in UNITWISE and node.inputs:
        node = node.inputs[0]
    if node.rule == "portion":
        node = node.inputs[2]
    if node.rule != "linear":
        return None, 1
    return node.inputs[0], _directions(node.inputs[0], int(node.facts["units"]))


def _directions(node: Node, most: int) -> int:
    """Along how many directions among its units a signal varies, at most so many: an image of one
    number has one, whatever its width. Position embeddings, which are small, do not count."""
    while node.rule in ("view", "normalise", "scale", "dropout") and node.inputs:
        node = node.inputs[0]
    if node.rule == "linear":
        return _directions(node.inputs[0], min(most, node.facts["fan_in"]))
    if node.rule == "add" and len(node.inputs) > 1:
        found = 0
        for term in reversed(node.inputs):  # a branch that has all comes after its stream
            if term.rule != "given" and found < most:
                found += _directions(term, most)
        return min(most, max(1, found))
    return most


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
    the one before; each part of the queries for itself."""
    queries = queries.apart(len(queries.layout) - 1)
    facts: dict[str, Any] = {
        "width": layouts.size(queries.layout[-1]),
        "factor": factor,
        "size": layouts.size(key.layout[-2]),
        "rows": rows,
        "common": common_width(key.node, value.node),
    }

    def make(part: Signal, own: Layout) -> Signal:
        return trace.record("attention", [part, key, value], own, **facts)

    layout = (*queries.layout[:-1], value.layout[-1])
    return each(trace.tape, queries, layout, queries.axis or 0, make)


# --- means ---


def averaged(trace: Trace, signal: Signal, axes: list[int], keep: bool, factor: float) -> Signal:
    """factor·mean over axes."""
    layout, counts = layouts.reduced(signal.layout, axes, keep)
    if len(axes) == 1 and factor == layouts.size(signal.layout[axes[0]]):
        looked = _looked_at(trace, signal, int(factor), layout)
        if looked is not None:
            return looked
    facts: dict[str, Any] = {
        "units": counts[UNIT],
        "positions": counts[POSITION],
        "samples": counts[SAMPLE],
        "factor": factor,
    }
    source = signal.apart(*axes)
    place = source.axis or 0
    place -= 0 if keep else sum(axis < place for axis in axes)

    def mean(part: Signal, own: Layout) -> Signal:
        return trace.record("mean", [part], own, **facts)

    made = each(trace.tape, source, layout, place, mean)
    trace.recipes[made.node] = Recipe("mean", (signal,), facts, tuple(axes))
    return made


def _looked_at(trace: Trace, signal: Signal, size: int, layout: Layout) -> Signal | None:
    """The sum of values times the softmax of as many units, as gates between branches are; None if
    it is something else."""
    product = trace.recipes.get(signal.node)
    if product is None or product.rule != "multiply":
        return None
    for weights, value in (product.inputs, product.inputs[::-1]):
        node = origin(weights.node)
        if node.rule == "softmax" and node.facts["units"] and node.facts["size"] == size:
            inputs = [weights.whole, value.whole, Signal(node, ()), Signal(node.inputs[0], ())]
            return trace.record("attend", inputs, layout, size=size, units=True)
    return None


# --- softmax, written out ---

# Where an operation is compared with an exponential; to 1e-6, as the constants in it may be
# single-precision ones.
_AT = np.array([-0.6, 0.25, 1.0, 2.5])


def _exponent(trace: Trace, signal: Signal) -> Signal | None:
    """What a signal is the exponential of, by its values; None if it is none."""
    recipe = trace.recipes.get(signal.node)
    if recipe is None or recipe.rule != "elementwise" or len(recipe.inputs) != 1:
        return None
    with np.errstate(all="ignore"):
        found = recipe.facts["operation"].call(_AT.copy())
    return recipe.inputs[0] if np.allclose(found, np.exp(_AT), rtol=1e-6) else None


def soft(trace: Trace, x: Signal, total: Signal, layout: Layout) -> Signal | None:
    """e^s, or some weights of a softmax of s, over its own sum: the softmax of s, or of those
    scores, as routers have it; None if it is something else."""
    sum_of = trace.recipes.get(total.node)
    if sum_of is None or sum_of.rule != "mean" or sum_of.inputs[0].node is not x.node:
        return None
    scores, weights = _exponent(trace, x), origin(x.node)
    if scores is None and weights.rule == "softmax":
        chosen = Signal(weights.inputs[0], weights.inputs[0].layout)
        scores = moved(trace, chosen, tuple(map(layouts.size, x.layout)), x.layout)
    if scores is None:
        return None
    less = trace.recipes.get(scores.node)
    if less is not None and less.rule == "add" and len(less.inputs) == 2:  # less its maximum
        scores = less.inputs[0]
    gone = [
        axis
        for axis, length in enumerate(map(layouts.size, layout))
        if length > 1 and layouts.size(total.layout[axis]) == 1
    ]
    if len(gone) > 1:
        return None
    return softmax(trace, scores, gone[0] if gone else len(layout) - 1, layout)


# --- what only moves numbers ---


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


def expanded(entry: Entry, shape: Sequence[int]) -> Entry:
    """A signal again and again: what is elementwise on it still is."""
    if not isinstance(entry, Signal):
        return entry
    added: Layout = ((),) * (len(shape) - len(entry.layout))
    grown = tuple(
        axis if layouts.size(axis) == size else ((POSITION if i else SAMPLE, size),)
        for i, (axis, size) in enumerate(zip(added + entry.layout, shape, strict=True))
    )
    return replace(entry.whole, layout=grown)


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
    made = trace.tape.record("given", (), own, moments=moments, phrase="a constant")
    for step in reversed(steps):
        if step.rule == "linear":
            step.facts["observed"] = True
            own = (*own[:2], ((UNIT, layouts.count(step.layout)[UNIT]),))
            made = trace.tape.record("portion", (made, step.inputs[0], step, *step.inputs[1:]), own)
        else:
            made = trace.tape.record(step.rule, (made,), own, **step.facts)
            made.weight = step.weight
    return Signal(made, bias.layout)


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


def padded(trace: Trace, x: Any, before: Sequence[int], value: float = 0.0) -> Entry:
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
    return [Signal(trace.tape.record("given", (), own, moments=m, phrase="a constant"), own)]
