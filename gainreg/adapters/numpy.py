"""NumPy: functions that return an array of initial weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import special

from gainreg import scaling
from gainreg.errors import ParameterError

if TYPE_CHECKING:
    from gainreg.activation import Activation
    from gainreg.entry import GainEntry

LAYOUTS = {"in_out": (-2, -1), "out_in": (1, 0)}  # the axes of inputs and outputs


def normal(
    shape: Sequence[int],
    activation: str | Activation | GainEntry | Callable[..., Any],
    mode: str = "fan_in",
    *,
    std: float = 1.0,
    table: scaling.Table = None,
    layout: str = "in_out",
    rng: np.random.Generator | int | None = None,
    dtype: DTypeLike = np.float64,
    **params: float,
) -> NDArray[Any]:
    """Weights from a normal distribution of mean 0.

    Args:
        shape: two axes or more. Those that ``layout`` does not name are a convolution's receptive
            field, and multiply both fans.
        activation: the one whose output feeds the weights ("identity" for data): a name, a
            ``gainreg.Activation``, a ``GainEntry``, a function of NumPy or SciPy such as
            ``np.tanh``, a ``functools.partial`` of one, or any vectorised callable.
        mode: "fan_in" keeps the forward variance, "fan_out" the gradient variance, "fan_avg"
            makes the compromise of Glorot and Bengio (2010).
        std: standard deviation of the pre-activation, not its variance.
        table: a ``GainTable`` or its path: every constant comes from there.
        layout: "in_out" for weights used as ``x @ w``, whose last two axes are (in, out), as in
            Keras and JAX; "out_in" for ``w @ x``, whose first two are (out, in), as in PyTorch.
        rng: a ``numpy.random.Generator`` or a seed.
        dtype: of the array returned.
        **params: the activation's parameters, where they differ from the defaults.

    Raises:
        ParameterError: a shape, mode, layout, param or std is not what it must be.
        MomentError: the gain does not exist, as "fan_out" where φ jumps.
        TableError: ``table`` lacks the entry.
        UnknownActivationError, PluginError: as ``gainreg.resolve``.
    """
    scale, _ = _weight_std(shape, activation, mode, std, table, layout, dtype, params)
    return np.random.default_rng(rng).normal(0.0, scale, shape).astype(dtype)


def uniform(
    shape: Sequence[int],
    activation: str | Activation | GainEntry | Callable[..., Any],
    mode: str = "fan_in",
    *,
    std: float = 1.0,
    table: scaling.Table = None,
    layout: str = "in_out",
    rng: np.random.Generator | int | None = None,
    dtype: DTypeLike = np.float64,
    **params: float,
) -> NDArray[Any]:
    """Weights from a uniform distribution on (−√3·s, √3·s) of standard deviation s; see normal."""
    scale, _ = _weight_std(shape, activation, mode, std, table, layout, dtype, params)
    bound = scaling.uniform_bound(scale)
    return np.random.default_rng(rng).uniform(-bound, bound, shape).astype(dtype)


def truncated_normal(
    shape: Sequence[int],
    activation: str | Activation | GainEntry | Callable[..., Any],
    mode: str = "fan_in",
    *,
    std: float = 1.0,
    table: scaling.Table = None,
    layout: str = "in_out",
    rng: np.random.Generator | int | None = None,
    dtype: DTypeLike = np.float64,
    **params: float,
) -> NDArray[Any]:
    """Weights from a normal distribution cut off at twice its standard deviation; see normal.

    It is widened so that what is left has the standard deviation that ``normal`` would give.
    """
    scale, _ = _weight_std(shape, activation, mode, std, table, layout, dtype, params)
    inside = np.random.default_rng(rng).uniform(special.ndtr(-2.0), special.ndtr(2.0), shape)
    return (scaling.untruncated_std(scale) * special.ndtri(inside)).astype(dtype)


def orthogonal(
    shape: Sequence[int],
    activation: str | Activation | GainEntry | Callable[..., Any],
    mode: str = "fan_in",
    *,
    std: float = 1.0,
    table: scaling.Table = None,
    layout: str = "in_out",
    rng: np.random.Generator | int | None = None,
    dtype: DTypeLike = np.float64,
    **params: float,
) -> NDArray[Any]:
    """A random semi-orthogonal matrix with the mean square that ``normal`` would give; see normal.

    The axis of outputs is one side of the matrix, all others together are the other side. Saxe et
    al. 2014, arXiv:1312.6120; uniform by the sign correction of Mezzadri 2007, math-ph/0609050.
    """
    scale, outputs = _weight_std(shape, activation, mode, std, table, layout, dtype, params)
    others = math.prod(shape) // outputs
    draw = np.random.default_rng(rng).normal(size=(max(outputs, others), min(outputs, others)))
    q, r = np.linalg.qr(draw)
    q *= np.sign(np.diag(r))
    rows, columns = (others, outputs) if layout == "in_out" else (outputs, others)
    matrix = q if rows >= columns else q.T
    factor = scaling.orthogonal_scale(scale, rows, columns)
    return (factor * matrix).reshape(shape).astype(dtype)


def _weight_std(
    shape: Sequence[int],
    activation: Any,
    mode: str,
    std: float,
    table: scaling.Table,
    layout: str,
    dtype: DTypeLike,
    params: dict[str, float],
) -> tuple[float, int]:
    """Standard deviation of the weights, and the number of output channels."""
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise ParameterError(f"layout is one of {', '.join(map(repr, LAYOUTS))}, got {layout!r}")
    if not np.dtype(dtype).name.startswith(("float", "bfloat")):
        raise ParameterError(f"weights are floating-point numbers, got dtype {dtype!r}")
    fan_in, fan_out, (*_, outputs) = scaling.fans(shape, *LAYOUTS[layout])
    entry = _NUMPY.entry(activation, std, params, table)
    return math.sqrt(scaling.variance(entry, mode, fan_in, fan_out)), shape[outputs[0]]


_NUMPY = scaling.Framework(
    functions=scaling.functions_in((np, special), scaling.READERS),
    objects={},
    wrap=lambda function: scaling.elementwise(function, function),
)
