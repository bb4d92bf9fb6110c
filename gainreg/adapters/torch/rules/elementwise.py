"""Elementwise operations of which the algebra knows more than their values, and their names in the
registry."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gainreg.adapters.torch.tracer import NAMED, TorchTrace, rule
from gainreg.signals import layout as layouts
from gainreg.signals import operations
from gainreg.signals.signal import Signal
from gainreg.signals.trace import Constant, Mask, NotUnderstoodError

aten = torch.ops.aten


# --- elementwise, where the algebra knows more than the operation's values ---


@rule(aten.add, alone=True)
def _add(trace: TorchTrace, a: Any, b: Any, *, alpha: float = 1) -> Any:
    return operations.summed(trace, a, b, 1.0, float(alpha))


@rule(aten.sub, alone=True)
def _subtract(trace: TorchTrace, a: Any, b: Any, *, alpha: float = 1) -> Any:
    return operations.summed(trace, a, b, 1.0, -float(alpha))


@rule(aten.rsub, alone=True)
def _reverse_subtract(trace: TorchTrace, a: Any, b: Any, alpha: float = 1) -> Any:
    return operations.summed(trace, a, b, -float(alpha), 1.0)


@rule(aten.neg, alone=True)
def _negative(trace: TorchTrace, x: Tensor) -> Any:
    return operations.line(trace, x, -1.0)


@rule(aten.mul, alone=True)
def _multiply(trace: TorchTrace, a: Any, b: Any) -> Any:
    return operations.multiplied(trace, a, b)


@rule(aten.div, alone=True)
def _divide(trace: TorchTrace, a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    if not isinstance(b, Tensor) and rounding_mode is None:
        return operations.line(trace, a, 1 / float(b)) if b else None
    if not any(trace.is_signal(t) for t in (a, b)):
        return trace.without_signal(*(t for t in (a, b) if isinstance(t, Tensor)))
    if rounding_mode is None and isinstance(a, Tensor) and trace.is_signal(b):
        return operations.divided(trace, a, b)
    if rounding_mode is None and isinstance(a, Tensor) and not trace.is_weight(b):
        return operations.multiplied(trace, a, b.reciprocal())
    return trace.elementwise(aten.div, a, b, rounding_mode=rounding_mode)


@rule(aten.clamp)
def _clamp(trace: TorchTrace, x: Tensor, *bounds: Any, **named: Any) -> Any:
    """Bounds that a model keeps as tensors of one number, which may be infinite, are numbers."""
    numbers = {name: trace.number(bound) for name, bound in named.items()}
    return trace.elementwise(aten.clamp, x, *map(trace.number, bounds), **numbers)


@rule(aten.bernoulli, alone=True)
def _bernoulli(
    trace: TorchTrace, x: Tensor, p: float | None = None, *, generator: Any = None
) -> Any:
    if p is None and not str(trace.operation).endswith("default"):  # ATen leaves out a p of 0.5
        p = 0.5
    if p is None and isinstance(share := trace.number(x), float):  # x holds the probabilities
        p = float(str(np.float32(share)))  # in single precision 0.9 is 0.89999998
    return Mask(float(p)) if isinstance(p, (int, float)) else None


@rule(aten.native_dropout)
def _native_dropout(trace: TorchTrace, x: Tensor, p: float, train: bool | None) -> Any:
    if train is False or not p:
        return trace.signal(x), None
    return operations.dropped(trace, x, Mask(1 - p, 1 / (1 - p)), True), None


@rule(aten.cos, aten.sin, alone=True)
def _wave(trace: TorchTrace, x: Tensor) -> Any:
    if trace.is_signal(x):
        return trace.elementwise(aten.cos if "cos" in str(trace.operation) else aten.sin, x)
    # of constants without values, most often the angles of rotary embeddings
    return Constant(0.0, 0.5) if x.device.type == "meta" else None


@rule(aten.tril, alone=True)
def _triangle(trace: TorchTrace, x: Tensor, diagonal: int = 0) -> Any:
    return Constant(triangular=True) if x.device.type == "meta" else None


@rule(aten.pow)
def _power(trace: TorchTrace, x: Any, exponent: Any) -> Any:
    return trace.elementwise(aten.pow, x, exponent)


@rule(aten.log_sigmoid_forward)
def _log_sigmoid(trace: TorchTrace, x: Tensor) -> Any:
    return trace.elementwise(aten.log_sigmoid, x), None


@rule(aten.addcmul)
def _add_product(trace: TorchTrace, x: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Any:
    layout, (first, left, right) = trace.broadcast(x, a, b)
    made = trace.record("multiply", [left, right], layout)
    return trace.record("add", [first, made], layout, factors=(1.0, float(value)))


@rule(aten.lerp)
def _interpolate(trace: TorchTrace, a: Tensor, b: Tensor, weight: Any) -> Any:
    if isinstance(weight, Tensor):
        raise NotUnderstoodError
    layout, signals = trace.broadcast(a, b)
    return trace.record("add", signals, layout, factors=(1 - weight, weight))


# --- activations of a kind of their own ---


@rule(aten.glu)
def _gated(trace: TorchTrace, x: Tensor, dim: int = -1) -> Any:
    signal, dim = trace.signal(x), dim % x.dim()
    half = x.shape[dim] // 2
    layout = layouts.fitted(signal.layout, trace.outputs[0].shape)
    a, b = (
        trace.record("view", [signal], layout, view=("slice", dim, i * half, half, 1))
        for i in (0, 1)
    )
    gate = trace.record("elementwise", [b], layout, operation=trace.operation_of(aten.sigmoid))
    return trace.record("multiply", [a, gate], layout)


@rule(aten._prelu_kernel, aten.prelu)
def _prelu(trace: TorchTrace, x: Tensor, weight: Tensor) -> Any:
    _, square = trace.statistics(weight, 0.25)
    return _leaky(trace, x, math.sqrt(square))


@rule(aten.rrelu_with_noise, aten.rrelu)
def _rrelu(trace: TorchTrace, x: Tensor, *rest: Any, **more: Any) -> Any:
    numbers = [value for value in rest if isinstance(value, float)]
    low, high = numbers if len(numbers) == 2 else (1 / 8, 1 / 3)
    training = any(value is True for value in rest)
    square = (low**2 + low * high + high**2) / 3 if training else ((low + high) / 2) ** 2
    return _leaky(trace, x, math.sqrt(square))


def _leaky(trace: TorchTrace, x: Tensor, slope: float) -> Signal:
    """Of several slopes the root mean square, which gives the average over channels."""
    signal = trace.signal(x)
    operation = trace.operation_of(aten.leaky_relu, slope)
    return trace.record("elementwise", [signal], operation=operation)


# --- activations that the registry has, by ATen's names for their parameters ---


def _plain(name: str) -> Any:
    return lambda **_: (name, {})


def _gelu(approximate: str = "none") -> Any:
    return ("gelu_tanh" if approximate == "tanh" else "gelu"), {}


def _elu(alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Any:
    if scale == input_scale == 1:
        return "elu", {"alpha": float(alpha)}
    return None


NAMED.update(
    {
        **{getattr(aten, name): _plain(name) for name in (
            "relu", "sigmoid", "tanh", "silu", "mish", "erf", "sin", "abs", "relu6", "selu",
        ) if hasattr(aten, name)},
        aten.gelu: _gelu,
        aten.leaky_relu: lambda slope=0.01: ("leaky_relu", {"negative_slope": float(slope)}),
        aten.elu: _elu,
    }
)  # fmt: skip
