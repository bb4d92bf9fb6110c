"""What a tracer records with, in any framework: what each tensor is, and the steps of the tape.

Every tensor is one of

- a ``Signal``: an output of a node of the tape, with its layout,
- a ``Weight``: a parameter, or a view or cast of one,
- ``Computed`` from parameters, as standardised weights are,
- ``Tokens``: whole numbers that the model was given, or a part of them,
- a ``Mask``: what dropout multiplies by,
- a ``Constant`` of which something is known though it has no values,
- none of these: a constant, whose values are looked at when a signal meets it.

A framework's tracer is a ``Trace`` that knows its tensors, a loop and a registry of rules; a rule
says in its framework's terms which function of operations/ an operation is, or which rule of
rules/ it records.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, MutableMapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from gainreg.errors import ParameterError
from gainreg.signals import layout as layouts
from gainreg.signals.functions import FloatArray, Operation
from gainreg.signals.layout import POSITION, UNIT, Layout
from gainreg.signals.signal import Signal, record, together
from gainreg.signals.state import Moments, mean_products
from gainreg.signals.tape import CONSTANT, Node, Parameter, Tape, Use

# A value below this, added to attention's scores, is a mask: Swin's is −100, and e^{−50} of the
# weight is none.
MASKED = -50.0

# So many standard deviations of a mean of independent products, which the correlation of two inputs
# is taken for: one of two million pairs of independent ones is beyond.
CHANCE = 5.0

WITHOUT_VALUES = (
    "parameters that are kept have no values, as on the meta device: scales count as 1, and all "
    "that is added as 0"
)


@dataclass(frozen=True)
class Weight:
    """A parameter, or a view of one."""

    name: str


@dataclass(frozen=True)
class Computed:
    """What was computed from parameters."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Tokens:
    """Whole numbers from the model's inputs."""


@dataclass(frozen=True)
class Mask:
    """Zeros, and with probability ``keep`` the number ``factor``."""

    keep: float
    factor: float = 1.0


@dataclass(frozen=True)
class Constant:
    """Mean and mean square of what has no values, or the lower triangle of a mask."""

    mean: float = 0.0
    square: float = 1.0
    triangular: bool = False


@dataclass(frozen=True)
class Recipe:
    """How a signal was made, its parts being one: what softmax is recognised by.

    ``axes`` are those that a mean is taken over.
    """

    rule: str
    inputs: tuple[Signal, ...]
    facts: dict[str, Any]
    axes: tuple[int, ...] = ()


Entry = Signal | Weight | Computed | Tokens | Mask | Constant | None

Rule = Callable[..., Any]


class NotUnderstoodError(Exception):
    """Raised by a rule for a form of its operation that it has no answer to."""


