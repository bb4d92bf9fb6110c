"""One run of a PyTorch model: its tape, and what is measured or rescaled on the way."""

from __future__ import annotations

import contextlib
import functools
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
from gainreg.adapters.torch.tracer import TorchTrace, Tracing, tensors_in
from gainreg.errors import MomentError, ParameterError
from gainreg.signals import models
from gainreg.signals.signal import Signal
from gainreg.signals.summary import Measured
from gainreg.signals.tape import Node, Tape


class Probe:
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


class Calibration(Probe):
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


def run(
    model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None, probe: Probe | None = None
) -> Tape:
    """The tape of one run of a model, on which it leaves no other mark."""
    args, kwargs = arguments(args, kwargs)
    trace = TorchTrace(model)
    mode = Tracing(trace)
    if probe is not None:
        trace.weighed, mode.before = probe.weighed, probe.between
    describe = getattr(model, "describe_input", TorchTrace.describe_input)
    for tensor in tensors_in((args, kwargs)):
        describe(trace, tensor)
    backward = probe is not None and probe.backward
    with (
        unchanged(model),
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
def unchanged(model: nn.Module) -> Iterator[None]:
    """Buffers, mode and every random state, put back however it ends."""
    buffers = [
        (module, dict(module._buffers), set(module._non_persistent_buffers_set))
        for module in model.modules()
    ]
    numbers = [(b, b.clone()) for b in model.buffers() if not nn.parameter.is_lazy(b)]
    modes = {module: module.training for module in model.modules()}
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  models draw from it
    devices = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)  # type: ignore[no-untyped-call]
    fast = torch.backends.mha.get_fastpath_enabled()
    # the encoder's fused form is one operation of many weights; the plain one is the same model
    torch.backends.mha.set_fastpath_enabled(False)
    # parameters that an autocast has cast before are met again, and not what was made of them
    torch.clear_autocast_cache()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.clear_autocast_cache()
        torch.backends.mha.set_fastpath_enabled(fast)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        for module, mode in modes.items():
            module.training = mode
        for module, own, not_saved in buffers:
            module._buffers, module._non_persistent_buffers_set = own, not_saved
        with torch.no_grad():
            for buffer, before in numbers:
                if not _same_bits(buffer, before):
                    buffer.copy_(before)


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


def arguments(args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    given = models.arguments(args, kwargs, lambda x: isinstance(x, Tensor), "a tensor")
    # clones, as a model may work in place on what it is given; and no inference tensors; one of
    # what is given twice
    with torch.inference_mode(False), torch.no_grad():
        args, kwargs = tree_map_only(Tensor, functools.cache(torch.clone), given)
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
