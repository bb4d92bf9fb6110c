"""What a rule answers, and what several rules build it from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gainreg.signals.functions import (
    IDENTITY,
    NODES,
    WEIGHTS,
    FloatArray,
    Operation,
    of_values,
)
from gainreg.signals.state import Moments, Root, State, joined
from gainreg.signals.tape import Node

PRODUCT = Operation("product", np.multiply)

# How g, h, k and w of the gradient by an output make those by an input: a matrix of 4×4. g is the
# mean square, h the mean product across positions, k that across samples; w is the mean square of
# Σ gradient·value over a sample, what the loss gains where a sample grows as a whole, which passes
# unchanged through all that is linear.
Back = FloatArray


def back(g: float, h: float | None = None, w: float = 1.0) -> Back:
    """The factor of g, that of h and k where it is another, and that of w."""
    h = g if h is None else h
    return np.diag([g, h, h, w])


def from_to(**factors: float) -> Back:
    """A factor for each pair of g, h, k and w: ``hg`` is of h what goes into g."""
    found = np.zeros((4, 4))
    for pair, factor in factors.items():
        one, other = map("ghkw".index, pair)
        found[other, one] = factor
    return found


class Profiles(NamedTuple):
    """How a gradient by a tensor depends on the tensor's own values: at the nodes of the unit
    Gaussian behind its root; None where it does not.

    Attributes:
        given: how many times g its mean square is there.
        lean: what positions have in common there, up to a factor, with its sign.
    """

    given: FloatArray | None = None
    lean: FloatArray | None = None


ANY = Profiles()

# What makes the gradient by an input of that by the output; where the latter depends on the
# output's values, a function of how it does, which says how that by the input depends on its own.
Factor = Back | Callable[[Profiles], tuple[Back, Profiles]]

# Every so many nodes, where a gradient's dependence on a value is smoothed by what is added to the
# value: it bends on a scale of a standard deviation, and these are 0.2 apart.
COARSE = 20


def along(by: Back, made: Root, x: State, factor: float | None = None) -> Factor:
    """The factor of an input that the output goes along with, as of one term of a sum: how the
    gradient depends on the output's values says how it depends on the input's.

    Args:
        by: how g, h, k and w go back, whatever the values.
        made, x: the output's root, and the input.
        factor: that of x in a sum; None where x is all that the output goes along with.
    """

    def down(by_made: Profiles) -> tuple[Back, Profiles]:
        if x.constant or (by_made.given is None and by_made.lean is None):
            return by, ANY
        spread = made.moments.variance
        k = math.sqrt(spread / x.moments.variance) if factor is None else factor
        with np.errstate(all="ignore"):
            own = np.nan_to_num(x.function(x.root.values[::COARSE]))
        own = k * (own - x.moments.mean) + made.moments.mean
        rest = math.sqrt(max(0.0, spread - k**2 * x.moments.variance))
        return by, averaged(made, own, np.full_like(own, rest), by_made)

    return down


def averaged(made: Root, own: FloatArray, rest: FloatArray, by_made: Profiles) -> Profiles:
    """How gradients depend on an input that makes the output's mean ``own`` and leaves it the
    standard deviation ``rest``, at every ``COARSE`` nodes."""
    nodes, weights = NODES[::COARSE], WEIGHTS[::COARSE] / WEIGHTS[::COARSE].sum()
    places = own[:, None] + np.outer(rest, nodes)

    def average(profile: FloatArray | None) -> FloatArray | None:
        if profile is None:
            return None
        found: FloatArray = np.interp(
            NODES, nodes, np.interp(places, made.values, profile) @ weights
        )
        return found

    given, lean = map(average, by_made)
    mean = 0.0 if given is None else float(WEIGHTS @ given)
    return Profiles(given / mean if given is not None and mean > 0 else None, lean)


def passed_in_common(root: Root, c: float, by: FloatArray, lean: FloatArray | None) -> float:
    """What h is multiplied by where each gradient, which leans on the value there, is multiplied by
    a function of that; of values whose covariance is c."""
    rho = root.correlation(c)
    if lean is None:
        return of_values(lambda _: by, root.values).covariance(rho)
    leaning = lean * by
    before = of_values(lambda _: lean, root.values).covariance(rho)
    after = of_values(lambda _: leaning, root.values).covariance(rho)
    return after / before if before > 0 else 0.0


class Step(NamedTuple):
    """What a rule answers: the output's state, and a backward factor for each input.

    ``to_roots`` says that the factors are to what the inputs are functions of, ``note`` what of
    the factors is an approximation beyond what the state's note says.
    """

    state: State
    back: tuple[Factor, ...] = ()
    to_roots: bool = False
    note: str = ""


def part(c: float, q: float) -> float:
    """c/q, and 0 of nothing."""
    return c / q if q else 0.0


def number(node: Node, value: float, states: Sequence[State]) -> State:
    """The state of one number everywhere, made of these states; 0 in place of what is not finite,
    as the logarithm of 0 that a mask stands for."""
    if not math.isfinite(value):
        value = 0.0
    m = Moments(value, value**2, value**2, value**2)
    note = joined(*(state.note for state in states))
    root = Root(node.id, {}, value, m)
    return State(root, IDENTITY, m, root.profile(IDENTITY), 0.0, note, "a number")
