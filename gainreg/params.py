"""Names and numbers that users hand in, checked."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from gainreg.errors import ParameterError

METHODS = ("analytic", "quadrature", "sampling")
NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")  # of activations, aliases and params: match it whole
# What no param may be called: the keywords of the functions that take params beside them.
TAKEN = frozenset(
    (
        *("activation", "std", "mode", "method", "seed", "table", "entry", "distribution"),
        *("tensor", "shape", "dtype", "rng", "layout", "generator", "transposed", "groups"),
        *("kind", "strides", "layer", "model", "x", "size", "self"),
        *("in_axis", "out_axis", "batch_axis", "input_axes", "output_axes"),
    )
)


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
            raise ParameterError(f"{activation!r} needs its param {name!r}: give it as {name}=…")
        values[name] = finite_float(value, f"param {name!r} of {activation!r}")
    return values


def combinations(params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each combination of the values of params of which some have several.

    Raises:
        ParameterError: a param has none at all.
    """
    choices = []
    for name, value in params.items():
        several = value.ravel().tolist() if hasattr(value, "ravel") else value  # NumPy's own
        choices.append(several if isinstance(several, (list, tuple, range)) else [several])
        if not choices[-1]:
            raise ParameterError(f"param {name!r} has no values; give a number, or some of them")
    return (dict(zip(params, chosen, strict=True)) for chosen in itertools.product(*choices))


def check_std(std: Any) -> float:
    """A std of pre-activations as a float.

    Raises:
        ParameterError: it is not a finite number above 0.
    """
    number = finite_float(std, "std")
    if number <= 0:
        raise ParameterError(f"std must be above 0, got {number}; it is a standard deviation")
    return number


def check_choice(value: Any, what: str, known: Collection[str]) -> None:
    """Refuse what is none of the words that are known.

    Raises:
        ParameterError: it is none of them; the message names all.
    """
    if not isinstance(value, str) or value not in known:
        raise ParameterError(f"{what} is one of {', '.join(map(repr, known))}, got {value!r}")


def known_name(name: Any, known: Collection[str]) -> str | None:
    """``name`` as it is known, also if it is spelled as a class: leaky_relu for "LeakyReLU"."""
    if name in known:
        return str(name)
    if not isinstance(name, str) or name == name.lower():
        return None
    squeezed = name.replace("_", "").lower()
    return next((other for other in known if other.replace("_", "") == squeezed), None)


def close_names(name: Any, known: Iterable[str]) -> str:
    """A question that names those closest to a wrong name; "" if there are none."""
    import difflib

    near = difflib.get_close_matches(str(name).lower(), list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else ""


def finite_float(value: Any, what: str) -> float:
    """``value`` as a float.

    Raises:
        ParameterError: it is not a finite real number.
    """
    try:
        # float() would take "1.0", True and, in numpy, 1 + 5j; numpy's bool has the same name
        if isinstance(value, (str, bytes, complex)) or type(value).__name__ in ("bool", "bool_"):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ParameterError(f"{what} must be a number, got {value!r}") from None
    if not math.isfinite(number):
        raise ParameterError(f"{what} must be finite, got {number}")
    return number


def shortest(value: float) -> str:
    """A number as a person writes it, with all its digits where they matter."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def called(name: str, values: Mapping[str, float]) -> str:
    """A name with what was chosen for it, as a person writes it: elu(alpha=0.5)."""
    given = ", ".join(f"{key}={shortest(value)}" for key, value in values.items())
    return f"{name}({given})" if given else name


def check_seed(seed: Any) -> int:
    """A seed of random numbers.

    Raises:
        ParameterError: it is not an integer of at least 0.
    """
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or seed.__index__() < 0:
        raise ParameterError(f"seed must be an integer of at least 0, got {seed!r}")
    return int(seed.__index__())
