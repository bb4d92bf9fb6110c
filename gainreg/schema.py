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

# The numbers of an entry that the others follow from, and what each lies between.
ABOVE_0 = math.ulp(0.0)
RANGES = {
    "std": (ABOVE_0, math.inf),
    "second_moment": (ABOVE_0, math.inf),
    "width": (ABOVE_0, math.inf),
    "mean": (-math.inf, math.inf),
    "variance": (0.0, math.inf),
    "derivative_second_moment": (0.0, math.inf),
    # a mean of (z² − 1)/2, up to rounding; z² in double precision is at most 2·10³
    "variance_slope": (-0.5 - 1e-9, 1e3),
    "error": (0.0, math.inf),
}
# The others are computed again when they are read. What libraries' roots differ by is far below
# this, an edited digit that matters far above.
ROUNDED = 1e-12


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
    _require(isinstance(data, dict) and "schema" in data, where, "it is no gain table: no schema")
    found = data["schema"]
    hint = "a newer gainreg may read it"
    if found == 1:
        hint = f"make it again with 'gainreg build NAMES --std STDS -o {where}'"
    _require(
        type(found) is int and found == SCHEMA,
        where,
        f"it has schema {_short(found)}, and this gainreg reads schema {SCHEMA}; {hint}",
    )
    data = _mapping(data, where, {"schema", "generator", "activations"})
    _require(isinstance(data["generator"], str), where, "generator must be text")
    listings: dict[str, Listing] = {}
    taken: set[str] = set()
    for name, item in _mapping(data["activations"], f"{where}: activations").items():
        listing = _listing(_name(name, where), item, f"{where}: {name}")
        for used in (name, *listing.aliases):
            _require(used not in taken, where, f"the name {used!r} stands twice")
            taken.add(used)
        listings[name] = listing
    return listings


def _listing(name: str, data: Any, where: str) -> Listing:
    data = _mapping(data, where, set(Listing._fields))
    for key in ("aliases", "entries"):
        _require(isinstance(data[key], list), where, f"{key} must be a list")
    aliases = tuple(_name(alias, f"{where}: aliases") for alias in data["aliases"])
    params = {
        _name(key, where): None if value is None else _number(value, f"{where}: param {key}")
        for key, value in _mapping(data["params"], f"{where}: params").items()
    }
    entries: dict[Any, GainEntry] = {}
    for item in data["entries"]:
        item = {"width": data["width"], **_mapping(item, f"{where}: entry")}
        entry = from_dict(name, item, where)
        _require(entry.params.keys() == params.keys(), where, "an entry has other params")
        _require(entry.width == data["width"], where, "an entry has another width")
        place = entry.std, tuple(entry.params[param] for param in params)
        _require(place not in entries, where, "two entries have the same std and params")
        entries[place] = entry
    width = _number(data["width"], f"{where}: width")
    return Listing(aliases, params, width, tuple(entries.values()))


def from_dict(name: str, data: Any, where: str) -> GainEntry:
    """The entry of activation ``name`` that ``to_dict`` made into plain data.

    Raises:
        TableError: it breaks the schema, or its numbers contradict each other.
    """
    data = _mapping(data, where, set(KEYS))
    where = f"{where} at std {_short(data['std'])}"
    params = {
        _name(key, where): _number(value, f"{where}: param {key}")
        for key, value in _mapping(data["params"], f"{where}: params").items()
    }
    numbers: dict[str, Any] = {}
    for key, (low, high) in RANGES.items():
        if key == "derivative_second_moment" and data[key] is None:
            numbers[key] = None
            continue
        value = numbers[key] = _number(data[key], f"{where}: {key}")
        _require(low <= value <= high, where, f"{key} cannot be {value}")
    method = data["method"]
    _require(
        isinstance(method, str) and method in METHODS, where, f"unknown method {_short(method)}"
    )
    entry = GainEntry(activation=name, params=params, method=method, **numbers)
    try:
        derived = to_dict(entry)
    except ArithmeticError:
        raise TableError(f"{where}: the moments are too large or too small for a gain") from None
    for key in KEYS:
        if key not in numbers and key not in ("params", "method"):
            stored, value = data[key], derived[key]
            fits = stored is value
            if not fits and None not in (stored, value):
                fits = math.isclose(_number(stored, f"{where}: {key}"), value, rel_tol=ROUNDED)
            _require(fits, where, f"{key} is {_short(stored)}, but the moments give {value}")
    variance = entry.second_moment - entry.mean * entry.mean
    _require(  # it is found with more digits than that difference has
        abs(entry.variance - variance) <= ROUNDED * entry.second_moment + 4 * entry.error,
        where,
        f"variance is {entry.variance}, but the other moments give {variance}",
    )
    return entry


def _require(holds: bool, where: str, what: str) -> None:
    if not holds:
        raise TableError(f"{where}: {what}")


def _mapping(value: Any, where: str, keys: set[str] | None = None) -> dict[str, Any]:
    _require(isinstance(value, dict), where, f"expected a mapping, got {_short(value)}")
    if keys is not None and value.keys() != keys:
        found = _short(", ".join(map(str, value)))
        raise TableError(f"{where}: expected the keys {', '.join(sorted(keys))}, got {found}")
    return dict(value)


def _number(value: Any, where: str) -> float:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TableError(
            f"{where}: expected a finite number such as 0.5 or 1.0e-06, got {_short(value)}"
        )
    return float(value)


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise TableError(f"{where}: expected a lower_snake_case name, got {_short(value)}")
    return value


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, (dict, list)) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
