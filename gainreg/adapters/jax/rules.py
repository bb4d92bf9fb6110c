"""What each primitive of JAX is, in the terms of gainreg.signals.

A rule takes the trace, the operands and the equation's parameters, and returns what its output is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun
from scipy import special

from gainreg.adapters.jax.tracer import ELEMENTWISE, Array, JaxTrace, Step, array_of, call, rule
from gainreg.signals import layout as layouts
from gainreg.signals import operations
from gainreg.signals.layout import POSITION, SAMPLE, UNIT
from gainreg.signals.signal import Signal, join, reshaped
from gainreg.signals.tape import Node
from gainreg.signals.trace import Constant, Mask, NotUnderstoodError, Tokens, Weight, names

# A loop without weights of at most so many equations is followed step by step: a recurrence of a
# hundred steps takes as long to follow as a transformer of ten layers.
LONG = 1000

# A layer that is repeated so often at most is followed each time.
REPEATED = 100

# --- what is called ---


@call("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint",
      "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")  # fmt: skip
def _called(trace: JaxTrace, params: Mapping[str, Any], inputs: list[Array]) -> list[Array]:
    inner = next(params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params)
    return _inside(trace, inner, inputs)


def _inside(trace: JaxTrace, inner: Any, inputs: Sequence[Array]) -> list[Array]:
    """Follow a jaxpr, closed or not."""
    if not hasattr(inner, "consts"):
        return trace.read(inner, [], inputs)
    consts = [array_of(v, c) for v, c in zip(inner.jaxpr.constvars, inner.consts, strict=True)]
    return trace.read(inner.jaxpr, consts, inputs)


@call("cond")
def _branched(
    trace: JaxTrace, params: Mapping[str, Any], inputs: list[Array]
) -> list[Array] | None:
    """The branch that is taken, where no signal decides; else all, if they agree."""
    which, operands = inputs[0], inputs[1:]
    branches = params["branches"]
    if not trace.is_signal(which):
        index = trace.value(which)
        if index is not None:
            return _inside(trace, branches[int(np.clip(index, 0, len(branches) - 1))], operands)
    tape, before = trace.tape, len(trace.tape.nodes)
    steps = len(trace.steps)
    sketches, outputs = [], []
    for branch in branches:
        trace.forget(before)
        del trace.steps[steps:]
        outputs = _inside(trace, branch, operands)
        entries = [e.node.id if isinstance(e, Signal) else e for e in map(trace.entry, outputs)]
        sketches.append(([_sketch(node) for node in tape.nodes[before:]], entries))
    if all(sketch == sketches[0] for sketch in sketches):
        return outputs
    trace.forget(before)
    del trace.steps[steps:]
    return None


def _sketch(node: Node) -> Any:
    """What two branches must do alike."""
    facts = {
        key: value.key if key == "operation" and hasattr(value, "key") else value
        for key, value in node.facts.items()
    }
    inputs = [parent.id for parent in node.inputs]
    return node.rule, inputs, node.layout, facts, node.weight, node.bias


@call("scan")
def _scanned(trace: JaxTrace, params: Mapping[str, Any], inputs: list[Array]) -> list[Array] | None:
    """Layer after layer, each with its slice of the weights; a recurrence is one operation."""
    n, carried = params["num_consts"], params["num_carry"]
    consts, carry, along = inputs[:n], inputs[n : n + carried], inputs[n + carried :]
    length, inner = params["length"], params["jaxpr"]
    if not any(trace.is_signal(x) or trace.is_weight(x) for x in inputs):
        return None
    if not carried and along:  # what is done to each alone is done to all at once
        every = jax.vmap(jaxpr_as_fun(inner), (*(None,) * n, *(0,) * len(along)))
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs]  # type: ignore[no-untyped-call]
        return _inside(trace, jax.make_jaxpr(every)(*shapes), inputs)
    stacked = any(trace.is_stacked(x) for x in along)
    fed = any(trace.is_signal(x) for x in along)
    shared = any(trace.is_weight(x) for x in (*consts, *carry))
    short = length * len(inner.jaxpr.eqns) <= LONG
    if not (stacked or (shared and not fed and length <= REPEATED) or (short and not shared)):
        return None
    order = range(length - 1, -1, -1) if params["reverse"] else range(length)
    collected: list[list[Array]] = []
    for i in order:
        layer = [_layer(trace, x, i) for x in along]
        outputs = _inside(trace, inner, [*consts, *carry, *layer])
        carry, rest = outputs[:carried], outputs[carried:]
        collected.append(rest)
    if params["reverse"]:
        collected.reverse()
    return [*carry, *(_stacked(trace, list(parts)) for parts in zip(*collected, strict=True))]


def _layer(trace: JaxTrace, x: Array, i: int) -> Array:
    """x[i]."""
    made = _derived(trace, lambda v: v[i], x, x.shape[1:])
    trace.steps.append(made.step)  # type: ignore[arg-type]
    entry = trace.entry(x)
    if isinstance(entry, Signal):
        trace.set(made, operations.cut(trace, x, made, 0, i))
    else:
        trace.set(made, trace.layer(x, i))
    return made


def _stacked(trace: JaxTrace, parts: list[Array]) -> Array:
    """What a scan puts out, one part after the other along a new first axis."""
    step = Step(lambda *values: [jax.numpy.stack(values)], parts)
    made = Array((len(parts), *parts[0].shape), parts[0].dtype, step=step)
    step.outputs = [made]
    trace.steps.append(step)
    entries = [trace.entry(part) for part in parts]
    if any(isinstance(entry, Signal) for entry in entries):
        layout = entries[0].layout if isinstance(entries[0], Signal) else None
        signals = [trace.signal(part, layout) for part in parts]
        whole = (((POSITION, len(parts)),), *signals[0].layout)
        trace.set(made, trace.record("concatenate", signals, whole))
    else:
        trace.outputs = [made]
        trace.set(made, trace.without_signal(*parts))
    return made


def _derived(trace: JaxTrace, compute: Any, x: Array, shape: Sequence[int]) -> Array:
    """A value that is computed from one other."""
    step = Step(lambda v: [compute(v)], [x])
    made = Array(shape, x.dtype, step=step)
    step.outputs = [made]
    return made


@rule("scan", "while", alone=True)
def _looped(trace: JaxTrace, *inputs: Array, **params: Any) -> Any:
    kind = "a loop"
    for x in inputs:
        for name in names(trace.entry(x)):
            trace.tape.keep(name, f"part of {kind}: recurrent layers are kept")
    signals = [trace.signal(x) for x in inputs if trace.is_signal(x)]
    if not signals:
        return trace.without_signal(*inputs)
    return tuple(
        trace.opaque(y, signals, kind) if trace.is_real(y) else None for y in trace.outputs
    )


# --- weights ---


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
        over = tuple(part for i in over_a for part in left.layout[i])
        return operations.contracted(trace, left, right, over, layout)
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
    units = tuple(((role, weight.shape[i]),) for i in _free(weight, over_w, batch_w))
    if any(role == SAMPLE for axis in batch for role, _ in axis):
        for name in names(trace.entry(weight)):
            trace.tape.keep(name, "each sample has one of its own: it is kept as it is")
        weight = _anonymous(trace, weight)
    return trace.linear(
        x,
        weight,
        None,
        (*batch, *free, *units) if first else (*batch, *units, *free),
        operation="linear",
        fan_in=fan_in,
        units=fan_in,
        mixes=any(name == POSITION for name, _ in summed_over),
    )


def _anonymous(trace: JaxTrace, x: Array) -> Array:
    """The same value, which is no parameter."""
    return _derived(trace, lambda v: v, x, x.shape)


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
    padded, inside = signal.padded, 1.0
    for axis, size in enumerate(kernel):
        large, before = x.shape[spec[2 + axis]], padding[axis][0]
        if padded is not None:
            large = padded.shape[spec[2 + axis]]
            before += padded.before[spec[2 + axis]]
        small = y.shape[out_spec[2 + axis]]
        used = _pairs(large, small, size, window_strides[axis], before,
                      lhs_dilation[axis], rhs_dilation[axis])  # fmt: skip
        inside *= used / (size * small)
    transposed = any(step > 1 for step in lhs_dilation)
    axes: dict[int, layouts.Axis] = {out_spec[0]: signal.layout[spec[0]]}
    axes[out_spec[1]] = ((UNIT, y.shape[out_spec[1]]),)
    axes.update((i, ((POSITION, y.shape[i]),)) for i in out_spec[2:])
    return trace.linear(
        x,
        weight,
        None,
        tuple(axes[i] for i in range(len(y.shape))),
        operation="transposed convolution" if transposed else "convolution",
        fan_in=channels * math.prod(kernel),
        units=channels,
        taps=inside,
        inside=None if padded is None else padded.signal,
        steps=math.prod(lhs_dilation if transposed else window_strides),
        transposed=transposed,
    )


def _pairs(
    large: int, small: int, kernel: int, stride: int, before: int, between: int, dilation: int
) -> int:
    """Pairs of an output and a tap that meets an input, the inputs lying ``between`` apart."""
    at = np.add.outer(np.arange(small) * stride, np.arange(kernel) * dilation) - before
    return int(np.sum((at >= 0) & (at <= (large - 1) * between) & (at % between == 0)))


# --- elementwise, where the algebra knows more than the values ---


@rule("add", "add_any", alone=True)
def _add(trace: JaxTrace, a: Array, b: Array, **_: Any) -> Any:
    return _summed(trace, a, b, 1.0)


@rule("sub", alone=True)
def _subtract(trace: JaxTrace, a: Array, b: Array, **_: Any) -> Any:
    return _summed(trace, a, b, -1.0)


def _summed(trace: JaxTrace, a: Array, b: Array, k: float) -> Any:
    left, right = trace.operand(a), trace.operand(b)
    if not trace.is_tensor(left) and not trace.is_tensor(right):
        return trace.without_signal(a, b)
    return operations.summed(trace, left, right, 1.0, k)


@rule("neg", alone=True)
def _negative(trace: JaxTrace, x: Array, **_: Any) -> Any:
    return operations.line(trace, x, -1.0)


@rule("mul", alone=True)
def _multiply(trace: JaxTrace, a: Array, b: Array, **_: Any) -> Any:
    left, right = trace.operand(a), trace.operand(b)
    if not trace.is_tensor(left) and not trace.is_tensor(right):
        return trace.without_signal(a, b)
    return operations.multiplied(trace, left, right)


@rule("div", alone=True)
def _divide(trace: JaxTrace, a: Array, b: Array, **_: Any) -> Any:
    left, right = trace.operand(a), trace.operand(b)
    if not trace.is_tensor(right):
        return operations.line(trace, a, 1 / right) if right else trace.without_signal(a)
    if not any(trace.is_signal(t) for t in (left, right)):
        return trace.without_signal(a, b)
    if trace.is_tensor(left) and trace.is_signal(right):
        return operations.divided(trace, left, right)
    if trace.is_tensor(left) and not trace.is_weight(right):
        inverse = _derived(trace, lambda v: 1 / v, right, right.shape)
        return operations.multiplied(trace, left, inverse)
    return trace.elementwise(np.divide, left, right)


@rule("integer_pow", "pow")
def _power(trace: JaxTrace, x: Array, exponent: Any = None, *, y: Any = None, **_: Any) -> Any:
    if exponent is None:
        return trace.elementwise(np.power, x, float(y))
    return trace.elementwise(np.power, trace.operand(x), trace.operand(exponent))


@rule("max", "min")
def _extreme(trace: JaxTrace, a: Array, b: Array, **_: Any) -> Any:
    left, right = trace.operand(a), trace.operand(b)
    for x, bound in ((left, right), (right, left)):
        if not trace.is_tensor(bound) and math.isinf(bound):  # as softmax guards its maximum
            return trace.entry(x)
    return trace.elementwise(np.maximum if trace.operation == "max" else np.minimum, left, right)


@rule("select_n", alone=True)
def _select(trace: JaxTrace, which: Array, *cases: Array, **_: Any) -> Any:
    condition = trace.entry(which)
    if isinstance(condition, Signal):
        return trace.elementwise(_selected, *map(trace.operand, (which, *cases)))
    signals = [case for case in cases if trace.is_signal(case)]
    if len(cases) > 2 or not signals:
        return trace.without_signal(which, *cases)
    off, on = cases
    if isinstance(condition, Mask):
        x, keep = (on, condition.keep) if trace.is_signal(on) else (off, 1 - condition.keep)
        return operations.dropped(trace, x, Mask(keep), which.size == x.size)
    holds = trace.value(which.narrow or which)
    if holds is not None and np.all(holds):
        return trace.entry(on)
    if len(signals) == 2:
        layout, both = trace.broadcast(on, off)
        return trace.record("concatenate", both, layout)
    x, other, keep_on = (on, off, True) if trace.is_signal(on) else (off, on, False)
    value = trace.operand(other)
    if trace.is_tensor(value):
        for name in names(trace.entry(value)):
            trace.tape.keep(name, "a parameter that signals meet: kept as it is")
        mean = trace.statistic(value)[0]
        value = 0.0 if mean is None else mean
    if math.isnan(value):  # what lies outside, of which there is nothing
        return trace.entry(x)
    return operations.kept_where(trace, x, which, value, keep_on)


def _selected(which: Any, *cases: Any) -> Any:
    return np.choose(np.asarray(which, np.int64), cases)


@rule("clamp")
def _clamped(trace: JaxTrace, low: Array, x: Array, high: Array, **_: Any) -> Any:
    return trace.elementwise(np.clip, *map(trace.operand, (x, low, high)))


@rule("jit _bernoulli", alone=True)
def _bernoulli(trace: JaxTrace, key: Array, p: Array, **_: Any) -> Any:
    share = trace.number(p)
    return None if trace.is_tensor(share) else Mask(share)


@rule("jit _uniform", alone=True)
def _uniform(trace: JaxTrace, key: Array, low: Array, high: Array, **_: Any) -> Any:
    a, b = trace.number(low), trace.number(high)
    if trace.is_tensor(a) or trace.is_tensor(b):
        return None
    return Constant((a + b) / 2, (a * a + a * b + b * b) / 3)


@rule("jit _normal", "jit _normal_real", alone=True)
def _normal(trace: JaxTrace, *rest: Array, **_: Any) -> Any:
    return Constant(0.0, 1.0)


def _rsqrt(x: Any) -> Any:
    return 1 / np.sqrt(x)


ELEMENTWISE.update(
    {
        "abs": np.abs, "acos": np.arccos, "acosh": np.arccosh, "and": np.logical_and,
        "asin": np.arcsin, "asinh": np.arcsinh, "atan": np.arctan, "atan2": np.arctan2,
        "atanh": np.arctanh, "bessel_i0e": special.i0e, "bessel_i1e": special.i1e,
        "cbrt": np.cbrt, "ceil": np.ceil, "cos": np.cos, "cosh": np.cosh,
        "digamma": special.digamma, "eq": np.equal, "erf": special.erf, "erf_inv": special.erfinv,
        "erfc": special.erfc, "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1,
        "floor": np.floor, "ge": np.greater_equal, "gt": np.greater, "is_finite": np.isfinite,
        "le": np.less_equal, "lgamma": special.gammaln, "log": np.log, "log1p": np.log1p,
        "logistic": special.expit, "lt": np.less, "ne": np.not_equal, "not": np.logical_not,
        "or": np.logical_or, "rem": np.fmod, "round": np.round, "rsqrt": _rsqrt, "sign": np.sign,
        "sin": np.sin, "sinh": np.sinh, "sqrt": np.sqrt, "square": np.square, "tan": np.tan,
        "tanh": np.tanh, "xor": np.logical_xor,
    }
)  # fmt: skip


# --- sums, means and maxima ---


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
    return _turned(trace, x, lambda signal: _maximum(trace, signal, [int(axis) for axis in axes]))


def _maximum(trace: JaxTrace, signal: Signal, axes: list[int]) -> Signal:
    layout, counts = layouts.reduced(signal.layout, axes, False)
    positions = counts[POSITION] * counts[SAMPLE]
    return trace.record("maximum", [signal], layout, positions=positions, units=counts[UNIT])


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
    padded, inside = signal.padded, 1.0
    for axis, size in enumerate(window_dimensions):
        large, before = x.shape[axis], padding[axis][0]
        if padded is not None:
            large, before = padded.shape[axis], before + padded.before[axis]
        used = _pairs(large, y.shape[axis], size, window_strides[axis], before, 1,
                      window_dilation[axis])  # fmt: skip
        inside *= used / (size * y.shape[axis])
    n = math.prod(window_dimensions) * inside
    source = signal if padded is None else padded.signal
    layout = layouts.fitted(signal.layout, y.shape)
    return trace.record("mean", [source], layout, units=1, positions=n, samples=1, factor=n)


@rule("reduce_window_max", "reduce_window_min")
def _window_largest(trace: JaxTrace, x: Array, *, window_dimensions: Any, **_: Any) -> Any:
    n = math.prod(window_dimensions)

    def largest(signal: Signal) -> Signal:
        layout = layouts.fitted(signal.layout, trace.outputs[0].shape)
        return trace.record("maximum", [signal.inside], layout, positions=n)

    return _turned(trace, x, largest)


@rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "argmax", "argmin", alone=True)
def _cumulated(trace: JaxTrace, x: Array, **_: Any) -> Any:
    if trace.is_signal(x):
        raise NotUnderstoodError
    return None if isinstance(trace.entry(x), Tokens) else trace.without_signal(x)


# --- what only moves numbers ---


@rule("convert_element_type", alone=True)
def _converted(trace: JaxTrace, x: Array, **_: Any) -> Any:
    y = trace.outputs[0]
    if x.narrow is not None:
        y.narrow = _derived(trace, lambda v: v.astype(y.dtype), x.narrow, x.narrow.shape)
        y.narrow.dtype = y.dtype
        trace.set(y.narrow, trace.entry(x.narrow))
    entry = trace.entry(x)
    if isinstance(entry, Tokens) and trace.is_real(y):
        return None
    if isinstance(entry, Signal) and trace.is_real(x) and not trace.is_real(y):
        return trace.elementwise(np.trunc, x)
    return entry


@rule(
    "copy",
    "copy_p",
    "stop_gradient",
    "sharding_constraint",
    "name",
    "reduce_precision",
    "mesh_cast",
    "reshard",
    "pvary",
    "optimization_barrier",
    "device_put",
    "real",
    alone=True,
)
def _same(trace: JaxTrace, *inputs: Array, **_: Any) -> Any:  # fmt: skip
    for x, y in zip(inputs, trace.outputs, strict=True):
        y.narrow = x.narrow
    return tuple(trace.entry(x) for x in inputs)


@rule("reshape", "squeeze", "expand_dims", alone=True)
def _reshaped(trace: JaxTrace, x: Array, **_: Any) -> Any:
    y, entry = trace.outputs[0], trace.entry(x)
    if x.narrow is not None and x.narrow.size == 1:
        y.narrow = _derived(
            trace, lambda v: v.reshape((1,) * len(y.shape)), x.narrow, (1,) * len(y.shape)
        )
    if not isinstance(entry, Signal):
        return entry
    return reshaped(trace.tape, entry, layouts.reshaped(entry.layout, y.shape))


@rule("broadcast_in_dim", alone=True)
def _broadcast(
    trace: JaxTrace, x: Array, *_: Array, shape: Any, broadcast_dimensions: Any, **more: Any
) -> Any:
    y, source = trace.outputs[0], x.narrow or x
    one = [1] * len(shape)
    axes: list[layouts.Axis] = [()] * len(shape)
    entry = trace.entry(source)
    for i, axis in enumerate(broadcast_dimensions):
        one[axis] = source.shape[i]
        if isinstance(entry, Signal):
            axes[axis] = entry.layout[i]
    narrow = tuple(one)
    small = reshaped(trace.tape, entry, tuple(axes)) if isinstance(entry, Signal) else entry
    if narrow == y.shape:
        return small
    y.narrow = _derived(trace, lambda v: v.reshape(narrow), source, narrow)
    trace.set(y.narrow, small)
    return operations.expanded(small, y.shape)


@rule("transpose", alone=True)
def _transposed(trace: JaxTrace, x: Array, *, permutation: Sequence[int], **_: Any) -> Any:
    order = [int(axis) for axis in permutation]
    y = trace.outputs[0]
    if x.narrow is not None:
        shape = tuple(x.narrow.shape[axis] for axis in order)
        y.narrow = _derived(trace, lambda v: v.transpose(order), x.narrow, shape)
        trace.set(y.narrow, operations.reordered(trace, x.narrow, order))
    return operations.reordered(trace, x, order)


@rule("slice", alone=True)
def _sliced(trace: JaxTrace, x: Array, *, start_indices: Any, strides: Any, **_: Any) -> Any:
    return _part(trace, x, start_indices, strides or (1,) * len(start_indices))


@rule("dynamic_slice", alone=True)
def _sliced_at(trace: JaxTrace, x: Array, *starts: Array, **_: Any) -> Any:
    found = [trace.number(start) for start in starts]
    if any(trace.is_tensor(start) for start in found):
        return _moved(trace, x)
    return _part(trace, x, [int(start) for start in found], (1,) * len(found))


def _part(trace: JaxTrace, x: Array, starts: Sequence[int], steps: Sequence[int]) -> Any:
    """Some of x along each axis where there are fewer."""
    y, here = trace.outputs[0], x
    for axis, (start, step) in enumerate(zip(starts, steps, strict=True)):
        if y.shape[axis] == x.shape[axis]:
            continue
        shape = (*here.shape[:axis], y.shape[axis], *here.shape[axis + 1 :])
        there = Array(shape, x.dtype, None)
        trace.set(there, operations.cut(trace, here, there, axis, start, step))
        here = there
    return trace.entry(here)


@rule("split", alone=True)
def _split(trace: JaxTrace, x: Array, *, sizes: Sequence[int], axis: int, **_: Any) -> Any:
    starts = np.cumsum([0, *sizes])
    return tuple(
        operations.cut(trace, x, y, axis, int(start))
        for y, start in zip(trace.outputs, starts, strict=False)
    )


@rule("unstack", alone=True)
def _unstacked(trace: JaxTrace, x: Array, *, axis: int = 0, **_: Any) -> Any:
    return tuple(operations.cut(trace, x, y, axis, i) for i, y in enumerate(trace.outputs))


@rule("rev", "tile", "roll", alone=True)
def _moved(trace: JaxTrace, x: Array, *rest: Any, **_: Any) -> Any:
    entry = trace.entry(x)
    if not isinstance(entry, Signal):
        return entry
    return operations.moved(trace, entry, trace.outputs[0].shape)


@rule("sort", "top_k", alone=True)
def _sorted(trace: JaxTrace, *inputs: Array, **_: Any) -> Any:
    found = [_moved(trace, x) for x in inputs]
    return (*found, *(None for _ in trace.outputs[len(found) :]))


@rule("gather", alone=True)
def _gathered(
    trace: JaxTrace, x: Array, indices: Array, *, dimension_numbers: Any, slice_sizes: Any, **_: Any
) -> Any:
    entry, y = trace.entry(x), trace.outputs[0]
    offsets = dimension_numbers.offset_dims
    gone = {*dimension_numbers.collapsed_slice_dims, *dimension_numbers.operand_batching_dims}
    rows = tuple(y.shape[i] for i in range(len(y.shape)) if i not in offsets)
    if isinstance(entry, Weight):
        is_table = len(x.shape) == 2 and offsets == (len(y.shape) - 1,)
        if not is_table or slice_sizes[-1] != x.shape[-1]:
            return entry
        return operations.looked_up(trace, x, indices, rows, True)
    if not isinstance(entry, Signal):
        return entry
    kept = iter([i for i in range(len(x.shape)) if i not in gone])
    layout = tuple(
        layouts.resized(entry.layout[next(kept)], size)
        if i in offsets
        else ((POSITION if i else SAMPLE, size),)
        for i, size in enumerate(y.shape)
    )
    return operations.moved(trace, entry, y.shape, layout)


@rule("concatenate", "stack", alone=True)
def _concatenated(trace: JaxTrace, *inputs: Array, **params: Any) -> Any:
    axis = params.get("dimension", params.get("axis", 0))
    return operations.concatenated(trace, inputs, axis)


@rule("pad", alone=True)
def _padded(trace: JaxTrace, x: Array, value: Array, *, padding_config: Any, **_: Any) -> Any:
    if any(between for _, _, between in padding_config) or any(
        low < 0 or high < 0 for low, high, _ in padding_config
    ):
        return _moved(trace, x)
    return operations.padded(trace, x, [low for low, _, _ in padding_config])


@rule("dynamic_update_slice", alone=True)
def _written(trace: JaxTrace, x: Array, update: Array, *starts: Array, **_: Any) -> Any:
    before, new = trace.entry(x), trace.entry(update)
    if not isinstance(new, Signal):
        return before
    layout = layouts.fitted(new.layout, x.shape)
    if isinstance(before, Signal):
        return join(trace.tape, [before, new], layout, 0).whole
    return replace(new.whole, layout=layout)  # the rest of it is to be written yet
