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
from functools import lru_cache
from itertools import pairwise

import numpy as np
from scipy import special

from gainreg.moments import EPS, FloatArray, Function, adaptive

# Terms of the series. 256 leave 1e-12 at |rho| = 0.9; the last of the polynomials oscillates with
# a wave number of √256, which the coarser rule's nodes resolve, 1/6 apart.
TERMS = 256
# In t, where the distance to a point is eᵗ. The error for a density e^{−e^{2t}} is its Fourier
# transform Γ(iω/2)/2 at ω = 2π/step: 1e-12 for the coarser rule, far below rounding for the finer.
STEP = 1 / 12
# ln of the part of E[φ²], and of D, that is left out beside a point, if φ is bounded there; beside
# the diagonal, where E[(φ(x + d) − φ(x))²] dies out like d or d², half of it.
LINE_DEPTH, PLANE_DEPTH, DIAGONAL_DEPTH = 36.0, 28.0, 14.0
# (largest z, length in stds from which on nodes are equally spaced), tried in turn. At the first z
# the density is 1e-24, at the second it leaves the range of a double; the shorter lengths are for
# what is lively far from all points, such as sin at large std.
RULES = tuple((reach, scale) for scale in (1.0, 1 / 8, 1 / 64, 1 / 256) for reach in (10.5, 38.5))
CUT_OFF = 1e-8  # of √E[φ²], for the roots of the outermost terms
NOTHING = 75.0  # a density e⁻⁷⁵ times its largest value adds nothing
SETTLED = 1e-12  # of E[φ²]: what the two rules may differ by there
# Of D: what the two rules may differ by, or the series leave out …
AGREED, LEFT = 2e-11, 1e-12
ROUNDING = 32 * EPS  # … beside the last digits of E[φ²], which are lost anyway
RUN = 200_000  # nodes of the plane evaluated at once …
BUDGET = 20_000_000  # … and the most for one rho: a second or two
# A window this many times narrower than those around it has something in it that is not smooth: it
# deviates so far from a polynomial, well above what rounding does to φ.
NARROWER, SMOOTH = 8.0, 1e-9
SAME = 1e-12  # relative distance of two places that are one


Points = tuple[float, ...]


def unlikeness(
    forward: Function, size: FloatArray, std: float, kinks: Sequence[float] | None
) -> tuple[FloatArray, FloatArray]:
    """How much of E[φ(u)²] is in the even and odd part of φ, and how much of each is lost at rho.

    Args:
        forward: φ, vectorised.
        size: |rho|, a 1-D array of numbers from 0 to 1.
        std: of u and v.
        kinks: where φ or φ′ jumps, None if that is not known.

    Returns:
        The shares of the even and of the odd part, which add up to 1; and for each rho the D of
        both, divided by E[φ²], in two rows. NaN where nothing settles.
    """
    lost = np.tile(np.where(size == 1, 0.0, np.nan), (2, 1))
    shares = np.full(2, np.nan)
    points = tuple(sorted({0.0, *map(abs, kinks or ())}))
    searched = False
    with np.errstate(all="ignore"):
        for reach, scale in RULES:
            if not searched and (kinks is None or (reach, scale) != RULES[0]):
                found, searched = _with_narrow_places(forward, std, points), True
                if found is None:
                    break
                points = found
            parts = _on_line(forward, points, std, reach, scale)
            if parts is not None:
                shares = parts.shares
                _settle(parts, size, lost)
                if not np.isnan(lost).any():
                    break
    return shares, lost


