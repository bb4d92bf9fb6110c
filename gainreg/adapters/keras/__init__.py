"""Keras 3, any backend: an initializer of single weights and layers (weights.py)."""

from gainreg.adapters.keras.weights import FRAMEWORK, VarianceScaling, critical

__all__ = ["FRAMEWORK", "VarianceScaling", "critical"]
