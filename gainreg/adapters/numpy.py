"""NumPy: functions that return an array of initial weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import special

from gainreg import frameworks, scaling
from gainreg.errors import ParameterError
from gainreg.params import check_choice

if TYPE_CHECKING:
    from gainreg.activation import Activation
    from gainreg.entry import GainEntry

LAYOUTS = {"in_out": scaling.Kind(-2, -1), "out_in": scaling.Kind(inputs=1, outputs=0)}

FRAMEWORK = frameworks.Framework(homes=(np, special), evaluate=lambda function: (function, None))


@dataclass(frozen=True)
class _Drawing:
    """An array of weights to be drawn, and the standard deviation that they are to have."""

    shape: Sequence[int]
    std: float
    rng: np.random.Generator
    dtype: DTypeLike
    fans: scaling.Fans


def _drawing(
    shape: Sequence[int],
    activation: str | Activation | GainEntry | Callable[..., Any],
    mode: str = "fan_in",
    *,
    std: float | None = 1.0,
    table: scaling.Table = None,
    layout: str = "in_out",
    rng: np.random.Generator | int | None = None,
    dtype: DTypeLike = np.float64,
    **params: float,
) -> _Drawing:
    check_choice(layout, "layout", LAYOUTS)
    if not np.dtype(dtype).name.startswith(("float", "bfloat")):
        raise ParameterError(f"weights are floating-point numbers, got dtype {dtype!r}")
    fans = scaling.fans(shape, LAYOUTS[layout])
    entry = scaling.entry_of(FRAMEWORK, activation, std, params, table)
    scale = math.sqrt(scaling.variance(entry, mode, fans.fan_in, fans.fan_out))
    return _Drawing(shape, scale, np.random.default_rng(rng), dtype, fans)


@scaling.takes(_drawing)
def normal(drawing: _Drawing) -> NDArray[Any]:
    """Weights from a normal distribution of mean 0.

    Args:
        shape: two axes or more. Those that ``layout`` does not name are a convolution's receptive
            field, and multiply both fans.
        activation: the one whose output feeds the weights, as for all adapters; NumPy's and
            SciPy's own functions, such as ``np.tanh``, are known by name.
        mode, std, table, params: as for all adapters; see ``help(gainreg.adapters)``, which says
            what is raised too.
        layout: "in_out" for weights used as ``x @ w``, whose last two axes are (in, out), as in
            Keras and JAX; "out_in" for ``w @ x``, whose first two are (out, in), as in PyTorch.
        rng: a ``numpy.random.Generator`` or a seed.
        dtype: of the array returned.
    """
    return drawing.rng.normal(0.0, drawing.std, drawing.shape).astype(drawing.dtype)


@scaling.takes(_drawing)
def uniform(drawing: _Drawing) -> NDArray[Any]:
    """Weights from a uniform distribution; see normal."""
    bound = math.sqrt(3) * drawing.std
    return drawing.rng.uniform(-bound, bound, drawing.shape).astype(drawing.dtype)


@scaling.takes(_drawing)
def truncated_normal(drawing: _Drawing) -> NDArray[Any]:
    """Weights from a normal distribution cut off at twice its std; see normal."""
    inside = drawing.rng.uniform(special.ndtr(-2.0), special.ndtr(2.0), drawing.shape)
    wide = drawing.std / scaling.TRUNCATED_STD
    return (wide * special.ndtri(inside)).astype(drawing.dtype)


@scaling.takes(_drawing)
def orthogonal(drawing: _Drawing) -> NDArray[Any]:
    """A random semi-orthogonal matrix; see normal. Uniform by the sign correction of Mezzadri 2007,
    math-ph/0609050."""
    _, rows, columns = drawing.fans.matrix
    q, r = np.linalg.qr(drawing.rng.normal(size=(max(rows, columns), min(rows, columns))))
    q *= scaling.orthogonal_scale(drawing.std, rows, columns) * np.sign(np.diag(r))
    matrix = q if rows > columns else q.T
    weights = matrix.reshape(drawing.fans.unfolded).transpose(drawing.fans.places)
    return weights.astype(drawing.dtype)
