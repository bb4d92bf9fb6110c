"""Operations with a weight: matrix products, convolutions and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gainreg.adapters.torch.tracer import TorchTrace, rule
from gainreg.signals import layout as layouts
from gainreg.signals import operations
from gainreg.signals.functions import FloatArray
from gainreg.signals.layout import POSITION, UNIT, Taps
from gainreg.signals.signal import Signal
from gainreg.signals.trace import NotUnderstoodError

aten = torch.ops.aten


# --- weights ---


@rule(aten.mm, aten.bmm, aten.mv, aten.dot, alone=True)
def _product(trace: TorchTrace, a: Tensor, b: Tensor) -> Any:
    return matrix_product(trace, a, b, None)


@rule(aten.addmm, aten.baddbmm, aten.addmv, alone=True)
def _product_plus(
    trace: TorchTrace, bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Any:
    if trace.is_weight(bias) and beta == alpha == 1 and not _two_signals(trace, a, b):
        return matrix_product(trace, a, b, bias)
    made = matrix_product(trace, a, b, None)
    if alpha != 1:
        made = trace.record("add", [made], made.layout, factors=(float(alpha),))
    if not beta:
        return made
    return operations.masked(trace, bias, made) or trace.record(
        "add", [made, trace.signal(bias, made.layout)], made.layout, factors=(1.0, float(beta))
    )


@rule(aten.linear, alone=True)
def _linear(trace: TorchTrace, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    own, fan_in = trace.signal(x).layout, weight.shape[1]
    layout = (*own[:-1], ((UNIT, weight.shape[0]),))
    return operations.linear(
        trace,
        x, weight, bias, layout, operation="linear", fan_in=fan_in, units=fan_in, over_last=True,
        matrix=_as_it_is, over=own[-1:],
    )  # fmt: skip


def _as_it_is(numbers: FloatArray) -> FloatArray:
    return np.atleast_2d(numbers)


def _turned(numbers: FloatArray) -> FloatArray:
    return np.atleast_2d(np.swapaxes(numbers, -1, -min(2, numbers.ndim)))


@rule(aten._grouped_mm)
def _grouped_product(
    trace: TorchTrace, x: Tensor, weight: Tensor, offsets: Any = None, bias: Any = None, *rest: Any
) -> Any:
    """Experts side by side, each for the rows that are its own."""
    if not trace.is_weight(weight):
        raise NotUnderstoodError
    fan_in, units = weight.shape[-2:]
    layout = (*trace.signal(x).layout[:-1], ((UNIT, units),))
    return operations.linear(
        trace,
        x,
        weight,
        bias,
        layout,
        operation="linear",
        fan_in=fan_in,
        units=fan_in,
        matrix=_turned,
        over_last=True,
    )


def _two_signals(trace: TorchTrace, a: Tensor, b: Tensor) -> bool:
    return trace.is_signal(a) and trace.is_signal(b)


def matrix_product(trace: TorchTrace, a: Tensor, b: Tensor, bias: Tensor | None) -> Any:
    """Signals and weights on either side; two signals are attention's scores or sums."""
    if _two_signals(trace, a, b):
        left, right = trace.signal(a), trace.signal(b)
        layout = left.layout[:-1] + (right.layout[-1:] if b.dim() > 1 else ())
        over = left.layout[-1], right.layout[max(0, b.dim() - 2)]
        return operations.contracted(trace, left, right, over, layout)
    if not trace.is_signal(a) and not trace.is_signal(b) and not _applies(trace, b):
        return trace.without_signal(a, b)  # a weight that is computed, as in low-rank adapters
    if not trace.is_signal(b):
        x, weight = a, b
        x_layout = trace.signal(a).layout
        fan_in = a.shape[-1]
        summed_over = x_layout[-1]
        last = ((operations.role(summed_over), b.shape[-1]),)
        layout = (*x_layout[:-1], last) if b.dim() > 1 else x_layout[:-1]
    else:
        x, weight = b, a
        x_layout = trace.signal(b).layout
        fan_in = a.shape[-1]
        summed_over = x_layout[-2] if b.dim() > 1 else x_layout[0]
        batch = x_layout[: b.dim() - 2] if b.dim() > 2 else ()
        layout = (
            (*batch, ((operations.role(summed_over), a.shape[-2]),), *x_layout[-1:])
            if b.dim() > 1
            else (((UNIT, a.shape[0]),),)
        )
    return operations.linear(
        trace,
        x,
        weight,
        bias,
        layout,
        operation="linear",
        fan_in=fan_in,
        units=fan_in,
        over_last=x is a and b.dim() > 1,
        matrix=_turned if x is a else _as_it_is,
        over=[summed_over],
        common=operations.shared(summed_over, layout),
    )


