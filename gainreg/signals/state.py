"""What is known of a tensor: its moments, and how it depends on independent Gaussians.

A ``Source`` is a random variable of its own, most often what leaves a weight. A ``Root`` is a
linear combination of sources; a ``State`` is an elementwise function of one root. Sums of states
that are linear images of their roots stay linear combinations, so x + f(x) − x is f(x); sums and
products of anything else are sources of their own, with the moments that they have.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from gainreg.signals.distributions import at_quantiles, fewer, in_order, on_nodes
from gainreg.signals.functions import (
    IDENTITY,
    NODES,
    WEIGHTS,
    FloatArray,
    Function,
    Operation,
    Profile,
    of_gaussian,
    of_values,
)
from gainreg.signals.layout import POSITION, SAMPLE, UNIT, Layout, count

# Second moments of the smallest and largest signals that single precision holds: the weights that
# would bring others back to 1 could not be held either, and the model itself makes infinities.
SMALLEST, LARGEST = 1e-76, 1e76

# Values of the unit Gaussian behind a gate, for sums over it, and what makes Hermite coefficients
# of a function's values there: gates are smooth.
_GATES, _weights = np.polynomial.hermite_e.hermegauss(12)
_BY_GATE = np.polynomial.hermite_e.hermevander(_GATES, 11) * (_weights / _weights.sum())[:, None]
_BY_GATE /= np.sqrt(np.cumprod([1.0, *range(1, 12)]))

# So much of a sum's variance may be behind a gate that is not looked at.
NEGLIGIBLE = 0.01


@dataclass(frozen=True)
class Moments:
    """Mean, second moment and the covariances, over the draw of the weights.

    Attributes:
        mean: E[x].
        second_moment: E[x²].
        across_positions: E[x·x′], x′ the same unit at another position of the same sample.
        across_samples: E[x·x′], x′ the same unit and position in another sample.
        elsewhere: E[x·x′], x′ the same unit at another position of another sample; where that is
            not known, the smaller of the two. Beside padding it is less.
    """

    mean: float
    second_moment: float
    across_positions: float
    across_samples: float
    elsewhere: float = math.nan

    def __post_init__(self) -> None:
        if math.isnan(self.elsewhere):
            least = min(self.across_positions, self.across_samples)
            object.__setattr__(self, "elsewhere", least)

    @property
    def products(self) -> tuple[float, float, float, float]:
        """The second moment and the covariances."""
        return self.second_moment, self.across_positions, self.across_samples, self.elsewhere

    @property
    def variance(self) -> float:
        """E[x²] − E[x]²."""
        return max(0.0, self.second_moment - self.mean**2)

    @property
    def normal(self) -> FloatArray:
        """The normal distribution of that mean and variance, on the nodes."""
        return self.mean + math.sqrt(self.variance) * NODES

    def on_line(self, factor: float, shift: float) -> Moments:
        """The moments of factor·x + shift."""

        def product(c: float) -> float:
            return factor**2 * c + 2 * factor * shift * self.mean + shift**2

        return Moments(factor * self.mean + shift, *map(product, self.products))

    def copied(self, before: int, after: int) -> Moments:
        """The moments at so many positions, of copies of fewer: some pairs of them are the same."""
        if before >= after:
            return self
        q, c, s, elsewhere = self.products
        same = (after / before - 1) / (after - 1)
        across, elsewhere = c + same * (q - c), elsewhere + same * (s - elsewhere)
        return replace(self, across_positions=across, elsewhere=elsewhere)

    def scaled(self, factor: float, square: float | None = None) -> Moments:
        """The moments of k·x for an independent k of mean ``factor`` and mean square ``square``.

        k is the same at all positions and in all samples, as a parameter or a number is.
        """
        square = factor**2 if square is None else square
        return Moments(factor * self.mean, *(square * c for c in self.products))


def mean_products(x: FloatArray, own: Layout) -> tuple[float, float, float, float]:
    """The mean square, and the mean products of two positions, of two samples at one position and
    of two samples at any."""
    parts = [part for axis in own for part in axis]
    order = [
        i for role in (SAMPLE, POSITION, UNIT) for i, part in enumerate(parts) if part[0] == role
    ]
    counts = count(own)
    n, p = counts[SAMPLE], counts[POSITION]
    x = x.reshape([size for _, size in parts]).transpose(order).reshape(n, p, -1)
    q = float(np.mean(x * x))
    by_sample = float(np.mean(x.sum(1) ** 2))
    positions = (by_sample - p * q) / (p * (p - 1)) if p > 1 else q
    if n == 1:
        return q, positions, q, positions
    samples = (float(np.mean(x.sum(0) ** 2)) - n * q) / (n * (n - 1))
    every = (float(np.mean(x.sum((0, 1)) ** 2)) - n * by_sample) / (n * (n - 1) * p**2)
    return q, positions, samples, every


@dataclass(frozen=True)
class Source:
    """A random variable that others are combinations of.

    Attributes:
        key: what it is, and the views that were taken of it since: sources of different keys are
            independent, or are taken for it.
        moments: its own.
        aligned: 1/D − 1/n for n units that vary along D directions only, as those of a linear map
            of D inputs: the mean square cosine of two positions, beyond that of vectors in random
            directions.
        of: what it is a function of, if it is.
        made: the operation on several states that it is the result of, if it is; that is looked at
            where it meets one of them again.
        gated: the signal and the gate, the same at all positions of a sample, of which it is the
            product, if it is.
        values: its values at the nodes of a unit Gaussian z that it is an increasing function of;
            None where its distribution is normal.
    """

    key: tuple[Hashable, ...]
    moments: Moments = field(compare=False)
    aligned: float = field(default=0.0, compare=False)
    of: State | None = field(default=None, compare=False)
    made: tuple[Operation, tuple[State, ...]] | None = field(default=None, compare=False)
    gated: tuple[State, State] | None = field(default=None, compare=False)
    values: FloatArray | None = field(default=None, compare=False)

    @property
    def gaussian(self) -> bool:
        """Whether its distribution is normal."""
        return self.values is None

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:  # keys name sources whose keys name sources, as deep as the model is
        return hash(self.key)

    @functools.cached_property
    def along(self) -> tuple[Along, ...]:
        """The views along other axes that were taken of it."""
        return tuple(view for view in self.key if isinstance(view, Along))

    @functools.cached_property
    def anywhere(self) -> Hashable:
        """Its key, wherever its positions lie."""
        return tuple(view for view in self.key if not isinstance(view, Along))

    def viewed(self, view: Hashable, before: int, after: int) -> Source:
        """The same variable, its elements in another order, or some of them, or again and again:
        at so many positions before and after."""
        of = None if self.of is None else self.of.viewed(view, -1, before, after)
        m = self.moments.copied(before, after)
        return replace(self, key=follow(self.key, view), of=of, made=None, moments=m)


@dataclass(frozen=True)
class Permutation:
    """A view that reorders axes: ``order`` of a tensor of that shape."""

    order: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def result(self) -> tuple[int, ...]:
        """The shape afterwards."""
        return tuple(self.shape[axis] for axis in self.order)


class Along(NamedTuple):
    """A view that sees a signal's positions, so many, along axes, counted from the last, where
    others lie, or copies it along them."""

    axes: tuple[int, ...]
    positions: int


def follow(key: tuple[Hashable, ...], view: Hashable) -> tuple[Hashable, ...]:
    """A chain of views with one more; transposes that follow each other become one or none."""
    last = key[-1]
    if (
        isinstance(view, Permutation)
        and isinstance(last, Permutation)
        and last.result == view.shape
    ):
        order = tuple(last.order[axis] for axis in view.order)
        in_place = order == tuple(range(len(order)))
        return key[:-1] if in_place else (*key[:-1], Permutation(order, last.shape))
    return (*key, view)


@dataclass(frozen=True, eq=False)
class Root:
    """A linear combination of sources, and what follows from that.

    Attributes:
        node: the step of the tape whose output it is.
        terms: the factors, by source.
        shift: the number added to it.
        start: a root whose terms, times a factor, or views of them are the first of these, as
            those of a stream before a branch is added: they need not be summed anew.
    """

    node: int
    terms: dict[Source, float]
    shift: float
    moments: Moments
    start: tuple[Root, float] | None = None

    @property
    def std(self) -> float:
        """Standard deviation."""
        return math.sqrt(self.moments.variance)

    @functools.cached_property
    def gaussian(self) -> bool:
        """Whether its distribution is normal, but for a thousandth of the variance at most."""
        odd = sum(k**2 * s.moments.variance for s, k in self.terms.items() if not s.gaussian)
        return odd <= 1e-3 * self.moments.variance

    @functools.cached_property
    def aligned(self) -> float:
        """1/D − 1/n, as of its sources, whose shares of the variance count squared."""
        total = self.moments.variance**2
        found = math.fsum(
            (k**2 * s.moments.variance) ** 2 * s.aligned for s, k in self.terms.items()
        )
        return found / total if total else 0.0

    @functools.cached_property
    def values(self) -> FloatArray:
        """Its values at the nodes of the unit Gaussian that it is an increasing function of."""
        if self.gaussian or self.std == 0:
            return self.moments.normal
        before, factor = self.start or (None, 1.0)
        parts = [
            (k, s.moments.mean, s.moments.normal if s.values is None else s.values)
            for s, k in [*self.terms.items()][len(before.terms) if before else 0 :]
            if s.moments.variance
        ]
        alone = [(factor, before.moments.mean, before.values)] if before else parts
        if len(parts) + bool(before) == 1:  # as they are, tails that moments know better too
            ((k, mean, known),) = alone
            return in_order(k * (known - mean) + self.moments.mean)
        total = factor * at_quantiles(before.values) if before else np.zeros(1)
        for k, _, known in parts:
            total = fewer(np.add.outer(k * at_quantiles(known), total))
        values = on_nodes(total)
        mean = float(WEIGHTS @ values)
        own = math.sqrt(max(float(WEIGHTS @ values**2) - mean**2, 1e-300))
        return (values - mean) * (self.std / own) + self.moments.mean

    @functools.cached_property
    def _line(self) -> Profile:
        return self.profile(IDENTITY)

    def profile(self, f: Function) -> Profile:
        """The moments of f of this root."""
        if self.gaussian:
            return of_gaussian(f, self.moments.mean, self.std)
        return of_values(f, self.values)

    def correlation(self, covariance: float) -> float:
        """The correlation of the unit Gaussians behind two copies of that covariance."""
        variance = self.moments.variance
        if not variance:
            return 1.0
        plain = (covariance - self.moments.mean**2) / variance
        plain = min(1.0, max(-1.0, plain))
        if self.gaussian or abs(plain) in (0.0, 1.0):
            return plain
        low, high = -1.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if self._line.covariance(middle) < covariance else (low, middle)
            )
        return (low + high) / 2

    def covariances(self, f: Function, profile: Profile) -> list[float]:
        """E[f·f′] across positions, across samples and elsewhere, of a function and its profile.

        Where a gate of a whole channel is on the way, positions of mean 0 have no covariance, and
        yet they are large together: what f makes of them has the gate's. So f's coefficients are
        functions of the gate.
        """
        m = self.moments
        gated = [(k**2 * it.moments.variance, k, it) for it, k in self.terms.items() if it.gated]
        part, k, source = max(gated, key=lambda term: term[0], default=(0.0, 0.0, None))
        if source is None or source.gated is None or part < NEGLIGIBLE * m.variance:
            return [profile.covariance(self.correlation(c)) for c in m.products[1:]]
        (x, gate), rest = source.gated, max(0.0, m.variance - part)
        # beside anything else it is taken for distributed as the sum is
        values = x.function(x.root.values) if len(self.terms) == 1 else self.values
        shape = np.nan_to_num(values) - float(WEIGHTS @ np.nan_to_num(values))
        shape /= math.sqrt(max(1e-300, float(WEIGHTS @ shape**2)))
        gates = np.interp(_GATES, NODES, np.nan_to_num(gate.function(gate.root.values)))
        own = source.moments
        orders = [
            of_values(
                f,
                m.mean
                + k * (at * x.moments.mean - own.mean)
                + math.sqrt((k * at) ** 2 * x.moments.variance + rest) * shape,
            ).orders
            for at in gates
        ]
        by_gate, powers = (np.transpose(orders) @ _BY_GATE) ** 2, np.arange(len(_GATES))
        other = gate.root.correlation(gate.root.moments.across_samples)
        size = (gates @ _BY_GATE) ** 2
        whole = k**2 * float(size.sum()) * x.moments.variance + rest
        found = []
        for c, inner, outer, r in zip(
            m.products[1:],
            x.moments.products[1:],
            own.products[1:],
            (1.0, other, other),
            strict=True,
        ):
            shared = k**2 * float(size @ r**powers) * (inner - x.moments.mean**2)
            beside = c - m.mean**2 - k**2 * (outer - own.mean**2)
            rho = min(1.0, max(-1.0, (shared + beside) / whole))
            found.append(float(rho ** np.arange(len(by_gate)) @ by_gate @ r**powers))
        return found

    def viewed(self, view: Hashable, node: int, before: int, after: int) -> Root:
        """The same combination of the sources' views."""
        terms = {source.viewed(view, before, after): k for source, k in self.terms.items()}
        moments = self.moments.copied(before, after)
        return Root(node, terms, self.shift, moments, (self, 1.0))


