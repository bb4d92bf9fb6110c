"""What each ATen operation is, in the terms of gainreg.signals: a row of the design's table each.

A rule takes the trace and the operation's own arguments, and returns what its output is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gainreg.adapters.torch.tracer import (
    _NAMED,
    MASKED,
    Constant,
    Mask,
    NotUnderstoodError,
    Padded,
    Signal,
    Tokens,
    Trace,
    Weight,
    rule,
)
from gainreg.signals import layout as layouts
from gainreg.signals.layout import POSITION, SAMPLE, UNIT
from gainreg.signals.softmax import Rows, causal, grouped
from gainreg.signals.state import Permutation
from gainreg.signals.tape import Node

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
    return trace.linear(x, weight, bias, layout, operation="linear", fan_in=fan_in, units=fan_in)


def _two_signals(trace: Trace, a: Tensor, b: Tensor) -> bool:
    return trace.is_signal(a) and trace.is_signal(b)


def matrix_product(trace: Trace, a: Tensor, b: Tensor, bias: Tensor | None) -> Any:
    """Signals and weights on either side; two signals are attention's scores or sums."""
    if _two_signals(trace, a, b):
        return contraction(trace, a, b)
    if not trace.is_signal(a) and not trace.is_signal(b) and not _applies(trace, b):
        return _no_signal(trace, a, b)  # a weight that is computed, as in low-rank adapters
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
        x, weight, bias, layout, operation="linear", fan_in=fan_in, units=fan_in, mixes=mixes
    )


def _role(summed_over: layouts.Axis) -> str:
    """What a weight's outputs are: positions where it sums over nothing else, as token mixing."""
    return POSITION if {role for role, _ in summed_over} == {POSITION} else UNIT


def _applies(trace: Trace, weight: Tensor) -> bool:
    """Whether a product without signals is a layer on a constant or a parameter, such as class
    tokens or coordinates: layers transpose their weights."""
    return trace.is_weight(weight) and weight.dim() == 2 and weight.stride(-1) != 1


def contraction(trace: Trace, a: Tensor, b: Tensor) -> Signal:
    """Σ a·b of two signals over a's last axis."""
    left, right = trace.signal(a), trace.signal(b)
    width = a.shape[-1]
    layout = (*left.layout[:-1], *right.layout[-1:]) if b.dim() > 1 else left.layout[:-1]
    for weights, value in ((left, right), (right, left)):  # p·v, and vᵀ·pᵀ
        node = origin(weights.node)
        if node.rule != "softmax":
            continue
        inputs = [weights, value, Signal(node.inputs[0], ())]
        scored = origin(node.inputs[0])
        keys = scored.inputs[1] if scored.rule == "scores" else scored
        common = common_width(keys, value.node)
        return trace.record("attend", inputs, layout, size=width, common=common)
    along = layouts.role(left.layout[-1])
    return trace.record("scores", [left, right], layout, width=width, positions=along == POSITION)


def origin(node: Node) -> Node:
    """Where a signal comes from, but for what leaves it what it is."""
    while node.rule in ("view", "dropout", "scale", "add") and node.inputs:
        if len(node.inputs) > 1:  # a sum with a mask or a bias
            signals = [parent for parent in node.inputs if parent.rule != "given"]
            if len(signals) != 1:
                return node
            node = signals[0]
        else:
            node = node.inputs[0]
    return node


def common_width(key: Node, value: Node) -> int | None:
    """How many units keys and values are both images of; None if they are not."""
    found = [_image_of(node) for node in (key, value)]
    (a, width), (b, _) = found
    return width if a is not None and a is b else None


def _image_of(node: Node) -> tuple[Node | None, int]:
    while node.rule in ("view", "add", "normalise", "scale", "concatenate") and node.inputs:
        node = node.inputs[0]
    if node.rule != "linear":
        return None, 1
    return node.inputs[0], int(node.facts["units"])


def comes_from(signal: Signal, rule: str) -> bool:
    """Whether a signal is a rule's output, but for what leaves it what it is."""
    return origin(signal.node).rule == rule


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
        used = _taps_inside(large, small, kernel[axis], stride[axis], before, dilation[axis])
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


