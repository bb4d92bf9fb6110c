"""Interpolations: x + s·(y − x), with a number, parameter or gate s, made the sum (1 − s)·x + s·y
that it is.

Forward both are one linear combination, or with a gate a product that x meets again. Backward x
would get what comes by either term as if that were independent of the other, (1 + s²)·g in place of
(1 − s)²·g: through each of a stream of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from gainreg.signals.tape import Node, Tape


class _Change(NamedTuple):
    """What is added to x: s·(k·y + j·x), with s a number or a parameter, maybe times a gate.

    Attributes:
        y, j, k, gate: these; no gate is None.
        weight: the parameter's name, if there is one.
        mean, square, positions: E[s], E[s²], and E[s·s′] across positions.
    """

    y: Node
    j: float
    k: float
    gate: Node | None
    weight: str
    mean: float
    square: float
    positions: float


def write_as_sums(tape: Tape) -> None:
    """Write every interpolation as a sum of its two ends."""
    nodes: list[Node] = []
    for node in tape.nodes:
        nodes += [*_ends(node), node]
    if len(nodes) > len(tape.nodes):
        tape.nodes = nodes
        tape.prune()


def _ends(node: Node) -> list[Node]:
    """The steps that make the two ends of a sum that is an interpolation, which is made the sum of
    the last two of them; none if it is not."""
    if node.rule != "add" or len(node.inputs) != 2:
        return []
    (a, b), (j, k) = node.inputs, node.facts["factors"]
    for x, by, changing, of in ((a, j, b, k), (b, k, a, j)):
        change = _change(changing, x)
        if change is None or not x.size == change.y.size == node.size:
            continue
        if change.gate is not None and not math.isclose(change.mean**2, change.square):
            continue
        own = _multiplied(node, x, "", by, of * change.j, change)
        other = _multiplied(node, change.y, change.weight, 0.0, of * change.k, change)
        node.inputs, node.facts = (own[-1], other[-1]), {**node.facts, "factors": (1.0, 1.0)}
        return own + other
    return []


def _change(node: Node, x: Node) -> _Change | None:
    """What a step has to do with x, as a multiple of a sum that x is a term of; None if it is
    nothing of the kind."""
    gate, weight, s = None, "", (1.0, 1.0, 1.0)
    while not node.facts.get("shift"):
        following, facts = node.inputs[:1], node.facts
        if node.rule == "scale":
            square, positions = facts["square"], facts.get("positions")
            own = facts["mean"], square, square if positions is None else positions
        elif node.rule == "add" and len(node.inputs) == 1:
            (factor,) = facts["factors"]
            own = factor, factor**2, factor**2
        elif node.rule == "multiply" and gate is None:
            own, following = (1.0, 1.0, 1.0), tuple(it for it in node.inputs if x in it.inputs)
            if len(following) != 1 or any(it.size != node.size for it in node.inputs):
                return None
            gate = next(it for it in node.inputs if it is not following[0])
        else:
            break
        s = s[0] * own[0], s[1] * own[1], s[2] * own[2]
        weight, (node,) = weight or node.weight, following
    if node.rule != "add" or node.facts.get("shift") or x not in node.inputs:
        return None
    if len(node.inputs) != 2 or node.inputs[0] is node.inputs[1]:
        return None
    i, factors = node.inputs.index(x), node.facts["factors"]
    return _Change(node.inputs[1 - i], factors[i], factors[1 - i], gate, weight, *s)


def _multiplied(
    node: Node, x: Node, weight: str, by: float, of: float, change: _Change
) -> list[Node]:
    """The steps that make x times by + of·s, the last of them that."""
    mean, square, positions = change.mean, change.square, change.positions
    if change.gate is not None:
        facts = {"factors": (of * mean,), "shift": by}
        gate = Node(node.id, "add", (change.gate,), node.layout, facts)
        return [gate, Node(node.id, "multiply", (x, gate), node.layout)]
    both = by**2 + 2 * by * of * mean
    facts = {
        "mean": by + of * mean,
        "square": both + of**2 * square,
        "positions": both + of**2 * positions if positions != square else None,
    }
    return [Node(node.id, "scale", (x,), node.layout, facts, weight)]
