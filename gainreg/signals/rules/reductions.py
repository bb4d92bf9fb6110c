"""Norms, means and maxima."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np

from gainreg.signals.distributions import POINTS, normal_points, on_nodes
from gainreg.signals.functions import (
    IDENTITY,
    NODES,
    WEIGHTS,
    FloatArray,
    Function,
    Operation,
    of_values,
    slopes_at,
    slopes_on_nodes,
)
from gainreg.signals.layout import UNIT, Mixing, count
from gainreg.signals.rules.elementwise import elementwise, of_units
from gainreg.signals.rules.step import (
    Back,
    Factor,
    Profiles,
    Step,
    along,
    back,
    from_to,
    number,
)
from gainreg.signals.state import Moments, Root, Source, State, fresh, joined, names_of, of_root
from gainreg.signals.tape import Node

# The largest of more variables than this is that of so many; of the rest of them, only the largest
# and the smallest count, one of which is where any but a function with a maximum in between is
# largest: of that, so many come near it.
MOST = 64

# So much of the variance may units have in common, and a norm still takes one number off them all.
LITTLE = 0.01

# A mean over so many independent units is taken for the number that it tends to, where it is used
# beside what it was taken of, as a norm is. A second moment strays by √(2/16) = 35 % then, and a
# norm by half of that.
MANY = 16

# So much of its square may be the variance of a mean that counts as a number: it is 2/16 = 0.125 of
# 16 squares, and 0.134 of 16 outputs of a ReLU. A sum of products of mean 0 is all variance.
STRAYS = 0.15

SIGN = Operation("sign", np.sign)

# What a norm over positions and samples does to a gradient beside dividing it by the variance.
ALIKE = "the gradient of a batch norm, whose samples are taken for equally alike"


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
    pair of them has beyond that; E[M·M′] of two positions or samples that have each their own is
    m² and 1/n of their covariance beyond that. q → γ²; c → γ²·(c − E[M·M′])/(q − E[M²]); c across
    samples → 0 in batch norm, where samples share their mean. Without a mean (RMSNorm) c → γ²·c/q.

    Args:
        square: mean square of γ, ``scale`` its mean.
        shift, shift_square: mean and mean square of β.
        epsilon: added to the variance.
    """
    m = x.moments
    pair = m.mean**2
    both = m.elsewhere

    def over(own: float, others: float, n: int) -> float:
        """What two means over n have in common, where pairs have ``own`` and ``others``."""
        return (own + (n - 1) * others) / n

    def taken(c: float) -> float:
        """E[M·M′] where the means of a unit over positions and samples have c in common."""
        return pair + (c - pair) / units

    elsewhere = over(m.across_samples, both, positions)
    common = taken(over(over(m.second_moment, m.across_positions, positions), elsewhere, samples))
    by_position = common if positions > 1 else taken(over(m.across_positions, both, samples))
    by_sample = common if samples > 1 else taken(elsewhere)
    by_both = by_sample if positions > 1 else by_position if samples > 1 else taken(both)
    if not centred:
        common = by_position = by_sample = by_both = 0.0
    spread = m.second_moment - common
    if spread <= 1e-12 * m.second_moment or spread == 0:
        return Step(number(node, shift, (x,)).but(f"{phrase} of a constant"))
    k = 1 / (spread + epsilon)
    level = square if epsilon < 1e-4 * spread else square * spread * k
    moments = Moments(
        shift,
        level + shift_square,
        _clip((m.across_positions - by_position) * k * square, level) + shift_square,
        _clip((m.across_samples - by_sample) * k * square, level) + shift_square,
        _clip((both - by_both) * k * square, level) + shift_square,
    )
    factor = square * k
    # only a norm over samples lets one sample be larger than another
    note, down = "", back(factor, w=float(samples > 1))
    if centred and positions * samples > 1 and units == 1:
        note = ALIKE
        alike = [
            _clip((c - m.mean**2) / max(m.variance, 1e-300), 1.0)
            for c in (m.across_positions, m.across_samples)
        ]
        alone = count(node.layout)[UNIT]
        down[:3, :3] = factor * _projected(positions, samples, alone, x.gaussian, *alike)
    elif centred and positions > 1:  # the gradients of a group's units have nothing in common
        down += factor / units * from_to(hg=-1.0, hh=-1.0, kk=-1.0)
    together = units if centred and positions > 1 == samples else math.inf
    uniform = abs(square - scale**2) <= 1e-12 * square and abs(shift_square - shift**2) < 1e-12
    beyond = (_in_common(m, positions, samples) - pair) / units if centred else 0.0
    if uniform and centred and units == 1 < samples and (by_unit := _of_weight(x)):
        signal, weight = by_unit
        facts = node.facts | {"square": 1.0, "scale": 1.0, "shift": 0.0, "shift_square": 0.0}
        signal = normalise(node, signal, **facts).state
        left = of_units(node, signal, elementwise(node, weight, operation=SIGN).state, x)
        state = of_root(left.root, left.function.scaled(scale, shift), (left,))
        return Step(state, (along(down, state.root, x),), note=note)
    if not uniform or beyond > LITTLE * spread:
        state = _fresh_like(node, x, moments, phrase)
        by = _beside_output(down, factor / together, state.root, x)
        return Step(replace(state, noise=0.0), (by,), note=note)
    # what is taken off is one number: still a function of the same variables
    stretch = math.sqrt(k) * scale
    f = x.function.scaled(stretch, shift - stretch * (m.mean if centred else 0.0))
    if f.core is None:
        state = of_root(_scaled_root(node, x.root, f, moments), IDENTITY, (x,), phrase)
    else:
        state = replace(of_root(x.root, f, (x,), phrase), moments=moments)
    by = _beside_output(down, factor / together, state.root, x)
    return Step(replace(state, noise=0.0), (by,), note=note)


