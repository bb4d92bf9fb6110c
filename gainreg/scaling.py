"""From a gain to weights: the law of all adapters. Imports neither numpy nor any framework."""

from __future__ import annotations

import functools
import inspect
import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from gainreg.entry import GainEntry
from gainreg.errors import MomentError, ParameterError, TableError
from gainreg.lookup import look_up
from gainreg.params import check_choice
from gainreg.table import GainTable, load_table

if TYPE_CHECKING:
    from gainreg.frameworks import Framework

    Table = GainTable | str | os.PathLike[str] | None

P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R")
Axes = int | Sequence[int]

# What initialisers keep, by the fan that counts; "forward" and "backward" are the first two, as for
# ``gainreg.gain``.
MODES = ("fan_in", "fan_out", "fan_avg", "critical", "forward", "backward")

# Standard deviation of a standard normal truncated at ±2: √(1 − 4·pdf(2)/P(|z| < 2))
TRUNCATED_STD = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))


# --- fans ---


@dataclass(frozen=True)
class Kind:
    """How a layer uses its weights.

    Attributes:
        inputs, outputs, batch: the axes of inputs, outputs and independent copies; the others are
            a convolution's receptive field.
        transposed: of a transposed convolution, whose strides spread its inputs apart.
        inputs_whole: of a grouped convolution, whose axis of inputs counts the channels of all
            groups; otherwise its axis of outputs does.
        strides: of a convolution: one for all axes of its receptive field, or one for each.
        groups: of a convolution.
    """

    inputs: Axes = -2
    outputs: Axes = -1
    batch: Axes = ()
    transposed: bool = False
    inputs_whole: bool = False
    strides: Axes = 1
    groups: int = 1


@dataclass(frozen=True)
class Fans:
    """How many inputs reach an output and outputs an input, and how weights are matrices.

    Attributes:
        fan_in, fan_out: in the mean over positions where there are strides.
        matrix: how many independent copies, rows and columns (outputs).
        unfolded, places: a matrix, reshaped to the former, has its axes transposed by the latter to
            be the weights.
    """

    fan_in: float
    fan_out: float
    matrix: tuple[int, int, int]
    unfolded: list[int]
    places: list[int]


