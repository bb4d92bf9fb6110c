"""What a table's file says: listings of activations as text, and from plain data, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from gainreg.document import flow
from gainreg.entry import KEYS, GainEntry, to_dict
from gainreg.errors import TableError
from gainreg.params import METHODS, NAME

SCHEMA = 2

# The moments of an entry and what goes with them, and what each lies between.
ABOVE_0 = math.ulp(0.0)
RANGES = {
    "std": (ABOVE_0, math.inf),
    "mean": (-math.inf, math.inf),
    "second_moment": (ABOVE_0, math.inf),
    "variance": (0.0, math.inf),
    "derivative_second_moment": (0.0, math.inf),
    # a mean of (z² − 1)/2, up to rounding; z² in double precision is at most 2·10³
    "variance_slope": (-0.5 - 1e-9, 1e3),
    "width": (ABOVE_0, math.inf),
    "error": (0.0, math.inf),
}
# What follows from them is computed again when it is read. What libraries' roots differ by is far
# below this, an edited digit that matters far above.
ROUNDED = 1e-12
DERIVED = [key for key in KEYS if key not in (*RANGES, "params", "method")]
MAY_BE_NULL = {*DERIVED, "derivative_second_moment"} - {"gain"}


class Listing(NamedTuple):
    """What a table says of one activation.

    Attributes:
        aliases: its other names.
        params: parameter names and defaults, None where a value must be given.
        width: outputs for each pre-activation.
        entries: its entries, in the order of the file.
    """

    aliases: tuple[str, ...]
    params: Mapping[str, float | None]
    width: float
    entries: tuple[GainEntry, ...]


def to_text(listings: Mapping[str, Listing]) -> str:
    """A table's file without its first line; the same bytes every time."""
    from gainreg import __version__

    lines = [f"schema: {SCHEMA}", f"generator: gainreg {__version__}", "activations:"]
    if not listings:
        lines[-1] += " {}"
    for name, listing in listings.items():
        lines += [f"  {flow(name)}:"]
        lines += [f"    {key}: {flow(getattr(listing, key))}" for key in Listing._fields[:-1]]
        lines += ["    entries:" if listing.entries else "    entries: []"]
        for entry in listing.entries:
            data = to_dict(entry)
            del data["width"]  # the listing has it
            lines.append(f"      - {flow(data)}")
    return "\n".join(lines) + "\n"


def from_plain(data: Any, where: str) -> dict[str, Listing]:
    """The listings of a table from plain data.

    Raises:
        TableError: it breaks the schema, or its numbers contradict each other.
    """
    at = where
    try:
        if not isinstance(data, dict) or "schema" not in data:
            raise ValueError("it is no gain table: no schema")
        schema = data["schema"]
        if type(schema) is not int or schema != SCHEMA:
            hint = "a newer gainreg may read it"
            if schema == 1:
                hint = f"make it again with 'gainreg build NAMES --std STDS -o {where}'"
            raise ValueError(f"schema {schema!r:.80} is not {SCHEMA}, which is read here; {hint}")
        _mapping(data, {"schema", "generator", "activations"})
        if not isinstance(data["generator"], str):
            raise ValueError("generator must be text")
        listings: dict[str, Listing] = {}
        taken: set[str] = set()
        for name, item in _mapping(data["activations"]).items():
            at = f"{where}: {name!r:.80}"
            listing = listings[_name(name)] = _listing(name, item)
            for known in (name, *listing.aliases):
                if known in taken:
                    raise ValueError(f"the name {known!r} stands twice")
                taken.add(known)
    except ValueError as error:
        raise TableError(f"{at}: {error}") from None
    return listings


def from_dict(name: str, data: Any, where: str) -> GainEntry:
    """The entry of activation ``name`` that ``to_dict`` made into plain data.

    Raises:
        TableError: it breaks the schema, or its numbers contradict each other.
    """
    try:
        if not isinstance(name, str):
            raise ValueError(f"expected the name of an activation, got {name!r:.80}")
        return _entry(name, data)
    except ValueError as error:
        raise TableError(f"{where}: {error}") from None


def _listing(name: str, data: Any) -> Listing:
    data = _mapping(data, set(Listing._fields))
    for key in ("aliases", "entries"):
        if not isinstance(data[key], list):
            raise ValueError(f"{key} must be a list")
    aliases = tuple(map(_name, data["aliases"]))
    params = {
        _name(key): None if value is None else _number(value, f"param {key}")
        for key, value in _mapping(data["params"]).items()
    }
    width = _number(data["width"], "width")
    entries: dict[Any, GainEntry] = {}
    for item in data["entries"]:
        entry = _entry(name, {"width": width, **_mapping(item)})
        if entry.params.keys() != params.keys() or entry.width != width:
            raise ValueError("an entry has other params or another width than its activation")
        place = entry.std, tuple(entry.params[param] for param in params)
        if place in entries:
            raise ValueError("two entries have the same std and params")
        entries[place] = entry
    return Listing(aliases, params, width, tuple(entries.values()))


def _entry(name: str, data: Any) -> GainEntry:
    data = _mapping(data, set(KEYS))
    at = f"at std {data['std']!r:.80}: "
    params = {
        _name(key): _number(value, f"{at}param {key}")
        for key, value in _mapping(data["params"]).items()
    }
    method = data["method"]
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"{at}unknown method {method!r:.80}")
    numbers: dict[str, Any] = {
        key: None if data[key] is None and key in MAY_BE_NULL else _number(data[key], at + key)
        for key in (*RANGES, *DERIVED)
    }
    for key, (low, high) in RANGES.items():
        if numbers[key] is not None and not low <= numbers[key] <= high:
            raise ValueError(f"{at}{key} cannot be {numbers[key]}")
    moments = {key: numbers[key] for key in RANGES}
    entry = GainEntry(activation=name, params=params, method=method, **moments)
    try:
        derived = to_dict(entry)
    except ArithmeticError:
        raise ValueError(f"{at}the moments are too large or too small for a gain") from None
    for key in DERIVED:
        stored, value = numbers[key], derived[key]
        if stored is None or value is None:
            fits = stored is value
        else:
            fits = math.isclose(stored, value, rel_tol=ROUNDED)
        if not fits:
            raise ValueError(f"{at}{key} is {stored}, but the moments give {value}")
    variance = entry.second_moment - entry.mean * entry.mean
    # that difference has fewer digits than the variance itself
    if abs(entry.variance - variance) > ROUNDED * entry.second_moment + 4 * entry.error:
        raise ValueError(f"{at}variance is {entry.variance}, but the moments give {variance}")
    return entry


def _mapping(value: Any, keys: set[str] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping, got {value!r:.80}")
    if keys is not None and value.keys() != keys:
        wanted, found = ", ".join(sorted(keys)), ", ".join(map(repr, value))
        raise ValueError(f"expected the keys {wanted}, got {found:.80}")
    return value


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{what} must be a finite number, as 0.5 or 1.0e-06, got {value!r:.80}")
    return float(value)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError(f"expected a lower_snake_case name, got {value!r:.80}")
    return value
