"""Whole PyTorch models: plan, apply_, measure and initialize_."""

from __future__ import annotations

import contextlib
import copy
import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from gainreg import scaling
from gainreg.adapters.torch import rules as _  # noqa: F401  registers the rules
from gainreg.adapters.torch.tracer import Trace, Tracing, tensors_in
from gainreg.adapters.torch.weights import fill
from gainreg.errors import MomentError, ParameterError
from gainreg.signals.flow import Aims, Flow
from gainreg.signals.options import check_calibration, check_distribution, check_plan, options
from gainreg.signals.plan import Plan
from gainreg.signals.report import SignalReport
from gainreg.signals.signal import Signal
from gainreg.signals.summary import Measured, accounts, plan_of, report_of
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
        kwargs: the model's keyword arguments.
        residual: what all branches of a residual stream together add to it, as a share of its
            second moment where it begins; None to let each branch add a second moment of 1.
        output_std: standard deviation of the model's output.
        criterion: "forward", or "critical" where the activations have a critical point.

    Raises:
        ParameterError: an option, the model or its inputs are not what they must be.
        MomentError: a signal dies or explodes on the way, naming the weight that it feeds.
        Exception: the model's own errors, with a note.
    """
    asked = options(residual, output_std, criterion)
    tape = _run(model, args, kwargs)
    flow = Flow(tape, Aims(residual, output_std, criterion == "critical"))
    return plan_of(flow, asked)


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
        plan: made by ``plan``, here or elsewhere.
        distribution: "normal", "truncated_normal" (at twice its std, which is widened), "uniform"
            or "orthogonal"; all have the same mean square.
        generator: the random numbers' source.

    Raises:
        PlanError: the plan is of another model; nothing was set.
        ParameterError: the model or the distribution is not what it must be.
    """
    check_distribution(distribution)
    check_plan(plan)
    parameters = _settable(model)
    plan.check({name: tuple(parameter.shape) for name, parameter in parameters.items()})
    _check_values(model)
    for name, item in plan.listed.items():
        if item.status == "set" and item.std is not None:
            _check_type(name, parameters[name])
    fans = {weight.name: weight.fan_in for weight in plan.weights}
    with torch.no_grad():
        for name, item in plan.listed.items():
            weight: Tensor = parameters[name]
            if item.status == "zeroed":
                weight.zero_()
            elif item.status == "set" and item.std is not None:
                if distribution == "orthogonal" and weight.dim() > 1 and weight.is_contiguous():
                    weight = weight.view(scaling.matrix(item.shape, fans.get(name, 1.0)))
                fill(weight, item.std, distribution, generator)
    return model


