"""Where depth costs least: the std at which signals, gradients and their errors are level at once.

With weights of variance gain²/fan_in and biases of standard deviation bias_std, the variance K of
the pre-activations becomes K′ = gain²·E[φ²] + bias_std² in the next layer, and the mean squared
gradient is multiplied by gain²·E[φ′²]/width. With gain² = width/E[φ′²], which is backward_gain² for
a φ of width 1, and bias_std = critical_bias_std, both stay level, and dK′/dK is
variance_slope/gradient_factor. Where that is 1 too, an error of the variance neither dies out nor
grows exponentially with depth (Roberts, Yaida and Hanin 2022, The Principles of Deep Learning
Theory, ch. 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import optimize

from gainreg.errors import MomentError
from gainreg.frameworks import bind
from gainreg.resolver import known_at

if TYPE_CHECKING:
    from gainreg.activation import Activation
    from gainreg.bound import Bound
    from gainreg.entry import GainEntry

# Where a crossing is looked for: four stds a decade. Moments are smooth in ln std on a scale of 1;
# two crossings between neighbours would be missed.
STDS = tuple(10.0 ** (np.arange(-16, 17) / 4))
# What stands for std → 0, the first that is known: ELU's gain is 4e-11 from its limit at 1e-10.
SMALL = (1e-10, 1e-8, 1e-6)
# The least difference of variance_slope and gradient_factor, or of one from 1, that is one: closed
# forms and quadrature leave 1e-13, the search for E[φ′²] promises 1e-6.
SIGNIFICANT, NUMERICAL = 1e-10, 1e-5
SAFETY = 100.0  # both are quotients of moments, and their difference may lose digits
# gradient_factor comes nearer to 1 by this, at least, from the first of STDS to the first of SMALL:
# that of |x|^1.02 does not, that of x + x·√|x| does by 1e-3.
NEARER = 0.1


@dataclass(frozen=True)
class CriticalPoint:
    """Where signals, gradients and errors of both are level at once, for one activation throughout.

    Attributes:
        activation: canonical name.
        params: all parameters with their values.
        kind: "scale_invariant": variance_slope and gradient_factor are 1 at every std (ReLU);
            "half_stable": they are equal, and not below 1, at one std above 0 (GELU);
            "origin": as std → 0, gradient_factor → 1, and where variance_slope begins to differ
            from it, it is less (tanh);
            "none": none of these.
        std: of the pre-activations: 1.0, for all, where scale_invariant; 0.0 where origin; None
            where none.
        gain: with weights of standard deviation gain/√fan_in the mean squared gradient stays what
            it is at that std; for origin, in the limit. None where none.
        bias_std: standard deviation of the biases: above 0 where half_stable (0 where
            gradient_factor is 1 there), else 0.0; None where none.
    """

    activation: str
    params: dict[str, float]
    kind: str
    std: float | None
    gain: float | None
    bias_std: float | None


def critical(activation: str | Activation | Callable[..., Any], **params: float) -> CriticalPoint:
    """The critical point of an activation, to 1e-9 where E[φ′²] is known so well.

    It is looked for at stds from 1e-4 to 1e4. Of several that are half stable it is the one of
    least std: signals that start small or shrink come to it first, and φ is nearest to linear
    there. Half stable goes before origin: a size that lasts, before one that slowly dies out.

    Args:
        activation: a registered name or alias; an ``Activation``; any vectorised callable; or a
            function or module of a framework that is imported already.
        **params: the activation's parameters, where they differ from the defaults.

    Raises:
        UnknownActivationError: no activation has that name.
        ParameterError: a param is not what it must be.
        MomentError: the moments do not exist, or are known only from samples, as φ is random or not
            elementwise.
        PluginError: the activation's own functions fail, or what it declares is wrong.
    """
    bound = bind(activation, params)
    with np.errstate(all="ignore"):  # φ may overflow where it is looked at
        integrable, exact = bound.integrable, _slope_is_exact(bound)

    def at(*stds: float) -> list[GainEntry]:
        """The entries at those of the stds at which moments are known without sampling."""
        try:
            return [entry for entry in known_at(bound, stds) if entry.method != "sampling"]
        except MomentError:  # at none of them
            return []

    entries = []
    if bound.gate is None and (integrable or at(1.0)):  # else samples would take long
        entries = at(*STDS)
    if not entries:
        raise MomentError(f"the critical point of {bound.name!r} is not known: {_why_not(bound)}")

    def point(kind: str, entry: GainEntry, std: float, bias_std: float) -> CriticalPoint:
        gain = math.sqrt(bound.width) * entry.backward_gain
        return CriticalPoint(bound.name, dict(bound.params), kind, std, gain, bias_std)

    sloped = [entry for entry in entries if entry.gradient_factor is not None]
    unsure = SIGNIFICANT if exact else NUMERICAL
    if len(sloped) == len(STDS) and all(_is_level(entry, unsure) for entry in sloped):
        return point("scale_invariant", at(1.0)[0], 1.0, 0.0)
    for low, high in _crossings(sloped, unsure):

        def difference(log_std: float) -> float:
            (entry,) = at(math.exp(log_std))
            return float(entry.variance_slope - entry.gradient_factor)

        log_std = optimize.brentq(difference, math.log(low), math.log(high), xtol=1e-14, rtol=1e-14)
        (entry,) = at(math.exp(log_std))
        if entry.gradient_factor >= 1:
            return point("half_stable", entry, entry.std, entry.critical_bias_std)
    small = next((entry for std in SMALL for entry in at(std) if entry.gradient_factor), None)
    if small is not None and _is_origin(small, sloped, unsure):
        return point("origin", small, 0.0, 0.0)
    return CriticalPoint(bound.name, dict(bound.params), "none", None, None, None)


def _why_not(bound: Bound) -> str:
    if bound.gate is not None:
        return "it is not elementwise but a·φ(b), two signals that multiply"
    if bound.integrable:
        return "it has no second moment at any std from 1e-4 to 1e4"
    return "it is random or not elementwise, and its moments are samples"


def _slope_is_exact(bound: Bound) -> bool:
    """Whether E[φ′²] comes from a closed form or a declared derivative."""
    return bound.derivative is not None or "derivative_second_moment" in bound.closed_form_errors


def _sign(entry: GainEntry, unsure: float) -> int:
    """The sign of variance_slope − gradient_factor, 0 where rounding may have made it."""
    difference = entry.variance_slope - entry.gradient_factor
    unsure += SAFETY * entry.error / entry.second_moment
    return (
        int(np.sign(difference)) if abs(difference) > unsure * max(1, entry.gradient_factor) else 0
    )


def _is_level(entry: GainEntry, unsure: float) -> bool:
    """Whether both factors are 1."""
    return _sign(entry, unsure) == 0 and abs(entry.gradient_factor - 1) <= unsure


def _crossings(entries: list[GainEntry], unsure: float) -> Iterator[tuple[float, float]]:
    """Between which stds the sign changes, at most one of no sign being in between.

    Where there are more, the two factors are equal over a range and not at one std.
    """
    signed = [(i, entry.std, _sign(entry, unsure)) for i, entry in enumerate(entries)]
    signed = [each for each in signed if each[2]]
    for (i, low, before), (j, high, after) in pairwise(signed):
        if before != after and j - i <= 2:
            yield low, high


def _is_origin(small: GainEntry, entries: list[GainEntry], unsure: float) -> bool:
    """Whether gradient_factor → 1 as std → 0, where variance_slope begins to differ by being less.

    Args:
        small: the entry at a std that stands for 0.
        entries: at larger stds, ascending.
        unsure: what is no difference.
    """
    off, before = (abs(entry.gradient_factor - 1) for entry in (small, entries[0]))
    first = next((sign for entry in entries if (sign := _sign(entry, unsure))), 0)
    return off <= max(unsure, NEARER * before) and first < 0
