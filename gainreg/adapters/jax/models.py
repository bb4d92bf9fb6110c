"""Whole JAX models: plan, apply, measure and initialize, of Flax NNX and Equinox modules and of
pairs of a function and its params."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gainreg.adapters.jax.opened import open_model
from gainreg.signals.plan import Plan
from gainreg.signals.report import SignalReport


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
        kwargs, residual, output_std, criterion: as for all adapters; see
            ``help(gainreg.adapters)``, which says what is raised too.

    Parameters are named by their path, "layers/0/kernel"; those that a scan goes along layer by
    layer as NumPy would index them, "layers/kernel[0]".
    """
    return open_model(model).plan(
        args, kwargs, residual=residual, output_std=output_std, criterion=criterion
    )


def apply(model: Any, plan: Plan, *, key: Any, distribution: str = "normal") -> Any:
    """A model with weights and biases as a plan says; the given one stays as it is.

    Args:
        model: the model that the plan is of, or another with the same names and shapes.
        plan, distribution: as for all adapters; see ``help(gainreg.adapters)``, which says what is
            raised too.
        key: of the random numbers; each parameter draws from it and from its name.

    Returns:
        A module of the same kind, or of a pair the params; dtypes, shardings and what is shared
        are as they were.
    """
    made = open_model(model)
    made.apply(plan, distribution, key)
    return made.finish()


def measure(
    model: Any,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    backward: bool = True,
) -> SignalReport:
    """The model as it is: its signals predicted and measured, in one pass forward and one back.

    Args:
        model, args, kwargs: as for ``plan``, with values.
        backward: as for all adapters; see ``help(gainreg.adapters)``.
    """
    return open_model(model).measure(args, kwargs, backward)


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
        calibrate: as for all adapters; see ``help(gainreg.adapters)``.

    Returns:
        The module, or of a pair the params, as ``apply`` gives it; and the report.
    """
    made = open_model(model)
    report = made.initialize(
        args, kwargs, key, distribution, calibrate,
        residual=residual, output_std=output_std, criterion=criterion,
    )  # fmt: skip
    return made.finish(), report
