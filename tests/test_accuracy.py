"""Every digit: all moments against 20-digit references, by each method, with an honest error."""

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
from mpmath import mpf

import gainreg
from gainreg import GainEntry, MomentError

REFERENCE = Path(__file__).parent / "reference"
ROWS = [
    row
    for name in ("moments.json", "wide.json")
    for row in json.loads((REFERENCE / name).read_text())
]
IN_RANGE = [row for row in ROWS if float(row["second_moment"]) >= np.finfo(float).tiny]
NAMES = sorted({row["activation"] for row in ROWS})
OSCILLATING_OR_STEEP = ("sin", "cos", "snake", "exp")  # beyond quadrature from std 4 on

each_name = pytest.mark.parametrize("name", NAMES)


@cache
def found(name: str, method: str = "auto") -> list[tuple[dict[str, Any], GainEntry]]:
    """The rows of an activation, and what gainreg finds by a method that applies to them."""
    pairs = []
    rows = [row for row in IN_RANGE if row["activation"] == name]
    if method == "quadrature" and name in OSCILLATING_OR_STEEP:
        rows = [row for row in rows if row["std"] < 4]
    for params in {json.dumps(row["params"]): row["params"] for row in rows}.values():
        same = [row for row in rows if row["params"] == params]
        curve = gainreg.curve(name, [row["std"] for row in same], method=method, **params)
        pairs += zip(same, curve, strict=True)
    return pairs


def deviations(entry: GainEntry, row: dict[str, Any]) -> dict[str, float]:
    """How far off each moment is: relative, or in units of √second_moment or of 1."""
    true = {
        key: mpf(value)
        for key, value in row.items()
        if isinstance(value, str) and key != "activation"
    }
    off = {
        "second_moment": abs(entry.second_moment / true["second_moment"] - 1),
        "mean": abs(entry.mean - true["mean"]) / true["second_moment"] ** 0.5,
        "variance_slope": abs(entry.variance_slope - true["variance_slope"])
        / max(1, abs(true["variance_slope"])),
    }
    slope = true.get("derivative_second_moment")
    if slope is not None and slope > np.finfo(float).tiny:
        assert entry.derivative_second_moment is not None
        off["derivative_second_moment"] = abs(entry.derivative_second_moment / slope - 1)
    return {key: float(value) for key, value in off.items()}


@each_name
@pytest.mark.parametrize("method", ["auto", "quadrature"])
def test_all_moments_are_exact(name: str, method: str) -> None:
    for row, entry in found(name, method):
        for moment, off in deviations(entry, row).items():
            assert off <= 1e-13, f"{moment} of {name} {row['params']} at std {row['std']}"


@each_name
def test_where_phi_jumps_there_is_no_second_moment_of_its_derivative(name: str) -> None:
    for row, entry in found(name):
        jumps = row["derivative_second_moment"] is None
        assert (entry.derivative_second_moment is None) == jumps


@each_name
def test_the_error_claimed_is_not_below_the_true_error_nor_far_above(name: str) -> None:
    for row, entry in found(name):
        true_error = float(abs(mpf(row["second_moment"]) - entry.second_moment))
        where = f"{name} {row['params']} at std {row['std']}"
        assert entry.error >= true_error - 4 * math.ulp(entry.second_moment), where
        if true_error > 1e-15 * entry.second_moment:
            assert entry.error <= 1000 * true_error, where


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row not in IN_RANGE],
    ids=lambda row: f"{row['activation']}-{row['std']}",
)
def test_a_second_moment_that_underflows_is_an_error(row: dict[str, Any]) -> None:
    with pytest.raises(MomentError, match="underflows"):
        gainreg.resolve(row["activation"], row["std"], **row["params"])


def test_some_rows_underflow() -> None:
    assert len(IN_RANGE) < len(ROWS)


@pytest.mark.parametrize(("name", "std"), [("exp", 20.0), ("exp", 1e6)])
def test_a_second_moment_that_overflows_is_an_error(name: str, std: float) -> None:
    with pytest.raises(MomentError, match="overflows"):
        gainreg.resolve(name, std)


@pytest.mark.parametrize(
    "name",
    [
        *("relu", "leaky_relu", "prelu", "relu6", "relu_squared", "star_relu", "abs", "square"),
        *("identity", "elu", "celu", "selu", "xielu", "exp", "gelu", "hardswish", "hardsigmoid"),
        *("hardtanh", "erf", "sparse_sigmoid", "sparse_plus", "softshrink"),
        *("sin", "cos", "snake", "gaussian"),
    ],
)
@pytest.mark.parametrize("std", [0.9, 1.7])
def test_closed_form_and_quadrature_agree(name: str, std: float) -> None:
    closed = gainreg.resolve(name, std, method="analytic")
    summed = gainreg.resolve(name, std, method="quadrature")
    assert closed.method == "analytic"
    assert closed.second_moment == pytest.approx(summed.second_moment, rel=2e-14)
    assert closed.variance_slope == pytest.approx(summed.variance_slope, rel=1e-13, abs=1e-13)
    assert closed.derivative_second_moment == pytest.approx(
        summed.derivative_second_moment, rel=2e-14
    )
    assert closed.mean == pytest.approx(summed.mean, abs=2e-14 * closed.second_moment**0.5)


@pytest.mark.parametrize("ratio", [16.83, 26.32, 34.03])
def test_the_error_claimed_covers_the_rounding_of_x_beside_a_kink_far_out(ratio: float) -> None:
    for lambd in np.linspace(0.3, 2, 12):
        std = float(lambd) / ratio
        entry = gainreg.resolve("softshrink", std, method="quadrature", lambd=float(lambd))
        with mpmath.workdps(40):
            place, spread = mpf(float(lambd)), mpf(std)
            tail, density = mpmath.ncdf(-place / spread), mpmath.npdf(place / spread)
            true = 2 * ((spread**2 + place**2) * tail - place * spread * density)
            assert abs(entry.second_moment - true) <= entry.error
