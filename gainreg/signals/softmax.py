"""How much of a few keys softmax attention sees, and two queries in common: E[Σp·p′] over n
independent Gaussian scores."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gainreg.signals.functions import FloatArray


class Rows(NamedTuple):
    """The keys that queries see.

    Attributes:
        counts: how many keys which share of the queries sees.
        meets: of two queries, how much of the keys of the one with more the other sees, where it
            could see as many as it sees: 1 if it always does, as in causal attention.
    """

    counts: tuple[tuple[int, float], ...]
    meets: float = 1.0


# Spacing of nodes for ln t, and for exponents: integrands are smooth on a scale of 1, and the rule
# is good to 1e-8. A standard deviation has at most so many and at least so few nodes.
_STEP = 0.5
_NARROW, _WIDE = 0.2, 0.8

# So many queries of a mask say how many keys two of them share.
QUERIES = 64

# Scores of a larger variance look at their largest alone, but for 1 %.
_MOST_SPREAD = 300.0


class Overlap(NamedTuple):
    """Two rows of softmax weights p and p′ over the same keys.

    Attributes:
        seen: E[Σ p·p′], of a row with itself E[Σp²].
        passed: E[Σ p·p′·(x − Σpx)·(x − Σp′x)] for independent x of variance 1: what both hand on
            to the scores of a gradient that they share, summed over keys.
    """

    seen: float
    passed: float


def _nodes(std: float) -> tuple[FloatArray, FloatArray]:
    """Values of a normal variable, and their weights."""
    if not std:
        return np.zeros(1), np.ones(1)
    step = min(_WIDE, max(_NARROW, _STEP / std))
    many = math.ceil(7 / step)
    z = step * np.arange(-many, many + 1.0)
    weights = np.exp(-(z**2) / 2)
    return std * z, weights / weights.sum()


@functools.lru_cache(1024)
def overlap(spread: float, alike: float, keys: int) -> Overlap:
    """Of independent normal scores of variance ``spread``, the two rows' correlation is ``alike``.

    1/S = ∫ e^{−tS} dt for each row's sum S makes E[Σp·p′] n·∬ E[eˣ⁺ʸ·e]·E[e]ⁿ⁻¹ dt du, with
    e = exp(−t·eˣ − u·eʸ), and the sums of higher powers likewise. x and y are independent given
    what they have in common.
    """
    if keys <= 1:
        return Overlap(1.0, 0.0)
    std = math.sqrt(min(spread, _MOST_SPREAD))
    common, weights = _nodes(std * math.sqrt(alike))
    own, own_weights = _nodes(std * math.sqrt(1 - alike))
    ln_t = np.arange(-7 * std - math.log(keys) - 12, 7 * std + 5, _STEP)
    with np.errstate(under="ignore"):
        grown = np.exp(ln_t[:, None, None] + common[:, None] + own)
        decay = np.exp(-grown)
        powers = [(grown**k * decay) @ own_weights for k in range(3)]

        def both(i: int, j: int) -> FloatArray:
            """E[(t·eˣ)ⁱ·(u·eʸ)ʲ·e] at all t and u."""
            return (powers[i] * weights) @ powers[j].T

        logarithm = np.log(np.maximum(both(0, 0), 1e-300))
        n, others, rest = keys, np.exp((keys - 1) * logarithm), np.exp((keys - 2) * logarithm)
        seen, one, square, cross = (
            float(np.sum(part)) * n * _STEP**2
            for part in (
                both(1, 1) * others,
                both(2, 1) * others,
                both(2, 2) * others,
                (n - 1) * both(1, 1) ** 2 * rest,
            )
        )
    return Overlap(min(1.0, seen), max(0.0, seen - 2 * one + square + cross))


def of_one(spread: float, rows: Rows) -> Overlap:
    """Of a row with itself, averaged over rows with different numbers of keys."""
    found = [(overlap(spread, 1.0, keys), share) for keys, share in rows.counts]
    return Overlap(*(math.fsum(share * it[i] for it, share in found) for i in range(2)))


def of_two(spread: float, alike: float, rows: Rows) -> Overlap:
    """Of two rows, of which the one with fewer keys may see some of the other's."""
    found, below = [], 0.0
    for keys, share in sorted(rows.counts):
        pairs = rows.meets * share * (2 * below + share)
        found.append((overlap(spread, alike, keys), pairs))
        below += share
    return Overlap(*(math.fsum(pairs * it[i] for it, pairs in found) for i in range(2)))


def causal(keys: int) -> Rows:
    """1, 2, … keys."""
    return grouped(range(1, keys + 1))


def full(keys: int) -> Rows:
    """All of them."""
    return Rows(((keys, 1.0),))


def left_by(mask: NDArray[np.bool_], keys: int) -> Rows | None:
    """What a mask of queries and keys leaves; None if that is nothing."""
    left = np.broadcast_to(mask, (*mask.shape[:-1], keys)).astype(float)
    seen = grouped(left.sum(-1).ravel())
    if not seen.counts or left.ndim < 2:
        return seen if seen.counts else None
    few = left[..., :: max(1, left.shape[-2] // QUERIES), :]
    counts = few.sum(-1)
    both = few @ few.swapaxes(-1, -2)
    most = np.maximum(counts[..., :, None], counts[..., None, :])
    least = np.minimum(counts[..., :, None], counts[..., None, :])
    return seen._replace(meets=float(both[most > 0].sum() / max(1.0, least[most > 0].sum())))


def grouped(counts: Sequence[int] | range | FloatArray) -> Rows:
    """How many keys queries see, and which share of them: one number for those within 10 %."""
    values = np.sort(np.asarray(counts, dtype=np.int64))
    values = values[values > 0]
    bins = np.round(np.log(values) / 0.1)
    rows = []
    for one in np.unique(bins):
        members = values[bins == one]
        rows.append((round(float(members.mean())), members.size / values.size))
    return Rows(tuple(rows))
