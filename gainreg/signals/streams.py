"""Residual streams, found in the data flow, and the weights that end a branch or the model.

A sum is residual if one side, the branch, has a weight on its way from the other, the skip. Sums
that follow each other along their skips are one stream. Sets of nodes are the bits of whole
numbers: an ancestor's bit is set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from gainreg.signals.tape import CONSTANT, Node, Tape

# What a skip may pass on its way from one residual sum to the next and remain one stream.
CARRIERS = ("view", "elementwise", "dropout", "scale", "maximum", "mean", "blend", "add")
# What a projected skip may pass: images that are linear in the signal.
LINEAR = ("linear", "portion", "view", "normalise", "mean", "blend", "dropout", "scale")


@dataclass(eq=False)
class Residual:
    """A sum of a stream and a branch.

    Attributes:
        node: the sum.
        skip, branch: its two sides.
        last: the weights that the branch ends with.
        tail: what comes between them and the sum, in order.
        start: where its stream begins.
        length: how many sums its stream has.
        normed: whether a norm stands between the last weights and the sum.
        inside: the bits of the nodes between the skip and the sum: the whole branch.
    """

    node: Node
    skip: Node
    branch: Node
    last: list[Node]
    tail: list[Node]
    normed: bool
    inside: int
    start: Node
    length: int


def signals(node: Node) -> tuple[Node, ...]:
    """The inputs that carry a node's signal: not its bias, nor the scores of attention."""
    if node.rule == "linear":
        return node.inputs[:1]
    if node.rule == "portion":
        return node.inputs[2:3]
    if node.rule == "attend":
        return node.inputs[1:2]
    return node.inputs


def residuals(tape: Tape) -> dict[Node, Residual]:
    """The residual sums of a tape, by node."""
    before, weighted = ancestors(tape)
    found: dict[Node, Residual] = {}
    added = Counter(parent for node in tape.nodes if node.rule == "add" for parent in node.inputs)
    data = sum(1 << node.id for node in tape.nodes if is_data(node))
    for node in tape.nodes:
        if node.rule != "add" or len(node.inputs) != 2 or node.inputs[0] is node.inputs[1]:
            continue
        for skip, branch in (node.inputs, node.inputs[::-1]):
            carried = list(_carried(skip, found))
            if carried[-1].facts.get("phrase") == CONSTANT:  # a number that is added everywhere
                continue
            if added[skip] > 1 and not before[skip.id] & data:  # as biases by positions are
                continue
            direct = any(weighted[branch.id] >> point.id & 1 for point in carried)
            if not (direct or _projected(skip, branch, weighted, before)):
                continue
            last, tail, normed = _ending(branch, before[skip.id])
            if not last:
                continue
            inside = _between(skip, branch, before)
            before_it = [found[point] for point in carried if point in found][:1]
            start = before_it[0].start if before_it else skip
            length = 1 + max((residual.length for residual in before_it), default=0)
            found[node] = Residual(node, skip, branch, last, tail, normed, inside, start, length)
            break
    longest = {residual.start: 0 for residual in found.values()}
    for residual in found.values():
        longest[residual.start] = max(longest[residual.start], residual.length)
    for residual in found.values():
        residual.length = longest[residual.start]
    return found


def is_data(node: Node) -> bool:
    """Whether it is one of the model's inputs, or looked up by one."""
    return node.rule == "embedding" or node.facts.get("phrase") == "data"


def ancestors(tape: Tape) -> tuple[list[int], list[int]]:
    """Of each node: all ancestors with itself, and those behind at least one weight."""
    before: list[int] = []
    weighted: list[int] = []
    for node in tape.nodes:
        every, behind = 1 << node.id, 0
        for parent in node.inputs:
            every |= before[parent.id]
            behind |= weighted[parent.id]
        if node.rule == "linear":
            behind |= before[node.inputs[0].id]
        before.append(every)
        weighted.append(behind)
    return before, weighted


def _carried(node: Node, found: dict[Node, Residual]) -> Iterator[Node]:
    """The points that a skip comes from without a weight: itself, and what carries it."""
    while True:
        yield node
        if node in found:
            node = found[node].skip
        elif node.rule in CARRIERS and len(node.inputs) == 1:
            node = node.inputs[0]
        else:
            return


def _between(skip: Node, branch: Node, before: list[int]) -> int:
    """The bits of the branch: it begins where the skip does, so that what has no ancestor in common
    with the skip, an encoder that a decoder looks at, is none of it."""
    outside, found = before[branch.id] & ~before[skip.id], 0
    while outside:
        lowest = outside & -outside
        if before[lowest.bit_length() - 1] & before[skip.id]:
            found |= lowest
        outside ^= lowest
    return found


def _projected(skip: Node, branch: Node, weighted: list[int], before: list[int]) -> bool:
    """Whether the skip is a linear image of what the branch is a function of, not linear."""
    node, has_weight = skip, False
    while node.rule in LINEAR and node.inputs:
        has_weight = has_weight or node.rule in ("linear", "portion")
        node = node.inputs[0]
        if has_weight and weighted[branch.id] >> node.id & 1:
            return not _is_linear_image(branch, node)
    return False


def _is_linear_image(node: Node, of: Node) -> bool:
    while node is not of:
        if node.rule not in LINEAR or not node.inputs:
            return False
        node = node.inputs[0]
    return True


def _ending(branch: Node, outside: int) -> tuple[list[Node], list[Node], bool]:
    """The weights that a branch ends with, what follows them, and whether a norm does."""
    last: list[Node] = []
    tail: list[Node] = []
    normed = False
    open_nodes, seen = [branch], {branch}
    while open_nodes:
        node = open_nodes.pop()
        if outside >> node.id & 1:
            continue
        if node.rule == "linear":
            last.append(node)
            continue
        tail.append(node)
        normed = normed or node.rule == "normalise"
        for parent in signals(node):
            if parent not in seen:
                seen.add(parent)
                open_nodes.append(parent)
    return last, sorted(tail, key=lambda node: node.id), normed


def endings(tape: Tape) -> set[Node]:
    """The weights that no other weight comes after, among those that reach the output."""
    reached = 0
    followed = 0
    for node in reversed(tape.nodes):
        if node in tape.outputs:
            reached |= 1 << node.id
        if reached >> node.id & 1:
            for parent in node.inputs:
                reached |= 1 << parent.id
        if node.rule == "linear" or followed >> node.id & 1:
            for parent in node.inputs:
                followed |= 1 << parent.id
    return {
        node
        for node in tape.nodes
        if node.rule == "linear" and reached >> node.id & 1 and not followed >> node.id & 1
    }
