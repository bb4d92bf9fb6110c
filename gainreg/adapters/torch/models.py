"""Whole PyTorch models: plan, apply_, measure and initialize_."""

from __future__ import annotations

import contextlib
import copy
import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from gainreg.adapters.torch import rules as _  # noqa: F401  registers the rules
from gainreg.adapters.torch.rules.recurrent import unseen
from gainreg.adapters.torch.tracer import Trace, Tracing, tensors_in
from gainreg.adapters.torch.weights import fill
from gainreg.errors import MomentError, ParameterError
from gainreg.signals import models
from gainreg.signals.plan import Plan
from gainreg.signals.report import SignalReport
from gainreg.signals.signal import Signal
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

    def is_floating(self, parameter: Tensor) -> bool:
        """Whether it holds real floating-point numbers."""
        return parameter.is_floating_point()

    def run(self, args: Any, kwargs: Any, values: bool) -> Tape:
        """The tape of one run. Lazy parameters get their shapes: in a copy, or if the model is to
        be set in the model itself."""
        module = self.module
        if any(nn.parameter.is_lazy(p) for p in module.parameters()):
            module = module if values else copy.deepcopy(module)
            args, kwargs = _arguments(args, kwargs)
            with _unchanged(module), torch.no_grad():
                module(*args, **kwargs)
        if values:
            self.check_values()
        return _run(module, args, kwargs)

    def probe(self, args: Any, kwargs: Any, backward: bool) -> tuple[Tape, dict[Node, Measured]]:
        """The tape of one run, and what was measured on it."""
        probe = _Probe(backward)
        return _run(self.module, args, kwargs, probe), probe.found

    def calibrate(self, args: Any, kwargs: Any, targets: Mapping[str, float]) -> None:
        """Rescale each weight at its first use."""
        _run(self.module, args, kwargs, _Calibration(self.module, targets))

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


# --- one run ---


class _Probe:
    """Measures what goes in and out of each weight, and the gradient by its output."""

    def __init__(self, backward: bool) -> None:
        self.backward = backward
        self.found: dict[Node, Measured] = {}
        self.warnings: list[str] = []
        self._waiting: list[tuple[Node, Tensor]] = []
        self._gradients: dict[Node, float] = {}

    def weighed(self, node: Node, x: Tensor, y: Tensor, size: int) -> None:
        """Called when a weight was used; ``size`` of x's elements are no padding."""
        fed = _rms(x) * math.sqrt(x.numel() / size)
        self.found[node] = Measured(fed, _rms(y), None)
        self._waiting.append((node, y))

    def between(self) -> None:
        """Called before each operation, when autograd knows of the output before."""
        for node, y in self._waiting:
            if self.backward and y.requires_grad:
                y.register_hook(self._hook(node))  # type: ignore[no-untyped-call]
        self._waiting.clear()

    def _hook(self, node: Node) -> Callable[[Tensor], None]:
        def keep(gradient: Tensor) -> None:
            self._gradients[node] = _rms(gradient)

        return keep

    def finish(self, outputs: list[Tensor], parameters: list[nn.Parameter]) -> None:
        """Go back through the model, once."""
        self.between()
        ends = [y for y in outputs if y.requires_grad]
        if not self.backward or not ends:
            return
        source = torch.Generator().manual_seed(0)
        loss = [
            torch.randn(y.shape, generator=source, dtype=torch.float32).to(y.device, y.dtype)
            for y in ends
        ]
        try:
            torch.autograd.grad(ends, parameters, loss, allow_unused=True)
        except RuntimeError as error:
            if "use_reentrant" not in str(error):
                raise
            self.warnings.append(
                "gradients were not measured: reentrant checkpointing does not allow it"
            )
        for node, rms in self._gradients.items():
            self.found[node] = self.found[node]._replace(gradient_rms=rms)


