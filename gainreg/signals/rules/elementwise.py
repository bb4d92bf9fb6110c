"""Elementwise operations: chains, sums, products, scales, dropout; what is neither is sampled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from gainreg.signals.distributions import (
    POINTS,
    at_quantiles,
    in_order,
    levels,
    mixed,
    normal_points,
    on_nodes,
)
from gainreg.signals.functions import (
    IDENTITY,
    NODES,
    RECIPROCAL,
    WEIGHTS,
    FloatArray,
    Function,
    Operation,
    combine,
    compose,
    describe,
)
from gainreg.signals.layout import SAMPLE, count
from gainreg.signals.relations import covariances, met, opened, related, terms_of
from gainreg.signals.rules.step import (
    ANY,
    PRODUCT,
    Back,
    Factor,
    Profiles,
    Step,
    along,
    back,
    from_to,
    number,
    part,
    passed_in_common,
)
from gainreg.signals.state import Moments, Root, Source, State, fresh, of_root
from gainreg.signals.tape import Node

# What a gradient by something with several functions of one signal in a sum is.
RETURNING = "gradients that come back to one signal by several functions of it"

# So far, in standard deviations, something is moved for the slope of what is made of it.
STEP = 1e-5

# Samples are brought together in so many groups by a variable's value, for what depends on it: 64
# samples each.
GROUPS = 64

# E[1/y²]·E[|y|]² of a divisor that counts as one number: 4.5 for a mean of six squares, infinite
# for one of four.
NEARLY_ZERO = 4.0


def elementwise(node: Node, *states: State, operation: Operation) -> Step:
    """m, q by the moments, c by E[φ(u)φ(v)]; functions of one root are one function of it."""
    varying = [state for state in states if not state.constant]
    if not varying:
        values = [np.array([state.moments.mean]) for state in states]
        with np.errstate(all="ignore"):
            m = float(np.asarray(operation.call(*values)).ravel()[0])
        return Step(number(node, m, states))
    if all(same(state.root, varying[0].root) for state in varying):
        functions = [
            Function(0.0, state.moments.mean) if state.constant else state.function
            for state in states
        ]
        f = compose(operation, functions)
        return Step(_of(varying[0].root, f, varying))
    return sampled(node, *states, operation=operation)


def same(a: Root, b: Root) -> bool:
    """Whether two roots are one variable."""
    return a is b or (a.shift == b.shift and a.terms == b.terms)


def _of(root: Root, f: Function, like: Sequence[State]) -> State:
    """The state of f of a root, its noise damped by the slope of its variance."""
    phrase = like[0].phrase
    if f.core is not None:
        phrase = f"{describe(f)} at std {root.std * abs(f.inner):.3g}"
    state = of_root(root, f, like, phrase)
    before = like[0].profile.growth
    if f.core is not None and before > 1e-9:
        state = replace(state, noise=state.noise * min(4.0, (state.profile.growth / before) ** 2))
    return state


def add(node: Node, *states: State, factors: Sequence[float], shift: float = 0.0) -> Step:
    """Σ factor·x + shift: of linear images as linear combinations, else Σq + 2·Σm·m′."""
    varying = [(s, k) for s, k in zip(states, factors, strict=True) if not s.constant]
    shift += math.fsum(
        k * s.moments.mean for s, k in zip(states, factors, strict=True) if s.constant
    )
    if not varying:  # gradients go on to the weights behind what is 0 now
        down = (
            _spread_out(node, i, s, k**2, k**2, k**2, 0.0)
            for i, (s, k) in enumerate(zip(states, factors, strict=True))
        )
        return Step(number(node, shift, states), tuple(down))
    alike, root = [s for s, _ in varying], varying[0][0].root
    if all(same(s.root, root) for s in alike):
        f = combine([s.function for s in alike], [k for _, k in varying]).scaled(1.0, shift)
        state = _of(root, f, alike)
        return Step(state if len(alike) > 1 else replace(state, phrase=alike[0].phrase))
    if opened(alike)[1]:
        return sampled(node, *alike, operation=_sum(tuple(k for _, k in varying), shift))
    terms: dict[Source, float] = {}
    for state, k in varying:
        if state.function.core is None:
            shift += k * (state.function.scale * state.root.shift + state.function.shift)
        for source, factor in terms_of(state).items():
            terms[source] = terms.get(source, 0.0) + k * factor
    start = _longest(varying, terms)
    first = start[0].terms if start else ()
    terms = {source: terms[source] for source in (*first, *terms) if terms[source]}
    m = _of_terms(terms, shift)
    copied = math.fsum(
        k**2
        * (
            s.moments.copied(node.input_positions[i], node.positions).across_positions
            - s.moments.across_positions
        )
        for i, (s, k) in enumerate(zip(states, factors, strict=True))
    )
    m = replace(m, across_positions=m.across_positions + copied)
    total = math.fsum(k**2 * s.q for s, k in varying)
    noise = math.fsum((k**2 * s.q / total) ** 2 * s.noise for s, k in varying) if total else 0.0
    root = Root(node.id, terms, shift, m, start)
    state = of_root(root, IDENTITY, alike, "a sum")
    returned = _returning(states, factors)
    return Step(
        replace(state, noise=noise),
        tuple(
            _added(node, i, s, k, root, more)
            for i, (s, k, more) in enumerate(zip(states, factors, returned, strict=True))
        ),
        note="" if set(returned) == {1.0} else RETURNING,
    )


def _returning(states: Sequence[State], factors: Sequence[float]) -> list[float]:
    """How many times as large the mean square of a gradient by each of the functions of Gaussians
    that are added counts as, so that what comes back to the sources they have in common by all of
    them is that of one gradient: of slopes f′ and g′ by a source, E[(f′ + g′)²]."""
    curved = [i for i, s in enumerate(states) if s.function.core is not None and s.root.gaussian]
    sources = list(dict.fromkeys(s for i in curved for s in states[i].root.terms))
    ways = np.array([[states[i].root.terms.get(s, 0.0) for s in sources] for i in curved])
    met = [1.0] * len(states)
    if len(curved) < 2 or (np.count_nonzero(ways, 0) < 2).all():
        return met
    both = np.zeros((len(curved), len(curved)))  # E[f′·g′], by the derivative of E[f·g] by ρ
    sizes = [s.moments.variance for s in sources]
    for a, i in enumerate(curved):
        for b, j in enumerate(curved):
            p, q = states[i], states[j]
            std = p.root.std * q.root.std
            rho = min(1.0, max(-1.0, float(np.sum(ways[a] * ways[b] * sizes)) / std))
            orders = np.arange(1, len(p.profile.orders))
            slope = float(
                p.profile.orders[1:] * q.profile.orders[1:] @ (orders * rho ** (orders - 1))
            )
            both[a, b] = factors[i] * factors[j] * (slope / std if a != b else p.profile.slope)
    from scipy.optimize import nnls

    apart = ways**2 * np.diag(both)[:, None]
    wanted = np.einsum("as,bs,ab->s", ways, ways, both)
    scale = apart.sum(0)
    for i, more in zip(curved, nnls((apart / scale).T, wanted / scale)[0], strict=True):
        met[i] = float(more)
    return met


def _longest(
    parts: Sequence[tuple[State, float]], terms: dict[Source, float]
) -> tuple[Root, float] | None:
    """The stream among what is added, with its factor: what has most of the sources, none of which
    another part has too."""
    lines = [(s.root, k * s.function.scale) for s, k in parts if s.function.core is None]
    if not lines:
        return None
    root, factor = max(lines, key=lambda line: len(line[0].terms))
    alone = all(terms.get(source) == k * factor for source, k in root.terms.items())
    return (root, factor) if alone else None


def _added(node: Node, i: int, x: State, k: float, made: Root, more: float) -> Factor:
    due = min(1.0, k**2 * part(x.moments.variance, made.moments.variance))
    return along(_spread_out(node, i, x, more * k**2, k**2, k**2, due), made, x, k)


def _sum(factors: tuple[float, ...], shift: float) -> Operation:
    """The sum as an operation."""

    def call(*values: FloatArray) -> FloatArray:
        return np.asarray(sum(k * v for k, v in zip(factors, values, strict=True)) + shift)

    return Operation(("sum", factors, shift), call, "sum")


def _of_terms(terms: dict[Source, float], shift: float) -> Moments:
    items = list(terms.items())
    mean = math.fsum(k * s.moments.mean for s, k in items) + shift
    second = math.fsum(k**2 * s.moments.variance for s, k in items)
    own = [[k**2 * (c - s.moments.mean**2) for c in s.moments.products[1:]] for s, k in items]
    for a, b, c in covariances(terms):
        both = 2 * terms[a] * terms[b]
        second += both * c
        if met(a, b):  # any two positions have it, of one sample or of two
            others = (a.moments.across_positions, *2 * (a.moments.elsewhere,))
            own.append([both * (other - a.moments.mean**2) for other in others])
    square = mean**2
    second = max(0.0, second)
    return Moments(
        mean, second + square, *(math.fsum(it) + square for it in zip(*own, strict=True))
    )


def multiply(node: Node, a: State, b: State) -> Step:
    """Of independent signals m·m′, q·q′, c·c′; the gradient by one is the other's q."""
    a, b = _divisor(node, a), _divisor(node, b)
    if a.constant and b.constant:
        return Step(number(node, a.moments.mean * b.moments.mean, (a, b)))
    if a.constant or b.constant:
        x, k = (b, a.moments.mean) if a.constant else (a, b.moments.mean)
        state = of_root(x.root, x.function.scaled(k), (x,), x.phrase)
        return Step(state)
    if same(a.root, b.root):
        return elementwise(node, a, b, operation=PRODUCT)
    if related(a, b):
        return sampled(node, a, b, operation=PRODUCT)
    m, n = (
        x.moments.copied(before, node.positions)
        for x, before in zip((a, b), node.input_positions, strict=True)
    )
    both = zip(m.products, n.products, strict=True)
    moments = Moments(m.mean * n.mean, *(one * other for one, other in both))
    values = np.multiply.outer(at_quantiles(a.values), at_quantiles(b.values))
    one = [n == 1 < node.positions for n in node.input_positions]
    state = fresh(
        node.id,
        moments,
        (a, b),
        f"product of {a.phrase} and {b.phrase}",
        values=on_nodes(values),
        gated=((b, a) if one[0] else (a, b)) if any(one) else None,
    )
    state = replace(state, noise=a.noise + b.noise)
    down = (_met(node, i, x, by, state) for i, (x, by) in enumerate(((a, b), (b, a))))
    return Step(state, tuple(down))


