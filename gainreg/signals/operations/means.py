"""Means over axes."""

from __future__ import annotations

from typing import Any

from gainreg.signals import layout as layouts
from gainreg.signals.layout import POSITION, SAMPLE, UNIT, Layout
from gainreg.signals.operations.attending import origin
from gainreg.signals.signal import Signal, each
from gainreg.signals.trace import Recipe, Trace


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
