"""Sums over two signals, masks and softmax: attention, in whichever form it arrives."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gainreg.adapters.torch.tracer import (
    MASKED,
    Constant,
    NotUnderstoodError,
    Tokens,
    Trace,
    rule,
)
from gainreg.signals import layout as layouts
from gainreg.signals.layout import POSITION, UNIT
from gainreg.signals.signal import Signal, each, settled
from gainreg.signals.softmax import Rows, causal, grouped
from gainreg.signals.tape import Node

aten = torch.ops.aten


def contraction(trace: Trace, a: Tensor, b: Tensor) -> Signal:
    """Σ a·b of two signals over a's last axis; each part of a for itself."""
    left = settled(trace.tape, trace.signal(a)).apart(a.dim() - 1)
    right = settled(trace.tape, trace.signal(b)).whole
    layout = (*left.layout[:-1], *right.layout[-1:]) if b.dim() > 1 else left.layout[:-1]

    def contracted(part: Signal, own: layouts.Layout) -> Signal:
        return _contracted(trace, part, right, own, a.shape[-1])

    return each(trace.tape, left, layout, left.axis or 0, contracted)


def _contracted(
    trace: Trace, left: Signal, right: Signal, layout: layouts.Layout, width: int
) -> Signal:
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
    while node.rule in ("view", "dropout", "scale", "add", "concatenate") and node.inputs:
        if node.rule == "add" and len(node.inputs) > 1:  # a sum with a mask or a bias
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
    if node.rule == "portion":
        node = node.inputs[2]
    if node.rule != "linear":
        return None, 1
    return node.inputs[0], int(node.facts["units"])


def comes_from(signal: Signal, rule: str) -> bool:
    """Whether a signal is a rule's output, but for what leaves it what it is."""
    return origin(signal.node).rule == rule


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
        return trace.entry(tokens[0]) if tokens else trace.without_signal(condition)
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


# --- attention ---


@rule(aten._softmax, aten._safe_softmax)
def _softmax(trace: Trace, x: Tensor, dim: int, *rest: Any, **more: Any) -> Any:
    signal = settled(trace.tape, trace.signal(x)).apart(dim % x.dim())
    size = x.shape[dim]
    rows = signal.rows or ((size, 1.0),)
    over_units = not comes_from(signal, "scores") and layouts.role(signal.layout[dim]) == UNIT

    def weights(part: Signal, own: layouts.Layout) -> Signal:
        return trace.record("softmax", [part], own, size=size, rows=rows, units=over_units)

    return each(trace.tape, signal, signal.layout, signal.axis or 0, weights)


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
    queries, key, value = (settled(trace.tape, trace.signal(t)) for t in (q, k, v))
    queries = queries.apart(q.dim() - 1)

    def attention(part: Signal, own: layouts.Layout) -> Signal:
        return trace.record(
            "attention",
            [part, key, value],
            own,
            width=width,
            factor=1 / math.sqrt(width) if scale is None else float(scale),
            size=keys,
            rows=rows,
            common=common_width(key.node, value.node),
        )

    layout = queries.layout[:-1] + value.layout[-1:]
    return each(trace.tape, queries, layout, queries.axis or 0, attention)  # fmt: skip
