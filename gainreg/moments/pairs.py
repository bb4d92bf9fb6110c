"""E[φ(u)·φ(v)] for two Gaussian numbers of the same std and correlation rho, for any φ.

What is computed is how unlike φ(u) and φ(v) are, D = E[(φ(u) − φ(v))²]/2 = E[φ²] − E[φ(u)φ(v)], of
the even and of the odd part of φ: both are functions on the half line, their product has mean 0,
and at −rho the odd part's share of E[φ(u)φ(v)] only changes its sign.

1. The series in Hermite polynomials, E[φ(u)φ(v)] = Σ aₙ²·rhoⁿ with aₙ = E[φ(std·z)·Heₙ(z)]/√n!
   (Mehler 1866). N terms leave at most |rho|^N·(E[φ²] − Σ aₙ²), whatever φ is: kinks and jumps cost
   nothing up to |rho| = 0.9, and a smooth φ leaves nothing at all.
2. Beside |rho| = 1, where more is left, D is integrated over the plane of 0 < p < q, in which
   φ(q) − φ(p) counts as far as q − p is not much more than √(1 − |rho|). The plane is cut along the
   points where φ is not smooth; in each cell the distances to these lines and to the diagonal p = q
   are mapped to the whole line, so that the nodes of the trapezoid rule crowd there on a
   logarithmic scale, however narrow the strip or the features of φ are. Since D is integrated as it
   stands, it has all its digits where rho is within 1e-12 of ±1.

Every second node makes a coarser rule. Where the two differ there is no answer but NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import special

from gainreg.moments import EPS, FloatArray, Function, adaptive
from gainreg.moments.windows import deviation, sizes

# Terms of the series. 256 leave 2e-12 of all at |rho| = 0.9; the last of the polynomials has the
# wave number √256, for which the coarser rule's nodes, 1/6 apart, are close enough.
TERMS = 256
# In t, where the distance to a point is eᵗ. The error for a density e^{−e^{2t}} is its Fourier
# transform Γ(iω/2)/2 at ω = 2π/step: 1e-12 for the coarser rule, far below rounding for the finer.
# At 1/10 the coarser one misses 1e-9 of D beside |rho| = 1.
STEP = 1 / 12
# How near nodes come to a point, on the line and in the plane: e^−depth of a length, which in the
# plane is at most √(1 − |rho|) stds. Features of φ narrower than 4e-11 of that go unseen. At the
# diagonal half of it is enough, for E[(φ(x + d) − φ(x))²] dies out at least like d.
LINE_DEPTH, PLANE_DEPTH, DIAGONAL_DEPTH = 36.0, 24.0, 12.0
# Lengths in stds from which on nodes are equally spaced, tried in turn: the shorter ones are for
# what is lively far from all points, such as sin at large std.
SCALES = (1.0, 1 / 8, 1 / 64, 1 / 256)
# The largest z, tried in turn: at the first the density is 1e-24, at the second its square is all
# but out of a double's range.
REACHES = (10.5, 38.5)
CUT_OFF = 1e-8  # of √E[φ²], for the roots of the outermost terms …
BEYOND = 1e-12  # … and for those that the plane leaves out
NOTHING = 75.0  # a density e⁻⁷⁵ times its largest value adds nothing
SETTLED = 1e-12  # of E[φ²]: what the two rules may differ by there
# Of D: what the two rules may differ by, or the series leave out …
AGREED = 2e-11
ROUNDING = 32 * EPS  # … beside the last digits of E[φ²], which are lost anyway
RUN = 200_000  # nodes of the plane evaluated at once: what fits in the cache …
BUDGET = 150_000_000  # … and the most for one rho: some three seconds
# A window this many times narrower than those around it has something in it that is not smooth: it
# deviates so far from a polynomial, far above what the last digits of x do to φ (1e-12 for sin at
# x = 1e4).
NARROWER, SMOOTH = 4.0, 1e-9
SAME = 1e-12  # relative distance of two places that are one
SMALLEST = 1e-300  # stands for rho = 0, which has no logarithm

Points = tuple[float, ...]


def unlikeness(
    forward: Function, size: FloatArray, std: float, kinks: Sequence[float] | None
) -> tuple[FloatArray, FloatArray]:
    """How much of E[φ²] is in the even and odd part of φ, and the D of each, at each |rho|.

    E[φ(u)φ(v)]/E[φ²] is 1 − D, the sum of both, at rho ≥ 0, and at −rho the difference of what each
    part has left.

    Args:
        forward: φ, vectorised.
        size: |rho|, a 1-D array of numbers from 0 to 1.
        std: of u and v.
        kinks: where φ or φ′ jumps, None if that is not known.

    Returns:
        The shares of the even and of the odd part, which add up to 1; and D divided by E[φ²], a row
        for each part. NaN where nothing settles.
    """
    shares, lost = np.full(2, np.nan), np.tile(np.where(size == 1, 0.0, np.nan), (2, 1))
    points = tuple(sorted({0.0, *map(abs, kinks or ())}))
    with np.errstate(all="ignore"):
        for scale in SCALES:
            # at first a declared φ is trusted to be smooth but at its kinks
            if scale == SCALES[1 if kinks is not None else 0]:
                points = _with_narrow_places(forward, std, points)
                if not points:
                    break
            lines = (_on_line(forward, points, std, reach, scale) for reach in REACHES)
            line = next((line for line in lines if line is not None), None)
            if line is not None:
                shares = line.shares
                if _settle(line, size, lost):
                    break
    return shares, lost


def _settle(line: _Line, size: FloatArray, lost: FloatArray) -> bool:
    """Fill in what one rule finds, up to the first |rho| where it does not settle.

    Returns:
        Whether a finer rule is of no use: all is settled, or would take too many nodes.
    """
    upto, rest = 1.0, abs(1 - float(line.squares[:, 0].sum()))
    unknown = np.isnan(lost[0])
    lost[:, unknown] = _by_series(line, size[unknown], upto, rest)
    # from the largest on, as what the series leaves out there is a bound for all below
    for i in sorted(np.flatnonzero(np.isnan(lost[0])), key=lambda i: -size[i]):
        here = slice(i, i + 1)
        lost[:, here] = _by_series(line, size[here], upto, rest)
        if not np.isnan(lost[0, i]):
            continue
        upto = float(size[i])
        while sum(cell.count for cell in _cells(line, 1 - upto)) > BUDGET:
            # nearer to 1 it takes fewer nodes, and what is left out there may be little enough
            upto = 1 - (1 - upto) / 4
            if upto == 1:
                return True
        found = _over_plane(line, upto)
        if np.isnan(found).any():
            return False
        kept = line.squares[:, 0].sum(axis=0) @ upto ** np.arange(TERMS)
        rest = abs(1 - float(kept + found.sum()))
        lost[:, here] = (
            found[:, None] if upto == size[i] else _by_series(line, size[here], upto, rest)
        )
        if np.isnan(lost[0, i]):
            break
    return True


# --- where φ is not smooth ---


def _with_narrow_places(forward: Function, std: float, points: Points) -> Points:
    """The points, and the |x| where windows are narrowest: at kinks, jumps, narrow features.

    Nothing where φ is too lively or random to say.
    """
    windows, _ = adaptive.smooth_windows(forward, std, share=0.0, rounding=SMOOTH)
    if not windows.size:
        return ()
    found = []
    for sign in (1.0, -1.0):
        _, middle, half = windows[:, windows[0] == sign]
        order = np.argsort(middle)
        narrowing, least, widest = False, math.inf, 0.0
        for i in order:
            if not narrowing:
                widest = max(widest, half[i])
                narrowing, least = half[i] * NARROWER <= widest, math.inf
            if narrowing and half[i] < least:
                first = last = i
                least = half[i]
            elif narrowing and half[i] == least:
                last = i
            elif narrowing and half[i] >= NARROWER * least:
                low, high = middle[first] - half[first], middle[last] + half[last]
                found.append((sign, (low + high) / 2, (high - low) / 2))
                narrowing, widest = False, half[i]
    places = list(points)
    for place in _sharpened(forward, std, np.array(found).reshape(-1, 3).T).tolist():
        if all(abs(place - known) > SAME * place for known in places):
            places.append(place)
    return tuple(sorted(places))


def _sharpened(forward: Function, std: float, windows: FloatArray) -> FloatArray:
    """The |x| at which φ is least smooth, in each of the windows."""
    sign, middle, half = windows
    while (half > 4 * EPS).any():
        half = 0.6 * half  # two parts that overlap, lest the place is on the border
        left, right = (middle + side * half * 2 / 3 for side in (-1, 1))
        in_left, in_right = (
            deviation(forward(sign[:, None] * std * sizes(np.array([sign, part, half]))))
            for part in (left, right)
        )
        middle = np.where(in_left > in_right, left, right)
    return np.asarray(std * np.exp(middle))


# --- nodes ---


def _stretch(t: FloatArray, length: float, scale: float) -> tuple[FloatArray, FloatArray]:
    """The distance from one end of an interval, and its change with t.

    From both ends the distance grows like eᵗ up to ``scale`` and evenly from there on. The other
    end, if it is not at infinity, is around t = length/scale or, in a shorter interval, 1.
    """
    unit = min(scale, length)
    end = length / unit
    distance = unit * (np.logaddexp(0, t) - np.logaddexp(0, t - end))
    change = -unit * math.expm1(-end) * special.expit(t) * special.expit(end - t)
    return distance, change


def _nodes(length: float, scale: float, depth: float, most: float) -> tuple[FloatArray, FloatArray]:
    """Distances up to ``most`` from one end of an interval, and their weights.

    The first distance is e^−depth of the unit, and so is the last from the other end. What lies
    beyond is in the weights of these two: what is integrated is constant there, as far as anybody
    can see, and the sum a geometric series.

    Returns:
        The distances; and their weights by the finer and, at every second, by the coarser rule.
    """
    unit = min(scale, length)
    end = most / unit if length == math.inf else length / unit + depth
    t = STEP * np.arange(-2 * math.ceil(depth / STEP / 2), 2 * math.ceil(end / STEP / 2) + 1.0)
    distance, change = _stretch(t, length, scale)
    weights = np.array([STEP * change, 2 * STEP * change])
    weights[1, 1::2] = 0.0
    for last in (0, -1) if length < math.inf else (0,):
        weights[:, last] /= -np.expm1([-STEP, -2 * STEP])
    count = int(np.searchsorted(distance, most, side="right"))
    return distance[:count], weights[:, :count]


@lru_cache(maxsize=4)
def _polynomials(points: Points, reach: float, scale: float) -> tuple[FloatArray, ...]:
    """Nodes on the half line and, there, what Hermite polynomials need.

    Args:
        points: where intervals begin, in stds.
        reach: the largest z.
        scale: see ``_stretch``.

    Returns:
        The nodes z; the number of the interval that each is in; the roots of the finer rule's
        weights, for means over both half lines; the weights of both rules beside these; and the
        polynomials times the roots of the weights, a column each.
    """
    parts = []
    for i, (low, high) in enumerate(pairwise((*points, math.inf))):
        distance, weights = _nodes(high - low, scale, LINE_DEPTH, reach - low)
        parts.append((low + distance, np.full_like(distance, i), *weights))
    z, interval, fine, coarse = np.concatenate(parts, axis=1)
    root_weight = np.exp(-z * z / 4) * np.sqrt(fine * math.sqrt(2 / math.pi))
    hermite = np.empty((TERMS, len(z)))
    hermite[0], hermite[1] = root_weight, z * root_weight
    for n in range(1, TERMS - 1):
        hermite[n + 1] = (z * hermite[n] - math.sqrt(n) * hermite[n - 1]) / math.sqrt(n + 1)
    rules = np.array([fine, coarse]) / fine
    return z, interval.astype(np.intp), root_weight, rules, hermite.T


# --- the line ---


@dataclass(frozen=True)
class _Line:
    """What is known of the even and the odd part of φ/√E[φ²] from one line.

    Attributes:
        forward: φ.
        std: of x.
        edges: between which φ is smooth, in x, from 0 to infinity.
        scale: of the nodes; see ``_stretch``.
        root: √E[φ²].
        shares: of the two parts in E[φ²].
        top: the largest z that counts.
        squares: of the coefficients of the series, an array (part, rule, n).
    """

    forward: Function
    std: float
    edges: Points
    scale: float
    root: float
    shares: FloatArray
    top: float
    squares: FloatArray

    def parts(self, z: FloatArray, low: float, high: float) -> FloatArray:
        """The even and the odd part at z in an interval of x."""
        return _parts(self.forward, self.std * z, low, high) / self.root


def _parts(forward: Function, x: FloatArray, low: Any, high: Any) -> FloatArray:
    """The even and the odd part of φ at x, in intervals onto whose ends x may have been rounded."""
    x = np.clip(x, np.where(low, np.nextafter(low, math.inf), 0.0), np.nextafter(high, 0.0))
    right, left = forward(x), forward(-x)
    return np.array([right + left, right - left]) / 2


def _on_line(
    forward: Function, points: Points, std: float, reach: float, scale: float
) -> _Line | None:
    """φ integrated over the half line; None where the rule does not settle."""
    edges = (*(p for p in points if p < reach * std), math.inf)
    z, interval, root_weight, rules, hermite = _polynomials(
        tuple(p / std for p in edges[:-1]), reach, scale
    )
    low, high = np.array(edges[:-1])[interval], np.array(edges[1:])[interval]
    parts = _parts(forward, std * z, low, high) * root_weight
    root = float(np.linalg.norm(parts))
    if not 0 < root < math.inf:
        return None
    parts /= root
    size = np.hypot(*parts)
    shares = parts**2 @ rules.T
    outermost = np.flatnonzero(np.diff(interval, prepend=-1))
    outermost = np.concatenate([outermost, outermost[1:] - 1])
    if (
        abs(shares[:, 0] - shares[:, 1]).max() > SETTLED
        or (size[outermost] ** 2).max() > SETTLED
        or size[-1] > CUT_OFF
    ):
        return None
    # of the even part the odd coefficients are 0, and of the odd part the even ones
    squares = (parts[:, None] * rules @ hermite) ** 2
    squares[0, :, 1::2] = squares[1, :, 0::2] = 0.0
    top = float(z[size > BEYOND].max())
    return _Line(forward, std, edges, scale, root, shares[:, 0], top, squares)


def _by_series(line: _Line, rho: FloatArray, upto: float, rest: float) -> FloatArray:
    """D of the even and of the odd part, a row each, NaN where the series leaves out too much.

    Args:
        line: what is known of φ.
        rho: from 0 to 1, a 1-D array.
        upto, rest: what the terms beyond the series add up to at a rho that is not smaller.
    """
    n = np.arange(TERMS)[:, None]
    gone = -np.expm1(n * np.log(np.maximum(rho, SMALLEST)))  # 1 − rhoⁿ
    beyond = line.shares[:, None] - line.squares.sum(axis=-1)
    left_out = rest * (rho / upto) ** TERMS
    kept = 1 - np.minimum(left_out / max(abs(beyond[:, 0].sum()), EPS**2), 1.0)
    found = line.squares @ gone + beyond[:, :, None] * kept  # part, rule, rho
    off = np.abs(found[:, 0] - found[:, 1]).max(axis=0) + left_out
    fine = found[:, 0]
    return np.where(off <= AGREED / 2 * fine.sum(axis=0) + ROUNDING, fine, np.nan)


# --- the plane ---


@dataclass(frozen=True)
class _Cell:
    """A piece of the plane of 0 < p < q, where φ is smooth in p and in q, as a grid of nodes.

    Attributes:
        place: p, q and q − p, in stds, at a slice of the rows; they broadcast to a grid.
        rows, columns: the weights by both rules; that of a node is the product.
        p_edges, q_edges: the intervals of x in which p and q are.
        opposite: whether p and −q come close enough to count.
    """

    place: Callable[[slice], tuple[FloatArray, FloatArray, FloatArray]]
    rows: FloatArray
    columns: FloatArray
    p_edges: tuple[float, float]
    q_edges: tuple[float, float]
    opposite: bool

    @property
    def count(self) -> int:
        """How many nodes it has."""
        return int(self.rows.shape[1] * self.columns.shape[1])


def _over_plane(line: _Line, rho: float) -> FloatArray:
    """D of the even and of the odd part at one rho below 1, NaN where the rules do not agree."""
    near, wide = 1 - rho, 1 + rho  # the variances of (u − v)/√2 and (u + v)/√2
    found = np.zeros((2, 2))  # part, rule
    for cell in _cells(line, near):
        run = max(1, RUN // cell.columns.shape[1])
        for start in range(0, cell.rows.shape[1], run):
            some = slice(start, start + run)
            p, q, apart = cell.place(some)
            even_p, odd_p = line.parts(p, *cell.p_edges)
            even_q, odd_q = line.parts(q, *cell.q_edges)
            # the roots of the densities at (p, q) and at (p, −q), where an odd φ has the other sign
            root = np.exp(-(apart**2) / (8 * near) - (p + q) ** 2 / (8 * wide))
            terms = [((even_q - even_p) * root) ** 2, ((odd_q - odd_p) * root) ** 2]
            if cell.opposite:
                root = np.exp(-((p + q) ** 2) / (8 * near) - apart**2 / (8 * wide))
                terms[0] += ((even_q - even_p) * root) ** 2
                terms[1] += ((odd_q + odd_p) * root) ** 2
            for part, term in enumerate(terms):
                found[part] += ((cell.rows[:, some] @ term) * cell.columns).sum(axis=1)
    fine, coarse = found.T / (math.pi * math.sqrt(near * wide))
    agreed = np.abs(fine - coarse).max() <= AGREED * fine.sum() + ROUNDING
    return fine if agreed else np.full(2, np.nan)


def _cells(line: _Line, near: float) -> Iterator[_Cell]:
    """The pieces of the plane that count; ``near`` is 1 − rho."""
    width = math.sqrt(near)
    most = math.sqrt(4 * NOTHING) * width  # the largest q − p that counts

    def nodes(low: float, high: float, depth: float, upto: float) -> tuple[FloatArray, FloatArray]:
        length = high - low
        deeper = max(0.0, math.log(min(line.scale, length) / width))
        return _nodes(length, line.scale, depth + deeper, min(upto, length))

    intervals = list(pairwise(line.edges))
    for i, p_edges in enumerate(intervals):
        low, high = p_edges[0] / line.std, p_edges[1] / line.std
        if low > line.top:  # where p counts no more; q may lie beyond
            return
        opposite = 2 * low < most
        depth = PLANE_DEPTH if opposite else DIAGONAL_DEPTH
        apart, rows = nodes(low, high, depth, most)
        # in a finite interval up to its other end, towards which nodes are as dense
        above, columns = nodes(
            low, high, PLANE_DEPTH, line.top - low if high == math.inf else high - low
        )
        # where q − p takes a part of a finite interval, p has the rest
        rest = 1 - apart / (high - low)
        place = partial(_place_in_triangle, low, apart[:, None], rest[:, None], above)
        yield _Cell(place, rows * rest, columns, p_edges, p_edges, opposite)
        for q_edges in intervals[i + 1 :]:
            start, end = q_edges[0] / line.std, q_edges[1] / line.std
            between = most - (start - high)
            if between < 0:
                break
            below, rows = nodes(low, high, PLANE_DEPTH, between)
            above, columns = nodes(start, end, PLANE_DEPTH, between)
            if not (below.size and above.size):
                break  # so far apart that no node is near enough
            place = partial(_place_in_rectangle, high, start, below[:, None], above)
            yield _Cell(place, rows, columns, p_edges, q_edges, low + start < most)


def _place_in_triangle(
    low: float, apart: FloatArray, rest: FloatArray, above: FloatArray, some: slice
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """p and q in one interval."""
    p = low + (above if (rest == 1).all() else rest[some] * above)
    return p, p + apart[some], apart[some]


def _place_in_rectangle(
    end: float, start: float, below: FloatArray, above: FloatArray, some: slice
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """p in an interval that ends, and q in one that starts."""
    return end - below[some], start + above, (start - end) + below[some] + above
