"""What each operation does to a signal, forward and backward: the rows of the design's table.

A rule takes the node (the step of the tape), the states of its inputs and the facts that the
tracer found, and gives the state of its output. ``back`` holds the backward factors: the mean
squared gradient g by an element of an input is the sum, over all uses, of the factor times that
by an element of the output; likewise h, what the gradients at two positions of a sample have in
common. An elementwise function needs no row there: the state knows which root it is a function
of, and its E[f′²].

q is a second moment, m a mean, c a covariance, across positions or across samples.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from gainreg.signals.functions import (
    IDENTITY,
    NODES,
    WEIGHTS,
    FloatArray,
    Function,
    Operation,
    combine,
    compose,
    describe,
)
from gainreg.signals.softmax import Rows, over_rows, passing, shared
from gainreg.signals.state import (
    Moments,
    Root,
    Source,
    State,
    at_quantiles,
    fresh,
    joined,
    of_root,
    on_nodes,
    product_mean,
    related,
    ultimate,
)
from gainreg.signals.tape import Node

# Points on which functions of several variables are taken: randomised quasi-Monte Carlo, good to
# about 0.3 % of the second moment.
POINTS = 4096

INDEPENDENT = "attention weights, from scores taken for independent"

# The largest of more variables than this is taken for the largest of so many: from 64 to 200 it
# grows by 15 %.
MOST = 64

# So much of the variance may units have in common, and a norm still takes one number off them all.
LITTLE = 0.01

# A mean over so many independent units is taken for the number that it tends to: it strays by
# √(2/16) = 35 % of a second moment at most, and what it is used for, a norm, by half of that.
MANY = 16


class Back(NamedTuple):
    """How an output's g and h make those of an input: g → gg·g + gh·h, h → hg·g + hh·h."""

    gg: float
    gh: float
    hg: float
    hh: float


def back(g: float, h: float | None = None) -> Back:
    """The factor of g, and that of h where it is another."""
    return Back(g, 0.0, 0.0, g if h is None else h)


class Step(NamedTuple):
    """What a rule answers: the output's state, and a backward factor for each input.

    ``to_roots`` says that the factors are to what the inputs are functions of.
    """

    state: State
    back: tuple[Back, ...] = ()
    to_roots: bool = False


# --- weights ---


def linear(
    node: Node,
    x: State,
    *,
    bias: float = 0.0,
    variance: float,
    fan_in: int,
    taps: float = 1.0,
    units: int,
    operation: str,
    target: float | None = None,
    copies: float = 1.0,
    steps: int = 1,
    transposed: bool = False,
    mixes: bool = False,
) -> Step:
    """m = 0, q → fan_in·Var[w]·q, c likewise. He et al. 2015, arXiv:1502.01852, eq. 6.

    Args:
        bias: mean square of the biases, which all positions and samples have in common.
        variance: of the weights.
        fan_in: the inputs that an output sums over; of those the share ``taps`` lies inside the
            padding, and is 1/∏stride for a transposed convolution.
        units: width of the input, for the noise.
        target: the output's second moment before the bias, where it is known without rounding.
        copies: samples times positions, over which a measurement would average.
        steps: ∏stride. Only one in so many pairs of positions on the finer side meet the same
            weights; the others share nothing.
        mixes: it sums over positions, as token mixing does: no two of them share weights.
    """
    gain = variance * fan_in * taps
    exact = gain * x.q if target is None else target
    c, s = (_part(c, x.q) * exact for c in _covariances(x.moments))
    c = 0.0 if mixes else c / steps if transposed else c
    m = Moments(0.0, exact + bias, c + bias, s + bias)
    noise = x.noise + (_kurtosis(x) - 1) / units * _alike(x.moments, copies)
    state = fresh(node.id, m, noise, x.exact, x.note, operation)
    g = gain * node.size / node.input_sizes[0]
    return Step(state, (back(g, 0.0 if mixes else g if transposed else g / steps), back(0.0)))


def _part(c: float, q: float) -> float:
    return c / q if q else 0.0


def _covariances(m: Moments) -> tuple[float, float]:
    return m.across_positions, m.across_samples


def _kurtosis(x: State) -> float:
    """E[x⁴]/E[x²]²."""
    if not x.q or x.constant:
        return 1.0
    with np.errstate(all="ignore"):
        y = x.function(x.root.values)
    fourth = float(WEIGHTS @ np.nan_to_num(y) ** 4)
    return max(1.0, min(fourth / x.q**2, 1e3))


def _alike(m: Moments, copies: float) -> float:
    """How much of a unit's stray is left after averaging over samples and positions: what two of
    them have in common, at most their correlation."""
    if not m.second_moment:
        return 1.0
    rho = max(0.0, max(_covariances(m)) / m.second_moment)
    return min(1.0, rho + (1 - min(rho, 1.0)) / copies)


