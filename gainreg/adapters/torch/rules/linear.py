"""Operations with a weight: matrix products, convolutions and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gainreg.adapters.torch.rules.attention import contraction, masked
from gainreg.adapters.torch.tracer import (
    NotUnderstoodError,
    Tokens,
    Trace,
    Weight,
    rule,
)
from gainreg.signals import layout as layouts
from gainreg.signals.layout import POSITION, SAMPLE, UNIT
from gainreg.signals.signal import Signal

aten = torch.ops.aten


# --- weights ---


@rule(aten.mm, aten.bmm, aten.mv, aten.dot, alone=True)
def _product(trace: Trace, a: Tensor, b: Tensor) -> Any:
    return matrix_product(trace, a, b, None)


@rule(aten.addmm, aten.baddbmm, aten.addmv, alone=True)
def _product_plus(
    trace: Trace, bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Any:
    if trace.is_weight(bias) and beta == alpha == 1 and not _two_signals(trace, a, b):
        return matrix_product(trace, a, b, bias)
    made = matrix_product(trace, a, b, None)
    if alpha != 1:
        made = trace.record("add", [made], made.layout, factors=(float(alpha),))
    if not beta:
        return made
    return masked(trace, bias, made) or trace.record(
        "add", [made, trace.signal(bias, made.layout)], made.layout, factors=(1.0, float(beta))
    )


@rule(aten.linear, alone=True)
def _linear(trace: Trace, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    layout = (*trace.signal(x).layout[:-1], ((UNIT, weight.shape[0]),))
    fan_in = weight.shape[1]
    return trace.linear(
        x, weight, bias, layout, operation="linear", fan_in=fan_in, units=fan_in, over_last=True
    )


def _two_signals(trace: Trace, a: Tensor, b: Tensor) -> bool:
    return trace.is_signal(a) and trace.is_signal(b)


def matrix_product(trace: Trace, a: Tensor, b: Tensor, bias: Tensor | None) -> Any:
    """Signals and weights on either side; two signals are attention's scores or sums."""
    if _two_signals(trace, a, b):
        return contraction(trace, a, b)
    if not trace.is_signal(a) and not trace.is_signal(b) and not _applies(trace, b):
        return trace.without_signal(a, b)  # a weight that is computed, as in low-rank adapters
    if not trace.is_signal(b):
        x, weight = a, b
        x_layout = trace.signal(a).layout
        fan_in = a.shape[-1]
        summed_over = x_layout[-1]
        last = ((_role(summed_over), b.shape[-1]),)
        layout = (*x_layout[:-1], last) if b.dim() > 1 else x_layout[:-1]
    else:
        x, weight = b, a
        x_layout = trace.signal(b).layout
        fan_in = a.shape[-1]
        summed_over = x_layout[-2] if b.dim() > 1 else x_layout[0]
        batch = x_layout[: b.dim() - 2] if b.dim() > 2 else ()
        layout = (
            (*batch, ((_role(summed_over), a.shape[-2]),), *x_layout[-1:])
            if b.dim() > 1
            else (((UNIT, a.shape[0]),),)
        )
    mixes = any(role == POSITION for role, _ in summed_over)
    return trace.linear(
        x,
        weight,
        bias,
        layout,
        operation="linear",
        fan_in=fan_in,
        units=fan_in,
        mixes=mixes,
        over_last=x is a and b.dim() > 1,
    )


def _role(summed_over: layouts.Axis) -> str:
    """What a weight's outputs are: positions where it sums over nothing else, as token mixing."""
    return POSITION if {role for role, _ in summed_over} == {POSITION} else UNIT


def _applies(trace: Trace, weight: Tensor) -> bool:
    """Whether a product without signals is a layer on a constant or a parameter, such as class
    tokens or coordinates: layers transpose their weights."""
    return trace.is_weight(weight) and weight.dim() == 2 and weight.stride(-1) != 1


@rule(aten.convolution, aten.cudnn_convolution, aten.miopen_convolution, alone=True)
def _convolution(
    trace: Trace,
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
    kernel = weight.shape[2:]
    channels = weight.shape[0] // groups if transposed else weight.shape[1]
    layout = (
        trace.signal(x).layout[0],
        ((UNIT, y.shape[1]),),
        *(((POSITION, size),) for size in y.shape[2:]),
    )
    padded = None if transposed else trace.signal(x).padded
    inside = 1.0
    for axis in range(len(kernel)):
        large, small, before = x.shape[axis + 2], y.shape[axis + 2], padding[axis]
        if transposed:  # the same pairs, counted from the other side
            large, small = small, large
        if padded is not None:
            large, before = padded.shape[axis + 2], before + padded.before[axis + 2]
        used = layouts.taps_inside(large, small, kernel[axis], stride[axis], before, dilation[axis])
        inside *= used / (kernel[axis] * y.shape[axis + 2])
    return trace.linear(
        x,
        weight,
        bias,
        layout,
        operation="transposed convolution" if transposed else "convolution",
        fan_in=channels * math.prod(kernel),
        units=channels,
        taps=inside,
        inside=None if padded is None else padded.signal,
        steps=math.prod(stride),
        transposed=transposed,
    )


@rule(aten.embedding, alone=True)
def _embedding(trace: Trace, weight: Tensor, indices: Tensor, *rest: Any) -> Any:
    return looked_up(trace, weight, indices, weight.shape[-1])


@rule(aten._embedding_bag, aten._embedding_bag_forward_only, alone=True)
def _embedding_bag(
    trace: Trace, weight: Tensor, indices: Tensor, offsets: Tensor, scale: bool, mode: int,
    *rest: Any, **more: Any,
) -> Any:  # fmt: skip
    made = looked_up(trace, weight, indices, weight.shape[-1], whole=False)
    if not isinstance(made, Signal) or mode > 1:
        raise NotUnderstoodError
    n = indices.numel() / max(1, offsets.numel())
    layout = layouts.of_input(trace.outputs[0].shape)
    factor = 1.0 if mode else n
    bag = trace.record("mean", [made], layout, units=1, positions=n, samples=1, factor=factor)
    return bag, None, None, None


def looked_up(trace: Trace, weight: Tensor, indices: Tensor, units: int, whole: bool = True) -> Any:
    """Rows of a table: its own to set by tokens, as it is by anything else, as positions."""
    entry = trace.entry(weight)
    y = trace.outputs[0]
    if not isinstance(entry, Weight):
        return trace.signal(weight) if isinstance(entry, Signal) else entry
    if not isinstance(trace.entry(indices), Tokens):
        if y.device.type == "meta":
            return entry
        trace.tape.keep(entry.name, "a position or type embedding: kept as it is")
        layout = _of_rows(indices, units, y)
        return _given(trace, y, layout, entry.name)
    layout = _of_rows(indices, units, y)
    made = trace.record("embedding", [], layout, units=units, copies=float(indices.numel()))
    made.node.weight = entry.name
    if whole:
        trace.weighed(made.node, y, y, y.numel())
    return made


def _of_rows(indices: Tensor, units: int, y: Tensor) -> layouts.Layout:
    roles = (SAMPLE, *([POSITION] * max(0, indices.dim() - 1)))
    rows = tuple(((role, n),) for role, n in zip(roles, indices.shape, strict=False))
    return (*rows, ((UNIT, units),)) if len(rows) + 1 == y.dim() else layouts.of_input(y.shape)


def _given(trace: Trace, y: Tensor, layout: layouts.Layout, phrase: str) -> Signal:
    from gainreg.adapters.torch.tracer import measured

    return trace.record("given", [], layout, moments=measured(y, layout), phrase=phrase)
