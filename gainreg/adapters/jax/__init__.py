"""JAX, Flax and Equinox: whole models (models.py), and initializers of single weights and layers
(weights.py)."""

from gainreg.adapters.jax.weights import (
    FRAMEWORK,
    critical,
    normal,
    orthogonal,
    truncated_normal,
    uniform,
    wrap,
)

# The first says how to install what is missing.
# isort: split
from gainreg.adapters.jax.models import apply, initialize, measure, plan
from gainreg.adapters.jax.tracer import rule

__all__ = [
    "FRAMEWORK",
    "apply",
    "critical",
    "initialize",
    "measure",
    "normal",
    "orthogonal",
    "plan",
    "rule",
    "truncated_normal",
    "uniform",
    "wrap",
]
