"""A signal's size through a plain stack, by theory, is that of real stacks."""

import math

import numpy as np
import pytest

import gainreg
from gainreg.depth import through_depth
from gainreg.errors import MomentError, ParameterError
from gainreg.frameworks import bind
from gainreg.host import host
from gainreg.resolver import known_at

WIDTH, LAYERS, DRAWS = 64, 20, 200


def real_stacks(name: str) -> np.ndarray:
    """The quantiles of the rms of the last layer over stacks of random matrices."""
    activation, gain = host().bind(name, {}), gainreg.gain(name)
    rng = np.random.default_rng(1)
    last = []
    for _ in range(DRAWS):
        x = rng.standard_normal(WIDTH)
        for _ in range(LAYERS):
            weights = rng.standard_normal((WIDTH, WIDTH)) * gain / math.sqrt(WIDTH)
            x = weights @ activation.forward(x)
        last.append(math.sqrt(np.mean(x**2)))
    return np.quantile(last, (0.1587, 0.5, 0.8413))


@pytest.mark.parametrize("name", ["relu", "gelu", "tanh", "selu"])
def test_theory_is_what_real_stacks_do(name: str) -> None:
    found = through_depth(name, width=WIDTH, layers=LAYERS)[:, -1]
    # 200 draws give a quantile to a tenth of the distance between the outer two
    tolerance = 0.15 * (math.log(found[2] / found[0]))
    assert np.log(real_stacks(name)) == pytest.approx(np.log(found), abs=tolerance + 0.02)


def test_relu_strays_by_five_over_the_width_a_layer() -> None:
    low, _, high = through_depth("relu", width=1000, layers=100)[:, -1]
    assert math.log(high / low) / 2 == pytest.approx(math.sqrt(100 * 5 / 1000) / 2, rel=0.1)


def test_it_begins_at_the_std_asked_for() -> None:
    first = through_depth("tanh", std=0.5, width=10**6, layers=1)[:, 0]
    assert first == pytest.approx([0.5] * 3, rel=2e-3)


def test_gated_and_random_activations_have_it_too() -> None:
    for name in ("glu", "rrelu", "crelu"):
        found = through_depth(name, layers=5)
        assert found.shape == (3, 6)
        assert np.isfinite(found).all()


def test_a_width_must_be_a_whole_number() -> None:
    for width in (0, 2.5, True, "256"):
        with pytest.raises(ParameterError, match=r"^width must be a whole number above 0, got "):
            through_depth("relu", width=width)  # type: ignore[arg-type]


def test_stds_without_moments_are_left_out() -> None:
    stds = [1.0, 2.0, 1e3, 1e4]  # the exponential overflows from 27 on
    assert [entry.std for entry in known_at(bind("exp", {}), stds)] == [1.0, 2.0]
    with pytest.raises(MomentError):
        known_at(bind("exp", {}), [1e3, 1e4])