class _Calibration(_Probe):
    """Rescales each weight at its first use, and its output with it, by what feeds it in fact."""

    def __init__(self, model: nn.Module, targets: Mapping[str, float]) -> None:
        super().__init__(False)
        self.targets = dict(targets)
        self.parameters = dict(model.named_parameters())

    def weighed(self, node: Node, x: Tensor, y: Tensor, size: int) -> None:
        """Called when a weight was used; biases are added later or are 0, so that its output scales
        with it."""
        target, fed = self.targets.pop(node.weight, None), _rms(x) * math.sqrt(x.numel() / size)
        if target is None or not fed:
            return
        weight = self.parameters[node.weight]
        inputs = node.facts["fan_in"] * node.facts["taps"]
        factor = math.sqrt(target / inputs) / (_rms(weight) * fed)
        weight.mul_(factor)
        y.mul_(factor)


def _run(
    model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None, probe: _Probe | None = None
) -> Tape:
    """The tape of one run of a model, on which it leaves no other mark."""
    args, kwargs = _arguments(args, kwargs)
    trace = Trace(model)
    mode = Tracing(trace)
    if probe is not None:
        trace.weighed, mode.before = probe.weighed, probe.between
    describe = getattr(model, "describe_input", Trace.describe_input)
    for tensor in tensors_in((args, kwargs)):
        describe(trace, tensor)
    backward = probe is not None and probe.backward
    with (
        _unchanged(model),
        _differentiable(model, backward) as parameters,
        torch.inference_mode(False),
        torch.set_grad_enabled(backward),
        unseen(model, mode),
    ):
        try:
            with mode:
                result = model(*args, **kwargs)
        except (ParameterError, MomentError):
            raise
        except Exception as error:
            _explain(error, model)
            raise
        outputs = [y for y in _outputs(result) if y.is_floating_point()]
        entries = [trace.entry(y) for y in outputs]
        trace.tape.outputs = [e.node for e in entries if isinstance(e, Signal)]
        if probe is not None:
            probe.finish(outputs, parameters)
            trace.tape.warnings += probe.warnings
    trace.tape.prune()
    return trace.tape


def _outputs(result: Any) -> Iterator[Tensor]:
    if isinstance(result, (Tensor, dict, tuple, list)):
        yield from tensors_in(dict(result) if isinstance(result, dict) else result)
    elif hasattr(result, "__dict__"):
        yield from tensors_in(vars(result))


@contextlib.contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Buffers, mode and every random state, put back however it ends."""
    kept = {
        name: buffer.clone()
        for name, buffer in model.named_buffers()
        if not nn.parameter.is_lazy(buffer)
    }
    modes = {module: module.training for module in model.modules()}
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  models draw from it
    devices = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)  # type: ignore[no-untyped-call]
    fast = torch.backends.mha.get_fastpath_enabled()
    # the encoder's fused form is one operation of many weights; the plain one is the same model
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in kept and not _same_bits(buffer, kept[name]):
                    buffer.copy_(kept[name])


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.device.type == "meta" or a is b or bool(torch.equal(a, b))


@contextlib.contextmanager
def _differentiable(model: nn.Module, wanted: bool) -> Iterator[list[nn.Parameter]]:
    """The floating parameters, requiring gradients while it lasts."""
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    if not wanted:
        yield parameters
        return
    frozen = [p for p in parameters if not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield parameters
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _rms(tensor: Tensor) -> float:
    """Root mean square, of what is as small or large as single precision holds, too."""
    x = tensor.detach()
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    largest = float(x.abs().max())
    if not 0 < largest < math.inf:
        return largest
    return largest * math.sqrt(float((x / largest).square().mean()))


# --- arguments and errors ---


def _arguments(args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    given = models.arguments(args, kwargs, lambda x: isinstance(x, Tensor), "a tensor")
    # clones, as a model may work in place on what it is given; and no inference tensors
    with torch.inference_mode(False), torch.no_grad():
        args, kwargs = tree_map_only(Tensor, torch.clone, given)
    if next(tensors_in((args, kwargs)), None) is None:
        raise ParameterError("no tensor is among the example inputs; give the model's arguments")
    return args, kwargs


def _explain(error: Exception, model: nn.Module) -> None:
    """Say on the model's own error what gainreg was doing, and what helps on the meta device."""
    error.add_note(
        f"gainreg was running {type(model).__name__} on the example inputs; nothing was set"
    )
    if any(p.device.type == "meta" for p in model.parameters()):
        error.add_note(
            "the model is on the meta device, where tensors have no values: if its code asks one "
            "for its value, plan on a small model with values instead"
        )
