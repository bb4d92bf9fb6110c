"""Interpolations: x + s·(y − x), with a number, parameter or gate s, made the sum (1 − s)·x + s·y
that it is.

Forward both are one linear combination, or with a gate a product that x meets again. Backward x
would get what comes by either term as if that were independent of the other, (1 + s²)·g in place of
(1 − s)²·g: through each of a stream of them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from gainreg.signals.tape import Node, Tape


class _Difference(NamedTuple):
    """s·(k·y + j·x), with the gate and the steps that multiply by s, the sum the last of them."""

    y: Node
    j: float
    k: float
    steps: list[Node]
    gate: Node | None


def part(tape: Tape) -> None:
    """Write every interpolation as a sum of its two ends."""
    nodes: list[Node] = []
    changes: set[Node] = set()
    for node in tape.nodes:
        nodes += _ends(node, changes)
        nodes.append(node)
    if changes:
        kept, wanted = [], set(tape.outputs)
        for node in reversed(nodes):  # what nothing else takes of a change is dropped
            if node not in changes or node in wanted:
                kept.append(node)
                wanted.update(node.inputs)
        tape.nodes = kept[::-1]
        for place, node in enumerate(tape.nodes):
            node.id = place


def _ends(node: Node, changes: set[Node]) -> list[Node]:
    """The two ends that a sum is made to be of; none if it is no interpolation. The steps that it
    had instead are added to ``changes``."""
    if node.rule != "add" or len(node.inputs) != 2:
        return []
    (a, b), (j, k) = node.inputs, node.facts["factors"]
    for x, by, change, of in ((a, j, b, k), (b, k, a, j)):
        found = _difference(change, x)
        if found is None or not x.size == found.y.size == node.size:
            continue
        mean, square, positions = _product(found.steps)
        if found.gate is None:
            weight = next((step.weight for step in found.steps if step.weight), "")
            made = [
                _scaled(node, x, "", by, of * found.j, mean, square, positions),
                _scaled(node, found.y, weight, 0.0, of * found.k, mean, square, positions),
            ]
        elif math.isclose(mean**2, square):
            gates = [
                Node(node.id, "add", (found.gate,), node.layout, {"factors": (k,), "shift": shift})
                for k, shift in ((of * found.j * mean, by), (of * found.k * mean, 0.0))
            ]
            ends = zip((x, found.y), gates, strict=True)
            made = [*gates, *(Node(node.id, "multiply", end, node.layout) for end in ends)]
        else:
            continue
        changes.update(found.steps)
        node.inputs, node.facts = tuple(made[-2:]), {**node.facts, "factors": (1.0, 1.0)}
        return made
    return []


def _difference(node: Node, x: Node) -> _Difference | None:
    """What changes x, as a multiple of a sum that x is a term of; None if it is nothing of the
    kind."""
    steps, gate = [], None
    while not node.facts.get("shift"):
        if len(node.inputs) == 1 and node.rule in ("scale", "add"):
            following = node.inputs[0]
        elif node.rule == "multiply" and gate is None:
            change = [parent for parent in node.inputs if x in parent.inputs]
            if len(change) != 1 or not node.size == node.inputs[0].size == node.inputs[1].size:
                return None
            (following,) = change
            gate = next(parent for parent in node.inputs if parent is not following)
        else:
            break
        steps.append(node)
        node = following
    if node.rule != "add" or node.facts.get("shift") or x not in node.inputs:
        return None
    if len(node.inputs) != 2 or node.inputs[0] is node.inputs[1]:
        return None
    steps.append(node)
    i = node.inputs.index(x)
    factors = node.facts["factors"]
    return _Difference(node.inputs[1 - i], factors[i], factors[1 - i], steps, gate)


def _product(steps: list[Node]) -> tuple[float, float, float]:
    """Of what some steps multiply by: its mean, mean square and mean product across positions."""
    mean, square, positions = [], [], []
    for step in steps[:-1]:
        if step.rule == "multiply":
            continue
        facts: dict[str, Any] = step.facts
        own = facts["mean"] if step.rule == "scale" else facts["factors"][0]
        mean.append(own)
        square.append(facts.get("square", own**2))
        positions.append(square[-1] if facts.get("positions") is None else facts["positions"])
    return math.prod(mean), math.prod(square), math.prod(positions)


def _scaled(node: Node, x: Node, weight: str, by: float, of: float, *of_s: float) -> Node:
    """x times by + of·s."""
    mean, square, positions = of_s
    both = by**2 + 2 * by * of * mean
    facts = {
        "mean": by + of * mean,
        "square": both + of**2 * square,
        "positions": both + of**2 * positions if positions != square else None,
    }
    return Node(node.id, "scale", (x,), node.layout, facts, weight)
