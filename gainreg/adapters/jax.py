"""JAX, Flax and Equinox: initializer factories as in ``jax.nn.initializers``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gainreg import scaling
from gainreg.errors import ParameterError
from gainreg.scaling import always

try:
    import jax
    import jax.experimental
    import jax.numpy as jnp
    from jax.nn import initializers
except ImportError as error:  # pragma: no cover
    raise scaling.missing("JAX", "jax", error) from error

if TYPE_CHECKING:
    from gainreg.activation import Activation
    from gainreg.entry import GainEntry

Axes = int | Sequence[int]


def normal(
    activation: str | Activation | GainEntry | Callable[..., Any],
    mode: str = "fan_in",
    *,
    std: float = 1.0,
    table: scaling.Table = None,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = jnp.float32,
    **params: float,
) -> Callable[..., jax.Array]:
    """An initializer of weights from a normal distribution of mean 0.

    It has the signature of ``jax.nn.initializers``: ``init(key, shape, dtype, out_sharding)``.

    Args:
        activation: the one whose output feeds the weights ("identity" for data): a name, a
            ``gainreg.Activation``, a ``GainEntry``, a function of ``jax.nn`` or ``jax.numpy``, a
            ``functools.partial`` of one, or any callable that JAX can trace. ``jax.nn.gelu`` is
            the tanh approximation by default, the name "gelu" the exact function.
        mode: "fan_in" keeps the forward variance, "fan_out" the gradient variance, "fan_avg"
            makes the compromise of Glorot and Bengio (2010).
        std: standard deviation of the pre-activation, not its variance.
        table: a ``GainTable`` or its path: every constant comes from there.
        in_axis, out_axis, batch_axis: as in ``jax.nn.initializers.variance_scaling``; the axes in
            none of them are a convolution's receptive field.
        dtype: of the weights, where ``init`` is not given one.
        **params: the activation's parameters, where they differ from the defaults.

    Raises:
        ParameterError: a shape (by ``init``), mode, param or std is not what it must be.
        MomentError: the gain does not exist, as "fan_out" where φ jumps.
        TableError: ``table`` lacks the entry.
        UnknownActivationError, PluginError: as ``gainreg.resolve``.
    """
    entry = _entry(activation, mode, std, table, params)
    return _scaled("normal", entry, mode, in_axis, out_axis, batch_axis, dtype)


def uniform(
    activation: str | Activation | GainEntry | Callable[..., Any],
    mode: str = "fan_in",
    *,
    std: float = 1.0,
    table: scaling.Table = None,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = jnp.float32,
    **params: float,
) -> Callable[..., jax.Array]:
    """An initializer from a uniform distribution on (−√3·s, √3·s) of std s; see normal."""
    entry = _entry(activation, mode, std, table, params)
    return _scaled("uniform", entry, mode, in_axis, out_axis, batch_axis, dtype)


def truncated_normal(
    activation: str | Activation | GainEntry | Callable[..., Any],
    mode: str = "fan_in",
    *,
    std: float = 1.0,
    table: scaling.Table = None,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = jnp.float32,
    **params: float,
) -> Callable[..., jax.Array]:
    """An initializer from a normal distribution cut off at twice its std; see normal.

    It is widened so that what is left has the standard deviation that ``normal`` would give.
    """
    entry = _entry(activation, mode, std, table, params)
    return _scaled("truncated_normal", entry, mode, in_axis, out_axis, batch_axis, dtype)


def orthogonal(
    activation: str | Activation | GainEntry | Callable[..., Any],
    mode: str = "fan_in",
    *,
    std: float = 1.0,
    table: scaling.Table = None,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = jnp.float32,
    **params: float,
) -> Callable[..., jax.Array]:
    """An initializer of semi-orthogonal matrices of the mean square of ``normal``; see normal.

    The axes of outputs are one side of the matrix, all others but the batch the other; each member
    of the batch is a matrix of its own. Half precision is drawn in float32, which has the QR
    factorisation. Saxe et al. 2014, arXiv:1312.6120.
    """
    entry = _entry(activation, mode, std, table, params)

    def init(
        key: jax.Array, shape: Sequence[int], dtype: Any = dtype, out_sharding: Any = None
    ) -> jax.Array:
        inputs, outputs = _sizes(shape, in_axis, out_axis)
        out, batch = _normalised(out_axis, shape), _normalised(batch_axis, shape)
        rest = [axis for axis in range(len(shape)) if axis not in (*out, *batch)]
        order = [*batch, *rest, *out]
        members = math.prod(shape[axis] for axis in batch)
        rows = math.prod(shape[axis] for axis in rest)
        receptive = rows // inputs
        scale = math.sqrt(scaling.variance(entry, mode, inputs * receptive, outputs * receptive))
        factor = scaling.orthogonal_scale(scale, rows, outputs)
        drawn_dtype = jnp.promote_types(dtype, jnp.float32)
        draw = initializers.orthogonal(factor, dtype=drawn_dtype)
        keys = jax.random.split(key, members) if batch else key[None]
        matrices = jax.vmap(lambda one: draw(one, (rows, outputs)))(keys)
        weights = matrices.reshape([shape[axis] for axis in order])
        back = [order.index(axis) for axis in range(len(shape))]
        weights = weights.transpose(back).astype(dtype)
        return weights if out_sharding is None else jax.device_put(weights, out_sharding)

    return init


# --- fans and activations ---


def _scaled(
    distribution: Any,
    entry: GainEntry,
    mode: str,
    in_axis: Axes,
    out_axis: Axes,
    batch_axis: Axes,
    dtype: Any,
) -> Callable[..., jax.Array]:
    """``variance_scaling`` with the scale that follows from the shape."""

    def init(
        key: jax.Array, shape: Sequence[int], dtype: Any = dtype, out_sharding: Any = None
    ) -> jax.Array:
        inputs, outputs = _sizes(shape, in_axis, out_axis)
        # the receptive field multiplies both fans; variance_scaling divides by it once
        scale = inputs * scaling.variance(entry, mode, inputs, outputs)
        draw = initializers.variance_scaling(
            scale, "fan_in", distribution, in_axis, out_axis, batch_axis, dtype
        )
        sharding = {} if out_sharding is None else {"out_sharding": out_sharding}
        return draw(key, shape, dtype, **sharding)

    return init


def _normalised(axes: Axes, shape: Sequence[int]) -> tuple[int, ...]:
    """Axes counted from 0.

    Raises:
        ParameterError: the shape has no such axis.
    """
    found = (axes,) if isinstance(axes, int) else tuple(axes)
    if any(not -len(shape) <= axis < len(shape) for axis in found):
        raise ParameterError(
            f"weights need two axes, one in and one out, got shape {tuple(shape)} and axes {axes}"
        )
    return tuple(axis % len(shape) for axis in found)


def _sizes(shape: Sequence[int], in_axis: Axes, out_axis: Axes) -> tuple[int, int]:
    """Numbers of input and output channels.

    Raises:
        ParameterError: the shape lacks an axis, or has no elements.
    """
    inputs, outputs = (
        math.prod(shape[axis] for axis in _normalised(axes, shape)) for axes in (in_axis, out_axis)
    )
    if 0 in shape:
        raise ParameterError(f"fans must be above 0, got shape {tuple(shape)} without elements")
    return inputs, outputs


def _entry(
    activation: Any, mode: str, std: float, table: scaling.Table, params: dict[str, float]
) -> GainEntry:
    entry = scaling.recognised(
        activation, std, params, table, functions=_FUNCTIONS, objects={}, wrap=wrap
    )
    scaling.variance(entry, mode, 1, 1)  # a wrong mode shows now, not at the first call of init
    return entry


def wrap(function: Callable[..., Any]) -> Activation:
    """A callable that JAX can trace as an ``Activation``, in float64 whatever the user's flags."""

    def forward(x: Any) -> Any:
        with jax.ensure_compile_time_eval(), _x64(True):
            return jax.device_get(function(jnp.asarray(x, jnp.float64)))

    def derivative(x: Any) -> Any:
        with jax.ensure_compile_time_eval(), _x64(True):
            y, pull = jax.vjp(function, jnp.asarray(x, jnp.float64))
            (slope,) = pull(jnp.ones_like(y))
            return jax.device_get(slope)

    return scaling.elementwise(function, forward, derivative)