def embedding(node: Node, *, variance: float, units: int, copies: float = 1.0) -> Step:
    """Rows of a table, different ones for different tokens: q = Var[w], c = 0."""
    m = Moments(0.0, variance, 0.0, 0.0)
    return Step(fresh(node.id, m, 2 / units / copies, phrase="embedding"))


# --- elementwise ---


def elementwise(node: Node, *states: State, operation: Operation) -> Step:
    """m, q by the moments, c by E[φ(u)φ(v)]; functions of one root are one function of it."""
    varying = [state for state in states if not state.constant]
    if not varying:
        values = [np.array([state.moments.mean]) for state in states]
        with np.errstate(all="ignore"):
            m = float(np.asarray(operation.call(*values)).ravel()[0])
        return Step(_number(node, m, states))
    if all(same(state.root, varying[0].root) for state in varying):
        functions = [
            Function(0.0, state.moments.mean) if state.constant else state.function
            for state in states
        ]
        f = compose(operation, functions)
        return Step(_of(varying[0].root, f, varying))
    return sampled(node, *states, operation=operation)


def same(a: Root, b: Root) -> bool:
    """Whether two roots are one variable."""
    return a is b or (a.shift == b.shift and a.terms == b.terms)


def _number(node: Node, value: float, states: Sequence[State]) -> State:
    if not math.isfinite(value):
        value = 0.0
    m = Moments(value, value**2, value**2, value**2)
    note = joined(*(state.note for state in states))
    exact = all(state.exact for state in states)
    root = Root(node.id, {}, value, m)
    return State(root, IDENTITY, m, root.profile(IDENTITY), 0.0, exact, note, "a number")


def _of(root: Root, f: Function, like: Sequence[State]) -> State:
    """The state of f of a root, its noise damped by the slope of its variance."""
    phrase = like[0].phrase
    if f.core is not None:
        phrase = f"{describe(f)} at std {root.std * abs(f.inner):.3g}"
    state = of_root(root, f, like, phrase)
    before = like[0].profile.growth
    if f.core is not None and before > 1e-9:
        state = replace(state, noise=state.noise * min(4.0, (state.profile.growth / before) ** 2))
    return state


def add(node: Node, *states: State, factors: Sequence[float], shift: float = 0.0) -> Step:
    """Σ factor·x + shift: of linear images as linear combinations, else Σq + 2·Σm·m′."""
    varying = [(s, k) for s, k in zip(states, factors, strict=True) if not s.constant]
    shift += math.fsum(
        k * s.moments.mean for s, k in zip(states, factors, strict=True) if s.constant
    )
    if not varying:
        return Step(_number(node, shift, states))
    alike, root = [s for s, _ in varying], varying[0][0].root
    if all(same(s.root, root) for s in alike):
        f = combine([s.function for s in alike], [k for _, k in varying]).scaled(1.0, shift)
        state = _of(root, f, alike)
        return Step(state if len(alike) > 1 else replace(state, phrase=alike[0].phrase))
    terms: dict[Source, float] = {}
    for state, k in varying:
        if state.function.core is None:
            shift += k * (state.function.scale * state.root.shift + state.function.shift)
            for source, factor in state.root.terms.items():
                factor *= k * state.function.scale
                terms[source] = terms.get(source, 0.0) + factor
        else:
            source = state.source(("function", state.function, *_names(state.root)))
            terms[source] = terms.get(source, 0.0) + k
    terms = {source: k for source, k in terms.items() if k}
    m = _of_terms(terms, shift)
    total = math.fsum(k**2 * s.q for s, k in varying)
    noise = math.fsum((k**2 * s.q / total) ** 2 * s.noise for s, k in varying) if total else 0.0
    root = Root(node.id, terms, shift, m)
    first = of_root(root, IDENTITY, alike, "a sum")
    return Step(
        replace(first, noise=noise),
        tuple(_spread_out(node, i, k**2, k**2) for i, k in enumerate(factors)),
    )


def _names(root: Root) -> tuple[Hashable, ...]:
    return (*((source.key, k) for source, k in root.terms.items()), root.shift)


def _of_terms(terms: dict[Source, float], shift: float) -> Moments:
    items = list(terms.items())
    mean = math.fsum(k * s.moments.mean for s, k in items) + shift
    second = math.fsum(k**2 * s.moments.variance for s, k in items)
    positions = math.fsum(k**2 * (s.moments.across_positions - s.moments.mean**2) for s, k in items)
    samples = math.fsum(k**2 * (s.moments.across_samples - s.moments.mean**2) for s, k in items)
    for i, (a, j) in enumerate(items):
        for b, k in items[:i]:
            if a.gaussian and b.gaussian:
                continue
            shared = 2 * j * k * (product_mean(a, b) - a.moments.mean * b.moments.mean)
            second += shared
    square = mean**2
    second = max(0.0, second)
    return Moments(mean, second + square, positions + square, samples + square)