def _taps_inside(
    large: int, small: int, kernel: int, stride: int, padding: int, dilation: int
) -> int:
    """Pairs of an output and a tap that lies inside the input, along one axis."""
    total = 0
    for tap in range(kernel):
        offset = tap * dilation - padding  # 0 ≤ i·stride + offset < large
        first = max(0, -(offset // stride))
        last = min(small - 1, (large - 1 - offset) // stride)
        total += max(0, last - first + 1)
    return total


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


# --- elementwise, where the algebra knows more than the operation's values ---


@rule(aten.add, alone=True)
def _add(trace: Trace, a: Any, b: Any, *, alpha: float = 1) -> Any:
    return summed(trace, a, b, 1.0, float(alpha))


@rule(aten.sub, alone=True)
def _subtract(trace: Trace, a: Any, b: Any, *, alpha: float = 1) -> Any:
    return summed(trace, a, b, 1.0, -float(alpha))


@rule(aten.rsub, alone=True)
def _reverse_subtract(trace: Trace, a: Any, b: Any, alpha: float = 1) -> Any:
    return summed(trace, a, b, -float(alpha), 1.0)


def summed(trace: Trace, a: Any, b: Any, j: float, k: float) -> Any:
    """j·a + k·b, of tensors and numbers."""
    if not isinstance(a, Tensor):
        a, b, j, k = b, a, k, j
    if not isinstance(b, Tensor):
        return _line(trace, a, j, k * float(b))
    if not any(trace.is_signal(t) for t in (a, b)):
        return _no_signal(trace, a, b)
    if j == k == 1.0:
        biased = trace.biased(a, b) or trace.biased(b, a)
        if biased is not None:
            return biased
        for mask, scores in ((a, b), (b, a)):
            signal = trace.entry(scores)
            if isinstance(signal, Signal) and (found := masked(trace, mask, signal)):
                return found
    layout, signals = trace.broadcast(a, b)
    return trace.record("add", signals, layout, factors=(j, k))


def _no_signal(trace: Trace, *tensors: Tensor) -> Any:
    return trace._without_signal([trace.entry(t) for t in tensors], trace.outputs)


def _line(trace: Trace, x: Tensor, factor: float, shift: float = 0.0) -> Any:
    """factor·x + shift."""
    entry = trace.entry(x)
    if isinstance(entry, Mask) and not shift:
        return replace(entry, factor=entry.factor * factor)
    if isinstance(entry, Constant) and not entry.triangular:
        square = factor**2 * entry.square + 2 * factor * shift * entry.mean + shift**2
        return Constant(factor * entry.mean + shift, square)
    if not isinstance(entry, Signal):
        return _no_signal(trace, x)
    if factor == 1.0 and not shift:
        return entry
    made = trace.record("add", [entry], entry.layout, factors=(factor,), shift=shift)
    return replace(made, rows=entry.rows)


@rule(aten.neg, alone=True)
def _negative(trace: Trace, x: Tensor) -> Any:
    return _line(trace, x, -1.0)


@rule(aten.mul, alone=True)
def _multiply(trace: Trace, a: Any, b: Any) -> Any:
    if not isinstance(a, Tensor):
        a, b = b, a
    if not isinstance(b, Tensor):
        return _line(trace, a, float(b))
    for x, other in ((a, b), (b, a)):
        entry = trace.entry(other)
        if not trace.is_signal(x):
            continue
        if isinstance(entry, Mask):
            return dropped(trace, x, entry, other.numel() == x.numel())
        if not isinstance(entry, Signal) and other.numel() > 1:
            return scaled(trace, x, other)
    if not any(trace.is_signal(t) for t in (a, b)):
        return _no_signal(trace, a, b)
    layout, signals = trace.broadcast(a, b)
    return trace.record("multiply", signals, layout)


@rule(aten.div, alone=True)
def _divide(trace: Trace, a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    if not isinstance(b, Tensor) and rounding_mode is None:
        return _line(trace, a, 1 / float(b)) if b else None
    if not any(trace.is_signal(t) for t in (a, b)):
        return _no_signal(trace, *(t for t in (a, b) if isinstance(t, Tensor)))
    if rounding_mode is None and isinstance(a, Tensor) and trace.is_signal(b):
        layout, (x, y) = trace.broadcast(a, b)
        one = trace.elementwise(aten.reciprocal, b)
        return trace.record("multiply", [x, replace(one, layout=y.layout)], layout)
    return trace.elementwise(aten.div, a, b, rounding_mode=rounding_mode)


def scaled(trace: Trace, x: Tensor, other: Tensor) -> Signal:
    """A signal times a parameter or a constant tensor."""
    layout, (signal, _) = trace.broadcast(x, x)
    entry = trace.entry(other)
    learned = entry.name if isinstance(entry, Weight) else ""
    if learned:
        trace.tape.keep(learned, "a scale: kept as it is")
    if other.device.type == "meta":
        if isinstance(entry, Constant):
            made = trace.record("scale", [signal], layout, mean=entry.mean, square=entry.square)
        elif trace.is_weight(other):
            trace.tape.warn(
                "parameters that are kept have no values on the meta device: scales count as 1, "
                "and all that is added as 0"
            )
            made = trace.record("scale", [signal], layout, mean=1.0, square=1.0)
        else:
            layout, signals = trace.broadcast(x, other)
            made = trace.record("multiply", signals, layout)
        made.node.weight = learned
        return made
    _, (_, given) = trace.broadcast(x, other)
    moments = given.node.facts["moments"]
    anew = moments.across_positions < moments.second_moment * 0.999
    made = trace.record(
        "scale",
        [signal],
        layout,
        mean=moments.mean,
        square=moments.second_moment,
        positions=moments.across_positions if anew else None,
    )
    made.node.weight = learned
    return made


def dropped(trace: Trace, x: Tensor, mask: Mask, elements: bool) -> Signal:
    """A signal times what dropout drew."""
    return trace.record(
        "dropout", [trace.signal(x)], keep=mask.keep, factor=mask.factor, elements=elements
    )


@rule(aten.bernoulli, alone=True)
def _bernoulli(trace: Trace, x: Tensor, p: float = 0.5, *, generator: Any = None) -> Any:
    return Mask(float(p)) if isinstance(p, (int, float)) else None


@rule(aten.native_dropout)
def _native_dropout(trace: Trace, x: Tensor, p: float, train: bool | None) -> Any:
    if train is False or not p:
        return trace.signal(x), None
    return dropped(trace, x, Mask(1 - p, 1 / (1 - p)), True), None


@rule(aten.cos, aten.sin, alone=True)
def _wave(trace: Trace, x: Tensor) -> Any:
    if trace.is_signal(x):
        return trace.elementwise(aten.cos if "cos" in str(trace.operation) else aten.sin, x)
    # of constants without values, most often the angles of rotary embeddings
    return Constant(0.0, 0.5) if x.device.type == "meta" else None


@rule(aten.tril, alone=True)
def _triangle(trace: Trace, x: Tensor, diagonal: int = 0) -> Any:
    return Constant(triangular=True) if x.device.type == "meta" else None


@rule(aten.pow)
def _power(trace: Trace, x: Any, exponent: Any) -> Any:
    return trace.elementwise(aten.pow, x, exponent)


@rule(aten.addcmul)
def _add_product(trace: Trace, x: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Any:
    layout, (first, left, right) = trace.broadcast(x, a, b)
    made = trace.record("multiply", [left, right], layout)
    return trace.record("add", [first, made], layout, factors=(1.0, float(value)))


@rule(aten.lerp)
def _interpolate(trace: Trace, a: Tensor, b: Tensor, weight: Any) -> Any:
    if isinstance(weight, Tensor):
        raise NotUnderstoodError
    layout, signals = trace.broadcast(a, b)
    return trace.record("add", signals, layout, factors=(1 - weight, weight))


@rule(aten.masked_fill, alone=True)
def _masked_fill(trace: Trace, x: Tensor, mask: Tensor, value: Any) -> Any:
    if not trace.is_signal(x):
        return trace.entry(x) if isinstance(trace.entry(x), (Tokens, Constant)) else None
    return _kept_where(trace, x, mask, value, keep=False)


@rule(aten.where, alone=True)
def _where(trace: Trace, condition: Tensor, a: Any = None, b: Any = None) -> Any:
    if trace.is_signal(condition) or b is None:
        raise NotUnderstoodError
    if not trace.is_signal(a) and not trace.is_signal(b):
        tokens = [t for t in (a, b) if isinstance(trace.entry(t), Tokens)]
        return trace.entry(tokens[0]) if tokens else _no_signal(trace, condition)
    if trace.is_signal(a) and trace.is_signal(b):
        layout, signals = trace.broadcast(a, b)
        return trace.record("concatenate", signals, layout)
    x, other, keep = (a, b, True) if trace.is_signal(a) else (b, a, False)
    value = other
    if isinstance(other, Tensor):
        value = 0.0 if other.device.type == "meta" else float(other.double().mean())
        if other.device.type == "meta" and trace.entry(condition) is not None:
            value = -math.inf
    return _kept_where(trace, x, condition, value, keep)


def _kept_where(trace: Trace, x: Tensor, condition: Tensor, value: Any, keep: bool) -> Any:
    """x where a condition that no signal decides holds (or does not), else a number."""
    signal = trace.signal(x)
    value = float(value)
    if value < MASKED:
        left = condition if keep else ~condition
        return replace(signal, rows=_rows_of(trace, left, x.shape[-1]))
    if condition.device.type == "meta":
        return signal
    share = float((condition if keep else ~condition).double().mean())
    return trace.record("dropout", [signal], keep=share, factor=1.0, elements=True)


def masked(trace: Trace, mask: Any, signal: Signal) -> Signal | None:
    """Scores with a mask added; None if it is none."""
    if trace.is_signal(mask) or trace.is_weight(mask) or not comes_from(signal, "scores"):
        return None
    keys = layouts.size(signal.layout[-1])
    if mask.device.type == "meta":
        triangular = isinstance(trace.entry(mask), Constant)
        return replace(signal, rows=causal(keys) if triangular else None)
    if not bool((mask < MASKED).any()):
        return None if bool(mask.any()) else signal
    return replace(signal, rows=_rows_of(trace, mask > MASKED, keys))


def _rows_of(trace: Trace, left: Tensor, keys: int) -> Rows | None:
    """How many keys a mask leaves to which share of the rows."""
    if left.device.type == "meta":
        return causal(keys) if isinstance(trace.entry(left), Constant) else None
    counts = left.expand(*left.shape[:-1], keys).sum(-1).flatten().tolist()
    return grouped(counts) or None


# --- activations of a kind of their own ---


@rule(aten.glu)
def _gated(trace: Trace, x: Tensor, dim: int = -1) -> Any:
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
def _prelu(trace: Trace, x: Tensor, weight: Tensor) -> Any:
    _, square = trace.statistics(weight, 0.25)
    return _leaky(trace, x, math.sqrt(square))


@rule(aten.rrelu_with_noise, aten.rrelu)
def _rrelu(trace: Trace, x: Tensor, *rest: Any, **more: Any) -> Any:
    numbers = [value for value in rest if isinstance(value, float)]
    low, high = numbers if len(numbers) == 2 else (1 / 8, 1 / 3)
    training = any(value is True for value in rest)
    square = (low**2 + low * high + high**2) / 3 if training else ((low + high) / 2) ** 2
    return _leaky(trace, x, math.sqrt(square))


def _leaky(trace: Trace, x: Tensor, slope: float) -> Signal:
    """Of several slopes the root mean square, which gives the average over channels."""
    signal = trace.signal(x)
    operation = trace.operation_of(aten.leaky_relu, slope)
    return trace.record("elementwise", [signal], operation=operation)


# --- norms ---


@rule(aten.native_layer_norm, aten.layer_norm)
def _layer_norm(
    trace: Trace, x: Tensor, shape: Sequence[int], weight: Any, bias: Any, epsilon: float,
    *rest: Any,
) -> Any:  # fmt: skip
    signal = trace.signal(x)
    counts = layouts.count(signal.layout[-len(shape) :])
    units, positions = counts[UNIT], counts[POSITION] * counts[SAMPLE]
    return _normalised(
        trace, signal, weight, bias, epsilon, "layer norm", units, positions, 1
    ), None, None  # fmt: skip


@rule(aten._fused_rms_norm, aten.rms_norm)
def _rms_norm(
    trace: Trace, x: Tensor, shape: Sequence[int], weight: Any = None, epsilon: Any = None
) -> Any:
    signal = trace.signal(x)
    return _normalised(
        trace, signal, weight, None, epsilon or 0.0, "RMS norm", 1, 1, 1, centred=False
    ), None  # fmt: skip


@rule(aten.native_group_norm)
def _group_norm(
    trace: Trace, x: Tensor, weight: Any, bias: Any, n: int, channels: int, area: int,
    groups: int, epsilon: float,
) -> Any:  # fmt: skip
    signal = trace.signal(x)
    return _normalised(
        trace, signal, weight, bias, epsilon, "group norm", channels // groups, area, 1
    ), None, None  # fmt: skip


def _batch_norm(
    trace: Trace, x: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool,
    epsilon: float,
) -> Any:  # fmt: skip
    signal = trace.signal(x)
    others = layouts.count([axis for i, axis in enumerate(signal.layout) if i != 1])
    if training:
        return _normalised(
            trace, signal, weight, bias, epsilon, "batch norm", 1,
            others[POSITION] * others[UNIT], others[SAMPLE],
        )  # fmt: skip
    return _by_buffers(trace, signal, weight, bias, mean, variance, epsilon)


def _by_buffers(
    trace: Trace, signal: Signal, weight: Any, bias: Any, mean: Tensor, variance: Tensor,
    epsilon: float,
) -> Signal:  # fmt: skip
    """Batch norm in evaluation: a scale and a shift of each unit."""
    for tensor in (weight, bias):
        trace.statistics(tensor, 1.0)
    if mean.device.type == "meta":
        return signal
    factor = (variance.double() + epsilon).rsqrt()
    if weight is not None and weight.device.type != "meta":
        factor = factor * weight.detach().double()
    shift = -mean.double() * factor
    if bias is not None and bias.device.type != "meta":
        shift = shift + bias.detach().double()
    k, k2 = float(factor.mean()), float((factor * factor).mean())
    uniform = bool((factor == factor[0]).all())
    made = trace.record("scale", [signal], mean=k, square=k * k if uniform else k2)
    b, b2 = float(shift.mean()), float((shift * shift).mean())
    if bool((shift == shift[0]).all()):
        return trace.record("add", [made], factors=(1.0,), shift=b) if b else made
    from gainreg.signals.state import Moments

    given = trace.record("given", [], made.layout, moments=Moments(b, b2, b2, b2), phrase="shift")
    return trace.record("add", [made, given], made.layout, factors=(1.0, 1.0))


@rule(aten.native_batch_norm, aten.cudnn_batch_norm, aten.miopen_batch_norm)
def _native_batch_norm(
    trace: Trace, x: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool,
    momentum: float, epsilon: float,
) -> Any:  # fmt: skip
    return _batch_norm(trace, x, weight, bias, mean, variance, training, epsilon)


@rule(aten._native_batch_norm_legit, aten._native_batch_norm_legit_functional)
def _legit_batch_norm(trace: Trace, x: Tensor, weight: Any, bias: Any, *rest: Any) -> Any:
    mean, variance = (rest[0], rest[1]) if isinstance(rest[0], Tensor) else (None, None)
    training, _, epsilon = rest[-3:]
    return _batch_norm(trace, x, weight, bias, mean, variance, training, epsilon)


@rule(aten._batch_norm_with_update, aten._batch_norm_no_update)
def _updating_batch_norm(
    trace: Trace, x: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, momentum: float,
    epsilon: float,
) -> Any:  # fmt: skip
    return _batch_norm(trace, x, weight, bias, mean, variance, True, epsilon)


def _normalised(
    trace: Trace, signal: Signal, weight: Any, bias: Any, epsilon: float, phrase: str,
    units: int, positions: int, samples: int, centred: bool = True,
) -> Signal:  # fmt: skip
    scale, square = trace.statistics(weight, 1.0)
    shift, shift_square = trace.statistics(bias, 0.0)
    return trace.record(
        "normalise",
        [signal],
        units=units,
        positions=positions,
        samples=samples,
        square=square,
        scale=scale,
        shift=shift,
        shift_square=shift_square,
        centred=centred,
        epsilon=float(epsilon),
        phrase=phrase,
    )


# --- means and maxima ---


def _axes(x: Tensor, dim: Any) -> list[int]:
    if dim is None or dim == []:
        return list(range(x.dim()))
    return [axis % max(1, x.dim()) for axis in ([dim] if isinstance(dim, int) else dim)]


@rule(aten.mean)
def _mean(trace: Trace, x: Tensor, dim: Any = None, keepdim: bool = False, **rest: Any) -> Any:
    return averaged(trace, trace.signal(x), _axes(x, dim), keepdim, 1.0)


@rule(aten.sum)
def _sum(trace: Trace, x: Tensor, dim: Any = None, keepdim: bool = False, **rest: Any) -> Any:
    axes = _axes(x, dim)
    n = float(math.prod(x.shape[axis] for axis in axes))
    return averaged(trace, trace.signal(x), axes, keepdim, n)


def averaged(trace: Trace, signal: Signal, axes: list[int], keepdim: bool, factor: float) -> Signal:
    """factor·mean over axes."""
    layout, counts = layouts.reduced(signal.layout, axes, keepdim)
    return trace.record(
        "mean", [signal], layout,
        units=counts[UNIT], positions=counts[POSITION], samples=counts[SAMPLE], factor=factor,
    )  # fmt: skip


@rule(aten._adaptive_avg_pool2d, aten._adaptive_avg_pool3d)
def _adaptive_average_pool(trace: Trace, x: Tensor, size: Sequence[int]) -> Any:
    y = trace.outputs[0]
    n = math.prod(math.ceil(x.shape[-i] / y.shape[-i]) for i in range(1, len(size) + 1))
    return trace.record("mean", [trace.signal(x)], units=1, positions=n, samples=1)


@rule(aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d)
def _average_pool(
    trace: Trace,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Any:
    """A mean over what lies inside; where zeros outside are counted, it is so much smaller."""
    y, signal = trace.outputs[0], trace.signal(x)
    axes = y.dim() - 2
    kernel, stride, padding = (
        list(each) * axes if len(each) == 1 else list(each)
        for each in (kernel, stride or kernel, padding)
    )
    inside, padded = 1.0, signal.padded
    for axis in range(axes):
        large, before = x.shape[axis + 2], padding[axis]
        if padded is not None:
            large, before = padded.shape[axis + 2], before + padded.before[axis + 2]
        used = _taps_inside(large, y.shape[axis + 2], kernel[axis], stride[axis], before, 1)
        inside *= used / (kernel[axis] * y.shape[axis + 2])
    n = math.prod(kernel)
    counted = count_include_pad or padded is not None
    return trace.record(
        "mean",
        [signal if padded is None else padded.signal],
        layouts.fitted(signal.layout, y.shape),
        units=1,
        positions=n * inside,
        samples=1,
        factor=n * inside / divisor if divisor else inside if counted else 1.0,
    )


@rule(aten.upsample_linear1d, aten.upsample_bilinear2d, aten.upsample_trilinear3d)
def _blended(trace: Trace, x: Tensor, *rest: Any, **more: Any) -> Any:
    y = trace.outputs[0]
    share = 1.0
    for before, after in zip(x.shape[2:], y.shape[2:], strict=True):
        at = [((i + 0.5) * before / after - 0.5) % 1.0 for i in range(after)]
        share *= sum((1 - t) ** 2 + t**2 for t in at) / after
    return trace.record("mean", [trace.signal(x)], units=1, positions=1 / share, samples=1)


@rule(aten.var, aten.std)
def _variance(trace: Trace, x: Tensor, *rest: Any, **more: Any) -> Any:
    signal = trace.signal(x)
    y = trace.outputs[0]
    root = "std" in str(trace.operation)
    layout = (
        layouts.of_input(y.shape)
        if y.dim() != x.dim()
        else tuple(
            layouts.resized(axis, size) if size > 1 else ()
            for axis, size in zip(signal.layout, y.shape, strict=True)
        )
    )
    if y.dim() != x.dim():
        layout = tuple(axis for axis in signal.layout if layouts.size(axis) in y.shape)[: y.dim()]
    return trace.record("deviation", [signal], layout, root=root)


@rule(aten.var_mean)
def _variance_and_mean(trace: Trace, x: Tensor, dim: Any = None, **rest: Any) -> Any:
    keepdim = bool(rest.get("keepdim", False))
    mean = averaged(trace, trace.signal(x), _axes(x, dim), keepdim, 1.0)
    spread = trace.record("deviation", [trace.signal(x)], mean.layout, root=False)
    return spread, mean


@rule(aten.linalg_vector_norm)
def _vector_norm(
    trace: Trace, x: Tensor, order: float = 2, dim: Any = None, keepdim: bool = False, **rest: Any
) -> Any:
    if order != 2:
        raise NotUnderstoodError
    axes = _axes(x, dim)
    n = float(math.prod(x.shape[axis] for axis in axes))
    square = trace.elementwise(aten.pow, x, 2)
    square = replace(square, layout=trace.signal(x).layout)
    summed = averaged(trace, square, axes, keepdim, n)
    from gainreg.signals.functions import Operation

    root = Operation("root", lambda v: abs(v) ** 0.5)
    return trace.record("elementwise", [summed], summed.layout, operation=root)


@rule(aten.max_pool2d_with_indices, aten.max_pool3d_with_indices, aten.max_pool2d,
      aten.max_pool1d, aten.max_pool3d, aten.fractional_max_pool2d,
      aten.fractional_max_pool3d)  # fmt: skip
def _max_pool(trace: Trace, x: Tensor, kernel: Sequence[int], *rest: Any) -> Any:
    positions = math.prod(kernel if len(kernel) > 1 else [*kernel] * (x.dim() - 2))
    return trace.record("maximum", [trace.signal(x)], positions=positions), None


@rule(aten.fractional_max_pool2d, aten.fractional_max_pool3d)
def _fractional_max_pool(trace: Trace, x: Tensor, kernel: Sequence[int], *rest: Any) -> Any:
    return trace.record("maximum", [trace.signal(x)], positions=math.prod(kernel)), None


@rule(aten.adaptive_max_pool2d, aten.adaptive_max_pool3d)
def _adaptive_max_pool(trace: Trace, x: Tensor, size: Sequence[int]) -> Any:
    y = trace.outputs[0]
    positions = math.prod(math.ceil(x.shape[-i] / y.shape[-i]) for i in range(1, len(size) + 1))
    return trace.record("maximum", [trace.signal(x)], positions=positions), None


@rule(aten.amax, aten.max)
def _largest(trace: Trace, x: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    if isinstance(dim, Tensor):
        return trace.elementwise(aten.maximum, x, dim)
    axes = _axes(x, dim)
    signal = trace.signal(x)
    layout, counts = layouts.reduced(signal.layout, axes, keepdim)
    positions = counts[POSITION] * counts[SAMPLE]
    made = trace.record("maximum", [signal], layout, positions=positions, units=counts[UNIT])
    return (made, None) if len(trace.outputs) > 1 else made


# --- attention ---


@rule(aten._softmax, aten._safe_softmax)
def _softmax(trace: Trace, x: Tensor, dim: int, *rest: Any, **more: Any) -> Any:
    signal = trace.signal(x)
    size = x.shape[dim]
    rows = signal.rows or ((size, 1.0),)
    over_units = not comes_from(signal, "scores") and layouts.role(signal.layout[dim]) == UNIT
    return trace.record("softmax", [signal], size=size, rows=rows, units=over_units)


@rule(
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_cudnn_attention,
    aten._scaled_dot_product_fused_attention_overrideable,
)
def _fused_attention(trace: Trace, q: Tensor, k: Tensor, v: Tensor, *rest: Any, **more: Any) -> Any:
    booleans = [value for value in (*rest, *more.values()) if isinstance(value, bool)]
    is_causal = booleans[0] if booleans else False
    name = str(trace.operation)
    if "efficient" in name or "cudnn" in name:
        is_causal = booleans[1] if len(booleans) > 1 else False
    mask = next((t for t in (*rest, *more.values()) if isinstance(t, Tensor)), None)
    keys = k.shape[-2]
    rows = causal(keys) if is_causal else ((keys, 1.0),)
    if mask is not None and not trace.is_signal(mask) and mask.device.type != "meta":
        rows = _rows_of(trace, mask if mask.dtype == torch.bool else mask > MASKED, keys) or rows
    scale = more.get("scale")
    width = q.shape[-1]
    return trace.record(
        "attention",
        [trace.signal(t) for t in (q, k, v)],
        trace.signal(q).layout[:-1] + trace.signal(v).layout[-1:],
        width=width,
        factor=1 / math.sqrt(width) if scale is None else float(scale),
        size=keys,
        rows=rows,
        common=common_width(trace.signal(k).node, trace.signal(v).node),
    )  # fmt: skip


# --- what only moves numbers ---


def _moved(trace: Trace, x: Tensor, layout: layouts.Layout | None, view: Any) -> Any:
    """A view of a signal, or of whatever else it is."""
    entry = trace.entry(x)
    if not isinstance(entry, Signal):
        return entry
    return trace.view(x, layout if layout is not None else entry.layout, view)


def _layout(trace: Trace, x: Tensor) -> layouts.Layout:
    entry = trace.entry(x)
    return entry.layout if isinstance(entry, Signal) else layouts.of_input(x.shape)


@rule(
    aten.view, aten._unsafe_view, aten.reshape, aten.unsqueeze, aten.squeeze, aten.clone,
    aten.alias, aten.detach, aten._to_copy, aten.lift_fresh, aten.contiguous, aten._reshape_alias,
    aten._reshape_copy, aten.view_as, aten.to, aten.flatten, aten.lift, alone=True,
)  # fmt: skip
def _reshaped(trace: Trace, x: Tensor, *rest: Any, **more: Any) -> Any:
    y = trace.outputs[0]
    layout = _layout(trace, x)
    return _moved(
        trace, x, layout if x.shape == y.shape else layouts.reshaped(layout, y.shape), None
    )


@rule(aten.t, aten.transpose, aten.permute, aten.numpy_T, alone=True)
def _permuted(trace: Trace, x: Tensor, *axes: Any) -> Any:
    n = x.dim()
    order = list(range(n))
    if len(axes) == 2:
        i, j = (axis % n for axis in axes)
        order[i], order[j] = order[j], order[i]
    elif axes:
        order = [axis % n for axis in axes[0]]
    else:
        order.reverse()
    layout = _layout(trace, x)
    kept = [axis for axis in order if x.shape[axis] > 1]
    view = None if kept == sorted(kept) else Permutation(tuple(order), tuple(x.shape))
    return _moved(trace, x, tuple(layout[axis] for axis in order), view)


@rule(aten.slice, aten.narrow, alone=True)
def _sliced(
    trace: Trace, x: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    y = trace.outputs[0]
    if x.shape == y.shape:
        return _moved(trace, x, None, None)
    dim %= x.dim()
    layout = layouts.fitted(_layout(trace, x), y.shape)
    return _moved(trace, x, layout, ("slice", dim, (start or 0) % x.shape[dim], y.shape[dim], step))


@rule(aten.select, alone=True)
def _selected(trace: Trace, x: Tensor, dim: int, index: int) -> Any:
    dim %= x.dim()
    layout = _layout(trace, x)
    view = None if x.shape[dim] == 1 else ("slice", dim, index % x.shape[dim], 1, 1)
    return _moved(trace, x, (*layout[:dim], *layout[dim + 1 :]), view)


@rule(aten.split, aten.split_with_sizes, aten.unsafe_split, aten.unsafe_split_with_sizes,
      aten.chunk, aten.unsafe_chunk, alone=True)  # fmt: skip
def _split(trace: Trace, x: Tensor, size: Any, dim: int = 0) -> Any:
    dim %= x.dim()
    found, outputs = [], trace.outputs
    starts = itertools.accumulate((y.shape[dim] for y in outputs), initial=0)
    for y, start in zip(outputs, starts, strict=False):
        trace.outputs = [y]
        layout = layouts.fitted(_layout(trace, x), y.shape)
        view = None if x.shape == y.shape else ("slice", dim, start, y.shape[dim], 1)
        found.append(_moved(trace, x, layout, view))
    trace.outputs = outputs
    return tuple(found)


@rule(aten.unbind, alone=True)
def _unbound(trace: Trace, x: Tensor, dim: int = 0) -> Any:
    dim %= x.dim()
    layout = _layout(trace, x)
    rest = (*layout[:dim], *layout[dim + 1 :])
    return tuple(
        _moved(trace, x, rest, ("slice", dim, i, 1, 1) if x.shape[dim] > 1 else None)
        for i in range(x.shape[dim])
    )


@rule(aten.expand, alone=True)
def _expanded(trace: Trace, x: Tensor, sizes: Any, **rest: Any) -> Any:
    y = trace.outputs[0]
    layout = _layout(trace, x)
    if x.shape == y.shape:
        return _moved(trace, x, layout, None)
    added: layouts.Layout = ((),) * (y.dim() - x.dim())
    grown = tuple(
        axis if layouts.size(axis) == size else ((POSITION if i else SAMPLE, size),)
        for i, (axis, size) in enumerate(zip(added + layout, y.shape, strict=True))
    )
    # the same element again and again: what is elementwise on it still is
    return _moved(trace, x, grown, None)


@rule(
    aten.repeat, aten.repeat_interleave, aten.flip, aten.roll, aten.gather, aten.index_select,
    aten.unfold, aten.diagonal, aten.pixel_shuffle, aten.pixel_unshuffle, aten.as_strided,
    aten.upsample_nearest1d, aten.upsample_nearest2d, aten.upsample_nearest3d, aten.im2col,
    aten.reflection_pad1d, aten.reflection_pad2d, aten.replication_pad2d, aten.index,
    aten._unsafe_index, aten.masked_select, aten.channel_shuffle, aten.native_channel_shuffle,
    aten.reflection_pad3d, aten.replication_pad1d, aten.replication_pad3d, aten.sort, aten.topk,
    alone=True,
)  # fmt: skip
def _rearranged(trace: Trace, x: Tensor, *rest: Any, **more: Any) -> Any:
    y = trace.outputs[0]
    entry = trace.entry(x)
    if isinstance(entry, Weight) and rest and isinstance(trace.entry(_index(rest)), Tokens):
        return looked_up(trace, x, _index(rest), x.shape[-1])
    if not isinstance(entry, Signal):
        return entry
    layout = entry.layout
    if len(layout) == y.dim():
        layout = layouts.fitted(layout, y.shape)
    elif x.numel() == y.numel():
        layout = layouts.reshaped(layout, y.shape)
    else:
        layout = layouts.of_input(y.shape)
    made = trace.record("view", [entry], layout, view=("moved", len(trace.tape.nodes)))
    return (made, *(None for _ in trace.outputs[1:]))


def _index(rest: Sequence[Any]) -> Any:
    first = rest[0]
    return first[0] if isinstance(first, (tuple, list)) and first else first


@rule(aten.cat, aten.concat, aten.stack, alone=True)
def _concatenated(trace: Trace, tensors: Sequence[Tensor], dim: int = 0) -> Any:
    y = trace.outputs[0]
    tensors = [t for t in tensors if t.numel()]
    if not any(trace.is_signal(t) for t in tensors):
        entries = {trace.entry(t) for t in tensors}
        if len(entries) == 1:
            return entries.pop()
        return _no_signal(trace, *tensors)
    like = next(trace.entry(t).layout for t in tensors if trace.is_signal(t))  # type: ignore[union-attr]
    dim %= y.dim()
    if len(like) < y.dim():
        layout = (*like[:dim], ((UNIT, y.shape[dim]),), *like[dim:])
    else:
        layout = layouts.fitted(like, y.shape)
    if len(tensors) == 1:
        return replace(trace.signal(tensors[0]), layout=layout)
    return trace.record("concatenate", [_part(trace, t, like) for t in tensors], layout)


def _part(trace: Trace, tensor: Tensor, like: layouts.Layout) -> Signal:
    entry = trace.entry(tensor)
    if isinstance(entry, Signal):
        return entry
    return trace.signal(tensor, layouts.fitted(like, tensor.shape))


@rule(aten.copy, alone=True)
def _copied(trace: Trace, x: Tensor, source: Tensor, *rest: Any) -> Any:
    entry = trace.entry(source)
    if isinstance(entry, Signal) and source.shape != x.shape:
        return replace(entry, layout=layouts.broadcast([entry.layout], x.shape))
    return entry


@rule(aten.constant_pad_nd, alone=True)
def _padded(trace: Trace, x: Tensor, padding: Sequence[int], value: float = 0) -> Any:
    y = trace.outputs[0]
    if not trace.is_signal(x):
        return trace.entry(x)
    layout = layouts.fitted(_layout(trace, x), y.shape)
    if x.numel() == y.numel():
        return trace.view(x, layout)
    inside = trace.signal(x)
    view = trace.record("view", [inside], layout, view=("padded", len(trace.tape.nodes)))
    made = trace.record(
        "dropout", [view], layout, keep=x.numel() / y.numel(), factor=1.0, elements=True
    )
    before = tuple(padding[-2::-2])  # of the last axes, as many as are padded
    before = (0,) * (x.dim() - len(before)) + before
    return replace(made, padded=Padded(inside, tuple(x.shape), before))


@rule(aten.empty_like, aten.zeros_like, aten.ones_like, aten.rand_like, aten.randn_like,
      aten.full_like, aten.new_empty, aten.new_zeros, aten.new_ones, aten.new_full,
      aten.new_empty_strided, aten.fill, aten.zero, aten.uniform, aten.normal,
      alone=True)  # fmt: skip
def _new(trace: Trace, *rest: Any, **more: Any) -> Any:
    return None


# --- activations that the registry has, by ATen's names for their parameters ---


def _plain(name: str) -> Any:
    return lambda **_: (name, {})


def _gelu(approximate: str = "none") -> Any:
    return ("gelu_tanh" if approximate == "tanh" else "gelu"), {}


def _elu(alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Any:
    if scale == input_scale == 1:
        return "elu", {"alpha": float(alpha)}
    return None


_NAMED.update(
    {
        **{getattr(aten, name): _plain(name) for name in (
            "relu", "sigmoid", "tanh", "silu", "mish", "erf", "sin", "abs", "relu6", "selu",
        ) if hasattr(aten, name)},
        aten.gelu: _gelu,
        aten.leaky_relu: lambda slope=0.01: ("leaky_relu", {"negative_slope": float(slope)}),
        aten.elu: _elu,
    }
)  # fmt: skip
