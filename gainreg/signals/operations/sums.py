"""Sums, products and quotients, and what they turn out to be: biases, masks, means, softmax."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from gainreg.signals import layout as layouts
from gainreg.signals.functions import RECIPROCAL
from gainreg.signals.operations.attending import by_rows, masked, origin, soft
from gainreg.signals.operations.means import averaged, left_to_sum, running_sum
from gainreg.signals.operations.weights import biased
from gainreg.signals.signal import Signal
from gainreg.signals.trace import WITHOUT_VALUES, Constant, Entry, Mask, Trace, Weight


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
        made = biased(trace, a, b) or biased(trace, b, a)
        if made is not None:
            return made
        for mask, scores in ((a, b), (b, a)):
            signal = trace.entry(scores)
            if isinstance(signal, Signal) and (found := masked(trace, mask, signal)):
                return found
    scored = [
        t for t in (a, b) if trace.is_signal(t) and origin(trace.signal(t).node).rule == "scores"
    ]
    if scored and scored[0] is b:
        a, b, j, k = b, a, k, j  # whose axes are queries and keys, and not a table's
    layout, signals = trace.broadcast(a, b)
    if (j, k) == (1.0, -1.0) and (rest := left_to_sum(trace, *signals)):
        return rest
    rows = next((signal.rows for signal in signals if signal.rows), None)  # of a masked bias too
    if scored:
        signals = [by_rows(trace, signal) for signal in signals]
    return replace(trace.record("add", signals, layout, factors=(j, k)), rows=rows)


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
    total = trace.made_by("mean", entry.node)
    if total is not None and total.axes and not shift:  # a sum over n, divided by n
        whole, axes = total.inputs[0], list(total.axes)
        made = averaged(trace, whole, axes, False, total.facts["factor"] * factor)
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
    layout, signal = trace.like(x), trace.signal(x)
    entry = trace.entry(other)
    learned = entry.name if isinstance(entry, Weight) else ""
    if learned:
        trace.tape.keep(learned, "a scale: kept as it is")
    if isinstance(entry, Constant):
        mean, square = entry.mean, entry.square
        return trace.record("scale", [signal], layout, learned, mean=mean, square=square)
    numbers = trace.values(other)
    if numbers is None:
        if trace.is_weight(other):
            trace.tape.warn(WITHOUT_VALUES)
            return trace.record("scale", [signal], layout, learned, mean=1.0, square=1.0)
        layout, signals = trace.broadcast(x, other)
        return trace.record("multiply", signals, layout)
    if (total := trace.made_by("mean", signal.node)) and numbers.all():
        n = total.facts["factor"]
        if abs(float((1 / numbers).mean()) / n - 1) < 1e-6:  # sums, by how many lie inside
            return trace.record("mean", total.inputs, layout, **{**total.facts, "factor": 1.0})
    if running := trace.made_by("running sum", signal.node):
        (axis,), whole = running.axes, running.inputs[0]
        n, place = layouts.size(whole.layout[axis]), axis - len(whole.layout)
        if numbers.size == n and -place <= numbers.ndim and numbers.shape[place] == n:
            return running_sum(trace, whole, axis, weights=numbers.ravel().tolist())
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
