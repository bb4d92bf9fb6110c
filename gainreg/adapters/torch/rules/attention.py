"""Sums over two signals, masks and softmax: attention, in whichever form it arrives."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gainreg.adapters.torch.tracer import TorchTrace, rule
from gainreg.signals import operations
from gainreg.signals.signal import Signal
from gainreg.signals.softmax import causal, full, left_by
from gainreg.signals.trace import MASKED, Constant, Mask, NotUnderstoodError, Tokens

aten = torch.ops.aten


@rule(aten.masked_fill, alone=True)
def _masked_fill(trace: TorchTrace, x: Tensor, mask: Tensor, value: Any) -> Any:
    if not trace.is_signal(x):
        return trace.entry(x) if isinstance(trace.entry(x), (Tokens, Constant)) else None
    chosen = by_condition(trace, mask, value, x)
    return chosen or operations.kept_where(trace, x, mask, float(value), keep=False)


@rule(aten.gt, aten.ge, aten.lt, aten.le)
def _compared(trace: TorchTrace, a: Any, b: Any) -> Any:
    """No signal by itself, but what ``where`` may choose by."""
    if all(trace.is_signal(x) for x in (a, b) if isinstance(x, Tensor)):
        trace.conditions[trace.outputs[0]] = trace.elementwise(trace.operation.overloadpacket, a, b)


@rule(aten.logical_and, aten.logical_or, aten.logical_not, alone=True)
@rule(aten.bitwise_and, aten.bitwise_or, aten.bitwise_not, alone=True)
def _joined(trace: TorchTrace, *conditions: Tensor) -> Any:
    if all(condition in trace.conditions for condition in conditions):
        name = str(trace.operation.overloadpacket).partition(".")[2].replace("bitwise", "logical")
        with _seen(trace, *conditions):
            made = trace.elementwise(getattr(aten, name), *conditions)
        trace.conditions[trace.outputs[0]] = made


@contextlib.contextmanager
def _seen(trace: TorchTrace, *conditions: Tensor) -> Iterator[None]:
    """Conditions are signals for as long as they are composed."""
    for condition in conditions:
        trace.set(condition, trace.conditions[condition])
    try:
        yield
    finally:
        for condition in conditions:
            trace.set(condition, None)


def by_condition(trace: TorchTrace, condition: Tensor, a: Any, b: Any) -> Signal | None:
    """a where a comparison of signals holds, else b: one function of these; None if it is not."""
    cases = trace.number(a), trace.number(b)
    known = all(trace.is_signal(x) for x in cases if isinstance(x, Tensor))
    if condition not in trace.conditions or not known:
        return None
    with _seen(trace, condition):
        return trace.elementwise(_chosen, condition, *cases)


def _chosen(condition: Tensor, a: Any, b: Any) -> Tensor:
    return torch.where(condition != 0, a, b)


@rule(aten.where, alone=True)
def _where(trace: TorchTrace, condition: Tensor, a: Any = None, b: Any = None) -> Any:
    if trace.is_signal(condition) or b is None:
        raise NotUnderstoodError
    chosen = by_condition(trace, condition, a, b)
    if chosen is not None:
        return chosen
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
    mask = trace.entry(condition)
    if isinstance(mask, Mask) and keep and not value:
        sides = zip(condition.shape, condition.stride(), strict=True)
        repeated = any(n > 1 and not step for n, step in sides)
        return operations.dropped(trace, x, mask, elements=not repeated)
    return operations.kept_where(trace, x, condition, float(value), keep)


# --- attention ---


@rule(aten._softmax, aten._safe_softmax)
def _softmax(trace: TorchTrace, x: Tensor, dim: int, *rest: Any, **more: Any) -> Any:
    signal = trace.signal(x)
    return operations.softmax(trace, signal, dim, signal.layout)


@rule(
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_cudnn_attention,
    aten._scaled_dot_product_fused_attention_overrideable,
)
def _fused_attention(
    trace: TorchTrace, q: Tensor, k: Tensor, v: Tensor, *rest: Any, **more: Any
) -> Any:
    booleans = [value for value in (*rest, *more.values()) if isinstance(value, bool)]
    is_causal = booleans[0] if booleans else False
    name = str(trace.operation)
    if "efficient" in name or "cudnn" in name:
        is_causal = booleans[1] if len(booleans) > 1 else False
    mask = next((t for t in (*rest, *more.values()) if isinstance(t, Tensor)), None)
    keys = k.shape[-2]
    rows = causal(keys) if is_causal else full(keys)
    numbers = None if mask is None or trace.is_signal(mask) else trace.values(mask)
    if numbers is not None:
        left = numbers != 0 if mask.dtype == torch.bool else numbers > MASKED  # type: ignore[union-attr]
        rows = left_by(left, keys) or rows
    scale = more.get("scale")
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    signals = (trace.signal(t) for t in (q, k, v))
    return operations.attention(trace, *signals, factor=factor, rows=rows)
