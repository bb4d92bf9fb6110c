"""Norms that a model writes out as means, squares and roots, found on a tape.

Whatever the spelling, a norm of x is a function of x and of means over the same axes, and of
nothing else. So the steps between a mean and what may be its norm are carried out on a few numbers,
and where the result is (x − mean)/√variance, or x/√(mean square), the step is a ``normalise``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from gainreg.signals.functions import FloatArray
from gainreg.signals.layout import POSITION, SAMPLE, UNIT, count
from gainreg.signals.tape import Node, Tape

# A norm is written within so many steps behind its mean that depend on what it is of; Keras's group
# norm takes 11. Those of other parts of a joined signal, which stand between, do not count.
STEPS = 40

# Three groups of numbers of variances 1, 2 and 4, each with a mean of its own: from the first and
# the last follow the factor and epsilon of a norm, and the middle one tells whether it is one.
_GROUPS = np.array(
    [
        [0.3, -1.2, 2.1, 0.4, -0.7, 1.6, -0.1],
        [1.3, 0.2, -1.1, 2.4, 0.9, -0.6, 0.1],
        [-0.2, 1.7, 0.8, -1.4, 0.6, 2.2, -0.9],
    ]
)
_GROUPS = (_GROUPS - _GROUPS.mean(1, keepdims=True)) / _GROUPS.std(1, keepdims=True)
_GROUPS = _GROUPS * np.sqrt([[1.0], [2.0], [4.0]]) + np.array([[0.5], [-0.4], [1.1]])

# What is left between the middle group and a norm that the two others determine. Where epsilon is
# added to the root instead of below it, 1e-3 leaves 2e-4.
CLOSE = 1e-3

# The largest epsilon beside a variance of 1 that is no part of another function.
MOST_EPSILON = 0.1


class _Value(NamedTuple):
    """What a step makes of the groups, and the parameters that were taken for scales of 1 and
    shifts of 0."""

    numbers: FloatArray
    scales: tuple[str, ...] = ()
    shifts: tuple[str, ...] = ()


class _Found(NamedTuple):
    """factor·(x − mean)/√(variance + epsilon), or without the mean."""

    centred: bool
    factor: float
    epsilon: float


def recognise(tape: Tape) -> None:
    """Make every norm that is written out one step, drop what leads nowhere, and say which means
    are signals of their own."""
    found, followers = False, _followers(tape)
    for node in list(tape.nodes):
        if node.rule in ("mean", "deviation") and _averaged(node) is not None:
            for x in _averages_of(node):
                found = _replace(tape, node, x, followers) or found
    if found:
        tape.prune()
    followers = _followers(tape)
    for node in tape.nodes:
        if node.rule == "mean" and _alone(node, tape, followers):
            node.facts["alone"] = True


def _followers(tape: Tape) -> dict[Node, list[Node]]:
    """The steps that take each step's output."""
    followers: dict[Node, list[Node]] = {node: [] for node in tape.nodes}
    for node in tape.nodes:
        for parent in dict.fromkeys(node.inputs):
            followers[parent].append(node)
    return followers


def _alone(mean: Node, tape: Tape, followers: Mapping[Node, list[Node]]) -> bool:
    """Whether a mean goes on as a signal, as a distance does, and not only beside other signals,
    as what these are divided by or what is taken off them."""
    waiting, made = [mean], {mean}
    while waiting:
        node = waiting.pop()
        if node in tape.outputs:
            return True
        for later in followers[node]:
            if later in made:
                continue
            ours = later.size <= mean.size and made.issuperset(
                parent for parent in later.inputs if parent.rule != "given"
            )
            if ours and later.rule in (
                "add",
                "dropout",
                "elementwise",
                "multiply",
                "scale",
                "view",
            ):
                waiting.append(later)
                made.add(later)
            elif later.rule not in ("add", "elementwise", "multiply"):
                return True
    return False


