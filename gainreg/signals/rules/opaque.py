"""What is not followed inside, as recurrent layers are: run on samples of what feeds it.

No formula says what a recursion of gates makes of a signal, least of all how far back through time
a gradient reaches. The layer itself knows: it is run on Gaussian samples that have the moments of
what feeds it, and gradients of three kinds are sent back through it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from gainreg.signals import layout as layouts
from gainreg.signals.functions import NODES, FloatArray
from gainreg.signals.layout import POSITION, SAMPLE, Layout
from gainreg.signals.rules.step import Step, back
from gainreg.signals.state import Moments, State, fresh, mean_products
from gainreg.signals.tape import Node

# The gradient by an input, from that by an output of that number.
Pull = Callable[[int, FloatArray], list[FloatArray]]

# Gradients by an output whose elements are independent, that all positions of a sample share, and
# that all samples share too.
KINDS = (
    Moments(0.0, 1.0, 0.0, 0.0),
    Moments(0.0, 1.0, 1.0, 0.0),
    Moments(0.0, 1.0, 1.0, 1.0),
)


class Ran(NamedTuple):
    """Samples of the inputs, the outputs for them, and how gradients go back."""

    inputs: list[FloatArray]
    outputs: list[FloatArray]
    pull: Pull


@dataclass(eq=False)
class Inside:
    """A step that is not followed inside, as a function.

    Attributes:
        layouts: of its inputs as they are given to it, maybe narrower than the model's.
        run: its outputs for such inputs, and how gradients by one of them go back.
    """

    layouts: tuple[Layout, ...]
    run: Callable[[list[FloatArray]], tuple[list[FloatArray], Pull]]
    last: dict[tuple[Moments, ...], Ran] = field(default_factory=dict)

    def at(self, moments: tuple[Moments, ...]) -> Ran:
        """Inputs of those moments, and what is run on them; kept until others are asked for."""
        if moments not in self.last:
            source = np.random.default_rng(0)
            pairs = zip(moments, self.layouts, strict=True)
            inputs = [drawn(m, own, source) for m, own in pairs]
            self.last.clear()
            self.last[moments] = Ran(inputs, *self.run(inputs))
        return self.last[moments]


def opaque(node: Node, *states: State, inside: Inside, output: int, own: Layout, kind: str) -> Step:
    """One output of what is not followed inside, which has the layout ``own`` there."""
    inputs, outputs, pull = inside.at(tuple(state.moments for state in states))
    y = outputs[output]
    own = layouts.fitted(own, y.shape)
    q, positions, samples, _ = mean_products(y, own)
    levels = np.linspace(0, 1, y.size)
    from scipy.special import ndtr

    state = fresh(
        node.id,
        Moments(float(y.mean()), q, positions, samples),
        states,
        kind,
        f"the output of {kind}, on samples",
        values=np.interp(ndtr(NODES), levels, np.sort(y.ravel())),
    )
    source = np.random.default_rng(1)
    found = [pull(output, drawn(gradient, own, source)) for gradient in KINDS]
    grown = pull(output, y / max(1e-300, float(np.sum(y * y))))
    factors = []
    for i, (x, taken) in enumerate(zip(inputs, inside.layouts, strict=True)):
        columns = [_gradient(gradients[i], taken) for gradients in found]
        factor = back(1.0, w=float(np.sum(grown[i] * x)) ** 2)
        factor[:3, :3] = _by_kinds(columns, layouts.count(own))
        factors.append(factor)
    return Step(state, tuple(factors), note=f"the gradient through {kind}, on samples")


def _gradient(x: FloatArray, own: Layout) -> FloatArray:
    """g, h and k of a gradient."""
    counts = layouts.count(own)
    g, h, _, k = mean_products(x, own)
    return np.array([g, h if counts[POSITION] > 1 else 0.0, k if counts[SAMPLE] > 1 else 0.0])


def _by_kinds(columns: Sequence[FloatArray], counts: dict[str, int]) -> FloatArray:
    """The factors of g, h and k: a gradient that positions share has g and h, and so on."""
    own, shared, same = columns
    h = shared - own if counts[POSITION] > 1 else np.zeros(3)
    k = same - shared if counts[SAMPLE] > 1 else np.zeros(3)
    return np.stack([own, h, k], axis=1)


# --- samples ---


def drawn(m: Moments, own: Layout, source: np.random.Generator) -> FloatArray:
    """Gaussian numbers of these moments, in that layout."""
    parts = [part for axis in own for part in axis]
    square = m.mean**2
    both = max(square, min(m.across_positions, m.across_samples))
    x = np.full([size for _, size in parts], m.mean)
    for variance, alike in (
        (both - square, (SAMPLE, POSITION)),
        (m.across_positions - both, (POSITION,)),
        (m.across_samples - both, (SAMPLE,)),
        (m.second_moment - m.across_positions - m.across_samples + both, ()),
    ):
        if variance > 0:
            shape = [1 if role in alike else size for role, size in parts]
            x = x + math.sqrt(variance) * source.standard_normal(shape)
    return x.reshape([layouts.size(axis) for axis in own])
