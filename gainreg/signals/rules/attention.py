"""Scores, softmax and what looks by them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gainreg.signals.rules.step import Back, Step, back, pairs
from gainreg.signals.softmax import Rows, of_one, of_two
from gainreg.signals.state import (
    Moments,
    State,
    fresh,
    joined,
    related,
)
from gainreg.signals.tape import Node

INDEPENDENT = "attention weights, from scores taken for independent"


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
    keys, queries = (node.size * width / size for size in node.input_sizes)
    to_query, to_key = _to_scored(query.moments, key.moments, queries, keys, factor)
    return Step(state, (to_query, to_key))


def _to_scored(
    query: Moments, key: Moments, queries: float, keys: float, factor: float
) -> tuple[Back, Back]:
    """From the scores to queries and keys: a query's gradient is Σ of its scores' times their keys,
    a key's Σ over queries. By the scores of one query they add up to 0, since softmax ignores what
    all keys have in common; two queries' are alike by k, as their outputs' gradients are by h.
    """
    by_keys = factor**2 * keys * _beyond(key)
    by_queries = factor**2 * queries * query.second_moment
    by_pairs = factor**2 * queries * max(0.0, queries - 1) * query.across_positions
    to_query = np.array([[by_keys, 0.0, 0.0], [0.0, 0.0, by_keys], [0.0, 0.0, 0.0]])
    to_key = np.array([[by_queries, 0.0, by_pairs], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    to_key[1] = -to_key[0] / max(1.0, keys - 1)
    return to_query, to_key


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
        x = replace(x, moments=m)
    moments, down = _softmax(*_spread(x), size, rows)
    note = joined(x.note, INDEPENDENT)
    state = fresh(node.id, moments, 0.0, False, note, "softmax", gaussian=False)
    return Step(state, (down,))


def _softmax(spread: float, alike: float, size: int, rows: Rows) -> tuple[Moments, Back]:
    """The moments of the weights, and the factor of the gradient by the scores."""
    one, two = of_one(spread, rows), of_two(spread, alike, rows)
    a, both = one.seen / size, two.seen / size
    down = np.diag([one.passed / size, 0.0, two.passed / size])
    return Moments(1 / size, a, both, both), down


def attend(
    node: Node,
    weights: State,
    value: State,
    scored: State | None = None,
    *,
    size: int,
    common: int | None = None,
    units: bool = False,
) -> Step:
    """q → c + (q − c)·(a + s²/D), with a the sum of the squared weights. Noci et al. 2022.

    Where keys and values are images of the same D units, a query that looks for a direction among
    the keys finds it in the values: the weights e^{u·x} move the mean of x by u, and |u|² = s².

    ``units`` says that the weights go over units, as those of a mixture of experts: these have no
    more in common than their mean.
    """
    spread, alike = (0.0, 0.0) if scored is None else _spread(scored)
    v = value.moments
    if units:
        v = replace(v, across_positions=v.mean**2)
    width = node.size / node.input_sizes[0] * size  # units of a value, which a weight multiplies
    queries = node.size / node.input_sizes[1] * size
    together = _together(node, queries)
    moments, a, same = _attend(weights.moments, v, size, spread, alike, common, together)
    state = fresh(
        node.id, moments, value.noise, False, joined(weights.note, value.note),
        f"attention over {value.phrase}",
    )  # fmt: skip
    state = replace(state, counted=None if units else value.q)
    through = _to_weights(_beyond(v) * width)
    return Step(state, (through, _to_values(a, same, queries, size), back(0.0)))


def _spread(scored: State) -> tuple[float, float]:
    """Variance of scores over keys, and how far two queries are alike.

    What is the same in all samples beside scores that are not is a bias of positions: queries
    differ by it as much as keys do.
    """
    m = scored.moments
    terms = [(k**2, source.moments) for source, k in scored.root.terms.items()]
    varied = [(k, it) for k, it in terms if it.across_samples < it.second_moment * (1 - 1e-9)]
    if scored.function.core is not None or len(varied) in (0, len(terms)) or not _beyond(m):
        return _alike(m)
    shared = math.fsum(k * _beyond(it) * _alike(it)[1] for k, it in varied)
    return _beyond(m), scored.function.scale**2 * shared / _beyond(m)


def _together(node: Node, queries: float) -> float:
    """Of two positions, how often they look at the same keys: in windows, where they share one."""
    return min(1.0, max(0.0, queries - 1) / max(1.0, node.positions - 1))


def _alike(m: Moments) -> tuple[float, float]:
    """The same of scores alone."""
    q = m.second_moment
    return _beyond(m), min(1.0, max(0.0, m.across_samples / q)) if q else 0.0


def _attend(
    p: Moments,
    v: Moments,
    size: int,
    spread: float,
    alike: float,
    common: int | None,
    together: float,
) -> tuple[Moments, float, float]:
    """The moments of what is attended to, and Σp² and Σp·p′ of the weights of two queries."""
    a = min(1.0, p.second_moment * size)
    same = min(a, p.across_samples * size)
    found = spread * (1 - a) / common if common else 0.0
    q, c, s = v.second_moment, v.across_positions, v.across_samples
    both = min(c, s)
    m = Moments(
        v.mean,
        c + (q - c) * min(1.0, a + found),
        c + (q - c) * min(1.0, same + alike * found) * together,
        both + (s - both) * same,
    )
    return m, a, same


def _to_weights(values: float) -> Back:
    """To the weights, of which those of two queries are alike as the gradients by their outputs."""
    return np.array([[values, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, values, 0.0]])


def _to_values(a: float, same: float, queries: float, keys: int) -> Back:
    """Through the weights to the values: a key's gradient is Σ over queries of p·g. Of a query
    with itself Σp² = a, of two Σp·p′ = ``same``; all keys together get 1 of each query."""
    two, others = queries * max(0.0, queries - 1), keys * max(1, keys - 1)
    return pairs(
        a * queries / keys,
        added=same * two / keys,
        common=(1 - a) * queries / others,
        h=(1 - same) * two / others,
        k=(queries / keys) ** 2,
    )


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
    spread, alike = _alike(scored)
    weights, through = _softmax(spread, alike, size, rows)
    queries = node.input_sizes[0] / width  # of all heads
    by_key = queries * size * width / node.input_sizes[1]
    together = _together(node, by_key)
    moments, a, same = _attend(weights, value.moments, size, spread, alike, common, together)
    note = joined(
        query.note, key.note, value.note, "attention weights, from scores taken for independent"
    )
    state = fresh(node.id, moments, value.noise, False, note, f"attention over {value.phrase}")
    state = replace(state, counted=value.q)
    to_scores = through @ _to_weights(_beyond(value.moments) * node.size / queries)
    to_query, to_key = _to_scored(query.moments, key.moments, by_key, size, factor)
    return Step(
        state,
        (
            to_query @ to_scores,
            to_key @ to_scores,
            _to_values(a, same, node.size / node.input_sizes[2] * size, size),
        ),
    )