class Trace(ABC):
    """The tape of one run, and what each tensor is: what rules work with.

    Attributes:
        rules: the framework's, by operation, and whether they are asked alone: also where no signal
            is among the operands, but a parameter or the like.
        sources: the operations whose rules are asked even where nothing is known of any operand.
        tape: what was recorded.
        operation, outputs: the operation at hand, and the tensors that it returned.
        call: the key of its rule, and what the rule takes.
        recipes: how the output of each step was made.
        inputs: the model's inputs, by the steps that stand for them.
        numbers: those of what is no parameter, by the steps that stand for it.
        picked: which rows of a table a step took, where that is known.
        weighed: called whenever a weight was used, with the node, its input and its output, and
            how many elements the input has without padding.
        shifted: called where a bias comes after a weight, with the weight's node and what its
            output is then.
    """

    rules: dict[Any, tuple[Rule, bool]]
    sources: Set[Any]

    def __init__(
        self, parameters: Iterable[tuple[str, Any]], entries: MutableMapping[Any, Entry]
    ) -> None:
        self.tape = Tape()
        self.outputs: list[Any] = []
        self.operation: Any = None
        self.call: Any = None
        self.weighed: Callable[[Node, Any, Any, int], None] = lambda *_: None
        self.shifted: Callable[[Node, Any], None] = lambda *_: None
        self.recipes: dict[Node, Recipe] = {}
        self.inputs: dict[Node, Any] = {}
        self.numbers: dict[Node, FloatArray] = {}
        self.picked: dict[Node, FloatArray] = {}
        self._entries = entries
        self._constants: dict[Any, tuple[Node, Any]] = {}
        for name, parameter in parameters:
            known = self.entry(parameter)
            if isinstance(known, Weight):
                self.tape.aliases[name] = known.name
                continue
            mean, square = self.statistic(parameter)
            shape = tuple(parameter.shape)
            self.tape.parameters[name] = Parameter(name, shape, mean, square, parameter.dtype)
            self._entries[parameter] = Weight(name)

    @classmethod
    def ruled(cls, operations: Sequence[Any], alone: bool) -> Callable[[Rule], Rule]:
        """A decorator of the rule for some operations."""

        def register(function: Rule) -> Rule:
            cls.rules.update(dict.fromkeys(operations, (function, alone)))
            return function

        return register

    # --- what the framework knows of its tensors ---

    @abstractmethod
    def is_tensor(self, x: Any) -> bool:
        """Whether it is a tensor of the framework, and no number."""

    @abstractmethod
    def is_real(self, tensor: Any) -> bool:
        """Whether a tensor holds floating-point or complex numbers."""

    @abstractmethod
    def values(self, tensor: Any) -> FloatArray | None:
        """A tensor's numbers, as doubles; None where it has none."""

    @abstractmethod
    def statistic(self, tensor: Any) -> tuple[float, float] | tuple[None, None]:
        """Mean and mean square of a tensor's numbers; None where it has none."""

    @abstractmethod
    def view(self, weight: Any) -> tuple[Hashable, Hashable]:
        """Where in a parameter a weight's numbers begin, as far as that is known, and what view of
        them it is."""

    @abstractmethod
    def unruled(self, key: Any, tensors: Sequence[Any], args: Any, kwargs: Any) -> Entry:
        """What the output is of an operation that has no rule, where it is elementwise.

        Raises:
            NotUnderstoodError: it is not.
        """

    @abstractmethod
    def function(self, operation: Any, others: tuple[Any, ...], keywords: Any) -> Operation:
        """An elementwise operation as a function on arrays of doubles; ``others`` are its
        arguments, with ``...`` where a tensor was."""

    # --- what a tensor is ---

    def entry(self, tensor: Any) -> Entry:
        """What is known of a tensor."""
        return self._entries.get(tensor) if self.is_tensor(tensor) else None

    def set(self, tensor: Any, entry: Entry) -> None:
        """Say what a tensor is from now on."""
        if entry is not None:
            self._entries[tensor] = entry
        elif tensor in self._entries:
            del self._entries[tensor]

    def is_signal(self, tensor: Any) -> bool:
        """Whether a tensor carries a signal."""
        return isinstance(self.entry(tensor), Signal)

    def is_weight(self, tensor: Any) -> bool:
        """Whether a tensor is a parameter or was computed from some."""
        return isinstance(self.entry(tensor), (Weight, Computed))

    def signal(self, tensor: Any, like: Layout | None = None) -> Signal:
        """The signal that a tensor carries; of a parameter or constant, with its own moments.

        Args:
            tensor: it.
            like: the layout of what it is broadcast against.
        """
        entry = self.entry(tensor)
        if isinstance(entry, Signal):
            return entry
        own = aligned(tensor.shape, like)
        moments, note, numbers = self._moments(tensor, entry, own)
        # one constant is one variable, wherever it is used: that of the same numbers or, where
        # there are none, the same tensor, which is kept, so that no other one gets its id
        key = own, names(entry), id(tensor) if numbers is None else hash(numbers.tobytes())
        if key not in self._constants or isinstance(entry, (Weight, Constant)):
            phrase = entry.name if isinstance(entry, Weight) else CONSTANT
            node = self.tape.record("given", (), own, moments=moments, phrase=phrase, note=note)
            self._constants[key] = node, tensor if numbers is None else None
            if entry is None and numbers is not None:
                self.numbers[node] = numbers
        for name in names(entry):
            self.tape.keep(name, "a parameter that signals meet: kept as it is")
        made = Signal(self._constants[key][0], own)
        if isinstance(entry, Constant):
            self.set(tensor, made)
        return made

    def _moments(
        self, tensor: Any, entry: Entry, own: Layout
    ) -> tuple[Moments, str, FloatArray | None]:
        """The moments of what is no signal, what is to be said of them, and its numbers."""
        if isinstance(entry, Constant):
            return Moments(entry.mean, entry.square, entry.square, entry.square), "", None
        numbers = self.values(tensor)
        if numbers is not None:
            left = np.where(numbers < MASKED, 0.0, numbers)
            return measured(left, own), "", numbers
        if isinstance(entry, (Weight, Computed)):
            self.tape.warn(WITHOUT_VALUES)
            return Moments(0.0, 0.0, 0.0, 0.0), "", None
        note = "a constant without values, counted as of second moment 1"
        return Moments(0.0, 1.0, 1.0, 1.0), note, None

    def statistics(self, tensor: Any, default: float) -> tuple[float, float]:
        """Mean and mean square of a scale or shift; the default where it is none or on meta."""
        if tensor is None:
            return default, default**2
        for name in names(self.entry(tensor)):
            self.tape.keep(name, "the scale or shift of a norm: kept as it is")
        mean, square = self.statistic(tensor)
        if mean is None or square is None:
            return default, default**2
        return mean, square

    # --- what an operation does ---

    def answer(
        self, key: Any, name: str, tensors: Sequence[Any], args: Any, kwargs: Any
    ) -> tuple[Entry, ...]:
        """What the outputs of the operation at hand are, from what its inputs were.

        Args:
            key, name: what its rule is found by, and what sentences call it.
            tensors: its inputs.
            args, kwargs: what its rule takes.
        """
        self.call = key, args, kwargs
        nothing = (None,) * len(self.outputs)
        known = key in self.sources or any(self.entry(tensor) is not None for tensor in tensors)
        if not self.outputs or not known:
            return nothing
        found: Any
        rule, alone = self.rules.get(key, (None, False))
        try:
            if not alone and not any(map(self.is_signal, tensors)):
                found = self.without_signal(*tensors)
            elif rule is None:
                found = self.unruled(key, tensors, args, kwargs)
            else:
                found = rule(self, *args, **kwargs)
        except NotUnderstoodError:
            found = self.not_understood(name, tensors)
        found = found if isinstance(found, tuple) else (found,)
        if any(map(self.is_signal, tensors)) and all(map(self._is_data, tensors)):
            for tensor, entry in zip(self.outputs, found, strict=False):
                self._measure(tensor, entry)
        return (*found, *nothing[len(found) :])

    def _is_data(self, tensor: Any) -> bool:
        """Whether it is an input, a constant, or made of such: no parameter has met it."""
        entry = self.entry(tensor)
        return entry is None or (isinstance(entry, Signal) and entry.node in self.inputs)

    def _measure(self, tensor: Any, entry: Entry) -> None:
        """Note the moments of what is made of data alone, whatever its rule makes of them."""
        if isinstance(entry, Signal) and entry.node not in self.inputs:
            node, numbers = entry.node, self.values(tensor)
            if numbers is not None and np.isfinite(numbers).all() and numbers.size == node.size:
                node.moments = measured(numbers, entry.layout)
                self.inputs[node] = tensor

    def record(
        self,
        rule: str,
        inputs: Sequence[Signal],
        layout: Layout | None = None,
        weight: str = "",
        **facts: Any,
    ) -> Signal:
        """A step of the tape: a rule of gainreg.signals.rules, and the facts that it takes."""
        if layout is None:
            layout = layouts.fitted(inputs[0].layout, self.outputs[0].shape)
        made = record(self.tape, rule, inputs, layout, weight, **facts)
        self.recipes[made.node] = Recipe(rule, tuple(inputs), facts)
        return made

    def made_by(self, rule: str, node: Node) -> Recipe | None:
        """How a step's output was made, if it was made by that rule."""
        recipe = self.recipes.get(node)
        return recipe if recipe is not None and recipe.rule == rule else None

    def forget(self, since: int) -> None:
        """Take back all steps from that number on."""
        gone = set(self.tape.nodes[since:])
        del self.tape.nodes[since:]
        known = self._constants.items()
        self._constants = {key: found for key, found in known if found[0] not in gone}

    def elementwise(self, operation: Any, *arguments: Any, **keywords: Any) -> Signal:
        """An operation on each element of tensors that broadcast against each other."""
        others = tuple(... if self.is_tensor(x) else x for x in arguments)
        layout, signals = self.broadcast(*filter(self.is_tensor, arguments))
        function = self.function(operation, others, keywords)
        made = self.record("elementwise", signals, layout, operation=function)
        rows = signals[0].rows if len(signals) == 1 else None
        if rows is None or function.call(np.array([-np.inf]))[0] != 0:
            return made
        keep = sum(n * share for n, share in rows.counts) / layouts.size(layout[-1])
        return record(self.tape, "dropout", [made], layout, keep=keep, factor=1.0)

    def like(self, *tensors: Any) -> Layout:
        """The output's layout where tensors broadcast to it: what they had before they were
        expanded counts first."""
        known = [entry for entry in map(self.entry, tensors) if isinstance(entry, Signal)]
        before = [entry.narrow.layout for entry in known if entry.narrow]
        return layouts.broadcast([*before, *(it.layout for it in known)], self.outputs[0].shape)

    def broadcast(self, *tensors: Any) -> tuple[Layout, list[Signal]]:
        """The output's layout, and the signals of tensors that broadcast to it."""
        like = self.like(*tensors)
        return like, together(self.tape, [self.signal(it, like) for it in tensors], like)

    def without_signal(self, *tensors: Any) -> Entry:
        """What is made of tensors that are no signals."""
        known = [self.entry(tensor) for tensor in tensors]
        found = tuple(name for entry in known for name in names(entry))
        if found:
            return Computed(found)
        if any(isinstance(entry, Constant) and entry.triangular for entry in known):
            return Constant(triangular=True)
        return None

    def not_understood(self, operation: str, tensors: Sequence[Any]) -> Signal | None:
        """Pass a signal on, and say so."""
        out = self.outputs[0] if self.outputs else None
        signals = [self.signal(t) for t in tensors if self.is_signal(t)]
        for tensor in tensors:
            for name in names(self.entry(tensor)):
                self.tape.keep(name, f"used by {operation}, which is not understood")
        if out is None or not signals or not self.is_real(out):
            return None
        self.tape.warn(f"{operation} is not understood: its output is taken for its input")
        largest = max(signals, key=lambda signal: signal.node.size)
        if tuple(map(layouts.size, largest.layout)) == tuple(out.shape):
            layout = largest.layout
        else:
            layout = layouts.of_input(out.shape)
        return self.record("passed", signals, layout, operation=operation)

    def describe_input(self, tensor: Any, own: Layout | None = None) -> None:
        """Say that a tensor is one of the model's inputs, maybe again."""
        if self.is_signal(tensor):
            return
        if not self.is_real(tensor):
            self.set(tensor, Tokens())
            return
        own = layouts.of_input(tensor.shape) if own is None else own
        numbers = self.values(tensor)
        if numbers is not None and not np.isfinite(numbers).all():
            raise ParameterError("the example inputs hold NaN or infinities; give finite numbers")
        moments = Moments(0.0, 1.0, 0.0, 0.0) if numbers is None else measured(numbers, own)
        signal = self.record("given", (), own, moments=moments, phrase="data")
        if numbers is not None:
            self.tape.products[signal.node] = self._with_others(numbers)
        self.inputs[signal.node] = tensor
        self.set(tensor, signal)

    def use(self, weight: Any) -> Use:
        """How the operation at hand uses a weight."""

        def plain(x: Any) -> Hashable:
            if self.is_tensor(x):
                return self.is_weight(x)
            return tuple(map(plain, x)) if isinstance(x, (tuple, list)) else repr(x)

        key, args, kwargs = self.call
        start, view = self.view(weight)
        entry = self.entry(weight)
        if not isinstance(entry, Weight):  # computed anew each time, and from what is not followed
            view = object()
        form = view, key, plain(args), plain(list(kwargs.items()))
        return Use(names(entry), start, form)

    def _with_others(self, numbers: FloatArray) -> dict[Node, float]:
        """The mean products with the inputs of the same shape that an input depends on."""
        found = {}
        for node, tensor in self.inputs.items():
            others = self.values(tensor)
            if others is None or others.shape != numbers.shape:
                continue
            product, means = float(np.mean(numbers * others)), numbers.mean() * others.mean()
            by_chance = CHANCE * numbers.std() * others.std() / math.sqrt(numbers.size)
            if abs(product - means) > by_chance:
                found[node] = product
        return found

    def slide(self, signal: Signal, axes: Sequence[int]) -> None:
        """Take what a convolution slides over for positions: an input's axes were a guess."""
        node = signal.node
        numbers = self.values(self.inputs[node]) if node in self.inputs else None
        lengths = [layouts.size(signal.layout[axis]) for axis in axes]
        slid = {(UNIT, n) for n in lengths if n > 1} & {p for axis in node.layout for p in axis}
        if numbers is None or not slid:
            return
        node.layout = tuple(
            tuple((POSITION if part in slid else part[0], part[1]) for part in axis)
            for axis in node.layout
        )
        if node.moments is not None:
            node.moments = measured(numbers, node.layout)
        else:
            node.facts["moments"] = measured(numbers, node.layout)


