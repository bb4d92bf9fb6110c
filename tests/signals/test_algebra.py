"""Laws of the algebra of signals, without any framework: a tape is written by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gainreg.signals.flow import Flow
from gainreg.signals.functions import Operation
from gainreg.signals.layout import UNIT
from gainreg.signals.state import Moments, State
from gainreg.signals.tape import Node, Tape

NUMBERS = st.floats(-3, 3).filter(lambda k: abs(k) > 1e-3)
STDS = st.floats(0.1, 3)
LAYOUT = (((UNIT, 64),),)
BENT = Operation("bent", lambda x: x * np.tanh(x) + 0.2)
HALF = Operation("half", lambda x: np.maximum(x, 0.0), "relu")


class Written:
    """A tape in the making."""

    def __init__(self) -> None:
        self.tape = Tape()

    def signal(self, std: float, common: float = 0.3) -> Node:
        q = std**2
        moments = Moments(0.0, q, common * q, common * q / 2)
        return self.tape.record("given", (), LAYOUT, moments=moments, phrase="data")

    def sum(self, *terms: tuple[float, Node]) -> Node:
        factors = [k for k, _ in terms]
        return self.tape.record("add", [node for _, node in terms], LAYOUT, factors=factors)

    def function(self, operation: Operation, node: Node) -> Node:
        return self.tape.record("elementwise", [node], LAYOUT, operation=operation)

    def product(self, a: Node, b: Node) -> Node:
        return self.tape.record("multiply", [a, b], LAYOUT)

    def states(self, *nodes: Node) -> list[State]:
        self.tape.outputs = list(nodes)
        flow = Flow(self.tape, None)
        return [flow.states[node] for node in nodes]


def numbers(state: State) -> tuple[float, ...]:
    m = state.moments
    return m.mean, m.second_moment, m.across_positions, m.across_samples


def alike(*states: State) -> bool:
    first, *others = map(numbers, states)
    return all(other == pytest.approx(first, rel=1e-6, abs=1e-9) for other in others)


@settings(deadline=None, max_examples=30)
@given(STDS, STDS, NUMBERS, NUMBERS)
def test_sums_commute_and_associate(s: float, t: float, j: float, k: float) -> None:
    w = Written()
    a, b, c = w.signal(s), w.signal(t), w.function(HALF, w.signal(1.0))
    left = w.sum((1.0, w.sum((j, a), (k, b))), (1.0, c))
    right = w.sum((1.0, w.sum((1.0, c), (k, b))), (j, a))
    assert alike(*w.states(left, right))


@settings(deadline=None, max_examples=30)
@given(STDS, NUMBERS, NUMBERS)
def test_what_is_added_and_taken_off_again_is_gone(s: float, j: float, k: float) -> None:
    w = Written()
    a, b = w.signal(s), w.signal(1.0)
    back = w.sum((1.0, w.sum((j, a), (k, b))), (-k, b))
    assert alike(*w.states(back, w.sum((j, a))))


@settings(deadline=None, max_examples=15)
@given(STDS, NUMBERS)
def test_scaling_by_k_scales_the_rms_by_k(s: float, k: float) -> None:
    w = Written()
    for node in (w.signal(s), w.function(HALF, w.signal(s))):
        plain, scaled = w.states(node, w.sum((k, node)))
        assert math.sqrt(scaled.q) == pytest.approx(abs(k) * math.sqrt(plain.q), rel=1e-12)


@settings(deadline=None, max_examples=10)
@given(STDS)
def test_a_chain_is_the_function_that_it_spells(s: float) -> None:
    w = Written()
    x = w.signal(s)
    chain = w.sum((1.0, w.product(x, w.function(Operation("tanh", np.tanh, "tanh"), x))))
    shifted = w.tape.record("add", [chain], LAYOUT, factors=(1.0,), shift=0.2)
    assert alike(*w.states(shifted, w.function(BENT, x)))


@settings(deadline=None, max_examples=20)
@given(STDS, STDS, NUMBERS)
def test_products_of_independent_signals_multiply_their_moments(
    s: float, t: float, k: float
) -> None:
    w = Written()
    a, b = w.function(HALF, w.signal(s)), w.sum((k, w.signal(t)))
    x, y, xy, yx = w.states(a, b, w.product(a, b), w.product(b, a))
    assert alike(xy, yx)
    assert numbers(xy) == pytest.approx(
        [p * q for p, q in zip(numbers(x), numbers(y), strict=True)]
    )


@pytest.mark.parametrize("rho", [0.0, 0.4, 0.9, 1.0])
def test_covariances_behind_relu_are_those_of_cho_and_saul(rho: float) -> None:
    w = Written()
    (state,) = w.states(w.function(HALF, w.signal(1.0, rho)))
    found = 2 * state.moments.across_positions
    exact = (math.sqrt(1 - rho**2) + rho * (math.pi - math.acos(rho))) / math.pi
    assert found == pytest.approx(exact, abs=1e-3)
