"""Norms, means and maxima."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gainreg.adapters.torch.tracer import Trace, rule
from gainreg.signals import layout as layouts
from gainreg.signals import operations
from gainreg.signals.functions import Operation
from gainreg.signals.layout import POSITION, SAMPLE, UNIT, Mixing, Taps
from gainreg.signals.signal import Signal
from gainreg.signals.state import Moments
from gainreg.signals.trace import NotUnderstoodError

aten = torch.ops.aten


# --- norms ---


def _apart(trace: Trace, x: Tensor, shape: Sequence[int]) -> Signal:
    """What is normalised over its last axes, as many as the shape has."""
    return trace.signal(x).apart(*range(x.dim() - len(shape), x.dim()))


@rule(aten.native_layer_norm, aten.layer_norm)
def _layer_norm(
    trace: Trace, x: Tensor, shape: Sequence[int], weight: Any, bias: Any, epsilon: float,
    *rest: Any,
) -> Any:  # fmt: skip
    signal = _apart(trace, x, shape)
    counts = layouts.count(signal.layout[-len(shape) :])
    units, positions = counts[UNIT], counts[POSITION] * counts[SAMPLE]
    return _normalised(
        trace, signal, weight, bias, epsilon, "layer norm", units, positions, 1
    ), None, None  # fmt: skip


@rule(aten._fused_rms_norm, aten.rms_norm)
def _rms_norm(
    trace: Trace, x: Tensor, shape: Sequence[int], weight: Any = None, epsilon: Any = None
) -> Any:
    signal = _apart(trace, x, shape)
    return _normalised(
        trace, signal, weight, None, epsilon or 0.0, "RMS norm", 1, 1, 1, centred=False
    ), None  # fmt: skip


@rule(aten.native_group_norm)
def _group_norm(
    trace: Trace, x: Tensor, weight: Any, bias: Any, n: int, channels: int, area: int,
    groups: int, epsilon: float,
) -> Any:  # fmt: skip
    signal = trace.signal(x).whole
    return _normalised(
        trace, signal, weight, bias, epsilon, "group norm", channels // groups, area, 1
    ), None, None  # fmt: skip


@rule(
    aten.native_batch_norm, aten.cudnn_batch_norm, aten.miopen_batch_norm,
    aten._native_batch_norm_legit, aten._native_batch_norm_legit_functional,
    aten._batch_norm_with_update, aten._batch_norm_no_update,
)  # fmt: skip
def _batch_norm(trace: Trace, x: Tensor, weight: Any, bias: Any, *rest: Any) -> Any:
    """In whichever form: the rest are the running mean and variance, if there are any, whether it
    is training, where that is not in the name, a momentum and epsilon."""
    buffers = [value for value in rest if isinstance(value, Tensor)]
    training, epsilon = next((value for value in rest if isinstance(value, bool)), True), rest[-1]
    mixed = [axis for axis in range(x.dim()) if axis != 1]
    signal = trace.signal(x).apart(*mixed)
    if not training:
        mean, variance = buffers
        return _by_buffers(trace, signal, weight, bias, mean, variance, epsilon)
    others = layouts.count([signal.layout[axis] for axis in mixed])
    positions = others[POSITION] * others[UNIT]
    return _normalised(
        trace, signal, weight, bias, epsilon, "batch norm", 1, positions, others[SAMPLE]
    )  # fmt: skip


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
    given = trace.record("given", [], made.layout, moments=Moments(b, b2, b2, b2), phrase="shift")
    return trace.record("add", [made, given], made.layout, factors=(1.0, 1.0))


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
    return operations.averaged(trace, trace.signal(x), _axes(x, dim), keepdim, 1.0)


@rule(aten.sum)
def _sum(trace: Trace, x: Tensor, dim: Any = None, keepdim: bool = False, **rest: Any) -> Any:
    axes = _axes(x, dim)
    n = float(math.prod(x.shape[axis] for axis in axes))
    return operations.averaged(trace, trace.signal(x), axes, keepdim, n)


@rule(aten.cumsum)
def _running_sum(trace: Trace, x: Tensor, dim: int, **rest: Any) -> Any:
    return operations.running_sum(trace, trace.signal(x), dim % x.dim())


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
    sides = []
    for i, small in enumerate(y.shape[2:]):
        large, before = signal.unpadded(i + 2)
        sides.append(Taps(large, small, kernel[i], stride[i], before + padding[i], 1))
    inside, _ = layouts.inside(sides)
    n = math.prod(kernel)
    counted = count_include_pad or signal.padded is not None
    return trace.record(
        "mean",
        [signal.inside],
        layouts.fitted(signal.layout, y.shape),
        units=1,
        positions=n * inside,
        samples=1,
        factor=n * inside / divisor if divisor else inside if counted else 1.0,
    )


@rule(aten.col2im)
def _folded(
    trace: Trace, x: Tensor, size: Sequence[int], kernel: Sequence[int], dilation: Sequence[int],
    padding: Sequence[int], stride: Sequence[int],
) -> Any:  # fmt: skip
    """The sum of all windows that meet at a place."""
    y, n = trace.outputs[0], 1.0
    for large, taps, apart, before, step in zip(
        size, kernel, dilation, padding, stride, strict=True
    ):
        small = (large + 2 * before - apart * (taps - 1) - 1) // step + 1
        n *= Taps(large, small, taps, step, before, apart).share * taps * small / large
    roles = (SAMPLE, UNIT, POSITION, POSITION)[4 - y.dim() :]
    layout = tuple(((role, length),) for role, length in zip(roles, y.shape, strict=True))
    signal = trace.signal(x).whole
    return trace.record("mean", [signal], layout, units=1, positions=n, samples=1, factor=n)


@rule(aten.upsample_linear1d, aten.upsample_bilinear2d, aten.upsample_trilinear3d,
      aten.upsample_bicubic2d, aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa,
      aten._upsample_lanczos2d_aa)  # fmt: skip
def _resized(trace: Trace, x: Tensor, _: Any, corners: bool = False, *scales: Any) -> Any:
    """Its taps along an axis are what it makes of ones there, the other axes as they are."""
    axes, maps, signal = tuple(range(2, x.dim())), [], trace.signal(x)
    for axis in axes:
        n = x.shape[axis]
        # two wide, since antialiasing in double precision takes what is one wide for constant
        ones = torch.eye(n, dtype=torch.float64).reshape(
            n, 1, *(n if i == axis else 1 for i in axes)
        )
        ones = ones.expand(n, 1, *(n if i == axis else 2 for i in axes))
        size = [trace.outputs[0].shape[i] if i == axis else 2 for i in axes]
        own = [scale if i == axis else None for i, scale in zip(axes, scales, strict=False)]
        taps = trace.operation(ones, size, corners, *own).movedim(axis, 1)
        maps.append(Mixing.of(taps.reshape(n, size[axis - 2], -1)[..., 0].T.numpy()))
    layout = layouts.fitted(signal.layout, trace.outputs[0].shape)
    mixing = functools.reduce(Mixing.and_, maps)
    return operations.blended(trace, signal, signal.layout[2:], mixing, layout)


@rule(aten.var, aten.std)
def _deviation(trace: Trace, x: Tensor, dim: Any = None, *rest: Any, **more: Any) -> Any:
    over = None if isinstance(dim, bool) else dim  # var(x, unbiased) has no axes
    signal, y = trace.signal(x), trace.outputs[0]
    layout, _ = layouts.reduced(signal.layout, _axes(x, over), y.dim() == x.dim())
    return trace.record("deviation", [signal], layout, root="std" in str(trace.operation))


@rule(aten.var_mean)
def _deviation_and_mean(trace: Trace, x: Tensor, dim: Any = None, **rest: Any) -> Any:
    keepdim = bool(rest.get("keepdim", False))
    mean = operations.averaged(trace, trace.signal(x), _axes(x, dim), keepdim, 1.0)
    return _deviation(trace, x, dim), mean


@rule(aten.linalg_vector_norm)
def _vector_norm(
    trace: Trace, x: Tensor, order: float = 2, dim: Any = None, keepdim: bool = False, **rest: Any
) -> Any:
    if order != 2:
        raise NotUnderstoodError
    axes = _axes(x, dim)
    n = float(math.prod(x.shape[axis] for axis in axes))
    whole = trace.signal(x)
    squares = trace.operation_of(aten.pow, 2)
    square = trace.record("elementwise", [whole], whole.layout, operation=squares)
    summed = operations.averaged(trace, square, axes, keepdim, n)
    root = Operation("root", lambda v: abs(v) ** 0.5)
    return trace.record("elementwise", [summed], summed.layout, operation=root)


@rule(aten.max_pool2d_with_indices, aten.max_pool3d_with_indices, aten.max_pool2d,
      aten.max_pool1d, aten.max_pool3d, aten.fractional_max_pool2d,
      aten.fractional_max_pool3d)  # fmt: skip
def _max_pool(trace: Trace, x: Tensor, kernel: Sequence[int], *rest: Any) -> Any:
    positions = math.prod(kernel if len(kernel) > 1 else [*kernel] * (x.dim() - 2))
    signal = trace.signal(x)
    layout = layouts.fitted(signal.layout, trace.outputs[0].shape)
    return trace.record("maximum", [signal.inside], layout, positions=positions), None


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
