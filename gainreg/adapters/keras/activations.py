"""What Keras calls an activation: its functions, layers, and callables on its backend's tensors."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from gainreg import frameworks
from gainreg.errors import ParameterError, missing

try:
    import keras
    from keras import layers
except ImportError as error:  # pragma: no cover
    hint = "; it needs a backend too: set KERAS_BACKEND to torch or jax, whichever is installed"
    raise missing(__package__, "keras", error, hint) from error


def _evaluate(
    function: Callable[..., Any],
) -> tuple[frameworks.Function, frameworks.Function | None]:
    """φ and φ′ of a callable on the backend's tensors, evaluated in float64."""
    if isinstance(function, layers.Activation):
        function = function.activation
    elif isinstance(function, layers.Layer) and not function.built:
        # the user's own must not be built with the shape that it is evaluated with
        function = type(function).from_config(function.get_config())
    backend = keras.backend.backend()
    if backend in ("jax", "torch"):
        adapter = importlib.import_module(f"gainreg.adapters.{backend}")
        both: tuple[frameworks.Function, frameworks.Function] = adapter.FRAMEWORK.evaluate(function)
        return both

    def forward(x: Any) -> Any:
        return keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(x, "float64")))

    return forward, None


def _relu(
    negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0
) -> frameworks.Named | None:
    if max_value is None and threshold == 0:
        return (
            ("leaky_relu", {"negative_slope": negative_slope}) if negative_slope else ("relu", {})
        )
    if negative_slope == 0 and threshold == 0:
        limits = {"min_val": 0.0, "max_val": max_value}
        return ("relu6", {}) if max_value == 6 else ("hardtanh", limits)
    if negative_slope == 0 and max_value is None:
        return "threshold", {"threshold": threshold, "value": 0.0}
    return None


def _prelu(alpha: Any = None) -> frameworks.Named:
    if alpha is None:
        raise ParameterError("a PReLU layer has no slope before it is built")
    slopes = keras.ops.convert_to_numpy(alpha).ravel()
    return "prelu", {"weight": frameworks.root_mean_square(slopes)}


def _of_layer(activation: Any) -> frameworks.Named | None:
    return FRAMEWORK.read(activation)[0]


FRAMEWORK = frameworks.Framework(
    homes=(keras.activations, keras.ops, layers),
    evaluate=_evaluate,
    layers=layers.Layer,
    exceptions={
        "activation": _of_layer,
        "hardshrink": lambda threshold=0.5: ("hardshrink", {"lambd": threshold}),
        "prelu": _prelu,
        "relu": _relu,
        "softshrink": lambda threshold=0.5: ("softshrink", {"lambd": threshold}),
        "threshold": lambda threshold, default_value: (
            "threshold",
            {"threshold": threshold, "value": default_value},
        ),
    },
)
