"""Whole JAX models: plan, apply, measure and initialize, of Flax NNX and Equinox modules and of
pairs of a function and its params."""

from __future__ import annotations

import math
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gainreg import scaling
from gainreg.adapters.jax import rules  # noqa: F401  registers the rules
from gainreg.adapters.jax.tracer import Array, JaxTrace, array_of, sliced_name
from gainreg.adapters.jax.weights import draw
from gainreg.errors import MomentError, ParameterError
from gainreg.signals import layout as layouts
from gainreg.signals.flow import Aims, Flow
from gainreg.signals.options import check_calibration, check_distribution, options
from gainreg.signals.plan import Plan
from gainreg.signals.report import SignalReport
from gainreg.signals.signal import Signal
from gainreg.signals.summary import Measured, accounts, plan_of, report_of
from gainreg.signals.tape import Node, Tape


def plan(
    model: Any,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    residual: float | None = 1.0,
    output_std: float = 1.0,
    criterion: str = "forward",
) -> Plan:
    """What would be set in a model so that its signals keep their size; touches nothing.

    The model is traced, as by ``jax.jit``; of params and inputs that are ``jax.ShapeDtypeStruct``
    nothing is computed.

    Args:
        model: a Flax NNX module, an Equinox module, or a pair ``(apply, params)`` of a function
            ``apply(params, *args, **kwargs)`` and any pytree of params, as linen's
            ``(module.apply, variables)``. Where ``apply`` returns a pair of outputs and a dict, as
            linen does with mutable collections, the dict is no output.
        args: an array or a tuple of example inputs; their moments are measured, and count as those
            of standard normal numbers where they have only a shape. Numbers and None are passed on.
        kwargs: the model's keyword arguments.
        residual: what all branches of a residual stream together add to it, as a share of its
            second moment where it begins; None to let each branch add a second moment of 1.
        output_std: standard deviation of the model's output.
        criterion: "forward", or "critical" where the activations have a critical point.

    Parameters are named by their path, "layers/0/kernel"; those that a scan goes along layer by
    layer as NumPy would index them, "layers/kernel[0]".

    Raises:
        ParameterError: an option, the model or its inputs are not what they must be, the model
            decides by values in Python, or a pair's params do not fit.
        MomentError: a signal dies or explodes on the way, naming the weight that it feeds.
        The model's own errors, with a note.
    """
    asked = options(residual, output_std, criterion)
    run = _read(_open(model), args, kwargs)
    flow = Flow(run.tape, Aims(residual, output_std, criterion == "critical"))
    return plan_of(flow, asked)


def apply(model: Any, plan: Plan, *, key: Any, distribution: str = "normal") -> Any:
    """A model with weights and biases as a plan says; the given one stays as it is.

    Args:
        model: the model that the plan is of, or another with the same names and shapes.
        plan: made by ``plan``, here or elsewhere.
        key: of the random numbers; each parameter draws from it and from its name.
        distribution: "normal", "truncated_normal" (at twice its std, which is widened), "uniform"
            or "orthogonal"; all have the same mean square.

    Returns:
        A module of the same kind, or of a pair the params; dtypes, shardings and what is shared
        are as they were.

    Raises:
        PlanError: the plan is of another model.
        ParameterError: the model, the key or the distribution is not what it must be.
    """
    check_distribution(distribution)
    return _applied(_open(model), plan, key, distribution).value


def measure(
    model: Any,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    backward: bool = True,
) -> SignalReport:
    """The model as it is: its signals predicted and measured, in one pass forward and one back.

    Gradients are those of a random loss: the sum of the outputs times independent standard normal
    numbers.

    Args:
        model, args, kwargs: as for ``plan``, with values.
        backward: measure gradients too.

    Raises:
        As ``plan``.
    """
    run = _read(_open(model), args, kwargs, measured=True)
    found = _measured(run, backward)
    return report_of(Flow(run.tape, None), accounts(run.tape), found)


