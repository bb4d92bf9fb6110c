"""What a model did with its signals, step by step: what a tracer records and all else reads."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gainreg.signals.layout import POSITION, Layout, count, size
from gainreg.signals.state import Moments

# What a report calls a tensor that is no signal and no parameter, where a signal meets it.
CONSTANT = "a constant"


class Use(NamedTuple):
    """How a weight is used: two uses that are equal are one linear map.

    Attributes:
        names: the parameters that it is, or was computed from.
        start: where its numbers begin in a parameter: those of another start are others.
        form: the view of them, and the operation.
    """

    names: tuple[str, ...]
    start: Hashable
    form: Hashable


@dataclass(eq=False)
class Node:
    """One operation on signals, and its output.

    Attributes:
        id: its place on the tape.
        rule: the name of the rule in gainreg.signals.rules.
        inputs: the nodes whose outputs it takes.
        layout: of its output.
        facts: what the rule needs to know beside the states.
        weight: the parameter that it multiplies by, if it does: a weight, a table or a scale.
        variance: of the weight where that is no parameter that could be set.
        bias: the parameter that is added along with it.
        use: of a linear map, how its weight is used.
        moments: of the output, where that is made of data alone and was measured.
    """

    id: int
    rule: str
    inputs: tuple[Node, ...]
    layout: Layout
    facts: dict[str, Any] = field(default_factory=dict)
    weight: str = ""
    variance: float | None = None
    bias: str = ""
    use: Use | None = None
    moments: Moments | None = None

    @functools.cached_property
    def size(self) -> int:
        """Number of elements of the output."""
        return math.prod(size(axis) for axis in self.layout)

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """Numbers of elements of the inputs."""
        return tuple(node.size for node in self.inputs)

    @property
    def positions(self) -> int:
        """Number of positions of the output."""
        return count(self.layout)[POSITION]

    @property
    def input_positions(self) -> tuple[int, ...]:
        """Numbers of positions of the inputs."""
        return tuple(node.positions for node in self.inputs)

    @property
    def weighs(self) -> bool:
        """Whether it is an operation with a weight or a table."""
        return self.rule in ("linear", "embedding")


@dataclass(frozen=True)
class Parameter:
    """A parameter of the model.

    Attributes:
        mean, square: mean and mean square of its elements; None on the meta device.
        shape: of it.
        dtype: the framework's type of its elements; None where nothing is asked of it.
    """

    name: str
    shape: tuple[int, ...]
    mean: float | None
    square: float | None
    dtype: Any = None


class Tape:
    """Nodes in the order of execution, the parameters, which nodes are the model's output, and the
    mean products of inputs that depend on each other; and along which axes, counted from the last,
    a signal had its positions where it first met more."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.outputs: list[Node] = []
        self.places: dict[Hashable, tuple[int, ...]] = {}
        self.parameters: dict[str, Parameter] = {}
        self.aliases: dict[str, str] = {}
        self.kept: dict[str, str] = {}
        self.warnings: list[str] = []
        self.products: dict[Node, dict[Node, float]] = {}

    def record(self, rule: str, inputs: Sequence[Node], layout: Layout, **facts: Any) -> Node:
        """Add a step."""
        node = Node(len(self.nodes), rule, tuple(inputs), layout, facts)
        self.nodes.append(node)
        return node

    def keep(self, name: str, reason: str) -> None:
        """Note why a parameter stays as it is, if nothing was said before."""
        self.kept.setdefault(name, reason)

    def warn(self, sentence: str) -> None:
        """Note a sentence for the report, once."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def prune(self) -> None:
        """Drop what neither an output nor a weight depends on, as the steps of a written-out norm
        that was recognised as one."""
        wanted = {*self.outputs, *(node for node in self.nodes if node.weighs)}
        for node in reversed(self.nodes):
            if node in wanted:
                wanted.update(node.inputs)
        self.nodes = [node for node in self.nodes if node in wanted]
        for place, node in enumerate(self.nodes):
            node.id = place
