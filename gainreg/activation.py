"""What a plugin declares: an activation, by its definition."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gainreg.errors import ParameterError, PluginError
from gainreg.params import NAME, TAKEN, finite_float


@dataclass(frozen=True, eq=False)
class Activation:
    """An activation function φ and whatever is known exactly about it.

    Only ``name`` and one of ``forward``, ``sample`` and ``gate`` are needed. z is standard normal
    and a pre-activation is x = std·z; every closed form takes std as a float64 array, returns an
    array of the same shape, and returns NaN where it has no accurate value (quadrature answers).

    Attributes:
        name: lower_snake_case, as in ``torch.nn.functional`` where it exists there.
        forward: φ as ``forward(x, **params)``, float64 array in, array of the same shape out.
            None for what is random or not elementwise; such an activation needs ``sample``.
        params: parameter names and their defaults; None where a value must be given.
        aliases: other names, such as ``swish`` for ``silu``.
        kinks: the x at which φ or φ′ jumps, or a function ``kinks(**params)`` that returns them.
            Kinks at 0 need no mention; a kink left out costs time, not correctness. None if
            nothing is known, not even that φ has no features much narrower than their distance
            from 0: then φ is searched for them each time.
        derivative: φ′ as ``derivative(x, **params)``.
        second_moment: closed form of E[φ(std·z)²] as ``second_moment(std, **params)``.
        mean: closed form of E[φ(std·z)].
        derivative_second_moment: closed form of E[φ′(std·z)²].
        variance_slope: closed form of d ln E[φ(std·z)²] / d ln std².
        by_quadrature: True if the closed forms are integrals, evaluated numerically: entries then
            say "quadrature", not "analytic".
        sample: ``sample(std, size, rng, **params)``, an array of ``size`` draws of φ(std·z); for
            what is not elementwise or not deterministic. ``rng`` is a ``numpy.random.Generator``.
        gate: φ of a gated unit a·φ(b), in place of forward and sample. a and b are two independent
            halves of the pre-activations with the same std, and all moments follow from φ's:
            E[(a·φ)²] = std²·E[φ²]; its E[φ′²] is by a pre-activation, averaged over a and b.
        width: outputs for each pre-activation: ½ for gated units, 2 for crelu.
        constraints: what the params must satisfy, as ``{"beta > 0": lambda beta: beta > 0}``; the
            key is shown to the user whose params fail the test.
        reference: the paper or definition.

    Raises:
        PluginError: a part of the declaration is not what it must be.
    """

    name: str
    forward: Callable[..., Any] | None = None
    params: Mapping[str, float | None] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    kinks: tuple[float, ...] | Callable[..., tuple[float, ...]] | None = ()
    derivative: Callable[..., Any] | None = None
    second_moment: Callable[..., Any] | None = None
    mean: Callable[..., Any] | None = None
    derivative_second_moment: Callable[..., Any] | None = None
    variance_slope: Callable[..., Any] | None = None
    by_quadrature: bool = False
    sample: Callable[..., Any] | None = None
    gate: Activation | None = None
    width: float = 1.0
    constraints: Mapping[str, Callable[..., bool]] = field(default_factory=dict)
    reference: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.params, Mapping) or not isinstance(self.constraints, Mapping):
            raise self._fault("has params or constraints that are no mapping, as in {'alpha': 1.0}")
        values: dict[str, float | None] = {}
        for name, default in self.params.items():
            if not isinstance(name, str) or not NAME.fullmatch(name) or name in TAKEN:
                raise self._fault(
                    f"has a param {name!r}: use lower_snake_case, and none of "
                    f"{', '.join(sorted(TAKEN))}"
                )
            try:
                values[name] = None if default is None else finite_float(default, name)
            except ParameterError:
                raise self._fault(
                    f"has a param {name!r} whose default {default!r} is no finite number"
                ) from None
        object.__setattr__(self, "params", values)
        if not (isinstance(self.width, (int, float)) and 0 < self.width < math.inf):
            raise self._fault(f"has a width that is no number above 0: {self.width!r}")
        aliases = (self.aliases,) if isinstance(self.aliases, str) else self.aliases
        if not isinstance(aliases, (tuple, list)):
            raise self._fault(f"has aliases that are no tuple of names: {aliases!r}")
        object.__setattr__(self, "aliases", tuple(aliases))

    def _fault(self, what: str) -> PluginError:
        return PluginError(f"activation {self.name!r} {what}")
