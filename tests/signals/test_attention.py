"""Attention of every kind: what is looked at, and gradients through it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gainreg.adapters.torch import initialize_
from gainreg.signals.report import SignalReport

F = nn.functional
UNITS, HEADS = 128, 8

Attending = Callable[["Attention", Tensor, Tensor, Tensor], Tensor]


class Attention(nn.Module):
    """Queries, keys and values of a head each for what ``attend`` makes of them, and a head that
    reads what comes out at each position or, pooled, their mean."""

    def __init__(self, attend: Attending, pooled: bool = False) -> None:
        super().__init__()
        self.attend, self.pooled = attend, pooled
        self.query, self.key, self.value, self.out = (nn.Linear(UNITS, UNITS) for _ in range(4))
        self.before, self.after = nn.Linear(HEADS, HEADS), nn.Linear(HEADS, HEADS)

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x, (UNITS,))
        parts = (it(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for it in self.projections())
        y = self.out(self.attend(self, *parts).transpose(1, 2).flatten(2))
        return y.mean(1) if self.pooled else y

    def projections(self) -> tuple[nn.Linear, ...]:
        return self.query, self.key, self.value


def plain(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v


def peaked(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v


def fused(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def multi_query(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Keys and values of one head for all (Shazeer 2019)."""
    return plain(m, q, k[:, :1], v[:, :1])


