"""The README's picture: a signal through a model as PyTorch makes it, and with gainreg.

    python benchmarks/picture.py docs/images/signal.png

A ConvNet of 24 layers, without norms or skips: the rms of what comes out of each weight, and the
norm of the gradient there, both measured: the median of five draws, and all of them as a band.
"""

import sys

import numpy as np
import torch
from torch import nn

from gainreg.adapters.torch import initialize_, measure
from gainreg.plot.look import BLUE, GREY, ORANGE, Picture, dressed, plain, save
from gainreg.signals import SignalReport

SEEDS = 5


def make() -> nn.Module:
    layers: list[nn.Module] = []
    width = 3
    for wider in (32, 64, 128, 256):
        for _ in range(6):
            layers += [nn.Conv2d(width, wider, 3, padding=1), nn.ReLU()]
            width = wider
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def sizes(report: SignalReport) -> np.ndarray:
    """Measured rms of the outputs, and norms of the gradients, that of the last being 1."""
    forward = [weight.measured_output_rms or 0 for weight in report.weights]
    gradients = [weight.measured_gradient_rms or 0 for weight in report.weights]
    norms = np.sqrt([weight.elements for weight in report.weights]) * gradients
    return np.array([forward, norms / norms[-1]])


def main(path: str) -> None:
    before, after = [], []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        x, model = torch.randn(16, 3, 32, 32), make()
        before.append(sizes(measure(model, x)))
        after.append(sizes(initialize_(model, x)))
    figure = Picture(9.0, 3.0)
    for panel, ax in enumerate(figure.subplots(1, 2)):
        ax.set_yscale("log")
        ax.axhline(1.0, color=GREY, linewidth=0.8, zorder=0)
        for draws, mark, color, label in (
            (before, "s--", ORANGE, "as PyTorch makes it"),
            (after, "o-", BLUE, "with gainreg"),
        ):
            y = np.array(draws)[:, panel]
            layer = np.arange(1, y.shape[1] + 1)
            ax.plot(layer, np.median(y, 0), mark, color=color, markersize=4, label=label)
            ax.fill_between(layer, y.min(0), y.max(0), color=color, alpha=0.18, linewidth=0)
        plain(ax.yaxis)
        title, what = (("signal, forward", "rms"), ("gradient, going back", "norm"))[panel]
        dressed(ax, title, "layer", what)
    save(figure, path)


if __name__ == "__main__":
    main(sys.argv[1])
