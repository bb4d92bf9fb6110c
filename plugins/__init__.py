"""The built-in activations, one file a family; found by entry point, like anyone's plugin."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gainreg import Activation, hookimpl

FloatArray = NDArray[np.float64]


def all_of(family: Mapping[str, Any]) -> Callable[[], list[Activation]]:
    """The hook of a family's module, by its globals: it declares every Activation that is there."""

    @hookimpl
    def gainreg_activations() -> list[Activation]:
        return [value for value in family.values() if isinstance(value, Activation)]

    return gainreg_activations