def _beside_output(down: Back, share: float, made: Root, x: State) -> Factor:
    """The factor of a norm over a sample's positions that takes so much of a gradient's part along
    the output off: where all positions have a gradient in common, which leans on the values, as
    behind an activation that a mean follows, that part is not small."""

    def by(profiles: Profiles) -> tuple[Back, Profiles]:
        passed, lean = along(down, made, x), profiles.lean
        found, left = passed(profiles) if callable(passed) else (passed, Profiles())
        if lean is None or not share or not made.std:
            return found, left
        common = of_values(lambda _: lean, made.values).covariance(
            made.correlation(made.moments.across_positions)
        )
        z = (made.values - made.moments.mean) / made.std
        leaning = float(WEIGHTS @ (lean * z)) ** 2
        if common <= LITTLE * leaning:
            return found, left
        return found + from_to(hg=-share * leaning / common), left

    return by


def _of_weight(x: State) -> tuple[State, State] | None:
    """The signal and the weights of which something is the product, where each unit has one weight
    for all its positions and samples; a norm of each unit leaves of that the sign."""
    sources = list(x.root.terms)
    if len(sources) != 1 or x.function.core is not None or x.function.shift or x.root.shift:
        return None
    pair = sources[0].gated
    if pair is None or pair[1].moments.across_samples < pair[1].q:
        return None
    return pair


