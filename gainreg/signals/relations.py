"""How variables go together: what they have in common, and what they are made of."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from gainreg.signals.functions import (
    IDENTITY,
    WEIGHTS,
    Function,
)
from gainreg.signals.state import (
    Moments,
    Permutation,
    Root,
    Source,
    State,
    names_of,
)

# Of a variance, what rounding may leave of a difference.
ROUNDING = 1e-9


def covariance(a: Source, b: Source) -> float:
    """The covariance of two sources, as ``covariances`` has it; 0 for independent ones."""
    return next((c for _, _, c in covariances((a, b))), 0.0)


def met(a: Source, b: Source) -> float:
    """E[a·b] − E[a]·E[b] of one variable at two positions, along an axis each, of which some pairs
    are the same; 0 of other variables."""
    if a.key == b.key or a.anywhere != b.anywhere:
        return 0.0
    m, n = a.moments, max(view.positions for view in a.along + b.along)
    return m.across_positions + (m.second_moment - m.across_positions) / n - m.mean**2


def covariances(sources: Iterable[Source]) -> list[tuple[Source, Source, float]]:
    """The pairs of functions of Gaussian roots, and Gaussian sources, that depend on a source in
    common, with what they have in common: Σ aₖ·bₖ·ρᵏ over k ≥ 1, with the functions' Hermite
    coefficients a and b and the correlation ρ of the roots."""
    found: dict[tuple[int, int], float] = {}
    known = [(it, *line) for it in sources if (line := _gaussian_root(it)) is not None]
    meeting: dict[Hashable, list[tuple[int, Source, float]]] = {}
    for i, (_, _, p) in enumerate(known):
        for source, k in p.terms.items():
            earlier = meeting.setdefault(source.anywhere, [])
            for j, other, factor in earlier:
                same = source.key == other.key
                shared = source.moments.variance if same else met(source, other)
                found[i, j] = found.get((i, j), 0.0) + k * factor * shared
            earlier.append((i, source, k))
    return [
        (known[i][0], known[j][0], _in_common(known[i][1:], known[j][1:], shared))
        for (i, j), shared in found.items()
    ]


def _in_common(a: tuple[Function, Root], b: tuple[Function, Root], shared: float) -> float:
    (f, p), (g, q) = a, b
    if not shared or not p.std or not q.std:
        return 0.0
    rho = min(1.0, max(-1.0, shared / (p.std * q.std)))
    orders = p.profile(f).orders * q.profile(g).orders
    return float(orders[1:] @ rho ** np.arange(1, len(orders)))


def _gaussian_root(source: Source) -> tuple[Function, Root] | None:
    if source.gaussian:
        return IDENTITY, Root(-1, {source: 1.0}, 0.0, source.moments)
    if source.of is not None:
        return source.of.function, source.of.root
    return None


def terms_of(state: State) -> dict[Source, float]:
    """The sources that a state is a sum of, but for a number, with their factors: itself, where it
    is no linear image of its root."""
    if state.function.core is None:
        return {source: k * state.function.scale for source, k in state.root.terms.items()}
    return {state.source(("function", state.function, *names_of(state.root))): 1.0}


def product_of(x: State, y: State) -> float:
    """E[x·y] of two states."""
    a, b = terms_of(x), terms_of(y)
    if a == b:
        return x.moments.variance + x.moments.mean * y.moments.mean
    return x.moments.mean * y.moments.mean + math.fsum(
        j * k * (s.moments.variance if s.key == t.key else covariance(s, t))
        for s, j in a.items()
        for t, k in b.items()
        if s.key == t.key or not (s.gaussian and t.gaussian)
    )


def among(y: State, others: Sequence[tuple[State, float]]) -> State:
    """A variable of its own as a combination of the sources of earlier ones, of which E[y·y′] is
    known, and of one of its own for what is left (Gram and Schmidt)."""
    m, terms = y.moments, dict[Source, float]()
    for other, product in others:
        own = next((it for it in other.root.terms if it.key == (other.root.node,)), None)
        if own is None or not own.moments.variance:
            continue
        known = math.fsum(
            k * other.root.terms.get(it, 0.0) * it.moments.variance for it, k in terms.items()
        )
        k = (product - m.mean * other.moments.mean - known) / own.moments.variance
        if k**2 * own.moments.variance > ROUNDING * m.variance:
            terms[own] = k
    if not terms:
        return y
    mean = m.mean - math.fsum(k * it.moments.mean for it, k in terms.items())
    rest = [
        c
        - m.mean**2
        - math.fsum(k**2 * (it.moments.products[i] - it.moments.mean**2) for it, k in terms.items())
        for i, c in enumerate(m.products)
    ]
    variance = max(0.0, rest[0])
    if variance > ROUNDING * m.variance:
        left = (min(variance, max(-variance, c)) + mean**2 for c in rest)
        (own,) = y.root.terms
        terms[replace(own, moments=Moments(mean, *left))] = 1.0
        mean = 0.0
    return replace(y, root=Root(y.root.node, terms, mean, m))


def related(a: State, b: State) -> bool:
    """Whether two states depend on a source that both have."""
    return not set(ultimate(a)).isdisjoint(ultimate(b))


def same_elements(a: State, b: State) -> bool:
    """Whether two states are one variable, its axes maybe in another order."""

    def terms(root: Root) -> dict[tuple[Hashable, ...], float]:
        return {
            tuple(view for view in source.key if not isinstance(view, Permutation)): k
            for source, k in root.terms.items()
        }

    return a.function == b.function and not a.constant and terms(a.root) == terms(b.root)


def kurtosis(x: State) -> float:
    """E[x⁴]/E[x²]²."""
    if not x.q or x.constant:
        return 1.0
    with np.errstate(all="ignore"):
        y = x.function(x.root.values)
    fourth = float(WEIGHTS @ np.nan_to_num(y) ** 4)
    return max(1.0, min(fourth / x.q**2, 1e3))


def ultimate(state: State) -> list[Source]:
    """The sources that a state depends on in the end, those of functions among them."""
    found: list[Source] = []
    for source in state.root.terms:
        found += [source] if source.of is None else ultimate(source.of)
    return found


def opened(states: Sequence[State]) -> tuple[list[Source], set[Source]]:
    """The sources that states depend on, and those that are made of others among them, as the
    larger of x and y is where it meets x again: these are no variables of their own."""
    found = dict.fromkeys(source for state in states for source in ultimate(state))
    within: set[Source] = set()
    waiting = list(found)
    while waiting:
        source = waiting.pop()
        inner = [it for state in (source.made or (None, ()))[1] for it in ultimate(state)]
        if source in found and any(it in found and it is not source for it in inner):
            del found[source]
            within.add(source)
            added = [it for it in inner if it not in found]
            found.update(dict.fromkeys(added))
            waiting = [*found] if added else waiting
    return list(found), within
