"""Elementwise operations, of which the algebra knows more than their values, and what is drawn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from gainreg.adapters.jax.tracer import ELEMENTWISE, Array, JaxTrace, derived, rule
from gainreg.signals import operations
from gainreg.signals.signal import Signal
from gainreg.signals.trace import Constant, Mask, names


@rule("add", "add_any", alone=True)
def _add(trace: JaxTrace, a: Array, b: Array, **_: Any) -> Any:
    return operations.summed(trace, trace.operand(a), trace.operand(b), 1.0, 1.0)


@rule("sub", alone=True)
def _subtract(trace: JaxTrace, a: Array, b: Array, **_: Any) -> Any:
    return operations.summed(trace, trace.operand(a), trace.operand(b), 1.0, -1.0)


@rule("neg", alone=True)
def _negative(trace: JaxTrace, x: Array, **_: Any) -> Any:
    return operations.line(trace, x, -1.0)


@rule("mul", alone=True)
def _multiply(trace: JaxTrace, a: Array, b: Array, **_: Any) -> Any:
    return operations.multiplied(trace, trace.operand(a), trace.operand(b))


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
        inverse = derived(lambda v: 1 / v, right, right.shape)
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
