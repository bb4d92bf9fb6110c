"""What each operation does to a signal, forward and backward: the rows of the design's table.

A rule takes the node (the step of the tape), the states of its inputs and the facts that the
tracer found, and gives the state of its output. ``back`` holds the backward factors: the mean
squared gradient g by an element of an input is the sum, over all uses, of the factor times that
by an element of the output; likewise h, what the gradients at two positions of a sample have in
common. An elementwise function needs no row there: the state knows which root it is a function
of, and its E[f′²].

q is a second moment, m a mean, c a covariance, across positions or across samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gainreg.signals.rules.attention import attend, scores, softmax
from gainreg.signals.rules.elementwise import add, dropout, elementwise, multiply, scale
from gainreg.signals.rules.linear import embedding, linear, portion
from gainreg.signals.rules.moves import concatenate, given, passed, view
from gainreg.signals.rules.opaque import opaque
from gainreg.signals.rules.reductions import blend, deviation, maximum, mean, normalise
from gainreg.signals.rules.step import Back, Step, back
from gainreg.signals.state import State
from gainreg.signals.tape import Node

__all__ = ["RULES", "Back", "Step", "at", "back", "embedding", "linear"]

RULES: dict[str, Callable[..., Step]] = {
    rule.__name__: rule
    for rule in (
        add, attend, blend, concatenate, deviation, dropout, elementwise,
        embedding, given, linear, maximum, mean, multiply, normalise, opaque, passed, portion,
        scale, scores, softmax, view,
    )
}  # fmt: skip


def at(rule: str, node: Node, states: Sequence[State], facts: dict[str, Any]) -> Step:
    """Apply a rule by name."""
    return RULES[rule](node, *states, **facts)
