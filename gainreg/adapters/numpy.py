"""NumPy: functions that return an array of initial weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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

Draw = Callable[[str], NDArray[Any]]  # from a distribution to weights

FRAMEWORK = frameworks.Framework(homes=(np, special), evaluate=lambda function: (function, None))


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
) -> Draw:
    check_choice(layout, "layout", LAYOUTS)
    if not np.dtype(dtype).name.startswith(("float", "bfloat")):
        raise ParameterError(f"weights are floating-point numbers, got dtype {dtype!r}")
    fans = scaling.fans(shape, LAYOUTS[layout])
    entry = scaling.entry_of(FRAMEWORK, activation, std, params, table)
    scale = math.sqrt(scaling.variance(entry, mode, fans.fan_in, fans.fan_out))
    source = np.random.default_rng(rng)

    def draw(distribution: str) -> NDArray[Any]:
        if distribution == "normal":
            weights = source.normal(0.0, scale, shape)
        elif distribution == "uniform":
            weights = source.uniform(-math.sqrt(3) * scale, math.sqrt(3) * scale, shape)
        elif distribution == "truncated_normal":
            inside = source.uniform(special.ndtr(-2.0), special.ndtr(2.0), shape)
            weights = scale / scaling.TRUNCATED_STD * special.ndtri(inside)
        else:  # uniform by the sign correction of Mezzadri 2007, math-ph/0609050
            _, rows, columns = fans.matrix
            q, r = np.linalg.qr(source.normal(size=(max(rows, columns), min(rows, columns))))
            q *= scaling.orthogonal_scale(scale, rows, columns) * np.sign(np.diag(r))
            weights = (q if rows > columns else q.T).reshape(fans.unfolded).transpose(fans.places)
        return weights.astype(dtype)

    return draw


@scaling.takes(_drawing)
def normal(draw: Draw) -> NDArray[Any]:
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
    return draw("normal")


@scaling.takes(_drawing)
def uniform(draw: Draw) -> NDArray[Any]:
    """Weights from a uniform distribution; see normal."""
    return draw("uniform")


@scaling.takes(_drawing)
def truncated_normal(draw: Draw) -> NDArray[Any]:
    """Weights from a normal distribution cut off at twice its std; see normal."""
    return draw("truncated_normal")


@scaling.takes(_drawing)
def orthogonal(draw: Draw) -> NDArray[Any]:
    """A random semi-orthogonal matrix; see normal."""
    return draw("orthogonal")
