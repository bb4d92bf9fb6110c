"""Sums over two signals, scores among them, softmax and what looks by them.

Weights and scores have queries and keys in place of samples and positions: ``across_positions`` is
across keys, ``across_samples`` across queries, and so are h and k of their gradients.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from gainreg.signals import layout as layouts
from gainreg.signals.layout import UNIT
from gainreg.signals.relations import kurtosis, related, same_elements
from gainreg.signals.rules.step import Back, Step, back, from_to, part
from gainreg.signals.softmax import Rows, of_one, of_two
from gainreg.signals.state import Moments, State, fresh
from gainreg.signals.tape import Node

INDEPENDENT = "attention weights, from scores taken for independent"

# To what only says how something else goes.
NOTHING = back(0.0, w=0.0)


# --- sums over two signals ---


def scores(
    node: Node,
    left: State,
    right: State,
    *,
    width: int,
    factor: float = 1.0,
    positions: bool = False,
    keys: bool = True,
    common: bool = False,
) -> Step:
    """Σ left·right, times ``factor``: q = factor²·width·q·q′ for what is independent.

    Args:
        width: how many terms a sum has.
        positions: whether it goes over positions, which have their c in common, as in linear
            attention.
        keys: whether what is right is keys, so that there is a score for each of them; else it is
            the same for all positions that are left.
        common: whether both are images of the same: two positions that are alike in one are so in
            the other.
    """
    note, with_itself = "", not positions and same_elements(left, right)
    if with_itself or related(left, right) or positions:
        note = "a product of signals that depend on each other"
    a, b = left.moments.scaled(factor), right.moments
    moments = _summed(a, b, width, positions, keys)
    if common or with_itself:
        alike = factor**2 * _linear_part(left) * _linear_part(right) * right.root.aligned
        second = moments.second_moment + width * (width - 1) * alike
        moments = replace(moments, second_moment=second)
    if with_itself:
        moments = _beside_itself(moments, right, width, factor, layouts.size(node.layout[-1]))
    state = fresh(node.id, moments, (left, right), "attention scores", note)
    state = replace(state, noise=left.noise + right.noise)
    rights, lefts = (node.size * width / size for size in node.input_sizes)
    if positions and {layouts.role(axis) for axis in node.layout[-2:]} == {UNIT}:
        sides = zip((b, a), (rights, lefts), node.input_positions, strict=True)
        return Step(state, tuple(factor**2 * _to_terms(*it, node.positions) for it in sides))
    if positions:
        down = _to_weights(b, rights), _to_values(a, lefts, width, 1.0)
        return Step(state, tuple(factor**2 * it for it in down))
    if keys:
        return Step(state, _to_scored(a, b, lefts, rights, factor))
    q, s = rights * b.second_moment, rights * b.across_samples
    to_left = factor**2 * from_to(gg=q, hh=q, kk=s)
    pairs = lefts * max(0.0, lefts - 1) * a.across_positions
    to_right = from_to(gg=lefts * a.second_moment, hg=pairs, kk=lefts**2 * _both(a))
    return Step(state, (to_left, to_right))


def _summed(a: Moments, b: Moments, width: int, positions: bool, keys: bool) -> Moments:
    mean = width * a.mean * b.mean
    others = mean**2 * (1 - 1 / width)
    if positions:
        pairs = width * (width - 1)
        least = [-it.second_moment / max(1, width - 1) for it in (a, b)]
        c = pairs * max(a.across_positions, least[0]) * max(b.across_positions, least[1])
        return Moments(
            mean,
            width * a.second_moment * b.second_moment + c,
            width * a.across_samples * b.second_moment + c,
            width * a.across_samples * b.across_samples + pairs * _both(a) * _both(b),
        )
    q, c, s = a.second_moment, a.across_positions, a.across_samples
    if keys:
        found = (q * b.second_moment, q * b.across_positions, c * b.second_moment)
    else:
        found = (q * b.second_moment, c * b.second_moment, s * b.across_samples)
    return Moments(mean, *(width * part + others for part in found))


def _beside_itself(m: Moments, x: State, width: int, factor: float, keys: int) -> Moments:
    """The same of the products of each with each, x's own, of which one is that with itself: a sum
    of squares."""
    own, stray = factor * width * x.q, factor**2 * width * (kurtosis(x) - 1) * x.q**2
    mean = m.mean + (own - m.mean) / keys
    second = m.second_moment + (own**2 + stray - m.second_moment) / keys
    return replace(m, mean=mean, second_moment=second)


def _linear_part(x: State) -> float:
    """What of a second moment is linear in the Gaussian that x is a function of."""
    return float(x.profile.orders[1] ** 2)


def _both(m: Moments) -> float:
    """What is common to pairs of other positions in other samples."""
    return min(m.across_positions, m.across_samples)


def _beyond(m: Moments) -> float:
    """q − c: what a position has beyond what all have in common."""
    return max(0.0, m.second_moment - m.across_positions)


def _to_scored(
    query: Moments, key: Moments, queries: float, keys: float, factor: float
) -> tuple[Back, Back]:
    """From the scores to queries, which are scaled by ``factor`` here, and keys: a query's gradient
    is Σ of its scores' times their keys, a key's Σ over queries. A query's scores' add up to 0, as
    softmax ignores what all keys have in common."""
    by_keys = factor**2 * keys * _beyond(key)
    by_queries = queries * query.second_moment
    by_pairs = queries * max(0.0, queries - 1) * query.across_positions
    others = max(1.0, keys - 1)
    return (
        from_to(gg=by_keys, kh=by_keys),
        from_to(gg=by_queries, kg=by_pairs, gh=-by_queries / others, kh=-by_pairs / others),
    )


def _to_terms(other: Moments, width: float, before: int, after: int) -> Back:
    """From sums over positions, one for each pair of units, to what is summed over: no two units
    have a gradient in common, and all positions in one sum do."""
    same = (before / after - 1) / max(1, before - 1)
    q, c = width * other.second_moment, width * other.across_positions
    return from_to(gg=q, gh=same * c, hh=(1 - same) * c, kk=width * _both(other))


def _to_weights(v: Moments, width: float) -> Back:
    """To weights of positions, each of which multiplies so many units of a value."""
    return from_to(gg=width * v.second_moment, gh=width * v.across_positions, hk=width * _beyond(v))


def _to_values(w: Moments, queries: float, keys: int, together: float) -> Back:
    """Through weights to the values that they sum over: a key's gradient is Σ over queries of w·g.
    All of a query's weights, and so those of two queries, add up to a number that counts where
    values have something in common; two of them are so often looked at by the same queries."""
    two, others = queries * max(0.0, queries - 1), keys * max(1, keys - 1)
    whole = _whole(w, keys)
    apart = (queries / keys) ** 2 * whole
    here = two * max(0.0, whole - keys * w.across_samples) / others
    return from_to(
        gg=queries * w.second_moment,
        hg=two * w.across_samples,
        gh=together * queries * w.across_positions,
        hh=together * here + (1 - together) * apart,
        kk=apart,
        ww=1.0,
    )


def _whole(w: Moments, keys: int) -> float:
    """E[(Σw)²], 1 of softmax."""
    return keys * w.second_moment + keys * (keys - 1) * w.across_positions


# --- softmax ---


class Spread(NamedTuple):
    """How scores differ.

    Attributes:
        total: their variance over keys.
        alike: the correlation of two queries' scores.
    """

    total: float
    alike: float


def _spread(scored: State) -> Spread:
    """What is the same in all samples beside scores that are not is a bias of positions: queries
    differ by it as much as keys do."""
    m = scored.moments
    terms = [(k**2, source.moments) for source, k in scored.root.terms.items()]
    varied = [(k, it) for k, it in terms if it.across_samples < it.second_moment * (1 - 1e-9)]
    if scored.function.core is not None or len(varied) in (0, len(terms)) or not _beyond(m):
        return _of_scores(m)
    shared = scored.function.scale**2 * math.fsum(
        k * _beyond(it) * _of_scores(it).alike for k, it in varied
    )
    return Spread(_beyond(m), shared / _beyond(m))


def _of_scores(m: Moments) -> Spread:
    """The same of scores alone."""
    alike = part(m.across_samples - m.mean**2, m.variance)
    return Spread(_beyond(m), min(1.0, max(0.0, alike)))


def _drawn(scored: State, scores: State) -> float:
    """Of the variance over keys, what products of queries and keys make."""
    if scored.function.core is not None:
        return _beyond(scored.moments)
    products = {source.key[0] for source in scores.root.terms}
    terms = scored.root.terms.items()
    found = [k**2 * _beyond(source.moments) for source, k in terms if source.key[0] in products]
    return scored.function.scale**2 * math.fsum(found)


def softmax(node: Node, x: State, *, size: int, rows: Rows, units: bool = False) -> Step:
    """Weights over n keys: E[Σp²] of independent scores of variance q − c.

    ``rows`` are the numbers of keys that a mask leaves; ``units`` says that it goes over units,
    which have no more in common than their mean.
    """
    if units:
        square = x.moments.mean**2
        m = replace(x.moments, across_positions=square, across_samples=square)
        x = replace(x, moments=m)
    spread = _spread(x)
    one, two = of_one(spread.total, rows), of_two(spread.total, spread.alike, rows)
    a, both = one.seen / size, two.seen / size
    passed, shared = one.passed / size, two.passed / size
    if units:
        moments = Moments(1 / size, a, both, both)
        down = from_to(gg=passed, hh=shared, kk=shared)
    else:  # what all keys have in common is taken off
        moments = Moments(1 / size, a, (1 - one.seen) / (size * max(1, size - 1)), both)
        down = from_to(gg=passed, hg=-passed, kk=shared)
    state = fresh(node.id, moments, (x,), "softmax", INDEPENDENT, values=moments.normal)
    return Step(replace(state, noise=0.0), (down,))


# --- attention ---


def attend(
    node: Node,
    weights: State,
    value: State,
    soft: State,
    scored: State,
    scores: State | None = None,
    query: State | None = None,
    key: State | None = None,
    *,
    size: int,
    common: bool = False,
    units: bool = False,
) -> Step:
    """q → c·E[(Σw)²] + (q − c)·(a + s²(1 − a)²/D), with a the sum of the squared weights, which
    are softmax's, or mixed among heads since. Noci et al. 2022.

    Where keys and values are images of the same, which varies along D directions, a query that
    looks for one among the keys finds it in the values: the weights e^{u·x} move the mean of x by
    u·(1 − a), and |u|² = s². The gradients by queries and keys are looked for likewise.

    Args:
        soft, scored: what softmax made, and of what.
        scores, query, key: what scores were before a bias, and of what they were made.
        units: whether values are those of units, as of a mixture of experts: these have no more in
            common than their mean. Softmax may go over units and values be those of neighbours.
    """
    p, v = weights.moments, value.moments
    width = node.size / node.input_sizes[0] * size  # how many values a weight multiplies
    queries = node.size / node.input_sizes[1] * size
    averaged = 1.0
    beside = node.inputs[2].facts["units"] and not units
    if beside:
        p = _of_keys(p, size)
    if units:
        moments, through = _over_units(node, p, v, width, size, queries)
    else:
        mixed = part(p.second_moment, soft.q)
        drawn, alike = _spread(scored)
        if scores is not None:
            drawn = _drawn(scored, scores)
        looked = drawn * (1 - min(1.0, soft.q * size)) ** 2
        found = mixed * looked * value.aligned if common else 0.0
        moments = _attended(p, v, size, found, alike, _together(queries, node.positions))
        averaged = part(value.q * _whole(p, size), moments.second_moment) or 1.0
        to_weights = from_to(gg=width * _beyond(v)) if beside else _to_weights(v, width)
        together = _together(size, node.input_positions[1])
        through = (to_weights, _to_values(p, queries, size, together), NOTHING, NOTHING)
        if query is not None and key is not None:
            each = node.input_sizes[5] * size / node.input_sizes[0]  # units of a query
            looked *= math.sqrt(mixed)
            by = width * _beyond(v), each, queries, size
            down = _looked_for(query.moments, key.moments, looked, found, *by)
            through = (*through, NOTHING, *down)
    state = fresh(node.id, moments, (weights, value), f"attention over {value.phrase}")
    return Step(replace(state, noise=value.noise, averaged=averaged), through)


def _over_units(
    node: Node, p: Moments, v: Moments, width: float, size: int, queries: float
) -> tuple[Moments, tuple[Back, ...]]:
    """Weights of units: one for each position, or for all of a sample together, as where channels
    attend to each other."""
    square, own = v.mean**2, node.input_positions[0] > 1
    a, same = p.second_moment * size, (p.across_positions if own else p.second_moment) * size
    moments = Moments(
        v.mean,
        square + (v.second_moment - square) * min(1.0, a),
        square + (v.across_positions - square) * min(1.0, same),
        square + (v.across_samples - square) * min(1.0, p.across_samples * size),
    )
    q, c, s = (
        width * (it - square) for it in (v.second_moment, v.across_positions, v.across_samples)
    )
    to_weights = from_to(gg=q, hh=c, kk=s)
    if not own:
        to_weights = from_to(gg=q, hg=max(0.0, width - 1) * c, kk=s)
    to_values = from_to(
        gg=queries * p.second_moment,
        hh=queries * same / size,
        kk=queries * p.across_samples,
        ww=1.0,
    )
    return moments, (to_weights, to_values, NOTHING)


def _of_keys(p: Moments, keys: int) -> Moments:
    """Weights that a linear map gives, as units, of keys that are positions: they sum up to one
    number, and queries are positions."""
    others = (p.mean**2 * keys - p.second_moment) / max(1, keys - 1)
    return replace(p, across_positions=others, across_samples=p.across_positions)


def _together(window: float, positions: int) -> float:
    """How often two positions share a window of so many."""
    return min(1.0, max(0.0, window - 1) / max(1.0, positions - 1))


def _attended(
    p: Moments, v: Moments, size: int, found: float, alike: float, together: float
) -> Moments:
    """The moments of what is attended to, of which so much is found by looking for it."""
    a, same, whole = size * p.second_moment, size * p.across_samples, _whole(p, size)
    beyond, both = _beyond(v), _both(v)
    return Moments(
        v.mean * p.mean * size,
        v.across_positions * whole + beyond * min(whole, a + found),
        v.across_positions * whole + beyond * min(whole, same + alike * found) * together,
        both * whole + (v.across_samples - both) * same,
    )


def _looked_for(
    query: Moments,
    key: Moments,
    looked: float,
    found: float,
    by_weight: float,
    units: float,
    queries: float,
    keys: int,
) -> tuple[Back, Back]:
    """To queries and keys, by what weights have to do with both: a query finds among the keys those
    whose values are along the gradient, and a key gets a gradient that queries share from those
    that look for it."""
    scale = query.second_moment * units
    by_query = found * by_weight / scale if scale else 0.0
    two = queries * max(0.0, queries - 1) / keys**2
    scale = _beyond(key) * units**2
    by_key = two * by_weight * looked**2 / scale if scale else 0.0
    return from_to(gg=by_query, hh=by_query, kk=by_query), from_to(hg=by_key)