# --- numbers ---


def measured(numbers: FloatArray, own: Layout) -> Moments:
    """The moments of a tensor with values, its pairs taken along positions and samples.

    Raises:
        ParameterError: it holds NaN or infinities.
    """
    if not numbers.size:
        raise ParameterError("a tensor without elements meets a signal; give larger inputs")
    with np.errstate(over="ignore", invalid="ignore"):
        q, positions, samples, every = mean_products(numbers, own)
    if not math.isfinite(q):
        raise ParameterError("NaN or infinities are among the numbers that the model works on")
    p = layouts.count(own)[POSITION]
    elsewhere = (p * every - samples) / (p - 1) if p > 1 else samples
    return Moments(float(numbers.mean()), q, positions, samples, elsewhere)


def aligned(shape: Sequence[int], like: Layout | None) -> Layout:
    """The layout of a tensor that is broadcast against another of that layout."""
    if like is None:  # what meets no signal has no samples
        parts = [((POSITION, size),) if size > 1 else () for size in shape]
        return (*parts[:-1], ((UNIT, shape[-1]),)) if parts else ()
    own: Layout = tuple(
        layouts.resized(axis, size) if size > 1 else ()
        for axis, size in zip(like[len(like) - len(shape) :], shape, strict=False)
    )
    return own


def names(entry: Entry) -> tuple[str, ...]:
    """The parameters that it is made of."""
    if isinstance(entry, Weight):
        return (entry.name,)
    return entry.names if isinstance(entry, Computed) else ()