def _settle(parts: _Parts, size: FloatArray, lost: FloatArray) -> None:
    """Fill in what one rule finds, up to the first |rho| where it does not settle."""
    bound = (1.0, abs(1 - float(parts.squares[0].sum())))
    open_ = np.flatnonzero(np.isnan(lost[0]))
    lost[:, open_] = _by_series(parts, size[open_], *bound)
    # from the largest on, as what the series leaves out at one is a bound for all below
    for i in sorted(open_, key=lambda i: -size[i]):
        if np.isnan(lost[0, i]):
            lost[:, i] = _by_series(parts, size[i : i + 1], *bound)[:, 0]
        if np.isnan(lost[0, i]):
            rho = float(size[i])
            while rho < 1 and sum(cell.count for cell in _cells(parts, 1 - rho)) > BUDGET:
                rho = 1 - (1 - rho) / 4
            if rho == 1:
                return
            found = _over_plane(parts, rho)
            series = float(parts.squares[0] @ rho ** np.arange(TERMS))
            bound = (rho, abs(1 - series - float(found.sum())))
            if rho == size[i]:
                lost[:, i] = found
            else:
                lost[:, i] = _by_series(parts, size[i : i + 1], *bound)[:, 0]
            if np.isnan(lost[0, i]):
                return


def _with_narrow_places(forward: Function, std: float, points: Points) -> Points | None:
    """The points and the |x| at which φ is not smooth or has narrow features.

    These are where windows are narrowest. None where φ is too lively or random to say.
    """
    windows, _ = adaptive.smooth_windows(forward, std, share=0.0, rounding=SMOOTH)
    if not windows.size:
        return None
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
            elif narrowing and half[i] < 1.5 * least:
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
    while windows.size and (half > 4 * EPS).any():
        half = 0.6 * half  # two parts that overlap, lest the place is on the border
        left, right = (middle + side * half * 2 / 3 for side in (-1, 1))
        in_left, in_right = (
            adaptive.deviation(forward, std, np.array([sign, part, half])) for part in (left, right)
        )
        middle = np.where(in_left > in_right, left, right)
    return std * np.exp(middle)


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

    The first distance is e^−depth of the unit, and so is the last from the other end.
    """
    unit = min(scale, length)
    end = most / unit if length == math.inf else length / unit + depth
    first = 2 * math.ceil(depth / STEP / 2)  # even, and at every depth a multiple of the step
    t = STEP * np.arange(-first, math.ceil(end / STEP) + 1.0)
    distance, change = _stretch(t, length, scale)
    count = int(np.searchsorted(distance, most, side="right"))
    return distance[:count], STEP * change[:count]


@lru_cache(maxsize=4)
def _polynomials(points: Points, reach: float, scale: float) -> tuple[FloatArray, ...]:
    """Nodes on the half line and, there, what Hermite polynomials need.

    Args:
        points: where intervals begin, in stds.
        reach: the largest z.
        scale: see ``_stretch``.

    Returns:
        The nodes z; the number of the interval that each is in; the roots of the weights for means
        over both half lines; 2 at every second node, else 0; and the polynomials in rows, times
        these roots.
    """
    parts = []
    for i, (low, high) in enumerate(pairwise((*points, math.inf))):
        distance, weight = _nodes(high - low, scale, LINE_DEPTH, reach - low)
        coarse = np.where(np.arange(len(weight)) % 2, 0.0, 2.0)
        parts.append((low + distance, np.full_like(weight, i), weight, coarse))
    z, interval, weight, coarse = np.concatenate(parts, axis=1)
    root_weight = np.exp(-z * z / 4) * np.sqrt(weight * math.sqrt(2 / math.pi))
    hermite = np.empty((TERMS, len(z)))
    hermite[0], hermite[1] = root_weight, z * root_weight
    for n in range(1, TERMS - 1):
        hermite[n + 1] = (z * hermite[n] - math.sqrt(n) * hermite[n - 1]) / math.sqrt(n + 1)
    return z, interval.astype(np.intp), root_weight, coarse, hermite


# --- the line ---


@dataclass(frozen=True)
class _Parts:
    """The even and the odd part of φ/√E[φ²].

    Attributes:
        forward: φ.
        std: of x.
        edges: between which φ is smooth, in x: from 0 to infinity.
        scale: of the nodes.
        root: √E[φ²].
        shares: of E[φ²], of the two parts.
        top: the largest z that counts.
        squares: of the coefficients of the Hermite series, by the finer and the coarser rule.
    """

    forward: Function
    std: float
    edges: Points
    scale: float
    root: float
    shares: FloatArray
    top: float
    squares: FloatArray

    def at(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The even and the odd part at x."""
        right, left = self.forward(x), self.forward(-x)
        return (right + left) / (2 * self.root), (right - left) / (2 * self.root)


