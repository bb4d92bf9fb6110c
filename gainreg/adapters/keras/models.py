"""Whole Keras models on the torch and jax backends: plan, apply_, measure and initialize_.

What a backend makes of a model stands in on_torch.py and on_jax.py; here stands what is Keras's:
which models, variables and example inputs there are.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from gainreg.errors import ParameterError
from gainreg.signals import models
from gainreg.signals.plan import Plan
from gainreg.signals.report import SignalReport

BACKENDS = ("torch", "jax")

# A backend may run the two layers of a Bidirectional as one operation.
RECURRENT = (keras.layers.RNN, keras.layers.Bidirectional)


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

    The model runs as in training; ``{"training": False}`` among ``kwargs`` has it run as in
    inference, where batch norms go by their moving statistics.

    Args:
        model: a built model or layer: functional, sequential or a class of one's own.
        args: an example input: an array, or a list or dict of them for a model that takes such; or
            a tuple of the model's arguments. Their moments are measured, and count as those of
            standard normal numbers where they are a ``keras.KerasTensor`` with a whole shape.
        kwargs, residual, output_std, criterion: as for all adapters; see
            ``help(gainreg.adapters)``, which says what is raised too.

    Weights are named by their variables' paths, "dense/kernel". Those of frozen layers are kept and
    counted as they are; likewise those of recurrent layers, whose output counts as it was measured.
    """
    return _opened(model).plan(
        *_arguments(args, kwargs), residual=residual, output_std=output_std, criterion=criterion
    )


def apply_(model: Any, plan: Plan, *, distribution: str = "normal", seed: int | None = None) -> Any:
    """Set a model's weights and biases as a plan says, and return the model.

    Keras numbers the names of layers as they are made, "dense", "dense_1", …: a model that is made
    again has the plan's names in a new process, behind ``keras.utils.clear_session()``, or if
    its layers have names of their own.

    Args:
        model: the model that the plan is of, or another with the same names and shapes.
        plan, distribution: as for all adapters; see ``help(gainreg.adapters)``, which says what is
            raised too. Nothing was set then.
        seed: a whole number, for the same weights each time on the same backend; None for what
            ``keras.utils.set_random_seed`` sets.
    """
    opened = _opened(model)
    opened.apply(plan, distribution, _source(seed))
    opened.finish()
    return model


def measure(
    model: Any,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    backward: bool = True,
) -> SignalReport:
    """The model as it is: its signals predicted and measured, in one pass forward and one back.

    Weights, moving statistics and the states of seed generators stay bit for bit as they were.

    Args:
        model, args, kwargs: as for ``plan``, with values.
        backward: as for all adapters; see ``help(gainreg.adapters)``.
    """
    return _opened(model).measure(*_arguments(args, kwargs, values=True), backward)


def initialize_(
    model: Any,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    residual: float | None = 1.0,
    output_std: float = 1.0,
    criterion: str = "forward",
    distribution: str = "normal",
    calibrate: bool = False,
    seed: int | None = None,
) -> SignalReport:
    """Plan, apply and measure: set a model's weights, and report on its signals.

    Args:
        model, args, kwargs, residual, output_std, criterion: as for ``plan``.
        distribution, seed: as for ``apply_``.
        calibrate: as for all adapters; see ``help(gainreg.adapters)``.
    """
    opened = _opened(model)
    report = opened.initialize(
        *_arguments(args, kwargs, values=True), _source(seed), distribution, calibrate,
        residual=residual, output_std=output_std, criterion=criterion,
    )  # fmt: skip
    opened.finish()
    return report


# --- what may be asked ---


def _backend() -> Any:
    """What the backend makes of models, example inputs and seeds."""
    backend = keras.backend.backend()
    if backend not in BACKENDS:
        raise ParameterError(
            f"whole models are followed on Keras's backends torch and jax, and this is {backend}; "
            "set KERAS_BACKEND to one of them for this step: saved weights load on any"
        )
    return importlib.import_module(f"gainreg.adapters.keras.on_{backend}")


def _opened(model: Any) -> models.Model:
    """A model as its backend takes it apart."""
    backend = _backend()
    if not isinstance(model, keras.Layer):
        raise ParameterError(f"a model is a keras.Model or a layer, got {type(model).__name__}")
    if not model.built:
        raise ParameterError(
            f"{type(model).__name__} {model.name!r} was not built yet and has no weights; call it "
            "once on an example input, or its build with the shape of one"
        )
    named, kept = _named(model), _kept(model)
    variables = {name: variable for name, variable in named.items() if name not in kept}
    if not variables:
        raise ParameterError(
            f"{type(model).__name__} has no trainable weights but those of recurrent layers: there "
            "is nothing to set"
        )
    opened: models.Model = backend.opened(model, variables)
    opened.kept = {name: (tuple(named[name].shape), reason) for name, reason in kept.items()}
    return opened


def recurrent(model: Any) -> list[Any]:
    """The layers of a model that go step by step through time."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, RECURRENT)]


@contextlib.contextmanager
def replaced(
    layer: Any, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Have what ``make`` gives of a layer's call run in its place, while it lasts."""
    object.__setattr__(layer, "call", make(layer.call))
    try:
        yield
    finally:
        object.__delattr__(layer, "call")


def _kept(model: Any) -> dict[str, str]:
    """The weights of a model that are kept whatever signals they meet, and why."""
    stepwise = {id(v): type(layer).__name__ for layer in recurrent(model) for v in layer.weights}
    trainable = {id(variable) for variable in model.trainable_variables}
    kept = {}
    for name, variable in _named(model).items():
        if id(variable) not in trainable:
            kept[name] = "not trainable: kept as it is"
        elif id(variable) in stepwise:
            kept[name] = f"part of {stepwise[id(variable)]}: recurrent layers are kept"
    return kept


def _named(model: Any) -> dict[str, Any]:
    """The weights that layers made to be trained, frozen ones too, by path; a path that several
    have is numbered."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for layer in model._flatten_layers():
        for variable in layer._trainable_variables:
            if id(variable) in seen:
                continue
            seen.add(id(variable))
            name, number = variable.path, 1
            while name in found:
                name, number = f"{variable.path}_{number}", number + 1
            found[name] = variable
    return found


def _arguments(args: Any, kwargs: Any, values: bool = False) -> tuple[tuple[Any, ...], Any]:
    """The model's arguments; of one that says nothing of training, in training."""
    if not (kwargs is None or isinstance(kwargs, Mapping)):
        raise ParameterError(f"kwargs is a dict of the model's, got {type(kwargs).__name__}")
    args = args if isinstance(args, tuple) else (args,)
    kwargs = {"training": True, **(kwargs or {})}
    leaves = keras.tree.flatten((args, kwargs))
    if not any(hasattr(leaf, "shape") for leaf in leaves):
        raise ParameterError("no array is among the example inputs; give the model's arguments")
    for leaf in leaves:
        if isinstance(leaf, keras.KerasTensor):
            if values:
                raise ParameterError(
                    "an example input has only a shape, so that nothing can be measured; give "
                    "numbers"
                )
            if None in leaf.shape:
                raise ParameterError(
                    f"an example input has the shape {leaf.shape}; give a whole one, with the "
                    "number of samples"
                )
    found: tuple[tuple[Any, ...], Any] = keras.tree.map_structure(
        _backend().example, (args, kwargs)
    )
    return found


def _source(seed: Any) -> Any:
    """The backend's random numbers."""
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or seed < 0):
        raise ParameterError(f"seed is a whole number from 0 on, or None, got {seed!r}")
    return _backend().source(seed)