def of_units(node: Node, x: State, weight: State, like: State) -> State:
    """What a number for each unit makes of a signal: the same at all its positions and in all
    samples, so that the unit meets what else is made of the signal again."""
    values = on_nodes(np.multiply.outer(at_quantiles(x.values), at_quantiles(weight.values)))
    moments = x.moments.scaled(weight.moments.mean, weight.q)
    made, gated = (PRODUCT, (x, weight)), (x, weight)
    return fresh(node.id, moments, (like,), like.phrase, values=values, made=made, gated=gated)


def _met(node: Node, i: int, x: State, by: State, made: State) -> Factor:
    """Through a product, to a factor that is multiplied by a signal. A gate of many positions adds
    up what the gradient and the signal have in common, wherever the gradient depends on that."""
    m = by.moments
    if node.input_positions[i] >= node.positions:
        factor = _spread_out(node, i, x, *m.products[:3])
        gated = node.input_sizes[1 - i] < node.size
        return along(factor, made.root, x) if gated else factor
    values = by.values
    c = made.moments.across_positions

    def down(by_made: Profiles) -> tuple[Back, Profiles]:
        given, lean = by_made
        g = m.second_moment if given is None else float(WEIGHTS @ (values**2 * given))
        if lean is None:
            return _spread_out(node, i, x, g, *m.products[1:3]), ANY
        h = passed_in_common(made.root, c, values, lean)
        return _spread_out(node, i, x, g, h, h), ANY

    return down


