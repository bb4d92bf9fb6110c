"""What is known of the gradient by a tensor, and how it depends on the tensor's own values.

A unit that is active in one block of a stream is more likely active in the next, and a gradient
that comes back through both gates finds both open or both shut: of relu(x + branch) after
relu(...), E[φ′(u)²·φ′(v)²] is up to twice the product of the two means. So a gradient carries how
large it is where the tensor has which value, through sums and gates, until a weight mixes units.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gainreg.signals.functions import NODES, WEIGHTS, FloatArray, of_values, slopes_on_nodes
from gainreg.signals.rules import Back
from gainreg.signals.state import Root, State, joined
from gainreg.signals.tape import Node

# A linear map of fewer inputs, as a depthwise one, is taken to be open or shut by each of them.
FEW = 64

# Every so many nodes, where a gradient's dependence on a value is smoothed by what is added to the
# value: it bends on a scale of a standard deviation, and these are 0.2 apart.
COARSE = 20

STEEP = "a mean squared slope that is infinite, and grows with the number of samples"

# Steps that give each element back as a multiple of itself.
STRAIGHT = ("dropout", "normalise", "scale")


# A gradient beyond this, or one that is no number, is an approximation that got lost, since single
# precision holds none such.
BEYOND = 1e76
LOST = "a gradient that is not known from here back: it counts as what it was a step later"


class Gradient(NamedTuple):
    """The gradient by a tensor, on average over units, positions and samples.

    Attributes:
        g: its mean square.
        h: its mean product across positions.
        k: its mean product across samples, whatever the positions.
        w: the mean square of Σ gradient·tensor over a sample: what the loss gains where the whole
            sample grows. It passes unchanged through what is linear, and grows through what is
            steeper than that, as SiLU is, where all else that is in g averages out.
        given: how many times g it is where the unit Gaussian behind the tensor's root has the
            values of the nodes; None where it does not depend on that.
        note: what on its way was an approximation.
    """

    g: float
    h: float
    k: float = 0.0
    w: float = 0.0
    given: FloatArray | None = None
    note: str = ""

    def plus(self, other: Gradient) -> Gradient:
        """The gradient by what is used in two places."""
        g = self.g + other.g
        given: FloatArray | None = None
        if g and not (self.given is None and other.given is None):
            here, there = (1.0 if it.given is None else it.given for it in (self, other))
            given = np.asarray((self.g * here + other.g * there) / g)
        h, k = self.h + other.h, self.k + other.k
        w = (math.sqrt(self.w) + math.sqrt(other.w)) ** 2  # both are parts of one
        return Gradient(g, h, k, w, given, joined(self.note, other.note))

    def times(self, by: Back, given: FloatArray | None, note: str) -> Gradient:
        """What a step hands on of it, which depends so on the values there."""
        with np.errstate(all="ignore"):
            g, h, k, w = map(float, by @ (self.g, self.h, self.k, self.w))
        if not all(abs(it) < BEYOND for it in (g, h, k, w)):
            return Gradient(self.g, 0.0, note=joined(self.note, note, LOST))
        # what approximations take off may be more than there is
        return Gradient(max(0.0, g), h, k, max(0.0, w), given, joined(self.note, note))


NOTHING = Gradient(0.0, 0.0)


def by_root(state: State, by_state: Gradient) -> Gradient:
    """From a function of a root to the root: E[f′²·g], and E[f′(u)f′(v)]·h across positions."""
    g, h, k, w, given, note = by_state
    f, root = state.profile, state.root
    if state.function.core is None:
        factor = state.function.scale**2
        return Gradient(factor * g, factor * h, factor * k, w, given, note)
    slopes = slopes_on_nodes(state.function, root.values)
    known = of_values(lambda _: slopes, root.values)
    if not known.second_moment:
        return NOTHING
    slope = f.slope
    if not math.isfinite(slope):
        slope, note = known.second_moment, joined(note, STEEP)
    shape = slopes**2 / known.second_moment * (1.0 if given is None else given)
    together = float(WEIGHTS @ shape)
    if not together:
        return NOTHING
    positions, samples = (
        known.covariance(root.correlation(c)) / known.second_moment
        for c in (root.moments.across_positions, root.moments.across_samples)
    )
    g, h, k = (slope * together * part for part in (g, positions * h, samples * k))
    return Gradient(g, h, k, w * f.growth**2, shape / together, note)


def seen(node: Node, made: Root, x: State, which: int, by_root: Gradient) -> FloatArray | None:
    """How the gradient by a step's output depends on the values of one of its inputs: that by the
    output, averaged over what else the output is made of."""
    given = by_root.given
    if given is None or x.constant:
        return None
    if node.rule == "view":
        return given
    spread = made.moments.variance
    with np.errstate(all="ignore"):
        own = np.nan_to_num(x.function(x.root.values)[::COARSE])
    fan_in = node.facts.get("fan_in", 1) * node.facts.get("taps", 1.0)
    if node.rule == "add" or (node.rule in STRAIGHT and which == 0):
        factor = math.sqrt(spread / x.moments.variance)
        if node.rule == "add":
            factor = float(node.facts["factors"][which])
        own = factor * (own - x.moments.mean) + made.moments.mean
        rest = np.full_like(own, math.sqrt(max(0.0, spread - factor**2 * x.moments.variance)))
    elif node.rule == "linear" and which == 0 and fan_in < FEW:
        # by the weight through which much of the input goes comes much of the gradient: E[w⁴] = 3
        rest = np.sqrt(spread * (1 - 1 / fan_in + 3 * own**2 / (x.q * fan_in)))
        own = np.full_like(own, made.moments.mean)
    else:
        return None
    others = NODES[::COARSE]
    weights = WEIGHTS[::COARSE] / WEIGHTS[::COARSE].sum()
    at = np.interp(own[:, None] + np.outer(rest, others), made.values, given) @ weights
    found: FloatArray = np.interp(NODES, others, at)
    mean = float(WEIGHTS @ found)
    return found / mean if mean > 0 else None