def initialize(
    model: Any,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    key: Any,
    residual: float | None = 1.0,
    output_std: float = 1.0,
    criterion: str = "forward",
    distribution: str = "normal",
    calibrate: bool = False,
) -> tuple[Any, SignalReport]:
    """Plan, apply and measure: the model with its weights set, and a report on its signals.

    Args:
        model, args, kwargs, residual, output_std, criterion: as for ``plan``.
        key, distribution: as for ``apply``.
        calibrate: set each weight from the measured second moment of what feeds it instead of the
            predicted one, in one pass.

    Returns:
        The module, or of a pair the params, as ``apply`` gives it; and the report.

    Raises:
        As ``plan`` and ``apply``.
    """
    check_distribution(distribution)
    asked = options(residual, output_std, criterion)
    check_calibration(calibrate, criterion)
    opened = _open(model)
    run = _read(opened, args, kwargs, measured=True)
    flow = Flow(run.tape, Aims(residual, output_std, criterion == "critical"))
    planned = plan_of(flow, asked)
    opened = _applied(opened, planned, key, distribution)
    if calibrate:
        opened = _calibrated(opened, run, flow)
    run = _read(opened, args, kwargs, measured=True)
    report = report_of(Flow(run.tape, None), planned.parameters, _measured(run, True))
    return opened.value, report


# --- models ---


@dataclass
class Model:
    """A model taken apart: its parameters by name, what else it holds, and how it is run.

    Attributes:
        kind: what it is called.
        leaves: the parameters: arrays, or their shapes.
        others: arrays that are no parameters, as running means or the states of random numbers.
        run: ``run(leaves, others, args, kwargs)`` is the model's output.
        rebuild: the model with other leaves.
        aliases: other names of leaves.
        value: the model itself, or the params of a pair.
        draws: what tells each parameter's random numbers apart, where that is not its name.
        is_pair, is_single: whether it is a pair, or a module of Equinox, made for one sample.
    """

    kind: str
    leaves: dict[str, Any]
    others: list[Any]
    run: Callable[..., Any]
    rebuild: Callable[[Mapping[str, Any]], Any]
    value: Any
    aliases: dict[str, str] = field(default_factory=dict)
    draws: Mapping[str, int] = field(default_factory=dict)
    is_pair: bool = False
    is_single: bool = False


def _open(model: Any) -> Model:
    nnx: Any = sys.modules.get("flax.nnx")
    equinox: Any = sys.modules.get("equinox")
    linen: Any = sys.modules.get("flax.linen")
    if isinstance(model, Model):
        return model
    if isinstance(model, tuple) and len(model) == 2 and callable(model[0]):
        opened = _of_tree(model[1], getattr(model[0], "__name__", "the pair's function"), model[0])
        opened.is_pair = True
    elif nnx and isinstance(model, nnx.Module):
        opened = _of_nnx(model, nnx)
    elif equinox and isinstance(model, equinox.Module):
        name = type(model).__name__
        opened = _of_tree(model, name, lambda own, *args, **kwargs: own(*args, **kwargs))
        opened.is_single = True
    elif linen and isinstance(model, linen.Module):
        raise ParameterError(
            "a linen module comes without its params; give the pair (module.apply, variables)"
        )
    else:
        raise ParameterError(
            "a model is a Flax NNX or Equinox module, or a pair (apply, params), got "
            f"{type(model).__name__}"
        )
    if not opened.leaves:
        raise ParameterError(f"{opened.kind} has no parameters: there is nothing to set")
    return opened


