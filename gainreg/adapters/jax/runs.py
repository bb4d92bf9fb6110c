"""One reading of a JAX model: its tape; and the model run again from what was read, to measure what
goes in and out of each weight, or to rescale each by it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gainreg.adapters.jax import rules  # noqa: F401  registers the rules
from gainreg.adapters.jax.opened import Opened, has_values, is_array, is_parameter, parted
from gainreg.adapters.jax.tracer import Array, JaxTrace, array_of
from gainreg.errors import MomentError, ParameterError
from gainreg.signals import layout as layouts
from gainreg.signals import models
from gainreg.signals.signal import Signal
from gainreg.signals.summary import Measured
from gainreg.signals.tape import Node


class Run(NamedTuple):
    """What a model was found to do.

    Attributes:
        inputs, outputs: the values that stand for them.
        taps: of each step with a weight: what goes in and comes out, and how many elements what
            goes in has without padding.
    """

    trace: JaxTrace
    inputs: list[Array]
    outputs: list[Array]
    taps: dict[Node, tuple[Array, Array, int]]


def read(
    opened: Opened, args: Any, kwargs: Mapping[str, Any] | None, with_values: bool = False
) -> Run:
    """Read a model on example inputs.

    Raises:
        ParameterError: the inputs are not what they must be, the model decides by values in Python,
            or is a pair whose params do not fit; or an input has only a shape, and values are
            wanted.
        The model's own errors, with a note.
    """
    leaves = opened.whole()
    seen = jnp.zeros(()), *leaves.values(), *jax.tree_util.tree_leaves((args, kwargs))
    if any(isinstance(x, jax.core.Tracer) for x in seen):
        raise ParameterError(
            "a model is read outside of jax.jit and other transformations, and here it is inside "
            "of one; make the plan before it"
        )
    given, put = parted(models.arguments(args, kwargs, is_array, "an array"))
    # the state of an Equinox model holds arrays that are no data
    parts = jax.tree_util.tree_leaves((args, kwargs), _is_state)
    states = {id(x) for part in parts if _is_state(part) for x in jax.tree_util.tree_leaves(part)}
    data = [array for array in given if id(array) not in states]
    if not data:
        raise ParameterError("no array is among the example inputs; give the model's arguments")
    if with_values and not all(map(has_values, (*data, *opened.others))):
        raise ParameterError(
            "an example input has only a shape, so that nothing can be measured; give numbers"
        )

    def flat(own: list[Any], others: list[Any], given: list[Any]) -> Any:
        model = opened.merged(dict(zip(leaves, own, strict=True)), others)
        args, kwargs = put(given)
        return _outputs(opened.output(model, *args, **kwargs), opened.is_pair)

    everything = list(leaves.values()), opened.others, given
    closed = _jaxpr(flat, everything, opened)
    variables = iter(closed.jaxpr.invars)

    def known(leaf: Any) -> Array:
        return array_of(next(variables), leaf if has_values(leaf) else None)

    parameters = {name: known(leaf) for name, leaf in leaves.items()}
    others = [known(leaf) for leaf in opened.others]
    inputs = [known(array) for array in given]
    taps: dict[Node, tuple[Array, Array, int]] = {}
    trace = JaxTrace(parameters, opened.aliases)
    trace.weighed = lambda node, x, y, size: taps.update({node: (x, y, size)})
    trace.shifted = lambda node, y: taps.update({node: (taps[node][0], y, taps[node][2])})
    units = _unit_axis(closed.jaxpr)
    for array, tensor in zip(given, inputs, strict=True):
        if id(array) not in states and not jnp.issubdtype(tensor.dtype, jax.dtypes.prng_key):
            trace.describe_input(tensor, layouts.of_input(tensor.shape, units))
    constants = zip(closed.jaxpr.constvars, closed.consts, strict=True)
    consts = [array_of(variable, value) for variable, value in constants]
    outputs = trace.read(closed.jaxpr, consts, [*parameters.values(), *others, *inputs])
    entries = [trace.entry(y) for y in outputs]
    trace.tape.outputs = [e.node for e in entries if isinstance(e, Signal)]
    trace.tape.prune()
    taps = {node: taps[node] for node in trace.tape.nodes if node in taps}
    return Run(trace, inputs, outputs, taps)


def _jaxpr(flat: Callable[..., Any], everything: Any, opened: Opened) -> Any:
    try:
        return jax.make_jaxpr(flat)(*everything)
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.NonConcreteBooleanIndexError,
    ) as error:
        raise ParameterError(
            f"{opened.kind} cannot be traced, since Python decides by an array's value in it "
            f"({_first_line(error)}); use jax.numpy.where or jax.lax.cond, or give what it decides "
            "by as a plain number"
        ) from error
    except (ParameterError, MomentError):
        raise
    except Exception as error:
        if opened.is_pair:
            raise ParameterError(
                f"{opened.kind} does not run on these params and example inputs: "
                f"{type(error).__name__}: {_first_line(error)}"
            ) from error
        error.add_note(f"gainreg was tracing {opened.kind} on the example inputs; nothing was set")
        if opened.is_single:
            error.add_note(
                "an Equinox module takes one sample; for a batch, give the pair "
                "(lambda model, x: jax.vmap(model)(x), model)"
            )
        raise


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")


def _is_state(x: Any) -> bool:
    equinox: Any = sys.modules.get("equinox")
    return bool(equinox) and isinstance(x, equinox.nn.State)


def _outputs(result: Any, is_pair: bool) -> list[Any]:
    if (
        is_pair
        and isinstance(result, tuple)
        and len(result) == 2
        and isinstance(result[1], Mapping)
    ):
        result = result[0]  # the other is what linen's mutable collections became
    found = jax.tree_util.tree_leaves(result, is_leaf=_is_state)
    return [y for y in found if is_parameter(y)]


def _unit_axis(jaxpr: Any) -> int:
    """Where an input has its units, as far as convolutions tell: last, but for what they say."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            spec = equation.params["dimension_numbers"].lhs_spec
            return 1 if spec[1] == 1 else -1
        for inner in equation.params.values():
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns") and (found := _unit_axis(inner)) == 1:
                return found
    return -1