def multiply(node: Node, a: State, b: State) -> Step:
    """Of independent signals m·m′, q·q′, c·c′; the gradient by one is the other's q."""
    if a.constant and b.constant:
        return Step(_number(node, a.moments.mean * b.moments.mean, (a, b)))
    if a.constant or b.constant:
        x, k = (b, a.moments.mean) if a.constant else (a, b.moments.mean)
        state = of_root(x.root, x.function.scaled(k), (x,), x.phrase)
        return Step(state)
    if same(a.root, b.root):
        return elementwise(node, a, b, operation=PRODUCT)
    if related(a, b):
        return sampled(node, a, b, operation=PRODUCT)
    m, n = a.moments, b.moments
    moments = Moments(
        m.mean * n.mean,
        m.second_moment * n.second_moment,
        m.across_positions * n.across_positions,
        m.across_samples * n.across_samples,
    )
    values = np.multiply.outer(*(_points(state) for state in (a, b)))
    state = fresh(
        node.id,
        moments,
        a.noise + b.noise,
        a.exact and b.exact,
        joined(a.note, b.note),
        f"product of {a.phrase} and {b.phrase}",
        gaussian=False,
        values=(on_nodes(values),),
    )
    factors = ((n.second_moment, n.across_positions), (m.second_moment, m.across_positions))
    return Step(state, tuple(_spread_out(node, i, *factor) for i, factor in enumerate(factors)))


def _spread_out(node: Node, i: int, g: float, h: float) -> Back:
    """The factors of an input that is broadcast: the gradients by its copies add up."""
    share = node.size / node.input_sizes[i]
    copies = max(1.0, node.positions / node.input_positions[i])
    return Back(share * g, share * (copies - 1) * h, 0.0, share * copies * h)


def _points(state: State) -> FloatArray:
    with np.errstate(all="ignore"):
        return at_quantiles(np.sort(np.nan_to_num(state.function(state.root.values))))


PRODUCT = Operation("product", np.multiply)


def scale(
    node: Node, x: State, *, mean: float, square: float, positions: float | None = None
) -> Step:
    """x·k for a parameter or constant k: q·E[k²], c·E[k²].

    ``positions`` is E[k·k′] across positions where k differs there.
    """
    if abs(square - mean**2) <= 1e-14 * square:
        return Step(of_root(x.root, x.function.scaled(mean), (x,), x.phrase))
    m = x.moments.scaled(mean, square)
    if positions is not None:
        m = replace(m, across_positions=positions * x.moments.across_positions)
    gaussian = x.root.gaussian and x.function.core is None
    values = () if gaussian else (np.sort(np.nan_to_num(x.function(x.root.values))),)
    state = fresh(node.id, m, x.noise, x.exact, x.note, x.phrase, gaussian=gaussian, values=values)
    return Step(state, (back(square, positions),))


def dropout(node: Node, x: State, *, keep: float, factor: float, elements: bool = True) -> Step:
    """Each element kept with probability ``keep`` and multiplied by ``factor``: q/(1−p), c
    unchanged. ``elements`` is False where whole samples or channels are dropped."""
    if keep * factor == 1.0 and keep == 1.0:
        return Step(x)
    m, mean, square = x.moments, keep * factor, keep * factor**2
    moments = Moments(
        mean * m.mean,
        square * m.second_moment,
        (mean**2 if elements else square) * m.across_positions,
        mean**2 * m.across_samples,
    )
    values = x.function(x.root.values) * factor
    state = fresh(
        node.id, moments, x.noise, x.exact, x.note, x.phrase, gaussian=False,
        values=(np.sort(values),),
    )  # fmt: skip
    return Step(state, (back(square, mean**2 if elements else square),))


@functools.cache
def _normal_points(dimensions: int) -> FloatArray:
    """Quasi-random points of a standard normal distribution, always the same."""
    from scipy.special import ndtri
    from scipy.stats import qmc

    points = qmc.Sobol(dimensions, seed=0).random(POINTS)
    normal: FloatArray = ndtri(np.clip(points, 1e-12, 1 - 1e-12)).T
    return normal


