"""Operations with a weight: linear maps and tables."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gainreg.signals.distributions import QUANTILES, at_quantiles, on_nodes
from gainreg.signals.functions import (
    NODES,
    FloatArray,
)
from gainreg.signals.relations import kurtosis
from gainreg.signals.rules.elementwise import of_units
from gainreg.signals.rules.step import (
    ANY,
    COARSE,
    Back,
    Profiles,
    Step,
    averaged,
    back,
    part,
)
from gainreg.signals.state import Moments, State, fresh
from gainreg.signals.tape import Node

# A linear map of fewer inputs, as a depthwise one, is taken to be open or shut by each of them: of
# n, one changes what comes back by a share of 2/n, 3 % of 64.
FEW = 64

# Of what is so sparse, and sums up so few units, outputs vary in size from position to position by
# a third and more.
SPARSE, UNEVEN = 10.0, 0.05


def linear(
    node: Node,
    x: State,
    *,
    bias: float = 0.0,
    variance: float,
    fan_in: int,
    taps: float = 1.0,
    units: int,
    groups: int = 1,
    operation: str,
    target: float | None = None,
    copies: float = 1.0,
    common: float = 1.0,
    together: float = 0.0,
    observed: bool = False,
    note: str = "",
) -> Step:
    """m = 0, q → fan_in·Var[w]·q, c likewise. He et al. 2015, arXiv:1502.01852, eq. 6.

    Args:
        bias: mean square of the biases, which all positions and samples have in common.
        variance: of the weights.
        fan_in: the inputs that an output sums over; of those the share ``taps`` lies inside the
            padding, and is 1/∏stride for a transposed convolution.
        units, groups: width of the input, for the noise, and how many such it has side by side.
        target: the output's second moment before the bias, where it is known without rounding.
        copies: samples times positions, over which a measurement would average.
        common: of an output's weights, the share that outputs at other positions have too: less
            than 1 beside padding, and behind a transposed convolution, where few meet the same
            taps; 0 where it sums over positions, as token mixing does.
        together: what the weights of an output have in common, E[(Σw)²]/ΣE[w²] − 1: 0 for fresh
            ones, −1 for those whose rows are centred, which do not see what all units have in
            common (Brock et al. 2021, arXiv:2101.08692).
        note: what is to be said of the weights, if they are no drawn ones.
        observed: its parts have steps of their own, through which the gradients go.
    """
    gain = variance * fan_in * taps
    alike = together * x.moments.mean**2
    q = max(0.0, x.q + alike)
    exact = gain * q if target is None else target
    _, c, s, elsewhere = (part(c + alike, q) * exact for c in x.moments.products)
    m = Moments(0.0, exact + bias, c * common + bias, s + bias, elsewhere * common + bias)
    tails = kurtosis(x)
    stray = (tails - 1) / units
    noise = x.noise + stray * _alike(x.moments, copies)
    values = _uneven(m, stray) if tails > SPARSE and stray > UNEVEN else None
    fed = (x.aligned + 1 / (units * groups)) * units / fan_in  # E[cos²] of all taps together
    state = fresh(node.id, m, (x,), operation, note, values=values, aligned=min(1.0, fed))
    state = replace(state, noise=noise)
    if fan_in == taps == 1 and not bias and not x.constant:
        # each unit has one weight: the same signal, up to that
        weight = fresh(node.id, Moments(0.0, gain, gain, gain))
        state = of_units(node, x, weight, state)
    g = gain * node.size / node.input_sizes[0]
    if observed:
        return Step(state)
    # the same pairs of a weight's two uses, among those of all inputs
    two = common * node.positions / node.input_positions[0]
    by = back(g, g * min(1.0, two))

    def few(by_made: Profiles) -> tuple[Back, Profiles]:
        """By the weight through which much of the input goes comes much of the gradient: E[w⁴] = 3;
        its sign is anyone's guess."""
        if by_made.given is None or x.constant:
            return by, ANY
        with np.errstate(all="ignore"):
            own = np.nan_to_num(x.function(x.root.values[::COARSE]))
        n, root = fan_in * taps, state.root
        rest = np.sqrt(root.moments.variance * (1 - 1 / n + 3 * own**2 / (x.q * n)))
        unsigned = Profiles(by_made.given)
        return by, averaged(root, np.full_like(own, root.moments.mean), rest, unsigned)

    return Step(state, (few if fan_in * taps < FEW else by, back(0.0)))


def portion(node: Node, x: State, fed: State, made: State, bias: State | None = None) -> Step:
    """One part of what a linear map is made of: the same map of less."""
    facts = node.inputs[2].facts
    added = 0.0 if bias is None or node.inputs[2].bias else bias.q
    q = fed.q + facts.get("together", 0.0) * fed.moments.mean**2
    variance = (made.q - added) / q / (facts["fan_in"] * facts["taps"]) if q else 0.0
    step = linear(node, x, bias=added, variance=variance, **{**facts, "observed": False})
    here = node.size / node.inputs[2].size
    return Step(step.state, (step.back[0], back(0.0), back(here, here**2)))


def _uneven(m: Moments, stray: float) -> FloatArray:
    """A Gaussian whose variance is another at each position: a gamma distribution, of a mean of
    squares of which so few are large that it strays by that."""
    from scipy.stats import gamma

    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    sizes = np.sqrt(gamma.ppf(levels, 1 / stray, scale=stray))
    return math.sqrt(m.second_moment) * on_nodes(np.multiply.outer(sizes, at_quantiles(NODES)))


def _alike(m: Moments, copies: float) -> float:
    """How much of a unit's stray is left after averaging over samples and positions: what two of
    them have in common, at most their correlation."""
    if not m.second_moment:
        return 1.0
    rho = max(0.0, max(m.across_positions, m.across_samples) / m.second_moment)
    return min(1.0, rho + (1 - min(rho, 1.0)) / copies)


def embedding(node: Node, *, variance: float, units: int, copies: float = 1.0) -> Step:
    """Rows of a table, different ones for different tokens: q = Var[w], c = 0."""
    m = Moments(0.0, variance, 0.0, 0.0)
    return Step(replace(fresh(node.id, m, phrase="embedding"), noise=2 / units / copies))
