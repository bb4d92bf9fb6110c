"""The hooks of gainreg: all that a plugin can say, on one page.

A plugin is a module (or any object) with one or more of these functions, marked ``@hookimpl``:

    from gainreg import Activation, hookimpl

    @hookimpl
    def gainreg_activations():
        return [Activation("my_act", forward=lambda x: x * abs(x))]

Plugins are asked in turn, the last one loaded first, and then the Activation's own fields. The
``activation`` handed to a hook carries the values of its params in ``activation.params``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pluggy

from gainreg.activation import Activation

hookspec = pluggy.HookspecMarker("gainreg")
hookimpl = pluggy.HookimplMarker("gainreg")


@hookspec
def gainreg_activations() -> Iterable[Activation]:  # type: ignore[empty-body]
    """The activations that this plugin declares; the results of all plugins are collected."""


@hookspec(firstresult=True)
def gainreg_forward(activation: Activation, x: np.ndarray) -> np.ndarray | None:
    """φ(x), the same shape as x, float64; None to leave it to the next plugin."""


@hookspec(firstresult=True)
def gainreg_moment(activation: Activation, name: str, std: np.ndarray) -> Any:
    """Closed form of the moment ``name`` of an Activation: "mean", "second_moment",
    "derivative_second_moment" or "variance_slope"; as ``gainreg_second_moment``.
    """


@hookspec(firstresult=True)
def gainreg_second_moment(activation: Activation, std: np.ndarray) -> Any:
    """Analytic E[φ(std·z)²], the same shape as std, NaN where it is not accurate; or None."""


@hookspec(firstresult=True)
def gainreg_sample(
    activation: Activation, std: float, size: int, rng: np.random.Generator
) -> np.ndarray | None:
    """``size`` draws of φ(std·z), for what is not elementwise or not deterministic; or None."""
