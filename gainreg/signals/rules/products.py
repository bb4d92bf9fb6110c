"""Sums of products of two signals that give units, and no scores of keys."""

from __future__ import annotations

from gainreg.signals.rules.step import RELATED, Step, pairs
from gainreg.signals.state import Moments, State, fresh, joined
from gainreg.signals.tape import Node


def contract(
    node: Node,
    a: State,
    b: State,
    *,
    width: int,
    along: bool,
    rest: tuple[bool, bool],
    common: int | None = None,
) -> Step:
    """Σ a·b that gives units, as linear attention and cross-covariances do: of signals taken for
    independent, with what two summands have in common.

    Args:
        width: how many summands.
        along: whether these are positions, which have their c in common; units have m².
        rest: whether a, and b, have positions that are not summed over.
        common: how many units both are images of: two positions x and y that are alike, which
            E[(x·y)²] = 1/D of D units says, are so in both.
    """
    m, n = a.moments, b.moments
    found = _linear_part(a) * _linear_part(b) / common if common else 0.0

    def of(one: float, two: float) -> float:
        """A moment, from that of one summand and that of two."""
        return max(0.0, width * one + width * (width - 1.0) * two)

    def other(it: Moments, i: int) -> float:
        """What it has in common with itself where the output is at another position."""
        return it.across_positions if rest[i] else it.second_moment

    two = samples = m.mean**2 * n.mean**2
    if along:
        a_c, b_c = (max(it.across_positions, -it.second_moment / (width - 1)) for it in (m, n))
        two = a_c * b_c + found
        samples = min(a_c, m.across_samples) * min(b_c, n.across_samples)
    moments = Moments(
        width * m.mean * n.mean,
        of(m.second_moment * n.second_moment, two),
        of(other(m, 0) * other(n, 1), two),
        of(m.across_samples * n.across_samples, samples),
    )
    state = fresh(
        node.id, moments, a.noise + b.noise, False, joined(a.note, b.note, RELATED),
        f"product of {a.phrase} and {b.phrase}",
    )  # fmt: skip
    factors = []
    for i, by in enumerate((n, m)):
        meets = node.size * width / node.input_sizes[i]
        if along:  # all of its positions meet the same outputs
            factors.append(
                pairs(
                    meets * by.second_moment, common=meets * by.across_positions, h=0.0,
                    k=meets * by.across_samples,
                )
            )  # fmt: skip
            continue
        copies = meets if rest[1 - i] and not rest[i] else 1.0  # it is the same at all positions
        units = meets / copies
        c = by.across_positions if rest[1 - i] else by.second_moment
        factors.append(
            pairs(
                meets * by.second_moment,
                added=units * copies * (copies - 1) * c,
                h=units * copies**2 * c,
                k=units * copies**2 * by.across_samples,
            )
        )
    return Step(state, tuple(factors))


def _linear_part(x: State) -> float:
    """What of a second moment is linear in the Gaussian that x is a function of."""
    return float(x.profile.orders[1] ** 2)
