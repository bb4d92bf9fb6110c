"""Weights: sums over what feeds them, their biases, and tables of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from gainreg.signals import layout as layouts
from gainreg.signals.functions import FloatArray
from gainreg.signals.layout import POSITION, SAMPLE, UNIT, Axis, Layout, Mixing, Taps
from gainreg.signals.operations.means import blended, mixes
from gainreg.signals.signal import Signal, map_of, portions
from gainreg.signals.tape import Node
from gainreg.signals.trace import Computed, Entry, Tokens, Trace, Weight, measured, names

# What is said of constants, such as kernels that blur, that are not followed as what they are.
AS_DRAWN = "a map by constants, taken for weights that were drawn with that mean square"


def role(summed_over: Axis) -> str:
    """What a weight's outputs are: positions where it sums over nothing else, as token mixing."""
    return POSITION if {name for name, _ in summed_over} == {POSITION} else UNIT


def shared(summed_over: Axis, layout: Layout) -> float:
    """Of an output's weights, the share that outputs at other positions have too: where a sum goes
    over positions, none if its outputs are positions themselves, or no others are left."""
    alone = role(summed_over) == POSITION or layouts.count(layout)[POSITION] == 1
    return 0.0 if alone and layouts.count([summed_over])[POSITION] > 1 else 1.0


def linear(
    trace: Trace,
    x: Any,
    weight: Any,
    bias: Any,
    layout: Layout,
    *,
    operation: str,
    fan_in: int,
    units: int,
    matrix: Callable[[FloatArray], FloatArray],
    over: Sequence[Axis] = (),
    windows: Sequence[Taps] = (),
    over_last: int = 0,
    **facts: Any,
) -> Signal:
    """Sums of a signal over a weight's inputs.

    Args:
        matrix: makes of the weight's numbers outputs by inputs, or several such.
        over: the axes that are summed over, where that are all.
        windows: of a convolution, how its taps lie in what is not padded yet.
        over_last: so many of x's last axes are summed over, and all others treated apart.
    """
    inputs = [trace.signal(x).inside if windows else trace.signal(x)]
    counts = layouts.count(inputs[0].layout)
    entry = trace.entry(weight)
    if windows:
        facts["taps"], facts["common"] = layouts.inside(windows)
    numbers = None
    if (entry is None or isinstance(entry, Computed)) and "complex" not in str(weight.dtype):
        numbers = trace.values(weight)
    if isinstance(entry, Computed) and numbers is not None and numbers.size:
        facts["together"] = _together(matrix(numbers))
    elif numbers is not None and (units == 1 or not windows) and mixes(over):
        a = matrix(numbers)
        kernel = [axis.kernel for axis in windows]
        mixing = Mixing.sliding(a.reshape(-1, *kernel), windows) if windows else Mixing.of(a)
        made = blended(trace, inputs[0], over, mixing, layout)
        if bias is None:
            return made
        sides = [made, trace.signal(bias, layout)]
        return trace.record("add", sides, layout, factors=(1.0, 1.0))
    if not isinstance(entry, (Weight, Computed)):
        facts["note"] = AS_DRAWN
    if bias is not None:
        inputs.append(trace.signal(bias, layout))
    made = trace.record(
        "linear",
        inputs,
        layout,
        operation=operation,
        fan_in=fan_in,
        **{"taps": 1.0, **facts},
        units=units,
        copies=float(max(1, counts[SAMPLE] * counts[POSITION])),
    )
    node = made.node
    node.use = trace.use(weight)
    if isinstance(entry, Weight):
        node.weight = entry.name
    else:
        square = trace.statistic(weight)[1]
        node.variance = 1 / fan_in if square is None else square
        for name in names(entry):
            trace.tape.keep(name, "the weight is computed from it: kept as it is")
    bias_entry = trace.entry(bias)
    if isinstance(bias_entry, Weight) and node.weight:
        _zero(trace, node, bias_entry.name)
    size = math.prod(map(layouts.size, inputs[0].layout))
    trace.weighed(node, x, trace.outputs[0], size)
    return portions(trace.tape, node, inputs[0], over_last) if over_last else made


def _together(matrix: FloatArray) -> float:
    """What the weights of an output have in common, where they were computed and not just drawn."""
    square = float((matrix**2).sum())
    return float((matrix.sum(-1) ** 2).sum()) / square - 1 if square else 0.0


def biased(trace: Trace, x: Any, bias: Any) -> Signal | None:
    """The output of a weight with a bias that is added in a step of its own, maybe behind a
    change of axes; None if the tensors are nothing of the kind."""
    signal, entry = trace.entry(x), trace.entry(bias)
    if not isinstance(signal, Signal) or not isinstance(entry, Weight):
        return None
    node = map_of(signal.node)
    if node is None or not node.weight or len(node.inputs) > 1:
        return None
    since = trace.tape.nodes[node.id + 1 :]
    if signal.node is not trace.tape.nodes[-1] or any(map_of(later) is not node for later in since):
        return None
    if not _is_bias(bias, signal):
        return None
    given = trace.signal(bias, signal.layout).node
    # the bias comes before what it is added to
    trace.tape.nodes.insert(node.id, trace.tape.nodes.pop())
    for i, later in enumerate(trace.tape.nodes[node.id :], start=node.id):
        later.id = i
    for adding in (node, *(later for later in since if later.rule == "portion")):
        adding.inputs = (*adding.inputs, given)
    _zero(trace, node, entry.name)
    trace.shifted(node, trace.outputs[0])
    return signal


def _is_bias(bias: Any, signal: Signal) -> bool:
    """Whether a parameter that is added to a weight's output has a number for each unit; or,
    where the weight sums over positions, for each along the last axis."""
    axes = signal.layout[len(signal.layout) - len(bias.shape) :]
    along = [i for i, n in enumerate(bias.shape) if n > 1]
    if len(bias.shape) == 1 or along == [len(bias.shape) - 1]:
        return True
    return {layouts.role(axes[i]) for i in along} == {UNIT}


def _zero(trace: Trace, node: Node, name: str) -> None:
    node.bias = name
    trace.tape.kept.pop(name, None)


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
