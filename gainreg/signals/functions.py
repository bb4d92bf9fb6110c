"""Elementwise functions of one Gaussian: composed from operations, and integrated once each.

A chain such as ``x * sigmoid(1.702 * x)`` arrives operation by operation and becomes one
``Function`` of x, whatever way it was spelt; equal chains are one object, so that each is
integrated once for a std. What the registry knows, by name or by its values, has the registry's
numbers.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial.hermite_e import hermevander
from numpy.typing import NDArray
from scipy.special import factorial

import gainreg
from gainreg.errors import GainregError
from gainreg.host import host

FloatArray = NDArray[np.float64]

# Nodes of the trapezoid rule in z for what is no function of a Gaussian that gainreg could be
# asked for. Beyond |z| = 9 lies 2e-19 of the weight; a step of 0.01 integrates kinks to 1e-5,
# where the predictions that need it are good to a percent.
NODES: FloatArray = np.linspace(-9.0, 9.0, 1801)
WEIGHTS: FloatArray = np.exp(-(NODES**2) / 2)
WEIGHTS /= WEIGHTS.sum()

# Hermite coefficients that are kept. What higher orders hold counts with ρ to this power: of
# ReLU that is 2e-4 of the second moment, and right at ρ = 0 and 1.
ORDERS = 64

# Share of a variable on which a function may be undefined before its moments are NaN, as those of
# a logarithm are. Below it lie roots and quotients of what is positive but taken for Gaussian: of
# the mean of three squares 11 % would be below 0.
UNDEFINED = 0.3


# The orthonormal Hermite polynomials at the nodes, times the weights.
_HERMITE = (hermevander(NODES, ORDERS - 1) / np.sqrt(factorial(np.arange(ORDERS)))).T * WEIGHTS


class Operation(NamedTuple):
    """An operation on numbers, elementwise.

    Attributes:
        key: equal for operations that compute the same.
        call: float64 arrays in and out.
        name, params: of the activation in the registry that it is, where the framework says so.
    """

    key: Hashable
    call: Callable[..., Any]
    name: str = ""
    params: tuple[tuple[str, float], ...] = ()


# What a quotient multiplies by.
RECIPROCAL = Operation("reciprocal", lambda x: 1 / x)


class Core:
    """An operation applied to functions of one variable; equal ones are the same object."""

    def __init__(self, operation: Operation, operands: tuple[Function, ...]) -> None:
        self.operation = operation
        self.operands = operands

    def __call__(self, x: FloatArray) -> FloatArray:
        return self.at(x, {})

    def at(self, x: FloatArray, known: dict[Core, FloatArray]) -> FloatArray:
        """The values at x; ``known`` keeps those of parts that occur more than once."""
        if self not in known:
            inner = [operand.at(x, known) for operand in self.operands]
            known[self] = np.asarray(self.operation.call(*inner), dtype=np.float64)
        return known[self]


@dataclass(frozen=True)
class Function:
    """x ↦ scale·core(inner·x) + shift, and without a core scale·x + shift."""

    scale: float = 1.0
    shift: float = 0.0
    core: Core | None = None
    inner: float = 1.0

    def __call__(self, x: FloatArray) -> FloatArray:
        return self.at(x, {})

    def at(self, x: FloatArray, known: dict[Core, FloatArray]) -> FloatArray:
        """The values at x."""
        if self.core is None:
            return self.scale * x + self.shift
        if self.inner != 1.0:  # known values are those at x itself
            known, x = {}, self.inner * x
        return self.scale * self.core.at(x, known) + self.shift

    def scaled(self, scale: float, shift: float = 0.0) -> Function:
        """scale·f + shift."""
        return replace(self, scale=scale * self.scale, shift=scale * self.shift + shift)


IDENTITY = Function()
_interned: dict[Any, Core] = {}


def compose(operation: Operation, operands: Sequence[Function]) -> Function:
    """The operation on functions of one variable, as one function of it."""
    operands = tuple(operands)
    inner = 1.0
    if len(operands) == 1 and operands[0].core is None and not operands[0].shift:
        inner, operands = operands[0].scale, (IDENTITY,)
    key = operation.key, operands
    if key not in _interned:
        if len(_interned) > 10_000:  # more than any model has: a program that makes keys anew
            _interned.clear()
        _interned[key] = Core(operation, operands)
    return Function(core=_interned[key], inner=inner)


def combine(functions: Sequence[Function], factors: Sequence[float]) -> Function:
    """Σ factor·f, as one function."""
    shift = math.fsum(k * f.shift for f, k in zip(functions, factors, strict=True))
    scales: dict[Any, float] = {}
    for f, k in zip(functions, factors, strict=True):
        scales[f.core, f.inner] = scales.get((f.core, f.inner), 0.0) + k * f.scale
    parts = [(kind, scale) for kind, scale in scales.items() if scale]
    if len(parts) <= 1:
        (core, inner), scale = parts[0] if parts else ((None, 1.0), 0.0)
        return Function(scale, shift, core, inner)
    terms = [Function(scale, 0.0, core, inner) for (core, inner), scale in parts]
    total = compose(Operation("sum", lambda *values: functools.reduce(np.add, values)), terms)
    return total.scaled(1.0, shift)


# --- what the registry knows ---

# Where a chain is compared with the activations in the registry: between and beyond the places
# where the common ones bend (±1, ±3, 6).
_PROBES = np.array([-7.3, -3.4, -1.9, -0.8, -0.31, -0.02, 0.013, 0.27, 0.9, 2.2, 4.1, 6.7, 9.2])


@functools.cache
def _registered() -> dict[str, FloatArray]:
    """By name, the values at the probes of every activation that its defaults make elementwise."""
    found = {}
    for activation in host().activations():
        if None in activation.params.values() or activation.sample is not None:
            continue
        with contextlib.suppress(Exception), np.errstate(all="ignore"):
            # whatever goes wrong in a plugin: what cannot be evaluated is not recognised
            values = activation.forward(_PROBES.copy(), **activation.params)  # type: ignore[misc]
            found[activation.name] = np.asarray(values, dtype=np.float64)
    return found


@functools.lru_cache(4096)
def named(core: Core) -> tuple[str, dict[str, float]] | None:
    """The activation in the registry that the core computes, by what the framework calls it or by
    its values; None for any other."""
    if core.operation.name and core.operands == (IDENTITY,):
        return core.operation.name, dict(core.operation.params)
    with np.errstate(all="ignore"):
        values = core(_PROBES)
    for name, known in _registered().items():
        # 1e-6: well above the rounding of constants in single precision, as √(2/π) in JAX's gelu,
        # far below the difference of any two activations (gelu and its tanh approximation: 4e-4)
        if values.shape == known.shape and np.allclose(values, known, rtol=1e-6, atol=1e-7):
            return name, {}
    return None


def describe(function: Function) -> str:
    """What a report calls the function: a name, or that it has none."""
    if function.core is None:
        return "identity"
    known = named(function.core)
    return known[0] if known else "an elementwise chain"


# --- moments ---


class Profile(NamedTuple):
    """What a function makes of a variable of unit Gaussian z: moments and Hermite coefficients.

    Attributes:
        mean, second_moment: E[f], E[f²].
        slope: E[f′²], f′ by the variable that f is a function of; where f jumps, of f′ beside the
            jumps, which is what frameworks differentiate.
        growth: d ln E[f²] / d ln(variance of the variable).
        orders: E[f·He_k(z)]/√k!, from k = 0.
        found: whether the moments are known to many digits, and not from values at the nodes alone.
    """

    mean: float
    second_moment: float
    slope: float
    growth: float
    orders: FloatArray
    found: bool = True

    def covariance(self, rho: float) -> float:
        """E[f(u)·f(v)] for u, v of correlation rho."""
        rho = min(1.0, max(-1.0, rho))
        powers = rho ** np.arange(ORDERS)
        rest = max(0.0, self.second_moment - float(self.orders @ self.orders))
        return float(self.orders**2 @ powers) + rest * abs(rho) ** ORDERS

    def scaled(self, f: Function) -> Profile:
        """The profile of f.scale·this + f.shift, by the variable that is f.inner times larger."""
        orders = f.scale * self.orders
        orders[0] += f.shift
        second = f.scale**2 * self.second_moment + 2 * f.scale * f.shift * self.mean + f.shift**2
        return Profile(
            f.scale * self.mean + f.shift,
            second,
            (f.scale * f.inner) ** 2 * self.slope,
            self.growth * f.scale**2 * self.second_moment / second if second else 0.0,
            orders,
            self.found,
        )


def line(mean: float, std: float) -> Profile:
    """The profile of a Gaussian itself."""
    orders = np.zeros(ORDERS)
    orders[:2] = mean, std
    second = mean**2 + std**2
    return Profile(mean, second, 1.0, std**2 / second if second else 1.0, orders)


def of_gaussian(f: Function, mean: float, std: float) -> Profile:
    """The profile of f of a Gaussian of that mean and standard deviation."""
    if f.core is None:
        return line(mean, std).scaled(f)
    if std == 0:
        return of_values(f, np.full_like(NODES, mean))
    return _of_core(f.core, f.inner * mean, abs(f.inner) * std, f.inner < 0).scaled(f)


@functools.lru_cache(4096)
def _of_core(core: Core, mean: float, std: float, mirrored: bool) -> Profile:
    x = mean + (-std if mirrored else std) * NODES
    known = named(core) if not mean else None
    if known:  # its function too: a chain may hold constants in single precision
        bound = host().bind(*known)
        if bound.activation.forward is not None:
            core = Core(Operation(known, bound.forward), (IDENTITY,))
    here = of_values(Function(core=core), x)
    try:
        if known:
            entry = gainreg.resolve(known[0], std, **known[1])  # type: ignore[arg-type]
        else:
            entry = gainreg.resolve(lambda t: core(np.asarray(t) + mean), std)
    except GainregError:  # no moments, or none that can be found to many digits
        return here._replace(found=False)
    slope = entry.derivative_second_moment
    return Profile(
        entry.mean,
        entry.second_moment,
        _beside_jumps(core, x) if slope is None else slope,
        entry.variance_slope,
        here.orders,
    )


def _beside_jumps(core: Core, x: FloatArray) -> float:
    """E[f′²] of f′ where it exists."""
    return float(WEIGHTS @ slopes_on_nodes(core, x) ** 2)


def slopes_at(f: Callable[[FloatArray], FloatArray], x: FloatArray) -> FloatArray:
    """f′ at the values of a variable, by differences over steps that meet next to no jump; 0 where
    there is none."""
    step = 1e-6 * (np.abs(x) + np.abs(x).mean())
    with np.errstate(all="ignore"):
        slopes = (f(x + step) - f(x)) / step
    found: FloatArray = np.where(np.isfinite(slopes), slopes, 0.0)
    return found


def slopes_on_nodes(f: Callable[[FloatArray], FloatArray], x: FloatArray) -> FloatArray:
    """f′ at the nodes' values, from those between them: functions bend at 0, where a node is."""
    between = slopes_at(f, (x[1:] + x[:-1]) / 2)
    found: FloatArray = np.interp(NODES, (NODES[1:] + NODES[:-1]) / 2, between)
    return found


def of_values(f: Callable[[FloatArray], FloatArray], x: FloatArray) -> Profile:
    """The profile of f of a variable whose values at the nodes of z are given: approximate."""
    with np.errstate(all="ignore"):
        y = f(x)
        bad = ~np.isfinite(y)
        if bad.any():  # as 1/√x left of 0, where next to nothing of the variable lies
            y = np.where(bad, 0.0, y)
        step = np.diff(x)
        moving = step != 0
        middle = (WEIGHTS[1:] + WEIGHTS[:-1]) / 2
        # where many have one value, as what is behind ReLU, f still has a slope there
        still = 0.0 if moving.all() else slopes_at(f, x)[1:]
        slopes = np.where(moving, np.diff(y) / np.where(moving, step, 1.0), still)
    second = float(WEIGHTS @ y**2)
    if float(WEIGHTS @ bad) > UNDEFINED:
        second = math.nan
    growth = float(WEIGHTS @ (y**2 * (NODES**2 - 1))) / (2 * second) if second > 0 else 0.0
    return Profile(float(WEIGHTS @ y), second, float(middle @ slopes**2), growth, _HERMITE @ y)