def _inside(x: FloatArray, low: FloatArray | float, high: FloatArray | float) -> FloatArray:
    """x, where it was rounded onto the ends of its interval, the next number within."""
    return np.clip(x, np.where(low, np.nextafter(low, math.inf), 0.0), np.nextafter(high, 0.0))


def _on_line(
    forward: Function, points: Points, std: float, reach: float, scale: float
) -> _Parts | None:
    """What is known of φ from one line; None where the rule does not settle."""
    points = tuple(p for p in points if p < reach * std)
    z, interval, root_weight, coarse, hermite = _polynomials(
        tuple(p / std for p in points), reach, scale
    )
    edges = (*points, math.inf)
    x = _inside(std * z, np.array(edges[:-1])[interval], np.array(edges[1:])[interval])
    right, left = forward(x), forward(-x)
    parts = np.array([right + left, right - left]) / 2 * root_weight
    root = float(np.linalg.norm(parts))
    if not 0 < root < math.inf:
        return None
    parts /= root
    size = np.hypot(*parts)
    shares = np.array([parts**2 @ np.ones_like(coarse), parts**2 @ coarse])
    ends = np.diff(interval, prepend=-1) + np.diff(interval, append=interval[-1]) > 0
    if (
        np.abs(shares[0] - shares[1]).max() > SETTLED
        or size[-1] > CUT_OFF
        or (size[ends] ** 2).max() > SETTLED
    ):
        return None
    coefficients = np.zeros((2, TERMS))
    for i, weights in enumerate((np.ones_like(coarse), coarse)):
        for parity in (0, 1):
            coefficients[i, parity::2] = hermite[parity::2] @ (parts[parity] * weights)
    return _Parts(
        forward=forward,
        std=std,
        edges=edges,
        scale=scale,
        root=root,
        shares=shares[0],
        top=float(z[size > 1e-12].max()),
        squares=coefficients**2,
    )


def _by_series(parts: _Parts, rho: FloatArray, upto: float, rest: float) -> FloatArray:
    """D of the even and of the odd part, NaN where the series leaves out too much.

    Args:
        parts: the squares of the coefficients, by both rules.
        rho: from 0 to 1, an array.
        upto, rest: how much the terms left out add up to at another rho.
    """
    n = np.arange(TERMS)
    gone = -np.expm1(n * np.log(np.maximum(rho, 1e-300))[:, None])  # 1 − rhoⁿ
    left_out = rest * np.where(rho < upto, (rho / upto) ** TERMS, 1.0)
    beyond = parts.shares[:, None] - np.array(
        [parts.squares[:, parity::2].sum(axis=1) for parity in (0, 1)]
    )
    kept = 1 - np.minimum(left_out / max(abs(beyond[:, 0].sum()), EPS**2), 1.0)
    found = np.array(
        [
            parts.squares[:, parity::2] @ gone[:, parity::2].T + beyond[parity][:, None] * kept
            for parity in (0, 1)
        ]
    )  # part, rule, rho
    off = np.abs(found[:, 0] - found[:, 1]).max(axis=0) + left_out
    fine = found[:, 0]
    return np.where(off <= LEFT * fine.sum(axis=0) + ROUNDING, fine, np.nan)


# --- the plane ---


