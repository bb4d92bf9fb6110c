"""PyTorch: initialisers of weights, layers and chains (weights.py); what it calls an activation."""

from gainreg.adapters.torch.activations import FRAMEWORK, wrap
from gainreg.adapters.torch.weights import (
    calculate_gain,
    critical_,
    init_sequential_,
    normal_,
    orthogonal_,
    trunc_normal_,
    uniform_,
)

__all__ = [
    "FRAMEWORK",
    "calculate_gain",
    "critical_",
    "init_sequential_",
    "normal_",
    "orthogonal_",
    "trunc_normal_",
    "uniform_",
    "wrap",
]
