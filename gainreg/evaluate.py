"""The moments of a bound activation: by closed form, quadrature or sampling, in that order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gainreg.bound import Bound
from gainreg.errors import MomentError, PluginError
from gainreg.moments import EPS, FloatArray, Moments, quadrature
from gainreg.params import METHODS
from gainreg.verify import A_DECADE, PROBES, closed_forms, sampled

# Of E[φ²]: a variance below is taken by quadrature of (φ − mean)², for the difference cancels.
CANCELLED = 0.05
# Samples whose standard error is a larger part of the second moment say nothing.
UNSETTLED = 0.2

Names = NDArray[np.str_]


def moments(bound: Bound, std: FloatArray, method: str, seed: int) -> tuple[Moments, Names]:
    """The moments at each std, and the name of the method that found each second moment.

    Args:
        bound: an activation with the values of its params.
        std: a 1-D array.
        method: by which second_moment is to be found: "analytic", "quadrature", "sampling", or
            "auto" for the first of them that does.
        seed: of the sampling.

    Raises:
        MomentError: that method does not apply.
        PluginError: the activation's own functions fail, or what it declares is wrong.
    """
    if bound.gate is not None:
        return _gated(bound.gate, std, method, seed)
    ways = {"analytic": _closed, "quadrature": _integrated, "sampling": _sampled}
    asked = METHODS[METHODS.index(method) if method != "auto" else 0 :]
    found, used = ways[asked[0]](bound, std, seed), np.full(len(std), "", dtype="<U10")
    for name in asked:
        if name != asked[0]:
            lacking = found.missing()
            if name == "quadrature":  # where that finds no E[φ′²], sampling does not either
                lacking |= np.isnan(found.derivative_second_moment)
            if not lacking.any():
                break
            # the very same array, if it is all of them: pieces remember what they found for it
            found.fill(lacking, ways[name](bound, std if lacking.all() else std[lacking], seed))
        if bound.jumps:
            found.derivative_second_moment[:] = np.inf
        by = "quadrature" if name == "analytic" and bound.activation.by_quadrature else name
        used[(used == "") & ~np.isnan(found.second_moment)] = by
        if name == method and not used.all():
            raise _does_not_apply(bound, method, float(std[used == ""][0]))
    if not bound.integrable:  # of mean and E[φ²] one may have a closed form, and one not
        found.variance[:] = np.maximum(found.second_moment - found.mean**2, 0.0)
    return found, used


def _gated(gate: Bound, std: FloatArray, method: str, seed: int) -> tuple[Moments, Names]:
    """The moments of a·φ(b), a and b independent, from those of φ."""
    phi, used = moments(gate, std, method, seed)
    second = std**2 * phi.second_moment
    return Moments(
        mean=np.zeros_like(std),
        second_moment=second,
        variance=second.copy(),
        variance_slope=1 + phi.variance_slope,
        # by a pre-activation, half of which are an a, with the derivative φ(b), and half a b
        derivative_second_moment=(phi.second_moment + std**2 * phi.derivative_second_moment) / 2,
        error=std**2 * phi.error,
    ), used


def _does_not_apply(bound: Bound, method: str, std: float) -> MomentError:
    if method == "analytic":
        return MomentError(
            f"{bound.name!r} has no closed form that is accurate at std = {std:.6g}; use "
            "method='auto' or method='quadrature'"
        )
    why = (
        f"quadrature does not settle at std = {std:.6g}"
        if bound.integrable
        else "it is random or not elementwise, so that quadrature does not apply"
    )
    return MomentError(
        f"{bound.name!r} has no moments by quadrature: {why}; use method='auto' or "
        "method='sampling'"
    )


def _closed(bound: Bound, std: FloatArray, _: int) -> Moments:
    """The closed forms between those probes where they agree with quadrature, NaN elsewhere."""
    found = Moments.all(np.nan, len(std))
    errors = bound.closed_form_errors
    if not errors or not len(std):
        return found
    # the place among PROBES, twenty times as fast as a search
    interval = np.ceil(A_DECADE * (np.log10(std) + 8)).clip(0, len(PROBES)).astype(np.intp)
    asked_for = slice(interval.min(), interval.max() + 1)
    for name, value in closed_forms(bound, std).items():
        if name in errors:
            getattr(found, name)[:] = value
            if np.isinf(errors[name][asked_for]).any():  # seldom; a long array takes its time
                getattr(found, name)[np.isinf(errors[name][interval])] = np.nan
    np.subtract(found.second_moment, found.mean**2, out=found.variance)
    if bound.integrable:
        found.variance[found.variance < CANCELLED * found.second_moment] = np.nan
    if "second_moment" in errors:
        relative = np.maximum(4 * errors["second_moment"], 6 * EPS)[interval]
        np.multiply(relative, found.second_moment, out=found.error)
    return found


def _integrated(bound: Bound, std: FloatArray, _: int) -> Moments:
    """The moments by quadrature, NaN where it does not settle or does not apply."""
    if not bound.integrable:
        return Moments.all(np.nan, len(std))
    slope = np.zeros_like if bound.jumps else bound.derivative
    return quadrature.integrated(bound.forward, slope, std, bound.kinks)


def _sampled(bound: Bound, stds: FloatArray, seed: int) -> Moments:
    """The moments by sampling.

    Raises:
        MomentError: the samples do not agree on the second moment.
        PluginError: there is nothing to sample.
    """
    found = Moments.all(np.nan, len(stds))
    for i, std in enumerate(stds.tolist()):
        drawn = sampled(bound, bound.derivative, std, seed)
        if drawn is None:
            raise PluginError(f"activation {bound.name!r} needs a forward or a sample function")
        second, error = drawn.second_moment[0], drawn.error[0]
        if error > UNSETTLED * second:
            raise MomentError(
                f"samples of {bound.name!r} at std = {std:.6g} do not agree on its second moment: "
                f"{second:.4g} ± {error:.2g}; its tails may be too heavy to have one"
            )
        found.fill(np.arange(len(stds)) == i, drawn)
    return found
