"""Keras 3: an initializer of single weights and layers (weights.py), on any backend; whole models
(models.py), on torch and jax; and what it calls an activation (activations.py)."""

from gainreg.adapters.keras.activations import FRAMEWORK
from gainreg.adapters.keras.models import apply_, initialize_, measure, plan
from gainreg.adapters.keras.weights import VarianceScaling, critical

__all__ = [
    "FRAMEWORK",
    "VarianceScaling",
    "apply_",
    "critical",
    "initialize_",
    "measure",
    "plan",
]