# jax.enable_x64 stood in jax.experimental before JAX 0.8
_x64: Any = (jax if hasattr(jax, "enable_x64") else jax.experimental).enable_x64

_READERS: dict[str, scaling.Reader] = {
    **{
        name: always(name)
        for name in (
            *("abs", "cos", "erf", "exp", "glu", "hard_sigmoid", "hard_silu", "hard_swish"),
            *("hard_tanh", "identity", "log_sigmoid", "log_softmax", "mish", "relu", "relu6"),
            *("selu", "sigmoid", "sign", "silu", "sin", "soft_sign", "softmax", "softplus"),
            *("sparse_plus", "sparse_sigmoid", "square", "swish", "tanh"),
        )
    },
    "absolute": always("abs"),
    "arcsinh": always("asinh"),
    "arctan": always("atan"),
    "asinh": always("asinh"),
    "atan": always("atan"),
    "celu": lambda alpha=1.0: ("celu", {"alpha": alpha}),
    "elu": lambda alpha=1.0: ("elu", {"alpha": alpha}),
    "expit": always("sigmoid"),
    "gelu": lambda approximate=True: ("gelu_tanh" if approximate else "gelu", {}),
    "leaky_relu": lambda negative_slope=0.01: ("leaky_relu", {"negative_slope": negative_slope}),
    "logistic": always("sigmoid"),
    "positive": always("identity"),
    "squareplus": lambda b=4.0: ("squareplus", {"b": b}),
}
_FUNCTIONS: dict[Any, scaling.Reader] = {
    getattr(home, name): reader
    for name, reader in _READERS.items()
    for home in (jax.lax, jnp, jax.scipy.special, jax.nn)
    if hasattr(home, name)
}
