"""How much of a few keys softmax attention sees: E[Σp²] over n independent Gaussian scores."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from gainreg.signals.functions import FloatArray

Rows = tuple[tuple[int, float], ...]

# Nodes for scores, in standard deviations, and for ln t: steps of 0.1 and 0.15 of integrands that
# are smooth on a scale of 1 are good to 1e-8.
_Z: FloatArray = np.linspace(-8.0, 8.0, 161)
_WEIGHTS: FloatArray = np.exp(-(_Z**2) / 2) / np.exp(-(_Z**2) / 2).sum()


@functools.lru_cache(1024)
def _transforms(std: float, largest: int) -> tuple[FloatArray, FloatArray, float]:
    """Of e^x, x normal: t²·L″(t) and ln L(t) on a grid of ln t, and its step; L is the Laplace
    transform E[exp(−t·eˣ)]."""
    low, high = -8.0 * std - math.log(largest) - 12, 8.0 * std + 6
    u = np.linspace(low, high, max(200, int((high - low) / 0.15)))
    grown = np.exp(u[:, None] + std * _Z)
    with np.errstate(under="ignore"):
        decay = np.exp(-grown)
        first = decay @ _WEIGHTS
        second = (grown**2 * decay) @ _WEIGHTS
    return second, np.log(np.maximum(first, 1e-300)), float(u[1] - u[0])


def participation(spread: float, keys: int) -> float:
    """E[Σp²] of softmax over so many keys, for independent normal scores of variance ``spread``.

    1/S² = ∫ t·e^{−tS} dt makes it n·∫ t·L″(t)·L(t)^{n−1} dt. It is e^{spread}/n for many keys.
    """
    if keys <= 1:
        return 1.0
    if spread > 300:
        return 1.0
    second, logarithm, step = _transforms(math.sqrt(spread), keys)
    return min(1.0, keys * float(second @ np.exp((keys - 1) * logarithm)) * step)


def over_rows(spread: float, rows: Rows) -> float:
    """E[Σp²] averaged over rows with different numbers of keys."""
    return math.fsum(share * participation(spread, keys) for keys, share in rows)


def passing(spread: float, rows: Rows) -> float:
    """Σp²·(1 − Σp²) averaged over rows: what of a gradient by the weights goes to the scores."""
    seen = [(participation(spread, keys), share) for keys, share in rows]
    return math.fsum(share * a * (1 - a) for a, share in seen)


def shared(rows: Rows) -> float:
    """Σp·p′ of two rows that weigh alike all keys that they see, the one with fewer seeing some of
    the other's."""
    return math.fsum(a * b / max(m, n) for m, a in rows for n, b in rows)


def causal(keys: int) -> Rows:
    """Rows of 1, 2, … keys."""
    return grouped(range(1, keys + 1))


def grouped(counts: Sequence[int] | range) -> Rows:
    """How many keys rows have, and which share of them: one number for those within 10 %."""
    values = np.sort(np.asarray(counts, dtype=np.int64))
    values = values[values > 0]
    if not values.size:
        return ()
    bins = np.round(np.log(values) / 0.1)
    rows = []
    for one in np.unique(bins):
        members = values[bins == one]
        rows.append((round(float(members.mean())), members.size / values.size))
    return tuple(rows)