def _of_tree(tree: Any, kind: str, apply: Callable[..., Any]) -> Model:
    """A pytree, of which floating-point arrays are parameters."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [_name(path) if _is_parameter(leaf) else None for path, leaf in paths]
    held = [leaf for _, leaf in paths]
    kept = [i for i, leaf in enumerate(held) if names[i] is None and _is_array(leaf)]

    def rebuild(leaves: Mapping[str, Any]) -> Any:
        found = [
            leaf if name is None else leaves[name] for name, leaf in zip(names, held, strict=True)
        ]
        return jax.tree_util.tree_unflatten(structure, found)

    def run(leaves: Mapping[str, Any], others: list[Any], args: Any, kwargs: Any) -> Any:
        found = list(held)
        for i, other in zip(kept, others, strict=True):
            found[i] = other
        for i, name in enumerate(names):
            if name is not None:
                found[i] = leaves[name]
        return apply(jax.tree_util.tree_unflatten(structure, found), *args, **kwargs)

    leaves = {name: leaf for name, leaf in zip(names, held, strict=True) if name is not None}
    return Model(kind, leaves, [held[i] for i in kept], run, rebuild, tree)


def _of_nnx(model: Any, nnx: Any) -> Model:
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    paths, structure = jax.tree_util.tree_flatten_with_path(params)
    names = [_name(path[:-1] if _ends_in_value(path) else path) for path, _ in paths]
    others, others_structure = jax.tree_util.tree_flatten(rest)

    def merged(leaves: Mapping[str, Any], others: list[Any]) -> Any:
        found = jax.tree_util.tree_unflatten(structure, [leaves[name] for name in names])
        return nnx.merge(graph, found, jax.tree_util.tree_unflatten(others_structure, others))

    def run(leaves: Mapping[str, Any], others: list[Any], args: Any, kwargs: Any) -> Any:
        return merged(leaves, others)(*args, **kwargs)

    leaves = {name: leaf for name, (_, leaf) in zip(names, paths, strict=True)}
    opened = Model(
        type(model).__name__, leaves, others, run, lambda leaves: merged(leaves, others), model
    )
    found: dict[int, list[str]] = {}
    for path, variable in _variables(model, nnx, (), ()):
        found.setdefault(id(variable), []).append("/".join(map(str, path)))
    for same in found.values():
        first = next((name for name in same if name in leaves), None)
        opened.aliases.update((name, first) for name in same if first and name != first)
    return opened


def _variables(node: Any, nnx: Any, path: tuple[Any, ...], above: tuple[int, ...]) -> Iterator[Any]:
    """The parameters of a module by every path that leads to them."""
    if isinstance(node, nnx.Param):
        yield path, node
        return
    if id(node) in above:
        return
    children: Any = ()
    if isinstance(node, (list, tuple)) or type(node).__name__ == "List":
        children = enumerate(node)
    elif isinstance(node, Mapping):
        children = node.items()
    elif isinstance(node, nnx.Module):
        children = ((k, v) for k, v in vars(node).items() if not k.startswith("_pytree"))
    for name, child in children:
        yield from _variables(child, nnx, (*path, name), (*above, id(node)))


def _ends_in_value(path: Any) -> bool:
    return bool(path) and getattr(path[-1], "name", "") in ("value", "raw_value")


def _name(path: Any) -> str:
    parts = []
    for entry in path:
        for attribute in ("key", "name", "idx"):
            if hasattr(entry, attribute):
                parts.append(str(getattr(entry, attribute)))
                break
    return "/".join(parts)


def _is_array(x: Any) -> bool:
    return isinstance(x, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))


def _is_parameter(x: Any) -> bool:
    return _is_array(x) and jnp.issubdtype(x.dtype, jnp.inexact)


def _has_values(x: Any) -> bool:
    return not isinstance(x, jax.ShapeDtypeStruct)


# --- one reading ---


@dataclass
class _Run:
    """What a model was found to do.

    Attributes:
        parameters, inputs, outputs: the values that stand for them.
        taps: of each step with a weight: what goes in and comes out, and how many elements what
            goes in has without padding.
    """

    trace: JaxTrace
    parameters: dict[str, Array]
    inputs: list[Array]
    outputs: list[Array]
    taps: dict[Node, tuple[Array, Array, int]]

    @property
    def tape(self) -> Tape:
        """What was recorded."""
        return self.trace.tape


def _read(
    opened: Model, args: Any, kwargs: Mapping[str, Any] | None, measured: bool = False
) -> _Run:
    """The tape of a model."""
    held, structure, data = _arguments(args, kwargs)
    if measured:
        _check_values(opened, [held[i] for i in data])
    arrays = [i for i, leaf in enumerate(held) if _is_array(leaf)]

    def flat(leaves: list[Any], others: list[Any], given: list[Any]) -> Any:
        found = list(held)
        for i, array in zip(arrays, given, strict=True):
            found[i] = array
        own_args, own_kwargs = jax.tree_util.tree_unflatten(structure, found)
        named = dict(zip(opened.leaves, leaves, strict=True))
        result = opened.run(named, others, own_args, own_kwargs)
        return [y for y in _outputs(result, opened.is_pair) if _is_parameter(y)]

    everything = list(opened.leaves.values()), opened.others, [held[i] for i in arrays]
    closed = _jaxpr(flat, everything, opened)
    variables = iter(closed.jaxpr.invars)

    def known(leaf: Any) -> Array:
        return array_of(next(variables), leaf if _has_values(leaf) else None)

    parameters = {name: known(leaf) for name, leaf in opened.leaves.items()}
    others = [known(leaf) for leaf in opened.others]
    inputs = [known(held[i]) for i in arrays]
    taps: dict[Node, tuple[Array, Array, int]] = {}
    trace = JaxTrace(parameters, opened.aliases)
    trace.weighed = lambda node, x, y, size: taps.update({node: (x, y, size)})
    trace.biased_output = lambda node, y: taps.update({node: (taps[node][0], y, taps[node][2])})
    units = _unit_axis(closed.jaxpr)
    for i, tensor in zip(arrays, inputs, strict=True):
        if i in data and not jnp.issubdtype(tensor.dtype, jax.dtypes.prng_key):
            trace.describe_input(tensor, layouts.of_input(tensor.shape, units))
    constants = zip(closed.jaxpr.constvars, closed.consts, strict=True)
    consts = [array_of(variable, value) for variable, value in constants]
    outputs = trace.read(closed.jaxpr, consts, [*parameters.values(), *others, *inputs])
    entries = [trace.entry(y) for y in outputs]
    trace.tape.outputs = [e.node for e in entries if isinstance(e, Signal)]
    if not any(node.weighs for node in trace.tape.nodes):
        raise ParameterError(
            f"{opened.kind} has no weights that a signal meets: there is nothing to set"
        )
    trace.tape.prune()
    taps = {node: taps[node] for node in trace.tape.nodes if node in taps}
    return _Run(trace, parameters, inputs, outputs, taps)


def _jaxpr(flat: Callable[..., Any], everything: Any, opened: Model) -> Any:
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


def _arguments(args: Any, kwargs: Any) -> tuple[list[Any], Any, set[int]]:
    """The leaves of the example inputs, their structure, and which are data."""
    args = (args,) if _is_array(args) else args
    if not isinstance(args, (tuple, list)) or not (kwargs is None or isinstance(kwargs, Mapping)):
        raise ParameterError(
            "args is an array or a tuple of example inputs, and kwargs a dict, got "
            f"{type(args).__name__} and {type(kwargs).__name__}"
        )
    everything = (tuple(args), dict(kwargs or {}))
    leaves, structure = jax.tree_util.tree_flatten(everything)
    data: set[int] = set()
    at = 0
    # the state of an Equinox model holds arrays that are no data
    for part in jax.tree_util.tree_leaves(everything, is_leaf=_is_state):
        count = len(jax.tree_util.tree_leaves(part)) if _is_state(part) else 1
        if not _is_state(part) and _is_array(part):
            data.add(at)
        at += count
    if not data:
        raise ParameterError("no array is among the example inputs; give the model's arguments")
    for i in data:
        x = leaves[i]
        if _has_values(x) and _is_parameter(x) and not bool(jnp.isfinite(x).all()):
            raise ParameterError("the example inputs hold NaN or infinities; give finite numbers")
    return leaves, structure, data


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
    return [y for y in found if not _is_state(y)]


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


def _measured(run: _Run, backward: bool) -> dict[Node, Measured]:
    """What goes in and out of each weight, and the gradient by its output."""
    source = np.random.default_rng(0)
    loss = [source.standard_normal(y.shape).astype(np.float32) for y in run.outputs]

    def squares(values: Any) -> Any:
        def forward(shifts: list[Any]) -> Any:
            found: list[tuple[Any, Any]] = [(0.0, 0.0)] * len(run.taps)

            def watch(i: int, x: Any, y: Any) -> Any:
                found[i] = _square(x), _square(y)
                return y + shifts[i]

            outputs = _program(run, values, watch)
            return outputs, found

        shifts = [jnp.zeros(y.shape, y.dtype) for _, y, _ in run.taps.values()]
        if not backward:
            return forward(shifts)[1], None
        outputs, pull, found = jax.vjp(forward, shifts, has_aux=True)
        ends = [jnp.asarray(g, y.dtype) for g, y in zip(loss, outputs, strict=True)]
        return found, [_square(g) for g in pull(ends)[0]]

    try:
        found, gradients = jax.jit(squares)(_values(run))
    except Exception as error:
        if not backward:
            raise
        run.tape.warn(f"gradients were not measured: {_first_line(error)}")
        return _measured(run, False)
    measured = {}
    for i, (node, (x, _, size)) in enumerate(run.taps.items()):
        fed, out = (float(part) for part in found[i])
        gradient = None if gradients is None else math.sqrt(float(gradients[i]))
        measured[node] = Measured(math.sqrt(fed * x.size / size), math.sqrt(out), gradient)
    return measured


def _values(run: _Run) -> tuple[dict[str, Any], list[Any]]:
    """What the model computes with: its parameters, and its inputs."""
    return (
        {name: x.known for name, x in run.parameters.items()},
        [x.known for x in run.inputs],
    )


def _program(run: _Run, values: Any, watch: Callable[[int, Any, Any], Any]) -> list[Any]:
    """The model again, step by step; ``watch`` gives what goes on in place of a weight's output."""
    parameters, inputs = values
    here: dict[Array, Any] = {run.parameters[name]: value for name, value in parameters.items()}
    here.update(zip(run.inputs, inputs, strict=True))
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


