"""Whole PyTorch models: plan, apply_, measure and initialize_."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gainreg.adapters.torch.runs import Calibration, Probe, arguments, run, unchanged
from gainreg.adapters.torch.weights import fill
from gainreg.errors import ParameterError
from gainreg.signals import models
from gainreg.signals.plan import Plan
from gainreg.signals.report import SignalReport
from gainreg.signals.summary import Measured
from gainreg.signals.tape import Node, Tape


def plan(
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    residual: float | None = 1.0,
    output_std: float = 1.0,
    criterion: str = "forward",
) -> Plan:
    """What would be set in a model so that its signals keep their size; touches nothing.

    The model runs once on the example inputs. On the meta device nothing large is computed.

    Args:
        model: any module that runs eagerly.
        args: a tensor or a tuple of example inputs; their moments are measured, and count as
            those of standard normal numbers on the meta device.
        kwargs, residual, output_std, criterion: as for all adapters; see
            ``help(gainreg.adapters)``, which says what is raised too.
    """
    return Model(model).plan(
        args, kwargs, residual=residual, output_std=output_std, criterion=criterion
    )


def apply_(
    model: nn.Module,
    plan: Plan,
    *,
    distribution: str = "normal",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Set a model's weights and biases as a plan says, and return the model.

    Args:
        model: the model that the plan is of, or another with the same names and shapes.
        plan, distribution: as for all adapters; see ``help(gainreg.adapters)``, which says what is
            raised too. Nothing was set then.
        generator: the random numbers' source.
    """
    Model(model).apply(plan, distribution, generator)
    return model


def measure(
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    backward: bool = True,
) -> SignalReport:
    """The model as it is: its signals predicted and measured, in one pass forward and one back.

    Weights, gradients, buffers, mode and random state stay bit for bit as they were.

    Args:
        model, args, kwargs: as for ``plan``, with values.
        backward: as for all adapters; see ``help(gainreg.adapters)``.
    """
    return Model(model).measure(args, kwargs, backward)


def initialize_(
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    residual: float | None = 1.0,
    output_std: float = 1.0,
    criterion: str = "forward",
    distribution: str = "normal",
    calibrate: bool = False,
    generator: torch.Generator | None = None,
) -> SignalReport:
    """Plan, apply and measure: set a model's weights, and report on its signals.

    Args:
        model, args, kwargs, residual, output_std, criterion: as for ``plan``.
        distribution, generator: as for ``apply_``.
        calibrate: as for all adapters; see ``help(gainreg.adapters)``.
    """
    return Model(model).initialize(
        args, kwargs, generator, distribution, calibrate,
        residual=residual, output_std=output_std, criterion=criterion,
    )  # fmt: skip


class Model(models.Model):
    """A module of PyTorch.

    Raises:
        ParameterError: it is none, or is nothing that can be followed and set.
    """

    shape_only = "is on the meta device"

    def __init__(self, module: Any) -> None:
        if hasattr(module, "_orig_mod"):
            raise ParameterError("the model is wrapped by torch.compile; give the original model")
        if isinstance(module, torch.jit.ScriptModule):
            raise ParameterError("the model is scripted; give the original model")
        if not isinstance(module, nn.Module):
            raise ParameterError(f"a model is a torch.nn.Module, got {type(module).__name__}")
        self.module, self.kind = module, type(module).__name__
        if next(module.parameters(), None) is None:
            raise ParameterError(f"{self.kind} has no parameters: there is nothing to set")
        for name, parameter in module.named_parameters():
            if not nn.parameter.is_lazy(parameter) and parameter.is_inference():
                raise ParameterError(
                    f"the weight {name!r} was made in inference mode and cannot be set; make the "
                    "model outside of torch.inference_mode"
                )

    def parameters(self) -> dict[str, nn.Parameter]:
        """Its parameters, by every name that they have."""
        parameters = dict(self.module.named_parameters(remove_duplicate=False))
        for name, parameter in parameters.items():
            if nn.parameter.is_lazy(parameter):
                raise ParameterError(
                    f"the parameter {name!r} is lazy and has no shape yet; run the model once, or "
                    "call initialize_"
                )
        return parameters

    def has_values(self, parameter: Tensor) -> bool:
        """Whether it is not on the meta device."""
        return not parameter.is_meta

    def is_floating(self, dtype: Any) -> bool:
        """Whether a type is one of real floating-point numbers."""
        return bool(dtype.is_floating_point)

    def run(self, args: Any, kwargs: Any, values: bool) -> Tape:
        """The tape of one run. Lazy parameters get their shapes: in a copy, or if the model is to
        be set in the model itself."""
        module = self.module
        if any(nn.parameter.is_lazy(p) for p in module.parameters()):
            module = module if values else copy.deepcopy(module)
            args, kwargs = arguments(args, kwargs)
            with unchanged(module), torch.no_grad():
                module(*args, **kwargs)
        if values:
            self.check_values()
        return run(module, args, kwargs)

    def probe(self, args: Any, kwargs: Any, backward: bool) -> tuple[Tape, dict[Node, Measured]]:
        """The tape of one run, and what was measured on it."""
        probe = Probe(backward)
        return run(self.module, args, kwargs, probe), probe.found

    def calibrate(self, args: Any, kwargs: Any, targets: Mapping[str, float]) -> None:
        """Rescale each weight at its first use."""
        run(self.module, args, kwargs, Calibration(self.module, targets))

    def write(
        self, name: str, parameter: Any, std: float, fan_in: float, distribution: str, source: Any
    ) -> None:
        """Fill a parameter in place."""
        with torch.no_grad():
            if not std:
                parameter.zero_()
                return
            if distribution == "orthogonal" and parameter.dim() > 1 and parameter.is_contiguous():
                inputs = models.inputs_of(parameter.shape, fan_in)
                parameter = parameter.flatten(0, (inputs.start or inputs.stop) - 1).flatten(1)
            fill(parameter, std, distribution, source)

    @contextlib.contextmanager
    def attempt(self, source: torch.Generator | None) -> Iterator[None]:
        """Whatever is raised leaves the parameters and the generator as they were."""
        source = source or torch.default_generator
        state = source.get_state()
        before = [(p, p.detach().clone()) for p in self.module.parameters()]
        try:
            yield
        except BaseException:
            with torch.no_grad():
                for parameter, numbers in before:
                    parameter.copy_(numbers)
            source.set_state(state)
            raise
