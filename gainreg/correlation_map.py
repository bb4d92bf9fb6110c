"""How alike an activation leaves two signals: the correlation of outputs by that of inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from gainreg.errors import MomentError, ParameterError
from gainreg.frameworks import bind
from gainreg.moments import FloatArray, pairs
from gainreg.params import check_std
from gainreg.resolver import numbers

if TYPE_CHECKING:
    from gainreg.activation import Activation
    from gainreg.bound import Bound


@overload
def correlation(
    activation: str | Activation | Callable[..., Any],
    rho: float,
    std: float = 1.0,
    **params: float,
) -> float: ...
@overload
def correlation(
    activation: str | Activation | Callable[..., Any],
    rho: Any,
    std: float = 1.0,
    **params: float,
) -> FloatArray: ...
def correlation(
    activation: str | Activation | Callable[..., Any],
    rho: Any,
    std: float = 1.0,
    **params: float,
) -> float | FloatArray:
    """E[φ(u)·φ(v)]/E[φ(u)²] for u and v Gaussian of mean 0, one std and correlation rho.

    The C map of Poole et al. 2016 (arXiv:1606.05340): with weights of mean 0 and no biases, the
    correlation of two signals in the next layer by that in this one. At 1 it is 1 and its slope is
    ``gradient_factor`` (for a φ of width 1); at 0 it is mean²/second_moment.

    It is right to 1e-10, whatever φ is: smooth, with kinks, with jumps, declared or not. Beside
    rho = ±1, at 1 − |rho| down to 1e-16, so are 1 − C and 1 + C relative to themselves, as far as
    the last digits of C and of φ let them.

    Args:
        activation: a registered name or alias; an ``Activation``; any vectorised callable; or a
            function or module of a framework that is imported already.
        rho: correlation of u and v, from −1 to 1: a number, or an array of any shape.
        std: standard deviation of the pre-activation (not its variance).
        **params: the activation's parameters, where they differ from the defaults.

    Returns:
        A float for a number, else an array of rho's shape.

    Raises:
        UnknownActivationError: no activation has that name.
        ParameterError: a rho is not a number from −1 to 1, or a param or the std is not what it
            must be.
        MomentError: the activation is random or not elementwise; or the integral does not settle:
            φ is 0, grows too fast, or is too lively.
        PluginError: the activation's own functions fail.
    """
    rhos = _check_rho(rho)
    std = check_std(std)
    bound = bind(activation, params)
    with np.errstate(all="ignore"):  # what is out of range is found and said below
        if not bound.integrable:
            raise MomentError(_no_pairs(bound))
        sizes, where = np.unique(np.abs(rhos), return_inverse=True)
        shares, lost = pairs.unlikeness(bound.forward, sizes, std, bound.kinks)
    unsettled = np.isnan(lost + shares[:, None]).any(axis=0)
    if unsettled.any():
        worst = sizes[unsettled].max()
        raise MomentError(
            f"E[φ(u)·φ(v)] of {bound.name!r} does not settle at std = {std:.6g} and rho = "
            f"{worst:.17g}: φ is 0, grows too fast, is too lively, jumps too often, or is not "
            "computed in float64; try another std, or declare the kinks of φ in an Activation"
        )
    even, odd = lost[:, where].reshape(2, *rhos.shape)
    found = np.where(rhos >= 0, 1 - (even + odd), (shares[0] - even) - (shares[1] - odd))
    return float(found) if found.ndim == 0 else found


def _check_rho(rho: Any) -> FloatArray:
    rhos = numbers(rho, "rho must be a number or an array of numbers")
    bad = ~(np.abs(rhos) <= 1)
    if bad.any():
        raise ParameterError(
            f"rho is a correlation, a number from -1 to 1, got {float(rhos[bad].flat[0]):.17g}"
        )
    return rhos


def _no_pairs(bound: Bound) -> str:
    why = f"E[φ(u)·φ(v)] of {bound.name!r} is not known: "
    if bound.gate is not None:
        return (
            why + "it is not elementwise but a·φ(b); for independent a and b it is "
            f"rho·gainreg.correlation({bound.gate.name!r}, rho)"
        )
    return why + "it is random or not elementwise; pass a fixed function of one number"
