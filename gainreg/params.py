"""Numbers that users hand in, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gainreg.errors import ParameterError


def check_params(
    activation: str, declared: Mapping[str, float | None], given: Mapping[str, Any]
) -> dict[str, float]:
    """The params of an activation with the defaults filled in, as floats, in declared order.

    Raises:
        ParameterError: a param is unknown, missing, or not a finite number.
    """
    for name in given:
        if name not in declared:
            known = ", ".join(declared) or "no params"
            raise ParameterError(f"{activation!r} has no param {name!r}; it takes {known}")
    values = {}
    for name, default in declared.items():
        value = given.get(name, default)
        if value is None:
            raise ParameterError(f"{activation!r} needs its param {name!r}, as in {name}=1.0")
        values[name] = finite_float(value, f"param {name!r} of {activation!r}")
    return values


def check_std(std: Any) -> float:
    """A std of pre-activations as a float.

    Raises:
        ParameterError: it is not a finite number above 0.
    """
    number = finite_float(std, "std")
    if number <= 0:
        raise ParameterError(f"std must be above 0, got {number}; it is a standard deviation")
    return number


def finite_float(value: Any, what: str) -> float:
    """``value`` as a float.

    Raises:
        ParameterError: it is not a finite real number.
    """
    try:
        # float() would take "1.0" and True; numpy's bool has the same name
        if isinstance(value, (str, bytes)) or type(value).__name__ in ("bool", "bool_"):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ParameterError(f"{what} must be a number, got {value!r}") from None
    if not math.isfinite(number):
        raise ParameterError(f"{what} must be finite, got {number}")
    return number
