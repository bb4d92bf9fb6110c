"""Runs a PyTorch model once and records what it does with its signals, operation by operation.

A loop and a registry: ``TorchDispatchMode`` sees every ATen operation, whatever Python wrote it;
rules/ says of each which rule of gainreg.signals applies. What a tensor is, and what a rule works
with, stands in gainreg.signals.trace.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from gainreg.signals import layout as layouts
from gainreg.signals.functions import FloatArray, Operation
from gainreg.signals.signal import Signal, reshaped
from gainreg.signals.tape import Node
from gainreg.signals.trace import Entry, NotUnderstoodError, Rule, Trace, names


def rule(*operations: Any, alone: bool = False) -> Callable[[Rule], Rule]:
    """Register a rule for operations, as a user does for a kernel of their own.

    The decorated function takes the ``TorchTrace`` and the operation's own arguments, and returns
    what the output is: most often what a method of the trace gives, such as ``trace.elementwise``
    or ``trace.signal(x)`` for an operation that leaves sizes as they are; a tuple for several
    outputs; None for what is no signal. It raises ``NotUnderstoodError`` for a form of the
    operation that it has no answer to. With ``alone`` it is also asked where no signal is among
    the operands, but a parameter or the like.

        @rule(torch.ops.mylib.scaled_tanh)
        def _(trace, x, scale):
            return trace.elementwise(torch.ops.mylib.scaled_tanh, x, scale)
    """

    packets = [getattr(operation, "overloadpacket", operation) for operation in operations]
    return TorchTrace.ruled(packets, alone)


class TorchTrace(Trace):
    """The tape of a run of a PyTorch model.

    Attributes:
        upsampled: of transposed convolutions, how their taps lie along each axis.
        conditions: of comparisons of signals, the function that each is.
    """

    rules = {}  # noqa: RUF012  filled by ``rule``
    # what makes something of nothing that a trace knows of, or of conditions
    sources = frozenset(
        getattr(torch.ops.aten, name)
        for name in (
            "bernoulli", "cos", "sin", "tril", "logical_and", "logical_or", "logical_not",
            "bitwise_and", "bitwise_or", "bitwise_not",
        )
    )  # fmt: skip

    def __init__(self, model: nn.Module) -> None:
        self.upsampled: dict[Node, list[Any]] = {}
        self.conditions: Any = WeakIdKeyDictionary()
        entries: Any = WeakIdKeyDictionary()
        super().__init__(model.named_parameters(remove_duplicate=False), entries)

    def is_tensor(self, x: Any) -> bool:
        """Whether it is a tensor."""
        return isinstance(x, Tensor)

    def is_real(self, tensor: Tensor) -> bool:
        """Whether a tensor holds floating-point or complex numbers."""
        return tensor.is_floating_point() or tensor.is_complex()

    def values(self, tensor: Tensor) -> FloatArray | None:
        """A tensor's numbers, as doubles; None on the meta device."""
        if tensor.device.type == "meta":
            return None
        numbers: FloatArray = tensor.detach().to(torch.float64).cpu().numpy()
        return numbers

    def view(self, weight: Tensor) -> tuple[Hashable, Hashable]:
        """Where its numbers begin, and how they lie; that is not known of copied parts."""
        stored = weight.untyped_storage().nbytes() // weight.element_size()
        wholes = [self.tape.parameters[name].shape for name in names(self.entry(weight))]
        if any(stored < math.prod(shape) for shape in wholes):
            return 0, object()
        return weight.storage_offset(), (tuple(weight.shape), weight.stride())

    def statistic(self, tensor: Tensor) -> tuple[float, float] | tuple[None, None]:
        """Mean and mean square of a tensor's numbers; None on the meta device."""
        if tensor.device.type == "meta" or nn.parameter.is_lazy(tensor) or not tensor.numel():
            return None, None
        x = tensor.detach()
        x = x.abs() if x.is_complex() else x.to(torch.promote_types(x.dtype, torch.float32))
        return float(x.mean()), float((x * x).mean())

    def number(self, x: Any) -> Any:
        """A constant tensor that holds one number throughout as a float; any other as it is."""
        if not isinstance(x, Tensor) or self.entry(x) is not None or x.is_meta or not x.numel():
            return x
        first = x.flatten()[0]
        return float(first) if bool((x == first).all()) else x

    def function(self, operation: Any, others: tuple[Any, ...], keywords: Any) -> Operation:
        """The operation itself, run in double precision, with a key that is equal for equal
        arguments."""
        call = functools.partial(_in_doubles, operation, others, keywords)
        key = (operation, others, tuple(sorted(keywords.items())))
        try:
            hash(key)
        except TypeError:  # lists among the arguments
            return Operation((operation, repr(others), repr(keywords)), call)
        return Operation(key, call, *_named(key))

    def operation_of(self, operation: Any, *others: Any) -> Operation:
        """An operation of one tensor and such other arguments, as a function on arrays."""
        return self.function(operation, (..., *others), {})

    # --- the loop ---

    def follow(self, operation: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Say what an operation's outputs are, from what its inputs were."""
        tensors = list(tensors_in((args, kwargs)))
        out = list(tensors_in(result))
        packet, mutates = _functional(operation)
        self.operation, self.outputs = operation, out
        name = str(packet).removeprefix("aten.")
        kwargs = {key: value for key, value in kwargs.items() if key != "out"}
        for tensor, entry in zip(
            out, self.answer(packet, name, tensors, args, kwargs), strict=False
        ):
            self._write(tensor, entry) if mutates else self.set(tensor, entry)

    def unruled(self, key: Any, tensors: Sequence[Any], args: Any, kwargs: Any) -> Entry:
        """What ATen tags as pointwise, or is so as far as can be seen, is elementwise."""
        if not self.is_real(self.outputs[0]):
            return None
        if torch.Tag.pointwise in self.operation.tags or _is_elementwise(key, args, self):
            return self.elementwise(key, *args, **kwargs)
        raise NotUnderstoodError

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
    """The mode in which a trace follows all that is done; ``before`` is called ahead of each
    operation."""

    def __init__(self, trace: TorchTrace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace
        self.paused = 0
        self.before: Callable[[], None] = lambda: None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.before()
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.paused:
            self.trace.follow(func, args, kwargs, result)
        return result


# --- tensors and numbers ---


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


@functools.cache
def _functional(operation: Any) -> tuple[Any, bool]:
    """The operation out of place, and whether this one writes to its first argument."""
    packet = operation.overloadpacket
    space, _, name = operation._schema.name.partition("::")
    mutates = name.endswith("_") and not name.endswith("__") and operation._schema.is_mutable
    if mutates:
        packet = getattr(getattr(torch.ops, space), name[:-1], packet)
    return packet, mutates


def _in_doubles(
    operation: Any, others: tuple[Any, ...], keywords: Any, *values: FloatArray
) -> FloatArray:
    """The operation on arrays of doubles in place of the tensors among its arguments."""
    arrays = iter(values)
    arguments = [
        torch.from_numpy(next(arrays).copy()) if other is ... else other for other in others
    ]
    with torch.no_grad():
        result: FloatArray = operation(*arguments, **keywords).numpy()
    return result


def _is_elementwise(packet: Any, args: Any, trace: TorchTrace) -> bool:
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


# What reads the name and params in the registry off an operation's arguments.
NAMED: dict[Any, Callable[..., tuple[str, dict[str, float]] | None]] = {}


def _named(key: tuple[Any, tuple[Any, ...], Any]) -> tuple[Any, ...]:
    """The name and params in the registry of an operation with these arguments, if it is there."""
    operation, others, keywords = key
    reader = NAMED.get(operation)
    if reader is None or others[:1] != (...,):
        return ()
    found = reader(*others[1:], **dict(keywords))
    return () if found is None else (found[0], tuple(found[1].items()))
