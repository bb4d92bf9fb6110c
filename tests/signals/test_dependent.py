"""Signals that depend on each other by a weight, an input or a transpose that they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from networks import WIDTH, Of
from torch import Tensor, nn

from gainreg.adapters.torch import apply_, initialize_, measure, plan

F = nn.functional
Made = tuple[nn.Module, Callable[[], Any]]


def layers(**more: nn.Module) -> dict[str, nn.Module]:
    return {
        "i": nn.Linear(WIDTH, WIDTH),
        "o": nn.Linear(WIDTH, 64),
        "a": nn.Linear(WIDTH, WIDTH),
    } | more


def rows() -> Tensor:
    return torch.randn(64, WIDTH)


def mean_ratios(made: Made, draws: int = 3) -> dict[str, tuple[float, float, Any]]:
    """Measured by predicted sizes of inputs and of gradients, by weight, as geometric means over
    draws; and what is said of the last."""
    model, make = made
    torch.manual_seed(0)
    planned, logs = plan(model, make()), []
    for _ in range(draws):
        apply_(model, planned)
        report = measure(model, make())
        sizes = [
            [it.measured_input_rms, it.measured_gradient_rms, it.input_rms, it.gradient_rms]
            for it in report.weights
        ]
        with np.errstate(divide="ignore", invalid="ignore"):  # a gradient may be 0
            measured, predicted = np.split(np.log(np.array(sizes)), 2, axis=1)
            logs.append(measured - predicted)
    means = np.exp(np.mean(logs, 0))
    return {it.name: (*pair, it) for it, pair in zip(report.weights, means, strict=True)}


# --- one weight, several times ---


def residual(m: Any, x: Tensor) -> Tensor:
    for _ in range(6):
        x = x + m.b(F.relu(m.a(m.n(x))))
    return m.o(x)


def siamese(m: Any, x: Tensor) -> Tensor:
    x, y = m.i(x), m.b(x)
    return m.o(F.relu(m.a(x)) - F.relu(m.a(x + y)))


def recurrence(m: Any, x: Tensor) -> Tensor:
    h = torch.tanh(m.i(x))
    for _ in range(5):
        h = torch.tanh(m.a(h) + m.i(x))
    return m.o(h)


def b() -> nn.Module:
    return nn.Linear(WIDTH, WIDTH)


REUSED: dict[str, Callable[[], Made]] = {
    "residual": lambda: (Of(residual, **layers(b=b(), n=nn.LayerNorm(WIDTH))), rows),  # was 1.78
    "siamese": lambda: (Of(siamese, **layers(b=b())), rows),  # was 0.64
    "twice": lambda: (
        Of(lambda m, x: m.o(m.a(m.i(x)) + m.a(m.i(x))), **layers()), rows,
    ),  # was 1.41
    "opposite": lambda: (
        Of(lambda m, x: m.o(F.relu(m.a(m.i(x))) + F.relu(m.a(-m.i(x)))), **layers()), rows,
    ),  # was 0.87
    "recurrence": lambda: (Of(recurrence, **layers()), rows),
}  # fmt: skip


@pytest.mark.parametrize("made", REUSED.values(), ids=REUSED)
def test_a_weight_is_the_same_map_each_time(made: Callable[[], Made]) -> None:
    size, _, last = mean_ratios(made())["o.weight"]
    assert size == pytest.approx(1, abs=0.03)
    assert last.exact


def test_the_gradient_through_a_weight_that_is_used_again_is_marked() -> None:
    found = mean_ratios(REUSED["siamese"]())
    assert "more than once" in found["i.weight"][2].gradient_note
    assert not found["o.weight"][2].gradient_note


def test_what_meets_a_weight_again_in_a_way_that_is_not_known_is_marked() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.i(x)
        return m.o(m.a(x) - m.a(x * torch.sigmoid(m.b(x))))

    last = mean_ratios((Of(forward, **layers(b=b())), rows))["o.weight"][2]
    assert not last.exact
    assert "more than once" in last.note


# --- inputs ---


def pair() -> tuple[Tensor, Tensor]:
    x = rows()
    return x, x + 0.3 * torch.randn_like(x)


def test_inputs_that_depend_on_each_other_are_taken_as_they_are() -> None:
    found = mean_ratios((Of(lambda m, x, y: m.o(m.i(x) - m.i(y)), **layers()), pair))
    assert found["o.weight"][0] == pytest.approx(1, abs=0.03)  # was 0.21


def test_an_input_that_is_given_twice_is_one() -> None:
    def forward(m: Any, x: Tensor, y: Tensor) -> Tensor:
        return m.o(m.i(x) + m.a(y) + x - y)

    found = mean_ratios((Of(forward, **layers()), lambda: (torch.ones(64, 1) * rows(),) * 2))
    assert found["o.weight"][0] == pytest.approx(1, abs=0.03)  # was 0.06


# --- products ---


def tokens() -> Tensor:
    return torch.randn(16, 16, WIDTH)


def test_each_meets_itself_in_products_of_each_with_each() -> None:
    def gram(m: Any, x: Tensor) -> Tensor:
        z = m.i(x)
        return m.o((z @ z.transpose(1, 2)).flatten(1) / 8)

    model = Of(gram, i=nn.Linear(WIDTH, 64), o=nn.Linear(256, 64))
    size, _, last = mean_ratios((model, tokens))["o.weight"]
    assert size == pytest.approx(1, abs=0.03)  # was 2.34
    assert not last.exact


def test_a_product_of_few_units_is_no_number() -> None:
    def dots(m: Any, x: Tensor) -> Tensor:
        return m.o((m.i(x) * m.a(x)).sum(-1, keepdim=True).expand(-1, -1, 32))

    found = mean_ratios((Of(dots, **layers(o=nn.Linear(32, 64))), tokens))
    assert all(it == pytest.approx(1, abs=0.1) for pair in found.values() for it in pair[:2])


def test_a_matrix_that_a_model_makes_has_a_gradient() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.o(torch.einsum("bij,bj->bi", m.g(x).view(-1, 32, 32), m.i(x)))

    parts = {"g": nn.Linear(WIDTH, 1024), "i": nn.Linear(WIDTH, 32), "o": nn.Linear(32, 64)}
    found = mean_ratios((Of(forward, **parts), rows))
    assert found["g.weight"][1] == pytest.approx(1, abs=0.1)  # was predicted to be 0


def cached(m: Any, x: Tensor) -> Tensor:
    """Attention of each step to all that were kept until then."""
    keys, values, found = [], [], []
    for step in x.unbind(1):
        keys.append(m.a(step))
        values.append(m.b(step))
        scores = (m.i(step)[:, None] * torch.stack(keys, 1)).sum(-1) / WIDTH**0.5
        weights = scores.softmax(-1)
        found.append((weights[..., None] * torch.stack(values, 1)).sum(1))
    return m.o(torch.stack(found, 1))


def test_keys_that_are_kept_have_a_gradient() -> None:
    model = Of(cached, **layers(b=b()))
    found = mean_ratios((model, lambda: torch.randn(16, 8, WIDTH)))
    assert found["a.weight"][1] == pytest.approx(1, abs=0.2)  # was predicted to be 0
    assert found["o.weight"][0] == pytest.approx(1, abs=0.05)


def test_parts_of_a_weight_are_weights_of_their_own() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.o(sum(F.linear(x, part) for part in m.w.weight.chunk(3)))

    parts = {"w": nn.Linear(WIDTH, 3 * WIDTH), "o": nn.Linear(WIDTH, 64)}
    size, _, last = mean_ratios((Of(forward, **parts), rows))["o.weight"]
    assert size == pytest.approx(1, abs=0.03)
    assert last.exact
    assert not last.gradient_note


def test_a_weight_that_is_used_transposed_is_marked() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.o(F.relu(m.a(x)) @ m.a.weight + x)

    last = mean_ratios((Of(forward, **layers()), rows))["o.weight"][2]
    assert "more than once" in last.note


def test_an_input_that_is_given_twice_is_one_without_values() -> None:
    model = Of(lambda m, x, y: m.o(m.a(x) + m.a(y)), **layers()).to("meta")
    x = rows().to("meta")
    found = {it.name: it.std for it in plan(model, (x, x)).weights}
    assert found["o.weight"] == pytest.approx(1 / (2 * WIDTH**0.5))


class Graph(nn.Module):
    """Means over neighbours, which a matrix among the inputs names (Kipf and Welling 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(128, 128), nn.Linear(128, 128)
        self.out = nn.Linear(128, 64)

    def forward(self, x: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
        y = torch.relu(neighbours @ self.first(x))
        return self.out(neighbours @ torch.relu(neighbours @ self.second(neighbours @ y)))


def test_a_matrix_over_positions_that_is_given_is_followed_and_marked() -> None:
    torch.manual_seed(0)
    beside = (torch.rand(16, 16, 16) < 0.3).float()
    beside = beside / beside.sum(2, keepdim=True).clamp(min=1)
    first, *others = initialize_(Graph(), (torch.randn(16, 16, 128), beside)).weights
    assert first.gradient_rms == pytest.approx(first.measured_gradient_rms, rel=0.3)
    for weight in others:
        assert weight.input_rms == pytest.approx(weight.measured_input_rms, rel=0.2)
        assert not weight.exact
