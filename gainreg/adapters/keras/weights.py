"""Keras 3, any backend: a serialisable initializer."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gainreg import frameworks, scaling
from gainreg.entry import to_dict
from gainreg.errors import ParameterError
from gainreg.scaling import Axes, Kind
from gainreg.schema import from_dict

try:
    import keras
    from keras import layers
except ImportError as error:  # pragma: no cover
    hint = "; it needs a backend too: set KERAS_BACKEND to torch or jax, whichever is installed"
    raise frameworks.missing("Keras", "keras", error, hint) from error

if TYPE_CHECKING:
    from gainreg.activation import Activation
    from gainreg.entry import GainEntry

KINDS = {
    "linear": Kind(inputs=-2, outputs=-1),
    "depthwise": Kind(inputs=(), outputs=-1, batch=-2),
    "transposed": Kind(inputs=-1, outputs=-2, transposed=True),
}
LAYERS = {
    "linear": (layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D),
    "depthwise": (layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    "transposed": (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
}
DISTRIBUTIONS = ("truncated_normal", "normal", "untruncated_normal", "uniform", "orthogonal")


@keras.saving.register_keras_serializable(package="gainreg")
class VarianceScaling(keras.initializers.VarianceScaling):  # type: ignore[misc]
    """Weights whose variance keeps signals' size behind an activation.

    Saved models carry the constants themselves, so that they load without the table or plugin that
    the constants came from. By its string identifier, "gainreg>VarianceScaling", it is built
    with the defaults; by ``{"class_name": "gainreg>VarianceScaling", "config": {"activation":
    "gelu"}}`` with any others. Called with a built layer in place of a shape, as in
    ``VarianceScaling("gelu")(layer)``, it sets the weights of a Dense, Conv, DepthwiseConv or
    ConvTranspose, whose kind, strides and groups are known then, and its bias to 0.

    Args:
        activation: the one whose output feeds the weights ("identity" for data, and the default):
            a name, with gainreg's default params; a ``gainreg.Activation`` or a ``GainEntry``; a
            function of ``keras.activations`` (whose leaky_relu has slope 0.2) or ``keras.ops``, or
            a ``functools.partial`` of one; a layer such as ``keras.layers.LeakyReLU(0.2)``; or any
            callable on the backend's tensors (some of ``keras.ops`` compute in float32 even so,
            which leaves it 8 digits). A PReLU layer with several slopes counts with
            their root mean square, which gives the exact average over channels.
        mode: "fan_in" keeps the forward variance, "fan_out" the gradient variance, "fan_avg"
            makes the compromise of Glorot and Bengio (2010), "critical" keeps both by means of a
            bias; see critical.
        distribution: as in Keras "truncated_normal" (also called "normal"), "untruncated_normal"
            or "uniform"; or "orthogonal" (Saxe et al. 2014, arXiv:1312.6120). All have the same
            mean square.
        seed: an integer or a ``keras.random.SeedGenerator``.
        std: standard deviation of the pre-activation, not its variance.
        table: a ``GainTable`` or its path: every constant comes from there.
        kind: of the layer: "linear" for Dense and Conv, "depthwise" for DepthwiseConv (and the
            depthwise kernel of SeparableConv), "transposed" for ConvTranspose. A shape does not
            tell: under another kind than its own a layer's weights are silently wrong.
        strides, groups: of a convolution: fan_in is divided by the product of its strides if it is
            transposed, fan_out otherwise, in the mean over positions.
        input_axes, output_axes: the axes of the weights that count as inputs and as outputs, as in
            Keras, whose EinsumDense and attention layers set them. None for those of ``kind``.
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
        kind: str = "linear",
        strides: Axes = 1,
        groups: int = 1,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        **params: float,
    ) -> None:
        if distribution not in DISTRIBUTIONS:
            known = ", ".join(map(repr, DISTRIBUTIONS))
            raise ParameterError(f"distribution is one of {known}, got {distribution!r}")
        if kind not in KINDS:
            raise ParameterError(f"kind is one of {', '.join(map(repr, KINDS))}, got {kind!r}")
        self.entry = scaling.entry_of(FRAMEWORK, activation, std, params, table)
        relative = scaling.variance(self.entry, mode, 1, 1)  # refuses a wrong mode
        drawn = "truncated_normal" if distribution == "orthogonal" else distribution
        super().__init__(relative, "fan_in", drawn, seed)
        self.mode = mode
        self.kind, self.strides, self.groups = kind, strides, groups
        self.input_axes, self.output_axes = input_axes, output_axes
        if distribution == "orthogonal":
            self.distribution = distribution

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """Weights of a shape; or, given a built layer, that layer with such weights and bias 0."""
        if isinstance(shape, layers.Layer):
            return self._set(shape)
        kind = KINDS[self.kind]
        if self.input_axes is not None and self.output_axes is not None:
            named = {axis % len(shape) for axis in (*self.input_axes, *self.output_axes)}
            others = tuple({*range(len(shape))} - named)  # no receptive field, in Keras
            kind = Kind(self.input_axes, self.output_axes, others)
        return self._draw(tuple(shape), dtype, kind, self.strides, self.groups)

    def _set(self, layer: Any) -> Any:
        known = [kind for kind, kinds in LAYERS.items() if isinstance(layer, kinds)]
        if not known:
            raise ParameterError(
                f"{type(layer).__name__} is no Dense, Conv, DepthwiseConv or ConvTranspose layer; "
                "give the initializer as its kernel_initializer"
            )
        if not layer.built:
            raise ParameterError("a layer has no weights before it is built")
        strides, groups = getattr(layer, "strides", 1), getattr(layer, "groups", 1)
        shape, dtype = tuple(layer.kernel.shape), layer.kernel.dtype
        spread = scaling.bias_std(self.entry, self.mode, layer.bias is not None)
        layer.kernel.assign(self._draw(shape, dtype, KINDS[known[0]], strides, groups))
        if layer.bias is not None:
            layer.bias.assign(_biases(spread, self.seed)(layer.bias.shape, layer.bias.dtype))
        return layer

    def _draw(
        self, shape: tuple[int, ...], dtype: Any, kind: Kind, strides: Axes, groups: int
    ) -> Any:
        found = scaling.fans(shape, kind, strides, groups)
        wanted = keras.backend.standardize_dtype(dtype)
        if "float" not in wanted:
            raise ParameterError(f"weights are floating-point numbers, got dtype {dtype!r}")
        variance = scaling.variance(self.entry, self.mode, found.fan_in, found.fan_out)
        if self.distribution != "orthogonal":
            scale = variance * math.prod(shape[:-1])  # Keras divides by this fan_in of its own
            draw = keras.initializers.VarianceScaling(
                scale, "fan_in", self.distribution, seed=self.seed
            )
            return draw(shape, dtype)
        order = [*found.batch, *found.field, *found.inputs, *found.outputs]
        columns = math.prod(shape[axis] for axis in found.outputs)
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
            "kind": self.kind,
            "strides": self.strides,
            "groups": self.groups,
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


