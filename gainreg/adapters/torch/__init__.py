"""PyTorch: weights, layers and chains (weights.py), whole models (models.py), and what it calls an
activation (activations.py)."""

from gainreg.adapters.torch.activations import FRAMEWORK as FRAMEWORK
from gainreg.adapters.torch.activations import wrap
from gainreg.adapters.torch.chain import init_sequential_
from gainreg.adapters.torch.models import apply_, initialize_, measure, plan
from gainreg.adapters.torch.tracer import rule
from gainreg.adapters.torch.weights import (
    calculate_gain,
    critical_,
    normal_,
    orthogonal_,
    trunc_normal_,
    uniform_,
)

__all__ = [
    "apply_",
    "calculate_gain",
    "critical_",
    "init_sequential_",
    "initialize_",
    "measure",
    "normal_",
    "orthogonal_",
    "plan",
    "rule",
    "trunc_normal_",
    "uniform_",
    "wrap",
]
