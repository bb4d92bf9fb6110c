"""Gradients, predicted against measured, where those of a step depend on more than its own size."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gainreg.adapters.torch import initialize_
from gainreg.signals.report import SignalReport

F = nn.functional
WIDTH = 512


class Rectified(nn.Module):
    """A convolution and a skip, each with a batch norm, and ReLU behind their sum, as in RepVGG."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norms[0](self.layer(x)) + self.norms[1](x))


class Depthwise(nn.Module):
    """A depthwise convolution and one of single positions, each with a batch norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.deep = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.mix = nn.Conv2d(width, width, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.norms[0](self.deep(x)))
        return F.hardswish(self.norms[1](self.mix(x)))


class Squeezed(nn.Module):
    """Two maps with batch norms, and gates for each channel of a sample, as in EfficientNet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Conv2d(width, width, 1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.down = nn.Linear(width, width // 4)
        self.up = nn.Linear(width // 4, width)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.maps, self.norms, strict=True):
            x = F.silu(norm(layer(x)))
        gates = torch.sigmoid(self.up(F.silu(self.down(x.mean((2, 3))))))
        return x * gates[:, :, None, None]


class Gated(nn.Module):
    """Gates for each channel of a sample, and what comes behind them."""

    def __init__(self, behind: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(n, 128, 3, padding=1) for n in (3, 128, 128))
        self.gate = nn.Linear(128, 128)
        self.head = nn.Linear(128, 9)
        self.behind = behind

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.layers[1](F.relu(self.layers[0](x))))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        return self.head(F.relu(self.layers[2](self.behind(x))).mean((2, 3)))


class Squeeze(nn.Module):
    """A gate of each channel on what a batch norm leaves, and an activation behind it, as in
    ReXNet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 1, bias=False)
        self.deep = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.down, self.up = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)
        self.last = nn.Conv2d(width, width, 1, bias=False)
        sizes = (width, width, width // 4, width)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in sizes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[1](self.deep(F.silu(self.norms[0](self.first(x)))))
        gates = self.up(F.relu(self.norms[2](self.down(x.mean((2, 3), keepdim=True)))))
        return self.norms[3](self.last(F.relu6(x * torch.sigmoid(gates))))


class Branches(nn.Module):
    """A signal, what a weight for each channel makes of it, and a depthwise map of it, each with a
    batch norm, as in MobileOne; and a map of single positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(width, width, 1, groups=width, bias=False)
        self.deep = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.mix = nn.Conv2d(width, width, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        same, one, deep, mixed = self.norms
        return F.relu(mixed(self.mix(F.relu(same(x) + one(self.one(x)) + deep(self.deep(x))))))


class Halved(nn.Module):
    """A map of single positions between means of four."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(width, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.layer(F.avg_pool2d(x, 2))))


class Attention(nn.Module):
    """Pre-norm blocks of attention whose scores go through ``scored`` before softmax."""

    def __init__(self, scored: Callable[[Attention, Tensor], Tensor], blocks: int = 4) -> None:
        super().__init__()
        self.scored = scored
        self.norms = nn.ModuleList(nn.LayerNorm(128) for _ in range(blocks))
        self.images = nn.ModuleList(nn.Linear(128, 384) for _ in range(blocks))
        self.outs = nn.ModuleList(nn.Linear(128, 128) for _ in range(blocks))
        self.biases = nn.Parameter(2.0 * torch.randn(4, 31))
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        for norm, images, out in zip(self.norms, self.images, self.outs, strict=True):
            q, k, v = images(norm(x)).view(len(x), 16, 3, 4, 32).permute(2, 0, 3, 1, 4)
            weights = self.scored(self, q @ k.transpose(-1, -2) / math.sqrt(32)).softmax(-1)
            x = x + out((weights @ v).transpose(1, 2).reshape(x.shape))
        return self.head(x.mean(1))


def capped_and_causal(_: Attention, scores: Tensor) -> Tensor:
    later = torch.full((16, 16), -torch.inf).triu(1)
    return 2 * torch.tanh(scores / 2) + later


def biased_by_distance(m: Attention, scores: Tensor) -> Tensor:
    places = torch.arange(16)
    return scores + m.biases[:, places[:, None] - places + 15]


class Merging(nn.Module):
    """Patches of which four at a time become one, read out by their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(24, WIDTH)
        self.merges = nn.ModuleList((nn.Linear(4 * WIDTH, WIDTH), nn.Linear(4 * WIDTH, WIDTH)))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        for merge, side in zip(self.merges, (4, 2), strict=True):
            x = x.view(len(x), side, 2, side, 2, WIDTH).transpose(2, 3).flatten(3)
            x = F.relu(merge(x))
        return self.head(x.mean((1, 2)))


def worst(report: SignalReport, but: str = "nothing") -> float:
    """The largest factor between a predicted and a measured gradient."""
    weights = [it for it in report.weights if but not in it.name]
    pairs = [(it.gradient_rms, it.measured_gradient_rms) for it in weights]
    return max(max(a / b, b / a) for a, b in pairs if b is not None)


def test_units_active_in_one_block_are_active_in_the_next() -> None:
    torch.manual_seed(0)
    blocks = [Rectified(64) for _ in range(16)]
    model = nn.Sequential(
        nn.Conv2d(27, 64, 3, padding=1), *blocks, nn.Flatten(), nn.Linear(4096, 9)
    )
    report = initialize_(model, torch.randn(16, 27, 8, 8))
    assert worst(report) < 1.5  # 6 if the gates of two blocks are taken for independent
    assert all("batch norm" in weight.gradient_note for weight in report.weights[:-1])


def pooled(width: int, *blocks: nn.Module) -> nn.Module:
    stem = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
    return nn.Sequential(
        *stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)
    )


def test_a_depthwise_map_is_open_where_its_few_inputs_are_large() -> None:
    torch.manual_seed(0)
    model = pooled(256, *(Depthwise(256) for _ in range(6)))
    assert worst(initialize_(model, torch.randn(8, 3, 16, 16))) < 1.4  # 1.6 otherwise


def test_what_the_loss_gains_where_a_sample_grows_comes_back_through_its_gates() -> None:
    torch.manual_seed(0)
    model = pooled(128, *(Squeezed(128) for _ in range(6)))
    assert worst(initialize_(model, torch.randn(8, 3, 32, 32))) < 1.5  # 1.6 by single gradients


def test_a_gate_makes_positions_alike_whose_mean_is_0() -> None:
    torch.manual_seed(0)
    report = initialize_(pooled(128, *(Squeeze(128) for _ in range(4))), torch.randn(16, 3, 14, 14))
    assert worst(report) < 1.5  # 20 if positions behind a gate are taken for independent
    for weight in report.weights:
        assert weight.input_rms == pytest.approx(weight.measured_input_rms, rel=0.35)  # 0.76 off


def test_a_weight_for_each_unit_makes_the_same_signal() -> None:
    """Of the single weights the draws differ by more: see below."""
    torch.manual_seed(0)
    report = initialize_(pooled(128, *(Branches(128) for _ in range(6))), torch.randn(8, 3, 14, 14))
    assert worst(report, but="one") < 1.3  # 1.8 if the branches are taken for independent
    for weight in report.weights[:-1]:
        assert weight.input_rms == pytest.approx(weight.measured_input_rms, rel=0.1)  # 0.15 off


def test_a_mean_over_windows_keeps_what_all_positions_have_in_common() -> None:
    torch.manual_seed(0)
    report = initialize_(pooled(256, *(Halved(256) for _ in range(3))), torch.randn(16, 3, 24, 24))
    assert worst(report) < 1.3
    head = report.weights[-1]
    assert head.input_rms == pytest.approx(head.measured_input_rms, rel=0.03)  # 0.04 off, or 0.07


@pytest.mark.parametrize(
    ("behind", "within"),
    [
        (lambda x: F.gelu(3 * x - 1), 1.25),  # where the gradient is, the signal is large
        (lambda x: F.max_pool2d(x, 3, 2), 1.3),  # 2.8 without the same of maxima
        (lambda x: F.max_pool2d(x, 5, 1, 2), 1.25),  # 7 if each window has a maximum of its own
    ],
)
def test_a_gate_meets_the_gradient_where_its_signal_is(
    behind: Callable[[Tensor], Tensor], within: float
) -> None:
    torch.manual_seed(0)
    assert worst(initialize_(Gated(behind), torch.randn(16, 3, 16, 16))) < within


def test_a_root_at_0_lets_no_infinite_gradient_through() -> None:
    torch.manual_seed(0)

    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.abs().sqrt()

    layers = [nn.Linear(256, 256), Root(), nn.Linear(256, 256), Root(), nn.Linear(256, 9)]
    assert worst(initialize_(nn.Sequential(*layers), torch.randn(64, 256))) < 3  # 600 once


@pytest.mark.parametrize("scored", [capped_and_causal, biased_by_distance])
def test_gradients_through_attention(scored: Callable[[Attention, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    report = initialize_(Attention(scored), torch.randn(8, 16, 128))
    assert worst(report) < 1.3
    for weight in report.weights:
        assert weight.input_rms == pytest.approx(weight.measured_input_rms, rel=0.1), weight


def test_merged_patches_keep_what_they_have_in_common() -> None:
    torch.manual_seed(0)
    report = initialize_(Merging(), torch.randn(32, 64, 24))
    assert worst(report) < 1.2
    head = report.weights[-1]
    assert head.input_rms == pytest.approx(
        head.measured_input_rms, rel=3 * head.spread
    )  # 0.7 times


def test_a_gradient_that_is_an_approximation_says_so() -> None:
    torch.manual_seed(0)
    chain = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64))
    normed = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.GELU(), nn.Linear(64, 64))
    x = torch.randn(32, 64)
    assert [weight.gradient_note for weight in initialize_(chain, x).weights] == ["", ""]
    report = initialize_(normed, x)
    first, last = report.weights
    assert first.exact
    assert "batch norm" in first.gradient_note
    assert not last.gradient_note
    assert [line.endswith("~") for line in str(report).splitlines()[2:4]] == [True, False]


class TwoWays(nn.Module):
    """A sum, or a difference, of a function of a signal and of that signal with another."""

    def __init__(self, function: Callable[[Tensor], Tensor], sign: float) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(256, 256), nn.Linear(256, 256)
        self.head = nn.Linear(256, 256)
        self.function, self.sign = function, sign

    def forward(self, x: Tensor) -> Tensor:
        a = self.one(x)
        return self.head(self.function(a) + self.sign * self.function(a + self.other(x)))


@pytest.mark.parametrize(
    ("function", "sign", "most"),
    [(F.gelu, 1.0, 1.1), (torch.relu, 1.0, 1.1), (torch.tanh, -1.0, 1.5)],
)
def test_what_comes_back_by_two_functions_is_one_gradient(
    function: Callable[[Tensor], Tensor], sign: float, most: float
) -> None:
    torch.manual_seed(0)
    report = initialize_(TwoWays(function, sign), torch.randn(64, 256))
    assert worst(report) < most  # 1.35 and 2.3 times
    assert "come back" in report.weights[0].gradient_note


@pytest.mark.parametrize("groups", [64, 32, 8])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU, nn.GELU])
def test_a_norm_takes_off_what_a_mean_gives_all_positions(
    activation: type[nn.Module], groups: int
) -> None:
    torch.manual_seed(0)
    model = pooled(64, nn.Conv2d(64, 64, 3, padding=1), nn.GroupNorm(groups, 64), activation())
    report = initialize_(model, torch.randn(16, 3, 16, 16))
    assert worst(report) < 1.15  # 4 behind SiLU and a group for each channel


@pytest.mark.parametrize(("inputs", "kernel"), [(1, 1), (2, 1), (3, 1), (1, 3)])
def test_batch_norms_behind_weights_of_few_inputs(inputs: int, kernel: int) -> None:
    """Units whose few weights, or inputs, are small have large gradients; so the draws differ."""
    found = []
    for seed in range(9):
        torch.manual_seed(seed)
        norm = nn.BatchNorm2d(240)
        if kernel > 1:
            nn.init.normal_(norm.weight, 0, 0.02)
        grouped = nn.Conv2d(240, 240, kernel, groups=240 // inputs)
        model = nn.Sequential(
            nn.Conv2d(9, 240, 1), norm, grouped, nn.BatchNorm2d(240, 1e-12), nn.Conv2d(240, 9, 1)
        )
        weight = initialize_(model, torch.randn(8, 9, 8, 8)).weights[1]
        assert weight.measured_gradient_rms
        found.append(weight.gradient_rms / weight.measured_gradient_rms)
    assert 2 / 3 < sorted(found)[4] < 1.5
