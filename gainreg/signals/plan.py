"""Plan: what would be set and why, as a document that another process can carry out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from gainreg.errors import PlanError

SCHEMA = 1
HEADER = "# gainreg plan; sha256 of all bytes after this line: "
STATUSES = ("set", "zeroed", "kept", "tied", "unreached")

# What a file may hold: a plan of a model with 10⁵ parameters is 20 MB.
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class PlannedWeight:
    """A weight and what it is to be set to.

    Attributes:
        name: of the parameter.
        operation: what it is used in.
        fan_in: inputs that an output sums over, as far as they lie inside the padding.
        std: standard deviation to set.
        fed_by: what feeds it.
    """

    name: str
    operation: str
    fan_in: float
    std: float
    fed_by: str


@dataclass(frozen=True)
class PlannedParameter:
    """A parameter and what is to happen to it.

    Attributes:
        shape: of it.
        status: "set", "zeroed", "kept", "tied" or "unreached".
        reason: why.
        std: to set, where the status is "set".
    """

    shape: tuple[int, ...]
    status: str
    reason: str
    std: float | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be set in a model.

    Attributes:
        weights: in order of first use.
        listed: every parameter by name, with shape, status and reason.
        options: residual, output_std and criterion, as they were asked for.
        warnings: sentences.
    """

    weights: tuple[PlannedWeight, ...]
    listed: Mapping[str, PlannedParameter]
    options: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    @property
    def parameters(self) -> dict[str, tuple[str, str]]:
        """Name → (status, reason), as in a report."""
        return {name: (item.status, item.reason) for name, item in self.listed.items()}

    def to_yaml(self) -> str:
        """The plan as the text of its file, digest included; the same bytes every time."""
        from gainreg import __version__

        lines = [f"schema: {SCHEMA}", f"generator: {_text(f'gainreg {__version__}')}"]
        lines.append(f"options: {_flow(self.options)}")
        lines.append("weights:" if self.weights else "weights: []")
        for weight in self.weights:
            lines.append(f"  - {_flow({f.name: getattr(weight, f.name) for f in fields(weight)})}")
        lines.append("parameters:" if self.listed else "parameters: []")
        for name, item in self.listed.items():
            lines.append(
                "  - "
                + _flow(
                    {
                        "name": name,
                        "shape": list(item.shape),
                        "status": item.status,
                        "std": item.std,
                        "reason": item.reason,
                    }
                )
            )
        lines.append("warnings:" if self.warnings else "warnings: []")
        lines += [f"  - {_text(sentence)}" for sentence in self.warnings]
        body = "\n".join(lines) + "\n"
        return f"{HEADER}{hashlib.sha256(body.encode()).hexdigest()}\n{body}"

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to a file, whole or not at all: a crash leaves the old one.

        Raises:
            PlanError: the file cannot be written.
        """
        try:
            write_atomically(path, self.to_yaml())
        except (OSError, TypeError, ValueError) as error:
            raise PlanError(f"cannot write plan {str(path)!r}: {error}") from error

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Compare names and shapes with a model's.

        Raises:
            PlanError: they are not the plan's, naming which and how many.
        """
        missing = [name for name in self.listed if name not in shapes]
        added = [name for name in shapes if name not in self.listed]
        other = [
            f"{name} {shapes[name]} instead of {item.shape}"
            for name, item in self.listed.items()
            if name in shapes and tuple(shapes[name]) != item.shape
        ]
        faults = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
            for names, what in (
                (missing, "parameters of the plan are not in the model"),
                (added, "parameters of the model are not in the plan"),
                (other, "parameters have another shape"),
            )
            if names
        ]
        if faults:
            raise PlanError(
                f"this is a plan of another model: {'; '.join(faults)}; nothing was set; "
                "make a plan of this one"
            )


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan that ``Plan.write`` wrote.

    Raises:
        PlanError: the file is missing, unreadable, damaged, edited, or no plan.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise PlanError(f"a plan is read from the path of a file, got {path!r}")
    where = str(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode()
    except (OSError, ValueError) as error:
        raise PlanError(f"cannot read plan {where!r}: {error}") from error
    head, _, body = text.partition("\n")
    if len(data) > MAX_BYTES or not head.startswith(HEADER):
        raise PlanError(f"{where!r} is no gainreg plan: it lacks the digest line that begins one")
    if head[len(HEADER) :] != hashlib.sha256(body.encode()).hexdigest():
        raise PlanError(
            f"{where!r} is damaged or was edited: its digest does not fit its content; make the "
            "plan again"
        )
    try:
        return _from_plain(yaml.load(body, Loader=_Loader))
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PlanError(f"{where!r} is no plan that this gainreg reads: {reason}") from error


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _from_plain(data: Any) -> Plan:
    if data["schema"] != SCHEMA:
        raise ValueError(f"schema {data['schema']!r} is not {SCHEMA}")
    weights = tuple(
        PlannedWeight(
            str(item["name"]),
            str(item["operation"]),
            float(item["fan_in"]),
            _size(item["std"]),
            str(item["fed_by"]),
        )
        for item in data["weights"]
    )
    listed = {}
    for item in data["parameters"]:
        if item["status"] not in STATUSES:
            raise ValueError(f"unknown status {item['status']!r}")
        std = None if item["std"] is None else _size(item["std"])
        listed[str(item["name"])] = PlannedParameter(
            tuple(int(size) for size in item["shape"]), item["status"], str(item["reason"]), std
        )
    return Plan(weights, listed, dict(data["options"]), tuple(map(str, data["warnings"])))


def _size(value: Any) -> float:
    number = float(value)
    if not (0 <= number < math.inf):
        raise ValueError(f"a std must be finite and not below 0, got {value!r}")
    return number


def _flow(value: Any) -> str:
    """A value in YAML's flow style, the same in YAML 1.1 and 1.2."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float):
        text = repr(value)  # the shortest that reads back as the same double
        mantissa, e, exponent = text.partition("e")
        return text if "." in mantissa else f"{mantissa}.0{e}{exponent}"
    return _text(value) if isinstance(value, str) else str(value)


def _text(value: str) -> str:
    """A double-quoted string: JSON's are YAML's."""
    return json.dumps(value)


def write_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Write a file whole or not at all; a link stays a link."""
    target = Path(os.path.realpath(path))
    temporary = target.parent / f".{target.name}.{secrets.token_hex(8)}"
    try:
        with open(temporary, "xb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            os.chmod(temporary, target.stat().st_mode & 0o777)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
