"""The same models in each framework, and gainreg's calls on them: what the tests of whole models
are asked of everywhere.

Arrays are NumPy's throughout, images with their channels last. A framework that is not installed is
skipped.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pytest

from gainreg.signals import Plan, SignalReport

Array = Any  # of NumPy

PLACES, HEADS, TOKENS, WIDTH = 12, 4, 50, 64


class Framework(Protocol):
    """What a framework must say of itself to be tested.

    Models: ``mlp`` has linear layers of such widths with an activation between them; ``stream`` a
    number of residual branches, each a norm or none, linear, GELU, linear; ``convnet`` and
    ``transformer`` are as written below. ``shapes_only`` is a model without values.
    """

    name: str

    def mlp(self, widths: Sequence[int], activation: str) -> Any: ...
    def stream(self, branches: int, norm: bool, width: int = 128) -> Any: ...
    def convnet(self) -> Any: ...
    def transformer(self) -> Any: ...
    def shapes_only(self, widths: Sequence[int], activation: str) -> tuple[Any, Any]: ...
    def plan(self, model: Any, x: Array, **options: Any) -> Plan: ...
    def measure(self, model: Any, x: Array, **options: Any) -> SignalReport: ...
    def initialize(
        self, model: Any, x: Array, seed: int = 0, **options: Any
    ) -> tuple[Any, SignalReport]: ...
    def apply(self, model: Any, plan: Plan, seed: int = 0, **options: Any) -> Any: ...
    def run(self, model: Any, x: Array) -> Array: ...
    def state(self, model: Any) -> Mapping[str, Array]: ...


def rows(width: int, samples: int = 64) -> Array:
    return np.random.default_rng(1).normal(size=(samples, width)).astype(np.float32)


def images(size: int = 16) -> Array:
    return np.random.default_rng(2).normal(size=(8, size, size, 3)).astype(np.float32)


def tokens() -> Array:
    return np.random.default_rng(3).integers(0, TOKENS, size=(8, PLACES))


class PyTorch:
    """PyTorch's modules."""

    name = "torch"

    def __init__(self) -> None:
        self.torch = pytest.importorskip("torch")
        from gainreg.adapters import torch as adapter

        self.adapter: Any = adapter

    def mlp(self, widths: Sequence[int], activation: str) -> Any:
        nn, parts = self.torch.nn, []
        kinds = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU}
        for i, (n, m) in enumerate(itertools.pairwise(widths)):
            parts += [kinds[activation]()] * bool(i) + [nn.Linear(n, m)]
        return nn.Sequential(*parts)

    def stream(self, branches: int, norm: bool, width: int = 128) -> Any:
        from networks import Residual

        return Residual(branches, norm, width)

    def convnet(self) -> Any:
        from networks import Of

        torch, nn = self.torch, self.torch.nn

        def forward(m: Any, x: Any) -> Any:
            x = torch.relu(m.norm(m.stem(x)))
            x = nn.functional.max_pool2d(x, 3, 2, 1)
            x = x + m.b(torch.relu(m.a(x)))
            x = m.skip(x) + m.d(torch.relu(m.c(torch.relu(x))))
            return m.head(torch.relu(x).mean((2, 3)))

        return Of(
            forward,
            stem=nn.Conv2d(3, 16, 3, padding=1),
            norm=nn.BatchNorm2d(16),
            a=nn.Conv2d(16, 16, 3, padding=1),
            b=nn.Conv2d(16, 16, 3, padding=1),
            c=nn.Conv2d(16, 32, 3, 2, padding=1),
            d=nn.Conv2d(32, 32, 3, padding=1, groups=2),
            skip=nn.Conv2d(16, 32, 1, 2),
            head=nn.Linear(32, 10),
        )

    def transformer(self) -> Any:
        from networks import Of

        torch, nn = self.torch, self.torch.nn

        def forward(m: Any, ids: Any) -> Any:
            x = m.table(ids) + m.places
            q, k, v = m.qkv(m.first(x)).view(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
            scores = q @ k.transpose(-2, -1) / math.sqrt(WIDTH // HEADS)
            seen = torch.ones(PLACES, PLACES, dtype=torch.bool).tril()
            y = torch.where(seen, scores, -math.inf).softmax(-1) @ v
            x = x + m.out(y.transpose(1, 2).reshape(x.shape))
            x = x + m.down(torch.nn.functional.gelu(m.up(m.second(x)), approximate="tanh"))
            return m.head(m.last(x))

        return Of(
            forward,
            table=nn.Embedding(TOKENS, WIDTH),
            places=nn.Parameter(torch.zeros(PLACES, WIDTH)),
            first=nn.LayerNorm(WIDTH),
            qkv=nn.Linear(WIDTH, 3 * WIDTH),
            out=nn.Linear(WIDTH, WIDTH),
            second=nn.LayerNorm(WIDTH),
            up=nn.Linear(WIDTH, 4 * WIDTH),
            down=nn.Linear(4 * WIDTH, WIDTH),
            last=nn.LayerNorm(WIDTH),
            head=nn.Linear(WIDTH, TOKENS),
        )

    def shapes_only(self, widths: Sequence[int], activation: str) -> tuple[Any, Any]:
        with self.torch.device("meta"):
            return self.mlp(widths, activation), self.torch.empty(64, widths[0])

    def tensor(self, x: Array) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        return self.torch.from_numpy(np.moveaxis(x, -1, 1).copy() if x.ndim == 4 else x)

    def plan(self, model: Any, x: Array, **options: Any) -> Plan:
        return self.adapter.plan(model, self.tensor(x), **options)

    def measure(self, model: Any, x: Array, **options: Any) -> SignalReport:
        return self.adapter.measure(model, self.tensor(x), **options)

    def initialize(
        self, model: Any, x: Array, seed: int = 0, **options: Any
    ) -> tuple[Any, SignalReport]:
        source = self.torch.Generator().manual_seed(seed)
        report = self.adapter.initialize_(model, self.tensor(x), generator=source, **options)
        return model, report

    def apply(self, model: Any, plan: Plan, seed: int = 0, **options: Any) -> Any:
        source = self.torch.Generator().manual_seed(seed)
        return self.adapter.apply_(model, plan, generator=source, **options)

    def run(self, model: Any, x: Array) -> Array:
        with self.torch.no_grad():
            return model(self.tensor(x)).numpy()

    def state(self, model: Any) -> Mapping[str, Array]:
        return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


class Jax:
    """Flax NNX's modules."""

    name = "jax"

    def __init__(self) -> None:
        self.jax = pytest.importorskip("jax")
        self.nnx = pytest.importorskip("flax.nnx")
        from gainreg.adapters import jax as adapter

        self.adapter: Any = adapter

    @functools.cached_property
    def of(self) -> Any:
        """A module whose call is a function of it and of its inputs."""
        nnx = self.nnx

        class Of(nnx.Module):  # type: ignore[misc,name-defined]
            def __init__(self, forward: Any, **parts: Any) -> None:
                for name, part in parts.items():
                    setattr(self, name, part)
                self.forward = forward

            def __call__(self, *args: Any) -> Any:
                return self.forward(self, *args)

        return Of

    def made(self, make: Callable[[], Any]) -> Any:
        """The model with numbers of NumPy's: Flax's own are compiled one by one."""
        graph, state = self.nnx.split(self.nnx.eval_shape(make))
        source = np.random.default_rng(0)

        def fill(path: Any, leaf: Any) -> Any:
            name = path[-2].key
            if name in ("kernel", "embedding"):
                numbers = source.normal(0, 0.05, leaf.shape)
            else:
                numbers = np.full(leaf.shape, float(name in ("scale", "var")))
            return self.jax.numpy.asarray(numbers, leaf.dtype)

        filled = self.jax.tree_util.tree_map_with_path(fill, state)
        return self.nnx.merge(graph, filled)

    def mlp(self, widths: Sequence[int], activation: str) -> Any:
        return self.made(lambda: self._mlp(widths, activation))

    def stream(self, branches: int, norm: bool, width: int = 128) -> Any:
        return self.made(lambda: self._stream(branches, norm, width))

    def convnet(self) -> Any:
        return self.made(self._convnet)

    def transformer(self) -> Any:
        return self.made(self._transformer)

    def _mlp(self, widths: Sequence[int], activation: str) -> Any:
        nnx, nn, rngs = self.nnx, self.jax.nn, self.nnx.Rngs(0)
        phi = functools.partial(nn.gelu, approximate=False)
        if activation != "gelu":
            phi = getattr(nn, activation)

        def forward(m: Any, x: Any) -> Any:
            for i, layer in enumerate(m.layers):
                x = layer(phi(x) if i else x)
            return x

        pairs = itertools.pairwise(widths)
        return self.of(forward, layers=nnx.List(nnx.Linear(n, m, rngs=rngs) for n, m in pairs))

    def _stream(self, branches: int, norm: bool, width: int) -> Any:
        nnx, rngs = self.nnx, self.nnx.Rngs(0)

        def forward(m: Any, x: Any) -> Any:
            for first, up, down in zip(m.norms, m.ups, m.downs, strict=True):
                y = up(first(x) if norm else x)
                x = x + down(self.jax.nn.gelu(y, approximate=False))
            return x

        layers = [nnx.Linear(width, width, rngs=rngs) for _ in range(2 * branches)]
        norms = [nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs) for _ in range(branches * norm)]
        return self.of(
            forward,
            norms=nnx.List(norms) if norm else [None] * branches,
            ups=nnx.List(layers[::2]),
            downs=nnx.List(layers[1::2]),
        )

    def _convnet(self) -> Any:
        nnx, relu = self.nnx, self.jax.nn.relu
        linen = pytest.importorskip("flax.linen")

        def forward(m: Any, x: Any) -> Any:
            x = relu(m.norm(m.stem(x)))
            x = linen.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
            x = x + m.b(relu(m.a(x)))
            x = m.skip(x) + m.d(relu(m.c(relu(x))))
            return m.head(relu(x).mean((1, 2)))

        def conv(n: int, m: int, k: int, stride: int = 1, groups: int = 1) -> Any:
            around = k // 2
            return nnx.Conv(
                n, m, (k, k), stride, padding=((around, around),) * 2,
                feature_group_count=groups, rngs=nnx.Rngs(0),
            )  # fmt: skip

        return self.of(
            forward,
            stem=conv(3, 16, 3),
            norm=nnx.BatchNorm(16, epsilon=1e-5, rngs=nnx.Rngs(0)),
            a=conv(16, 16, 3),
            b=conv(16, 16, 3),
            c=conv(16, 32, 3, 2),
            d=conv(32, 32, 3, groups=2),
            skip=conv(16, 32, 1, 2),
            head=nnx.Linear(32, 10, rngs=nnx.Rngs(0)),
        )

    def _transformer(self) -> Any:
        nnx, jax, jnp = self.nnx, self.jax, self.jax.numpy
        rngs = nnx.Rngs(0)

        def forward(m: Any, ids: Any) -> Any:
            x = m.table(ids) + m.places[...]
            q, k, v = jnp.moveaxis(m.qkv(m.first(x)).reshape(*x.shape[:2], 3, HEADS, -1), 2, 0)
            scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(WIDTH // HEADS)
            seen = jnp.tril(jnp.ones((PLACES, PLACES), bool))
            weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
            x = x + m.out(jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape))
            x = x + m.down(jax.nn.gelu(m.up(m.second(x))))
            return m.head(m.last(x))

        def norm() -> Any:
            return nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs)

        return self.of(
            forward,
            table=nnx.Embed(TOKENS, WIDTH, rngs=rngs),
            places=nnx.Param(jnp.zeros((PLACES, WIDTH))),
            first=norm(),
            qkv=nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs),
            out=nnx.Linear(WIDTH, WIDTH, rngs=rngs),
            second=norm(),
            up=nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs),
            down=nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs),
            last=norm(),
            head=nnx.Linear(WIDTH, TOKENS, rngs=rngs),
        )

    def shapes_only(self, widths: Sequence[int], activation: str) -> tuple[Any, Any]:
        model = self.nnx.eval_shape(lambda: self._mlp(widths, activation))
        return model, self.jax.ShapeDtypeStruct((64, widths[0]), "float32")

    def plan(self, model: Any, x: Array, **options: Any) -> Plan:
        return self.adapter.plan(model, x, **options)

    def measure(self, model: Any, x: Array, **options: Any) -> SignalReport:
        return self.adapter.measure(model, x, **options)

    def initialize(
        self, model: Any, x: Array, seed: int = 0, **options: Any
    ) -> tuple[Any, SignalReport]:
        return self.adapter.initialize(model, x, key=self.jax.random.key(seed), **options)

    def apply(self, model: Any, plan: Plan, seed: int = 0, **options: Any) -> Any:
        return self.adapter.apply(model, plan, key=self.jax.random.key(seed), **options)

    def run(self, model: Any, x: Array) -> Array:
        return np.asarray(model(x))

    def state(self, model: Any) -> Mapping[str, Array]:
        leaves, _ = self.jax.tree_util.tree_flatten_with_path(self.nnx.state(model))
        return {
            str(path): np.asarray(leaf)
            for path, leaf in leaves
            if not self.jax.dtypes.issubdtype(leaf.dtype, self.jax.dtypes.prng_key)
        }