def _divisor(node: Node, x: State) -> State:
    """1/y for a y that may be nearly 0, as one number; anything else as it is.

    No model divides by that unless what it divides vanishes there too, as in a mean with weights
    that are signals. Taken for independent, such quotients had no size at all.
    """
    core = x.function.core
    if core is None or core.operation is not RECIPROCAL or x.constant:
        return x
    with np.errstate(all="ignore"):
        size = float(WEIGHTS @ np.abs(core.operands[0](x.function.inner * x.root.values)))
    k = x.function.scale / size
    if x.q <= NEARLY_ZERO * k**2:
        return x
    return number(node, k, (x,)).but("a quotient whose divisor may be nearly 0")


def _spread_out(
    node: Node, i: int, x: State, g: float, h: float, k: float, along: float = 1.0
) -> Back:
    """The factors of input i, x, that may be broadcast: the gradients by its copies add up.

    Their part along the output adds up whatever its size: a gate of many positions gets as much of
    what the loss gains where the sample grows as each other gate.

    Args:
        g, h, k: what the gradient's mean square and its mean products across positions and samples
            are multiplied by, for each copy.
        along: of what the loss gains where the sample grows, the share that is due to this input.
    """
    share = node.size / node.input_sizes[i]
    copies = max(1.0, node.positions / node.input_positions[i])
    gates = node.input_sizes[i] / count(node.inputs[i].layout)[SAMPLE]
    return from_to(
        gg=share * g,
        hg=share * (copies - 1) * h,
        wg=part(along**2, gates**2 * x.q) if copies > 1 else 0.0,
        hh=share * copies * h,
        kk=share * copies * k,
        ww=along**2,
    )


