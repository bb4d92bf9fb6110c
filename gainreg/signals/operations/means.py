"""Means over axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gainreg.signals import layout as layouts
from gainreg.signals.layout import POSITION, SAMPLE, UNIT, Axis, Layout, Mixing
from gainreg.signals.operations.attending import origin
from gainreg.signals.signal import Signal, each
from gainreg.signals.trace import NotUnderstoodError, Recipe, Trace


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


def mixes(over: Sequence[Axis]) -> bool:
    """Whether a map over axes goes over positions alone, or over units alone."""
    return layouts.roles(over) in ({POSITION}, {UNIT}, set())


def blended(
    trace: Trace, signal: Signal, over: Sequence[Axis], mixing: Mixing, layout: Layout
) -> Signal:
    """A known linear map over axes, all of which hold positions, or all units."""
    if not mixes(over):
        raise NotUnderstoodError
    units = POSITION not in layouts.roles(over)
    if not units:
        mixing = mixing.beside(layouts.count(layout)[POSITION] / mixing.outputs)
    return trace.record("blend", [signal.whole], layout, mixing=mixing, units=units)


def running_sum(
    trace: Trace, signal: Signal, axis: int, least: int = 1, weights: Sequence[float] = ()
) -> Signal:
    """Sums of the first elements along an axis: of so many, and one more each; times weights."""
    along = signal.layout[axis]
    mixing = Mixing.running(layouts.size(along), least, weights)
    made = blended(trace, signal, [along], mixing, signal.layout)
    if least and not weights:
        trace.recipes[made.node] = Recipe("running sum", (signal,), {}, (axis,))
    return made


def left_to_sum(trace: Trace, last: Signal, running: Signal) -> Signal | None:
    """The last of running sums less each of them: sums of the elements behind it; None if the two
    signals are nothing of the kind."""
    recipe, node = trace.made_by("running sum", running.node), last.node
    if recipe is None or node.inputs != (running.node,):
        return None
    (axis,), view = recipe.axes, node.facts.get("view")
    n = layouts.size(running.layout[axis])
    if n < 2 or view != ("slice", axis, n - 1, 1, 1):
        return None
    return running_sum(trace, recipe.inputs[0], axis, 0)


def _looked_at(trace: Trace, signal: Signal, size: int, layout: Layout) -> Signal | None:
    """The sum of values times the softmax of as many units, as gates between branches are; None if
    it is something else."""
    product = trace.made_by("multiply", signal.node)
    if product is None:
        return None
    for weights, value in (product.inputs, product.inputs[::-1]):
        node = origin(weights.node)
        if node.rule == "softmax" and node.facts["units"] and node.facts["size"] == size:
            inputs = [weights.whole, value.whole, Signal(node, ()), Signal(node.inputs[0], ())]
            return trace.record("attend", inputs, layout, size=size, units=True)
    return None