def _projected(
    positions: int, samples: int, units: int, drawn: bool, rho: float, sigma: float
) -> Back:
    """What a norm takes off the gradient by one unit: its mean and its part along the output; the
    rest is as much larger as the inverse of a unit's variance is than that of their average.

    Ioffe and Szegedy 2015, section 3. Over P positions of N samples that have a gradient, or an
    output, in common as any two of them do, both fall into what all share, what a sample has beyond
    that (N − 1 directions) and what a position has (N(P − 1)).

    Args:
        positions, samples: that the norm goes over.
        units: that have a norm each.
        drawn: whether what is normed was made by random weights. Its variance is then a sum of as
            many squares as the data has directions. (That a unit has few weights changes nothing:
            where they make it small, they are small for the gradient too.)
        rho, sigma: the correlation of what is normed, across positions and samples.
    """
    p, n = positions, samples
    # from g, h and k to the mean squares along a direction of each kind, and back
    split = np.array([[1, p - 1, (n - 1) * p], [1, p - 1, -p], [1, -1, 0]], dtype=float)
    if n == 1:
        split[0, 2] = split[1, 2] = 0.0
    many = np.array([1, n - 1, n * (p - 1)], dtype=float)
    merge = np.array([many, [1, n - 1, -n], [1, -1, 0] if n > 1 else [0, 0, 0]], dtype=float) / (
        n * p
    )
    size = np.maximum(split @ (1.0, rho, sigma), 0.0)
    size[0] = 0.0
    share = size / max(float(many @ size), 1e-300)  # of the output along one direction
    kept = np.diag(1 - 2 * share) + np.outer(share, share * many)
    kept[0] = 0.0  # the mean is taken off
    directions = 1 / float(many @ share**2) if drawn else math.inf
    found: Back = inverse_of_squares(directions, units) * (merge @ kept @ split)
    return found


@functools.lru_cache(1024)
def inverse_of_squares(n: float, units: int, least: float = 0.0) -> float:
    """The mean of 1/(V + ε), times E[V], over so many units whose variances V are sums of n squares
    each, ``least`` being ε/E[V]: what it typically is.

    Of one or two squares E[1/V] is infinite, and the mean over units grows with their number. It is
    that at the median places of so many draws in order (Benard's (i − 0.3)/(n + 0.4)): within a
    fifth of the median of what is drawn, for any n and number of units.
    """
    from scipy.special import gammaincinv

    if math.isinf(n):
        return 1.0
    places = (np.arange(1, units + 1) - 0.3) / (units + 0.4)
    return float(np.mean(1 / (gammaincinv(n / 2, places) * 2 / n + least)))


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
    return Root(node.id, terms, f.scale * root.shift + f.shift, moments, (root, f.scale))


def _fresh_like(node: Node, x: State, moments: Moments, phrase: str) -> State:
    """A variable of its own, of x's distribution moved and stretched."""
    stretch = math.sqrt(moments.variance / x.moments.variance) if not x.constant else 0.0

    def normed(v: FloatArray) -> FloatArray:
        return (v - x.moments.mean) * stretch + moments.mean

    values = None if x.gaussian else normed(x.values)
    made = Operation((phrase, node.facts["positions"]), normed), (x,)
    return fresh(node.id, moments, (x,), phrase, values=values, made=made, aligned=x.aligned)


# --- means, maxima and attention ---


def mean(
    node: Node,
    x: State,
    *,
    units: int,
    positions: float,
    samples: int,
    factor: float = 1.0,
    alone: bool = False,
) -> Step:
    """Of n positions q → c + (q − c)/n, and of units and samples likewise; then ·factor.

    Of many units it is a number: that is what norms written out divide by. Not so where it is
    ``alone``, a signal that meets none of the units again, or where its mean is about 0.
    """
    m = x.moments
    little = m.variance <= STRAYS * units * m.mean**2 and not alone
    if units >= MANY and positions == samples == 1 and little:
        return Step(number(node, factor * m.mean, (x,)))
    after = node.positions
    before = round(after * node.input_sizes[0] / (node.size * units * samples))
    mixing = Mixing.average(positions, after, before)
    square, (q, c, s, both) = m.mean**2, _mixed(m, mixing).products
    q, c = s + (q - s) / samples, both + (c - both) / samples
    products = (square + (part - square) / units for part in (q, c, s, both))
    moments = Moments(m.mean, *products).scaled(factor)
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
    state = _sum_of(node, x, moments, factor / n if n < MANY else 0.0)
    state = replace(state, noise=x.noise, note=joined(x.note, note), phrase=phrase)
    down = (factor / (units * samples)) ** 2 * _sent_back(mixing)
    return Step(state, (down + from_to(ww=1.0),))