@dataclass(frozen=True)
class _Cell:
    """A piece of the plane of 0 < p < q, where φ is smooth in p and in q, as a grid of nodes.

    Attributes:
        place: p, q and q − p, in stds, at a slice of the rows; they broadcast to a grid.
        rows, columns: their weights; the weight of a node is the product.
        p_edges, q_edges: the ends of the intervals of x in which p and q are.
        opposite: whether p and −q come close.
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
        return len(self.rows) * len(self.columns)


def _over_plane(parts: _Parts, rho: float) -> FloatArray:
    """D of the even and of the odd part at one rho below 1, NaN where the rules do not agree."""
    near, wide = 1 - rho, 1 + rho  # the variances of (u − v)/√2 and (u + v)/√2
    found = np.zeros((2, 2))  # rows: the finer and the coarser rule
    for cell in _cells(parts, near):
        run = 2 * max(1, RUN // len(cell.columns) // 2)
        for start in range(0, len(cell.rows), run):
            some = slice(start, start + run)
            p, q, apart = cell.place(some)
            even_p, odd_p = parts.at(_inside(parts.std * p, *cell.p_edges))
            even_q, odd_q = parts.at(_inside(parts.std * q, *cell.q_edges))
            # the roots of the densities at (p, q) and at (p, −q)
            root = np.exp(-(apart**2) / (8 * near) - (p + q) ** 2 / (8 * wide))
            even, odd = ((even_q - even_p) * root) ** 2, ((odd_q - odd_p) * root) ** 2
            if cell.opposite:
                root = np.exp(-((p + q) ** 2) / (8 * near) - apart**2 / (8 * wide))
                even += ((even_q - even_p) * root) ** 2
                odd += ((odd_q + odd_p) * root) ** 2
            rows, columns = cell.rows[some], cell.columns
            for i, term in enumerate((even, odd)):
                found[0, i] += rows @ term @ columns
                found[1, i] += 4 * (rows[::2] @ term[::2, ::2] @ columns[::2])
    fine, coarse = found / (math.pi * math.sqrt(near * wide))
    agreed = np.abs(fine - coarse).max() <= AGREED * fine.sum() + ROUNDING
    return fine if agreed else np.full(2, np.nan)


def _cells(parts: _Parts, near: float) -> Iterator[_Cell]:
    """The pieces of the plane that count; ``near`` is 1 − rho."""
    width = math.sqrt(near)
    most = math.sqrt(4 * NOTHING) * width  # the largest q − p that counts

    def nodes(length: float, depth: float, upto: float) -> tuple[FloatArray, FloatArray]:
        deeper = max(0.0, math.log(min(parts.scale, length) / width))
        return _nodes(length, parts.scale, depth + deeper, upto)

    intervals = list(pairwise(parts.edges))
    for i, (low, high) in enumerate(intervals):
        a, b = low / parts.std, high / parts.std
        if a > parts.top:
            return
        opposite = 2 * a < most
        depth = PLANE_DEPTH if opposite else DIAGONAL_DEPTH
        apart, rows = nodes(b - a, depth, min(most, parts.top))
        above, columns = nodes(b - a, PLANE_DEPTH, parts.top - a if b == math.inf else b)
        # where q − p takes a part of a finite interval, p has the rest
        rest = (np.ones_like(apart) if b == math.inf else 1 - apart / (b - a))[:, None]
        yield _Cell(
            lambda some, a=a, apart=apart[:, None], rest=rest, above=above: (
                p := a + rest[some] * above,
                p + apart[some],
                apart[some],
            ),
            rows * rest[:, 0],
            columns,
            (low, high),
            (low, high),
            opposite,
        )
        for q_edges in intervals[i + 1 :]:
            c, d = q_edges[0] / parts.std, q_edges[1] / parts.std
            if c - b > most or c > parts.top:
                break
            below, rows = nodes(b - a, PLANE_DEPTH, most)
            above, columns = nodes(
                d - c, PLANE_DEPTH, min(most, parts.top - c if d == math.inf else d)
            )
            yield _Cell(
                lambda some, b=b, c=c, below=below[:, None], above=above: (
                    b - below[some],
                    c + above,
                    (c - b) + below[some] + above,
                ),
                rows,
                columns,
                (low, high),
                q_edges,
                opposite=a + c < most,
            )