def _averaged(node: Node) -> tuple[int, int, int] | None:
    """Over how many units, positions and samples a step averages; None if not over whole axes."""
    before, after = count(node.inputs[0].layout), count(node.layout)
    sizes = tuple(before[role] // max(1, after[role]) for role in (UNIT, POSITION, SAMPLE))
    if math.prod(sizes) < 2 or math.prod(sizes) * node.size != node.inputs[0].size:
        return None
    return sizes  # type: ignore[return-value]


def _averages_of(node: Node) -> Iterator[Node]:
    """What a mean may be taken of: its input, or that of which its input is the square."""
    squared = node.inputs[0]
    yield squared
    if squared.rule in ("elementwise", "multiply") and len(set(squared.inputs)) == 1:
        yield squared.inputs[0]


def _replace(tape: Tape, mean: Node, x: Node, followers: Mapping[Node, list[Node]]) -> bool:
    """Replace the norms of x that a mean leads to; whether there are any. ``followers`` are the
    steps that take a step's output."""
    over = _averaged(mean)
    assert over is not None
    values = {x: _Value(_GROUPS)}
    norms: list[tuple[Node, _Value, _Found]] = []
    waiting, steps = {node.id: node for node in followers[x]}, 0
    while waiting and steps < STEPS:
        node = waiting.pop(min(waiting))
        steps += node.id > mean.id
        value = _value(tape, node, x, values, over)
        if value is None:
            continue
        values[node] = value
        waiting.update((later.id, later) for later in followers[node])
        fits = node.size == x.size and node.rule in ("multiply", "add", "scale", "elementwise")
        norm = _norm(value) if fits and mean in values else None
        if norm is not None:
            norms.append((node, value, norm))
    for node, value, norm in norms:
        _become(tape, node, x, value, norm, over)
    return bool(norms)


def _value(
    tape: Tape, node: Node, x: Node, values: dict[Node, _Value], over: tuple[int, int, int]
) -> _Value | None:
    """What a step makes of x's groups; None if it depends on anything else."""
    known = [values.get(parent) for parent in node.inputs]
    if not any(known):
        return None
    for i, parent in enumerate(node.inputs):
        if known[i] is None and (shift := _shift(tape, parent, x, over)):
            known[i] = _Value(np.zeros((3, 1)), (), (shift,))
    given = [value for value in known if value is not None]
    if len(given) < len(known):
        return None
    numbers = [value.numbers for value in given]
    scales = dict.fromkeys(scale for value in given for scale in value.scales)
    facts = node.facts
    with np.errstate(all="ignore"):
        if node.rule == "add":
            made = sum(k * v for k, v in zip(facts["factors"], numbers, strict=True))
            made = made + facts.get("shift", 0.0)
        elif node.rule == "multiply":
            made = numbers[0] * numbers[1]
        elif node.rule == "elementwise":
            made = _called(facts["operation"], numbers)
        elif node.rule == "view" and numbers[0].shape[1] == 1:  # a number of a group, copied
            made = numbers[0]
        elif node.rule == "scale" and node.weight:
            made, scales = numbers[0], {**scales, node.weight: None}
        elif node.rule == "scale" and math.isclose(facts["mean"] ** 2, facts["square"]):
            made = numbers[0] * facts["mean"]  # one number for all, as the 1 of a norm without γ
        elif node.rule == "mean" and _averaged(node) == over:
            made = numbers[0].mean(1, keepdims=True) * facts.get("factor", 1.0)
        elif node.rule == "deviation" and _averaged(node) == over:
            made = numbers[0].std(1, keepdims=True) ** (1 if facts["root"] else 2)
        else:
            return None
    shifts = dict.fromkeys(shift for value in given for shift in value.shifts)
    return _Value(made, tuple(scales), tuple(shifts))


def _called(operation: Any, numbers: list[FloatArray]) -> FloatArray:
    shape = np.broadcast_shapes(*(v.shape for v in numbers))
    flat = [np.broadcast_to(v, shape).ravel() for v in numbers]
    return np.asarray(operation.call(*flat)).reshape(shape)


def _shift(tape: Tape, node: Node, x: Node, over: tuple[int, int, int]) -> str:
    """The parameter, or "", of which it has a number for each unit, or for each element that a norm
    goes over, as a norm's β or a part of that."""
    source = node
    while source.rule == "view":
        source = source.inputs[0]
    name = str(source.facts.get("phrase")) if source.rule == "given" else ""
    units, positions, samples = over
    most = max(count(x.layout)[UNIT], units * positions if samples == 1 else 0)
    return name if name in tape.parameters and node.size <= most else ""


def _norm(value: _Value) -> _Found | None:
    """The norm that some numbers are of the groups, if they are one."""
    if value.numbers.shape != _GROUPS.shape or len(value.scales) > 1 or len(value.shifts) > 1:
        return None
    for centred in (True, False):
        x = _GROUPS - _GROUPS.mean(1, keepdims=True) if centred else _GROUPS
        size = (x * x).mean(1)
        by = (value.numbers * x).mean(1) / size
        if not (np.all(by > 0) and np.allclose(by[:, None] * x, value.numbers, rtol=0, atol=1e-9)):
            continue
        # 1/by² = (size + epsilon)/factor²
        inverse = 1 / by**2
        slope = (inverse[2] - inverse[0]) / (size[2] - size[0])
        if slope <= 0:
            continue
        epsilon = inverse[0] / slope - size[0]
        if not -CLOSE < epsilon < MOST_EPSILON:
            continue
        if abs((size[1] + epsilon) * slope / inverse[1] - 1) < CLOSE:
            return _Found(centred, float(slope**-0.5), max(0.0, float(epsilon)))
    return None


def _become(
    tape: Tape, node: Node, x: Node, value: _Value, norm: _Found, over: tuple[int, int, int]
) -> None:
    """Let a step be the norm that it amounts to."""
    units, positions, samples = over if norm.centred else (1, 1, 1)
    factor = 1.0 if abs(norm.factor - 1) < 1e-9 else norm.factor
    scale, square = _statistics(tape, value.scales, 1.0)
    shift, shift_square = _statistics(tape, value.shifts, 0.0)
    node.rule, node.inputs, node.weight = "normalise", (x,), ""
    node.facts = {
        "units": units,
        "positions": positions,
        "samples": samples,
        "square": factor**2 * square,
        "scale": factor * scale,
        "shift": shift,
        "shift_square": shift_square,
        "centred": norm.centred,
        "epsilon": norm.epsilon,
        "phrase": _phrase(x, norm, over),
    }


def _statistics(tape: Tape, names: tuple[str, ...], default: float) -> tuple[float, float]:
    """Mean and mean square of the scale or shift, which is kept."""
    for name in names:
        tape.kept[name] = "the scale or shift of a norm: kept as it is"
        mean, square = tape.parameters[name].mean, tape.parameters[name].square
        if mean is not None and square is not None:
            return mean, square
    return default, default**2


def _phrase(x: Node, norm: _Found, over: tuple[int, int, int]) -> str:
    if not norm.centred:
        return "RMS norm"
    units, positions, samples = over
    if samples > 1:
        return "batch norm"
    return "layer norm" if units == count(x.layout)[UNIT] and positions == 1 else "group norm"