def _mixed(m: Moments, mixing: Mixing) -> Moments:
    """Of two positions a map makes squares·q + rest·c, of which the first part counts the inputs
    that both meet."""
    (same, rest), (meet, apart) = mixing.one, mixing.two
    q, c, s, both = m.products
    products = same * q + rest * c, meet * q + apart * c, same * s + rest * both
    mean = m.mean * mixing.whole / mixing.outputs
    return Moments(mean, *products, meet * s + apart * both)


def _sent_back(mixing: Mixing) -> Back:
    """Gradients go back by the transpose."""
    (gg, hg), (gh, hh) = mixing.back.one, mixing.back.two
    return from_to(gg=gg, hg=hg, gh=gh, hh=hh, kk=mixing.total / mixing.inputs**2)


def _sum_of(node: Node, x: State, moments: Moments, share: float, signed: bool = True) -> State:
    """A sum of x at several places, in which that at its own has a share, which counts where the
    sum meets x again; ``signed`` says that it is of one sign where x is."""
    if not share or not x.root.gaussian:
        return fresh(node.id, moments, values=_of_one_sign(x, moments) if signed else None)
    one = x.source(("function", x.function, *names_of(x.root)))
    m = x.moments
    mean = moments.mean - share * m.mean

    def rest(c: float, own: float) -> float:
        """Covariance of what is left."""
        return c - moments.mean**2 - share**2 * (own - m.mean**2) + mean**2

    others = Moments(
        mean,
        max(mean**2, rest(moments.second_moment, m.second_moment)),
        rest(moments.across_positions, m.across_positions),
        rest(moments.across_samples, m.across_samples),
        rest(moments.elsewhere, m.elsewhere),
    )
    left = Source((node.id,), others, values=_of_one_sign(x, others) if signed else None)
    root = Root(node.id, {one: share, left: 1.0}, 0.0, moments)
    return of_root(root, IDENTITY)


def _of_one_sign(x: State, moments: Moments) -> FloatArray | None:
    """The distribution of a mean of what is never negative, or never positive: a gamma
    distribution, which is that of a mean of squares, and has no part beyond 0 that a root, a
    quotient or an exponential would stumble on."""
    with np.errstate(all="ignore"):
        known = np.nan_to_num(x.function(x.root.values))
    sign = 1.0 if moments.mean > 0 else -1.0
    mean, spread = abs(moments.mean), moments.variance
    if (sign * known).min() < 0 or not mean or spread < LITTLE * mean**2:
        return None
    from scipy.special import ndtr
    from scipy.stats import gamma

    values: FloatArray = gamma.ppf(ndtr(NODES), mean**2 / spread, scale=spread / mean)
    finite = np.nan_to_num(values, posinf=float(np.nanmax(values[np.isfinite(values)])))
    return np.sort(sign * finite)


def blend(node: Node, x: State, *, mixing: Mixing, units: bool) -> Step:
    """A known linear map over positions, or units: blurring, resizing, running sums."""
    # how many units are made of one, each by a map of its own
    several = node.size * mixing.inputs / (node.input_sizes[0] * mixing.outputs)
    moments, down = _mixed(x.moments, mixing), several * _sent_back(mixing) + from_to(ww=1.0)
    if units:  # which have nothing but their mean in common
        same, rest = mixing.one
        products = (same * it + rest * x.moments.mean**2 for it in x.moments.products)
        moments, down = Moments(moments.mean, *products), back(mixing.back.one[0])
    state = _sum_of(node, x, moments, mixing.diagonal / mixing.outputs, mixing.keeps_sign)
    of = "units that may have more in common than their mean"
    note = of if units else "a mean over positions that may be more alike than a typical pair"
    return Step(replace(state, noise=x.noise, note=joined(x.note, note), phrase=x.phrase), (down,))


def deviation(node: Node, x: State, *, root: bool) -> Step:
    """The variance over many units, or its root: a number."""
    value = x.moments.variance
    return Step(number(node, math.sqrt(value) if root else value, (x,)))


