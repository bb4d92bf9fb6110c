"""Recurrent layers: what comes out of them, and how much of a gradient goes back through them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gainreg.adapters.torch import initialize_, plan

WIDTH = 96


class Around(nn.Module):
    """A model that does what ``forward`` says, with these layers."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.does = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *args: Tensor) -> Any:
        return self.does(self, *args)


def last_state(m: Any, x: Tensor) -> Tensor:
    return m.head(m.middle(torch.tanh(m.first(x)))[1][0][-1])


def both_ends(m: Any, x: Tensor) -> Tensor:
    return m.head(m.middle(m.first(x))[1][0][-2:].transpose(0, 1).flatten(1))


def mean_of_tokens(m: Any, ids: Tensor) -> Tensor:
    return m.head(m.middle(m.first(ids))[0].mean(1))


def translated(m: Any, ids: Tensor, so_far: Tensor) -> Tensor:
    _, state = m.encoder(m.first(ids))
    return m.head(m.middle(m.second(so_far), state)[0])


def of_several_lengths(m: Any, x: Tensor) -> Tensor:
    lengths = torch.tensor([12, 12, 12, 11, 11, 10, 10, 9])
    rnn = nn.utils.rnn
    packed = rnn.pack_padded_sequence(m.first(x), lengths, batch_first=True)
    return m.head(rnn.pad_packed_sequence(m.middle(packed)[0], batch_first=True)[0])


def step_by_step(m: Any, x: Tensor) -> Tensor:
    state = (x.new_zeros(len(x), WIDTH), x.new_zeros(len(x), WIDTH))
    for step in m.first(x).unbind(1):
        state = m.middle(step, state)
    return m.head(state[0])


def lstm(layers: int = 1, **options: Any) -> nn.LSTM:
    return nn.LSTM(WIDTH, WIDTH, layers, batch_first=True, **options)


def around(
    forward: Callable[..., Any], middle: nn.Module, heads: int = WIDTH, **layers: nn.Module
) -> Around:
    layers = {"first": nn.Linear(16, WIDTH)} | layers
    return Around(forward, **layers, middle=middle, head=nn.Linear(heads, 16))


def table() -> nn.Embedding:
    return nn.Embedding(50, WIDTH)


def tokens() -> Tensor:
    return torch.randint(0, 50, (8, 12))


MODELS: dict[str, Callable[[], tuple[Around, Any]]] = {
    "the last state of two layers": lambda: (
        around(last_state, lstm(2)),
        torch.randn(8, 12, 16),
    ),
    "both directions of two layers": lambda: (
        around(both_ends, lstm(2, bidirectional=True), 2 * WIDTH),
        torch.randn(8, 12, 16),
    ),
    "a mean over steps": lambda: (around(mean_of_tokens, lstm(), first=table()), tokens()),
    "a decoder that starts from an encoder's states": lambda: (
        around(translated, lstm(), first=table(), second=table(), encoder=lstm()),
        (tokens(), tokens()),
    ),
    "packed sequences": lambda: (around(of_several_lengths, lstm()), torch.randn(8, 12, 16)),
    "a cell in a loop": lambda: (
        around(step_by_step, nn.LSTMCell(WIDTH, WIDTH)),
        torch.randn(8, 6, 16),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_sizes_and_gradients_around_them_are_predicted(name: str) -> None:
    torch.manual_seed(0)
    model, args = MODELS[name]()
    report = initialize_(model, args)
    for weight in report.weights:
        assert weight.measured_input_rms
        assert weight.measured_gradient_rms
        assert weight.input_rms == pytest.approx(weight.measured_input_rms, rel=0.15)
        assert abs(math.log(weight.gradient_rms / weight.measured_gradient_rms)) < math.log(1.5)
    assert "on samples" in report.weights[0].gradient_note
    assert "on samples" in report.weights[-1].note


def test_the_plan_needs_no_values() -> None:
    torch.manual_seed(0)
    wide = around(last_state, nn.LSTM(WIDTH, 512, 2, batch_first=True), 512)
    x = torch.randn(8, 12, 16)
    with_values = plan(wide, x).weights
    without = plan(wide.to("meta"), x.to("meta")).weights
    for a, b in zip(with_values, without, strict=True):
        assert b.std == pytest.approx(a.std, rel=0.15)
