"""plan and measure leave no mark on a model or on what is random, initialize_ none but what it
sets; and if the model raises, nothing was set."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="whole models are PyTorch's")
from torch import Tensor, nn  # noqa: E402

from gainreg.adapters.torch import apply_, initialize_, measure, plan  # noqa: E402


class Busy(nn.Module):
    """All that a model can change when it runs: buffers, its mode, and whatever is random.

    Args:
        stop: how often it may run before it raises half-way.
    """

    def __init__(self, stop: float = float("inf")) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.frozen = nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("passing", torch.full((3,), float("nan")), persistent=False)
        self.frozen.weight.requires_grad_(False)
        self.norm.weight.grad = torch.randn(16)
        self.head.weight.grad = torch.full((4, 16), float("nan"))
        self.stop = stop

    def forward(self, x: Tensor) -> Tensor:
        """Draw from every source, count, and change the mode of a part."""
        self.calls += 1
        self.passing.fill_(3.0)
        x = torch.relu(self.norm(self.stem(x))).mean((2, 3))
        x = x * (1 + 0.01 * torch.randn_like(x) + 0.01 * random.random() + 0.01 * np.random.rand())  # noqa: NPY002
        x = nn.functional.dropout(x, 0.1, self.training)
        self.norm.eval()
        self.stop -= 1
        if self.stop < 0:
            raise OSError("half-way")
        return self.head(torch.tanh(self.frozen(x)))


def seen(model: nn.Module, weights: bool = True) -> bytes:
    """All that must stay as it was, as bytes."""

    def bits(tensor: Tensor | None) -> Any:
        return None if tensor is None else (str(tensor.dtype), tensor.detach().numpy().tobytes())

    parameters = {
        name: (
            bits(p) if weights else None,
            bits(p.grad),
            p.requires_grad,
            p._version if weights else 0,
        )
        for name, p in model.named_parameters()
    }
    buffers = {name: bits(buffer) for name, buffer in model.named_buffers()}
    modes = {name: module.training for name, module in model.named_modules()}
    hooks = {
        name: (len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    }
    chance = (
        bits(torch.get_rng_state()),
        random.getstate(),
        pickle.dumps(np.random.get_state()),  # noqa: NPY002
    )
    switches = (
        torch.is_grad_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.get_default_dtype(),
    )
    return pickle.dumps((parameters, buffers, modes, hooks, chance, switches))


def pictures() -> Tensor:
    """A batch."""
    return torch.randn(8, 3, 6, 6)


@pytest.mark.parametrize("call", [plan, measure])
@pytest.mark.parametrize("training", [True, False])
def test_plan_and_measure_leave_everything_bit_for_bit(
    call: Callable[..., Any], training: bool
) -> None:
    model, x = Busy().train(training), pictures()
    before, data = seen(model), x.clone()
    call(model, x)
    assert seen(model) == before
    assert torch.equal(x, data)
    assert x.grad is None


@pytest.mark.parametrize("call", [plan, measure, initialize_])
@pytest.mark.parametrize("training", [True, False])
def test_also_when_the_model_raises_half_way(call: Callable[..., Any], training: bool) -> None:
    model, x = Busy(stop=0).train(training), pictures()
    before = seen(model)
    with pytest.raises(OSError, match="half-way"):
        call(model, x)
    assert seen(model) == before


@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("runs", [1, 2])
def test_what_raises_after_weights_were_set_puts_them_back(calibrate: bool, runs: int) -> None:
    model, x = Busy(stop=runs), pictures()
    if runs == 2 and not calibrate:
        model.stop = 1
    before = copy.deepcopy(dict(model.named_parameters()))
    others = seen(model, weights=False)
    source = torch.Generator().manual_seed(0)
    with pytest.raises(OSError, match="half-way"):
        initialize_(model, x, calibrate=calibrate, generator=source)
    assert seen(model, weights=False) == others
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("calibrate", [False, True])
def test_initialize_changes_only_what_it_says_that_it_sets(calibrate: bool) -> None:
    model, x = Busy(), pictures()
    before = copy.deepcopy(dict(model.named_parameters()))
    others = seen(model, weights=False)
    source = torch.Generator().manual_seed(0)
    report = initialize_(model, x, calibrate=calibrate, generator=source)
    assert seen(model, weights=False) == others
    for name, parameter in model.named_parameters():
        status, _ = report.parameters[name]
        assert torch.equal(parameter, before[name]) == (status == "kept")
        assert not parameter.any() or status != "zeroed"
    assert {status for status, _ in report.parameters.values()} == {"set", "zeroed", "kept"}


def test_without_a_generator_only_the_weights_draw_from_torchs() -> None:
    model, x = Busy(), pictures()
    torch.manual_seed(3)
    initialize_(model, x)
    after = torch.get_rng_state()
    again = copy.deepcopy(model)
    torch.manual_seed(3)
    apply_(again, plan(again, x))
    assert torch.equal(torch.get_rng_state(), after)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weights_that_were_set_train_as_before() -> None:
    model, x = Busy(), pictures()
    initialize_(model, x)
    model.zero_grad()
    model(x).square().sum().backward()
    for parameter in model.parameters():
        assert parameter.is_leaf
        assert (parameter.grad is None) == (not parameter.requires_grad)


def test_inputs_that_are_used_in_place_or_need_gradients() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 4))
    x = torch.randn(16, 8)
    data = x.clone()
    report = measure(model, x)
    assert torch.equal(x, data)
    assert report.weights[0].input_rms == pytest.approx(0.5**0.5, rel=0.1)
    needs = torch.randn(16, 8, requires_grad=True)
    measure(nn.Linear(8, 4), needs)
    assert needs.grad is None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_whatever_mode_it_is_called_in(mode: Callable[[], Any]) -> None:
    model, x = Busy(), pictures()
    with mode():
        report = measure(model, x)
    assert all(weight.measured_gradient_rms for weight in report.weights)
