"""From a gain to weights: what all adapters share. Imports neither numpy nor any framework."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gainreg.activation import Activation
from gainreg.entry import GainEntry
from gainreg.errors import ParameterError
from gainreg.lookup import entry_for

if TYPE_CHECKING:
    from gainreg.table import GainTable

    Table = GainTable | str | os.PathLike[str] | None
    Axes = int | Sequence[int]
    Named = tuple[str, dict[str, Any]]  # an activation's gainreg name and params
    Reader = Callable[..., Named | None]

MODES = ("fan_in", "fan_out", "fan_avg")

# Standard deviation of a standard normal truncated at ±2: √(1 − 4·pdf(2)/P(|z| < 2))
TRUNCATED_STD = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))

_OF_ONE_AXIS = ("softmax", "log_softmax", "softmin", "sparsemax")


# --- the weights law ---


def fans(
    shape: Any, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = ()
) -> tuple[int, int, tuple[list[int], list[int], list[int], list[int]]]:
    """fan_in and fan_out of weights, and their axes by what they are.

    Args:
        shape: of the weights.
        in_axis, out_axis, batch_axis: of inputs, outputs and independent copies; the others are a
            convolution's receptive field, which multiplies both fans.

    Returns:
        fan_in, fan_out, and the axes of batch, receptive field, inputs and outputs from 0 on.

    Raises:
        ParameterError: the shape is none, lacks an axis, or has no elements.
    """
    try:
        sizes = [int(size.__index__()) for size in shape]
        found = [
            [axis.__index__() for axis in ([axes] if hasattr(axes, "__index__") else axes)]
            for axes in (batch_axis, in_axis, out_axis)
        ]
    except (TypeError, AttributeError):
        raise ParameterError(f"a shape is a tuple of whole numbers, got {shape!r}") from None
    named = [axis % len(sizes) for axes in found for axis in axes if sizes]
    if any(not -len(sizes) <= axis < len(sizes) for axes in found for axis in axes) or len(
        set(named)
    ) < len(named):
        raise ParameterError(
            f"weights need two axes, one in and one out, got shape {tuple(sizes)} for the axes "
            f"in {in_axis}, out {out_axis}"
        )
    if min(sizes) < 1:
        raise ParameterError(f"weights need elements, got shape {tuple(sizes)}")
    batch, inputs, outputs = ([axis % len(sizes) for axis in axes] for axes in found)
    field = [axis for axis in range(len(sizes)) if axis not in named]
    fan_in, fan_out = (
        math.prod(sizes[axis] for axis in [*field, *axes]) for axes in (inputs, outputs)
    )
    return fan_in, fan_out, (batch, field, inputs, outputs)


def variance(entry: GainEntry, mode: str, fan_in: float, fan_out: float) -> float:
    """Variance of the weights that an activation feeds.

    Args:
        entry: of the activation whose output feeds the weights.
        mode: what to keep: "fan_in" the forward variance (He et al. 2015, arXiv:1502.01852,
            eq. 10), "fan_out" the gradient variance (eq. 14), "fan_avg" the compromise of Glorot
            and Bengio (2010), for any φ.
        fan_in: number of inputs that one output sums over.
        fan_out: number of outputs that one input goes to.

    Raises:
        ParameterError: another mode, or a fan that is not above 0.
        MomentError: the gain does not exist, as "fan_out" where φ jumps.
    """
    if mode not in MODES:
        raise ParameterError(f"mode is one of {', '.join(map(repr, MODES))}, got {mode!r}")
    if not (0 < fan_in < math.inf and 0 < fan_out < math.inf):
        raise ParameterError(f"fans must be above 0, got fan_in {fan_in}, fan_out {fan_out}")
    if mode == "fan_in":
        return float(entry.gain) ** 2 / fan_in
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


SAY_NOTHING = {"inplace", "axis", "dim", "dtype", "out", "name", "_stacklevel"}


def always(name: str) -> Reader:
    """The reader of an activation whose arguments, if any, say nothing of φ."""

    def read(**keywords: Any) -> tuple[str, dict[str, Any]]:
        if odd := keywords.keys() - SAY_NOTHING:
            raise TypeError(f"() got an unexpected argument {', '.join(sorted(odd))}")
        return name, {}

    return read


# Activations that are called and computed alike wherever they occur.
READERS: dict[str, Reader] = {
    **{
        name: always(name)
        for name in (
            *("abs", "asinh", "atan", "cos", "erf", "exp", "exponential", "glu", "hard_sigmoid"),
            *("hard_silu", "hard_swish", "hard_tanh", "hardsigmoid", "hardswish", "identity"),
            *("linear", "log_sigmoid", "log_softmax", "logsigmoid", "mish", "relu", "relu6"),
            *("selu", "sigmoid", "sign", "silu", "sin", "soft_sign", "softmax", "softmin"),
            *("softplus", "softsign", "sparse_plus", "sparse_sigmoid", "sparsemax", "square"),
            *("swish", "tanh", "tanh_shrink", "tanhshrink"),
        )
    },
    "absolute": always("abs"),
    "arcsinh": always("asinh"),
    "arctan": always("atan"),
    "expit": always("sigmoid"),
    "log_expit": always("logsigmoid"),
    "logistic": always("sigmoid"),
    "positive": always("identity"),
    "celu": lambda alpha=1.0, inplace=False: ("celu", {"alpha": alpha}),
    "elu": lambda alpha=1.0, inplace=False: ("elu", {"alpha": alpha}),
    "leaky_relu": lambda negative_slope=0.01, inplace=False: (
        "leaky_relu",
        {"negative_slope": negative_slope},
    ),
    "squareplus": lambda b=4.0: ("squareplus", {"b": b}),
}


def functions_in(
    homes: Iterable[Any], readers: Mapping[str, Reader], suffixes: tuple[str, ...] = ("",)
) -> dict[Any, Reader]:
    """The readers by the functions themselves, as far as the homes have them."""
    return {
        getattr(home, name + suffix): reader
        for name, reader in readers.items()
        for home in homes
        for suffix in suffixes
        if hasattr(home, name + suffix)
    }


@dataclass(frozen=True)
class Framework:
    """What an adapter knows of its framework's own activations.

    Attributes:
        functions: readers that take a function's keyword arguments.
        objects: readers that take the object itself, by its type.
        wrap: makes an ``Activation`` of a callable on the framework's tensors.

    A reader returns None for what has no name in gainreg; the callable is resolved then.
    """

    functions: Mapping[Any, Reader]
    objects: Mapping[type, Callable[[Any], Named | None]]
    wrap: Callable[[Callable[..., Any]], Activation]

    def entry(
        self, activation: Any, std: float, params: Mapping[str, Any], table: Table
    ) -> GainEntry:
        """The entry of an activation: a name, an ``Activation``, a ``GainEntry``, one of the
        framework's own functions or objects, a ``functools.partial`` of a function with keyword
        arguments, or any callable on the framework's tensors.

        Raises:
            ParameterError: arguments that the function does not take, or that say what ``params``
                says too, or a softmax of unknown width; and what ``entry_for`` raises.
        """
        if isinstance(activation, GainEntry):
            if params or table is not None or std not in (1.0, activation.std):
                raise ParameterError(
                    "a GainEntry has its std, params and constants already; give it alone"
                )
            return activation
        if isinstance(activation, (str, Activation)):
            return entry_for(activation, std, params, table)
        if isinstance(activation, type) or not callable(activation):
            raise ParameterError(
                "an activation is a name, a gainreg.Activation, a GainEntry, a function, or an "
                f"instance of a layer such as ReLU(), got {activation!r:.200}"
            )
        named, explicit = self.read(activation)
        if named is None:
            if table is not None:
                return entry_for(activation, std, params, table)
            return entry_for(self.wrap(activation), std, params)
        name, found = named
        if twice := ", ".join(explicit & params.keys()):
            raise ParameterError(f"{activation!r} has its own {twice}; give it in one place only")
        if name in _OF_ONE_AXIS and "dim" not in params:
            raise ParameterError(
                f"the gain of {name!r} depends on how many numbers it runs over, which "
                f"{activation!r} does not say; give that number as dim=…"
            )
        return entry_for(name, std, {**found, **params}, table)

    def read(self, activation: Any) -> tuple[Named | None, Set[str]]:
        """The name and params of one of the framework's own, and which of them it states itself.

        Raises:
            ParameterError: arguments that the function does not take.
        """
        if type(activation) in self.objects:
            named = self.objects[type(activation)](activation)
            return named, named[1].keys() if named else set()
        function, keywords = activation, {}
        if isinstance(activation, functools.partial) and not activation.args:
            function, keywords = activation.func, activation.keywords
        try:
            reader = self.functions.get(function)
        except TypeError:  # not hashable
            reader = None
        if reader is None:
            return None, set()
        try:
            named = reader(**keywords)
        except TypeError as error:
            reason = str(error).partition("() ")[2] or str(error)
            raise ParameterError(f"{activation!r} cannot be read: {reason}") from None
        return named, named[1].keys() if named and keywords.keys() - SAY_NOTHING else set()


def elementwise(
    function: Callable[..., Any],
    forward: Callable[[Any], Any],
    derivative: Callable[[Any], Any] | None = None,
) -> Activation:
    """A callable on a framework's tensors as an ``Activation``.

    Args:
        function: the callable, for its name.
        forward, derivative: φ and φ′ on float64 numpy arrays. A derivative that fails, gives NaN,
            or is not the slope of φ (a straight-through estimator) is left out: φ′ is then taken
            by finite differences.
    """
    import numpy as np

    from gainreg.moments.differences import check_slope

    def flat(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """``f`` on one axis, whatever the shape."""

        def on_one_axis(x: Any) -> Any:
            y = f(x.ravel())
            return np.reshape(y, x.shape) if np.shape(y) == (x.size,) else y

        return on_one_axis

    forward = flat(forward)
    if derivative is not None:
        derivative = flat(derivative)
        try:
            points = np.array([-1.7, -0.4, -1e-9, 1e-9, 0.6, 1.9])
            known = np.isfinite(derivative(points)).all()
            checked = check_slope(forward, derivative, ())
            if not known or checked.wrong or not checked.settled:
                derivative = None
        except Exception:  # whatever it is, forward says it better if it is at fault too
            derivative = None
    name = getattr(function, "__name__", type(function).__name__)
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


def missing(framework: str, extra: str, error: ImportError, hint: str = "") -> ImportError:
    """The error of an adapter whose framework does not import."""
    return ImportError(
        f"gainreg.adapters.{extra} needs {framework}, which does not import ({error}); "
        f"install it with: pip install 'gainreg[{extra}]'{hint}",
        name=error.name,
    )
