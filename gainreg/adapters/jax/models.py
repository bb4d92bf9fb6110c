"""Whole JAX models: plan, apply, measure and initialize, of Flax NNX and Equinox modules and of
pairs of a function and its params."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gainreg import scaling
from gainreg.adapters.jax.opened import Opened, layer_of, open_model, put
from gainreg.adapters.jax.runs import calibrated, check_values, measured, read
from gainreg.adapters.jax.tracer import sliced_name
from gainreg.adapters.jax.weights import draw
from gainreg.errors import ParameterError
from gainreg.signals.flow import Aims, Flow
from gainreg.signals.options import check_calibration, check_distribution, check_plan, options
from gainreg.signals.plan import Plan
from gainreg.signals.report import SignalReport
from gainreg.signals.summary import accounts, plan_of, report_of


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
        Exception: the model's own errors, with a note.
    """
    asked = options(residual, output_std, criterion)
    run = read(open_model(model), args, kwargs)
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
    check_plan(plan)
    return _applied(open_model(model), plan, key, distribution).value


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
        GainregError: as ``plan``.
    """
    run = read(open_model(model), args, kwargs, with_values=True)
    found = measured(run, backward)
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
        GainregError: as ``plan`` and ``apply``.
    """
    check_distribution(distribution)
    asked = options(residual, output_std, criterion)
    check_calibration(calibrate, criterion)
    opened = open_model(model)
    run = read(opened, args, kwargs, with_values=True)
    flow = Flow(run.tape, Aims(residual, output_std, criterion == "critical"))
    planned = plan_of(flow, asked)
    opened = _applied(opened, planned, key, distribution)
    if calibrate:
        opened = calibrated(opened, run, flow)
    run = read(opened, args, kwargs, with_values=True)
    report = report_of(Flow(run.tape, None), planned.parameters, measured(run, True))
    return opened.value, report


# --- weights ---


def _applied(opened: Opened, plan: Plan, key: Any, distribution: str) -> Opened:
    """The model with what the plan says."""
    _check_key(key)
    plan.check(_shapes(opened, plan))
    check_values(opened, [])
    fans = {weight.name: weight.fan_in for weight in plan.weights}
    new: dict[str, Any] = {}
    for name, item in plan.listed.items():
        if item.status == "zeroed":
            new[name] = jnp.zeros(item.shape)
        elif item.status == "set" and item.std is not None:
            _check_type(opened, name)
            own = jax.random.fold_in(key, opened.draws.get(name, zlib.crc32(name.encode())))
            new[name] = _drawn(own, item.shape, item.std, distribution, fans.get(name, 1.0))
    return opened.having(put(opened.leaves, new))


def _shapes(opened: Opened, plan: Plan) -> dict[str, tuple[int, ...]]:
    """Of each parameter, or of each layer of one that the plan has layer by layer."""
    along = {
        layer.parameter: layer.axis
        for layer in (layer_of(name, opened.leaves) for name in plan.listed)
        if layer.axis is not None
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name, leaf in opened.leaves.items():
        axis = along.get(name)
        if axis is None or axis >= len(leaf.shape) or name in plan.listed:
            shapes[name] = tuple(leaf.shape)
            continue
        rest = (*leaf.shape[:axis], *leaf.shape[axis + 1 :])
        shapes.update((sliced_name(name, axis, i), rest) for i in range(leaf.shape[axis]))
    shapes.update((alias, shapes[name]) for alias, name in opened.aliases.items() if name in shapes)
    return shapes


def _drawn(
    key: Any, shape: tuple[int, ...], std: float, distribution: str, fan_in: float
) -> jax.Array:
    """Numbers of mean 0 and that standard deviation."""
    if len(shape) < 2 and distribution == "orthogonal":
        distribution = "normal"
    sides = scaling.matrix(shape if len(shape) > 1 else (1, *shape, 1), fan_in)
    fans = scaling.fans(sides, scaling.Kind())
    return draw(key, sides, std, distribution, fans, jnp.result_type(float)).reshape(shape)


# --- what may be asked ---


def _check_key(key: Any) -> None:
    try:
        jax.random.fold_in(key, 0)
    except (TypeError, ValueError) as error:  # also an array of several
        is_array = isinstance(key, (jax.Array, np.ndarray))
        got = f"an array of shape {key.shape}" if is_array else f"{key!r:.60}"
        raise ParameterError(
            f"key is one of jax.random.key, as in key=jax.random.key(0), got {got}"
        ) from error


def _check_type(opened: Opened, name: str) -> None:
    parameter = layer_of(name, opened.leaves).parameter
    kind = opened.leaves[parameter].dtype
    if not jnp.issubdtype(kind, jnp.floating):
        raise ParameterError(
            f"the weight {parameter!r} has the type {kind}; only real floating-point weights can "
            "be set"
        )
