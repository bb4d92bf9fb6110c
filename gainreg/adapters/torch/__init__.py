"""PyTorch: initialisers of single weights and chains (weights.py)."""

from gainreg.adapters.torch.weights import (
    calculate_gain,
    init_sequential_,
    normal_,
    orthogonal_,
    trunc_normal_,
    uniform_,
    wrap,
)

__all__ = [
    "calculate_gain",
    "init_sequential_",
    "normal_",
    "orthogonal_",
    "trunc_normal_",
    "uniform_",
    "wrap",
]
