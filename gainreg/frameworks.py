"""What a framework calls an activation: its own functions, layers and callables, read by gainreg.

Names and params come from the registry. A function or layer that its framework has under the name
or an alias of an activation, and that computes what this one does, is that activation; only what
is called otherwise, or takes other arguments, stands in a table of ``Framework.exceptions``.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from gainreg.activation import Activation
from gainreg.errors import ParameterError
from gainreg.params import check_params

if TYPE_CHECKING:
    from gainreg.bound import Bound

Item = str | Activation | Callable[..., Any]  # whatever stands for an activation
Named = tuple[str, dict[str, Any]]  # an activation's gainreg name, and params
Understood = tuple[str | Activation, Mapping[str, Any]]  # what ``host().bind`` takes
Function = Callable[[Any], Any]

# The adapter that knows the objects of a package. Keras stands first, as its layers are also
# modules of PyTorch where that is its backend.
ADAPTERS = {
    "keras": "keras",
    "torch": "torch",
    **dict.fromkeys(("jax", "jaxlib", "equinox", "flax"), "jax"),
}

# Arguments that say nothing of φ; the gain of a softmax depends on the length of its axis only.
SAY_NOTHING = {"inplace", "axis", "dim", "dtype", "out", "name", "_stacklevel"}

# Known by their names alone, as they are no functions of one number and cannot be compared.
ALONG_AN_AXIS = ("softmax", "log_softmax", "softmin", "sparsemax", "glu")

# Where a function is compared with the activation of its name: on both sides of 0, where all are
# curved and where all have become straight. Frameworks may compute in float32, so they agree to
# 1e-5; gelu and its approximation by tanh differ by 3e-4 at 1.9.
POINTS = (-11.3, -2.6, -0.7, 0.4, 1.9, 9.7)
TOLERANCE = 1e-5


def as_activation(activation: Any, params: Mapping[str, Any]) -> Understood:
    """A name or an Activation for whatever stands for an activation, and all params known of it.

    What belongs to a framework that is imported already is read as its adapter reads it. Any other
    callable must take NumPy's arrays, or else the tensors of a framework that is imported.

    Raises:
        ParameterError: it stands for none, and as ``Framework.understood``.
    """
    if isinstance(activation, (str, Activation)):
        return activation, params
    function = activation.func if isinstance(activation, partial) else activation
    kind = function if isinstance(function, type) else type(function)
    owners = (function, *kind.__mro__, getattr(function, "__objclass__", None))
    packages = {str(getattr(owner, "__module__", None)).partition(".")[0] for owner in owners}
    imported = [package for package in ADAPTERS if sys.modules.get(package) is not None]
    own = [ADAPTERS[package] for package in imported if package in packages][:1]
    # what belongs to none is tried with NumPy first and, for the error that it then has, last
    for adapter in own or ["numpy", *(ADAPTERS[package] for package in imported), "numpy"]:
        framework = importlib.import_module(f"gainreg.adapters.{adapter}").FRAMEWORK
        if own or framework.takes(activation):
            break
    found: Understood = framework.understood(activation, params)
    return found


def bind(activation: Any, params: Mapping[str, Any]) -> Bound:
    """Whatever stands for an activation, with its params filled in and checked.

    Raises:
        UnknownActivationError: no activation has that name.
        ParameterError: it stands for none; or a param is unknown, missing or out of range.
    """
    from gainreg.host import host

    return host().bind(*as_activation(activation, params))


def with_params(item: Any) -> tuple[Any, Mapping[str, Any]]:
    """What stands for an activation, and the params beside it, where there is a list of such.

    Raises:
        ParameterError: it is neither such a thing nor a pair.
    """
    pair = item if isinstance(item, tuple) else (item, {})
    if len(pair) != 2 or not isinstance(pair[1], Mapping):
        raise ParameterError(
            "an activation is a name, an Activation, a function, or a pair of one and its params, "
            f"as in ('elu', {{'alpha': 0.5}}); got {item!r}"
        )
    return pair


@dataclass(frozen=True)
class Framework:
    """How an adapter reads its framework's own activations.

    Attributes:
        homes: the modules and classes in which the framework has its functions and layers.
        evaluate: makes φ, and φ′ or None, on float64 arrays of a callable on the framework's
            tensors.
        layers: the class of the framework's layers.
        exceptions: by name in lower case without underscores, readers of what has other arguments
            than gainreg. A reader takes a function's keyword arguments, or a layer's attributes;
            its answer is a name and params, or None for what has no name in gainreg.
    """

    homes: Sequence[Any]
    evaluate: Callable[[Callable[..., Any]], tuple[Function, Function | None]]
    layers: type | tuple[type, ...] = ()
    exceptions: Mapping[str, Callable[..., Named | None]] = field(default_factory=dict)

    def understood(self, activation: Any, params: Mapping[str, Any]) -> Understood:
        """An activation as a gainreg name, or else as an ``Activation``, and all its params.

        Args:
            activation: what gainreg.adapters says, or a class of layers that takes no arguments.
            params: given beside it.

        Raises:
            ParameterError: none of these; arguments that the function does not take, or that say
                what ``params`` says too; a softmax of unknown width.
        """
        if isinstance(activation, (str, Activation)):
            return activation, params
        if isinstance(activation, type) and issubclass(activation, self.layers):
            with contextlib.suppress(TypeError):  # it needs arguments: refused as a class below
                activation = activation()
        if isinstance(activation, type) or not callable(activation):
            raise ParameterError(
                "an activation is a name, a gainreg.Activation, a function, or an instance of a "
                f"layer such as ReLU(), got {activation!r:.200}"
            )
        named, own = self.read(activation)
        if named is None:
            if isinstance(activation, self.layers) and not self.takes(activation):
                raise ParameterError(
                    f"{type(activation).__name__} is no activation, or fails: it cannot be called "
                    "with a row of numbers, of which each is a pre-activation"
                )
            return self.wrap(activation), params
        name, found = named
        if twice := ", ".join(own & params.keys()):
            raise ParameterError(f"{activation!r} has its own {twice}; give it in one place only")
        if name in ALONG_AN_AXIS[:-1] and "dim" not in params:
            raise ParameterError(
                f"the gain of {name!r} depends on how many numbers it runs over, which "
                f"{activation!r} does not say; give that number as dim=…"
            )
        return name, {**found, **params}

    def read(self, activation: Any) -> tuple[Named | None, Set[str]]:
        """The name and params of one of the framework's own, and which of them it states itself.

        Raises:
            ParameterError: arguments that the function does not take.
        """
        function, stated = activation, {}
        if isinstance(activation, partial) and not activation.args:
            function, stated = activation.func, activation.keywords
        layer = isinstance(function, self.layers)
        for spelling in self._spellings(type(function) if layer else function):
            reader = _gelu if spelling == "gelu" else self.exceptions.get(spelling)
            declared = None if reader else _registered(spelling)
            if declared:
                reader, names = partial(_read, declared), set(declared.params)
            elif reader:
                names = set(inspect.signature(reader).parameters)
            else:
                continue
            try:
                named = reader(**_arguments(function, layer, stated, names))
            except (ParameterError, TypeError) as error:
                raise ParameterError(f"{activation!r} cannot be read: {error}") from None
            if named and declared and not self._computes(activation, declared, named[1]):
                continue
            states = layer or stated.keys() - SAY_NOTHING
            return named, named[1].keys() if named and states else set()
        return None, set()

    def takes(self, function: Any) -> bool:
        """Whether something can be called with the framework's tensors."""
        import numpy as np

        try:
            self.evaluate(function)[0](np.array(POINTS))
        except Exception:  # whatever it is, it was no answer
            return False
        return True

    def wrap(self, function: Callable[..., Any]) -> Activation:
        """A callable on the framework's tensors as an ``Activation`` that evaluates it in float64.

        Its φ′ is what the framework differentiates. Where that fails, gives NaN or is not the
        slope of φ (a straight-through estimator), φ′ is found from φ.
        """
        from gainreg.moments.slopes import check_slope

        forward, derivative = self.evaluate(function)
        forward = _flat(forward)
        if derivative is not None:
            derivative = _flat(derivative)
            try:
                if not check_slope(forward, derivative).settled:
                    derivative = None
            except Exception:  # whatever it is, forward says it better if it is at fault too
                derivative = None
        name = getattr(function, "__name__", type(function).__name__)
        return Activation(name, forward, kinks=None, derivative=derivative)

    def _spellings(self, thing: Any) -> list[str]:
        """The names under which the framework has a function or a class of layers."""
        names = (name for home in self.homes for name, it in vars(home).items() if it is thing)
        return sorted(set(map(_squeezed, names)))

    def _computes(self, function: Any, activation: Activation, params: Mapping[str, Any]) -> bool:
        """Whether a function is the activation of its name, as ``np.identity`` is not."""
        import numpy as np

        if activation.forward is None:
            return activation.name in ALONG_AN_AXIS
        points = np.array(POINTS)
        try:
            theirs = self.evaluate(function)[0](points.copy())
            ours = activation.forward(points, **params)
            return bool(np.allclose(theirs, ours, TOLERANCE, TOLERANCE))
        except Exception:  # it takes something else than an array of numbers
            return False


