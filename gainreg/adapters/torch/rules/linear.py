"""Operations with a weight: matrix products, convolutions and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gainreg.adapters.torch.tracer import Trace, rule
from gainreg.signals import layout as layouts
from gainreg.signals import operations
from gainreg.signals.layout import POSITION, UNIT
from gainreg.signals.signal import Signal
from gainreg.signals.trace import Computed, NotUnderstoodError

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
    return operations.masked(trace, bias, made) or trace.record(
        "add", [made, trace.signal(bias, made.layout)], made.layout, factors=(1.0, float(beta))
    )


@rule(aten.linear, alone=True)
def _linear(trace: Trace, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    layout = (*trace.signal(x).layout[:-1], ((UNIT, weight.shape[0]),))
    fan_in = weight.shape[1]
    return operations.linear(
        trace,
        x, weight, bias, layout, operation="linear", fan_in=fan_in, units=fan_in, over_last=True,
        together=_together(trace, weight, (1,)),
    )  # fmt: skip


def _together(trace: Trace, weight: Tensor, over: Sequence[int]) -> float:
    """What the weights of an output have in common, where they were computed and not just drawn."""
    if not isinstance(trace.entry(weight), Computed) or weight.is_meta or not weight.numel():
        return 0.0
    w = weight.detach().double()
    square = float(w.square().sum(tuple(over)).mean())
    return float(w.sum(tuple(over)).square().mean()) / square - 1 if square else 0.0


@rule(aten._grouped_mm)
def _grouped_product(
    trace: Trace, x: Tensor, weight: Tensor, offsets: Any = None, bias: Any = None, *rest: Any
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
        over_last=True,
    )


def _two_signals(trace: Trace, a: Tensor, b: Tensor) -> bool:
    return trace.is_signal(a) and trace.is_signal(b)


def matrix_product(trace: Trace, a: Tensor, b: Tensor, bias: Tensor | None) -> Any:
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
        together=_together(trace, weight, (-2 if x is a and b.dim() > 1 else -1,)),
        common=operations.shared(summed_over, layout),
    )


def _applies(trace: Trace, weight: Tensor) -> bool:
    """Whether a product without signals is a layer on a constant or a parameter, such as class
    tokens or coordinates: layers transpose their weights."""
    return trace.is_weight(weight) and weight.dim() == 2 and weight.stride(-1) != 1


class Taps(NamedTuple):
    """What ``taps_inside`` takes, of one axis of a convolution."""

    large: int
    small: int
    kernel: int
    stride: int
    before: int
    dilation: int


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
    trace.slide(trace.signal(x), range(2, x.dim()))
    kernel = weight.shape[2:]
    channels = weight.shape[0] // groups if transposed else weight.shape[1]
    layout = (
        trace.signal(x).layout[0],
        ((UNIT, y.shape[1]),),
        *(((POSITION, size),) for size in y.shape[2:]),
    )
    padded = None if transposed else trace.signal(x).padded
    axes = []
    for axis in range(len(kernel)):
        large, small, before = x.shape[axis + 2], y.shape[axis + 2], padding[axis]
        if transposed:  # the same pairs, counted from the other side
            large, small = small, large
        if padded is not None:
            large, before = padded.shape[axis + 2], before + padded.before[axis + 2]
        axes.append(Taps(large, small, kernel[axis], stride[axis], before, dilation[axis]))
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
        inside=None if padded is None else padded.signal,
        together=0.0 if transposed else _together(trace, weight, range(1, weight.dim())),
        **_inside(axes, y.shape[2:]),
    )
    if transposed:
        trace.upsampled[made.node] = axes
    return made


def _inside(axes: Sequence[Taps], shape: Sequence[int]) -> dict[str, Any]:
    """The share of taps that lie inside, and that of those which two outputs have in common."""
    sides = zip(axes, shape, strict=True)
    taps, common = layouts.inside((layouts.taps_inside(*axis), n) for axis, n in sides)
    return {"taps": taps, "common": common}


def cropped(trace: Trace, x: Tensor, axis: int, start: int) -> Signal | None:
    """The middle of what a transposed convolution just made, as if that had been padded by so much
    more, which is how Keras pads it; None if x is nothing of the kind."""
    signal, y = trace.entry(x), trace.outputs[0]
    if not isinstance(signal, Signal) or signal.node is not trace.tape.nodes[-1] or axis < 2:
        return None
    axes = trace.upsampled.get(signal.node)
    if axes is None:
        return None
    own = axes[axis - 2]
    axes[axis - 2] = own._replace(large=y.shape[axis], before=own.before + start)
    node = signal.node
    node.layout = layouts.fitted(signal.layout, y.shape)
    node.facts.update(_inside(axes, y.shape[2:]))
    vars(node).pop("size", None)  # it is computed from the layout
    return Signal(node, node.layout)


@rule(aten.embedding, alone=True)
def _embedding(trace: Trace, weight: Tensor, indices: Tensor, *rest: Any) -> Any:
    return operations.looked_up(trace, weight, indices, indices.shape, whole=True)


@rule(aten._embedding_bag, aten._embedding_bag_forward_only, alone=True)
def _embedding_bag(
    trace: Trace, weight: Tensor, indices: Tensor, offsets: Tensor, scale: bool, mode: int,
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
