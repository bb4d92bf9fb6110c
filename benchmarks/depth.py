"""What 50 layers of width 1024 make of a signal: gainreg, nn.Linear's default, torch's
calculate_gain; and of signals and gradients at once, by the forward gain and at the critical point.

Data are standard normal, biases zero but at the critical point.
"""

import math
import statistics
import sys
from collections.abc import Callable

import torch
from torch import nn

import gainreg
from gainreg.adapters import torch as init

WIDTH, DEPTH, BATCH, SEEDS = 1024, 50, 64, 5
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": nn.Identity(),
    "relu": torch.relu,
    "leaky_relu": nn.functional.leaky_relu,
    "elu": nn.functional.elu,
    "selu": torch.selu,
    "tanh": torch.tanh,
}


def last_std(name: str, initialise: Callable[[torch.Tensor, str], object], seed: int) -> float:
    """Standard deviation of the pre-activations of the last layer."""
    torch.manual_seed(seed)
    x = torch.randn(BATCH, WIDTH)
    weight = torch.empty(WIDTH, WIDTH)
    for layer in range(DEPTH):
        initialise(weight, name if layer else "identity")
        x = (ACTIVATIONS[name](x) if layer else x) @ weight.T
    return float(x.std())


def linear_default(weight: torch.Tensor, _: str) -> None:
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))  # as nn.Linear.reset_parameters


def by_calculate_gain(weight: torch.Tensor, name: str) -> None:
    known = "linear" if name == "identity" else name
    weight.normal_(0, nn.init.calculate_gain(known) / math.sqrt(weight.shape[1]))


def row(name: str) -> str:
    cells = []
    for initialise in (init.normal_, linear_default, by_calculate_gain):
        try:
            stds = [last_std(name, initialise, seed) for seed in range(SEEDS)]
            cells.append(f"{statistics.median(stds):.2g}")
        except ValueError:
            cells.append("raises")
    entry = gainreg.resolve(name)
    return (
        f"| {name} | {' | '.join(cells)} | {entry.variance_slope:.3f} "
        f"| {entry.gradient_factor:.3f} |"
    )


def growth(activation: nn.Module, criterion: str) -> tuple[float, float]:
    """Rms of the pre-activations, last layer by first, and of the gradients, first by last.

    Over all seeds. One layer more leads to the output, where the signal has another size.
    """
    squares = torch.zeros(4)
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        layers = [nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH + 1)]
        parts = [part for layer in layers for part in (layer, activation)]
        init.init_sequential_(nn.Sequential(*parts), criterion=criterion)
        first = x = layers[0](torch.randn(BATCH, WIDTH))
        for layer in layers[1:]:
            last, x = x, layer(activation(x))
        gradients = torch.autograd.grad(x, (first, last), torch.randn(x.shape))
        squares += torch.stack([y.detach().square().mean() for y in (last, first, *gradients)])
    forward, backward = (squares[::2] / squares[1::2]).sqrt().tolist()
    return forward, backward


if __name__ == "__main__":
    print("Standard deviation of the pre-activations in the last layer, median of five seeds:\n")
    print("| activation | gainreg | `nn.Linear` default | torch's `calculate_gain` ", end="")
    print("| variance_slope | gradient_factor |\n| --- | --- | --- | --- | --- | --- |")
    with torch.no_grad():
        for name in sys.argv[1:] or ACTIVATIONS:
            print(row(name), flush=True)
    if not sys.argv[1:]:
        print("\nHow often signals grow forward and gradients back, rms over five seeds:\n")
        print("| activation | criterion | signal | gradient |\n| --- | --- | --- | --- |")
        for module in (nn.Tanh(), nn.GELU()):
            for criterion in ("forward", "critical"):
                forward, backward = growth(module, criterion)
                print(f"| {module} | {criterion} | {forward:.2g} | {backward:.2g} |", flush=True)