def _squeezed(name: str) -> str:
    """A name whatever its style: leakyrelu for LeakyReLU, leaky_relu and leaky_relu_."""
    return name.replace("_", "").lower()


def _read(declared: Activation, /, **given: Any) -> Named:
    """A registered activation and its params: those of a framework have gainreg's names."""
    if declared.name in ALONG_AN_AXIS:
        return declared.name, {}
    return declared.name, check_params(declared.name, declared.params, given)


def _registered(spelling: str) -> Activation | None:
    """The activation whose name or alias is spelled so."""
    from gainreg.host import host

    for activation in host().activations():
        if spelling in map(_squeezed, (activation.name, *activation.aliases)):
            return activation
    return None


def _arguments(
    function: Any, layer: bool, stated: Mapping[str, Any], names: set[str]
) -> dict[str, Any]:
    """A layer's attributes, or a function's defaults and what is stated, of these names.

    Raises:
        TypeError: something else is stated.
    """
    if layer:
        return {name: getattr(function, name) for name in names if hasattr(function, name)}
    if odd := stated.keys() - names - SAY_NOTHING:
        raise TypeError(f"it does not take {', '.join(sorted(odd))}")
    defaults: dict[str, Any] = {}
    with contextlib.suppress(ValueError, TypeError):  # functions written in C may not say
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.default is not parameter.empty
        }
    known = {**defaults, **stated}
    return {name: known[name] for name in names if name in known}


def _flat(f: Function) -> Function:
    """``f`` called with one axis, whatever the shape of x."""
    import numpy as np

    def on_one_axis(x: Any) -> Any:
        if not x.size:  # nothing is asked, and not every function can answer that
            return x
        y = f(x.ravel())
        return np.reshape(y, x.shape) if np.shape(y) == (x.size,) else y

    return on_one_axis


def _gelu(approximate: Any = "none") -> Named:
    """GELU, and its approximation by tanh, of which PyTorch says "tanh" and others True."""
    if approximate in ("none", False):
        return "gelu", {}
    if approximate in ("tanh", True):
        return "gelu_tanh", {}
    raise ParameterError(f"approximate is 'none' or 'tanh', got {approximate!r}")


# --- what several adapters need ---


def root_mean_square(values: Any) -> float:
    """The one slope that stands for several, one a channel, as PReLU may have.

    E[φ²] and E[φ′²] are linear in the slope's square, so their means over channels, and with them
    every gain, are exactly those of this slope. Equal slopes are returned as they are.
    """
    slopes = [float(value) for value in values]
    if all(slope == slopes[0] for slope in slopes):
        return slopes[0]
    return math.sqrt(math.fsum(slope**2 for slope in slopes) / len(slopes))
