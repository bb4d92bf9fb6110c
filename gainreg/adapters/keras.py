"""Keras 3, any backend: a serialisable initializer."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gainreg import scaling
from gainreg.entry import GainEntry
from gainreg.errors import ParameterError
from gainreg.scaling import always

try:
    import keras
except ImportError as error:  # pragma: no cover
    raise scaling.missing("Keras", "keras", error) from error

if TYPE_CHECKING:
    from gainreg.activation import Activation

DISTRIBUTIONS = ("truncated_normal", "normal", "untruncated_normal", "uniform", "orthogonal")


@keras.saving.register_keras_serializable(package="gainreg")
class VarianceScaling(keras.initializers.VarianceScaling):  # type: ignore[misc]
    """Weights whose variance keeps signals' size behind an activation.

    Saved models carry the constants themselves, so that they load without the table or plugin that
    the constants came from. By its string identifier, "gainreg>VarianceScaling", it is built
    with the defaults; by ``{"class_name": "gainreg>VarianceScaling", "config": {"activation":
    "gelu"}}`` with any others.

    Args:
        activation: the one whose output feeds the weights ("identity" for data, and the default):
            a name, with gainreg's default params; a ``gainreg.Activation`` or a ``GainEntry``; a
            function of ``keras.activations`` (whose leaky_relu has slope 0.2) or ``keras.ops``, or
            a ``functools.partial`` of one; a layer such as ``keras.layers.LeakyReLU(0.2)``; or any
            callable on the backend's tensors (some of ``keras.ops`` compute in float32 even so,
            which leaves it 8 digits). A PReLU layer with several slopes counts with
            their root mean square, which gives the exact average over channels.
        mode: "fan_in" keeps the forward variance, "fan_out" the gradient variance, "fan_avg"
            makes the compromise of Glorot and Bengio (2010).
        distribution: as in Keras "truncated_normal" (also called "normal"), "untruncated_normal"
            or "uniform"; or "orthogonal" (Saxe et al. 2014, arXiv:1312.6120). All have the same
            mean square.
        seed: an integer or a ``keras.random.SeedGenerator``.
        std: standard deviation of the pre-activation, not its variance.
        table: a ``GainTable`` or its path: every constant comes from there.
        **params: the activation's parameters, where they differ from the defaults.

    Raises:
        ParameterError: a shape (when called), mode, distribution, param or std is not what it
            must be.
        MomentError: the gain does not exist, as "fan_out" where φ jumps.
        TableError: ``table`` lacks the entry.
        UnknownActivationError, PluginError: as ``gainreg.resolve``.
    """

    def __init__(
        self,
        activation: str | Activation | GainEntry | Callable[..., Any] = "identity",
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: Any = None,
        *,
        std: float = 1.0,
        table: scaling.Table = None,
        **params: float,
    ) -> None:
        if distribution not in DISTRIBUTIONS:
            known = ", ".join(map(repr, DISTRIBUTIONS))
            raise ParameterError(f"distribution is one of {known}, got {distribution!r}")
        self.entry = scaling.recognised(
            activation, std, params, table, functions=_FUNCTIONS, objects=_LAYERS, wrap=_wrap
        )
        relative = scaling.variance(self.entry, mode, 1, 1)  # refuses a wrong mode
        drawn = "truncated_normal" if distribution == "orthogonal" else distribution
        super().__init__(relative, mode, drawn, seed)
        if distribution == "orthogonal":
            self.distribution = distribution

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        """Weights of a shape whose last two axes are (in, out), the others a receptive field."""
        if len(shape) < 2:
            raise ParameterError(
                f"weights need two axes, one in and one out, got shape {tuple(shape)}"
            )
        *field, inputs, outputs = shape
        receptive = math.prod(field)
        variance = scaling.variance(self.entry, self.mode, inputs * receptive, outputs * receptive)
        if self.distribution != "orthogonal":
            # Keras divides by its fan_in
            scale = variance * inputs * receptive
            draw = keras.initializers.VarianceScaling(
                scale, "fan_in", self.distribution, seed=self.seed
            )
            return draw(shape, dtype)
        factor = scaling.orthogonal_scale(math.sqrt(variance), inputs * receptive, outputs)
        draw = keras.initializers.Orthogonal(factor, seed=self.seed)
        wanted = keras.backend.standardize_dtype(dtype)
        # half precision has no QR factorisation
        halves = wanted in ("float16", "bfloat16")
        return keras.ops.cast(draw(shape, "float32" if halves else wanted), wanted)

    def get_config(self) -> dict[str, Any]:
        """The arguments, and the constants in use as ``entry``."""
        config = super().get_config()
        return {
            "activation": self.entry.activation,
            "mode": self.mode,
            "distribution": self.distribution,
            "seed": config["seed"],
            "std": self.entry.std,
            **self.entry.params,
            "entry": dataclasses.asdict(self.entry),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> VarianceScaling:
        """The initializer of a config; its ``entry``, if it has one, is used as it stands."""
        if "entry" not in config:
            return cls(**config)
        arguments = {name: config[name] for name in ("mode", "distribution", "seed")}
        return cls(GainEntry(**config["entry"]), **arguments)


# --- activations ---


def _wrap(function: Callable[..., Any]) -> Activation:
    """A callable on the backend's tensors as an ``Activation``, evaluated in float64."""
    backend = keras.backend.backend()
    if backend in ("jax", "torch"):
        wrapped: Activation = importlib.import_module(f"gainreg.adapters.{backend}").wrap(function)
        return wrapped

    def forward(x: Any) -> Any:
        return keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(x, "float64")))

    return scaling.elementwise(function, forward)


