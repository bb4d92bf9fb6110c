"""It works: signals keep their size through 50 layers initialised from a table on disk."""

import statistics
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the depth tests need PyTorch")

import gainreg  # noqa: E402
from gainreg.adapters import torch as init  # noqa: E402

WIDTH, DEPTH, BATCH, SEEDS = 1024, 50, 32, 5
FORWARD: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": lambda x: x,
    "relu": torch.relu,
    "leaky_relu": torch.nn.functional.leaky_relu,
    "elu": torch.nn.functional.elu,
    "selu": torch.selu,
    "tanh": torch.tanh,
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> gainreg.GainTable:
    path = tmp_path_factory.mktemp("depth") / "gains.yaml"
    gainreg.build_table(list(FORWARD)).write(path)
    return gainreg.load_table(path)


def stds(
    name: str, initialise: Callable[[torch.nn.Linear, str], object], seeds: int = SEEDS
) -> list[float]:
    """Standard deviation of each layer's pre-activations, the median over seeds."""
    runs = []
    layer = torch.nn.Linear(WIDTH, WIDTH)
    torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        for seed in range(seeds):
            torch.manual_seed(seed)
            x, found = torch.randn(BATCH, WIDTH), []
            for depth in range(DEPTH):
                initialise(layer, name if depth else "identity")
                x = layer(FORWARD[name](x) if depth else x)
                found.append(float(x.std()))
            runs.append(found)
    return [statistics.median(layer_stds) for layer_stds in zip(*runs, strict=True)]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("tanh", 0.97, 1.03),
        ("selu", 0.97, 1.03),
        ("elu", 0.9, 1.1),
        ("relu", 1 / 1.5, 1.5),
        ("leaky_relu", 1 / 1.5, 1.5),
        ("identity", 1 / 1.5, 1.5),
    ],
)
def test_the_pre_activations_keep_their_size_in_every_layer(
    table: gainreg.GainTable, name: str, low: float, high: float
) -> None:
    found = stds(name, lambda layer, feeds: init.normal_(layer.weight, feeds, table=table))
    assert low <= min(found)
    assert max(found) <= high


@pytest.mark.parametrize("name", FORWARD)
def test_with_pytorchs_default_they_die(name: str) -> None:
    found = stds(name, lambda layer, _: torch.nn.init.kaiming_uniform_(layer.weight, a=5**0.5), 1)
    assert found[-1] < 1e-3


def test_with_pytorchs_gain_for_selu_they_sink() -> None:
    gain = torch.nn.init.calculate_gain("selu")
    found = stds(
        "selu",
        lambda layer, feeds: torch.nn.init.normal_(
            layer.weight, 0, (gain if feeds == "selu" else 1.0) / WIDTH**0.5
        ),
        1,
    )
    assert found[-1] < 0.2


def through(activation: torch.nn.Module, criterion: str, seeds: int) -> tuple[Any, Any]:
    """Rms of the pre-activations of 50 layers, and of the loss gradients there, over all seeds.

    Relative to the first layer's and to the last layer's. One layer more leads to the output,
    where the signal has another size.
    """
    levels, gradients = torch.zeros(DEPTH), torch.zeros(DEPTH)
    for seed in range(seeds):
        torch.manual_seed(seed)
        layers = [torch.nn.Linear(WIDTH, WIDTH).requires_grad_(False) for _ in range(DEPTH + 1)]
        parts = [part for layer in layers for part in (layer, activation)]
        init.init_sequential_(torch.nn.Sequential(*parts), criterion=criterion)
        x, kept = torch.randn(BATCH, WIDTH, requires_grad=True), []
        for layer in layers:
            x = layer(activation(x) if kept else x)
            x.retain_grad()
            kept.append(x)
        x.backward(torch.randn(x.shape))
        levels += torch.stack([x.detach().square().mean() for x in kept[:-1]])
        gradients += torch.stack([x.grad.square().mean() for x in kept[:-1]])
    return (levels / levels[0]).sqrt(), (gradients / gradients[-1]).sqrt()


def test_at_its_critical_point_tanh_keeps_signals_and_gradients_at_once() -> None:
    levels, gradients = through(torch.nn.Tanh(), "critical", SEEDS)
    assert abs(levels - 1).max() < 0.08
    assert abs(gradients - 1).max() < 0.1
    levels, gradients = through(torch.nn.Tanh(), "forward", 1)
    assert abs(levels - 1).max() < 0.08
    assert gradients[0] == pytest.approx(57, rel=0.2)  # 1.178 a layer, squared


def test_at_its_critical_point_gelu_keeps_what_its_gain_alone_lets_grow() -> None:
    levels, gradients = through(torch.nn.GELU(), "critical", 8)
    assert abs(levels - 1).max() < 0.25  # half stable: what is too large comes back slowly
    assert abs(gradients - 1).max() < 0.1
    levels, gradients = through(torch.nn.GELU(), "forward", 1)
    assert levels[-1] > 5
    assert gradients[0] > 20
