"""Signals and gradients through deep networks, initialised in each framework from one table."""

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gainreg

WIDTH, BATCH, SEEDS = 1024, 32, 3
# depth, and how far from 1 the std of any layer's pre-activations may be, as a factor
LAWS = {
    "tanh": (30, 1.03),
    "selu": (30, 1.03),
    "elu": (30, 1.1),
    "relu": (30, 1.4),
    "gelu": (10, 1.5),
    "silu": (10, 1.5),
}


def through_torch(name: str, depth: int, seed: int, table: Path) -> Iterator[Any]:
    torch = pytest.importorskip("torch", reason="this network is one of PyTorch")
    from gainreg.adapters.torch import init_sequential_

    kinds = {"silu": "SiLU", "tanh": "Tanh"}
    activation = getattr(torch.nn, kinds.get(name, name.upper().replace("RELU", "ReLU")))
    linear = partial(torch.nn.utils.skip_init, torch.nn.Linear, WIDTH, WIDTH)
    layers = [module for _ in range(depth) for module in (linear(), activation())]
    generator = torch.Generator().manual_seed(seed)
    init_sequential_(torch.nn.Sequential(*layers), table, generator=generator)
    with torch.no_grad():
        x = torch.randn(BATCH, WIDTH, generator=generator)
        for layer in layers:
            x = layer(x)
            if isinstance(layer, torch.nn.Linear):
                yield x


def through_flax(name: str, depth: int, seed: int, table: Path) -> Iterator[Any]:
    jax = pytest.importorskip("jax", reason="this network is one of JAX")
    linen = pytest.importorskip("flax.linen", reason="this network is one of Flax")
    from gainreg.adapters.jax import normal

    phi = partial(jax.nn.gelu, approximate=False) if name == "gelu" else getattr(jax.nn, name)
    dense = {
        fed: linen.Dense(WIDTH, kernel_init=normal(fed, table=table)) for fed in ("identity", name)
    }
    # millions of random numbers are worth what tests/conftest.py saves elsewhere
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        x = jax.random.normal(jax.random.key(seed), (BATCH, WIDTH))
        for depth_so_far in range(depth):
            layer = dense[name if depth_so_far else "identity"]
            x = phi(x) if depth_so_far else x
            key = jax.random.key(1000 * seed + depth_so_far)
            x = layer.init_with_output(key, x)[0]
            yield x
    finally:
        jax.config.update("jax_disable_most_optimizations", True)


def through_keras(name: str, depth: int, seed: int, table: Path) -> Iterator[Any]:
    keras = pytest.importorskip("keras", reason="this network is one of Keras")
    from gainreg.adapters.keras import VarianceScaling

    phi, gains = keras.activations.get(name), gainreg.load_table(table)
    x = keras.ops.convert_to_tensor(np.random.default_rng(seed).normal(size=(BATCH, WIDTH)))
    x = keras.ops.cast(x, "float32")
    for depth_so_far in range(depth):
        draw = VarianceScaling(
            name if depth_so_far else "identity",
            distribution="uniform",  # Keras draws it fastest
            seed=1000 * seed + depth_so_far,
            table=gains,
        )
        x = phi(x) if depth_so_far else x
        x = keras.layers.Dense(WIDTH, kernel_initializer=draw)(x)
        yield keras.ops.convert_to_numpy(x)


@pytest.mark.parametrize("through", [through_torch, through_flax, through_keras])
@pytest.mark.parametrize("name", LAWS)
def test_every_layer_keeps_the_size_of_the_signal(
    through: Callable[..., Iterator[Any]], name: str, table: Path
) -> None:
    depth, factor = LAWS[name]
    runs = [
        [float(np.asarray(x).std()) for x in through(name, depth, seed, table)]
        for seed in range(SEEDS)
    ]
    stds = [statistics.median(layer) for layer in zip(*runs, strict=True)]
    assert len(stds) == depth
    assert 1 / factor < min(stds)
    assert max(stds) < factor


@pytest.mark.parametrize("name", ["elu", "selu", "tanh"])
def test_fan_out_keeps_the_mean_squared_gradient(name: str, table: Path) -> None:
    """A network whose layers narrow by gradient_factor: there fan_out is fan_in.

    So the pre-activations stay at std 1, for which the backward gain holds, all the way.
    """
    torch = pytest.importorskip("torch", reason="this network is one of PyTorch")
    from gainreg.adapters.torch import normal_

    entry = gainreg.load_table(table).lookup(name)
    assert entry.gradient_factor is not None
    widths = [round(2500 / entry.gradient_factor**depth) for depth in range(11)]
    levels = []
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        weights = [
            normal_(torch.empty(n, m), name, "fan_out", table=table, generator=generator)
            for m, n in pairwise(widths)
        ]
        h = torch.randn(BATCH, widths[0], generator=generator, requires_grad=True)
        kept = [h]
        for weight in weights:
            h = getattr(torch.nn.functional, name)(h) @ weight.T
            h.retain_grad()
            kept.append(h)
        h.backward(torch.randn(h.shape, generator=generator))
        assert all(0.8 < float(h.detach().std()) < 1.25 for h in kept)
        levels.append([float(h.grad.square().mean()) for h in kept])
    medians = [statistics.median(level) for level in zip(*levels, strict=True)]
    assert min(medians) > 1 / 1.25
    assert max(medians) < 1.25


def test_fan_out_and_autograd_through_a_whole_network() -> None:
    """ReLU is homogeneous: its slopes, so its gradients, do not depend on the signal's size."""
    torch = pytest.importorskip("torch", reason="this network is one of PyTorch")
    from gainreg.adapters.torch import normal_

    torch.manual_seed(0)
    widths = [1024 if depth % 2 else 768 for depth in range(21)]
    weights = [
        normal_(torch.empty(n, m), "relu", "fan_out").requires_grad_(False)
        for m, n in pairwise(widths)
    ]
    x, kept = torch.randn(BATCH, widths[0], requires_grad=True), []
    h = x
    for weight in weights:
        h.retain_grad()
        kept.append(h)
        h = torch.relu(h) @ weight.T
    h.backward(torch.randn_like(h))
    squares = [float(h.grad.square().mean()) for h in kept]
    assert min(squares) > 1 / 1.6
    assert max(squares) < 1.6
    entry = gainreg.resolve("relu")
    assert entry.backward_gain == pytest.approx(2**0.5, rel=1e-14)
