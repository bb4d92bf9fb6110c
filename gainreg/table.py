"""Tables of gains: YAML on disk, GainEntry in memory, and the look-up between them.

Nothing here imports numpy, scipy or pluggy, so that a look-up costs next to nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import math
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from gainreg.entry import GainEntry
from gainreg.errors import ParameterError, TableError
from gainreg.params import (
    METHODS,
    NAME,
    check_params,
    check_std,
    close_names,
    known_name,
    shortest,
)

if TYPE_CHECKING:
    from gainreg.activation import Activation

SCHEMA = 1
MAX_BYTES = 16 * 2**20
SHIPPED = Path(__file__).with_name("registry.yaml")
MAX_EVENTS = 3_000_000  # of YAML: more than a table of MAX_BYTES can need
HEADER = "# gainreg table; sha256 of all bytes after this line: "
# Names that a YAML 1.1 reader takes for something else unless they are quoted.
RESERVED = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}

# The numbers of an entry in the order of the file: (key, may be null).
NUMBERS = (
    ("std", False),
    ("gain", False),
    ("centered_gain", True),
    ("backward_gain", True),
    ("variance_slope", False),
    ("gradient_factor", True),
    ("mean", False),
    ("second_moment", False),
    ("derivative_second_moment", True),
)
ENTRY_KEYS = {"params", "method", "error", *(key for key, _ in NUMBERS)}


class Listing(NamedTuple):
    """What a table says of one activation.

    Attributes:
        aliases: its other names.
        params: parameter names and defaults, None where a value must be given.
        entries: its entries, in the order of the file.
    """

    aliases: tuple[str, ...]
    params: Mapping[str, float | None]
    entries: tuple[GainEntry, ...]


class GainTable:
    """Gains by activation, std and params, looked up exactly.

    Args:
        listings: by canonical name.
        names: from every name and alias to the canonical name; found from ``listings`` if left
            out.
    """

    def __init__(
        self, listings: Mapping[str, Listing], names: Mapping[str, str] | None = None
    ) -> None:
        self.listings = listings
        if names is None:
            names = {
                known: name for name, item in listings.items() for known in (name, *item.aliases)
            }
        self._names = names

    def __iter__(self) -> Iterator[GainEntry]:
        for listing in self.listings.values():
            yield from listing.entries

    def __len__(self) -> int:
        return sum(len(listing.entries) for listing in self.listings.values())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GainTable):
            return NotImplemented
        return dict(self.listings) == dict(other.listings)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<GainTable: {len(self)} entries of {len(self.listings)} activations>"

    def lookup(self, activation: str, std: float = 1.0, **params: float) -> GainEntry:
        """The entry of exactly that activation, std and params (defaults filled in).

        Raises:
            TableError: there is no such entry; the message names the nearest.
            ParameterError: a param is unknown or missing, or a number is none.
        """
        return self.entry(activation, std, params)

    def entry(self, activation: str, std: float, params: Mapping[str, Any]) -> GainEntry:
        """``lookup`` with the params in a mapping."""
        std = check_std(std)
        known = known_name(activation, self._names)
        if known is None:
            hint = close_names(activation, self._names)
            raise TableError(f"the table has no activation {activation!r}{hint and '; ' + hint}")
        name = self._names[known]
        listing = self.listings[name]
        values = check_params(name, listing.params, params)
        for entry in listing.entries:
            if entry.std == std and entry.params == values:
                # params of its own, lest a change to them change the table
                return dataclasses.replace(entry, params=dict(entry.params))
        raise TableError(
            f"the table has no entry for {_describe(name, std, values)}; "
            + _nearest(listing.entries, std, values)
            + "; add it with 'gainreg build', or resolve it live with gainreg.resolve"
        )

    def to_yaml(self) -> str:
        """The table as the text of its file, digest included; the same bytes every time.

        Raises:
            TableError: it could not be read back.
        """
        from gainreg import __version__

        lines = [f"schema: {SCHEMA}", f"generator: gainreg {__version__}", "activations:"]
        if not self.listings:
            lines[-1] += " {}"
        for name, listing in self.listings.items():
            lines += [
                f"  {_yaml(name)}:",
                f"    aliases: [{', '.join(map(_yaml, listing.aliases))}]",
                f"    params: {_yaml(listing.params)}",
                "    entries:" if listing.entries else "    entries: []",
            ]
            lines += [f"      - {_yaml(to_dict(entry))}" for entry in listing.entries]
        body = "\n".join(lines) + "\n"
        try:
            if len(body) > MAX_BYTES - 200:
                raise TableError(f"the table is larger than {MAX_BYTES // 2**20} MiB")
            _from_plain(_parse(body, "the table"), "the table")
        except TableError as error:
            raise TableError(f"this table could not be read back: {error}") from None
        return f"{HEADER}{hashlib.sha256(body.encode()).hexdigest()}\n{body}"

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table to a file, whole or not at all: a crash leaves the old one.

        Raises:
            TableError: the file cannot be written, or could not be read back.
        """
        text = self.to_yaml()
        temporary = ""
        try:
            target = Path(os.path.realpath(path))  # a link stays a link
            if target.exists() and not target.is_file():
                raise TableError(f"cannot write {str(path)!r}: it is there and is no regular file")
            temporary = f"{target.parent}/.{target.name}.{secrets.token_hex(8)}"
            with open(temporary, "xb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                os.chmod(temporary, target.stat().st_mode & 0o777)
            os.replace(temporary, target)
            _sync_folder(target.parent)
        except BaseException as error:
            if temporary:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            if isinstance(error, (OSError, TypeError, ValueError)):
                reason = getattr(error, "strerror", None) or error
                raise TableError(f"cannot write {str(path)!r}: {reason}") from error
            raise


def to_dict(entry: GainEntry) -> dict[str, Any]:
    """An entry as plain data: the keys and the order of the file, None where a gain is missing."""
    has_derivative = bool(entry.derivative_second_moment)
    return {
        "params": dict(entry.params),
        "std": entry.std,
        "gain": entry.gain,
        "centered_gain": entry.centered_gain,
        "backward_gain": entry.backward_gain if has_derivative else None,
        "variance_slope": entry.variance_slope,
        "gradient_factor": entry.gradient_factor,
        "mean": entry.mean,
        "second_moment": entry.second_moment,
        "derivative_second_moment": entry.derivative_second_moment,
        "method": entry.method,
        "error": entry.error,
    }


def from_dict(name: str, data: Any, where: str) -> GainEntry:
    """The entry of activation ``name`` that ``to_dict`` made into plain data, checked.

    Raises:
        TableError: it breaks the schema, or its numbers contradict each other.
    """
    given = _mapping(data, where).get("params")
    declared = {_name(key, where): None for key in _mapping(given, f"{where}: params")}
    return _entry(name, data, declared, where)


def load_table(path: str | os.PathLike[str] | None = None, verify: bool = True) -> GainTable:
    """Read a table.

    Args:
        path: its file; None for the table of all built-in activations that gainreg ships.
        verify: refuse a file whose digest does not fit its bytes. False takes a file written or
            edited by hand; the schema is checked all the same.

    Raises:
        TableError: the file is missing, unreadable, too large, damaged, or breaks the schema.
    """
    if path is None:
        return _shipped()
    where = str(path)
    body = _body(_read(path), where, verify)
    return _from_plain(_parse(body, where), where)


def entry_for(
    activation: str | Activation | Callable[..., Any],
    std: float,
    params: Mapping[str, Any],
    table: GainTable | str | os.PathLike[str] | None = None,
) -> GainEntry:
    """The entry that an adapter or ``gainreg.gain`` answers from.

    Args:
        activation: a name, an ``Activation``, or a vectorised callable.
        std: standard deviation of the pre-activation.
        params: the activation's parameters, where they differ from the defaults.
        table: a table or its path: every constant comes from there. None for the shipped table
            and, for what it lacks, a live resolve.

    Raises:
        TableError: ``table`` has no such entry, or cannot be read.
        UnknownActivationError, ParameterError, MomentError, PluginError: as ``gainreg.resolve``.
    """
    if table is not None:
        if not isinstance(activation, str):
            from gainreg.activation import Activation

            if not isinstance(activation, Activation):
                raise TableError(
                    f"a table knows activations by name, and {activation!r} has none; "
                    "pass a name, or leave table= out"
                )
            activation = activation.name
        whole = table if isinstance(table, GainTable) else load_table(table)
        return whole.entry(activation, std, params)
    if isinstance(activation, str):
        with contextlib.suppress(TableError, ParameterError):  # the resolver says it better
            return _shipped().entry(activation, std, params)
    from gainreg.resolver import entries

    return entries(activation, [check_std(std)], params)[0]


# --- reading ---


def _read(path: str | os.PathLike[str]) -> bytes:
    if not isinstance(path, (str, os.PathLike)):  # open() would take a number for a file at hand
        raise TableError(f"a table is a GainTable or the path of a file, got {path!r}")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TableError(f"cannot read table {str(path)!r}: {error.strerror}") from error
    except (TypeError, ValueError) as error:
        raise TableError(f"{path!r} is no path of a table: {error}") from error
    if len(data) > MAX_BYTES:
        raise TableError(f"{str(path)!r} is larger than {MAX_BYTES // 2**20} MiB, no gain table is")
    return data


def _body(data: bytes, where: str, verify: bool) -> str:
    """The text after the digest line, the digest checked."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise TableError(f"{where!r} is no gain table: it is not UTF-8 text") from None
    if not verify:
        return text
    head, _, body = text.partition("\n")
    if not head.startswith(HEADER):
        raise TableError(
            f"{where!r} does not begin with the digest line of a gain table; make one with "
            "'gainreg build', or read a hand-written one with load_table(path, verify=False)"
        )
    if head[len(HEADER) :] != hashlib.sha256(body.encode()).hexdigest():
        raise TableError(
            f"{where!r} is damaged or was edited: its digest does not fit its content; build it "
            "again, or read it with load_table(path, verify=False)"
        )
    return body


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?([0-9]{1,400}\.[0-9]{0,1100}|\.[0-9]{1,1100})([eE][-+][0-9]{1,5})?")


def _parse(body: str, where: str) -> Any:
    """Plain data from YAML: mappings with text keys, lists, text, numbers, null; nothing else.

    Numbers are those that YAML 1.1 and 1.2 read alike; dates, octals and the like are text.
    """
    open_nodes: list[Any] = [[]]
    keys: list[Any] = []  # of each open mapping, the key that waits for its value

    def put(value: Any) -> None:
        parent = open_nodes[-1]
        if isinstance(parent, list):
            parent.append(value)
        elif keys[-1] is None:
            if not isinstance(value, str) or value in parent:
                raise TableError(f"{where!r}: a key is no text or stands twice: {_short(value)}")
            keys[-1] = value
        else:
            parent[keys[-1]] = value
            keys[-1] = None

    try:
        for count, event in enumerate(yaml.parse(body, Loader=_Loader)):
            if getattr(event, "tag", None) is not None or getattr(event, "anchor", None):
                raise TableError(f"{where!r} has YAML tags, anchors or aliases; tables have none")
            if isinstance(event, yaml.ScalarEvent):
                put(_scalar(event))
            elif isinstance(event, yaml.CollectionStartEvent):
                is_mapping = isinstance(event, yaml.MappingStartEvent)
                open_nodes.append({} if is_mapping else [])
                if is_mapping:
                    keys.append(None)
            elif isinstance(event, yaml.CollectionEndEvent):
                node = open_nodes.pop()
                if isinstance(node, dict):
                    keys.pop()
                put(node)
            if len(open_nodes) > 9:
                raise TableError(f"{where!r} is nested too deeply for a gain table")
            if count > MAX_EVENTS:
                raise TableError(f"{where!r} has more parts than any gain table")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TableError(f"{where!r} is not valid YAML: {reason}") from error
    documents = open_nodes[0]
    if len(documents) != 1:
        raise TableError(f"{where!r} is no gain table: it has {len(documents)} YAML documents")
    return documents[0]


def _scalar(event: Any) -> Any:
    text: str = event.value
    if not event.implicit[0]:  # quoted
        return text
    if text in ("null", "~", ""):
        return None
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _require(holds: bool, where: str, what: str) -> None:
    if not holds:
        raise TableError(f"{where}: {what}")


def _mapping(value: Any, where: str, keys: set[str] | None = None) -> dict[str, Any]:
    _require(
        isinstance(value, dict) and all(isinstance(key, str) for key in value),
        where,
        f"expected a mapping with text keys, got {_short(value)}",
    )
    if keys is not None:
        _require(
            set(value) == keys,
            where,
            f"expected the keys {', '.join(sorted(keys))}, got {_short(', '.join(value))}",
        )
    return dict(value)


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, (dict, list)) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def _number(value: Any, where: str) -> float:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TableError(
            f"{where}: expected a finite number such as 0.5 or 1.0e-06, got {_short(value)}"
        )
    return float(value)


def _name(value: Any, where: str) -> str:
    _require(
        isinstance(value, str) and NAME.fullmatch(value) is not None,
        where,
        f"expected a lower_snake_case name, got {_short(value)}",
    )
    return str(value)


def _from_plain(data: Any, where: str) -> GainTable:
    """A table from plain data, every part of it checked against the schema."""
    _require(isinstance(data, dict) and "schema" in data, where, "it is no gain table: no schema")
    _require(
        type(data["schema"]) is int and data["schema"] == SCHEMA,
        where,
        f"schema {_short(data['schema'])} is not known to this gainreg, which reads schema "
        f"{SCHEMA}; a newer gainreg may read it",
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
    return GainTable(listings)


def _listing(name: str, data: Any, where: str) -> Listing:
    data = _mapping(data, where, {"aliases", "params", "entries"})
    for key in ("aliases", "entries"):
        _require(isinstance(data[key], list), where, f"{key} must be a list")
    params = {
        _name(key, where): None if value is None else _number(value, f"{where}: param {key}")
        for key, value in _mapping(data["params"], f"{where}: params").items()
    }
    entries = tuple(_entry(name, item, params, where) for item in data["entries"])
    keys = {(entry.std, tuple(entry.params.items())) for entry in entries}
    _require(len(keys) == len(entries), where, "two entries have the same std and params")
    aliases = tuple(_name(alias, f"{where}: aliases") for alias in data["aliases"])
    return Listing(aliases, params, entries)


def _entry(name: str, data: Any, declared: Mapping[str, float | None], where: str) -> GainEntry:
    data = _mapping(data, f"{where}: entry", ENTRY_KEYS)
    where = f"{where} at std {_short(data['std'])}"
    given = _mapping(data["params"], f"{where}: params", set(declared))
    params = {key: _number(given[key], f"{where}: param {key}") for key in declared}
    numbers = {
        key: None if nullable and data[key] is None else _number(data[key], f"{where}: {key}")
        for key, nullable in NUMBERS
    }
    error = _number(data["error"], f"{where}: error")
    method = data["method"]
    _require(
        isinstance(method, str) and method in METHODS, where, f"unknown method {_short(method)}"
    )
    for key in ("std", "gain", "second_moment", "centered_gain", "backward_gain"):
        value = numbers[key]
        _require(value is None or value > 0, where, f"{key} must be above 0, got {value}")
    _require(error >= 0, where, f"error must not be negative, got {error}")
    slope_second = numbers["derivative_second_moment"]
    _require(slope_second is None or slope_second >= 0, where, "a second moment is negative")
    entry = GainEntry(
        activation=name,
        params=params,
        method=method,
        error=error,
        **{
            key: numbers[key]  # type: ignore[arg-type]
            for key in (
                "std",
                "mean",
                "second_moment",
                "derivative_second_moment",
                "centered_gain",
                "variance_slope",
            )
        },
    )
    try:
        derived = to_dict(entry)
    except ArithmeticError:
        raise TableError(f"{where}: the moments are too large or too small for a gain") from None
    for key, value in derived.items():
        if key in ("gain", "backward_gain", "gradient_factor"):
            stored = numbers[key]
            fits = (
                value is None and stored is None
                if value is None or stored is None
                else math.isclose(value, stored, rel_tol=1e-12)
            )
            _require(fits, where, f"{key} is {stored}, but the moments give {value}")
    # E[φ²] − E[φ]² is found with more digits than that difference has
    second, centered = entry.second_moment, entry.centered_gain
    variance = second - entry.mean * entry.mean
    stored = 0.0 if centered is None else (entry.std / centered) * (entry.std / centered)
    _require(
        abs(stored - variance) <= 1e-12 * second + 4 * error,
        where,
        f"centered_gain is {centered}, but the moments give a variance of {variance}",
    )
    # (z² − 1)/2 lies between −½ and what the largest z in double precision makes of it
    _require(
        -0.5 - 1e-9 <= entry.variance_slope <= 1e3,
        where,
        f"variance_slope cannot be {entry.variance_slope}",
    )
    return entry


# --- the shipped table ---


class _Shipped(Mapping[str, Listing]):
    """The listings of gainreg's own table, each parsed when first asked for.

    Parsing all of it would take ten times as long as the look-up that wants one line of it.
    """

    BLOCK = re.compile(r"^  (\w+):\n    aliases: \[(.*)\]\n(?:    .*\n)*", re.MULTILINE)

    def __init__(self, body: str) -> None:
        self._blocks: dict[str, str] = {}
        self.names: dict[str, str] = {}
        for match in self.BLOCK.finditer(body):
            name = match[1]
            self._blocks[name] = match[0]
            self.names[name] = name
            self.names.update((alias, name) for alias in filter(None, match[2].split(", ")))
        self._parsed: dict[str, Listing] = {}

    def __getitem__(self, name: str) -> Listing:
        if name not in self._parsed:
            where = str(SHIPPED)
            block = _parse(self._blocks[name], where)
            self._parsed[name] = _listing(name, block[name], f"{where}: {name}")
        return self._parsed[name]

    def __contains__(self, name: object) -> bool:
        return name in self._blocks

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)


@functools.cache
def _shipped() -> GainTable:
    listings = _Shipped(_body(_read(SHIPPED), str(SHIPPED), verify=True))
    return GainTable(listings, listings.names)


# --- writing ---


def _yaml(value: Any) -> str:
    """A value in YAML's flow style, the same in YAML 1.1 and 1.2."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_yaml(key)}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, float):
        text = repr(value)  # the shortest that reads back as the same double
        mantissa, e, exponent = text.partition("e")
        return text if "." in mantissa else f"{mantissa}.0{e}{exponent}"
    return f'"{value}"' if value in RESERVED else str(value)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _describe(name: str, std: float, params: Mapping[str, float]) -> str:
    given = "".join(f", {key}={shortest(value)}" for key, value in params.items())
    return f"{name}(std={shortest(std)}{given})"


def _nearest(entries: Iterable[GainEntry], std: float, params: Mapping[str, float]) -> str:
    def distance(entry: GainEntry) -> float:
        off = sum(abs(entry.params[key] - value) for key, value in params.items())
        return abs(math.log(entry.std) - math.log(std)) + off

    near = sorted(entries, key=distance)[:3]
    if not near:
        return "it has none for this activation"
    return "nearest: " + ", ".join(_describe(e.activation, e.std, e.params) for e in near)
