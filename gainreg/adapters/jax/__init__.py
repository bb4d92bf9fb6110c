"""JAX, Flax and Equinox: initializers of single weights and layers (weights.py), whole models
(models.py), and what they call an activation (activations.py)."""

from gainreg.adapters.jax.activations import FRAMEWORK, wrap
from gainreg.adapters.jax.models import apply, initialize, measure, plan
from gainreg.adapters.jax.tracer import rule
from gainreg.adapters.jax.weights import critical, normal, orthogonal, truncated_normal, uniform

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