def critical(
    activation: str | Activation | GainEntry | Callable[..., Any],
    *,
    std: float | None = None,
    seed: int | None = None,
    kind: str = "linear",
    strides: Axes = 1,
    groups: int = 1,
    **params: float,
) -> dict[str, Any]:
    """Initializers with which signals and gradients both keep their size, by Keras's names.

    As in ``Dense(64, **critical("tanh"))``: a normal "kernel_initializer" of variance
    width·backward_gain²/fan_in, and a normal "bias_initializer" of standard deviation
    ``critical_bias_std``. All must be so throughout a stack, and what enters it have ``std``.

    Args:
        activation, seed, kind, strides, groups, params: as for ``VarianceScaling``.
        std: of the pre-activations; None for the critical one, to which depth brings the signal
            back (GELU: 1.887); 1 where every std is critical (ReLU) or none but 0 (tanh).

    Raises:
        ParameterError: there is no critical std and none is given; and as ``VarianceScaling``.
        MomentError: gradients die out at that std, or φ jumps.
    """
    entry = scaling.critical_entry(FRAMEWORK, activation, std, params)
    kernel = VarianceScaling(
        entry, "critical", "untruncated_normal", seed, kind=kind, strides=strides, groups=groups
    )
    bias = _biases(scaling.bias_std(entry, "critical"), seed)
    return {"kernel_initializer": kernel, "bias_initializer": bias}


def _biases(std: float, seed: Any) -> Any:
    """An initializer of biases; a seed that is a number would draw the weights' numbers again."""
    another = seed + 1 if isinstance(seed, int) else seed
    return keras.initializers.RandomNormal(0.0, std, another)


# --- activations ---


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
        "gelu": frameworks.read_gelu,
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