@dataclass(frozen=True, eq=False)
class State:
    """What is known of a tensor.

    Attributes:
        root, function: it is this function of that linear combination.
        moments: its own.
        profile: the function's, over the root.
        noise: variance of ln(second moment) that finite widths are expected to cause.
        note: what on the way was an approximation.
        phrase: what a report calls it.
        averaged: behind attention, how many times larger the second moment is of the values that it
            averages: a weight is set for that one, since making up for the average would amplify
            what all positions have in common. 1 elsewhere.
    """

    root: Root
    function: Function
    moments: Moments
    profile: Profile
    noise: float = 0.0
    note: str = ""
    phrase: str = "data"
    averaged: float = 1.0

    @property
    def q(self) -> float:
        """E[x²]."""
        return self.moments.second_moment

    @property
    def exact(self) -> bool:
        """Whether nothing on the way was an approximation."""
        return not self.note

    @property
    def gaussian(self) -> bool:
        """Whether its distribution is normal."""
        return self.function.core is None and self.root.gaussian

    @property
    def constant(self) -> bool:
        """Whether it is one and the same number everywhere."""
        return not self.moments.variance

    @property
    def values(self) -> FloatArray:
        """Its quantiles, on the nodes."""
        with np.errstate(all="ignore"):
            return in_order(np.nan_to_num(self.function(self.root.values)))

    @property
    def aligned(self) -> float:
        """1/D − 1/n, as of a source; what a function adds to its linear part goes anywhere."""
        linear = self.profile.orders[1] ** 2 / self.moments.variance if self.function.core else 1.0
        return float(self.root.aligned * linear**2)

    def viewed(self, view: Hashable, node: int, before: int, after: int) -> State:
        """The same function of the root's view."""
        root, m = self.root.viewed(view, node, before, after), self.moments.copied(before, after)
        return replace(self, root=root, moments=m)

    def source(self, key: tuple[Hashable, ...]) -> Source:
        """The state as a random variable of its own."""
        of = self if self.root.gaussian else None
        return Source(key, self.moments, self.aligned, of, values=self.values)

    def but(self, note: str) -> State:
        """The same, marked as approximate."""
        return replace(self, note=joined(self.note, note))


