"""From a gain to weights: what all adapters share. Imports neither numpy nor any framework."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gainreg.entry import GainEntry
from gainreg.errors import MomentError, ParameterError
from gainreg.table import entry_for

if TYPE_CHECKING:
    from gainreg.activation import Activation
    from gainreg.table import GainTable

    Table = GainTable | str | os.PathLike[str] | None
    # reads the arguments of a framework's activation: its gainreg name and params
    Reader = Callable[..., tuple[str, dict[str, Any]]]

MODES = ("fan_in", "fan_out", "fan_avg")

# Standard deviation of a standard normal truncated at ±2: √(1 − 4·pdf(2)/P(|z| < 2))
TRUNCATED_STD = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))

_OF_ONE_AXIS = ("softmax", "log_softmax", "softmin")


# --- the weights law ---


def weight_std(
    activation: str | Activation | GainEntry | Callable[..., Any],
    mode: str,
    fan_in: float,
    fan_out: float,
    *,
    std: float = 1.0,
    table: Table = None,
    params: Mapping[str, Any] | None = None,
) -> float:
    """Standard deviation of the weights that an activation feeds.

    Args:
        activation: the one whose output feeds the weights: a name, an ``Activation``, a
            ``GainEntry``, or a callable on float64 arrays.
        mode: what to keep: "fan_in" the forward variance (He et al. 2015, arXiv:1502.01852,
            eq. 10), "fan_out" the gradient variance (eq. 14), "fan_avg" the compromise of Glorot
            and Bengio (2010), for any φ.
        fan_in: number of inputs that one output sums over.
        fan_out: number of outputs that one input goes to.
        std: standard deviation of the pre-activation, not its variance.
        table: a ``GainTable`` or its path: the constants come from there, and only from there.
        params: the activation's parameters, where they differ from the defaults.

    Raises:
        ParameterError: another mode, a fan that is not above 0, or a wrong param or std.
        MomentError: the gain does not exist, as "fan_out" where φ jumps.
        TableError: ``table`` lacks the entry.
        UnknownActivationError, PluginError: as ``gainreg.resolve``.
    """
    return math.sqrt(variance(entry(activation, std, params or {}, table), mode, fan_in, fan_out))


def variance(entry: GainEntry, mode: str, fan_in: float, fan_out: float) -> float:
    """Variance of the weights, from the entry of the activation that feeds them.

    Raises:
        ParameterError, MomentError: as ``weight_std``.
    """
    if mode not in MODES:
        raise ParameterError(f"mode is one of {', '.join(map(repr, MODES))}, got {mode!r}")
    for name, fan in (("fan_in", fan_in), ("fan_out", fan_out)):
        if not 0 < fan < math.inf:
            raise ParameterError(f"{name} must be above 0, got {fan}; the weight has no elements")
    if mode == "fan_in":
        return float(entry.gain) ** 2 / fan_in
    if entry.derivative_second_moment == 0:
        raise MomentError(f"{entry.activation!r} has no backward gain: φ′ is 0 everywhere")
    backward = float(entry.backward_gain) ** 2
    if mode == "fan_out":
        return backward / fan_out
    return 2 / (fan_in / float(entry.gain) ** 2 + fan_out / backward)


def uniform_bound(std: float) -> float:
    """The a of a uniform distribution on (−a, a) of that standard deviation: √3·std."""
    return math.sqrt(3.0) * std


def untruncated_std(std: float) -> float:
    """Standard deviation of a normal that, cut off at twice its own, is left with ``std``."""
    return std / TRUNCATED_STD


def orthogonal_scale(std: float, rows: int, columns: int) -> float:
    """The factor that gives the entries of a semi-orthogonal matrix the root mean square ``std``.

    Such a matrix has min(rows, columns) unit vectors, so its entries have the mean square
    1/max(rows, columns). Saxe et al. 2014, arXiv:1312.6120.
    """
    return std * math.sqrt(max(rows, columns))


# --- activations as frameworks have them ---


def entry(
    activation: str | Activation | GainEntry | Callable[..., Any],
    std: float,
    params: Mapping[str, Any],
    table: Table,
) -> GainEntry:
    """The entry of an activation; an entry is its own.

    Raises:
        ParameterError: params with a ``GainEntry``; and what ``gainreg.table.entry_for`` raises.
    """
    if isinstance(activation, GainEntry):
        if params:
            raise ParameterError(f"a GainEntry has its params already, got {', '.join(params)} too")
        return activation
    if not (isinstance(activation, str) or callable(activation) or _is_activation(activation)):
        raise ParameterError(
            "an activation is a name, a gainreg.Activation, a GainEntry or a callable, "
            f"got {activation!r}"
        )
    return entry_for(activation, std, params, table)


def always(name: str) -> Reader:
    """The reader of an activation whose arguments, if any, say nothing of φ (inplace, axis)."""
    return lambda **_: (name, {})


def recognised(
    activation: Any,
    std: float,
    params: Mapping[str, Any],
    table: Table,
    *,
    functions: Mapping[Any, Reader],
    objects: Mapping[type, Callable[[Any], tuple[str, dict[str, Any]]]],
    wrap: Callable[[Callable[..., Any]], Activation],
) -> GainEntry:
    """The entry of an activation that may be one of a framework's own.

    Args:
        activation: as in ``weight_std``, or a key of ``functions``, a ``functools.partial`` of
            one with keyword arguments, an instance of a type in ``objects``, or any callable on
            the framework's tensors.
        std, params, table: as in ``weight_std``.
        functions: readers that take a function's keyword arguments.
        objects: readers that take the object itself.
        wrap: makes an ``Activation`` of a callable on the framework's tensors.

    Raises:
        ParameterError: arguments that the function does not take, or that say what ``params``
            says too, or a softmax of unknown width; and what ``weight_std`` raises.
    """
    function, keywords = activation, {}
    if isinstance(activation, functools.partial) and not activation.args:
        function, keywords = activation.func, activation.keywords
    if type(activation) in objects:
        name, found = objects[type(activation)](activation)
    elif (reader := _get(functions, function)) is not None:
        try:
            name, found = reader(**keywords)
        except TypeError as error:
            reason = str(error).partition("() ")[2] or str(error)
            raise ParameterError(f"{activation!r} cannot be read: {reason}") from None
    elif not callable(activation) or _is_activation(activation) or table is not None:
        return entry(activation, std, params, table)
    else:
        return entry(wrap(activation), std, params, None)
    twice = ", ".join(found.keys() & params.keys())
    if twice:
        raise ParameterError(f"{activation!r} has its own {twice}; give it in one place only")
    if name in _OF_ONE_AXIS and "dim" not in params:
        raise ParameterError(
            f"the gain of {name!r} depends on how many numbers it runs over, which "
            f"{activation!r} does not say; give that number as dim=…"
        )
    return entry(name, std, {**found, **params}, table)


def elementwise(
    function: Callable[..., Any],
    forward: Callable[[Any], Any],
    derivative: Callable[[Any], Any] | None = None,
) -> Activation:
    """A callable on a framework's tensors as an ``Activation``.

    Args:
        function: the callable, for its name.
        forward, derivative: φ and φ′ on float64 numpy arrays.

    Raises:
        ParameterError: φ at one point depends on the other points, or on chance.
        PluginError: φ raises.
    """
    import numpy as np

    from gainreg.activation import Activation
    from gainreg.errors import PluginError

    name = getattr(function, "__name__", type(function).__name__)
    points = np.array([-1.7, -0.4, 0.6, 1.9])
    try:
        whole = forward(points)
        parts = np.concatenate([forward(points[:1]), forward(points[1:])])
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise PluginError(f"activation {name!r} raised {reason}") from error
    if np.shape(whole) == points.shape and not np.allclose(
        whole, parts, rtol=1e-6, atol=1e-9, equal_nan=True
    ):
        raise ParameterError(
            f"{name!r} is random or not elementwise: what it gives at one point depends on the "
            "others; register it as a gainreg.Activation with a sample function"
        )
    return Activation(name, forward, kinks=None, derivative=derivative)


def root_mean_square(values: Any) -> float:
    """The one slope that stands for several, one a channel, as PReLU may have.

    E[φ²] and E[φ′²] are linear in the slope's square, so their means over channels, and with them
    every gain, are exactly those of this slope. Equal slopes are returned as they are.
    """
    slopes = [float(value) for value in values]
    if all(slope == slopes[0] for slope in slopes):
        return slopes[0]
    return math.sqrt(math.fsum(slope**2 for slope in slopes) / len(slopes))


def missing(framework: str, extra: str, error: ImportError) -> ImportError:
    """The error of an adapter whose framework does not import."""
    return ImportError(
        f"gainreg.adapters.{extra} needs {framework}, which does not import ({error}); "
        f"install it with: pip install 'gainreg[{extra}]'"
    )


def _get(functions: Mapping[Any, Reader], function: Any) -> Reader | None:
    try:
        return functions.get(function)
    except TypeError:  # not hashable
        return None


def _is_activation(value: Any) -> bool:
    from gainreg.activation import Activation

    return isinstance(value, Activation)
