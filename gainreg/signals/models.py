"""Whole models: plan, apply, measure and initialize, the same in every framework.

An adapter takes a model apart into a ``Model``, which names its parameters, runs it, and writes to
them; what is done with that stands here, and so do the checks of what may be asked.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gainreg.errors import ParameterError
from gainreg.params import check_choice
from gainreg.signals.flow import Aims, Flow
from gainreg.signals.plan import Plan
from gainreg.signals.report import SignalReport
from gainreg.signals.summary import Measured, plan_of, report_of
from gainreg.signals.tape import Node, Parameter, Tape

DISTRIBUTIONS = ("normal", "truncated_normal", "uniform", "orthogonal")
CRITERIA = ("forward", "critical")


class Model(ABC):
    """A model taken apart.

    Attributes:
        kind: what sentences call it.
        shape_only: what sentences say of a parameter that has a shape and no numbers.
        kept: parameters that stay as they are whatever signals they meet: their shapes, and why.
    """

    kind: str
    shape_only: str
    kept: Mapping[str, tuple[tuple[int, ...], str]] = {}

    # --- what a framework says ---

    @abstractmethod
    def parameters(self) -> Mapping[str, Any]:
        """Its parameters, by every name that they have; each has a ``shape`` and a ``dtype``."""

    @abstractmethod
    def has_values(self, parameter: Any) -> bool:
        """Whether a parameter has numbers, and not a shape alone."""

    @abstractmethod
    def is_floating(self, parameter: Any) -> bool:
        """Whether a parameter holds real floating-point numbers."""

    @abstractmethod
    def run(self, args: Any, kwargs: Any, values: bool) -> Tape:
        """The tape of one run, on which the model leaves no mark; ``values`` says that it will be
        set or measured afterwards, so that it must have them."""

    @abstractmethod
    def probe(self, args: Any, kwargs: Any, backward: bool) -> tuple[Tape, dict[Node, Measured]]:
        """The tape of one run, and what was measured at each step with a weight."""

    @abstractmethod
    def calibrate(self, args: Any, kwargs: Any, targets: Mapping[str, float]) -> None:
        """Rescale each weight at its first use, and its output with it, so that by what feeds it in
        fact its output has the second moment that it aims at."""

    @abstractmethod
    def write(
        self, name: str, parameter: Any, std: float, fan_in: float, distribution: str, source: Any
    ) -> None:
        """Set a parameter to numbers of mean 0 and that standard deviation."""

    def divide(self, names: Sequence[str]) -> None:
        """Take parts of a parameter for parameters, where the names of a plan are theirs."""
        return  # most frameworks know no such parts

    def finish(self) -> Any:
        """What the user gets when all is set; None where that is the model itself."""
        return None

    def attempt(self, source: Any) -> contextlib.AbstractContextManager[None]:
        """While it lasts, whatever is raised leaves the model and the source as they were."""
        return contextlib.nullcontext()

    # --- what is done with it ---

    def plan(self, args: Any, kwargs: Any, **asked: Any) -> Plan:
        """What would be set, for the options ``residual``, ``output_std`` and ``criterion``."""
        options = checked(**asked)
        return plan_of(self._aimed(options, args, kwargs, values=False), options)

    def apply(self, plan: Plan, distribution: str, source: Any) -> None:
        """Set weights and biases as a plan says."""
        check_choice(distribution, "distribution", DISTRIBUTIONS)
        if not isinstance(plan, Plan):
            raise ParameterError(
                f"plan is what plan() or gainreg.load_plan(path) gives, got {type(plan).__name__}"
            )
        self.check_values()
        self.divide(list(plan.listed))
        parameters = self.parameters()
        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        plan.check({**shapes, **{name: shape for name, (shape, _) in self.kept.items()}})
        stds = {name: item.std for name, item in plan.listed.items() if item.status == "set"}
        self.check_floating(stds)
        stds |= {name: 0.0 for name, item in plan.listed.items() if item.status == "zeroed"}
        fans = {weight.name: weight.fan_in for weight in plan.weights}
        for name, std in stds.items():
            if std is not None:
                fan_in = fans.get(name, 1.0)
                self.write(name, parameters[name], std, fan_in, distribution, source)

    def measure(self, args: Any, kwargs: Any, backward: bool) -> SignalReport:
        """The model as it is: predicted and measured."""
        self.check_values()
        tape, found = self.probe(args, kwargs, backward)
        return report_of(Flow(self._accounted(tape), None), found)

    def initialize(
        self, args: Any, kwargs: Any, source: Any, distribution: str, calibrate: bool, **asked: Any
    ) -> SignalReport:
        """Plan, apply and measure."""
        options = checked(**asked)
        check_choice(distribution, "distribution", DISTRIBUTIONS)
        if calibrate and options["criterion"] != "forward":
            raise ParameterError(
                "calibrate goes with the criterion 'forward' only: biases have a size"
            )
        flow = self._aimed(options, args, kwargs, values=True)
        plan = plan_of(flow, options)
        with self.attempt(source):
            self.apply(plan, distribution, source)
            if calibrate:
                targets = {node.weight: flow.states[node].q for node in flow.targets}
                self.calibrate(args, kwargs, targets)
            report = self.measure(args, kwargs, True)
        return replace(report, parameters=plan.parameters)

    def check_values(self) -> None:
        """Refuse a model of which a parameter has only a shape.

        Raises:
            ParameterError: naming it.
        """
        for name, parameter in self.parameters().items():
            if not self.has_values(parameter):
                raise ParameterError(
                    f"the parameter {name!r} {self.shape_only}, so that nothing can be set or "
                    "measured; make a plan of it, and apply that to the real model"
                )

    def check_floating(self, names: Iterable[str]) -> None:
        """Refuse weights that are no real floating-point numbers.

        Raises:
            ParameterError: naming one.
        """
        parameters = self.parameters()
        for name in names:
            if not self.is_floating(parameters[name]):
                raise ParameterError(
                    f"the weight {name!r} has the type {parameters[name].dtype}; only real "
                    "floating-point weights can be set"
                )

    def _aimed(self, options: Mapping[str, Any], args: Any, kwargs: Any, values: bool) -> Flow:
        critical = options["criterion"] == "critical"
        aims = Aims(options["residual"], options["output_std"], critical)
        return Flow(self._accounted(self.run(args, kwargs, values)), aims)

    def _accounted(self, tape: Tape) -> Tape:
        """A tape of all parameters."""
        if not any(node.weighs for node in tape.nodes):
            kept = next((f"{name}: {why}" for name, why in tape.kept.items()), "")
            raise ParameterError(
                f"{self.kind} has no weights that a signal meets: there is nothing to set"
                + f" ({kept})" * bool(kept)
            )
        self.check_floating({node.weight for node in tape.nodes if node.weighs and node.weight})
        for name, (shape, reason) in self.kept.items():
            tape.parameters[name] = Parameter(name, shape, None, None)
            tape.keep(name, reason)
        return tape


# --- what may be asked ---


def checked(residual: Any, output_std: Any, criterion: Any) -> dict[str, Any]:
    """The options of a plan, as it keeps them.

    Raises:
        ParameterError: one of them is not what it must be.
    """

    def is_size(value: Any) -> bool:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and 0 < value < math.inf

    if residual is not None and not is_size(residual):
        raise ParameterError(
            f"residual is a finite number above 0, or None for a share of 1 a branch, got "
            f"{residual!r}"
        )
    if not is_size(output_std):
        raise ParameterError(f"output_std is a finite number above 0, got {output_std!r}")
    check_choice(criterion, "criterion", CRITERIA)
    return {
        "residual": None if residual is None else float(residual),
        "output_std": float(output_std),
        "criterion": criterion,
    }


def arguments(
    args: Any, kwargs: Any, is_tensor: Callable[[Any], bool], what: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A model's arguments; one tensor alone is the first of them.

    Raises:
        ParameterError: they are no tuple and no dict.
    """
    args = (args,) if is_tensor(args) else args
    if not isinstance(args, (tuple, list)) or not (kwargs is None or isinstance(kwargs, Mapping)):
        raise ParameterError(
            f"args is {what} or a tuple of example inputs, and kwargs a dict, got "
            f"{type(args).__name__} and {type(kwargs).__name__}"
        )
    return tuple(args), dict(kwargs or {})


def inputs_of(shape: Sequence[int], fan_in: float) -> range:
    """The axes of a weight that are its inputs: the first ones or the last, whose sizes come
    nearest to the fan-in, as frameworks store weights either way."""
    n = len(shape)
    sides = [side for i in range(1, n) for side in (range(i), range(i, n))]
    return min(sides, key=lambda side: abs(math.log(math.prod(shape[i] for i in side) / fan_in)))
