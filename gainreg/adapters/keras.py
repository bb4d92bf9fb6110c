"""Keras 3, any backend: a serialisable initializer."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gainreg import scaling
from gainreg.entry import to_dict
from gainreg.errors import ParameterError
from gainreg.scaling import always
from gainreg.schema import from_dict

try:
    import keras
except ImportError as error:  # pragma: no cover
    hint = "; it needs a backend too: set KERAS_BACKEND to torch or jax, whichever is installed"
    raise scaling.missing("Keras", "keras", error, hint) from error

if TYPE_CHECKING:
    from gainreg.activation import Activation
    from gainreg.entry import GainEntry

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
        input_axes, output_axes: the axes of the weights that count as inputs and as outputs, as in
            Keras, whose EinsumDense and attention layers set them. None for the last two, the
            others being a convolution's receptive field.
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
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        **params: float,
    ) -> None:
        if distribution not in DISTRIBUTIONS:
            known = ", ".join(map(repr, DISTRIBUTIONS))
            raise ParameterError(f"distribution is one of {known}, got {distribution!r}")
        self.entry = _KERAS.entry(activation, std, params, table)
        relative = scaling.variance(self.entry, mode, 1, 1)  # refuses a wrong mode
        drawn = "truncated_normal" if distribution == "orthogonal" else distribution
        super().__init__(relative, mode, drawn, seed)
        self.input_axes, self.output_axes = input_axes, output_axes
        if distribution == "orthogonal":
            self.distribution = distribution

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        """Weights of a shape; see ``input_axes`` for what its axes mean."""
        if self.input_axes is None or self.output_axes is None:
            fan_in, fan_out, axes = scaling.fans(shape)
        else:  # what is neither is no receptive field there
            others = {*range(len(shape))} - {
                axis % len(shape) for axis in (*self.input_axes, *self.output_axes)
            }
            fan_in, fan_out, axes = scaling.fans(
                shape, self.input_axes, self.output_axes, tuple(others)
            )
        wanted = keras.backend.standardize_dtype(dtype)
        if "float" not in wanted:
            raise ParameterError(f"weights are floating-point numbers, got dtype {dtype!r}")
        variance = scaling.variance(self.entry, self.mode, fan_in, fan_out)
        if self.distribution != "orthogonal":
            scale = variance * math.prod(shape[:-1])  # Keras divides by this fan_in of its own
            draw = keras.initializers.VarianceScaling(
                scale, "fan_in", self.distribution, seed=self.seed
            )
            return draw(shape, dtype)
        batch, field, inputs, outputs = axes
        order = [*batch, *field, *inputs, *outputs]
        columns = math.prod(shape[axis] for axis in outputs)
        rows = math.prod(shape) // columns
        draw = keras.initializers.Orthogonal(
            scaling.orthogonal_scale(math.sqrt(variance), rows, columns), seed=self.seed
        )
        # half precision has no QR factorisation
        halves = wanted in ("float16", "bfloat16")
        matrix = draw((rows, columns), "float32" if halves else wanted)
        weights = keras.ops.reshape(matrix, [shape[axis] for axis in order])
        weights = keras.ops.transpose(weights, [order.index(axis) for axis in range(len(shape))])
        return keras.ops.cast(weights, wanted)

    def get_config(self) -> dict[str, Any]:
        """The arguments, and the constants in use as ``entry``."""
        config = super().get_config()
        return {
            "activation": self.entry.activation,
            "mode": self.mode,
            "distribution": self.distribution,
            "seed": config["seed"],
            "std": self.entry.std,
            "input_axes": self.input_axes,
            "output_axes": self.output_axes,
            **self.entry.params,
            "entry": {"activation": self.entry.activation, **to_dict(self.entry)},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> VarianceScaling:
        """The initializer of a config, with the constants of its ``entry`` if it has one.

        Raises:
            ParameterError: what stands beside the entry contradicts it.
            TableError: the entry contradicts itself.
        """
        config = dict(config)
        stored = dict(config.pop("entry", None) or {})
        if not stored:
            return cls(**config)
        entry = from_dict(stored.pop("activation", None), stored, "the entry of a config")
        beside = {"activation": entry.activation, "std": entry.std, **entry.params}
        if {name: config.pop(name, None) for name in beside} != beside:
            raise ParameterError(
                f"a config of VarianceScaling contradicts its entry of {entry.activation!r}; to "
                "change the activation, its std or params, leave the entry out"
            )
        return cls(entry, **config)


# --- activations ---


def _wrap(function: Callable[..., Any]) -> Activation:
    """A callable on the backend's tensors as an ``Activation``, evaluated in float64."""
    if isinstance(function, keras.layers.Activation):
        function = function.activation
    elif isinstance(function, keras.layers.Layer) and not function.built:
        # the user's own must not be built with the shape that it is evaluated with
        function = type(function).from_config(function.get_config())
    backend = keras.backend.backend()
    if backend in ("jax", "torch"):
        wrapped: Activation = importlib.import_module(f"gainreg.adapters.{backend}").wrap(function)
        return wrapped

    def forward(x: Any) -> Any:
        return keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(x, "float64")))

    return scaling.elementwise(function, forward)


def _relu(
    negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0
) -> scaling.Named | None:
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


def _prelu(layer: Any) -> scaling.Named:
    if not layer.built:
        raise ParameterError("a PReLU layer has no slope before it is built")
    slopes = keras.ops.convert_to_numpy(layer.alpha).ravel()
    return "prelu", {"weight": scaling.root_mean_square(slopes)}


def _activation_layer(layer: Any) -> scaling.Named | None:
    return _KERAS.read(layer.activation)[0]


_READERS: dict[str, scaling.Reader] = {
    **scaling.READERS,
    "gelu": lambda approximate=False: ("gelu_tanh" if approximate else "gelu", {}),
    "hard_shrink": lambda threshold=0.5: ("hardshrink", {"lambd": threshold}),
    "leaky_relu": lambda negative_slope=0.2: ("leaky_relu", {"negative_slope": negative_slope}),
    "relu": _relu,
    "soft_shrink": lambda threshold=0.5: ("softshrink", {"lambd": threshold}),
    "threshold": lambda threshold, default_value: (
        "threshold",
        {"threshold": threshold, "value": default_value},
    ),
}
_OPS: dict[str, scaling.Reader] = {
    **_READERS,
    "gelu": lambda approximate=True: ("gelu_tanh" if approximate else "gelu", {}),
    "relu": always("relu"),
}
_LAYERS: dict[type, Callable[[Any], scaling.Named | None]] = {
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
_KERAS = scaling.Framework(
    functions={
        **scaling.functions_in((keras.ops,), _OPS),
        **scaling.functions_in((keras.activations,), _READERS),
    },
    objects=_LAYERS,
    wrap=_wrap,
)
