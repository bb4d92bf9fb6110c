"""What JAX calls an activation: its functions, and callables that it can trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gainreg import frameworks
from gainreg.errors import missing

try:
    import jax
    import jax.experimental
    import jax.numpy as jnp
except ImportError as error:  # pragma: no cover
    raise missing(__package__, "jax", error) from error

LENGTHS = (256, 8192)  # most that is asked of φ fits into one of these


def _evaluate(
    function: Callable[..., Any],
) -> tuple[frameworks.Function, frameworks.Function]:
    """φ and φ′ of what JAX can trace, in float64 whatever the user's flags."""

    def slope(x: jax.Array) -> Any:
        y, pull = jax.vjp(function, x)
        return pull(jnp.ones_like(y))[0]

    def in_float64(f: Callable[..., Any]) -> frameworks.Function:
        def evaluate(x: Any) -> Any:
            # JAX compiles anew for every length, in up to a second, so there are but two
            length = LENGTHS[x.size > LENGTHS[0]]
            parts = np.pad(x, (0, -x.size % length), "edge").reshape(-1, length)
            with jax.ensure_compile_time_eval(), _x64(True):
                found = [_double(f(jnp.asarray(part, jnp.float64))) for part in parts]
            whole = all(np.shape(y) == (length,) for y in found)
            return np.concatenate(found)[: x.size] if whole else found[0]

        return evaluate

    return in_float64(function), in_float64(slope)


def _double(y: Any) -> Any:
    """A JAX array of real numbers as a float64 one of NumPy; anything else as it is."""
    real = isinstance(y, jax.Array) and jnp.issubdtype(y.dtype, jnp.floating)
    return jax.device_get(y.astype(jnp.float64) if real else y)


# jax.enable_x64 stood in jax.experimental before JAX 0.8
_x64: Any = (jax if hasattr(jax, "enable_x64") else jax.experimental).enable_x64

FRAMEWORK = frameworks.Framework((jax.nn, jnp, jax.lax, jax.scipy.special), _evaluate)
wrap = FRAMEWORK.wrap
