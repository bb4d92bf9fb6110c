"""Sums, means and maxima."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gainreg.adapters.jax.tracer import Array, JaxTrace, rule
from gainreg.signals import layout as layouts
from gainreg.signals import operations
from gainreg.signals.layout import POSITION, SAMPLE, UNIT, Taps
from gainreg.signals.signal import Signal
from gainreg.signals.trace import NotUnderstoodError, Tokens


@rule("reduce_sum", "psum")
def _sum(trace: JaxTrace, x: Array, *, axes: Sequence[Any], **_: Any) -> Any:
    if any(isinstance(axis, str) for axis in axes):  # over devices
        raise NotUnderstoodError
    over = [int(axis) for axis in axes]
    if not over:
        return trace.entry(x)
    n = float(math.prod(x.shape[axis] for axis in over))
    return operations.averaged(trace, trace.signal(x), over, False, n)


@rule("reduce_max", "reduce_min")
def _largest(trace: JaxTrace, x: Array, *, axes: Sequence[int], **_: Any) -> Any:
    def largest(signal: Signal) -> Signal:
        layout, counts = layouts.reduced(signal.layout, [int(axis) for axis in axes], False)
        positions = counts[POSITION] * counts[SAMPLE]
        return trace.record("maximum", [signal], layout, positions=positions, units=counts[UNIT])

    return _turned(trace, x, largest)


def _turned(trace: JaxTrace, x: Array, largest: Any) -> Signal:
    """The largest, or −(the largest of −x)."""
    signal = trace.signal(x)
    if "min" not in trace.operation:
        return largest(signal)  # type: ignore[no-any-return]
    turned = trace.record("add", [signal], signal.layout, factors=(-1.0,))
    found = largest(turned)
    return trace.record("add", [found], found.layout, factors=(-1.0,))


@rule("reduce_window_sum")
def _window_sum(
    trace: JaxTrace, x: Array, *, window_dimensions: Any, window_strides: Any, padding: Any,
    window_dilation: Any, **_: Any,
) -> Any:  # fmt: skip
    y, signal = trace.outputs[0], trace.signal(x)
    sides = []
    for axis, size in enumerate(window_dimensions):
        large, before = signal.unpadded(axis)
        steps = window_strides[axis], before + padding[axis][0], window_dilation[axis]
        sides.append(Taps(large, y.shape[axis], size, *steps))
    n = float(math.prod(window_dimensions) * layouts.inside(sides)[0])
    layout = layouts.fitted(signal.layout, y.shape)
    return trace.record("mean", [signal.inside], layout, units=1, positions=n, samples=1, factor=n)


@rule("reduce_window_max", "reduce_window_min")
def _window_largest(trace: JaxTrace, x: Array, *, window_dimensions: Any, **_: Any) -> Any:
    n = math.prod(window_dimensions)

    def largest(signal: Signal) -> Signal:
        layout = layouts.fitted(signal.layout, trace.outputs[0].shape)
        return trace.record("maximum", [signal.inside], layout, positions=n)

    return _turned(trace, x, largest)


@rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "argmax", "argmin", alone=True)
def _cumulated(trace: JaxTrace, x: Array, *, axis: int = 0, **_: Any) -> Any:
    if trace.is_signal(x):
        if trace.operation != "cumsum":
            raise NotUnderstoodError
        return operations.running_sum(trace, trace.signal(x), axis)
    return None if isinstance(trace.entry(x), Tokens) else trace.without_signal(x)
