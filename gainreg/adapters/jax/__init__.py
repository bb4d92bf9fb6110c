"""JAX, Flax and Equinox: initializers of single weights and layers (weights.py)."""

from gainreg.adapters.jax.weights import (
    FRAMEWORK,
    critical,
    normal,
    orthogonal,
    truncated_normal,
    uniform,
    wrap,
)

__all__ = [
    "FRAMEWORK",
    "critical",
    "normal",
    "orthogonal",
    "truncated_normal",
    "uniform",
    "wrap",
]
