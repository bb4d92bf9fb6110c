"""Keras 3, any backend: a serialisable initializer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import keras
from keras import layers

from gainreg import scaling
from gainreg.adapters.keras.activations import FRAMEWORK
from gainreg.entry import to_dict
from gainreg.errors import ParameterError
from gainreg.params import check_choice
from gainreg.scaling import Axes, Fans, Kind
from gainreg.schema import from_dict

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
        activation: the one whose output feeds the weights, as for all adapters ("identity" by
            default): also a function of ``keras.activations`` (whose leaky_relu has slope 0.2) or
            ``keras.ops``, a layer such as ``keras.layers.LeakyReLU(0.2)``, or any callable on the
            backend's tensors (some of ``keras.ops`` compute in float32 even so, which leaves it 8
            digits). A PReLU layer with several slopes counts with their root mean square, which
            gives the exact average over channels.
        mode, std, table, params: as for all adapters; see ``help(gainreg.adapters)``, which says
            what is raised too, here or when it is called.
        distribution: as in Keras "truncated_normal" (also called "normal"), "untruncated_normal"
            or "uniform"; or "orthogonal" (Saxe et al. 2014, arXiv:1312.6120). All have the same
            mean square.
        seed: an integer or a ``keras.random.SeedGenerator``.
        kind: of the layer: "linear" for Dense and Conv, "depthwise" for DepthwiseConv (and the
            depthwise kernel of SeparableConv), "transposed" for ConvTranspose. A shape does not
            tell: under another kind than its own a layer's weights are silently wrong.
        strides, groups: of a convolution: fan_in is divided by the product of its strides if it is
            transposed, fan_out otherwise, in the mean over positions.
        input_axes, output_axes: the axes of the weights that count as inputs and as outputs, as in
            Keras, whose EinsumDense and attention layers set them. None for those of ``kind``.
    """

    def __init__(
        self,
        activation: str | Activation | GainEntry | Callable[..., Any] = "identity",
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: Any = None,
        *,
        std: float | None = 1.0,
        table: scaling.Table = None,
        kind: str = "linear",
        strides: Axes = 1,
        groups: int = 1,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        **params: float,
    ) -> None:
        check_choice(distribution, "distribution", DISTRIBUTIONS)
        check_choice(kind, "kind", KINDS)
        self.entry = scaling.entry_of(FRAMEWORK, activation, std, params, table)
        relative = scaling.variance(self.entry, mode, 1, 1)  # refuses a wrong mode
        super().__init__(relative, seed=seed)
        self.mode, self.distribution = mode, distribution
        self.kind, self.strides, self.groups = kind, strides, groups
        self.input_axes, self.output_axes = input_axes, output_axes

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """Weights of a shape; or, given a built layer, that layer with such weights and bias 0."""
        if isinstance(shape, layers.Layer):
            return self._set(shape)
        kind = replace(KINDS[self.kind], strides=self.strides, groups=self.groups)
        if self.input_axes is not None and self.output_axes is not None:
            named = {axis % len(shape) for axis in (*self.input_axes, *self.output_axes)}
            others = tuple({*range(len(shape))} - named)  # no receptive field, in Keras
            kind = replace(kind, inputs=self.input_axes, outputs=self.output_axes, batch=others)
        return self._drawn(shape, dtype, kind)

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
        kind = replace(KINDS[known[0]], strides=strides, groups=groups)
        spread = scaling.bias_std(self.entry, self.mode, layer.bias is not None)
        layer.kernel.assign(self._drawn(layer.kernel.shape, layer.kernel.dtype, kind))
        if layer.bias is not None:
            layer.bias.assign(_biases(spread, self.seed)(layer.bias.shape, layer.bias.dtype))
        return layer

    def _drawn(self, shape: Any, dtype: Any, kind: Kind) -> Any:
        fans = scaling.fans(shape, kind)
        std = math.sqrt(scaling.variance(self.entry, self.mode, fans.fan_in, fans.fan_out))
        return draw(tuple(shape), std, self.distribution, fans, dtype, self.seed)

    def get_config(self) -> dict[str, Any]:
        """The arguments, and the constants in use as ``entry``."""
        kept = ("mode", "distribution", "kind", "strides", "groups", "input_axes", "output_axes")
        return {
            "activation": self.entry.activation,
            "std": self.entry.std,
            "seed": super().get_config()["seed"],
            **{name: getattr(self, name) for name in kept},
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
    table: scaling.Table = None,
    seed: int | None = None,
    kind: str = "linear",
    strides: Axes = 1,
    groups: int = 1,
    **params: float,
) -> dict[str, Any]:
    """Initializers with which signals and gradients both keep their size, by Keras's names.

    As in ``Dense(64, **critical("tanh"))``: a "kernel_initializer", which is a normal
    ``VarianceScaling`` with the mode "critical", which ``help(gainreg.adapters)`` explains, and a
    "bias_initializer", by default both at the critical std of the activation.
    """
    entry = scaling.entry_of(FRAMEWORK, activation, std, params, table)
    kernel = VarianceScaling(
        entry, "critical", "untruncated_normal", seed, kind=kind, strides=strides, groups=groups
    )
    bias = _biases(scaling.bias_std(entry, "critical"), seed)
    return {"kernel_initializer": kernel, "bias_initializer": bias}


def draw(
    shape: tuple[int, ...],
    std: float,
    distribution: str,
    fans: Fans,
    dtype: Any = None,
    seed: Any = None,
) -> Any:
    """Weights of a root mean square; ``fans`` are those of the shape, all else is as in
    ``keras.initializers``."""
    wanted = keras.backend.standardize_dtype(dtype)
    if "float" not in wanted:
        raise ParameterError(f"weights are floating-point numbers, got dtype {dtype!r}")
    if distribution != "orthogonal":
        own_fan_in = math.prod(shape[:-1])  # Keras divides by it
        return keras.initializers.VarianceScaling(
            std**2 * own_fan_in, "fan_in", distribution, seed=seed
        )(shape, dtype)
    columns = fans.matrix[-1]
    rows = math.prod(shape) // columns  # Keras has no copies, whose axes count as rows
    one = keras.initializers.Orthogonal(scaling.orthogonal_scale(std, rows, columns), seed=seed)
    # half precision has no QR factorisation
    matrix = one((rows, columns), "float32" if wanted in ("float16", "bfloat16") else wanted)
    weights = keras.ops.transpose(keras.ops.reshape(matrix, fans.unfolded), fans.places)
    return keras.ops.cast(weights, wanted)


def _biases(std: float, seed: Any) -> Any:
    """An initializer of biases; a seed that is a number would draw the weights' numbers again."""
    another = seed + 1 if isinstance(seed, int) else seed
    return keras.initializers.RandomNormal(0.0, std, another)
