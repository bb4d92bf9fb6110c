"""Whole JAX models: plan, apply, measure and initialize, of Flax NNX and Equinox modules and of
pairs of a function and its params."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gainreg import scaling
from gainreg.adapters.jax.opened import Opened, has_values, like, open_model
from gainreg.adapters.jax.runs import factors, measured, read
from gainreg.adapters.jax.weights import draw
from gainreg.errors import ParameterError
from gainreg.signals import models
from gainreg.signals.plan import Plan
from gainreg.signals.report import SignalReport
from gainreg.signals.summary import Measured
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
        kwargs, residual, output_std, criterion: as for all adapters; see
            ``help(gainreg.adapters)``, which says what is raised too.

    Parameters are named by their path, "layers/0/kernel"; those that a scan goes along layer by
    layer as NumPy would index them, "layers/kernel[0]".
    """
    return Model(open_model(model)).plan(
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
    made = Model(open_model(model))
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
    return Model(open_model(model)).measure(args, kwargs, backward)


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
    made = Model(open_model(model))
    report = made.initialize(
        args, kwargs, key, distribution, calibrate,
        residual=residual, output_std=output_std, criterion=criterion,
    )  # fmt: skip
    return made.finish(), report


class Model(models.Model):
    """A JAX model taken apart.

    Attributes:
        opened: its parts.
        draws: what tells each parameter's random numbers apart, where that is not its name.
    """

    shape_only = "has only a shape"

    def __init__(self, opened: Opened, draws: Mapping[str, int] | None = None) -> None:
        self.opened, self.kind, self.draws = opened, opened.kind, draws or {}

    def finish(self) -> Any:
        """The model with its parameters as they are now; of a pair the params."""
        return self.opened.merged(self.opened.whole(), self.opened.others)

    def parameters(self) -> dict[str, Any]:
        """Its parameters, by every name that they have."""
        leaves, aliases = self.opened.leaves, self.opened.aliases
        return {**leaves, **{alias: leaves[name] for alias, name in aliases.items()}}

    def has_values(self, parameter: Any) -> bool:
        """Whether it is an array."""
        return has_values(parameter)

    def is_floating(self, dtype: Any) -> bool:
        """Whether a type is one of real floating-point numbers."""
        return bool(jnp.issubdtype(dtype, jnp.floating))

    def run(self, args: Any, kwargs: Any, values: bool) -> Tape:
        """The tape of the model's jaxpr."""
        if values:
            self.check_values()
        return read(self.opened, args, kwargs, values).trace.tape

    def probe(self, args: Any, kwargs: Any, backward: bool) -> tuple[Tape, dict[Node, Measured]]:
        """The tape of the model's jaxpr, and what was measured when that was run."""
        run = read(self.opened, args, kwargs, with_values=True)
        return run.trace.tape, measured(run, backward)

    def calibrate(self, args: Any, kwargs: Any, targets: Mapping[str, float]) -> None:
        """Rescale each weight by what feeds it where it is first used."""
        run = read(self.opened, args, kwargs, with_values=True)
        leaves = self.opened.leaves
        for name, factor in factors(run, leaves, targets).items():
            leaves[name] = like(leaves[name], factor * leaves[name])

    def write(
        self, name: str, parameter: Any, std: float, fan_in: float, distribution: str, source: Any
    ) -> None:
        """Put new numbers in a parameter's place."""
        _check_key(source)
        numbers = jnp.zeros(parameter.shape)
        if std:
            key = jax.random.fold_in(source, self.draws.get(name, zlib.crc32(name.encode())))
            numbers = _drawn(key, parameter.shape, std, distribution, fan_in)
        self.opened.leaves[name] = like(parameter, numbers)

    def divide(self, names: Sequence[str]) -> None:
        """Let layers of a scan that a plan names be parameters of their own."""
        self.opened.divide(names)


def _drawn(
    key: Any, shape: tuple[int, ...], std: float, distribution: str, fan_in: float
) -> jax.Array:
    """Numbers of mean 0 and that standard deviation."""
    if len(shape) < 2:
        distribution = "normal" if distribution == "orthogonal" else distribution
        return _drawn(key, (1, *shape, 1), std, distribution, fan_in).reshape(shape)
    inputs = models.inputs_of(shape, fan_in)
    kind = scaling.Kind(tuple(inputs), tuple(i for i in range(len(shape)) if i not in inputs))
    return draw(key, shape, std, distribution, scaling.fans(shape, kind), jnp.result_type(float))


def _check_key(key: Any) -> None:
    try:
        jax.random.fold_in(key, 0)
    except (TypeError, ValueError) as error:  # also an array of several
        is_array = isinstance(key, (jax.Array, np.ndarray))
        got = f"an array of shape {key.shape}" if is_array else f"{key!r:.60}"
        raise ParameterError(
            f"key is one of jax.random.key, as in key=jax.random.key(0), got {got}"
        ) from error