def _relu(
    negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0
) -> tuple[str, dict[str, Any]]:
    if max_value is None and threshold == 0:
        return (
            ("leaky_relu", {"negative_slope": negative_slope}) if negative_slope else ("relu", {})
        )
    if negative_slope == 0 and threshold == 0:
        limits = {"min_val": 0.0, "max_val": max_value}
        return ("relu6", {}) if max_value == 6 else ("hardtanh", limits)
    if negative_slope == 0 and max_value is None:
        return "threshold", {"threshold": threshold, "value": 0.0}
    raise ParameterError(
        "a ReLU with a threshold and a slope or a ceiling has no name in gainreg; pass it as a "
        "function of one tensor, lambda x: keras.activations.relu(x, …)"
    )


def _prelu(layer: Any) -> tuple[str, dict[str, Any]]:
    if not layer.built:
        raise ParameterError("a PReLU layer has no slope before it is built")
    slopes = keras.ops.convert_to_numpy(layer.alpha).ravel()
    return "prelu", {"weight": scaling.root_mean_square(slopes)}


def _activation_layer(layer: Any) -> tuple[str, dict[str, Any]]:
    if layer.activation not in _FUNCTIONS:
        raise ParameterError(
            f"the function {layer.activation!r} of an Activation layer has no name in gainreg; "
            "pass the function itself"
        )
    return _FUNCTIONS[layer.activation]()


_READERS: dict[str, scaling.Reader] = {
    **{
        name: always(name)
        for name in (
            *("exponential", "glu", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh"),
            *("linear", "log_sigmoid", "log_softmax", "mish", "relu6", "selu", "sigmoid", "silu"),
            *("softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "sparsemax"),
            *("swish", "tanh", "tanh_shrink"),
        )
    },
    "celu": lambda alpha=1.0: ("celu", {"alpha": alpha}),
    "elu": lambda alpha=1.0: ("elu", {"alpha": alpha}),
    "gelu": lambda approximate=False: ("gelu_tanh" if approximate else "gelu", {}),
    "hard_shrink": lambda threshold=0.5: ("hardshrink", {"lambd": threshold}),
    "leaky_relu": lambda negative_slope=0.2: ("leaky_relu", {"negative_slope": negative_slope}),
    "relu": _relu,
    "soft_shrink": lambda threshold=0.5: ("softshrink", {"lambd": threshold}),
    "squareplus": lambda b=4.0: ("squareplus", {"b": b}),
    "threshold": lambda threshold, default_value: (
        "threshold",
        {"threshold": threshold, "value": default_value},
    ),
}
_OPS: dict[str, scaling.Reader] = {
    **{name: always(name) for name in ("abs", "cos", "erf", "exp", "sign", "sin", "square")},
    "arcsinh": always("asinh"),
    "arctan": always("atan"),
    "gelu": lambda approximate=True: ("gelu_tanh" if approximate else "gelu", {}),
    "relu": always("relu"),
    "soft_sign": always("softsign"),
}
_FUNCTIONS: dict[Any, scaling.Reader] = {
    **{
        getattr(keras.ops, name): reader
        for name, reader in {**_READERS, **_OPS}.items()
        if hasattr(keras.ops, name)
    },
    **{
        getattr(keras.activations, name): reader
        for name, reader in _READERS.items()
        if hasattr(keras.activations, name)
    },
}
_LAYERS: dict[type, Callable[[Any], tuple[str, dict[str, Any]]]] = {
    keras.layers.Activation: _activation_layer,
    keras.layers.ELU: lambda layer: ("elu", {"alpha": layer.alpha}),
    keras.layers.Identity: lambda layer: ("identity", {}),
    keras.layers.LeakyReLU: lambda layer: (
        "leaky_relu",
        {"negative_slope": layer.negative_slope},
    ),
    keras.layers.PReLU: _prelu,
    keras.layers.ReLU: lambda layer: _relu(layer.negative_slope, layer.max_value, layer.threshold),
    keras.layers.Softmax: lambda layer: ("softmax", {}),
}