def _applies(trace: TorchTrace, weight: Tensor) -> bool:
    """Whether a product without signals is a layer on a constant or a parameter, such as class
    tokens or coordinates: layers transpose their weights."""
    return trace.is_weight(weight) and weight.dim() == 2 and weight.stride(-1) != 1


@rule(aten.convolution, aten.cudnn_convolution, aten.miopen_convolution, alone=True)
def _convolution(
    trace: TorchTrace,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    y = trace.outputs[0]
    trace.slide(trace.signal(x), range(2, x.dim()))
    kernel = weight.shape[2:]
    channels = weight.shape[0] // groups if transposed else weight.shape[1]
    layout = (
        trace.signal(x).layout[0],
        ((UNIT, y.shape[1]),),
        *(((POSITION, size),) for size in y.shape[2:]),
    )
    stride, padding, dilation = (  # one number is meant for all axes
        [*each] * len(kernel) if len(each) == 1 else each for each in (stride, padding, dilation)
    )
    axes = []
    for axis in range(len(kernel)):
        (large, zeros), small = trace.signal(x).unpadded(axis + 2), y.shape[axis + 2]
        step, apart, between, before = stride[axis], dilation[axis], 1, padding[axis]
        if transposed:  # a convolution of what lies so far apart, its taps in reverse
            step, before, between = 1, apart * (kernel[axis] - 1) - before, step
        before += zeros * between
        axes.append(Taps(large, small, kernel[axis], step, before, apart, between))

    def matrix(numbers: FloatArray) -> FloatArray:
        if transposed:
            sides = numbers.reshape(groups, channels, -1, *kernel).swapaxes(1, 2)
            numbers = np.flip(sides, tuple(range(3, sides.ndim)))
        return numbers.reshape(y.shape[1], -1)

    made = operations.linear(
        trace,
        x,
        weight,
        bias,
        layout,
        operation="transposed convolution" if transposed else "convolution",
        fan_in=channels * math.prod(kernel),
        units=channels,
        groups=groups,
        matrix=matrix,
        over=trace.signal(x).layout[2:],
        windows=axes,
    )
    if transposed and made.node.rule == "linear":
        trace.upsampled[made.node] = axes
    return made


def cropped(trace: TorchTrace, x: Tensor, axis: int, start: int) -> Signal | None:
    """The middle of what a transposed convolution just made, as if that had been padded by so much
    more, which is how Keras pads it; None if x is nothing of the kind."""
    signal, y = trace.entry(x), trace.outputs[0]
    if not isinstance(signal, Signal) or signal.node is not trace.tape.nodes[-1] or axis < 2:
        return None
    axes = trace.upsampled.get(signal.node)
    if axes is None:
        return None
    own = axes[axis - 2]
    axes[axis - 2] = own._replace(small=y.shape[axis], before=own.before - start)
    node = signal.node
    node.layout = layouts.fitted(signal.layout, y.shape)
    node.facts["taps"], node.facts["common"] = layouts.inside(axes)
    vars(node).pop("size", None)  # it is computed from the layout
    return Signal(node, node.layout)


@rule(aten.embedding, alone=True)
def _embedding(trace: TorchTrace, weight: Tensor, indices: Tensor, *rest: Any) -> Any:
    return operations.looked_up(trace, weight, indices, indices.shape, whole=True)


@rule(aten._embedding_bag, aten._embedding_bag_forward_only, alone=True)
def _embedding_bag(
    trace: TorchTrace, weight: Tensor, indices: Tensor, offsets: Tensor, scale: bool, mode: int,
    *rest: Any, **more: Any,
) -> Any:  # fmt: skip
    made = operations.looked_up(trace, weight, indices, indices.shape, whole=False)
    if not isinstance(made, Signal) or mode > 1:
        raise NotUnderstoodError
    n = indices.numel() / max(1, offsets.numel())
    layout = layouts.of_input(trace.outputs[0].shape)
    factor = 1.0 if mode else n
    bag = trace.record("mean", [made], layout, units=1, positions=n, samples=1, factor=factor)
    return bag, None, None, None