def fans(shape: Any, kind: Kind) -> Fans:
    """The fans of weights of that shape in a layer of that kind.

    A strided convolution reaches 1/∏strides of the outputs from each input, and a transposed one
    sums over 1/∏strides of the inputs for each output. What padding takes away is not counted.

    Raises:
        ParameterError: the shape is none, lacks an axis or has no elements, or the strides or
            groups do not fit.
    """
    try:
        sizes = [operator.index(size) for size in shape]
        axes = range(len(sizes))
        batch, inputs, outputs = (
            [axes[axis] for axis in ([some] if hasattr(some, "__index__") else some)]
            for some in (kind.batch, kind.inputs, kind.outputs)
        )
        named = [*batch, *inputs, *outputs]
        if len(set(named)) < len(named):
            raise IndexError
    except TypeError:
        raise ParameterError(f"a shape is a tuple of whole numbers, got {shape!r}") from None
    except IndexError:
        raise ParameterError(
            f"weights need two axes, one in and one out, got shape {tuple(sizes)} for the axes "
            f"in {kind.inputs}, out {kind.outputs}"
        ) from None
    if min(sizes) < 1:
        raise ParameterError(f"weights need elements, got shape {tuple(sizes)}")
    field = [axis for axis in axes if axis not in named]
    strides, groups = kind.strides, kind.groups
    steps = [strides] * len(field) if isinstance(strides, int) else list(strides)
    if len(steps) != len(field) or not all(isinstance(n, int) and n > 0 for n in steps):
        raise ParameterError(f"strides are whole numbers, one an axis of {field}, got {strides!r}")
    copies, taps, channels_in, channels_out = (
        math.prod(sizes[axis] for axis in some) for some in (batch, field, inputs, outputs)
    )
    whole = channels_in if kind.inputs_whole else channels_out
    if not isinstance(groups, int) or groups < 1 or whole % groups:
        raise ParameterError(f"groups must divide the {whole} channels, got {groups!r}")
    # strides and groups each make one of the fans smaller than the axes say
    reach = math.prod(steps)
    order = [*batch, *field, *inputs, *outputs]
    less_in = (reach if kind.transposed else 1) * (groups if kind.inputs_whole else 1)
    return Fans(
        fan_in=taps * channels_in / less_in,
        fan_out=taps * channels_out / (reach * groups // less_in),
        matrix=(copies, taps * channels_in, channels_out),
        unfolded=[sizes[axis] for axis in order],
        places=[order.index(axis) for axis in axes],
    )


# --- the variance of weights ---


def entry_of(
    framework: Framework,
    activation: Any,
    std: float | None,
    params: Mapping[str, Any],
    table: Table = None,
) -> GainEntry:
    """The entry of an activation as an adapter is given it, and what is raised: see
    gainreg.adapters. A std of None is that of the critical point, or 1 where every std is critical
    or none but 0 (Roberts, Yaida and Hanin 2022, ch. 5)."""
    if isinstance(activation, GainEntry):
        if params or table is not None or std not in (None, 1.0, activation.std):
            raise ParameterError(
                "a GainEntry has its std, params and constants already; give it alone"
            )
        return activation
    found, params = framework.understood(activation, params)
    if table is not None:
        if std is None:
            raise ParameterError("a table does not say which std is critical; give it as std=…")
        if not isinstance(found, str) and found is not activation:
            raise TableError(
                f"a table knows activations by name, and {activation!r} has none; "
                "pass a name, or leave table= out"
            )
        name = found if isinstance(found, str) else found.name
        whole = table if isinstance(table, GainTable) else load_table(table)
        return whole.lookup(name, std, **params)
    if std is None:
        from gainreg.criticality import critical

        point = critical(found, **params)
        if point.std is None:
            raise ParameterError(
                f"{point.activation!r} has no critical point: give the std of the pre-activations "
                "as std=…, or keep one variance only, by mode"
            )
        std = point.std or 1.0  # 0 is a limit: no pre-activations have it
    return look_up(found, std, params)


def variance(entry: GainEntry, mode: str, fan_in: float, fan_out: float) -> float:
    """Variance of the weights that the activation of an entry feeds.

    Args:
        entry: of that activation.
        mode: what to keep, as gainreg.adapters explains: "fan_in" or "forward" (He et al. 2015,
            arXiv:1502.01852, eq. 10), "fan_out" or "backward" (eq. 14), "fan_avg" or "critical".
        fan_in, fan_out: how many inputs an output sums over, how many outputs an input goes to.

    Raises:
        ParameterError: another mode, or a fan that is not above 0.
        MomentError: the gain does not exist, as "fan_out" where φ jumps.
    """
    check_choice(mode, "mode", MODES)
    if not (0 < fan_in < math.inf and 0 < fan_out < math.inf):
        raise ParameterError(f"fans must be above 0, got fan_in {fan_in}, fan_out {fan_out}")
    if mode in ("fan_in", "forward"):
        return float(entry.gain) ** 2 / fan_in
    backward = float(entry.backward_gain) ** 2
    if mode in ("fan_out", "backward"):
        return backward / fan_out
    if mode == "critical":
        bias_std(entry, mode)  # refuses what has none
        return entry.width * backward / fan_in
    return 2 / (fan_in / float(entry.gain) ** 2 + fan_out / backward)


def bias_std(entry: GainEntry, mode: str, has_bias: bool = True) -> float:
    """Standard deviation of the biases beside such weights: 0 but for the mode "critical".

    Raises:
        MomentError: no biases make the weights of that mode keep the variance.
        ParameterError: the layer needs biases and has none.
    """
    if mode != "critical":
        return 0.0
    if entry.critical_bias_std is None:
        raise MomentError(
            f"{entry.activation!r} at std = {entry.std:.6g} has no critical initialisation: its "
            "gradient_factor is below 1, or not known; use a mode that keeps one variance"
        )
    if entry.critical_bias_std and not has_bias:
        raise ParameterError("the layer has no bias, without which weights are not critical")
    return float(entry.critical_bias_std)


def orthogonal_scale(std: float, rows: int, columns: int) -> float:
    """The factor that gives the entries of a semi-orthogonal matrix the root mean square ``std``.

    It has min(rows, columns) unit vectors, so that their mean square is 1/max(rows, columns).
    """
    return std * math.sqrt(max(rows, columns))


# --- one signature for all functions of an adapter ---


def takes(prepare: Callable[P, S]) -> Callable[[Callable[[S], R]], Callable[P, R]]:
    """A decorator: a function of what ``prepare`` returns becomes one of what ``prepare`` takes.

    It has the signature of ``prepare`` for ``help()`` and for type checkers too.
    """

    def decorate(draw: Callable[[S], R]) -> Callable[P, R]:
        @functools.wraps(draw)
        def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
            signature.bind(*args, **kwargs)  # a TypeError would name ``prepare``
            return draw(prepare(*args, **kwargs))

        returns = inspect.signature(draw).return_annotation
        signature = inspect.signature(prepare).replace(return_annotation=returns)
        drawn.__signature__ = signature  # type: ignore[attr-defined]
        return drawn

    return decorate