def scale(
    node: Node, x: State, *, mean: float, square: float, positions: float | None = None
) -> Step:
    """x·k for a parameter or constant k: q·E[k²], c·E[k²].

    ``positions`` is E[k·k′] across positions where k differs there.
    """
    if abs(square - mean**2) <= 1e-14 * square:
        return Step(of_root(x.root, x.function.scaled(mean), (x,), x.phrase))
    m = x.moments.scaled(mean, square)
    if positions is not None:
        across = positions * x.moments.across_positions
        m = replace(m, across_positions=across, elsewhere=positions * x.moments.elsewhere)
    by = math.copysign(math.sqrt(square), mean)
    values = None if x.gaussian else in_order(by * x.values)
    state = fresh(node.id, m, (x,), x.phrase, values=values, aligned=x.aligned)
    return Step(state, (along(back(square, positions), state.root, x),))


def dropout(node: Node, x: State, *, keep: float, factor: float, elements: bool = True) -> Step:
    """Each element kept with probability ``keep`` and multiplied by ``factor``: q/(1−p), c
    unchanged. ``elements`` is False where whole samples or channels are dropped."""
    if keep * factor == 1.0 and keep == 1.0:
        return Step(x)
    m, mean, square = x.moments, keep * factor, keep * factor**2
    moments = Moments(
        mean * m.mean,
        square * m.second_moment,
        (mean**2 if elements else square) * m.across_positions,
        mean**2 * m.across_samples,
        mean**2 * m.elsewhere,
    )
    values = mixed([(factor * x.values, keep), (0 * NODES, 1 - keep)])
    state = fresh(node.id, moments, (x,), x.phrase, values=values, aligned=x.aligned)
    by = back(square, mean**2 if elements else square)
    return Step(state, (along(by, state.root, x),))