def sampled(node: Node, *states: State, operation: Operation) -> Step:
    """A function of several variables, on samples of what they depend on: approximate."""
    sources = list(dict.fromkeys(s for state in states for s in ultimate(state)))
    points = _normal_points(2 * max(1, len(sources)))
    first, second = points[: len(sources)], points[len(sources) :]

    def draw(rho: Callable[[Source, Root], float] | None) -> list[FloatArray]:
        values: dict[Source, FloatArray] = {}
        for source, z, other in zip(sources, first, second, strict=False):
            root = Root(-1, {source: 1.0}, 0.0, source.moments)
            if rho is not None:
                r = rho(source, root)
                z = r * z + math.sqrt(max(0.0, 1 - r * r)) * other
            values[source] = np.interp(z, NODES, root.values)

        def at(state: State) -> FloatArray:
            total = np.full(POINTS, state.root.shift)
            for source, k in state.root.terms.items():
                total += k * (values[source] if source.of is None else at(source.of))
            return state.function(total)

        return [at(state) for state in states]

    with np.errstate(all="ignore"):
        x = draw(None)
        y = np.nan_to_num(operation.call(*x))
        copies = [
            np.nan_to_num(operation.call(*draw(rho)))
            for rho in (
                lambda s, r: r.correlation(s.moments.across_positions),
                lambda s, r: r.correlation(s.moments.across_samples),
            )
        ]
        factors = []
        for i, values in enumerate(x):
            step = 1e-5 * (1 + np.abs(values))
            moved = [v + step if j == i else v for j, v in enumerate(x)]
            slopes = np.nan_to_num((np.nan_to_num(operation.call(*moved)) - y) / step)
            slope = float(np.mean(slopes**2))
            factors.append(_spread_out(node, i, slope, slope))
    m = Moments(
        float(y.mean()),
        float(np.mean(y * y)),
        *(float(np.mean(y * other)) for other in copies),
    )
    kind = f"{operation.name or operation.key!s:.40} of several signals"
    state = fresh(
        node.id, m, max(s.noise for s in states), False,
        joined(*(s.note for s in states), "a function of several signals, on samples"), kind,
        gaussian=False, values=(np.interp(NODES, np.sort(first[0] if sources else y), np.sort(y)),),
    )  # fmt: skip
    return Step(state, tuple(factors))


# --- norms ---


def normalise(
    node: Node,
    x: State,
    *,
    units: int,
    positions: int,
    samples: int,
    square: float = 1.0,
    scale: float = 1.0,
    shift: float = 0.0,
    shift_square: float = 0.0,
    centred: bool = True,
    epsilon: float = 0.0,
    phrase: str,
) -> Step:
    """(x − M)/√V over the units, positions and samples that share a mean; then ·γ + β.

    M is what those have in common: its mean square is m² and, of n units, 1/n of what a typical
    pair of them has beyond that. q → γ², c → γ²·(c − M)/(q − M); c across samples → 0 in batch
    norm, where samples share their mean. Without a mean (RMSNorm) c → γ²·c/q.

    Args:
        square: mean square of γ, ``scale`` its mean.
        shift, shift_square: mean and mean square of β.
        epsilon: added to the variance.
    """
    m = x.moments
    pair = m.mean**2

    def shared(own: float, over_positions: int, over_samples: int) -> float:
        """Mean square of the mean of one unit over positions and samples, by pairs."""
        both = min(m.across_positions, m.across_samples)
        inside = own + (over_positions - 1) * m.across_positions
        across = (over_samples - 1) * (m.across_samples + (over_positions - 1) * both)
        return (inside + across) / (over_positions * over_samples)

    common = pair + (shared(m.second_moment, positions, samples) - pair) / units
    apart = pair + (min(m.across_samples, shared(m.second_moment, positions, samples)) - pair) / (
        units
    )
    if not centred:
        common = apart = 0.0
    spread = m.second_moment - common
    if spread <= 1e-12 * m.second_moment or spread == 0:
        return Step(_number(node, shift, (x,)).but(f"{phrase} of a constant"))
    k = 1 / (spread + epsilon)
    level = square if epsilon < 1e-4 * spread else square * spread * k
    position_part = m.across_positions - (common if positions > 1 or units > 1 else apart)
    sample_part = 0.0 if samples > 1 else m.across_samples - apart
    moments = Moments(
        shift,
        level + shift_square,
        _clip(position_part * k * square, level) + shift_square,
        _clip(sample_part * k * square, level) + shift_square,
    )
    factor = square * k
    uniform = abs(square - scale**2) <= 1e-12 * square and abs(shift_square - shift**2) < 1e-12
    beyond = (_in_common(m, positions, samples) - pair) / units if centred else 0.0
    if not uniform or beyond > LITTLE * spread:
        state = _fresh_like(node, x, moments, phrase)
        return Step(replace(state, noise=0.0), (back(factor),))
    # what is taken off is one number: still a function of the same variables
    by = math.sqrt(k) * scale
    f = x.function.scaled(by, shift - by * (m.mean if centred else 0.0))
    if f.core is None:
        state = of_root(_scaled_root(node, x.root, f, moments), IDENTITY, (x,), phrase)
    else:
        state = replace(of_root(x.root, f, (x,), phrase), moments=moments)
    return Step(replace(state, noise=0.0), (back(factor),))


