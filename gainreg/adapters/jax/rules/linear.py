"""Operations with a weight: matrix products and convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gainreg.adapters.jax.tracer import Array, JaxTrace, derived, rule
from gainreg.signals import layout as layouts
from gainreg.signals import operations
from gainreg.signals.functions import FloatArray
from gainreg.signals.layout import POSITION, SAMPLE, UNIT, Taps
from gainreg.signals.signal import Signal
from gainreg.signals.trace import NotUnderstoodError, names


@rule("dot_general", alone=True)
def _dot(trace: JaxTrace, a: Array, b: Array, *, dimension_numbers: Any, **_: Any) -> Any:
    (over_a, over_b), (batch_a, batch_b) = dimension_numbers
    if trace.is_signal(a) and trace.is_signal(b):
        left, right = trace.signal(a), trace.signal(b)
        layout = (
            *(left.layout[i] for i in batch_a),
            *(left.layout[i] for i in _free(a, over_a, batch_a)),
            *(right.layout[i] for i in _free(b, over_b, batch_b)),
        )
        over = (
            tuple(part for i in over_a for part in left.layout[i]),
            tuple(part for i in over_b for part in right.layout[i]),
        )
        free_a, free_b = _free(a, over_a, batch_a), _free(b, over_b, batch_b)
        behind = range(len(batch_b) + len(free_a), len(layout))
        places = (
            {axis: place for place, axis in enumerate((*batch_a, *free_a))},
            dict(zip(free_b, behind, strict=True)),
        )
        return operations.contracted(trace, left, right, over, layout, places)
    if trace.is_signal(a) or (trace.is_weight(b) and not trace.is_weight(a)):
        return _weighed(trace, a, b, over_a, over_b, batch_a, batch_b, first=True)
    if trace.is_signal(b) or (trace.is_weight(a) and not trace.is_weight(b)):
        return _weighed(trace, b, a, over_b, over_a, batch_b, batch_a, first=False)
    return trace.without_signal(a, b)


def _free(x: Array, over: Sequence[int], batch: Sequence[int]) -> list[int]:
    return [i for i in range(len(x.shape)) if i not in over and i not in batch]


def _weighed(
    trace: JaxTrace, x: Array, weight: Array, over_x: Sequence[int], over_w: Sequence[int],
    batch_x: Sequence[int], batch_w: Sequence[int], first: bool,
) -> Signal:  # fmt: skip
    """Sums of x over a weight's inputs, of which an axis that goes along with x's is none."""
    own = trace.signal(x).layout
    summed_over = tuple(part for i in over_x for part in own[i])
    role = operations.role(summed_over)
    fan_in = math.prod(weight.shape[i] for i in over_w)
    batch = tuple(own[i] for i in batch_x)
    free = tuple(own[i] for i in _free(x, over_x, batch_x))
    is_last = min(over_x, default=0) == len(own) - len(over_x)
    units = tuple(((role, weight.shape[i]),) for i in _free(weight, over_w, batch_w))
    if any(role == SAMPLE for axis in batch for role, _ in axis):
        for name in names(trace.entry(weight)):
            trace.tape.keep(name, "each sample has one of its own: it is kept as it is")
        weight = derived(lambda v: v, weight, weight.shape)
    layout = (*batch, *free, *units) if first else (*batch, *units, *free)

    def matrix(numbers: FloatArray) -> FloatArray:
        outputs = _free(weight, over_w, batch_w)
        n = math.prod(weight.shape[i] for i in outputs)
        return numbers.transpose((*batch_w, *outputs, *over_w)).reshape(-1, n, fan_in)

    return operations.linear(
        trace,
        x,
        weight,
        None,
        layout,
        operation="linear",
        fan_in=fan_in,
        units=fan_in,
        matrix=matrix,
        over=[own[i] for i in over_x],
        over_last=len(over_x) if first and not batch_x and is_last else 0,
        common=operations.shared(summed_over, layout),
    )


@rule("conv_general_dilated", alone=True)
def _convolution(
    trace: JaxTrace, x: Array, weight: Array, *, window_strides: Any, padding: Any,
    lhs_dilation: Any, rhs_dilation: Any, dimension_numbers: Any, batch_group_count: int, **_: Any,
) -> Any:  # fmt: skip
    if trace.is_signal(weight) or batch_group_count > 1:
        raise NotUnderstoodError
    if not trace.is_signal(x) and (trace.is_weight(x) or not trace.is_weight(weight)):
        return trace.without_signal(x, weight)
    spec, kernel_spec, out_spec = (
        dimension_numbers.lhs_spec, dimension_numbers.rhs_spec, dimension_numbers.out_spec,
    )  # fmt: skip
    y, signal = trace.outputs[0], trace.signal(x)
    trace.slide(signal, spec[2:])
    channels = weight.shape[kernel_spec[1]]
    kernel = [weight.shape[i] for i in kernel_spec[2:]]
    padded, windows = signal.padded, []
    for axis, size in enumerate(kernel):
        large, before = x.shape[spec[2 + axis]], padding[axis][0]
        if padded is not None:
            large = padded.shape[spec[2 + axis]]
            before += padded.before[spec[2 + axis]]
        small = y.shape[out_spec[2 + axis]]
        steps = window_strides[axis], before, rhs_dilation[axis], lhs_dilation[axis]
        windows.append(Taps(large, small, size, *steps))
    transposed = any(step > 1 for step in lhs_dilation)
    axes: dict[int, layouts.Axis] = {out_spec[0]: signal.layout[spec[0]]}
    axes[out_spec[1]] = ((UNIT, y.shape[out_spec[1]]),)
    axes.update((i, ((POSITION, y.shape[i]),)) for i in out_spec[2:])
    return operations.linear(
        trace,
        x,
        weight,
        None,
        tuple(axes[i] for i in range(len(y.shape))),
        operation="transposed convolution" if transposed else "convolution",
        fan_in=channels * math.prod(kernel),
        units=channels,
        groups=x.shape[spec[1]] // channels,
        inside=None if padded is None else padded.signal,
        matrix=lambda numbers: numbers.transpose(kernel_spec).reshape(y.shape[out_spec[1]], -1),
        over=[signal.layout[i] for i in spec[2:]],
        windows=windows,
    )