# --- measuring ---


def measured(run: Run, backward: bool) -> dict[Node, Measured]:
    """What goes in and out of each weight, and the gradient by its output."""
    source = np.random.default_rng(0)
    loss = [source.standard_normal(y.shape).astype(np.float32) for y in run.outputs]

    def sizes_of(values: Any) -> Any:
        def forward(shifts: list[Any]) -> Any:
            found: list[tuple[Any, Any]] = [(0.0, 0.0)] * len(run.taps)

            def watch(i: int, x: Any, y: Any) -> Any:
                found[i] = _rms(x), _rms(y)
                return y + shifts[i]

            outputs = _program(run, values, watch)
            return outputs, found

        shifts = [jnp.zeros(y.shape, y.dtype) for _, y, _ in run.taps.values()]
        if not backward:
            return forward(shifts)[1], None
        outputs, pull, found = jax.vjp(forward, shifts, has_aux=True)
        ends = [jnp.asarray(g, y.dtype) for g, y in zip(loss, outputs, strict=True)]
        return found, [_rms(g) for g in pull(ends)[0]]

    try:
        found, gradients = jax.jit(sizes_of)([x.known for x in _given(run)])
    except Exception as error:
        if not backward:
            raise
        run.trace.tape.warn(f"gradients were not measured: {_first_line(error)}")
        return measured(run, False)
    sizes = {}
    for i, (node, (x, _, size)) in enumerate(run.taps.items()):
        fed, out = (float(part) for part in found[i])
        gradient = None if gradients is None else float(gradients[i])
        sizes[node] = Measured(fed * math.sqrt(x.size / size), out, gradient)
    return sizes


def _given(run: Run) -> list[Array]:
    """What the model computes with: its parameters, and its inputs."""
    return [*run.trace.parameters.values(), *run.inputs]


def _program(run: Run, values: Any, watch: Callable[[int, Any, Any], Any]) -> list[Any]:
    """The model again, step by step; ``watch`` gives what goes on in place of a weight's output."""
    here: dict[Array, Any] = dict(zip(_given(run), values, strict=True))
    watched: dict[Array, list[tuple[int, Array]]] = {}
    for i, (x, y, _) in enumerate(run.taps.values()):
        watched.setdefault(y, []).append((i, x))

    def look_up(x: Array) -> Any:
        return here[x] if x in here else run.trace.value(x)

    for step in run.trace.steps:
        for output, value in zip(
            step.outputs, step.compute(*map(look_up, step.inputs)), strict=True
        ):
            for i, x in watched.get(output, ()):
                value = watch(i, value if x is output else look_up(x), value)
            here[output] = value
    return [look_up(y) for y in run.outputs]


def _rms(x: Any) -> Any:
    """Root mean square, of what is as small or large as single precision holds, too."""
    size = jnp.abs(x).astype(jnp.promote_types(x.real.dtype, jnp.float32))
    largest = jnp.max(size)
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    return unit * jnp.sqrt(jnp.mean(jnp.square(size / unit)))


def factors(run: Run, own: Mapping[str, Any], targets: Mapping[str, float]) -> dict[str, Any]:
    """What to multiply each weight by, at its first use and its output with it, so that by what
    feeds it in fact that has the second moment that it aims at.

    Args:
        run: of the model with these weights.
        own: all weights, by name.
        targets: the second moments.
    """
    taps = [(node, size) for node, (*_, size) in run.taps.items()]
    sizes = {name: _rms(own[name]) for name in targets}

    def found(values: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def watch(i: int, x: Any, y: Any) -> Any:
            node, size = taps[i]
            name = node.weight
            if name not in targets:
                return y
            if name not in found:
                gain = node.facts["fan_in"] * node.facts["taps"] * x.size / size
                factor = math.sqrt(targets[name] / gain) / (sizes[name] * _rms(x))
                found[name] = jnp.where(jnp.isfinite(factor), factor, 1.0)
            # wherever else the weight is used, its output is off by the same factor
            return y * found[name].astype(y.dtype)

        _program(run, values, watch)
        return found

    made: dict[str, Any] = jax.jit(found)([x.known for x in _given(run)])
    return made