def sampled(node: Node, *states: State, operation: Operation) -> Step:
    """A function of several variables, on samples of what they depend on: approximate."""
    sources, within = opened(states)
    points = normal_points(2 * max(1, len(sources)))
    first, second = points[: len(sources)], points[len(sources) :]

    def draw(
        rho: Callable[[Source, Root], float] | None = None, moved: Source | None = None
    ) -> tuple[list[FloatArray], list[FloatArray]]:
        """The states' roots and the states: anew, or of that correlation with them, or where a
        source is a little larger."""
        values: dict[Source, FloatArray] = {}
        for source, z, other in zip(sources, first, second, strict=False):
            root = Root(-1, {source: 1.0}, 0.0, source.moments)
            if rho is not None:
                r = rho(source, root)
                z = r * z + math.sqrt(max(0.0, 1 - r * r)) * other
            values[source] = np.interp(z, NODES, root.values) + STEP * root.std * (source is moved)

        def of(source: Source) -> FloatArray:
            if source in within and source not in values and source.made is not None:
                made, inner = source.made
                values[source] = np.nan_to_num(made.call(*(at(it)[1] for it in inner)))
            return values[source] if source.of is None else at(source.of)[1]

        def at(state: State) -> tuple[FloatArray, FloatArray]:
            total = np.full(POINTS, state.root.shift)
            for source, k in state.root.terms.items():
                total += k * of(source)
            return total, state.function(total)

        roots, made = zip(*map(at, states), strict=True)
        return list(roots), list(made)

    def slopes(x: list[FloatArray], i: int) -> FloatArray:
        step = STEP * (1 + np.abs(x[i]))
        moved = [v + step if j == i else v for j, v in enumerate(x)]
        rise = np.nan_to_num(operation.call(*moved)) - np.nan_to_num(operation.call(*x))
        found: FloatArray = np.nan_to_num(rise / step)
        return found

    with np.errstate(all="ignore"):
        roots, x = draw()
        y = np.nan_to_num(operation.call(*x))
        across = [
            draw(rho)[1]
            for rho in (
                lambda s, r: r.correlation(s.moments.across_positions),
                lambda s, r: r.correlation(s.moments.across_samples),
            )
        ]
        copies = [np.nan_to_num(operation.call(*other)) for other in across]
        by = [slopes(x, i) for i in range(len(x))]
        # how each state moves with each source, for what goes back to one source by two ways
        moves = np.array(
            [
                [(b - a) / STEP for a, b in zip(x, draw(moved=source)[1], strict=True)]
                for source in sources
            ]
        )
    m = Moments(
        float(y.mean()),
        float(np.mean(y * y)),
        *(float(np.mean(y * other)) for other in copies),
    )
    kind = f"{operation.name or operation.key!s:.40} of several signals"
    state = fresh(
        node.id,
        m,
        states,
        kind,
        "a function of several signals, on samples",
        values=on_nodes(y),
        made=(operation, states),
    )
    down = []
    ways = moves * by  # from each source to what is made, by each state
    apart = np.sum(ways**2, 1)
    together = np.divide(np.sum(ways, 1) ** 2, apart, out=np.ones_like(apart), where=apart > 0)
    for i, (own, values, slope) in enumerate(zip(roots, x, by, strict=True)):
        size = np.sum(moves[:, i] ** 2, 0)
        share = np.sum(moves[:, i] ** 2 * together, 0)
        square = slope**2 * np.divide(share, size, out=np.ones_like(size), where=size > 0)
        growth = float(np.mean(values * slope * y) / max(1e-300, np.mean(y * y)))
        down.append(_on_samples(node, i, states[i], state, own, y, slope, square, growth))
    return Step(state, tuple(down))


def _on_samples(
    node: Node,
    i: int,
    x: State,
    made: State,
    own: FloatArray,
    y: FloatArray,
    slope: FloatArray,
    square: FloatArray,
    growth: float,
) -> Factor:
    """The factor of one of the signals that something was made of, on samples of its root and of
    what was made: ``slope`` is that by the signal, ``square`` of a gradient what comes back by it.

    Where several of the signals are made of one variable, what comes back to that by all of them is
    one gradient, whose square is not the sum of theirs: each is taken for as much larger as it is.
    """
    order, middles = np.argsort(own), levels(POINTS)[POINTS // GROUPS // 2 :: POINTS // GROUPS]

    def by_value(of: FloatArray) -> FloatArray:
        groups = of[order].reshape(GROUPS, -1).mean(1)
        found: FloatArray = np.interp(NODES, middles, groups)
        return found

    def down(by_made: Profiles) -> tuple[Back, Profiles]:
        given, lean = by_made
        met = square if given is None else square * np.interp(y, made.root.values, given)
        leans = slope if lean is None else slope * np.interp(y, made.root.values, lean)
        g, h = max(0.0, float(met.mean())), float(np.mean(slope**2))
        profiles = Profiles(by_value(met) / g if g else None, by_value(leans))
        return _spread_out(node, i, x, g, h, h, growth), profiles

    return down
