"""YAML files whose first line is a digest of the rest: tables of gains, plans of models.

They are written whole or not at all, and read within bounds of size and nesting, as plain data.
Every reader of YAML 1.1 or 1.2, in any language, reads the same from them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from gainreg.errors import GainregError, PlanError, TableError

# Bounds that keep a hostile file from taking all time or memory. 16 MiB hold 37,000 entries of a
# table, in 1.2 million events of the YAML parser; the params of an entry lie five deep.
MAX_BYTES = 16 * 2**20
MAX_EVENTS = 1_500_000
MAX_DEPTH = 8

# What is raised of a file, by what it holds.
FAULTS: dict[str, type[GainregError]] = {"table": TableError, "plan": PlanError}

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Numbers that YAML 1.1 and 1.2 read alike: no octals, no base 60, no exponent without a sign.
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?([0-9]{1,400}\.[0-9]{0,1100}|\.[0-9]{1,1100})([eE][-+][0-9]{1,5})?")
# Text that needs no quotes, unless YAML 1.1 takes it for a boolean or nothing.
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_RESERVED = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def header(kind: str) -> str:
    """What the first line of a "table" or a "plan" says before the digest."""
    return f"# gainreg {kind}; sha256 of all bytes after this line: "


def with_digest(body: str, kind: str) -> str:
    """The text of a file: its digest in a line, then the body."""
    return f"{header(kind)}{hashlib.sha256(body.encode()).hexdigest()}\n{body}"


def flow(value: Any) -> str:
    """A value in YAML's flow style: a mapping, list, text, number or None."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(key)}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, float):
        text = repr(value)  # the shortest that reads back as the same double
        mantissa, e, exponent = text.partition("e")
        return text if "." in mantissa else f"{mantissa}.0{e}{exponent}"
    if isinstance(value, str) and (not _WORD.fullmatch(value) or value.lower() in _RESERVED):
        escaped = value.encode("unicode_escape").decode()  # with YAML's own escapes, all of them
        return '"' + escaped.replace('"', '\\"') + '"'
    return str(value)


def write(path: str | os.PathLike[str], text: str, fault: type[GainregError] = TableError) -> None:
    """Write a file, whole or not at all: a crash leaves the old one.

    Raises:
        GainregError: it cannot be written; the class is ``fault``.
    """
    try:
        target = Path(os.path.realpath(path))  # a link stays a link
        if target.exists() and not target.is_file():
            raise fault(f"cannot write {str(path)!r}: it is there and is no regular file")
        temporary = f"{target.parent}/.{target.name}.{os.urandom(8).hex()}"
        try:
            with open(temporary, "xb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                os.chmod(temporary, target.stat().st_mode & 0o777)
            os.replace(temporary, target)
        finally:
            with contextlib.suppress(OSError):  # it is not there any more if all went well
                os.unlink(temporary)
    except (OSError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise fault(f"cannot write {str(path)!r}: {reason}") from error


def read(path: str | os.PathLike[str], kind: str, verify: bool = True) -> Any:
    """The plain data of a file of a kind, "table" or "plan".

    Unless ``verify`` is False its digest must fit its bytes.

    Raises:
        TableError, PlanError: the file is missing, unreadable, too large, damaged, or no YAML of
            this kind.
    """
    fault = FAULTS[kind]
    if not isinstance(path, (str, os.PathLike)):  # open() would take a number for a file at hand
        raise fault(f"expected a {kind} or the path of its file, got {path!r}")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise fault(f"cannot read {kind} {str(path)!r}: {error.strerror}") from error
    except (TypeError, ValueError) as error:
        raise fault(f"{path!r} is no path of a {kind}: {error}") from error
    where = str(path)
    if len(data) > MAX_BYTES:
        raise fault(f"{where!r} is larger than {MAX_BYTES // 2**20} MiB; no {kind} is")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise fault(f"{where!r} is no gainreg {kind}: it is not UTF-8 text") from None
    if verify:
        head, _, body = text.partition("\n")
        damage = "is damaged or was edited: its digest does not fit its content"
        if not head.startswith(header(kind)):
            damage = f"does not begin with the digest line of a gainreg {kind}"
        elif text == with_digest(body, kind):
            damage = ""
        if damage:
            raise fault(
                f"{where!r} {damage}; make it again, or read one that was written or edited by "
                f"hand with load_{kind}(path, verify=False)"
            )
    return parse(text, where, fault)


def parse(text: str, where: str, fault: type[GainregError] = TableError) -> Any:
    """Plain data from YAML: mappings with text keys, lists, text, numbers, null; nothing else.

    Dates, octals, booleans and the like are text.

    Raises:
        GainregError: it is no such YAML, or out of bounds; the class is ``fault``.
    """
    try:
        if len(text) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES // 2**20} MiB")
        events = _events(text)
        documents = [_node(next(events), events, 0) for e in events if e.__class__ is _Document]
        if len(documents) != 1:
            raise ValueError(f"it has {len(documents)} documents, expected one")
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise fault(f"{where!r} is not valid YAML of gainreg: {reason}") from error
    return documents[0]


_Document = yaml.DocumentStartEvent


def _events(text: str) -> Iterator[Any]:
    """The events of a YAML text, as long as they are plain and not too many."""
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if getattr(event, "tag", None) is not None or getattr(event, "anchor", None):
            raise ValueError("it has tags, anchors or aliases, which are not used here")
        if count > MAX_EVENTS:
            raise ValueError("it has too many parts")
        yield event


def _node(event: Any, events: Iterator[Any], depth: int) -> Any:
    """The value that begins with ``event``; its other events are taken from ``events``."""
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event)
    if depth == MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_node(event, events, depth + 1))
        return items
    mapping: dict[str, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key = _node(event, events, depth + 1)
        if not isinstance(key, str) or key in mapping:
            raise ValueError(f"a key is no text or stands twice: {key!r:.80}")
        mapping[key] = _node(next(events), events, depth + 1)
    return mapping


def _scalar(event: Any) -> Any:
    text: str = event.value
    if not event.implicit[0]:  # quoted
        return text
    if text in ("null", "~", ""):
        return None
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