def _in_common(m: Moments, positions: int, samples: int) -> float:
    """What typical ones among so many positions and samples of a unit have in common."""
    over_samples = m.across_samples if samples > 1 else m.second_moment
    over_positions = m.across_positions if positions > 1 else m.second_moment
    common = min(over_samples, over_positions)
    return common if common < m.second_moment else m.mean**2


def _clip(c: float, q: float) -> float:
    return min(q, max(-q, c))


def _scaled_root(node: Node, root: Root, f: Function, moments: Moments) -> Root:
    terms = {source: f.scale * k for source, k in root.terms.items()}
    return Root(node.id, terms, f.scale * root.shift + f.shift, moments)


def _fresh_like(node: Node, x: State, moments: Moments, phrase: str) -> State:
    """A variable of its own, of x's distribution moved and stretched."""
    gaussian = x.root.gaussian and x.function.core is None
    values: tuple[FloatArray, ...] = ()
    if not gaussian:
        own = np.sort(np.nan_to_num(x.function(x.root.values)))
        stretch = math.sqrt(moments.variance / x.moments.variance) if not x.constant else 0.0
        values = ((own - x.moments.mean) * stretch + moments.mean,)
    return fresh(node.id, moments, x.noise, x.exact, x.note, phrase, gaussian, values)


# --- means, maxima and attention ---


def mean(
    node: Node, x: State, *, units: int, positions: float, samples: int, factor: float = 1.0
) -> Step:
    """Of n positions q → c + (q − c)/n, and of units and samples likewise; then ·factor.

    Of many units it is a number: that is what norms written out divide by.
    """
    m = x.moments
    if units >= MANY and positions == samples == 1:
        return Step(_number(node, factor * m.mean, (x,)))
    q, c, s = m.second_moment, m.across_positions, m.across_samples
    square = m.mean**2
    both = min(c, s)
    q = c + (q - c) / positions
    s = both + (s - both) / positions
    q, c = s + (q - s) / samples, both + (c - both) / samples
    q, c, s = (square + (part - square) / units for part in (q, c, s))
    moments = Moments(m.mean, q, c, s).scaled(factor)
    n = units * positions * samples
    if n == 1:
        return Step(of_root(x.root, x.function.scaled(factor), (x,), x.phrase))
    over = [
        f"{size:.3g} {name}"
        for size, name in ((positions, "positions"), (units, "units"), (samples, "samples"))
        if size > 1
    ]
    note = "a mean over positions that may be more alike than a typical pair" * (positions > 1)
    phrase = f"mean of {' and '.join(over)} of {x.phrase}"
    state = _mean_of(node, x, moments, n, factor)
    exact, note = x.exact and not note, joined(x.note, note)
    state = replace(state, noise=x.noise, exact=exact, note=note, phrase=phrase)
    # each of the n gets factor²·g/n², and there are n inputs an output; where all positions go
    # into one mean, all get the same
    g = factor**2 / n * node.size / node.input_sizes[0]
    if node.positions == 1 < positions:
        return Step(state, (Back(g, 0.0, g, 0.0),))
    return Step(state, (back(g),))


def _mean_of(node: Node, x: State, moments: Moments, n: float, factor: float) -> State:
    """A mean of n: of few, each is a part that counts where it meets the mean again."""
    if n >= MANY or not x.root.gaussian:
        values = _above_zero(x, moments)
        return fresh(node.id, moments, gaussian=not values, values=values)
    one = x.source(("function", x.function, *_names(x.root)))
    share, m = factor / n, x.moments
    mean = moments.mean - share * m.mean

    def rest(c: float, own: float) -> float:
        """Covariance of what is left."""
        return c - moments.mean**2 - share**2 * (own - m.mean**2) + mean**2

    others = Moments(
        mean,
        max(mean**2, rest(moments.second_moment, m.second_moment)),
        rest(moments.across_positions, m.across_positions),
        rest(moments.across_samples, m.across_samples),
    )
    values = _above_zero(x, others)
    left = Source((node.id,), others, not values, None, values)
    root = Root(node.id, {one: share, left: 1.0}, 0.0, moments)
    return of_root(root, IDENTITY)


