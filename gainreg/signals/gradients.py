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

from gainreg.signals.functions import NODES, WEIGHTS, FloatArray, slopes_at
from gainreg.signals.rules import Back
from gainreg.signals.state import Root, State, joined
from gainreg.signals.tape import Node

# Every so many nodes, where a gradient's dependence on a value is smoothed by what is added to the
# value: it bends on a scale of a standard deviation, and these are 0.2 apart.
COARSE = 20

# Steps that give each element back as a multiple of itself.
STRAIGHT = ("dropout", "normalise", "scale")


class Gradient(NamedTuple):
    """The gradient by a tensor, on average over units, positions and samples.

    Attributes:
        g: its mean square.
        h: its mean product across positions.
        k: its mean product across samples, whatever the positions.
        given: how many times g it is where the unit Gaussian behind the tensor's root has the
            values of the nodes; None where it does not depend on that.
        note: what on its way was an approximation.
    """

    g: float
    h: float
    k: float = 0.0
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
        return Gradient(g, h, k, given, joined(self.note, other.note))

    def times(self, by: Back, given: FloatArray | None, note: str) -> Gradient:
        """What a step hands on of it, which depends so on the values there."""
        g, h, k = map(float, by @ (self.g, self.h, self.k))
        return Gradient(g, h, k, given, joined(self.note, note))


NOTHING = Gradient(0.0, 0.0)


def by_root(state: State, by_state: Gradient) -> Gradient:
    """From a function of a root to the root: E[f′²·g], and E[f′(u)f′(v)]·h across positions."""
    g, h, k, given, note = by_state
    f, root = state.profile, state.root
    if state.function.core is None:
        factor = state.function.scale**2
        return Gradient(factor * g, factor * h, factor * k, given, note)
    slope = f.slope if math.isfinite(f.slope) else 0.0
    positions, samples = (
        f.slopes(root.correlation(c), root.std)
        for c in (root.moments.across_positions, root.moments.across_samples)
    )
    shape = _shape(state)
    together = 1.0
    if given is not None and slope:
        shape = shape * given
        together = float(WEIGHTS @ shape)
        shape = shape / together if together else shape
    g, h, k = (together * part for part in (slope * g, positions * h, samples * k))
    return Gradient(g, h, k, shape, note)


def _shape(state: State) -> FloatArray:
    """f′² at the nodes, relative to its mean."""
    square = slopes_at(state.function, state.root.values) ** 2
    mean = float(WEIGHTS @ square)
    return square / mean if 0 < mean < math.inf else np.ones_like(NODES)


def seen(node: Node, made: Root, x: State, which: int, by_root: Gradient) -> FloatArray | None:
    """How the gradient by a step's output depends on the values of one of its inputs: that by the
    output, averaged over what else the output is made of."""
    given = by_root.given
    if given is None or x.constant:
        return None
    if node.rule == "view":
        return given
    spread = made.moments.variance
    if node.rule == "add":
        factor = float(node.facts["factors"][which])
    elif node.rule in STRAIGHT and which == 0:
        factor = math.sqrt(spread / x.moments.variance)
    else:
        return None
    with np.errstate(all="ignore"):
        own = factor * np.nan_to_num(x.function(x.root.values)[::COARSE])
    rest = math.sqrt(max(0.0, spread - factor**2 * x.moments.variance))
    shift = made.moments.mean - factor * x.moments.mean
    others = NODES[::COARSE]
    weights = WEIGHTS[::COARSE] / WEIGHTS[::COARSE].sum()
    at = np.interp(np.add.outer(own + shift, rest * others), made.values, given) @ weights
    found: FloatArray = np.interp(NODES, others, at)
    mean = float(WEIGHTS @ found)
    return found / mean if mean > 0 else None