def talking_heads(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Touvron et al. 2021 (CaiT)."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = m.before(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return m.after(scores.softmax(-1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2) @ v


def cross_covariance(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """El-Nouby et al. 2021 (XCiT)."""
    q, k, v = (it.transpose(-1, -2) for it in (q, k, v))
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2)
    return ((2 * scores).softmax(-1) @ v).transpose(-1, -2)


def factorised(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Xu et al. 2021 (CoaT)."""
    return q @ (k.softmax(-2).transpose(-1, -2) @ v)


def worst(report: SignalReport) -> float:
    """The largest factor between a predicted and a measured gradient."""
    pairs = [(it.gradient_rms, it.measured_gradient_rms) for it in report.weights]
    return max(max(a / b, b / a) for a, b in pairs if b)


KINDS = {
    "plain": plain,
    "peaked": peaked,
    "fused": fused,
    "multi-query": multi_query,
    "talking heads": talking_heads,
    "cross-covariance": cross_covariance,
    "factorised": factorised,
}


@pytest.mark.parametrize("keys", [16, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_looked_at_and_gradients_by_it(kind: str, keys: int) -> None:
    torch.manual_seed(0)
    report = initialize_(Attention(KINDS[kind]), torch.randn(8, keys, UNITS))
    assert worst(report) < 1.25
    for weight in report.weights:
        tolerance = max(0.1, 2 * weight.spread)
        assert weight.input_rms == pytest.approx(weight.measured_input_rms, rel=tolerance)


@pytest.mark.parametrize("alike", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_that_all_queries_share(kind: str, alike: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 32, UNITS) + alike * torch.randn(8, 1, UNITS)
    assert worst(initialize_(Attention(KINDS[kind], pooled=True), x)) < 1.3


def test_many_queries_find_gradients_among_their_keys() -> None:
    torch.manual_seed(0)
    report = initialize_(Attention(plain), torch.randn(4, 256, UNITS))
    assert worst(report) < 1.2  # 1.7 where values are taken for independent of keys


class Lifted(nn.Module):
    """Attention on what varies along few directions among its units."""

    def __init__(self, directions: int) -> None:
        super().__init__()
        self.lift = nn.Linear(directions, UNITS)
        self.beside = nn.Linear(UNITS, UNITS)
        self.attention = Attention(plain)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        return self.attention(x + self.beside(x))


@pytest.mark.parametrize("directions", [6, 16])
def test_keys_of_few_directions_are_found_more(directions: int) -> None:
    torch.manual_seed(0)
    report = initialize_(Lifted(directions), torch.randn(16, 48, directions))
    assert worst(report) < 1.4
    out = report.weights[-1]
    assert out.input_rms == pytest.approx(out.measured_input_rms, rel=0.1)  # 15 to 40 % without


class Windows(nn.Module):
    """Attention in windows of 16 positions, of which a bias and a mask leave some to each other, a
    norm and a weight that reads the mean of all."""

    def __init__(self, seen: int) -> None:
        super().__init__()
        self.attention = Attention(self.masked)
        self.bias = nn.Parameter(0.01 * torch.randn(HEADS, 16, 16))
        group = torch.arange(16) // seen
        self.mask = torch.where(group[:, None] == group, 0.0, -100.0)
        self.head = nn.Linear(UNITS, 8)

    def masked(self, m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        return (scores + (self.bias + self.mask)).softmax(-1) @ v

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(x.unflatten(1, (-1, 16)).flatten(0, 1))
        y = F.layer_norm(y.unflatten(0, (len(x), -1)).flatten(1, 2), (UNITS,))
        return self.head(y.mean(1))


@pytest.mark.parametrize("seen", [4, 16])
def test_windows_and_masks_part_queries(seen: int) -> None:
    torch.manual_seed(0)
    report = initialize_(Windows(seen), torch.randn(16, 128, UNITS))
    assert worst(report) < 1.25
    for weight in report.weights:
        assert weight.input_rms == pytest.approx(weight.measured_input_rms, rel=0.06)


class ClassToken(nn.Module):
    """A token of zeros before others, that nothing but attention changes, and its output."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, UNITS))
        self.attention = Attention(plain)
        self.head = nn.Linear(UNITS, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return self.head((x + self.attention(x))[:, 0])


def test_a_query_of_zeros_gets_a_gradient() -> None:
    torch.manual_seed(0)
    assert worst(initialize_(ClassToken(), torch.randn(8, 32, UNITS))) < 1.25


class Padded(nn.Module):
    """What a convolution makes of the tokens behind the first is added to all of them, padded."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, UNITS))
        self.beside = nn.Linear(UNITS, UNITS)
        self.head = nn.Linear(UNITS, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = x + F.pad(self.beside(x[:, 1:]), (0, 0, 1, 0))
        return self.head(F.layer_norm(x, (UNITS,)))


def test_zeros_are_apart_from_what_they_pad() -> None:
    torch.manual_seed(0)
    assert worst(initialize_(Padded(), torch.randn(8, 3, UNITS))) < 1.1


def test_a_vector_divided_by_its_norm_is_normed() -> None:
    model = nn.Sequential(nn.Linear(UNITS, UNITS), nn.Linear(UNITS, UNITS))
    hook = lambda _, inputs: (F.normalize(inputs[0], dim=-1),)  # noqa: E731
    model[1].register_forward_pre_hook(hook)
    report = initialize_(model, torch.randn(8, UNITS))
    assert report.weights[1].fed_by == "RMS norm"


class SharedBias(nn.Module):
    """Two blocks whose scores get the same bias, of how far apart two positions are, into which the
    causal mask has been written, as in T5 (Raffel et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Attention(self.biased) for _ in range(2))
        self.table, self.head = nn.Embedding(32, HEADS), nn.Linear(UNITS, 8)
        nn.init.normal_(self.table.weight, std=0.1)

    def biased(self, m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (self.bias + q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1])
        apart = places[:, None] - places
        bias = self.table(apart.abs()).permute(2, 0, 1)[None]
        self.bias = bias.masked_fill(apart < 0, -math.inf)
        for block in self.blocks:
            x = x + block(x)
        return self.head(F.layer_norm(x, (UNITS,)))


def test_a_bias_that_all_blocks_share_is_no_residual_stream() -> None:
    torch.manual_seed(0)
    report = initialize_(SharedBias(), torch.randn(16, 32, UNITS))
    for weight in report.weights:
        if "query" in weight.name or "key" in weight.name:
            assert weight.weight_std == pytest.approx(UNITS**-0.5, rel=0.03)
        assert weight.input_rms == pytest.approx(weight.measured_input_rms, rel=0.1)
    assert worst(report) < 1.15  # 1.8 where its queries are taken for samples


class RelativeBias(nn.Module):
    """Scores in windows of 5×5 with a bias that is an MLP of how far apart two positions are, for
    each such pair, as in Swin v2 (Liu et al. 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention(self.biased)
        self.mlp = nn.Sequential(nn.Linear(2, 256), nn.ReLU(), nn.Linear(256, HEADS))
        side = torch.arange(5.0)
        places = torch.cartesian_prod(side, side)
        apart = (places[:, None] - places).long() + 4
        self.register_buffer("index", apart[..., 0] * 9 + apart[..., 1])
        self.register_buffer("table", torch.cartesian_prod(*(torch.arange(-4.0, 5.0),) * 2) / 2)

    def biased(self, m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        bias = 16 * torch.sigmoid(self.mlp(self.table)[self.index.flatten()].view(25, 25, HEADS))
        scores = 2.5 * q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias.permute(2, 0, 1)
        return scores.softmax(-1) @ v

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x)


def test_a_bias_of_positions_is_that_of_the_pairs_that_occur() -> None:
    torch.manual_seed(0)
    report = initialize_(RelativeBias(), torch.randn(16, 25, UNITS))
    assert worst(report) < 1.12
    for weight in report.weights:  # 16 % off where all rows of the table count alike
        assert weight.input_rms == pytest.approx(weight.measured_input_rms, rel=0.1)


def test_what_a_mask_hides_has_no_weight_whatever_is_there() -> None:
    """Bands of keys, laid out by zeros, of values that are padded with -1 (Beltagy et al. 2020)."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LongformerConfig(
        vocab_size=100, hidden_size=UNITS, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=256, attention_window=8, pad_token_id=1,
    )  # fmt: skip
    report = initialize_(transformers.LongformerModel(config), torch.randint(5, 90, (8, 32)))
    assert worst(report) < 1.25  # 1.7 with the -1 among the values
    for weight in report.weights:
        assert weight.input_rms == pytest.approx(weight.measured_input_rms, rel=0.15)


class Outlook(nn.Module):
    """Windows of 3×3 values, weighed by what a linear map makes of what is in their middle, and
    folded together (Yuan et al. 2021, VOLO)."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.weigh = nn.Linear(UNITS, UNITS), nn.Linear(UNITS, HEADS * 81)
        self.out, self.head = nn.Linear(UNITS, UNITS), nn.Linear(UNITS, 8)

    def forward(self, x: Tensor) -> Tensor:
        n, units, side, _ = x.shape
        x = F.layer_norm(x.permute(0, 2, 3, 1), (units,))
        windows = F.unfold(self.value(x).permute(0, 3, 1, 2), 3, padding=1, stride=2)
        windows = windows.view(n, HEADS, units // HEADS, 9, -1).permute(0, 1, 4, 3, 2)
        weights = self.weigh(x[:, ::2, ::2]).view(n, -1, HEADS, 9, 9).permute(0, 2, 1, 3, 4)
        seen = (weights.softmax(-1) @ windows).permute(0, 1, 4, 3, 2).reshape(n, units * 9, -1)
        y = F.fold(seen, (side, side), 3, padding=1, stride=2).permute(0, 2, 3, 1)
        return self.head(F.layer_norm(x + self.out(y), (units,)))


def test_neighbours_share_what_all_positions_do() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, UNITS, 12, 12) + torch.randn(4, UNITS, 1, 1)
    report = initialize_(Outlook(), x)
    assert worst(report) < 1.15  # 3 where neighbours are taken for independent
    for weight in report.weights:
        assert weight.input_rms == pytest.approx(weight.measured_input_rms, rel=0.1)


def test_a_maximum_keeps_what_positions_share() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 64, 16, 16) + torch.randn(16, 64, 1, 1)
    pooled = nn.Sequential(
        nn.Conv2d(64, 512, 3), nn.MaxPool2d(3), nn.Conv2d(512, 1024, 1), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(1024, 8),
    )  # fmt: skip
    report = initialize_(pooled, x)
    for weight in report.weights:
        assert weight.input_rms == pytest.approx(weight.measured_input_rms, rel=0.05)


class Global(nn.Module):
    """Queries of the whole image, the same in each of its windows (Hatamizadeh et al. 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(UNITS, UNITS), nn.Linear(UNITS, UNITS)
        self.value, self.head = nn.Linear(UNITS, UNITS), nn.Linear(UNITS, 8)

    def forward(self, x: Tensor) -> Tensor:
        n, windows = len(x), 9
        x = x.view(n, windows, -1, UNITS)
        query = self.query(x.mean(1)).repeat_interleave(windows, 0)
        flat = x.flatten(0, 1)
        scores = query @ self.key(flat).transpose(1, 2) / math.sqrt(UNITS)
        y = scores.softmax(-1) @ self.value(flat)
        return self.head(y.view_as(x).mean((1, 2)))


def test_copies_of_queries_meet_windows_and_no_heads() -> None:
    torch.manual_seed(0)
    report = initialize_(Global(), torch.randn(4, 144, UNITS) + torch.randn(4, 1, UNITS))
    assert worst(report) < 1.3
    for weight in report.weights:
        assert weight.input_rms == pytest.approx(weight.measured_input_rms, rel=0.1)
