"""Keras 3: an initializer of single weights and layers (weights.py), on any backend; whole models
(models.py), on torch and jax."""

from gainreg.adapters.keras.weights import FRAMEWORK, VarianceScaling, critical

# The first says how to install what is missing.
# isort: split
from gainreg.adapters.keras.models import apply_, initialize_, measure, plan

__all__ = [
    "FRAMEWORK",
    "VarianceScaling",
    "apply_",
    "critical",
    "initialize_",
    "measure",
    "plan",
]
