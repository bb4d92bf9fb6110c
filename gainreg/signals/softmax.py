"""How much of a few keys softmax attention sees, and two queries in common: E[Σp·p′] over n
independent Gaussian scores."""

from __future__ import annotations

import functools
import itertools
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


# Steps of the trapezoid rule for ln t and for exponents: integrands are smooth on a scale of 1, and
# it is good to 1e-8 then. In standard deviations a step is no wider than where it still sees the
# normal density, to 1e-7, and no narrower than what stays quick: a spread of 100 is 1 % off.
_STEP = 0.5
_NARROW, _WIDE = 0.2, 0.8

# Scores of a larger variance look at their largest alone, but for 1 %.
_MOST_SPREAD = 300.0

# So many queries of a mask, evenly spaced, say how many keys two of them share: all pairs of 2048
# would take seconds.
QUERIES = 64


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


@functools.lru_cache(256)
def overlaps(spread: float, alike: float, counts: tuple[int, ...]) -> tuple[Overlap, ...]:
    """For each number of keys, what two rows of correlation ``alike`` see of them, of independent
    normal scores of variance ``spread``.

    1/S = ∫ e^{−tS} dt for each row's sum S makes E[Σp·p′] n·∬ E[eˣ⁺ʸ·e]·E[e]ⁿ⁻¹ dt du, with
    e = exp(−t·eˣ − u·eʸ), and the sums of higher powers likewise. x and y are independent given
    what they have in common.
    """
    std = math.sqrt(min(spread, _MOST_SPREAD))
    common, weights = _nodes(std * math.sqrt(alike))
    own, own_weights = _nodes(std * math.sqrt(1 - alike))
    ln_t = np.arange(-7 * std - math.log(max(counts)) - 12, 7 * std + 5, _STEP)
    with np.errstate(under="ignore"):
        grown = np.exp(ln_t[:, None, None] + common[:, None] + own)
        decay = np.exp(-grown)
        powers = [(grown**k * decay) @ own_weights for k in range(3)]

        def both(i: int, j: int) -> FloatArray:
            """E[(t·eˣ)ⁱ·(u·eʸ)ʲ·e] at all t and u."""
            return (powers[i] * weights) @ powers[j].T

        logarithm = np.log(np.maximum(both(0, 0), 1e-300))
        each, pair = [both(1, 1), both(2, 1), both(2, 2)], both(1, 1) ** 2
        found = []
        for n in counts:
            others = np.exp((n - 1) * logarithm)
            seen, one, square = (n * _STEP**2 * float(np.vdot(part, others)) for part in each)
            rest = np.exp((n - 2) * logarithm) if n > 1 else 0.0 * others
            cross = n * (n - 1) * _STEP**2 * float(np.vdot(pair, rest))
            passed = max(0.0, seen - 2 * one + square + cross) if n > 1 else 0.0
            found.append(Overlap(min(1.0, seen), passed))
    return tuple(found)


def of_one(spread: float, rows: Rows) -> Overlap:
    """Of a row with itself, averaged over rows with different numbers of keys."""
    counts, shares = zip(*rows.counts, strict=True)
    return _averaged(overlaps(spread, 1.0, counts), shares)


def of_two(spread: float, alike: float, rows: Rows) -> Overlap:
    """Of two rows, of which the one with fewer keys may see some of the other's."""
    counts, shares = zip(*sorted(rows.counts), strict=True)
    below = itertools.accumulate(shares, initial=0.0)
    pairs = [
        rows.meets * share * (2 * less + share) for share, less in zip(shares, below, strict=False)
    ]
    return _averaged(overlaps(spread, alike, counts), pairs)


def _averaged(found: Sequence[Overlap], shares: Sequence[float]) -> Overlap:
    pairs = list(zip(found, shares, strict=True))
    seen = math.fsum(share * it.seen for it, share in pairs)
    return Overlap(seen, math.fsum(share * it.passed for it, share in pairs))


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
