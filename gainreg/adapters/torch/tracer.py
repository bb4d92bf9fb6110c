"""Runs a PyTorch model once and records what it does with its signals, operation by operation.

A loop and a registry: ``TorchDispatchMode`` sees every ATen operation, whatever Python wrote it;
rules/ says of each which rule of gainreg.signals applies. Every tensor is one of

- a ``Signal``: an output of a node of the tape, with its layout,
- a ``Weight``: a parameter, or a view or cast of one,
- ``Computed`` from parameters, as standardised weights are,
- ``Tokens``: whole numbers that the model was given, or a part of them,
- a ``Mask``: what dropout multiplies by,
- a ``Constant`` of which something is known on the meta device, where it has no values,
- none of these: a constant, whose values are looked at when a signal meets it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from gainreg.errors import ParameterError
from gainreg.signals import layout as layouts
from gainreg.signals.functions import FloatArray, Operation
from gainreg.signals.layout import POSITION, SAMPLE, Layout
from gainreg.signals.signal import Signal, record, reshaped, settled
from gainreg.signals.state import Moments
from gainreg.signals.tape import Node, Parameter, Tape

# A value below this, added to attention's scores, is a mask: Swin's is −100, and e^{−50} of the
# weight is none.
MASKED = -50.0

# Stands among an operation's arguments where a tensor was.
TENSOR = ...


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
    """On the meta device: mean and mean square, or the lower triangle of a mask."""

    mean: float = 0.0
    square: float = 1.0
    triangular: bool = False


Entry = Signal | Weight | Computed | Tokens | Mask | Constant | None
Rule = Callable[..., Any]

_RULES: dict[Any, Rule] = {}
_ALONE: set[Any] = set()


class NotUnderstoodError(Exception):
    """Raised by a rule for a form of its operation that it has no answer to."""


def rule(*operations: Any, alone: bool = False) -> Callable[[Rule], Rule]:
    """Register a rule for operations, as a user does for a kernel of their own.

    The decorated function takes the ``Trace`` and the operation's own arguments, and returns what
    the output is: most often what a method of the trace gives, such as ``trace.elementwise`` or
    ``trace.signal(x)`` for an operation that leaves sizes as they are; a tuple for several
    outputs; None for what is no signal. It raises ``NotUnderstoodError`` for a form of the
    operation that it has no answer to. With ``alone`` it is also asked where no signal is among
    the operands, but a parameter or the like.

        @rule(torch.ops.mylib.scaled_tanh)
        def _(trace, x, scale):
            return trace.elementwise(torch.ops.mylib.scaled_tanh, x, scale)
    """

    def register(function: Rule) -> Rule:
        for operation in operations:
            packet = getattr(operation, "overloadpacket", operation)
            _RULES[packet] = function
            if alone:
                _ALONE.add(packet)
        return function

    return register


class Trace:
    """The tape of one run, and what each tensor is: what rules work with.

    Attributes:
        tape: what was recorded.
        operation, outputs: the operation at hand, and the tensors that it returned.
        weighed: called whenever a weight was used, with the node, its input and its output, and
            how many elements the input has without padding.
    """

    def __init__(self, model: nn.Module) -> None:
        self.tape = Tape()
        self.outputs: list[Tensor] = []
        self.operation: Any = None
        self.weighed: Callable[[Node, Tensor, Tensor, int], None] = lambda *_: None
        self._entries: Any = WeakIdKeyDictionary()
        self._numbers: dict[Any, Node] = {}
        first: Any = WeakIdKeyDictionary()
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if parameter in first:
                self.tape.aliases[name] = first[parameter]
                continue
            first[parameter] = name
            mean, square = _mean_and_square(parameter)
            shape = tuple(parameter.shape)
            self.tape.parameters[name] = Parameter(name, shape, mean, square)
            self._entries[parameter] = Weight(name)

    # --- what a tensor is ---

    def entry(self, tensor: Any) -> Entry:
        """What is known of a tensor."""
        return self._entries.get(tensor) if isinstance(tensor, Tensor) else None

    def set(self, tensor: Tensor, entry: Entry) -> None:
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

    def signal(self, tensor: Tensor, like: Layout | None = None) -> Signal:
        """The signal that a tensor carries; of a parameter or constant, with its own moments.

        Args:
            tensor: it.
            like: the layout of what it is broadcast against.
        """
        entry = self.entry(tensor)
        if isinstance(entry, Signal):
            return entry
        own = _aligned(tensor.shape, like)
        moments, note = self._moments(tensor, entry, own)
        key = (moments, own, note)
        if key not in self._numbers or isinstance(entry, (Weight, Computed)):
            phrase = entry.name if isinstance(entry, Weight) else "a constant"
            node = self.tape.record(
                "given", (), own, moments=moments, phrase=phrase, note=note, exact=not note
            )
            self._numbers[key] = node
        for name in _names(entry):
            self.tape.keep(name, "a parameter that signals meet: kept as it is")
        return Signal(self._numbers[key], own)

    def _moments(self, tensor: Tensor, entry: Entry, own: Layout) -> tuple[Moments, str]:
        if tensor.device.type == "meta":
            if isinstance(entry, Constant):
                return Moments(entry.mean, entry.square, entry.square, entry.square), ""
            if isinstance(entry, (Weight, Computed)):
                self.tape.warn(
                    "parameters that are kept have no values on the meta device: scales count as "
                    "1, and all that is added as 0"
                )
                return Moments(0.0, 0.0, 0.0, 0.0), ""
            return (
                Moments(0.0, 1.0, 1.0, 1.0),
                "a constant without values on the meta device, counted as of second moment 1",
            )
        return measured(tensor, own), ""

    def statistics(self, tensor: Tensor | None, default: float) -> tuple[float, float]:
        """Mean and mean square of a scale or shift; the default where it is none or on meta."""
        if tensor is None:
            return default, default**2
        for name in _names(self.entry(tensor)):
            self.tape.keep(name, "the scale or shift of a norm: kept as it is")
        mean, square = _mean_and_square(tensor)
        if mean is None or square is None:
            return default, default**2
        return mean, square

    # --- what an operation does ---

    def record(
        self, rule: str, inputs: Sequence[Signal], layout: Layout | None = None,
        weight: str = "", **facts: Any,
    ) -> Signal:  # fmt: skip
        """A step of the tape: a rule of gainreg.signals.rules, and the facts that it takes."""
        if layout is None:
            layout = layouts.fitted(inputs[0].layout, self.outputs[0].shape)
        return record(self.tape, rule, inputs, layout, weight, **facts)

    def elementwise(self, operation: Any, *arguments: Any, **keywords: Any) -> Signal:
        """An operation on each element of tensors that broadcast against each other.

        Its function is the operation itself, run in double precision.
        """
        like = self._broadcast(arguments, self.outputs[0].shape)
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        others = [TENSOR if isinstance(argument, Tensor) else argument for argument in arguments]
        signals = [self.signal(tensor, like) for tensor in tensors]
        function = _operation(operation, tuple(others), keywords)
        return self.record("elementwise", signals, like, operation=function)

    def operation_of(self, operation: Any, *others: Any) -> Operation:
        """An operation of one tensor and such other arguments, as a function on arrays."""
        return _operation(operation, (TENSOR, *others), {})

    def broadcast(self, *tensors: Any) -> tuple[Layout, list[Signal]]:
        """The output's layout, and the signals of tensors that broadcast to it."""
        like = self._broadcast(tensors, self.outputs[0].shape)
        return like, [self.signal(tensor, like) for tensor in tensors]

    def _broadcast(self, arguments: Sequence[Any], shape: Sequence[int]) -> Layout:
        known = [entry.layout for entry in map(self.entry, arguments) if isinstance(entry, Signal)]
        return layouts.broadcast(known, shape)

    def linear(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        layout: Layout,
        *,
        operation: str,
        fan_in: int,
        units: int,
        taps: float = 1.0,
        inside: Signal | None = None,
        over_last: bool = False,
        **facts: Any,
    ) -> Signal:
        """Sums of a signal over a weight's inputs; of ``inside`` where x is that, padded.

        ``over_last`` says that the sums go over x's last axis and treat all others apart.
        """
        inputs = [settled(self.tape, self.signal(x) if inside is None else inside)]
        counts = layouts.count(inputs[0].layout)
        if bias is not None:
            inputs.append(self.signal(bias, layout))
        made = self.record(
            "linear",
            inputs,
            layout,
            operation=operation,
            fan_in=fan_in,
            taps=taps,
            units=units,
            copies=float(max(1, counts[SAMPLE] * counts[POSITION])),
            **facts,
        )
        node, entry = made.node, self.entry(weight)
        joint = inputs[0].joint
        if over_last and joint is not None:
            rows = math.prod(map(layouts.size, layout[:-1]))
            if rows % (joint.before * sum(joint.lengths)) == 0:
                self.tape.fed[node] = inputs[0]
        if isinstance(entry, Weight):
            node.weight = entry.name
        else:
            square = _mean_and_square(weight)[1]
            node.variance = 1 / fan_in if square is None else square
            for name in _names(entry):
                self.tape.keep(name, "the weight is computed from it: kept as it is")
        bias_entry = self.entry(bias)
        if isinstance(bias_entry, Weight) and node.weight:
            self._zero(node, bias_entry.name)
        size = x.numel() if inside is None else inside.node.size
        self.weighed(node, x, self.outputs[0], size)
        return made

    def biased(self, x: Tensor, bias: Tensor) -> Signal | None:
        """The output of a weight with a bias that is added in a step of its own; None if the
        tensors are nothing of the kind."""
        signal, entry = self.entry(x), self.entry(bias)
        if not isinstance(signal, Signal) or not isinstance(entry, Weight):
            return None
        node = signal.node
        is_last = self.tape.nodes[-1] is node
        if node.rule != "linear" or not node.weight or node.bias or len(node.inputs) > 1:
            return None
        if not is_last or bias.numel() != bias.shape[-1] or bias.dim() > 1:
            return None
        given = self.signal(bias, signal.layout).node
        # the bias comes before what it is added to
        given.id, node.id = node.id, given.id
        self.tape.nodes[-2:] = [given, node]
        node.inputs = (*node.inputs, given)
        self._zero(node, entry.name)
        return signal

    def _zero(self, node: Node, name: str) -> None:
        node.bias = name
        self.tape.kept.pop(name, None)

    def not_understood(self, operation: str, tensors: Sequence[Tensor]) -> Signal | None:
        """Pass a signal on, and say so."""
        out = self.outputs[0] if self.outputs else None
        signals = [self.signal(t) for t in tensors if self.is_signal(t)]
        for tensor in tensors:
            for name in _names(self.entry(tensor)):
                self.tape.keep(name, f"used by {operation}, which is not understood")
        if out is None or not signals or not (out.is_floating_point() or out.is_complex()):
            return None
        self.tape.warn(f"{operation} is not understood: its output is taken for its input")
        largest = max(signals, key=lambda signal: signal.node.size)
        if tuple(map(layouts.size, largest.layout)) == tuple(out.shape):
            layout = largest.layout
        else:
            layout = layouts.of_input(out.shape)
        return self.record("passed", signals, layout, operation=operation)

    # --- the loop ---

    def follow(self, operation: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Say what an operation's outputs are, from what its inputs were."""
        tensors = list(tensors_in((args, kwargs)))
        out = list(tensors_in(result))
        known = [self.entry(tensor) for tensor in tensors]
        packet, mutates = _functional(operation)
        ruled = _RULES.get(packet)
        if not any(entry is not None for entry in known) and packet not in _SOURCES:
            for tensor in out if mutates else ():
                self.set(tensor, None)
            return
        self.operation, self.outputs = operation, out
        entries: Any
        has_signal = any(isinstance(entry, Signal) for entry in known)
        if not has_signal and packet not in _ALONE:
            entries = self.without_signal(*tensors)
        else:
            entries = self._apply(packet, operation, ruled, args, kwargs, tensors)
        if not isinstance(entries, tuple):
            entries = (entries,) * min(1, len(out)) + (None,) * (len(out) - 1)
        for tensor, entry in zip(out, entries, strict=False):
            self._write(tensor, entry) if mutates else self.set(tensor, entry)

    def _apply(
        self, packet: Any, operation: Any, ruled: Rule | None, args: Any, kwargs: Any,
        tensors: list[Tensor],
    ) -> Any:  # fmt: skip
        name = str(packet).removeprefix("aten.")
        kwargs = {key: value for key, value in kwargs.items() if key != "out"}
        if not self.outputs:
            return None
        if ruled is not None:
            try:
                return ruled(self, *args, **kwargs)
            except NotUnderstoodError:
                return self.not_understood(name, tensors)
        if not (self.outputs[0].is_floating_point() or self.outputs[0].is_complex()):
            return None
        if torch.Tag.pointwise in operation.tags or _is_elementwise(packet, args, self):
            return self.elementwise(packet, *args, **kwargs)
        return self.not_understood(name, tensors)

    def without_signal(self, *tensors: Tensor) -> Entry:
        """What is made of tensors that are no signals."""
        known = [self.entry(tensor) for tensor in tensors]
        names = tuple(name for entry in known for name in _names(entry))
        if names:
            return Computed(names)
        if any(isinstance(entry, Constant) and entry.triangular for entry in known):
            return Constant(triangular=True)
        return None

    def _write(self, tensor: Tensor, entry: Entry) -> None:
        """An operation in place: what a view shares with its base changes there too."""
        self.set(tensor, entry)
        base = tensor._base
        if base is None or not isinstance(entry, Signal):
            return
        before = self.entry(base)
        if base.numel() == tensor.numel():
            whole = layouts.reshaped(entry.layout, base.shape)
            self.set(base, reshaped(self.tape, entry, whole))
        elif isinstance(before, Signal):
            sides = [before, entry]
            self.set(base, self.record("concatenate", sides, before.layout))
        else:  # the rest of it is to be written yet
            self.set(base, Signal(entry.node, layouts.of_input(base.shape)))


class Tracing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The mode in which a trace follows all that is done."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace
        self.paused = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.paused:
            self.trace.follow(func, args, kwargs, result)
        return result


# --- tensors and numbers ---


def measured(tensor: Tensor, own: Layout) -> Moments:
    """The moments of a tensor with values, its pairs taken along positions and samples.

    Raises:
        ParameterError: it holds NaN or infinities.
    """
    x = tensor.detach().to(torch.float64)
    if not x.numel():
        raise ParameterError("a tensor without elements meets a signal; give larger inputs")
    x = torch.where(x < MASKED, torch.zeros_like(x), x)
    q = float((x * x).mean())
    if not math.isfinite(q):
        raise ParameterError("NaN or infinities are among the numbers that the model works on")
    found = []
    for role in (POSITION, SAMPLE):
        axes = [i for i, axis in enumerate(own) if layouts.role(axis) == role and x.shape[i] > 1]
        n = math.prod(x.shape[axis] for axis in axes)
        if n > 1:
            total = x.sum(axes)
            found.append((float((total * total).mean()) - n * q) / (n * (n - 1)))
        else:
            found.append(q)
    return Moments(float(x.mean()), q, *found)


def _aligned(shape: Sequence[int], like: Layout | None) -> Layout:
    if like is None:
        return layouts.of_input(shape)
    own: Layout = tuple(
        layouts.resized(axis, size) if size > 1 else ()
        for axis, size in zip(like[len(like) - len(shape) :], shape, strict=False)
    )
    return own


def _mean_and_square(tensor: Tensor) -> tuple[float | None, float | None]:
    if tensor.device.type == "meta" or nn.parameter.is_lazy(tensor) or not tensor.numel():
        return None, None
    x = tensor.detach()
    x = x.to(torch.promote_types(x.dtype, torch.float32)) if not x.is_complex() else x.abs()
    return float(x.mean()), float((x * x).mean())


def _names(entry: Entry) -> tuple[str, ...]:
    if isinstance(entry, Weight):
        return (entry.name,)
    return entry.names if isinstance(entry, Computed) else ()


def tensors_in(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        for value in values.values():
            yield from tensors_in(value)
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from tensors_in(value)


# --- operations ---

# Operations that make something of nothing that a trace knows of.
_SOURCES: set[Any] = {torch.ops.aten.bernoulli, torch.ops.aten.cos, torch.ops.aten.sin,
                      torch.ops.aten.tril}  # fmt: skip


@functools.cache
def _functional(operation: Any) -> tuple[Any, bool]:
    """The operation out of place, and whether this one writes to its first argument."""
    packet = operation.overloadpacket
    space, _, name = operation._schema.name.partition("::")
    mutates = name.endswith("_") and not name.endswith("__") and operation._schema.is_mutable
    if mutates:
        packet = getattr(getattr(torch.ops, space), name[:-1], packet)
    return packet, mutates


def _operation(operation: Any, others: tuple[Any, ...], keywords: dict[str, Any]) -> Operation:
    """The operation on arrays, with a key that is equal for equal arguments."""
    call = functools.partial(_in_doubles, operation, others, keywords)
    key = (operation, others, tuple(sorted(keywords.items())))
    try:
        hash(key)
    except TypeError:  # lists among the arguments
        return Operation((operation, repr(others), repr(keywords)), call)
    return Operation(key, call, *_named(key))


def _in_doubles(
    operation: Any, others: tuple[Any, ...], keywords: Any, *values: FloatArray
) -> FloatArray:
    """The operation on arrays of doubles in place of the tensors among its arguments."""
    arrays = iter(values)
    arguments = [
        torch.from_numpy(next(arrays).copy()) if other is TENSOR else other for other in others
    ]
    with torch.no_grad():
        result: FloatArray = operation(*arguments, **keywords).numpy()
    return result


def _is_elementwise(packet: Any, args: Any, trace: Trace) -> bool:
    """Whether an operation that nobody declared does the same to each element, wherever it is."""
    signals = [argument for argument in args if trace.is_signal(argument)]
    if len(signals) != 1 or signals[0].shape != trace.outputs[0].shape:
        return False
    points = torch.linspace(-2.3, 2.9, 12, dtype=torch.float64)
    others = [points if argument is signals[0] else argument for argument in args]
    if any(isinstance(argument, Tensor) and argument is not points for argument in others):
        return False
    try:
        with torch.no_grad():
            straight = packet(*others)
            turned = packet(*[o.flip(0).reshape(3, 4) if o is points else o for o in others])
        return bool(torch.equal(straight.flip(0), turned.reshape(-1)))
    except Exception:  # whatever it is: the operation does not take doubles, or this shape
        return False


_NAMED: dict[Any, Callable[..., tuple[str, dict[str, float]] | None]] = {}


def _named(key: tuple[Any, tuple[Any, ...], Any]) -> tuple[Any, ...]:
    """The name and params in the registry of an operation with these arguments, if it is there."""
    operation, others, keywords = key
    reader = _NAMED.get(operation)
    if reader is None or others[:1] != (TENSOR,):
        return ()
    found = reader(*others[1:], **dict(keywords))
    return () if found is None else (found[0], tuple(found[1].items()))