class Keras:
    """Keras's models, on the backend of this process: torch, unless KERAS_BACKEND names another."""

    name = "keras"

    def __init__(self) -> None:
        self.keras = pytest.importorskip("keras")
        from gainreg.adapters import keras as adapter

        self.adapter: Any = adapter

    @functools.cached_property
    def of(self) -> Any:
        """A model whose call is a function of it and of its input."""

        class Of(self.keras.Model):  # type: ignore[misc,name-defined]
            def __init__(self, forward: Any, **parts: Any) -> None:
                super().__init__()
                for name, part in parts.items():
                    setattr(self, name, part)
                self.forward_of = forward

            def call(self, x: Any, training: bool = False) -> Any:
                return self.forward_of(self, x)

        return Of

    def anew(self) -> Any:
        """Its layers, to be numbered from 1 on in their names."""
        self.keras.utils.clear_session(free_memory=False)  # a collection takes 0.3 s
        return self.keras.layers

    def mlp(self, widths: Sequence[int], activation: str) -> Any:
        layers = self.anew()
        model = self.keras.Sequential([self.keras.Input(widths[:1])])
        for width in widths[1:-1]:
            model.add(layers.Dense(width, activation=activation))
        model.add(layers.Dense(widths[-1]))
        return model

    def stream(self, branches: int, norm: bool, width: int = 128) -> Any:
        layers = self.anew()
        x = start = self.keras.Input((width,))
        for _ in range(branches):
            y = layers.LayerNormalization(epsilon=1e-5)(x) if norm else x
            y = layers.Dense(width)(layers.Dense(width, activation="gelu")(y))
            x = layers.Add()([x, y])
        return self.keras.Model(start, x)

    def convnet(self) -> Any:
        keras, layers, relu = self.keras, self.anew(), self.keras.ops.relu

        def forward(m: Any, x: Any) -> Any:
            x = m.pool(relu(m.norm(m.stem(x))))
            x = x + m.b(relu(m.a(x)))
            x = m.skip(x) + m.d(relu(m.c(relu(x))))
            return m.head(relu(x).mean((1, 2)))

        def conv(m: int, k: int, groups: int = 1) -> Any:
            return layers.Conv2D(m, k, padding="same", groups=groups)

        model = self.of(
            forward,
            stem=conv(16, 3),
            norm=layers.BatchNormalization(epsilon=1e-5),
            pool=layers.MaxPooling2D(3, 2, "same"),
            a=conv(16, 3),
            b=conv(16, 3),
            # a stride would have "same" pad on one side only
            c=keras.Sequential([layers.ZeroPadding2D(1), layers.Conv2D(32, 3, 2)]),
            d=conv(32, 3, groups=2),
            skip=layers.Conv2D(32, 1, 2),
            head=layers.Dense(10),
        )
        model(images())
        return model

    def transformer(self) -> Any:
        layers, ops = self.anew(), self.keras.ops

        def forward(m: Any, ids: Any) -> Any:
            x = m.table(ids) + m.places
            qkv = ops.reshape(m.qkv(m.first(x)), (*x.shape[:2], 3, HEADS, -1))
            q, k, v = ops.transpose(qkv, (2, 0, 3, 1, 4))
            scores = q @ ops.swapaxes(k, -2, -1) / math.sqrt(WIDTH // HEADS)
            seen = ops.tril(ops.ones((PLACES, PLACES), "bool"))
            y = ops.softmax(ops.where(seen, scores, -math.inf)) @ v
            x = x + m.out(ops.reshape(ops.transpose(y, (0, 2, 1, 3)), x.shape))
            x = x + m.down(ops.gelu(m.up(m.second(x)), approximate=True))
            return m.head(m.last(x))

        def norm() -> Any:
            return layers.LayerNormalization(epsilon=1e-5)

        model = self.of(
            forward,
            table=layers.Embedding(TOKENS, WIDTH),
            first=norm(),
            qkv=layers.Dense(3 * WIDTH),
            out=layers.Dense(WIDTH),
            second=norm(),
            up=layers.Dense(4 * WIDTH),
            down=layers.Dense(WIDTH),
            last=norm(),
            head=layers.Dense(TOKENS),
        )
        model.places = model.add_weight((PLACES, WIDTH), "zeros", name="places")
        model(tokens())
        return model

    def shapes_only(self, widths: Sequence[int], activation: str) -> tuple[Any, Any]:
        return self.mlp(widths, activation), self.keras.KerasTensor((64, widths[0]))

    def plan(self, model: Any, x: Array, **options: Any) -> Plan:
        return self.adapter.plan(model, x, **options)

    def measure(self, model: Any, x: Array, **options: Any) -> SignalReport:
        return self.adapter.measure(model, x, **options)

    def initialize(
        self, model: Any, x: Array, seed: int = 0, **options: Any
    ) -> tuple[Any, SignalReport]:
        return model, self.adapter.initialize_(model, x, seed=seed, **options)

    def apply(self, model: Any, plan: Plan, seed: int = 0, **options: Any) -> Any:
        return self.adapter.apply_(model, plan, seed=seed, **options)

    def run(self, model: Any, x: Array) -> Array:
        return np.array(self.keras.ops.convert_to_numpy(model(x)))

    def state(self, model: Any) -> Mapping[str, Array]:
        return {
            variable.path: np.array(self.keras.ops.convert_to_numpy(variable))
            for variable in model.variables
        }


FRAMEWORKS: tuple[type[Framework], ...] = (PyTorch, Jax, Keras)

each_framework = pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda kind: kind.name)