def _above_zero(x: State, moments: Moments) -> tuple[FloatArray, ...]:
    """The distribution of a mean of what is never negative: a gamma distribution, which is that of
    a mean of squares, and has no part left of 0 that a root or a quotient would stumble on."""
    with np.errstate(all="ignore"):
        least = float(np.nan_to_num(x.function(x.root.values)).min())
    if least < 0 or not moments.mean > 0 or moments.variance < LITTLE * moments.mean**2:
        return ()
    from scipy.special import ndtr
    from scipy.stats import gamma

    shape = moments.mean**2 / moments.variance
    values: FloatArray = gamma.ppf(ndtr(NODES), shape, scale=moments.mean / shape)
    return (np.nan_to_num(values, posinf=float(np.nanmax(values[np.isfinite(values)]))),)


def deviation(node: Node, x: State, *, root: bool) -> Step:
    """The variance over many units, or its root: a number."""
    value = x.moments.variance
    return Step(_number(node, math.sqrt(value) if root else value, (x,)))


def maximum(node: Node, x: State, *, positions: int, units: int = 1) -> Step:
    """The largest of n positions, which share one Gaussian and have one each of their own; on
    samples.

    Neighbours behind a convolution are no more alike than a typical pair: they have inputs in
    common, but each with another weight.
    """
    units = min(units, MOST)
    positions = min(positions, MOST // units)
    root = x.root
    rho = min(1.0, max(0.0, root.correlation(root.moments.across_positions)))
    points = _normal_points(4 * MOST)

    def window(first: int) -> list[FloatArray]:
        """The variables, as unit Gaussians, from that row of the points on."""
        own, common = points[first : first + MOST], points[first + MOST : first + 2 * MOST]
        return [
            math.sqrt(rho) * common[unit] + math.sqrt(1 - rho) * own[unit * positions + position]
            for unit in range(units)
            for position in range(positions)
        ]

    def largest(r: float) -> tuple[FloatArray, FloatArray]:
        """The largest of variables that have a correlation r with the first ones, and where it
        is."""
        found, at = np.full(POINTS, -np.inf), np.zeros(POINTS)
        for z, own in zip(window(0), window(2 * MOST), strict=True):
            mixed = np.interp(r * z + math.sqrt(1 - r * r) * own, NODES, root.values)
            with np.errstate(all="ignore"):
                values = x.function(mixed)
            at = np.where(values > found, mixed, at)
            np.maximum(found, values, out=found)
        return found, at

    y, at = largest(1.0)
    q = float(np.mean(y * y))
    pairs = []
    for c in _covariances(root.moments):
        r = min(1.0, max(0.0, root.correlation(c)))
        pairs.append(min(q, float(np.mean(y * largest(r)[0]))))
    state = fresh(
        node.id,
        Moments(float(y.mean()), q, *pairs),
        x.noise,
        False,
        joined(x.note, "maximum pooling, on samples"),
        f"maximum of {positions * units} of {x.phrase}",
        gaussian=False,
        values=(np.interp(NODES, _sorted_levels(), np.sort(y)),),
    )
    step = 1e-6 * (1 + np.abs(at))
    with np.errstate(all="ignore"):
        slopes = np.nan_to_num((x.function(at + step) - y) / step)
    share = node.size / node.input_sizes[0]
    g, h = float(np.mean(slopes**2)), float(np.mean(slopes)) ** 2
    return Step(state, (back(share * g, share**2 * h),), to_roots=True)


@functools.cache
def _sorted_levels() -> FloatArray:
    from scipy.special import ndtri

    levels: FloatArray = ndtri((np.arange(POINTS) + 0.5) / POINTS)
    return levels


def scores(
    node: Node,
    query: State,
    key: State,
    *,
    width: int,
    factor: float = 1.0,
    positions: bool = False,
) -> Step:
    """Σ query·key over ``width`` units, times ``factor``: q = factor²·width·q_q·q_k.

    ``across_positions`` of the result is across keys: what all have in common, softmax ignores;
    ``across_samples`` is across queries.
    ``positions`` says that the sum goes over positions, which have their c in common, as in
    linear attention.
    """
    note = ""
    if related(query, key) or positions:
        note = "a product of signals that depend on each other"
    moments = _scores(query.moments, key.moments, width, factor, positions)
    state = fresh(
        node.id, moments, query.noise + key.noise, query.exact and key.exact and not note,
        joined(query.note, key.note, note), "attention scores",
    )  # fmt: skip
    # each query element meets all keys, less what those have in common; each key all queries
    meets = [node.size * width / size for size in node.input_sizes]
    return Step(
        state,
        (
            back(factor**2 * _beyond(key.moments) * meets[0], 0.0),
            back(factor**2 * query.q * (meets[1] if len(meets) > 1 else 0.0), 0.0),
        ),
    )


def _beyond(m: Moments) -> float:
    """q − c: what a position has beyond what all have in common."""
    return max(0.0, m.second_moment - m.across_positions)


def _scores(a: Moments, b: Moments, width: int, factor: float, positions: bool) -> Moments:
    size = factor**2 * width
    mean = factor * width * a.mean * b.mean
    beyond = mean**2 * (1 - 1 / width)
    if positions:
        beyond = size * (width - 1) * a.across_positions * b.across_positions
    return Moments(
        mean,
        size * a.second_moment * b.second_moment + beyond,
        size * a.second_moment * b.across_positions + beyond,
        size * a.across_positions * b.second_moment,
    )


def softmax(node: Node, x: State, *, size: int, rows: Rows, units: bool = False) -> Step:
    """Weights over n keys: E[Σp²] of independent scores of variance q − c.

    ``rows`` are the numbers of keys that a mask leaves; ``units`` says that it goes over units,
    which have no more in common than their mean.
    """
    m = x.moments
    if units:
        m = replace(m, across_positions=m.mean**2, across_samples=m.mean**2)
    moments, down = _softmax(m, size, rows)
    note = joined(x.note, INDEPENDENT)
    state = fresh(node.id, moments, 0.0, False, note, "softmax", gaussian=False)
    return Step(state, (down,))


def _softmax(scored: Moments, size: int, rows: Rows) -> tuple[Moments, Back]:
    """The moments of the weights, and the factor of the gradient by a score."""
    spread, alike = _spread(scored)
    a = over_rows(spread, rows)
    # two queries look at the same keys as far as they are alike
    both = min(a, shared(rows) * math.exp(min(spread * alike, 300.0)))
    down = back(passing(spread, rows) / size, 0.0)
    return Moments(1 / size, a / size, both / size, both / size), down


def attend(
    node: Node,
    weights: State,
    value: State,
    scored: State | None = None,
    *,
    size: int,
    common: int | None = None,
) -> Step:
    """q → c + (q − c)·(a + s²/D), with a the sum of the squared weights. Noci et al. 2022.

    Where keys and values are images of the same D units, a query that looks for a direction among
    the keys finds it in the values: the weights e^{u·x} move the mean of x by u, and |u|² = s².
    """
    spread, alike = (0.0, 0.0) if scored is None else _spread(scored.moments)
    moments, a = _attend(weights.moments, value.moments, size, spread, alike, common)
    state = fresh(
        node.id, moments, value.noise, False, joined(weights.note, value.note),
        f"attention over {value.phrase}",
    )  # fmt: skip
    state = replace(state, counted=value.q)
    width = node.size / node.input_sizes[0] * size  # units of a value, which a weight multiplies
    queries = node.size / node.input_sizes[1] * size
    return Step(
        state, (back(_beyond(value.moments) * width), _to_values(a, queries, size), back(0.0))
    )


def _spread(scored: Moments) -> tuple[float, float]:
    """Variance of scores over keys, and how far two queries are alike."""
    q = scored.second_moment
    return _beyond(scored), min(1.0, max(0.0, scored.across_samples / q)) if q else 0.0


def _attend(
    p: Moments, v: Moments, size: int, spread: float, alike: float, common: int | None
) -> tuple[Moments, float]:
    a = min(1.0, p.second_moment * size)
    same = min(a, p.across_samples * size)
    found = spread * (1 - a) / common if common else 0.0
    q, c, s = v.second_moment, v.across_positions, v.across_samples
    both = min(c, s)
    m = Moments(
        v.mean,
        c + (q - c) * min(1.0, a + found),
        c + (q - c) * min(1.0, same + alike * found),
        both + (s - both) * same,
    )
    return m, a


def _to_values(a: float, queries: float, keys: int) -> Back:
    """Through the weights to the values: Σ over queries of p²·g, and of what they share."""
    each, both = queries / keys, (queries / keys) ** 2
    apart = each / keys
    return Back(a * each, both - a * each, apart, both - apart)


def attention(
    node: Node,
    query: State,
    key: State,
    value: State,
    *,
    width: int,
    factor: float,
    size: int,
    rows: Rows,
    common: int | None = None,
) -> Step:
    """Scores, softmax and attend in one operation."""
    scored = _scores(query.moments, key.moments, width, factor, False)
    weights, through = _softmax(scored, size, rows)
    moments, a = _attend(weights, value.moments, size, *_spread(scored), common)
    note = joined(
        query.note, key.note, value.note, "attention weights, from scores taken for independent"
    )
    state = fresh(node.id, moments, value.noise, False, note, f"attention over {value.phrase}")
    state = replace(state, counted=value.q)
    queries = node.input_sizes[0] / width
    down = through.gg * _beyond(value.moments) * node.size / queries  # mean square by a score
    return Step(
        state,
        (
            back(down * factor**2 * size * _beyond(key.moments), 0.0),
            back(down * factor**2 * query.q * queries * size * width / node.input_sizes[1], 0.0),
            _to_values(a, node.size / node.input_sizes[2] * size, size),
        ),
    )


# --- what only moves numbers ---


def view(node: Node, x: State, *, view: Hashable = None) -> Step:
    """Reshape, transpose, slice, expand, gather, cast: unchanged; gradients are counted."""
    if view is None:
        return Step(x)
    root = x.root.viewed(view, node.id)
    state = replace(x, root=root)
    return Step(state, (_moved(node),), to_roots=True)


def _moved(node: Node) -> Back:
    """What a view passes back: of fewer positions, so many pairs less; of copies, their sum."""
    share = node.size / node.input_sizes[0]
    before, after = node.input_positions[0], node.positions
    if share >= 1 or after >= before:
        copies = max(1.0, share)
        return Back(share, share * (copies - 1), 0.0, share * copies)
    pairs = after * (after - 1) / (before * (before - 1))
    return Back(share, 0.0, 0.0, share / (after / before) * pairs)


def concatenate(node: Node, *states: State) -> Step:
    """Averages weighted by size."""
    total = math.fsum(node.input_sizes)
    shares = [size / total for size in node.input_sizes]
    m = Moments(
        *(
            math.fsum(share * row for share, row in zip(shares, rows, strict=True))
            for rows in zip(*(_row(state.moments) for state in states), strict=True)
        )
    )
    levels = [(round(s.moments.mean, 9), round(s.q, 9)) for s in states]
    gaussian = len(set(levels)) == 1 and all(
        s.root.gaussian and s.function.core is None for s in states
    )
    values: tuple[FloatArray, ...] = ()
    if not gaussian:
        counts = [max(1, round(share * 4096)) for share in shares]
        points = [
            np.interp(np.linspace(0.001, 0.999, n), np.linspace(0, 1, 256), _points(s))
            for s, n in zip(states, counts, strict=True)
        ]
        mixed = np.sort(np.concatenate(points))
        from scipy.special import ndtri

        at = ndtri((np.arange(mixed.size) + 0.5) / mixed.size)
        values = (np.interp(NODES, at, mixed),)
    phrases = list(dict.fromkeys(s.phrase for s in states))
    state = fresh(
        node.id, m, max(s.noise for s in states), all(s.exact for s in states),
        joined(*(s.note for s in states)),
        phrases[0] if len(phrases) == 1 else f"concatenation of {' and '.join(phrases[:3])}",
        gaussian=gaussian, values=values,
    )  # fmt: skip
    return Step(state, tuple(back(1.0) for _ in states))


def _row(m: Moments) -> tuple[float, float, float, float]:
    return m.mean, m.second_moment, m.across_positions, m.across_samples


# --- the ends ---


def given(
    node: Node,
    *states: State,
    moments: Moments,
    phrase: str,
    exact: bool = True,
    note: str = "",
    gaussian: bool = True,
) -> Step:
    """An input, a parameter, a buffer, or what is only known by its moments; where it was made of
    signals, as by a recurrent layer, gradients go back as through a linear map of that size."""
    m = moments
    if m.variance <= 1e-14 * m.second_moment:
        state = _number(node, m.mean, ())
        return Step(replace(state, phrase=phrase, exact=exact, note=note))
    state = fresh(node.id, m, 0.0, exact, note, phrase, gaussian=gaussian)
    factors = [
        back(node.size / size * m.second_moment / x.q if x.q else 0.0)
        for x, size in zip(states, node.input_sizes, strict=True)
    ]
    return Step(state, tuple(factors))


def passed(node: Node, *states: State, operation: str) -> Step:
    """What is not understood: the first signal, taken for unchanged."""
    x = max(states, key=lambda state: state.q)
    note = f"{operation} was not understood and is taken for the identity"
    state = fresh(node.id, x.moments, x.noise, False, joined(x.note, note), x.phrase)
    ratio = node.size / node.input_sizes[0] if node.input_sizes[0] else 1.0
    return Step(state, tuple(back(ratio if s is x else 0.0) for s in states))


RULES: dict[str, Callable[..., Step]] = {
    rule.__name__: rule
    for rule in (
        add, attend, attention, concatenate, deviation, dropout, elementwise, embedding, given,
        linear, maximum, mean, multiply, normalise, passed, scale, scores, softmax, view,
    )
}  # fmt: skip


def at(rule: str, node: Node, states: Sequence[State], facts: dict[str, Any]) -> Step:
    """Apply a rule by name."""
    return RULES[rule](node, *states, **facts)