def maximum(node: Node, x: State, *, positions: int, units: int = 1) -> Step:
    """The largest of n positions, which share one Gaussian and have one each of their own; on
    samples.

    Neighbours behind a convolution are no more alike than a typical pair: they have inputs in
    common, but each with another weight.
    """
    from scipy.special import ndtr, ndtri

    root, n = x.root, positions * units
    apart = n > MOST and units > MOST // 4  # of many units it is as if each had its own Gaussian
    shares = 1 if apart else units
    each = min(n, MOST) // shares
    rest = n / shares - each + 2 if n > MOST else 0  # by the largest and the smallest

    def furthest(z: FloatArray, i: int) -> FloatArray:
        """The largest and the smallest of the rest are the first two."""
        if not rest or i % each > 1:
            return z
        found: FloatArray = ndtri(ndtr(z) ** (1 / rest)) * (1 - 2 * (i % each))
        return found

    rho, across, both = (min(1.0, max(0.0, root.correlation(c))) for c in root.moments.products[1:])
    both = min(both, rho, across)
    points = normal_points(4 * MOST)

    def largest(shared: float, alike: float) -> tuple[FloatArray, FloatArray]:
        """The largest of variables of which what they share and what is their own have these
        correlations with that of the first ones, and where it is."""
        parts = zip((shared, alike), points[: 2 * MOST].reshape(2, MOST, -1), strict=True)
        others = points[2 * MOST :].reshape(2, MOST, -1)
        common, own = (
            r * first + math.sqrt(1 - r * r) * other
            for (r, first), other in zip(parts, others, strict=True)
        )
        found, at = np.full(POINTS, -np.inf), np.zeros(POINTS)
        for i in range(shares * each):
            one, other = math.sqrt(rho) * common[i if apart else i // each], math.sqrt(1 - rho)
            z = furthest(one + other * own[i], i) if apart else one + other * furthest(own[i], i)
            mixed = np.interp(z, NODES, root.values)
            with np.errstate(all="ignore"):
                values = x.function(mixed)
            at = np.where(values > found, mixed, at)
            np.maximum(found, values, out=found)
        return found, at

    y, at = largest(1.0, 1.0)
    q = float(np.mean(y * y))
    together = both / rho if rho else 0.0
    beyond = (across - both) / (1 - rho) if rho < 1 else 0.0
    pairs = (1.0, 0.0), (together, beyond), (together, 0.0)
    common = [min(q, float(np.mean(y * largest(*pair)[0]))) for pair in pairs]
    state = fresh(
        node.id,
        Moments(float(y.mean()), q, *common),
        (x,),
        f"maximum of {n} of {x.phrase}",
        "maximum pooling, on samples",
        values=on_nodes(y),
    )
    slopes = slopes_at(x.function, at)
    share = node.size / node.input_sizes[0]
    g, h = float(np.mean(slopes**2)), float(np.mean(slopes)) ** 2
    same = _largest_in_both(node.facts["positions"] * node.positions / node.input_positions[0])
    h *= share**2
    by = from_to(gg=share * g, hg=share * g * (same - 1), hh=h, kk=h, ww=1.0)
    on_node = slopes_on_nodes(x.function, root.values)
    lean = ndtr(NODES) ** (n - 1) * on_node
    profile = lean * on_node / max(1e-300, float(WEIGHTS @ (lean * on_node)))
    return Step(state, (lambda _: (by, Profiles(profile, lean)),), to_roots=True)


def _largest_in_both(meets: float) -> float:
    """How many windows have the largest element of a typical one as theirs, where so many meet an
    element: of two of n that share m it is the same in m/(2n − m) of all cases."""
    side = math.sqrt(max(1.0, meets))
    along = np.maximum(0.0, 1 - np.abs(np.arange(-int(side), int(side) + 1)) / side)
    share = np.outer(along, along)
    return float(np.sum(share / (2 - share)))
