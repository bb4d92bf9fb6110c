"""Deep networks without norms, trained from four initialisations: what is left of the loss.

    python benchmarks/training.py

scikit-learn's digits, four fifths to train on and one fifth to test, Adam at its default rate, a
few epochs; the same seeds, batches and budget for all. A cell is the training loss of the last
epoch and the test accuracy, medians over the seeds; then the seconds that the initialisation took.
The U-Net names the digit at each pixel that has ink, the others name it once a picture. Chance is a
loss of 2.30 and 10 % accuracy.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from gainreg.adapters.torch import initialize_

SEEDS, EPOCHS, BATCH, RATE = (0, 1, 2), 6, 64, 1e-3

# --- networks ---


def mlp(activation: type[nn.Module], depth: int = 50, width: int = 64) -> nn.Module:
    """So many layers of weights, activations between."""
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


class Block(nn.Module):
    """x + convolution of ReLU of convolution of ReLU of x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(torch.relu(x))))


def residual_network(blocks: int = 24, channels: int = 12) -> nn.Module:
    """A ResNet without norms."""
    parts = [nn.Conv2d(1, channels, 3, 2, 1), *(Block(channels) for _ in range(blocks))]
    head = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)
    return nn.Sequential(*parts, *head)


class UNet(nn.Module):
    """Down to 2 × 2 and up again, with skips that are concatenated."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        c = channels
        self.down = nn.ModuleList(
            [self._twice(1, c), self._twice(c, 2 * c), self._twice(2 * c, 4 * c)]
        )
        self.lift = nn.ModuleList(
            [nn.ConvTranspose2d(4 * c, 2 * c, 2, 2), nn.ConvTranspose2d(2 * c, c, 2, 2)]
        )
        self.up = nn.ModuleList([self._twice(4 * c, 2 * c), self._twice(2 * c, c)])
        self.head = nn.Conv2d(c, 10, 1)

    def _twice(self, before: int, after: int) -> nn.Module:
        convolutions = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        return nn.Sequential(convolutions[0], nn.SiLU(), convolutions[1], nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for down in self.down:
            x = down(functional.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for lift, up, skip in zip(self.lift, self.up, skips[-2::-1], strict=True):
            x = up(torch.cat([skip, lift(x)], 1))
        return self.head(x)


class Attention(nn.Module):
    """x + attention(x), then x + MLP(x)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.keys, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.keys(x).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.join(y.transpose(1, 2).reshape(n, tokens, width))
        return x + self.narrow(functional.gelu(self.widen(x)))


class ViT(nn.Module):
    """A Vision Transformer without norms, on patches of 2 × 2."""

    def __init__(self, width: int = 48, blocks: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.places = nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = nn.Sequential(*(Attention(width, 4) for _ in range(blocks)))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.blocks(x).mean(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "50-layer tanh MLP": lambda: mlp(nn.Tanh),
    "50-layer GELU MLP": lambda: mlp(nn.GELU),
    "24-block residual ConvNet": residual_network,
    "U-Net": UNet,
    "ViT without norms": ViT,
}

# --- initialisations ---

LAYERS = nn.Linear, nn.Conv2d, nn.ConvTranspose2d


def default(model: nn.Module, x: Tensor) -> None:
    """As PyTorch's layers come."""


def kaiming(model: nn.Module, x: Tensor) -> None:
    """He et al. 2015, for ReLU everywhere."""
    for layer in model.modules():
        if isinstance(layer, LAYERS):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)


def lsuv(model: nn.Module, x: Tensor, tolerance: float = 0.1, tries: int = 10) -> None:
    """Mishkin and Matas 2016, arXiv:1511.06422: orthogonal weights, each then divided by the
    standard deviation of its output on data, one after the other, until that is 1."""
    order: list[nn.Module] = []
    layers = [layer for layer in model.modules() if isinstance(layer, LAYERS)]
    hooks = [layer.register_forward_hook(lambda m, *_: order.append(m)) for layer in layers]
    with torch.no_grad():
        model(x)
        for hook in hooks:
            hook.remove()
        for layer in order:
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in order:
            found: list[float] = []
            hook = layer.register_forward_hook(lambda m, a, y, to=found: to.append(float(y.std())))
            for _ in range(tries):
                model(x)
                if abs(found[-1] ** 2 - 1) < tolerance or not found[-1] > 0:
                    break
                layer.weight /= found[-1]
            hook.remove()


def gainreg(model: nn.Module, x: Tensor) -> None:
    """One call."""
    initialize_(model, x)


INITIALISATIONS = {"default": default, "Kaiming": kaiming, "LSUV": lsuv, "gainreg": gainreg}

# --- training ---


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures of mean 0 and standard deviation 1 and their names: to train on, to test on."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    pictures = torch.tensor(found.images, dtype=torch.float32)[order, None]
    names = torch.tensor(found.target)[order]
    split = len(order) * 4 // 5
    return (
        *((pictures[:split] - pictures.mean()) / pictures.std(), names[:split]),
        *((pictures[split:] - pictures.mean()) / pictures.std(), names[split:]),
    )


def targets(y: Tensor, x: Tensor, names: Tensor) -> Tensor:
    """Of dense outputs the name at each pixel with ink (brighter than the mean), −100 elsewhere."""
    if y.dim() == 2:
        return names
    return torch.where(x[:, 0] > 0, names[:, None, None], -100)


def train(
    make: Callable[[], nn.Module], initialise: Callable[[nn.Module, Tensor], None], seed: int
) -> tuple[float, float, float]:
    """Mean loss of the last epoch, accuracy, and seconds of the initialisation."""
    x, names, test, test_names = digits()
    torch.manual_seed(seed)
    model = make()
    start = time.perf_counter()
    initialise(model, x[:BATCH])
    took = time.perf_counter() - start
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    batches = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        losses = []
        for rows in torch.randperm(len(x), generator=batches).split(BATCH):
            y = model(x[rows])
            loss = functional.cross_entropy(y, targets(y, x[rows], names[rows]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
    with torch.no_grad():
        y = model(test)
        wanted = targets(y, test, test_names)
        right = (y.argmax(1) == wanted)[wanted >= 0]
    return statistics.fmean(losses), float(right.float().mean()), took


def main() -> None:
    """Print the table."""
    print(f"| network | {' | '.join(INITIALISATIONS)} |")
    print("| --- |" + " --- |" * len(INITIALISATIONS))
    for network, make in NETWORKS.items():
        cells = []
        for initialise in INITIALISATIONS.values():
            runs = [train(make, initialise, seed) for seed in SEEDS]
            loss, accuracy, took = map(statistics.median, zip(*runs, strict=True))
            cells.append(f"{loss:.3f}, {accuracy:.1%}, {took:.2f} s")
        print(f"| {network} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
