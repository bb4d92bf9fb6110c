"""JAX, Flax and Equinox: initializer factories as in ``jax.nn.initializers``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gainreg import scaling
from gainreg.errors import ParameterError

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
    dtype: Any = None,
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
        dtype: of the weights, where ``init`` is not given one; None for JAX's default.
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
    dtype: Any = None,
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
    dtype: Any = None,
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
    dtype: Any = None,
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
        fan_in, fan_out, axes = scaling.fans(shape, in_axis, out_axis, batch_axis)
        batch, field, inputs, outputs = axes
        members, rows, columns = (
            math.prod(shape[axis] for axis in some) for some in (batch, field + inputs, outputs)
        )
        wanted = _floating(dtype)
        drawn = wanted if wanted.itemsize >= 4 else jnp.float32
        scale = math.sqrt(scaling.variance(entry, mode, fan_in, fan_out))
        draw = initializers.orthogonal(scaling.orthogonal_scale(scale, rows, columns), dtype=drawn)
        keys = jax.random.split(key, members) if batch else key[None]
        matrices = jax.vmap(lambda one: draw(one, (rows, columns), drawn))(keys)
        order = [*batch, *field, *inputs, *outputs]
        weights = matrices.reshape([shape[axis] for axis in order])
        weights = weights.transpose([order.index(axis) for axis in range(len(shape))])
        weights = weights.astype(wanted)
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
        fan_in, fan_out, _ = scaling.fans(shape, in_axis, out_axis, batch_axis)
        scale = fan_in * scaling.variance(entry, mode, fan_in, fan_out)
        draw = initializers.variance_scaling(
            scale, "fan_in", distribution, in_axis, out_axis, batch_axis
        )
        sharding = {} if out_sharding is None else {"out_sharding": out_sharding}
        return draw(key, tuple(shape), _floating(dtype), **sharding)

    return init


def _floating(dtype: Any) -> Any:
    """``dtype``, or JAX's default for None.

    Raises:
        ParameterError: it is not one of floating-point numbers.
    """
    wanted = jnp.result_type(float) if dtype is None else jnp.dtype(dtype)
    if not jnp.issubdtype(wanted, jnp.floating):
        raise ParameterError(f"weights are floating-point numbers, got dtype {dtype!r}")
    return wanted


def _entry(
    activation: Any, mode: str, std: float, table: scaling.Table, params: dict[str, float]
) -> GainEntry:
    entry = _JAX.entry(activation, std, params, table)
    scaling.variance(entry, mode, 1, 1)  # a wrong mode shows now, not at the first call of init
    return entry


def wrap(function: Callable[..., Any]) -> Activation:
    """A callable that JAX can trace as an ``Activation``, in float64 whatever the user's flags."""

    def forward(x: Any) -> Any:
        with jax.ensure_compile_time_eval(), _x64(True):
            return _double(function(jnp.asarray(x, jnp.float64)))

    def derivative(x: Any) -> Any:
        with jax.ensure_compile_time_eval(), _x64(True):
            y, pull = jax.vjp(function, jnp.asarray(x, jnp.float64))
            (slope,) = pull(jnp.ones_like(y))
            return _double(slope)

    return scaling.elementwise(function, forward, derivative)


def _double(y: Any) -> Any:
    """A JAX array of real numbers as a float64 one of NumPy; anything else as it is."""
    real = isinstance(y, jax.Array) and jnp.issubdtype(y.dtype, jnp.floating)
    return jax.device_get(y.astype(jnp.float64) if real else y)


# jax.enable_x64 stood in jax.experimental before JAX 0.8
_x64: Any = (jax if hasattr(jax, "enable_x64") else jax.experimental).enable_x64

_READERS: dict[str, scaling.Reader] = {
    **scaling.READERS,
    "gelu": lambda approximate=True: ("gelu_tanh" if approximate else "gelu", {}),
}
_JAX = scaling.Framework(
    functions=scaling.functions_in((jax.lax, jnp, jax.scipy.special, jax.nn), _READERS),
    objects={},
    wrap=wrap,
)
