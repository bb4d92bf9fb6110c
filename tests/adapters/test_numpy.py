"""The NumPy adapter."""

from typing import Any

import numpy as np
import pytest

import gainreg
from gainreg.adapters import numpy as init


@pytest.mark.parametrize(
    ("layout", "shape"), [("in_out", (3, 3, 40, 80)), ("out_in", (80, 40, 3, 3))]
)
@pytest.mark.parametrize("draw", [init.normal, init.orthogonal])
def test_the_layout_says_which_axes_are_the_fans(
    layout: str, shape: tuple[int, ...], draw: Any
) -> None:
    weights = draw(shape, "relu", layout=layout, rng=0)
    assert weights.shape == shape
    assert weights.std() == pytest.approx((2 / 360) ** 0.5, rel=0.02)
    weights = draw(shape, "relu", "fan_out", layout=layout, rng=0)
    assert weights.std() == pytest.approx((2 / 720) ** 0.5, rel=0.02)


def test_another_layout_is_refused() -> None:
    with pytest.raises(gainreg.ParameterError, match="layout is one of"):
        init.normal((2, 3), "relu", layout="channels")


def test_the_dtype_and_the_seed_are_those_asked_for() -> None:
    first = init.uniform((2, 3), "relu", rng=7, dtype=np.float32)
    assert first.dtype == np.float32
    again = init.uniform((2, 3), "relu", rng=np.random.default_rng(7), dtype=np.float32)
    np.testing.assert_array_equal(first, again)


def test_functions_of_numpy_are_known_by_name_and_others_are_resolved(table: Any) -> None:
    known = init.normal((4, 4), np.tanh, rng=0, table=table)
    np.testing.assert_allclose(known, init.normal((4, 4), "tanh", rng=0), rtol=1e-13)
    live = init.normal((4, 4), lambda x: np.tanh(x), rng=0)
    np.testing.assert_allclose(live, known, rtol=1e-12)
