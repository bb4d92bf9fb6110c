"""scikit-learn's digits, networks without norms, four epochs of AdamW at one rate, from PyTorch's
defaults, Kaiming for ReLU on every weight, LSUV (Mishkin and Matas 2016, arXiv:1511.06422), and
gainreg: training loss of the last epoch, accuracy on what was held out, and seconds to initialise.

Means of two seeds, so that a few percent are chance. Four epochs are little: of the 50-layer stacks
none is trained out. There gradients decide, which the forward criterion lets grow, as the report
warns; Kaiming's smaller constant is the better one for tanh. With skips, gainreg and LSUV are
close, and LSUV needs data and several passes a layer; PyTorch's default and Kaiming each fail
somewhere.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

from gainreg.adapters.torch import initialize_

SEEDS, EPOCHS, BATCH, RATE = 2, 4, 64, 5e-4


class Branch(nn.Module):
    """x + f(x)."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.Sequential(*parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.parts(x)


class UNet(nn.Module):
    """Two levels, with a classifier on top."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Sequential(
                nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.Conv2d(o, o, 3, padding=1), nn.ReLU()
            )
            for i, o in ((1, 16), (16, 32), (32, 64))
        )
        self.up1, self.up2 = nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)
        self.d, self.e = (
            nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.ReLU()) for i, o in ((64, 32), (32, 16))
        )
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(16 * 64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        b = self.b(self.pool(a))
        y = self.d(torch.cat([self.up1(self.c(self.pool(b))), b], 1))
        y = self.e(torch.cat([self.up2(y), a], 1))
        return self.head(y.flatten(1))


class ViT(nn.Module):
    """Four blocks on patches of 2 by 2, norms within branches left out."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.places = nn.Parameter(torch.randn(1, 16, width) * 0.3)
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(width, 4, batch_first=True) for _ in range(4)
        )
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(4)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        for attend, mlp in zip(self.attention, self.mlps, strict=True):
            x = x + attend(x, x, x, need_weights=False)[0]
            x = x + mlp(x)
        return self.head(x.mean(1))


def deep(activation: type[nn.Module]) -> nn.Module:
    """50 layers."""
    inner = [m for _ in range(48) for m in (nn.Linear(64, 64), activation())]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), activation(), *inner, nn.Linear(64, 10))


def residual() -> nn.Module:
    """24 blocks."""
    blocks = [
        Branch(
            nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)
        )
        for _ in range(24)
    ]
    head = [nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), *blocks, *head)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "tanh MLP, 50 layers": lambda: deep(nn.Tanh),
    "GELU MLP, 50 layers": lambda: deep(nn.GELU),
    "residual ConvNet, 24 blocks": residual,
    "U-Net": UNet,
    "ViT without norms": ViT,
}


def default(model: nn.Module, x: torch.Tensor) -> None:
    """PyTorch's own, as the modules were made."""


def kaiming(model: nn.Module, x: torch.Tensor) -> None:
    """Kaiming for ReLU on every weight, biases 0."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and name != "places":
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        elif parameter.dim() == 1:
            nn.init.zeros_(parameter)


def lsuv(model: nn.Module, x: torch.Tensor) -> None:
    """Orthogonal, then each layer in turn scaled to output variance 1, by up to ten passes."""
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.MultiheadAttention)
    for layer in [m for m in model.modules() if isinstance(m, kinds)]:
        weight = layer.in_proj_weight if isinstance(layer, nn.MultiheadAttention) else layer.weight
        nn.init.orthogonal_(weight)
        for name, parameter in layer.named_parameters():
            if "bias" in name:
                nn.init.zeros_(parameter)
        found: list[float] = []

        def keep(module: nn.Module, args: Any, y: Any, found: list[float] = found) -> None:
            found.append(float((y[0] if isinstance(y, tuple) else y).std()))

        handle = layer.register_forward_hook(keep)
        with torch.no_grad():
            for _ in range(10):
                found.clear()
                model(x)
                if not found or abs(found[0] - 1) < 0.01 or not found[0] > 0:
                    break
                weight /= found[0]
        handle.remove()


def gainreg(model: nn.Module, x: torch.Tensor) -> None:
    """One call."""
    initialize_(model, x)


def critical(model: nn.Module, x: torch.Tensor) -> None:
    """gainreg, by the criterion "critical"."""
    initialize_(model, x, criterion="critical")


def train(make: Callable[[], nn.Module], start: Any, seed: int) -> tuple[float, float, float]:
    """Final loss, accuracy, seconds to initialise."""
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None]
    x, y = (x - x.mean()) / x.std(), torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = x[order], y[order]
    torch.manual_seed(seed)
    model = make()
    begun = time.perf_counter()
    start(model, x[:BATCH])
    took = time.perf_counter() - begun
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    losses = []
    for _ in range(EPOCHS):
        losses = []
        for i in range(0, 1408, BATCH):
            loss = nn.functional.cross_entropy(model(x[i : i + BATCH]), y[i : i + BATCH])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    with torch.no_grad():
        right = (model(x[1408:]).argmax(1) == y[1408:]).float().mean()
    return statistics.fmean(losses), float(right), took


STARTS = {
    "default": default,
    "Kaiming": kaiming,
    "LSUV": lsuv,
    "gainreg": gainreg,
    "gainreg, critical": critical,
}


def main(names: list[str]) -> None:
    print(f"| network | {' | '.join(STARTS)} |\n|{' --- |' * (1 + len(STARTS))}")
    for name in names or NETWORKS:
        print(f"| {name}", end="", flush=True)
        for start in STARTS.values():
            runs = [train(NETWORKS[name], start, seed) for seed in range(SEEDS)]
            loss, right, took = (statistics.fmean(column) for column in zip(*runs, strict=True))
            print(f" | {loss:.3f}, {100 * right:.0f} %, {took:.2f} s", end="", flush=True)
        print(" |")


if __name__ == "__main__":
    main(sys.argv[1:])
