"""An activation with the values of its params: its functions as the plugins give them, checked.

Whatever a plugin's function does wrong (raises, returns NaN, another shape, something else) becomes
a PluginError that names the activation and the plugin. If the plugin does not own the activation,
it is left out of that hook with a warning, and the next one is asked.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gainreg import verify
from gainreg.activation import Activation
from gainreg.errors import ParameterError, PluginError
from gainreg.moments import FloatArray, Function
from gainreg.moments.slopes import jumps_at

if TYPE_CHECKING:
    from gainreg.host import Host

STEP = 5e-7  # of differences of φ that are drawn as φ′

FAULTS = (Exception, SystemExit)  # what a plugin's own code may raise without taking others down


class Bound:
    """An activation with the values of its params.

    Attributes:
        activation: the declaration, with these values as its params; what hooks receive.
        name, params, width: of the activation.
        owner: the plugin that declares it; "" for one that nobody registered.
        gate: φ of a gated unit, bound likewise.
        providers: the plugin, if another than the owner, that answers for a part.
    """

    def __init__(self, activation: Activation, owner: str, host: Host) -> None:
        self.activation = activation
        self.name, self.width = activation.name, activation.width
        self.params: Mapping[str, float] = activation.params  # type: ignore[assignment]
        self.owner = owner
        self.gate = host.bind(activation.gate, {}) if activation.gate is not None else None
        self.providers: dict[str, str] = {}
        self._host = host

    def check_constraints(self) -> None:
        """Refuse params that the activation's constraints exclude.

        Raises:
            ParameterError: one is not satisfied; the message states it.
        """
        for text, holds in self.activation.constraints.items():
            if not self._answer(f"constraint {text!r}", lambda found, _: bool(found), holds):
                given = ", ".join(f"{name}={value:g}" for name, value in self.params.items())
                raise ParameterError(f"{self.name!r} needs {text}, got {given}")

    def forward(self, x: FloatArray) -> FloatArray:
        """φ(x), float64, any shape.

        Raises:
            PluginError: φ raises, or returns NaN, complex numbers or another shape.
        """
        # a copy of x each time: φ may work in place, and φ′ is evaluated at the same points
        found = self._answer("forward", _like(x), self.activation.forward, x=x.copy())
        if found is None:
            raise self._fault("returned None from its forward, expected float64 numbers")
        return np.asarray(found)

    def declared_derivative(self, x: FloatArray) -> FloatArray:
        """φ′(x) as it is declared; same checks as ``forward``."""
        return np.asarray(self._answer("derivative", _like(x), self.activation.derivative, x=x))

    def slope(self, x: FloatArray) -> FloatArray:
        """φ′(x) to be drawn: as it is declared where that was found right, else by differences, to
        nine digits."""
        if self.derivative is not None:
            return self.derivative(x)
        return (self.forward(x + STEP) - self.forward(x - STEP)) / (2 * STEP)

    @cached_property
    def kinks(self) -> tuple[float, ...] | None:
        """Where φ or φ′ jumps, as it is declared; None if that is not known."""
        kinks = self.activation.kinks
        if kinks is None:
            return None

        def accept(found: Any, _: str) -> tuple[float, ...]:
            points = tuple(float(k) for k in found)
            if not all(map(math.isfinite, points)):
                raise _JunkError(f"has kinks that are not finite: {points}")
            return points

        declared = kinks if callable(kinks) else lambda **_: kinks
        return tuple(self._answer("kinks", accept, declared))

    def closed_form(self, name: str, std: FloatArray) -> FloatArray | None:
        """A moment's closed form at ``std``, NaN where it has none, or None if there is no such.

        Args:
            name: "mean", "second_moment", "derivative_second_moment" or "variance_slope".
        """

        def accept(value: Any, what: str) -> FloatArray:
            try:
                if np.iscomplexobj(value):
                    raise TypeError
                found = np.array(value, dtype=np.float64)  # a copy, to be worked on
                return found if found.shape == std.shape else np.full(std.shape, found)
            except (TypeError, ValueError):
                raise _JunkError(f"returned no array of shape {std.shape} as {what}") from None

        with np.errstate(all="ignore"):
            found = self._answer(name, accept, getattr(self.activation, name), std=std)
            return None if found is None else np.asarray(found)

    @cached_property
    def sampler(self) -> Callable[[float, int, np.random.Generator], FloatArray] | None:
        """``sample(std, size, rng)``, or None where nobody has a sampler."""
        if self.gate is not None:
            return self._sample_gated

        def sample(std: float, size: int, rng: np.random.Generator) -> Any:
            accept = _like(np.empty(size))
            own = self.activation.sample
            return self._answer("sample", accept, own, std=std, size=size, rng=rng)

        return None if sample(1.0, 16, np.random.default_rng(0)) is None else sample

    def _sample_gated(self, std: float, size: int, rng: np.random.Generator) -> FloatArray:
        """Draws of a·φ(b)."""
        assert self.gate is not None
        a: FloatArray = std * rng.standard_normal(size)
        return a * self.gate.forward(std * rng.standard_normal(size))

    # --- what is found out about the declaration, once, before its first use ---

    @cached_property
    def integrable(self) -> bool:
        """Whether φ is a fixed function of one number, so that quadrature applies.

        Raises:
            PluginError: φ is not elementwise.
        """
        return self.activation.forward is not None and not verify.is_random(self)

    @cached_property
    def jumps(self) -> bool:
        """Whether φ jumps at 0 or at a declared kink, so that E[φ′²] does not exist."""
        return self.integrable and jumps_at(self.forward, [0.0, *(self.kinks or ())])

    @cached_property
    def derivative(self) -> Function | None:
        """φ′ as declared, if it could be seen to be the slope of φ; None otherwise.

        Raises:
            PluginError: it is wrong.
        """
        if self.activation.derivative is None or not self.integrable:
            return None
        return self.declared_derivative if verify.derivative_is_settled(self) else None

    @cached_property
    def closed_form_errors(self) -> Mapping[str, FloatArray]:
        """By the name of a moment that has a closed form, how far that may be from the truth,
        relative, between verify.PROBES[i − 1] and PROBES[i]; infinite where it is not to be used.

        Raises:
            PluginError: a closed form is wrong.
        """
        return verify.how_far_off(self)

    # --- asking, and what is said of those who answer wrongly ---

    def _answer(
        self, what: str, accept: Accept, own: Callable[..., Any] | None, **arguments: Any
    ) -> Any:
        """What the plugins, the last one loaded first, or the activation itself say; or None.

        Args:
            what: the part of the activation that is asked for.
            accept: makes an answer what it must be, or raises.
            own: the activation's own function for it; it takes the arguments in their order.
            **arguments: of the hooks, besides activation and name.
        """
        named = {"activation": self.activation, "name": what, **arguments}
        asked = [
            (hook, plugin.plugin_name, partial(plugin.function, *map(named.get, plugin.argnames)))
            for hook in HOOKS.get(what, ())
            for plugin in self._host.implementations(hook)
        ]
        if own is not None:
            asked.append(("", self.owner, partial(own, *arguments.values(), **self.params)))
        for hook, plugin, ask in asked:
            try:
                if (found := ask()) is not None:
                    found = accept(found, what)
                    if plugin != self.owner:
                        self.providers[what] = plugin
                    return found
            except FAULTS as error:
                fault = f"raised {reason(error)} in its {what}"
                if isinstance(error, _JunkError):
                    fault = str(error)
                if plugin == self.owner:
                    raise self._fault(fault) from error
                self._host.leave_out(hook, plugin)
                warnings.warn(
                    f"plugin {plugin!r} {fault} for activation {self.name!r}, which is not its "
                    f"own; its {hook} is left out",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return None

    def _fault(self, what: str) -> PluginError:
        by = f" (plugin {self.owner})" if self.owner else ""
        return PluginError(f"activation {self.name!r}{by} {what}")


# Takes an answer and the name of the part that gave it.
Accept = Callable[[Any, str], Any]

# The hooks that answer for a part of an activation before the activation itself.
HOOKS = {
    "forward": ("gainreg_forward",),
    "sample": ("gainreg_sample",),
    "second_moment": ("gainreg_moment", "gainreg_second_moment"),
    **dict.fromkeys(("mean", "derivative_second_moment", "variance_slope"), ("gainreg_moment",)),
}


class _JunkError(Exception):
    """What a function of a plugin returned is not what it must return."""


def _like(x: FloatArray) -> Accept:
    """Accepts what a vectorised real function of x returns, as a float64 array."""

    def accept(y: Any, what: str) -> FloatArray:
        y = np.asarray(y)
        if y.dtype.kind not in "biuf":
            raise _JunkError(f"returned {y.dtype} numbers from its {what}, expected float64")
        if y.shape != x.shape:
            raise _JunkError(
                f"returned shape {y.shape} from its {what} for input of shape {x.shape}; "
                "it must be vectorised, element by element"
            )
        if np.isnan(y.sum()) and np.isnan(y).any():  # the sum is quicker, and NaN if one of them is
            at = "" if what == "sample" else f" at x = {float(x[np.isnan(y)][0]):.6g}"
            raise _JunkError(
                f"returned NaN from its {what}{at}; use a form that does not overflow (expm1, "
                "log1p, logaddexp, scipy.special.expit)"
            )
        return np.asarray(y, dtype=np.float64)

    return accept


def reason(error: BaseException) -> str:
    """An exception in a line."""
    if isinstance(error, PluginError):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} (line {error.lineno})"
    return " ".join(f"{type(error).__name__}: {error}".split())
