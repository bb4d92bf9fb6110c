"""What is known of the gradient by a tensor, and how it depends on the tensor's own values.

A unit that is active in one block of a stream is more likely active in the next, and a gradient
that comes back through both gates finds both open or both shut: of relu(x + branch) after
relu(...), E[φ′(u)²·φ′(v)²] is up to twice the product of the two means. So a gradient carries how
large it is where the tensor has which value, through sums and gates, until a weight mixes units.
So does what positions have in common, with its sign: a gate for each channel of a sample adds up
gradient times signal over all of them, and behind it an activation or maximum lets through where
the signal is large. How a step's factors follow from its signals stands in the rules.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gainreg.signals.functions import NODES, WEIGHTS, FloatArray, slopes_on_nodes
from gainreg.signals.rules.step import ANY, Factor, Profiles, passed_in_common
from gainreg.signals.state import LARGEST, State, joined

STEEP = "a mean squared slope that is infinite, and grows with the number of samples"

# What is said of a gradient that single precision could not hold, or that is no number: it is an
# approximation that got lost.
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
        profiles: how g and h depend on the tensor's values.
        note: what on its way was an approximation.
    """

    g: float
    h: float
    k: float = 0.0
    w: float = 0.0
    profiles: Profiles = ANY
    note: str = ""

    def plus(self, other: Gradient) -> Gradient:
        """The gradient by what is used in two places."""
        return Gradient(
            self.g + other.g,
            self.h + other.h,
            self.k + other.k,
            (math.sqrt(self.w) + math.sqrt(other.w)) ** 2,  # both are parts of one
            Profiles(
                _averaged((self.profiles.given, self.g), (other.profiles.given, other.g)),
                _averaged((self.profiles.lean, self.h), (other.profiles.lean, other.h)),
            ),
            joined(self.note, other.note),
        )

    def times(self, factor: Factor, note: str) -> Gradient:
        """What a step hands on of it."""
        by, profiles = factor(self.profiles) if callable(factor) else (factor, ANY)
        with np.errstate(all="ignore"):
            g, h, k, w = map(float, by @ (self.g, self.h, self.k, self.w))
        if not all(abs(it) < LARGEST for it in (g, h, k, w)):
            return Gradient(self.g, 0.0, note=joined(self.note, note, LOST))
        # what approximations take off may be more than there is
        return Gradient(max(0.0, g), h, k, max(0.0, w), profiles, joined(self.note, note))


def _averaged(*parts: tuple[FloatArray | None, float]) -> FloatArray | None:
    total = math.fsum(size for _, size in parts)
    if total <= 0 or all(profile is None for profile, _ in parts):
        return None
    found: FloatArray = sum(  # type: ignore[assignment]
        (max(0.0, size) / total) * (np.ones_like(NODES) if profile is None else profile)
        for profile, size in parts
    )
    return found


NOTHING = Gradient(0.0, 0.0)


def by_root(state: State, by_state: Gradient) -> Gradient:
    """From a function of a root to the root: E[f′²·g], and E[f′(u)f′(v)]·h across positions."""
    g, h, k, w, (given, lean), note = by_state
    f, root = state.profile, state.root
    if state.function.core is None:
        factor = state.function.scale**2
        return Gradient(factor * g, factor * h, factor * k, w, by_state.profiles, note)
    slopes = slopes_on_nodes(state.function, root.values)
    known = float(WEIGHTS @ slopes**2)
    if not known:
        return NOTHING
    slope = f.slope
    if not math.isfinite(slope):
        slope, note = known, joined(note, STEEP)
    shape = slopes**2 / known * (1.0 if given is None else given)
    together = float(WEIGHTS @ shape)
    if not together:
        return NOTHING
    positions, samples = (
        slope / known * passed_in_common(root, c, slopes, lean)
        for c in (root.moments.across_positions, root.moments.across_samples)
    )
    leans = slopes if lean is None else lean * slopes
    return Gradient(
        slope * together * g,
        positions * h,
        samples * k,
        w * f.growth**2,
        Profiles(shape / together, leans / math.sqrt(max(float(WEIGHTS @ leans**2), 1e-300))),
        note,
    )