def _square(x: Any) -> Any:
    return jnp.mean(jnp.square(jnp.abs(x).astype(jnp.promote_types(x.dtype, jnp.float32))))


def _calibrated(opened: Model, run: _Run, flow: Flow) -> Model:
    """Each weight rescaled at its first use, and its output with it, by what feeds it in fact."""
    targets = {node.weight: flow.states[node].q for node in flow.targets}
    firsts: dict[str, int] = {}
    for i, node in enumerate(run.taps):
        if node.weight in targets:
            firsts.setdefault(node.weight, i)
    nodes, sizes = list(run.taps), [size for *_, size in run.taps.values()]
    weights = {node.weight: node for node in nodes}

    def factors(values: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def watch(i: int, x: Any, y: Any) -> Any:
            node = nodes[i]
            name = node.weight
            if name not in weights or name not in targets:
                return y
            if name not in found:
                square = _square(x) * x.size / sizes[i]
                gain = node.facts["fan_in"] * node.facts["taps"]
                own = _square(_slice(values[0], name))
                factor = jnp.sqrt(targets[name] / (gain * own * square))
                found[name] = jnp.where(jnp.isfinite(factor), factor, 1.0)
            # what was computed from the weight is off by the same factor wherever it is used again
            return y * found[name].astype(y.dtype)

        _program(run, values, watch)
        return found

    inputs = [x.known for x in run.inputs]
    found = jax.jit(factors)((opened.leaves, inputs))
    leaves = dict(opened.leaves)
    for name, factor in found.items():
        base, axis, i = _base(name, leaves)
        leaves[base] = _put(leaves[base], axis, i, factor * _slice(leaves, name))
    return _rebuilt(opened, leaves)


def _slice(leaves: Mapping[str, Any], name: str) -> Any:
    base, axis, i = _base(name, leaves)
    return leaves[base] if axis is None else jnp.take(leaves[base], i, axis)


# --- weights ---


def _applied(opened: Model, plan: Plan, key: Any, distribution: str) -> Model:
    """The model with what the plan says."""
    _check_key(key)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, leaf in opened.leaves.items():
        layers = [listed for listed in plan.listed if listed.startswith(f"{name}[")]
        axis = _base(layers[0], opened.leaves)[1] if layers and name not in plan.listed else None
        if axis is None or axis >= len(leaf.shape):
            shapes[name] = tuple(leaf.shape)
            continue
        rest = (*leaf.shape[:axis], *leaf.shape[axis + 1 :])
        shapes.update((sliced_name(name, axis, i), rest) for i in range(leaf.shape[axis]))
    shapes.update((alias, shapes[name]) for alias, name in opened.aliases.items() if name in shapes)
    plan.check(shapes)
    _check_values(opened, [])
    fans = {weight.name: weight.fan_in for weight in plan.weights}
    leaves = dict(opened.leaves)
    for name, item in plan.listed.items():
        if item.status == "zeroed":
            drawn: Any = jnp.zeros(item.shape)
        elif item.status == "set" and item.std is not None:
            own = jax.random.fold_in(key, opened.draws.get(name, zlib.crc32(name.encode())))
            drawn = _drawn(own, item.shape, item.std, distribution, fans.get(name, 1.0))
        else:
            continue
        base, axis, i = _base(name, opened.leaves)
        leaf = leaves[base]
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ParameterError(
                f"the weight {base!r} has the type {leaf.dtype}; only real floating-point weights "
                "can be set"
            )
        leaves[base] = _put(leaf, axis, i, drawn)
    return _rebuilt(opened, leaves)


def _put(leaf: Any, axis: int | None, i: int, new: Any) -> Any:
    """A parameter that is new, or of which one layer is; of its own kind and type."""
    if not isinstance(leaf, jax.Array):
        new, leaf = np.asarray(new), np.array(leaf)
    if axis is None:
        return new.astype(leaf.dtype)
    at = (slice(None),) * axis + (i,)
    if isinstance(leaf, jax.Array):
        return leaf.at[at].set(new.astype(leaf.dtype))
    leaf[at] = new
    return leaf


def _rebuilt(opened: Model, leaves: dict[str, Any]) -> Model:
    """The model with other parameters, each where the old one is."""
    for name, old in opened.leaves.items():
        new = leaves[name]
        if isinstance(old, jax.Array) and new is not old and old.sharding != new.sharding:
            leaves[name] = jax.device_put(new, old.sharding)
    return replace(opened, leaves=leaves, value=opened.rebuild(leaves))


_LAYER = re.compile(r"^(.*)\[((?::, )*)(\d+)\]$")


def _base(name: str, leaves: Mapping[str, Any]) -> tuple[str, int | None, int]:
    """Of which parameter a name is, and if of a layer of it, along which axis and which."""
    found = _LAYER.match(name)
    if name in leaves or found is None:
        return name, None, 0
    return found[1], found[2].count(":"), int(found[3])


def _drawn(
    key: Any, shape: tuple[int, ...], std: float, distribution: str, fan_in: float
) -> jax.Array:
    """Numbers of mean 0 and that standard deviation."""
    if len(shape) < 2:
        distribution = "normal" if distribution == "orthogonal" else distribution
        return _drawn(key, (1, *shape, 1), std, distribution, fan_in).reshape(shape)
    drawn_as = jnp.result_type(float)
    return draw(key, shape, std, distribution, scaling.fans(shape, _kind(shape, fan_in)), drawn_as)


def _kind(shape: tuple[int, ...], fan_in: float) -> scaling.Kind:
    """Which axes of a weight are its inputs: the first ones or the last, whose sizes come nearest
    to the fan-in, as frameworks store weights either way."""
    axes = range(len(shape))
    sides = [side for i in axes[1:] for side in (axes[:i], axes[i:])]
    off = [abs(math.log(math.prod(shape[i] for i in side) / fan_in)) for side in sides]
    inputs = sides[off.index(min(off))]
    return scaling.Kind(tuple(inputs), tuple(i for i in axes if i not in inputs))


# --- what may be asked ---


def _check_values(opened: Model, inputs: list[Any]) -> None:
    for name, leaf in opened.leaves.items():
        if not _has_values(leaf):
            raise ParameterError(
                f"the parameter {name!r} has only a shape, so that nothing can be set or measured; "
                "make a plan of it, and apply that to the real model"
            )
    if not all(map(_has_values, (*inputs, *opened.others))):
        raise ParameterError(
            "an example input has only a shape, so that nothing can be measured; give numbers"
        )


def _check_key(key: Any) -> None:
    is_key = isinstance(key, (jax.Array, np.ndarray)) and (
        jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        or (key.dtype == jnp.uint32 and key.ndim == 1)
    )
    if not is_key:
        raise ParameterError(
            f"key is one of jax.random.key, as in key=jax.random.key(0), got {key!r:.60}"
        )
