"""Reads the jaxpr of a model and records what it does with its signals, equation by equation.

A loop and a registry, as in JAX's autodidax: rules/ says of each primitive which operation of
gainreg.signals it is. What the jaxpr calls, as ``jit``, ``custom_jvp_call`` or ``remat``, is
followed inside; the layers of a ``scan`` one after the other. Nothing is computed on the way but
constants and parameters that a rule asks the values of; what was followed is also a ``Step`` each,
and the steps together are the model again, which runs.py runs to measure it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gainreg.signals.functions import FloatArray, Operation
from gainreg.signals.tape import Parameter
from gainreg.signals.trace import Computed, Entry, NotUnderstoodError, Rule, Tokens, Trace, Weight

_CALLS: dict[str, Rule] = {}

# The primitives that do the same to each element, as functions on arrays of doubles.
ELEMENTWISE: dict[str, Callable[..., Any]] = {}


def rule(*primitives: str, alone: bool = False) -> Callable[[Rule], Rule]:
    """Register a rule for primitives, by their names, as a user does for one of their own.

    The decorated function takes the ``JaxTrace``, the operands, and the equation's parameters by
    keyword, and returns what the output is: most often what a function of
    gainreg.signals.operations gives; a tuple for several outputs; None for what is no signal. It
    raises ``NotUnderstoodError`` for a form that it has no answer to. With ``alone`` it is also
    asked where no signal is among the operands, but a parameter or the like. "jit f" is a jitted
    function of the name f:

        @rule("jit my_kernel")
        def _(trace, x, **_):
            return trace.record("scale", [trace.signal(x)], mean=0.0, square=2.0)
    """

    return JaxTrace.ruled(primitives, alone)


def call(*primitives: str) -> Callable[[Rule], Rule]:
    """Register how an equation with a jaxpr inside is followed.

    The function takes the trace, the equation's parameters and operands, and returns the outputs;
    None where it is one operation as a whole, of which it has said what the outputs are.
    """

    def register(function: Rule) -> Rule:
        for name in primitives:
            _CALLS[name] = function
        return function

    return register


_UNKNOWN = object()  # a value that nobody asked for yet


class Array:
    """A value of the program.

    Attributes:
        shape, dtype: of it.
        known: its value; None where it depends on what has only a shape.
        step: what computes it.
        narrow: the same before it was broadcast, with axes of length 1 where it was.
    """

    def __init__(
        self, shape: Sequence[int], dtype: Any, known: Any = _UNKNOWN, step: Step | None = None
    ) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self.known = known
        self.step = step
        self.narrow: Array | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def array_of(variable: Any, known: Any = _UNKNOWN, step: Step | None = None) -> Array:
    """The value that a variable of a jaxpr stands for."""
    return Array(variable.aval.shape, variable.aval.dtype, known, step)


@dataclass(eq=False)
class Step:
    """One equation of the program: ``compute`` takes the inputs' values and gives the outputs'."""

    compute: Callable[..., Sequence[Any]]
    inputs: Sequence[Array]
    outputs: list[Array] = field(default_factory=list)


def derived(compute: Callable[[Any], Any], x: Array, shape: Sequence[int]) -> Array:
    """A value that is computed from one other."""
    step = Step(lambda v: [compute(v)], [x])
    made = Array(shape, x.dtype, step=step)
    step.outputs = [made]
    return made


class JaxTrace(Trace):
    """The tape of a jaxpr, and what each of its values is: what rules work with.

    Attributes:
        parameters: the values that stand for them.
        steps: what was followed, in order.
        slices: of a parameter that a scan went along, the names of its layers.
    """

    rules = {}  # noqa: RUF012  filled by ``rule``
    # what is drawn, whose values are none that a plan may depend on, and what is still one number,
    # or a few, after it was broadcast
    sources = frozenset(
        ("jit _bernoulli", "jit _uniform", "jit _normal", "jit _normal_real", "broadcast_in_dim",
         "convert_element_type", "reshape", "squeeze", "transpose", "stop_gradient")
    )  # fmt: skip

    def __init__(self, parameters: Mapping[str, Array], aliases: Mapping[str, str]) -> None:
        self.slices: dict[str, tuple[str, ...]] = {}
        self.steps: list[Step] = []
        super().__init__(parameters.items(), {})
        self.tape.aliases.update(aliases)
        self.parameters = dict(parameters)

    # --- what is known of values ---

    def is_tensor(self, x: Any) -> bool:
        """Whether it is a value of the program."""
        return isinstance(x, Array)

    def is_real(self, tensor: Array) -> bool:
        """Whether a value holds floating-point or complex numbers."""
        return bool(jnp.issubdtype(tensor.dtype, jnp.inexact))

    def value(self, tensor: Array) -> Any:
        """A value, computed if it was not yet; None if it depends on what has only a shape."""
        waiting = [tensor]
        while waiting:
            step = waiting[-1].step
            if waiting[-1].known is not _UNKNOWN or step is None:
                waiting.pop()
                continue
            missing = [x for x in step.inputs if x.known is _UNKNOWN]
            if missing:
                waiting += missing
                continue
            given = [x.known for x in step.inputs]
            found: Sequence[Any] = [None] * len(step.outputs)
            if not any(x is None for x in given):
                found = step.compute(*given)
            for output, value in zip(step.outputs, found, strict=True):
                output.known = value
        return tensor.known

    def values(self, tensor: Array) -> FloatArray | None:
        """A value's numbers, as doubles."""
        known = self.value(tensor)
        if known is None or jnp.issubdtype(tensor.dtype, jax.dtypes.prng_key):
            return None
        numbers = np.asarray(known)
        return np.asarray(numbers.real if numbers.dtype.kind == "c" else numbers, np.float64)

    def view(self, weight: Array) -> tuple[Hashable, Hashable]:
        """A value is itself; of another that was computed from the same, nothing is known."""
        return 0, weight

    def statistic(self, tensor: Array) -> tuple[float, float] | tuple[None, None]:
        """Mean and mean square of a value's numbers."""
        known = self.value(tensor)
        if known is None or not tensor.size:
            return None, None
        x = np.asarray(known)
        # in single precision, where parameters are large, but summed in double
        x = np.abs(x) if x.dtype.kind == "c" else x.astype(np.promote_types(x.dtype, np.float32))
        return float(x.mean(dtype=np.float64)), float(np.square(x).mean(dtype=np.float64))

    def number(self, x: Array) -> Any:
        """A value that is one number as a float; any other as it is."""
        narrow = x.narrow or x
        if self.entry(x) is not None or narrow.size != 1 or self.value(narrow) is None:
            return x
        return _decimal(narrow.known)

    def operand(self, x: Array) -> Any:
        """What an elementwise operation takes: a number, or a value before it was broadcast."""
        found = self.number(x)
        return (x.narrow or x) if found is x else found

    def entry(self, tensor: Any) -> Entry:
        """What is known of a value."""
        found = super().entry(tensor)
        if isinstance(found, Weight) and found.name in self.slices:
            return Computed(self.slices[found.name])
        return found

    def without_signal(self, *tensors: Any) -> Entry:
        """What is made of values that are no signals: whole numbers of tokens are tokens."""
        found = super().without_signal(*tensors)
        whole = jnp.issubdtype(self.outputs[0].dtype, jnp.integer)
        if found is None and whole and any(isinstance(self.entry(t), Tokens) for t in tensors):
            return Tokens()
        return found

    # --- what an operation does ---

    def function(self, operation: Any, others: tuple[Any, ...], keywords: Any) -> Operation:
        """A function of NumPy's or SciPy's with such arguments."""

        def compute(*values: FloatArray) -> Any:
            given = iter(values)
            return operation(*(next(given) if other is ... else other for other in others))

        return Operation((operation, others), compute)

    def is_stacked(self, x: Array) -> bool:
        """Whether a value is a parameter whose layers a scan may go along."""
        return isinstance(super().entry(x), Weight)

    def layer(self, stacked: Array, i: int) -> Entry:
        """Layer i of what a scan goes along and is no signal."""
        entry = super().entry(stacked)
        if not isinstance(entry, Weight):
            return entry
        base = entry.name
        if base not in self.slices:
            if any(node.weight == base or node.bias == base for node in self.tape.nodes):
                return entry
            self._split(base, stacked)
        return Weight(self.slices[base][i])

    def _split(self, base: str, stacked: Array) -> None:
        whole = self.parameters[base]
        axis = whole.shape.index(stacked.shape[0])
        if whole.shape == stacked.shape:
            axis = 0
        shape = (*whole.shape[:axis], *whole.shape[axis + 1 :])
        found = {}
        for i in range(whole.shape[axis]):
            name = sliced_name(base, axis, i)
            part = derived(functools.partial(jnp.take, indices=i, axis=axis), whole, shape)
            mean, square = self.statistic(part)
            found[name] = Parameter(name, shape, mean, square, part.dtype)
        self.slices[base] = tuple(found)
        self.tape.aliases = sliced_aliases(self.tape.aliases, base, axis, list(found))
        listed = self.tape.parameters
        self.tape.parameters = {}
        for name, parameter in listed.items():
            self.tape.parameters.update(found if name == base else {name: parameter})

    # --- the loop ---

    def read(self, jaxpr: Any, consts: Sequence[Array], inputs: Sequence[Array]) -> list[Array]:
        """Follow a jaxpr, and give its outputs."""
        known: dict[Any, Array] = dict(zip(jaxpr.constvars, consts, strict=True))
        known.update(zip(jaxpr.invars, inputs, strict=True))

        def look_up(atom: Any) -> Array:
            literal = hasattr(atom, "val")
            return array_of(atom, atom.val) if literal else known[atom]

        for equation in jaxpr.eqns:
            outputs = self.follow(equation, [look_up(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, outputs, strict=True))
        return [look_up(atom) for atom in jaxpr.outvars]

    def follow(self, equation: Any, inputs: list[Array]) -> list[Array]:
        """Say what an equation's outputs are, from what its inputs were."""
        name = equation.primitive.name
        jitted = f"jit {equation.params['name']}" if name in ("jit", "pjit") else ""
        if jitted in self.rules:
            name = jitted
        elif name in _CALLS:
            start = len(self.steps), len(self.tape.nodes)
            followed: list[Array] | None = _CALLS[name](self, equation.params, inputs)
            if followed is not None:
                weighs = any(node.weighs for node in self.tape.nodes[start[1] :])
                if name.startswith("custom") and not weighs:
                    # nothing is measured inside: it keeps the derivative that its author gave it
                    del self.steps[start[0] :]
                    self.steps.append(Step(_bound(equation), inputs, followed))
                return followed
        step = Step(_bound(equation), inputs)
        step.outputs = [array_of(variable, step=step) for variable in equation.outvars]
        self.steps.append(step)
        if not any(output.size for output in step.outputs):
            return step.outputs
        self.operation, self.outputs = name, step.outputs
        found = self.answer(name, name, inputs, inputs, equation.params)
        for output, entry in zip(step.outputs, found, strict=False):
            self.set(output, entry)
        return step.outputs

    def unruled(self, key: Any, tensors: Sequence[Any], args: Any, kwargs: Any) -> Entry:
        """A primitive of NumPy's or SciPy's functions is elementwise."""
        if key not in ELEMENTWISE:
            raise NotUnderstoodError
        return self.elementwise(ELEMENTWISE[key], *map(self.operand, tensors))


def sliced_name(base: str, axis: int, i: int) -> str:
    """What a layer of a stacked parameter is called: as NumPy's index of it."""
    return f"{base}[{':, ' * axis}{i}]"


def sliced_aliases(
    aliases: Mapping[str, str], base: str, axis: int, parts: Sequence[str]
) -> dict[str, str]:
    """Other names of parameters, of which one was divided into its layers along an axis."""
    found: dict[str, str] = {}
    for alias, name in aliases.items():
        layers = (sliced_name(alias, axis, i) for i in range(len(parts)))
        found.update(zip(layers, parts, strict=True) if name == base else {alias: name})
    return found


def _bound(equation: Any) -> Callable[..., Sequence[Any]]:
    """An equation as a function of its inputs' values."""

    def compute(*values: Any) -> Sequence[Any]:
        primitive, params = equation.primitive, equation.primitive.get_bind_params(equation.params)
        functions: Sequence[Any] = ()
        if isinstance(params, tuple):  # as before JAX 0.9
            functions, params = params
        with equation.ctx.manager:
            found = primitive.bind(*functions, *values, **params)
        return list(found) if primitive.multiple_results else [found]

    return compute


def _decimal(value: Any) -> float:
    """A number as it was written: 0.044715 in single precision is meant as that."""
    number = np.asarray(value).reshape(())[()]
    if number.dtype.kind == "f" and number.dtype.itemsize < 8:
        return float(str(number))
    if number.dtype.kind == "V" or number.dtype.kind == "c":
        return float(np.real(number))
    return float(number)
