"""Networks for the tests of whole models, and what is asked of a report."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

WIDTH = 256


class Of(nn.Module):
    """A module whose forward is a function of it and of its inputs."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = forward

    def forward(self, *args: Any) -> Any:
        return self.run(self, *args)


def tokens() -> torch.Tensor:
    return torch.randn(8, 16, WIDTH)


def rows() -> torch.Tensor:
    return torch.randn(16, WIDTH)


def images(channels: int = 8, size: int = 12) -> torch.Tensor:
    return torch.randn(8, channels, size, size)


def between(function: Callable[[torch.Tensor], torch.Tensor], width: int = WIDTH) -> nn.Module:
    """Two layers with a function between them."""
    return Of(
        lambda m, x: m.after(function(m.before(x))),
        before=nn.Linear(WIDTH, width),
        after=nn.LazyLinear(64),
    )


def rotated(x: torch.Tensor) -> torch.Tensor:
    """Rotary position embeddings, written out."""
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(float(x.shape[-2])), 100 ** -torch.arange(0, 1, 1 / half))
    angles = torch.cat([angles, angles], -1)
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * angles.cos() + turned * angles.sin()


class Attention(nn.Module):
    """Causal attention with rotary embeddings, by functions only."""

    def __init__(self, fused: bool = True) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fused = fused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, w = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, 4, w // 4).permute(2, 0, 3, 1, 4)
        q, k = rotated(q), rotated(k)
        if self.fused:
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = q @ k.transpose(-2, -1) / math.sqrt(w // 4)
            hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
            y = scores.masked_fill(hidden, -math.inf).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(b, n, w))


class Residual(nn.Module):
    """A stream with so many branches, each with a norm before it or none."""

    def __init__(self, branches: int, norm: bool, width: int = 128) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width) if norm else nn.Identity(),
                nn.Linear(width, width),
                nn.GELU(),
                nn.Linear(width, width),
            )
            for _ in range(branches)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


class Mixer(nn.Module):
    """An MLP-Mixer."""

    def __init__(self, places: int = 32, blocks: int = 3) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(48, WIDTH), nn.Linear(WIDTH, 10)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 * blocks))
        self.places = nn.ModuleList(
            nn.Sequential(nn.Linear(places, 128), nn.GELU(), nn.Linear(128, places))
            for _ in range(blocks)
        )
        self.units = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
            for _ in range(blocks)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for i, (places, units) in enumerate(zip(self.places, self.units, strict=True)):
            x = x + places(self.norms[2 * i](x).transpose(1, 2)).transpose(1, 2)
            x = x + units(self.norms[2 * i + 1](x))
        return self.head(x.mean(1))


class UNet(nn.Module):
    """One level of a U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.up = nn.ConvTranspose2d(64, 64, 2, stride=2)
        self.c, self.d = nn.Conv2d(128, 64, 3, padding=1), nn.Conv2d(64, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.a(x))
        b = torch.relu(self.up(torch.relu(self.b(nn.functional.max_pool2d(a, 2)))))
        return self.d(torch.relu(self.c(torch.cat([a, b], 1))))


class ResNet(nn.Module):
    """A small ResNet with batch norm, projected skips and a maximum pool in its stem."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.blocks = nn.ModuleList()
        self.skips = nn.ModuleList()
        for before, after in ((64, 64), (64, 64), (64, 128), (128, 128)):
            self.blocks.append(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, after // before, 1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                    nn.Conv2d(after, after, 3, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                )
            )
            project = nn.Sequential(
                nn.Conv2d(before, after, 1, 2, bias=False), nn.BatchNorm2d(after)
            )
            self.skips.append(nn.Identity() if before == after else project)
        self.head = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block, skip in zip(self.blocks, self.skips, strict=True):
            x = torch.relu(skip(x) + block(x))
        return self.head(x.mean((2, 3)))
