"""What PyTorch calls an activation: its functions, modules, and callables on its tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from gainreg import frameworks
from gainreg.errors import ParameterError, missing

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
except ImportError as error:  # pragma: no cover
    raise missing(__package__, "torch", error) from error


def _evaluate(
    function: Callable[..., Any],
) -> tuple[frameworks.Function, frameworks.Function]:
    """φ on the CPU in float64, and φ′ through autograd."""

    if isinstance(function, nn.Module):
        # a copy, which evaluation may change, and in double precision, if it has parameters
        function = copy.deepcopy(function).to("cpu", torch.float64)

    def tensor(x: Any, **options: Any) -> Tensor:
        return torch.tensor(x, dtype=torch.float64, device="cpu", **options)

    def forward(x: Any) -> Any:
        with torch.inference_mode(False), torch.no_grad():
            return _double(function(tensor(x)))

    def derivative(x: Any) -> Any:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = tensor(x, requires_grad=True)
            y = function(leaf.clone())  # no leaf, as φ may work in place
            (slope,) = torch.autograd.grad(y.sum(), leaf, materialize_grads=True)
        return _double(slope)

    return forward, derivative


def _double(y: Any) -> Any:
    """A tensor as an array, in float64 if its numbers are real; anything else as it is."""
    if not isinstance(y, Tensor):
        return y
    return (y.double() if y.is_floating_point() else y).numpy(force=True)


def _prelu(weight: Tensor) -> frameworks.Named:
    if weight.is_meta:
        raise ParameterError("the slope of a PReLU on the meta device has no value yet")
    slopes = weight.detach().flatten().tolist()
    return "prelu", {"weight": frameworks.root_mean_square(slopes)}


def _rrelu(lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False) -> frameworks.Named:
    if training:
        return "rrelu", {"lower": lower, "upper": upper}
    return "leaky_relu", {"negative_slope": (lower + upper) / 2}


def _softplus(beta: float = 1.0, threshold: float = 20.0) -> frameworks.Named | None:
    # a line from beta·x = threshold on: by default, where a double does not tell them apart
    return ("softplus", {"beta": beta}) if threshold >= 20 else None


FRAMEWORK = frameworks.Framework(
    homes=(functional, torch, torch.special, Tensor, Tensor.__base__, nn),
    evaluate=_evaluate,
    layers=nn.Module,
    exceptions={
        "prelu": _prelu,
        "rrelu": _rrelu,
        "softplus": _softplus,
    },
)
wrap = FRAMEWORK.wrap
