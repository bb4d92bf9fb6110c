"""Plan: what would be set and why, as a document that another process can carry out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from gainreg import document
from gainreg.errors import PlanError

SCHEMA = 1
STATUSES = ("set", "zeroed", "kept", "tied", "unreached")


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

        lines = [f"schema: {SCHEMA}", f"generator: {document.flow(f'gainreg {__version__}')}"]
        lines.append(f"options: {document.flow(self.options)}")
        weights = [
            {f.name: getattr(weight, f.name) for f in fields(weight)} for weight in self.weights
        ]
        parameters = [
            {
                "name": name,
                "shape": item.shape,
                "status": item.status,
                "std": item.std,
                "reason": item.reason,
            }
            for name, item in self.listed.items()
        ]
        for key, items in (
            ("weights", weights),
            ("parameters", parameters),
            ("warnings", self.warnings),
        ):
            lines.append(f"{key}:" if items else f"{key}: []")
            lines += [f"  - {document.flow(item)}" for item in items]
        return document.with_digest("\n".join(lines) + "\n", "plan")

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to a file, whole or not at all: a crash leaves the old one.

        Raises:
            PlanError: the file cannot be written.
        """
        document.write(path, self.to_yaml(), PlanError)

    def renamed(self, names: Callable[[str], str], shapes: Mapping[str, Sequence[int]]) -> Plan:
        """The plan of the same model in another framework, which names and stores its parameters in
        another way.

        A std belongs to a weight however its axes are stored, so all that changes are names and
        shapes.

        Args:
            names: the other framework's name for each of the plan's.
            shapes: the other model's, by those names.

        Raises:
            PlanError: two parameters get one name, or one is not in ``shapes`` or has another
                number of elements there, naming it.
        """
        new: dict[str, str] = {name: names(name) for name in self.listed}
        listed: dict[str, PlannedParameter] = {}
        for old, name in new.items():
            if name in listed:
                raise PlanError(f"two parameters, one of them {old!r}, get the name {name!r}")
            if name not in shapes:
                raise PlanError(
                    f"{old!r} gets the name {name!r}, which the other model does not have"
                )
            item, shape = self.listed[old], tuple(shapes[name])
            if math.prod(shape) != math.prod(item.shape):
                raise PlanError(
                    f"{old!r} has the shape {item.shape} and {name!r} has {shape}: they cannot be "
                    "the same weight"
                )
            listed[name] = replace(item, shape=shape)
        weights = tuple(replace(weight, name=new[weight.name]) for weight in self.weights)
        return replace(self, weights=weights, listed=listed)

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


def load_plan(path: str | os.PathLike[str], verify: bool = True) -> Plan:
    """Read a plan.

    Args:
        path: its file.
        verify: refuse a file whose digest does not fit its bytes. False takes one that was written
            or edited by hand.

    Raises:
        PlanError: the file is missing, unreadable, damaged, edited, or no plan.
    """
    data = document.read(path, "plan", verify)
    try:
        return _from_plain(data)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise PlanError(f"{str(path)!r} is no plan that this gainreg reads: {reason}") from error


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