def joined(*notes: str) -> str:
    """Notes without repetition."""
    return "; ".join(dict.fromkeys(part for note in notes for part in note.split("; ") if part))


def of_root(root: Root, function: Function, like: Sequence[State] = (), phrase: str = "") -> State:
    """The state of a function of a root; noise and notes are those of the states it comes from."""
    profile = root.profile(function)
    m = root.moments
    if function.core is None:  # to all digits, whatever is known of the distribution
        moments = m.on_line(function.scale, function.shift)
    else:
        covariances = root.covariances(function, profile)
        moments = Moments(profile.mean, profile.second_moment, *covariances)
    odd = "a function of what is not Gaussian"
    note = odd if function.core is not None and not root.gaussian else ""
    if not profile.found:
        note = "a function whose moments do not exist, or are not found to many digits"
    return State(root, function, moments, profile, *_come_from(like, note), phrase)


def _come_from(like: Sequence[State], note: str) -> tuple[float, str]:
    """Noise and notes of what comes from some states."""
    noise = max((state.noise for state in like), default=0.0)
    return noise, joined(*(state.note for state in like), note)


def names_of(root: Root) -> tuple[Hashable, ...]:
    """What tells a linear combination from others."""
    return (*root.terms.items(), root.shift)


def fresh(
    node: int,
    moments: Moments,
    like: Sequence[State] = (),
    phrase: str = "data",
    note: str = "",
    *,
    values: FloatArray | None = None,
    made: tuple[Operation, tuple[State, ...]] | None = None,
    gated: tuple[State, State] | None = None,
    aligned: float = 0.0,
) -> State:
    """The state of a new random variable, normal unless its values are given; noise and notes are
    those of the states it comes from. Equal operations on equal states make the same one."""
    key: tuple[Hashable, ...] = (node,)
    if made is not None:
        key = (made[0].key, *((it.function, *names_of(it.root)) for it in made[1]))
    source = Source(key, moments, aligned, None, made, gated, values)
    root = Root(node, {source: 1.0}, 0.0, moments)
    noise, notes = _come_from(like, note)
    return State(root, IDENTITY, moments, root.profile(IDENTITY), noise, notes, phrase)
