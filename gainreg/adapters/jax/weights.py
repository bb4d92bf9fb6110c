"""JAX, Flax and Equinox: initializer factories as in ``jax.nn.initializers``."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from gainreg import scaling
from gainreg.adapters.jax.activations import FRAMEWORK
from gainreg.errors import ParameterError
from gainreg.params import check_choice
from gainreg.scaling import Axes, Fans, Kind

if TYPE_CHECKING:
    from gainreg.activation import Activation
    from gainreg.entry import GainEntry

KINDS = {
    "linear": Kind(inputs=-2, outputs=-1),
    "transposed": Kind(inputs=-2, outputs=-1, transposed=True),
    "equinox": Kind(inputs=1, outputs=0),
    "equinox_transposed": Kind(inputs=1, outputs=0, transposed=True),
}


Recipe = Callable[[str], Callable[..., Any]]  # from a distribution to an initializer


# --- initializers ---


def _initializer(
    entry: GainEntry, mode: str, kind: Kind, dtype: Any, distribution: Any
) -> Callable[..., Any]:
    """The initializer that draws from a distribution that JAX has, or "orthogonal"."""

    def init(key: Any, shape: Any, dtype: Any = dtype, out_sharding: Any = None) -> Any:
        with_layers = filter(None, map(sys.modules.get, ("equinox", "flax.nnx")))
        if isinstance(shape, tuple(package.Module for package in with_layers)):
            return _layer(key, shape, entry, mode, distribution)
        fans = scaling.fans(shape, kind)
        std = math.sqrt(scaling.variance(entry, mode, fans.fan_in, fans.fan_out))
        return draw(key, shape, std, distribution, fans, _floating(dtype), out_sharding)

    return init


def _recipe(
    activation: str | Activation | GainEntry | Callable[..., Any],
    mode: str = "fan_in",
    *,
    std: float | None = 1.0,
    table: scaling.Table = None,
    kind: str = "linear",
    strides: Axes = 1,
    groups: int = 1,
    in_axis: Axes | None = None,
    out_axis: Axes | None = None,
    batch_axis: Axes = (),
    dtype: Any = None,
    **params: float,
) -> Recipe:
    check_choice(kind, "kind", KINDS)
    entry = scaling.entry_of(FRAMEWORK, activation, std, params, table)
    scaling.variance(entry, mode, 1, 1)  # a wrong mode shows now, not at the first call of init
    stored = replace(KINDS[kind], batch=batch_axis, strides=strides, groups=groups)
    if in_axis is not None:
        stored = replace(stored, inputs=in_axis)
    if out_axis is not None:
        stored = replace(stored, outputs=out_axis)
    return partial(_initializer, entry, mode, stored, dtype)


@scaling.takes(_recipe)
def normal(recipe: Recipe) -> Callable[..., Any]:
    """An initializer of weights from a normal distribution of mean 0.

    It has the signature of ``jax.nn.initializers``, ``init(key, shape, dtype, out_sharding)``, and
    takes a layer in place of a shape: ``init(key, layer)`` sets a Flax NNX layer's weights in place
    and its bias to 0, and returns it; of an Equinox layer it returns one with such weights. A
    Linear, Conv or ConvTranspose tells its layout, strides and groups. By a shape they must be
    said: an Equinox layer, or a convolution with strides or groups, is silently wrong otherwise.

    Args:
        activation: the one whose output feeds the weights, as for all adapters; also a function of
            ``jax.nn`` or ``jax.numpy``, or any callable that JAX can trace. ``jax.nn.gelu`` is the
            tanh approximation by default, the name "gelu" the exact function.
        mode, std, table, params: as for all adapters; see ``help(gainreg.adapters)``, which says
            what is raised too, by this function or by ``init``.
        kind: of the layer: "linear" for Flax's dense and convolution kernels, (…, in, out),
            "transposed" for its transposed convolutions, "equinox" and "equinox_transposed" for
            Equinox's (out, in, …).
        strides: of a convolution: fan_in is divided by their product if it is transposed, fan_out
            otherwise, in the mean over positions.
        groups: of a convolution (``feature_group_count``; of a depthwise one all its inputs).
        in_axis, out_axis, batch_axis: as in ``jax.nn.initializers.variance_scaling``, where the
            layout is another; axes in none of them are a convolution's receptive field.
        dtype: of the weights, where ``init`` is not given one; None for JAX's default.
    """
    return recipe("normal")


@scaling.takes(_recipe)
def uniform(recipe: Recipe) -> Callable[..., Any]:
    """An initializer from a uniform distribution; see normal."""
    return recipe("uniform")


@scaling.takes(_recipe)
def truncated_normal(recipe: Recipe) -> Callable[..., Any]:
    """An initializer from a normal distribution cut off at twice its std; see normal."""
    return recipe("truncated_normal")


@scaling.takes(_recipe)
def orthogonal(recipe: Recipe) -> Callable[..., Any]:
    """An initializer of semi-orthogonal matrices, one for each member of the batch; see normal."""
    return recipe("orthogonal")


def critical(
    activation: str | Activation | GainEntry | Callable[..., Any],
    *,
    std: float | None = None,
    table: scaling.Table = None,
    kind: str = "linear",
    strides: Axes = 1,
    groups: int = 1,
    dtype: Any = None,
    **params: float,
) -> dict[str, Callable[..., Any]]:
    """Initializers with which signals and gradients both keep their size, by Flax's names.

    As in ``linen.Dense(64, **critical("tanh"))``: a "kernel_init", which is ``normal`` with the
    mode "critical", which ``help(gainreg.adapters)`` explains, and a "bias_init", by default both
    at the critical std of the activation. Called with a layer in place of a shape, "kernel_init"
    sets its weights and its bias.
    """
    entry = scaling.entry_of(FRAMEWORK, activation, std, params, table)
    kernel = normal(entry, "critical", kind=kind, strides=strides, groups=groups, dtype=dtype)
    bias = initializers.normal(scaling.bias_std(entry, "critical"), _floating(dtype))
    return {"kernel_init": kernel, "bias_init": bias}


def draw(
    key: Any,
    shape: Sequence[int],
    std: float,
    distribution: Any,
    fans: Fans,
    dtype: Any,
    out_sharding: Any = None,
) -> jax.Array:
    """Weights of a root mean square; ``fans`` are those of the shape, all else is as in
    ``jax.nn.initializers``."""
    if distribution != "orthogonal":
        own_fan_in = math.prod(shape[:-1])  # JAX divides by it
        scaled = initializers.variance_scaling(std**2 * own_fan_in, "fan_in", distribution)
        sharding = {} if out_sharding is None else {"out_sharding": out_sharding}
        return scaled(key, tuple(shape), dtype, **sharding)
    copies, rows, columns = fans.matrix
    drawn = dtype if dtype.itemsize >= 4 else jnp.float32  # half precision has no QR factorisation
    one = initializers.orthogonal(scaling.orthogonal_scale(std, rows, columns), dtype=drawn)
    keys = jax.random.split(key, copies) if copies > 1 else key[None]
    matrices = jax.vmap(lambda key: one(key, (rows, columns), drawn))(keys)
    weights = matrices.reshape(fans.unfolded).transpose(fans.places).astype(dtype)
    return weights if out_sharding is None else jax.device_put(weights, out_sharding)


def _floating(dtype: Any) -> Any:
    """``dtype``, or JAX's default for None.

    Raises:
        ParameterError: it is not one of floating-point numbers.
    """
    wanted = jnp.result_type(float) if dtype is None else jnp.dtype(dtype)
    if not jnp.issubdtype(wanted, jnp.floating):
        raise ParameterError(f"weights are floating-point numbers, got dtype {dtype!r}")
    return wanted


# --- layers ---


def _layer(key: Any, layer: Any, entry: GainEntry, mode: str, distribution: str) -> Any:
    """A layer with weights and bias drawn: a new one of Equinox, the same one of NNX."""
    equinox: Any = sys.modules.get("equinox")
    nnx: Any = sys.modules.get("flax.nnx")
    if equinox and isinstance(layer, (equinox.nn.Linear, equinox.nn.Conv)):
        kind = KINDS["equinox"]
    elif equinox and isinstance(layer, equinox.nn.ConvTranspose):
        kind = KINDS["equinox_transposed"]
    elif nnx and isinstance(layer, (nnx.Linear, nnx.Conv)):
        kind = KINDS["linear"]
    elif nnx and isinstance(layer, nnx.ConvTranspose):
        kind = KINDS["transposed"]
        if layer.transpose_kernel:
            kind = replace(kind, inputs=-1, outputs=-2)
    else:
        raise ParameterError(
            f"{type(layer).__name__} is no Linear, Conv or ConvTranspose of Flax NNX or Equinox; "
            "give the shape of its weights, and kind, strides, groups or axes as they are"
        )
    strides = getattr(layer, "stride", None) or getattr(layer, "strides", None) or 1
    groups = getattr(layer, "groups", None) or getattr(layer, "feature_group_count", None) or 1
    kind = replace(kind, strides=strides, groups=groups)
    init = _initializer(entry, mode, kind, None, distribution)
    spread = scaling.bias_std(entry, mode, layer.bias is not None)
    weight = layer.weight if hasattr(layer, "weight") else layer.kernel
    drawn = [init(key, weight.shape, weight.dtype)]
    if layer.bias is not None:
        own_key = jax.random.fold_in(key, 1)
        drawn += [spread * jax.random.normal(own_key, layer.bias.shape, layer.bias.dtype)]
    if hasattr(layer, "weight"):
        leaves = ("weight", "bias")[: len(drawn)]
        return equinox.tree_at(lambda it: [getattr(it, leaf) for leaf in leaves], layer, drawn)
    for variable, numbers in zip((layer.kernel, layer.bias), drawn, strict=False):
        variable[...] = numbers
    return layer