def measure(
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    backward: bool = True,
) -> SignalReport:
    """The model as it is: its signals predicted and measured, in one pass forward and one back.

    Weights, gradients, buffers, mode and random state stay bit for bit as they were. Gradients are
    those of a random loss: the sum of the outputs times independent standard normal numbers.

    Args:
        model, args, kwargs: as for ``plan``, with values.
        backward: measure gradients too.

    Raises:
        GainregError: as ``plan``.
    """
    probe = _Probe(backward)
    tape = _run(model, args, kwargs, probe)
    return report_of(Flow(tape, None), accounts(tape), probe.found)


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
        calibrate: set each weight from the measured second moment of what feeds it instead of the
            predicted one, just before its first use, in one pass.

    Raises:
        GainregError: as ``plan`` and ``apply_``; nothing was set then.
    """
    check_distribution(distribution)
    asked = options(residual, output_std, criterion)
    check_calibration(calibrate, criterion)
    _check_model(model)
    if any(nn.parameter.is_lazy(p) for p in model.parameters()):
        _shape(model, args, kwargs)
    _settable(model)
    _check_values(model)
    tape = _run(model, args, kwargs)
    flow = Flow(tape, Aims(residual, output_std, criterion == "critical"))
    planned = plan_of(flow, asked)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    source = generator or torch.default_generator
    state = source.get_state()
    try:
        apply_(model, planned, distribution=distribution, generator=generator)
        if calibrate:
            _run(model, args, kwargs, _Calibration(model, flow))
        probe = _Probe(True)
        tape = _run(model, args, kwargs, probe)
    except BaseException:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(before[name])
        source.set_state(state)
        raise
    return report_of(Flow(tape, None), planned.parameters, probe.found)


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

    def __init__(self, model: nn.Module, flow: Flow) -> None:
        super().__init__(False)
        self.targets = {node.weight: flow.states[node].q for node in flow.targets}
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


class _Pass(Tracing):  # type: ignore[no-untyped-call]
    """The tracing mode, with a probe."""

    def __init__(self, trace: Trace, probe: _Probe | None) -> None:
        super().__init__(trace)
        self.probe = probe

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.probe is not None:
            self.probe.between()
        return super().__torch_dispatch__(func, types, args, kwargs)


def _run(
    model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None, probe: _Probe | None = None
) -> Tape:
    """The tape of one run of a model, on which it leaves no other mark."""
    _check_model(model)
    args, kwargs = _arguments(args, kwargs)
    if any(nn.parameter.is_lazy(p) for p in model.parameters()):
        if probe is not None:
            raise ParameterError(
                "the model has lazy parameters without a shape; run it once, or call initialize_"
            )
        model = copy.deepcopy(model)
        _shape(model, args, kwargs)
    trace = Trace(model)
    if probe is not None:
        _check_values(model)
        trace.weighed = probe.weighed
    describe = getattr(model, "describe_input", Trace.describe_input)
    for tensor in tensors_in((args, kwargs)):
        describe(trace, tensor)
    backward = probe is not None and probe.backward
    with _unchanged(model), _differentiable(model, backward) as parameters:
        mode = _Pass(trace, probe)
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(backward),
            _opaque(model, mode),
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
    if not any(node.weighs for node in trace.tape.nodes):
        raise ParameterError(
            f"{type(model).__name__} has no weights that a signal meets: there is nothing to set"
        )
    return trace.tape


def _shape(model: nn.Module, args: Any, kwargs: Any) -> None:
    """Run a model with lazy parameters, so that they get their shapes."""
    args, kwargs = _arguments(args, kwargs)
    with _unchanged(model), torch.no_grad():
        model(*args, **kwargs)


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
    states = random.getstate(), torch.get_rng_state()
    import numpy as np

    numpy_state = np.random.get_state()  # noqa: NPY002  models draw from it
    on_devices = torch.cuda.get_rng_state_all() if _on_cuda() else None
    fast = torch.backends.mha.get_fastpath_enabled()
    # the encoder's fused form is one operation of many weights; the plain one is the same model
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        random.setstate(states[0])
        torch.set_rng_state(states[1])
        np.random.set_state(numpy_state)  # noqa: NPY002
        if on_devices is not None:
            torch.cuda.set_rng_state_all(on_devices)
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in kept and not _same_bits(buffer, kept[name]):
                    buffer.copy_(kept[name])


def _on_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


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


class Opaque(nn.Module):
    """A module that goes unseen, as recurrent layers do."""


@contextlib.contextmanager
def _opaque(model: nn.Module, mode: Tracing) -> Iterator[None]:
    """Recurrent layers go unseen: their output is what it is measured to be."""
    handles = []

    def enter(module: nn.Module, _args: Any) -> None:
        mode.paused += 1

    def leave(module: nn.Module, args: Any, result: Any) -> None:
        mode.paused -= 1
        if mode.paused:
            return
        trace = mode.trace
        names = {id(p): n for n, p in model.named_parameters()}
        kind = module.__class__.__name__
        for parameter in module.parameters():
            trace.tape.keep(names[id(parameter)], f"part of {kind}: recurrent layers are kept")
        signals = [trace.signal(t) for t in tensors_in(args) if trace.is_signal(t)]
        for y in tensors_in(result):
            trace.set(y, trace.opaque(y, signals, kind))

    for module in model.modules():
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase, Opaque)):
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rms(tensor: Tensor) -> float:
    """Root mean square, of what is as small or large as single precision holds, too."""
    x = tensor.detach()
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    largest = float(x.abs().max())
    if not 0 < largest < math.inf:
        return largest
    return largest * math.sqrt(float((x / largest).square().mean()))


# --- what may be asked ---


def _check_model(model: Any) -> None:
    if hasattr(model, "_orig_mod"):
        raise ParameterError("the model is wrapped by torch.compile; give the original model")
    if isinstance(model, torch.jit.ScriptModule):
        raise ParameterError("the model is scripted; give the original model")
    if not isinstance(model, nn.Module):
        raise ParameterError(f"a model is a torch.nn.Module, got {type(model).__name__}")
    if next(model.parameters(), None) is None:
        raise ParameterError(
            f"{model.__class__.__name__} has no parameters: there is nothing to set"
        )
    for name, parameter in model.named_parameters():
        if not nn.parameter.is_lazy(parameter) and parameter.is_inference():
            raise ParameterError(
                f"the weight {name!r} was made in inference mode and cannot be set; make the model "
                "outside of torch.inference_mode"
            )


def _check_values(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ParameterError(
                f"the parameter {name!r} is on the meta device, where nothing can be set or "
                "measured; make a plan there, and apply it to the real model"
            )


def _check_type(name: str, parameter: Tensor) -> None:
    if not parameter.is_floating_point():
        raise ParameterError(
            f"the weight {name!r} has the type {parameter.dtype}; only real floating-point "
            "weights can be set"
        )


def _settable(model: nn.Module) -> dict[str, nn.Parameter]:
    _check_model(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in parameters.items():
        if nn.parameter.is_lazy(parameter):
            raise ParameterError(
                f"the parameter {name!r} is lazy and has no shape yet; run the model once"
            )
    return parameters


def _arguments(args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args = (args,) if isinstance(args, Tensor) else args
    if not isinstance(args, (tuple, list)) or not (kwargs is None or isinstance(kwargs, Mapping)):
        raise ParameterError(
            "args is a tensor or a tuple of example inputs, and kwargs a dict, got "
            f"{type(args).__name__} and {type(kwargs).__name__}"
        )
    # clones, as a model may work in place on what it is given; and no inference tensors
    with torch.inference_mode(False), torch.no_grad():
        args, kwargs = tree_map_only(Tensor, torch.clone, (tuple(args), dict(kwargs or {})))
    tensors = list(tensors_in((args, kwargs)))
    if not tensors:
        raise ParameterError("no tensor is among the example inputs; give the model's arguments")
    for tensor in tensors:
        if not tensor.is_floating_point() or tensor.device.type == "meta":
            continue
        if not bool(torch.isfinite(tensor).all()):
            raise ParameterError("the example inputs hold NaN or infinities; give finite numbers")
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
