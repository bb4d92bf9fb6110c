"""What is joined along an axis keeps the sizes and the gradients of its parts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gainreg.adapters.torch import initialize_
from gainreg.signals.report import SignalReport


class Block(nn.Module):
    """A pre-norm block of attention and an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.second(x))


class ClassToken(nn.Module):
    """Patches with a learned token before them, of another size, that alone is read out."""

    def __init__(self, width: int = 128, blocks: int = 6) -> None:
        super().__init__()
        self.embed = nn.Linear(48, width)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, 65, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        token = self.token.expand(len(x), -1, -1)
        x = torch.cat((token, self.embed(x)), 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class Dense(nn.Module):
    """Channels that are joined to those before them, behind a mean that shrank the first."""

    def __init__(self, layers: int = 12, growth: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(64 + i * growth) for i in range(layers))
        self.layers = nn.ModuleList(
            nn.Conv2d(64 + i * growth, growth, 3, padding=1) for i in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.avg_pool2d(self.stem(x), 4)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = torch.cat((x, layer(torch.relu(norm(x)))), 1)
        return x


def farthest(report: SignalReport, kind: str) -> float:
    """The largest factor between a measured size and the predicted one."""
    pairs = [
        (getattr(weight, f"{kind}_rms"), getattr(weight, f"measured_{kind}_rms"))
        for weight in report.weights
    ]
    return max(max(a / b, b / a) for a, b in pairs if b)


@pytest.fixture(scope="module")
def tokens() -> SignalReport:
    torch.manual_seed(0)
    return initialize_(ClassToken(), torch.randn(8, 64, 48))


def test_a_class_token_has_gradients_of_its_own(tokens: SignalReport) -> None:
    assert farthest(tokens, "gradient") < 1.5
    assert farthest(tokens, "input") < 1.2


def test_what_attention_averages_is_not_made_up_for_where_its_queries_are_joined(
    tokens: SignalReport,
) -> None:
    small = [w for w in tokens.weights if w.name.endswith("attention.out_proj.weight")]
    assert len(small) == 6
    assert all(weight.output_rms < 0.5 * weight.weight_std * 128**0.5 for weight in small)


def test_a_batch_norm_scales_each_joined_part_by_its_own_size() -> None:
    torch.manual_seed(0)
    report = initialize_(Dense(), torch.randn(8, 3, 32, 32))
    assert farthest(report, "input") < 1.1
    assert farthest(report, "gradient") < 1.5


class WrittenOut(nn.BatchNorm2d):
    """A batch norm as means, roots and products, with shifts that are added before the signal."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((0, 2, 3), keepdim=True)
        variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
        factor = (variance + self.eps).rsqrt() * self.weight.view(1, -1, 1, 1)
        return x * factor + (self.bias.view(1, -1, 1, 1) - mean * factor)


def test_a_written_out_norm_of_many_parts_is_found_among_theirs() -> None:
    plans = []
    for norm in (nn.BatchNorm2d, WrittenOut):
        torch.manual_seed(0)
        model = Dense()
        model.norms = nn.ModuleList(norm(layer.num_features) for layer in model.norms)
        plans.append(initialize_(model, torch.randn(8, 3, 32, 32)))
    for plain, found in zip(plans[0].weights, plans[1].weights, strict=True):
        assert found.input_rms == pytest.approx(plain.input_rms, rel=1e-6)
        assert found.gradient_rms == pytest.approx(plain.gradient_rms, rel=1e-6)


def test_a_slice_of_one_part_is_that_part() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.large, self.end = nn.Linear(64, 2048), nn.Linear(2048, 2048)

        def forward(self, x: Tensor, small: Tensor) -> Tensor:
            both = torch.cat((self.large(x), small), 1)
            return self.end(both[:, 2048:])

    report = initialize_(Halves(), (torch.randn(256, 64), 0.1 * torch.randn(256, 2048)))
    assert report.weights[-1].input_rms == pytest.approx(0.1, rel=1e-2)


class Windows(nn.Module):
    """An image that is padded and cut into windows, as SAM's, and padded once more within them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mixed = nn.Linear(32, 512), nn.Linear(512, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(self.embed(x), (0, 0, 0, 2, 0, 2))
        x = x.view(8, 2, 8, 2, 8, 512).permute(0, 1, 3, 2, 4, 5).reshape(-1, 8, 8, 512)
        return self.mixed(x.relu())


def test_what_is_padded_may_be_cut_into_windows() -> None:
    torch.manual_seed(0)
    mixed = initialize_(Windows(), torch.randn(8, 14, 14, 32)).weights[1]
    assert mixed.measured_input_rms == pytest.approx(mixed.input_rms, rel=0.02)
    assert mixed.measured_gradient_rms == pytest.approx(mixed.gradient_rms, rel=0.02)
