"""What only moves numbers, and the ends of a model."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import replace

from gainreg.signals.distributions import mixed
from gainreg.signals.rules.step import Back, Step, back, from_to, number, part
from gainreg.signals.state import Along, Moments, State, fresh
from gainreg.signals.tape import Node


def view(node: Node, x: State, *, view: Hashable = None) -> Step:
    """Reshape, transpose, slice, expand, gather, cast: unchanged; gradients are counted."""
    if view is None:
        return Step(x)
    copied = isinstance(view, Along)
    before, after = (node.input_positions[0], node.positions) if copied else (1, 1)
    state, by = x.viewed(view, node.id, before, after), _moved(node)
    return Step(state, (lambda profiles: (by, profiles),), to_roots=True)


def _moved(node: Node) -> Back:
    """What a view passes back: of fewer positions, so many pairs less; of copies, their sum."""
    share = node.size / node.input_sizes[0]
    before, after = node.input_positions[0], node.positions
    if share >= 1 or after >= before:
        copies = max(1.0, after / before)  # at other positions, not for other units
        return from_to(
            gg=share, hg=share * (copies - 1), hh=share * copies, kk=share * copies, ww=1.0
        )
    left = (after - 1) / (before - 1)
    return from_to(gg=share, hh=share * left, kk=share * after / before, ww=1.0)


def concatenate(node: Node, *states: State) -> Step:
    """Averages weighted by size."""
    total = math.fsum(node.input_sizes)
    shares = [size / total for size in node.input_sizes]
    m = Moments(
        *(
            math.fsum(share * row for share, row in zip(shares, rows, strict=True))
            for rows in zip(*((s.moments.mean, *s.moments.products) for s in states), strict=True)
        )
    )
    levels = [(round(s.moments.mean, 9), round(s.q, 9)) for s in states]
    values = None
    if len(set(levels)) > 1 or not all(s.gaussian for s in states):
        values = mixed([(s.values, share) for s, share in zip(states, shares, strict=True)])
    phrases = list(dict.fromkeys(s.phrase for s in states))
    state = fresh(
        node.id,
        m,
        states,
        phrases[0] if len(phrases) == 1 else f"concatenation of {' and '.join(phrases[:3])}",
        values=values,
        aligned=math.fsum(share**2 * s.aligned for share, s in zip(shares, states, strict=True)),
    )
    beyond = math.fsum(
        share * s.q * (s.averaged - 1) for s, share in zip(states, shares, strict=True)
    )
    due = [share * part(s.q, m.second_moment) for s, share in zip(states, shares, strict=True)]
    state = replace(state, averaged=1 + part(beyond, m.second_moment))
    return Step(state, tuple(back(1.0, w=along**2) for along in due))


def given(
    node: Node,
    *states: State,
    moments: Moments,
    phrase: str,
    note: str = "",
) -> Step:
    """An input, a parameter, a buffer, or what is only known by its moments; where it was made of
    signals, as by a named activation, gradients go back as through a linear map of that size."""
    m = moments
    if m.variance <= 1e-14 * m.second_moment:
        state = number(node, m.mean, ())
        return Step(replace(state, phrase=phrase, note=note))
    state = fresh(node.id, m, (), phrase, note)
    factors = [
        back(node.size / size * m.second_moment / x.q if x.q else 0.0)
        for x, size in zip(states, node.input_sizes, strict=True)
    ]
    return Step(state, tuple(factors))


def passed(node: Node, *states: State, operation: str) -> Step:
    """What is not understood: the first signal, taken for unchanged."""
    x = max(states, key=lambda state: state.q)
    note = f"{operation} was not understood and is taken for the identity"
    state = fresh(node.id, x.moments, (x,), x.phrase, note)
    ratio = node.size / node.input_sizes[0] if node.input_sizes[0] else 1.0
    return Step(state, tuple(back(ratio if s is x else 0.0) for s in states))
