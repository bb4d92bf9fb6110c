"""Sums of products of two signals that are no attention of keys: covariances, linear attention."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gainreg.adapters.torch import initialize_
from gainreg.signals.report import SignalReport

F = nn.functional
WIDTH, HEADS, TOKENS = 64, 4, 196


class Block(nn.Module):
    """A residual block whose tokens meet in ``meet``, read out by their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.images = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        images = self.images(self.norm(x)).view(len(x), TOKENS, 3, HEADS, WIDTH // HEADS)
        q, k, v = images.permute(2, 0, 3, 1, 4)
        y = self.meet(q, k, v).transpose(1, 2).reshape(x.shape)
        found: Tensor = self.head((x + self.out(y)).mean(1))
        return found

    def meet(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError


class OfChannels(Block):
    """Attention of channels to channels (Ding et al. 2022, DaViT)."""

    def meet(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (q.transpose(-1, -2) @ k / math.sqrt(TOKENS)).softmax(-1)
        return (weights @ v.transpose(-1, -2)).transpose(-1, -2)


class Linear(Block):
    """Attention by ReLU in place of softmax, divided by its sum (Cai et al. 2023, EfficientViT)."""

    def meet(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        found = F.relu(q) @ (F.relu(k).transpose(-1, -2) @ F.pad(v, (0, 1), value=1.0))
        return found[..., :-1] / (found[..., -1:] + 1e-5)


def factors(report: SignalReport) -> list[float]:
    pairs = [(it.gradient_rms, it.measured_gradient_rms) for it in report.weights]
    pairs += [(it.input_rms, it.measured_input_rms) for it in report.weights]
    return [max(a / b, b / a) for a, b in pairs if b]


@pytest.mark.parametrize(("kind", "most"), [(OfChannels, 1.3), (Linear, 2.2)])
def test_sizes_and_gradients_are_predicted(kind: type[Block], most: float) -> None:
    """Of linear attention, what units share beside their mean is not followed."""
    torch.manual_seed(0)
    report = initialize_(kind(), torch.randn(8, TOKENS, WIDTH))
    assert max(factors(report)) < most
    assert "depend on each other" in report.weights[2].note


class RunningMean(nn.Module):
    """A mean with weights eᵏ that decay, kept as two sums below their running maximum (Peng et al.
    2023, RWKV)."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.decay = nn.Parameter(torch.linspace(-1, 2, WIDTH))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        keys, values, found = self.keys(x), self.values(x), []
        decay = -torch.exp(self.decay)
        above, below, most = values[:, 0], torch.ones_like(values[:, 0]), keys[:, 0]
        for key, value in zip(keys.unbind(1), values.unbind(1), strict=True):
            now = torch.maximum(most + decay, key)
            before, added = torch.exp(most + decay - now), torch.exp(key - now)
            above, below, most = before * above + added * value, before * below + added, now
            found.append(above / below)
        y: Tensor = self.head(torch.stack(found, 1))
        return y


def test_what_meets_its_own_maximum_again_is_no_variable_of_its_own() -> None:
    torch.manual_seed(0)
    report = initialize_(RunningMean(), torch.randn(8, 12, WIDTH))
    keys, *others = factors(report)  # sizes were 10⁵ times off, gradients were nan
    assert max(others) < 1.1
    # what cancels between the two sums on the way back to the keys is not seen
    assert keys < 3
    assert "on samples" in report.weights[2].note


class Branches(nn.Module):
    """Two convolutions, and a softmax of their means that chooses between them (Li et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(WIDTH, WIDTH, 1)
        sides = [nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU()) for _ in range(6)]
        self.sides = nn.ModuleList(sides)
        self.chosen = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(WIDTH) for _ in range(3))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for i, (chosen, norm) in enumerate(zip(self.chosen, self.norms, strict=True)):
            both = torch.stack([side(x) for side in self.sides[2 * i : 2 * i + 2]], 1)
            weights = chosen(both.sum(1).mean((2, 3))).view(len(x), 2, WIDTH, 1, 1).softmax(1)
            x = x + norm((both * weights).sum(1))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


def test_a_choice_between_branches_is_a_mean_of_them() -> None:
    torch.manual_seed(0)
    report = initialize_(Branches(), torch.randn(16, WIDTH, 10, 10))
    assert max(factors(report)) < 1.5  # gradients were 6 times off
