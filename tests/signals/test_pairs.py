"""What is expanded, pairs of positions, dot products and running means: sizes and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from networks import Of
from torch import Tensor, nn

from gainreg.adapters.torch import initialize_
from gainreg.signals.report import SignalReport

F = nn.functional
WIDTH, TOKENS = 64, 16


def tokens() -> Tensor:
    return torch.randn(16, TOKENS, WIDTH)


def alike() -> Tensor:
    """Tokens that have half of what they are in common."""
    return torch.randn(16, TOKENS, WIDTH) + torch.randn(16, 1, WIDTH)


def worst(report: SignalReport) -> float:
    """The largest factor between what was predicted and measured, of inputs and gradients."""
    pairs = [(it.gradient_rms, it.measured_gradient_rms) for it in report.weights]
    pairs += [(it.input_rms, it.measured_input_rms) for it in report.weights]
    assert all(a and b for a, b in pairs)
    return max(math.exp(abs(math.log(a / b))) for a, b in pairs if b)


def between(function, width: int = WIDTH) -> nn.Module:  # type: ignore[no-untyped-def]
    """A layer, and another one behind a function of what it makes."""
    return Of(
        lambda m, x: m.after(function(m.before(x))),
        before=nn.Linear(WIDTH, WIDTH),
        after=nn.Linear(width, WIDTH),
    )


def of_two(function, width: int = 1) -> nn.Module:  # type: ignore[no-untyped-def]
    """A layer behind a function of two images of a signal."""
    return Of(
        lambda m, x: m.after(function(m.left(x), m.right(x))),
        left=nn.Linear(WIDTH, WIDTH),
        right=nn.Linear(WIDTH, WIDTH),
        after=nn.Linear(width, WIDTH),
    )


def across(h: Tensor) -> Tensor:
    return h[:, None].expand(-1, TOKENS, -1, -1)


def along(h: Tensor) -> Tensor:
    return h[:, :, None].expand(-1, -1, TOKENS, -1)


EXPANDED = {
    "alone": lambda h: F.relu(h[:, :1].expand(-1, TOKENS, -1)),
    "beside the tokens": lambda h: torch.cat([h, h[:, :1].expand(-1, TOKENS, -1)], -1),
    "a mean beside the tokens": lambda h: torch.cat([h, h.mean(1, True).expand_as(h)], -1),
    "pairs": lambda h: torch.cat([across(h), along(h)], -1),
}


@pytest.mark.parametrize("name", EXPANDED)
def test_what_is_expanded_counts_as_often_as_it_is_there(name: str) -> None:
    torch.manual_seed(0)
    width = WIDTH if name == "alone" else 2 * WIDTH
    report = initialize_(between(EXPANDED[name], width), tokens())
    assert worst(report) < 1.15  # gradients were 4 times off, and sizes beside a mean 1.3 times


def test_a_condition_beside_each_token_gets_the_gradients_of_all() -> None:
    torch.manual_seed(0)
    model = Of(
        lambda m, x, c: m.read(torch.cat([x, m.embed(c)[:, None].expand(-1, TOKENS, -1)], -1)),
        embed=nn.Linear(32, WIDTH),
        read=nn.Linear(2 * WIDTH, WIDTH),
    )
    assert worst(initialize_(model, (tokens(), torch.randn(16, 32)))) < 1.1  # 4 times off


PAIRS = {
    "difference": lambda h: h[:, None] - h[:, :, None],
    "difference of what is expanded": lambda h: across(h) - along(h),
    "sum": lambda h: h[:, None] + h[:, :, None],
    "difference of functions": lambda h: F.relu(across(h)) - F.relu(along(h)),
    "function of a difference": lambda h: (h[:, None] - h[:, :, None]).relu(),
}


@pytest.mark.parametrize("data", [tokens, alike])
@pytest.mark.parametrize("name", PAIRS)
def test_copies_along_two_axes_are_two_positions(name: str, data) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    report = initialize_(between(PAIRS[name]), data())  # the difference was 0, and an error
    assert worst(report) < 1.1


def test_what_is_added_along_one_axis_after_the_other_is_no_double() -> None:
    torch.manual_seed(0)
    model = Of(
        lambda m, x, e: m.out((m.edge(e) + m.node(x)[:, None] + m.node(x)[:, :, None]).relu()),
        edge=nn.Linear(32, WIDTH),
        node=nn.Linear(WIDTH, WIDTH),
        out=nn.Linear(WIDTH, WIDTH),
    )
    assert worst(initialize_(model, (tokens(), torch.randn(16, TOKENS, TOKENS, 32)))) < 1.1


DOTS = {
    "dot product": lambda a, b: (a * b).sum(-1, keepdim=True),
    "cosine": lambda a, b: F.cosine_similarity(a, b, -1)[..., None],
    "distance": lambda a, b: (a - b).norm(dim=-1, keepdim=True),
    "squared distance": lambda a, b: (a - b).square().sum(-1, keepdim=True),
}


@pytest.mark.parametrize("name", DOTS)
def test_a_sum_over_all_units_is_a_signal(name: str) -> None:
    torch.manual_seed(0)
    report = initialize_(of_two(DOTS[name]), tokens())  # refused, or without a gradient
    assert worst(report) < 1.15


def test_matrix_factorisation_has_gradients() -> None:
    torch.manual_seed(0)
    model = Of(
        lambda m, u, v: (m.users(u) * m.items(v)).sum(-1),
        users=nn.Embedding(100, WIDTH),
        items=nn.Embedding(100, WIDTH),
    )
    report = initialize_(model, (torch.randint(0, 100, (256,)), torch.randint(0, 100, (256,))))
    assert worst(report) < 1.1


def test_a_running_mean_is_divided_by_how_many_there_are() -> None:
    torch.manual_seed(0)
    counts = torch.arange(1, TOKENS + 1)[:, None]
    report = initialize_(between(lambda h: h.cumsum(1) / counts), tokens())
    assert worst(report) < 1.05  # twice too large
