"""Whole JAX models: the kinds of models, all that a jaxpr may hold, and what comes back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
nnx = pytest.importorskip("flax.nnx")
linen = pytest.importorskip("flax.linen")
eqx = pytest.importorskip("equinox")
jnp = jax.numpy

from gainreg import ParameterError  # noqa: E402
from gainreg.adapters.jax import apply, initialize, measure, plan, rule  # noqa: E402

WIDTH, SAMPLES = 64, 32
KEY = jax.random.key(0)

Made = tuple[Any, Any]


def normal(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def rows() -> Any:
    return normal(SAMPLES, WIDTH)


def params(*shapes: tuple[int, ...], **named: tuple[int, ...]) -> dict[str, Any]:
    """Weights a, b, c … of such shapes, and those that are named."""
    named = {**dict(zip("abcdefg", shapes, strict=False)), **named}
    return {name: jnp.asarray(normal(*shape)) for name, shape in named.items()}


SQUARE, LAST = (WIDTH, WIDTH), (WIDTH, 8)


def of(function: Callable[..., Any], *shapes: tuple[int, ...], x: Any = None, **named: Any) -> Made:
    """A pair of a function and its weights, and an input."""
    return (function, params(*shapes, **named)), rows() if x is None else x


def stacked(layers: int = 4) -> Made:
    """Layers that a scan goes along."""

    def layer(x: Any, own: Any) -> Any:
        y = jax.nn.gelu(x @ own["up"] + own["bias"])
        return x + y @ own["down"], None

    def run(p: Any, x: Any) -> Any:
        own = {name: p[name] for name in ("up", "down", "bias")}
        return jax.lax.scan(jax.checkpoint(layer), x, own)[0] @ p["head"]

    shapes = {"up": (layers, *SQUARE), "down": (layers, *SQUARE), "bias": (layers, WIDTH)}
    return of(run, head=LAST, **shapes)


def written_out_norm(p: Any, x: Any) -> Any:
    x = x @ p["a"] * 3 + 1
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return ((x - mean) / jnp.sqrt(variance + 1e-5)) @ p["b"]


def written_out_softmax(p: Any, x: Any) -> Any:
    q, k, v = x @ p["a"], x @ p["b"], x @ p["c"]
    weights = jnp.exp(jnp.einsum("bqd,bkd->bqk", q, k) / math.sqrt(WIDTH))
    weights = weights / weights.sum(-1, keepdims=True)
    return jnp.einsum("bqk,bkd->bqd", weights, v) @ p["d"]


def rotated(x: Any) -> Any:
    half = x.shape[-1] // 2
    angles = jnp.outer(jnp.arange(x.shape[-3]), 100.0 ** -(jnp.arange(half) / half))
    angles = jnp.concatenate([angles, angles], -1)[:, None, :]
    turned = jnp.concatenate([-x[..., half:], x[..., :half]], -1)
    return x * jnp.cos(angles) + turned * jnp.sin(angles)


def rotary(p: Any, x: Any) -> Any:
    q, k, v = jnp.einsum("bnd,dshk->sbnhk", x, p["qkv"])
    y = jax.nn.dot_product_attention(rotated(q), rotated(k), v, is_causal=True)
    return (x + jnp.einsum("bnhk,hkd->bnd", y, p["out"])) @ p["head"]


def experts(p: Any, x: Any) -> Any:
    gates = jax.nn.softmax(x @ p["router"])
    y = jax.nn.relu(jnp.einsum("nd,edh->enh", x, p["up"]))
    return jnp.einsum("ne,end->nd", gates, jnp.einsum("enh,ehd->end", y, p["down"])) @ p["head"]


def standardised(p: Any, x: Any) -> Any:
    w = (p["a"] - p["a"].mean(0)) / (p["a"].std(0) * math.sqrt(WIDTH))
    return jax.nn.relu(x @ w) @ p["b"]


@jax.custom_vjp
def straight(x: Any) -> Any:
    return x * jnp.sin(x)


straight.defvjp(lambda x: (straight(x), None), lambda _, g: (g,))


def branched(p: Any, x: Any) -> Any:
    x = x @ p["a"]
    return jax.lax.cond(x.sum() > 0, jax.nn.silu, lambda x: jax.nn.silu(x), x) @ p["b"]


def repeated(p: Any, x: Any) -> Any:
    return jax.lax.fori_loop(0, 4, lambda _, x: jnp.tanh(x @ p["a"]), x) @ p["b"]


PLACES = normal(12, WIDTH) + 1


def dropped(p: Any, x: Any, key: Any) -> Any:
    x = jax.nn.relu(x @ p["a"] + PLACES)
    return (x * jax.random.bernoulli(key, 0.8, x.shape) / 0.8) @ p["b"]


class ResNet(linen.Module):  # type: ignore[misc,name-defined]
    """A small ResNet whose running means are a mutable collection."""

    @linen.compact
    def __call__(self, x: Any, train: bool = True) -> Any:
        def norm(x: Any) -> Any:
            return linen.BatchNorm(use_running_average=not train)(x)

        def conv(x: Any, features: int, size: int = 3, stride: int = 1) -> Any:
            return linen.Conv(features, (size, size), stride, use_bias=False)(x)

        x = linen.relu(norm(conv(x, 32, 5, 2)))
        for features, stride in ((32, 1), (64, 2)):
            y = norm(conv(linen.relu(norm(conv(x, features, 3, stride))), features))
            if x.shape != y.shape:
                x = norm(conv(x, features, 1, stride))
            x = linen.relu(x + y)
        return linen.Dense(10)(x.mean((1, 2)))


def of_linen(module: Any, x: Any, **options: Any) -> Made:
    """A linen module and numbers of NumPy's: those of Flax are compiled one by one."""
    source = np.random.default_rng(0)

    def fill(path: Any, leaf: Any) -> Any:
        name = path[-1].key
        if name in ("kernel", "embedding", "class"):
            return jnp.asarray(source.normal(0, 0.05, leaf.shape), leaf.dtype)
        return jnp.full(leaf.shape, float(name in ("scale", "var")), leaf.dtype)

    shapes = jax.eval_shape(module.init, KEY, x)
    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    return (lambda v, x: module.apply(v, x, **options), variables), x


class ViT(linen.Module):  # type: ignore[misc,name-defined]
    """Patches, a class token, attention as Flax writes it."""

    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = linen.Conv(WIDTH, (4, 4), (4, 4))(x).reshape(x.shape[0], -1, WIDTH)
        token = self.param("class", linen.initializers.normal(), (1, 1, WIDTH))
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], 1)
        y = linen.LayerNorm()(x)
        x = x + linen.MultiHeadDotProductAttention(4)(y, y)
        x = x + linen.Dense(WIDTH)(linen.gelu(linen.Dense(128)(linen.RMSNorm()(x))))
        return linen.Dense(10)(linen.LayerNorm()(x)[:, 0])


class UNet(linen.Module):  # type: ignore[misc,name-defined]
    """One level of a U-Net, with a grouped and a transposed convolution."""

    @linen.compact
    def __call__(self, x: Any) -> Any:
        a = linen.relu(linen.Conv(32, (3, 3))(x))
        b = linen.relu(
            linen.Conv(32, (3, 3), feature_group_count=2)(linen.max_pool(a, (2, 2), (2, 2)))
        )
        b = linen.relu(linen.ConvTranspose(32, (2, 2), (2, 2))(linen.GroupNorm(4)(b)))
        joined = jnp.concatenate([a, b], -1)
        return linen.Conv(3, (1, 1))(linen.avg_pool(linen.Conv(32, (3, 3))(joined), (2, 2), (2, 2)))


class Perceptron(eqx.Module):  # type: ignore[misc,name-defined]
    """An MLP of Equinox for a batch."""

    mlp: Any

    def __call__(self, x: Any) -> Any:
        return jax.vmap(self.mlp)(x)


def equinox_batch_norm() -> Made:
    class Net(eqx.Module):  # type: ignore[misc,name-defined]
        first: Any
        norm: Any
        last: Any

        def __init__(self) -> None:
            self.first, self.last = (eqx.nn.Linear(*s, key=KEY) for s in (SQUARE, LAST))
            self.norm = eqx.nn.BatchNorm(WIDTH, "batch", mode="batch")

        def __call__(self, x: Any, state: Any) -> Any:
            x, state = self.norm(self.first(x), state)
            return self.last(jax.nn.relu(x)), state

    model, state = eqx.nn.make_with_state(Net)()
    batched = {"axis_name": "batch", "in_axes": (0, None), "out_axes": (0, None)}
    return (lambda m, x, state: jax.vmap(m, **batched)(x, state), model), (rows(), state)


class Recurrent(nnx.Module):  # type: ignore[misc,name-defined]
    """An LSTM between two layers."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first, self.last = nnx.Linear(*SQUARE, rngs=rngs), nnx.Linear(*LAST, rngs=rngs)
        self.middle = nnx.RNN(nnx.LSTMCell(*SQUARE, rngs=rngs))

    def __call__(self, x: Any) -> Any:
        return self.last(self.middle(self.first(x)))


class Dropped(nnx.Module):  # type: ignore[misc,name-defined]
    """Multi-head attention, dropout, and a table that is the output's weight too."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.table = nnx.Embed(50, WIDTH, rngs=rngs)
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, WIDTH, decode=False, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.last = nnx.RMSNorm(WIDTH, rngs=rngs)

    def __call__(self, ids: Any) -> Any:
        x = self.table(ids)
        mask = nnx.make_causal_mask(ids)
        x = x + self.dropout(self.attention(self.norm(x), mask=mask))
        return self.table.attend(self.last(x))


def ids() -> Any:
    return np.random.default_rng(0).integers(0, 50, (8, 16)).astype(np.int32)


MODELS: dict[str, Callable[[], Made]] = {
    "a scan over layers": stacked,
    "a written-out norm": lambda: of(written_out_norm, SQUARE, LAST),
    "a written-out softmax": lambda: of(
        written_out_softmax, SQUARE, SQUARE, SQUARE, LAST, x=normal(8, 12, WIDTH)
    ),
    "rotary attention": lambda: of(
        rotary, qkv=(WIDTH, 3, 4, 16), out=(4, 16, WIDTH), head=LAST, x=normal(8, 12, WIDTH)
    ),
    "SwiGLU": lambda: of(
        lambda p, x: (jax.nn.silu(x @ p["a"]) * (x @ p["b"])) @ p["c"], SQUARE, SQUARE, LAST
    ),
    "experts": lambda: of(
        experts, router=(WIDTH, 4), up=(4, *SQUARE), down=(4, *SQUARE), head=LAST
    ),
    "standardised weights": lambda: of(standardised, SQUARE, LAST),
    "a gradient of its own": lambda: of(lambda p, x: straight(x @ p["a"]) @ p["b"], SQUARE, LAST),
    "a branch": lambda: of(branched, SQUARE, LAST),
    "a layer again and again": lambda: of(repeated, SQUARE, LAST),
    "a map": lambda: of(
        lambda p, x: jax.lax.map(lambda x: jax.nn.elu(x @ p["a"]) @ p["b"], x), SQUARE, LAST
    ),
    "dropout and places of its own": lambda: of(
        dropped, SQUARE, LAST, x=(normal(8, 12, WIDTH), jax.random.key(3))
    ),
    "a ResNet": lambda: of_linen(ResNet(), normal(8, 32, 32, 3), mutable=["batch_stats"]),
    "a ResNet in evaluation": lambda: of_linen(ResNet(), normal(8, 32, 32, 3), train=False),
    "a ViT": lambda: of_linen(ViT(), normal(8, 16, 16, 3)),
    "a U-Net": lambda: of_linen(UNet(), normal(8, 16, 16, 3)),
    "Equinox": lambda: (Perceptron(eqx.nn.MLP(WIDTH, 8, 128, 2, key=KEY)), rows()),
    "Equinox's batch norm": equinox_batch_norm,
    "an LSTM": lambda: (Recurrent(), normal(8, 6, WIDTH)),
    "dropout and a tied table": lambda: (Dropped(), ids()),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_feeds_each_weight_is_predicted(name: str) -> None:
    model, args = MODELS[name]()
    new, report = initialize(model, args, key=KEY)
    kind = type(model[1] if isinstance(model, tuple) else model)
    assert isinstance(new, kind)
    assert not any("not understood" in warning for warning in report.warnings)
    for weight in report.weights:
        off = math.log(weight.input_rms / weight.measured_input_rms)
        least = 0.05 if weight.exact else 0.15
        assert abs(off) < max(least, 3 * weight.spread), (weight.name, weight.input_rms, off)
        assert weight.measured_gradient_rms > 0


LINE = np.array([1, 2, 1], np.float32) / 4
BLUR = np.outer(LINE, LINE)
BLOCKS = np.kron(np.eye(4), np.ones((4, 4))).astype(np.float32) / 4


def by_kernel(kernel: Any, stride: int = 1, pad: Any = "SAME", apart: int = 1) -> Any:
    """Each channel by itself with the same kernel."""

    def convolved(x: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x, jnp.tile(kernel[:, :, None, None], x.shape[-1]), (stride, stride), pad,
            (apart, apart), dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )  # fmt: skip

    return convolved


def resized(size: int, method: str) -> Callable[[Any], Any]:
    return lambda x: jax.image.resize(x, (x.shape[0], size, size, x.shape[-1]), method)


KNOWN: dict[str, Callable[[Any], Any]] = {
    "a blur": by_kernel(BLUR),
    "a blur of every second": by_kernel(BLUR, 2, "VALID"),
    "a blur into more": by_kernel(4 * BLUR, 1, ((1, 2), (1, 2)), 2),
    "slopes": by_kernel(np.outer(LINE, np.array([1, 0, -1], np.float32))),
    "averages": lambda x: jnp.einsum("nhwc,hk->nkwc", x, BLOCKS),
    "bilinear": resized(24, "bilinear"),
    "bicubic into fewer": resized(7, "bicubic"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_mixes_positions_in_a_known_way(name: str) -> None:
    model, x = of(
        lambda p, x: jax.nn.relu(KNOWN[name](jax.nn.relu(x @ p["a"])) @ p["b"]) @ p["c"],
        a=(16, 128), b=(128, 128), c=(128, 32), x=normal(4, 16, 16, 16),
    )  # fmt: skip
    first, second, _ = initialize(model, x, key=KEY)[1].weights
    assert not second.exact
    assert second.input_rms == pytest.approx(second.measured_input_rms, rel=0.05)
    assert first.gradient_rms == pytest.approx(first.measured_gradient_rms, rel=0.15)


# --- scans, branches, maps ---


def test_layers_of_a_scan_are_set_one_by_one() -> None:
    (run, weights), x = stacked()
    made = plan((run, weights), x)
    stds = {weight.name: weight.std for weight in made.weights}
    names = [f"{name}[{i}]" for i in range(4) for name in ("up", "down")]
    assert list(stds) == [*names, "head"]
    # what the stream has become feeds the next layer, so that each is set smaller
    ups = [stds[f"up[{i}]"] for i in range(4)]
    assert ups == sorted(ups, reverse=True)
    assert ups[0] > 1.3 * ups[3]
    new = apply((run, weights), made, key=KEY)
    for i, std in enumerate(ups):
        assert float(new["up"][i].std()) == pytest.approx(std, rel=0.05)
    assert not new["bias"].any()
    assert made.parameters["bias[2]"] == ("zeroed", "bias of up[2]")


def test_the_same_layers_one_after_the_other_get_the_same_plan() -> None:
    (run, weights), x = stacked()

    def unrolled(p: Any, x: Any) -> Any:
        for layer in p["layers"]:
            x = x + jax.nn.gelu(x @ layer["up"] + layer["bias"]) @ layer["down"]
        return x @ p["head"]

    layers = [{name: weights[name][i] for name in ("up", "down", "bias")} for i in range(4)]
    other = plan((unrolled, {"layers": layers, "head": weights["head"]}), x)
    for here, there in zip(plan((run, weights), x).weights, other.weights, strict=True):
        assert here.std == there.std


def test_what_a_scan_puts_out_stays_in_layers() -> None:
    def layer(x: Any, w: Any) -> Any:
        y = jnp.tanh(x @ w)
        return y, y

    def run(p: Any, x: Any) -> Any:
        return jax.lax.scan(layer, x, p["layers"])[1].mean(0) @ p["head"]

    _, report = initialize(*of(run, layers=(3, *SQUARE), head=LAST), key=KEY)
    weight = report.weights[-1]  # fed by the mean of three, of which none depends on another
    assert weight.input_rms == pytest.approx(weight.measured_input_rms, rel=0.1)
    assert weight.input_rms == pytest.approx(report.weights[1].input_rms / 3**0.5, rel=0.02)


def test_a_scan_that_flax_makes_of_layers() -> None:
    class Layer(nnx.Module):  # type: ignore[misc,name-defined]
        def __init__(self, rngs: Any) -> None:
            self.linear = nnx.Linear(*SQUARE, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return x + jnp.tanh(self.linear(x))

    class Deep(nnx.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            make = nnx.split_rngs(splits=3)(nnx.vmap(Layer, in_axes=0, out_axes=0))
            self.layers, self.head = make(nnx.Rngs(0)), nnx.Linear(*LAST, rngs=nnx.Rngs(1))

        def __call__(self, x: Any) -> Any:
            along = nnx.scan(lambda layer, x: layer(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
            return self.head(along(self.layers, x))

    new, report = initialize(Deep(), rows(), key=KEY)
    assert new.layers.linear.kernel.shape == (3, *SQUARE)
    assert [w.name for w in report.weights[:2]] == [
        "layers/linear/kernel[0]",
        "layers/linear/kernel[1]",
    ]


def test_branches_that_differ_are_named() -> None:
    def run(p: Any, x: Any) -> Any:
        x = x @ p["a"]
        return jax.lax.cond(x.sum() > 0, jnp.tanh, lambda x: x, x) @ p["b"]

    assert any("cond is not understood" in w for w in plan(*of(run, SQUARE, LAST)).warnings)


def test_a_branch_that_no_signal_decides_is_the_one_that_is_taken() -> None:
    def run(p: Any, x: Any) -> Any:
        x = x @ p["a"]
        return jax.lax.cond(jnp.arange(3).sum() > 5, jnp.tanh, jax.nn.relu, x) @ p["b"]

    assert plan(*of(run, SQUARE, LAST)).weights[-1].fed_by == "relu at std 1"


def test_a_weight_that_each_sample_has_of_its_own_is_none() -> None:
    def run(p: Any, x: Any) -> Any:
        return jax.nn.relu(jax.vmap(jnp.dot)(x, p["a"])) @ p["b"]

    made = plan(*of(run, (SAMPLES, *SQUARE), LAST))
    assert made.parameters["a"][0] == "kept"
    assert [weight.name for weight in made.weights] == ["b"]


def test_a_class_token_has_gradients_of_its_own() -> None:
    class Block(nnx.Module):  # type: ignore[misc,name-defined]
        def __init__(self, rngs: Any) -> None:
            self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(4, WIDTH, decode=False, rngs=rngs)
            self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
            self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = x + self.attention(self.norm(x))
            return x + self.down(nnx.gelu(self.up(self.norm(x))))

    class ClassToken(nnx.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.token = nnx.Param(0.02 * rngs.normal((1, 1, WIDTH)))
            self.blocks = nnx.List([Block(rngs) for _ in range(4)])
            self.last = nnx.Linear(*LAST, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = jnp.concatenate((jnp.broadcast_to(self.token[...], (8, 1, WIDTH)), x), 1)
            for block in self.blocks:
                x = block(x)
            return self.last(x[:, 0])

    _, report = initialize(ClassToken(), normal(8, 64, WIDTH), key=KEY)
    for weight in report.weights:
        assert 1 / 1.8 < weight.gradient_rms / weight.measured_gradient_rms < 1.8, weight.name


# --- what comes back, and what stays ---


def test_what_is_shared_stays_shared() -> None:
    class Twice(nnx.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.first = nnx.Linear(*SQUARE, rngs=nnx.Rngs(0))
            self.layers = nnx.List([self.first, nnx.Linear(*LAST, rngs=nnx.Rngs(1))])

        def __call__(self, x: Any) -> Any:
            return self.layers[1](jnp.tanh(self.layers[0](jnp.tanh(self.first(x)))))

    model = Twice()
    before = model.first.kernel[...]
    new, report = initialize(model, rows(), key=KEY)
    assert isinstance(new, Twice)
    assert new.first is new.layers[0]
    assert model.first is model.layers[0]
    assert model.first.kernel[...] is before
    assert report.parameters["layers/0/kernel"] == ("tied", "the same as first/kernel")


def test_layers_of_a_scan_have_all_the_names_of_what_they_are_slices_of() -> None:
    class Twice(nnx.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.layers = nnx.Param(params((3, *SQUARE))["a"])
            self.same = self.layers
            self.last = nnx.Linear(*LAST, rngs=nnx.Rngs(1))

        def __call__(self, x: Any) -> Any:
            layer = lambda x, w: (jnp.tanh(x @ w), None)  # noqa: E731
            return self.last(jax.lax.scan(layer, x, self.layers[...])[0])

    new, report = initialize(Twice(), rows(), key=KEY)
    assert new.same is new.layers
    assert report.parameters["same[2]"] == ("tied", "the same as layers[2]")
    assert report.parameters["layers[2]"][0] == "set"


def test_types_and_shardings_and_trees_stay_as_they_were() -> None:
    sharding = jax.sharding.NamedSharding(
        jax.sharding.Mesh(jax.devices()[:1], "x"), jax.sharding.PartitionSpec("x")
    )
    weights = {
        "half": jax.device_put(jnp.ones(SQUARE, jnp.bfloat16), sharding),
        "rest": [np.ones(LAST, np.float64), {"step": jnp.asarray(3), "name": "b", "none": None}],
    }
    new, _ = initialize(
        (lambda p, x: jnp.tanh(x @ p["half"]) @ p["rest"][0].astype(np.float32), weights),
        rows(), key=KEY,
    )  # fmt: skip
    assert jax.tree.structure(new) == jax.tree.structure(weights)
    assert new["half"].dtype == jnp.bfloat16
    assert new["half"].sharding == sharding
    assert isinstance(new["rest"][0], np.ndarray)
    assert new["rest"][0].dtype == np.float64
    assert new["rest"][1] == weights["rest"][1]


def test_flags_and_keys_are_left_as_they_are() -> None:
    model = Dropped()
    before = jax.random.key_data(model.dropout.rngs.key[...]), int(model.dropout.rngs.count[...])
    measure(model, ids())
    plan(model, ids())
    after = jax.random.key_data(model.dropout.rngs.key[...]), int(model.dropout.rngs.count[...])
    assert np.array_equal(before[0], after[0])
    assert before[1] == after[1]
    assert not jax.config.jax_enable_x64


@pytest.mark.parametrize("name", ["a scan over layers", "a U-Net", "a ResNet", "experts"])
def test_nothing_is_computed_of_shapes(name: str) -> None:
    (run, weights), x = MODELS[name]()
    shapes = jax.eval_shape(lambda: (weights, x))
    made = plan((run, shapes[0]), shapes[1])
    for here, there in zip(plan((run, weights), x).weights, made.weights, strict=True):
        assert there.std == pytest.approx(here.std, rel=0.2)
    huge = jax.ShapeDtypeStruct((10**7, 10**7), jnp.float32)
    plan((lambda p, x: x @ p, huge), jax.ShapeDtypeStruct((8, 10**7), jnp.float32))


# --- bad input ---


@pytest.mark.parametrize(
    "decide",
    [
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * float(x[0, 0]),
        lambda x: x[x[:, 0] > 0],
        lambda x: x * np.asarray(x).mean(),
    ],
)
def test_a_function_that_decides_by_values_in_python(decide: Callable[[Any], Any]) -> None:
    model, x = of(lambda p, x: decide(x @ p["a"]), SQUARE)
    for call in (plan, measure, lambda *args: initialize(*args, key=KEY)):
        with pytest.raises(ParameterError, match="cannot be traced, since Python decides"):
            call(model, x)


def test_params_that_are_one_array() -> None:
    found = plan((lambda w, x: x @ w, normal(*LAST)), rows())
    assert [weight.name for weight in found.weights] == ["params"]


def test_a_call_inside_of_jit() -> None:
    model, x = of(lambda p, x: x @ p["a"], SQUARE)
    for call in (plan, measure, lambda *args: initialize(*args, key=KEY)):
        with pytest.raises(ParameterError, match=r"outside of jax\.jit and other transformations"):
            jax.jit(lambda x, call=call: call(model, x) and x)(x)


def test_params_that_do_not_fit() -> None:
    module = linen.Dense(8)
    other = jax.eval_shape(module.init, KEY, normal(4, 9))
    with pytest.raises(ParameterError, match=r"apply does not run on these params.*shape"):
        plan((module.apply, other), rows())
    with pytest.raises(ParameterError, match=r"does not run on these params.*KeyError: 'b'"):
        plan((lambda p, x: x @ p["a"] @ p["b"], params(SQUARE)), rows())


def test_what_is_no_model_of_jax() -> None:
    with pytest.raises(ParameterError, match=r"give the pair \(module.apply, variables\)"):
        plan(linen.Dense(8), rows())
    with pytest.raises(ParameterError, match="has no parameters"):
        plan((jnp.tanh, {}), rows())
    with pytest.raises(ParameterError, match="has no weights that a signal meets"):
        plan((lambda p, x: jnp.tanh(x), params(SQUARE)), rows())
    with pytest.raises(ParameterError, match=r"key is one of jax\.random\.key"):
        initialize(*of(lambda p, x: x @ p["a"], SQUARE), key=0)
    for several in (jax.random.split(KEY, 3), jnp.zeros(3, jnp.uint32)):
        with pytest.raises(ParameterError, match=r"key is one of .* an array of shape \(3,\)"):
            initialize(*of(lambda p, x: x @ p["a"], SQUARE), key=several)
    with pytest.raises(ParameterError, match=r"load_plan\(path\) gives, got str"):
        apply(of(lambda p, x: x @ p["a"], SQUARE)[0], "plan.yaml", key=KEY)
    with pytest.raises(TypeError) as caught:
        plan(eqx.nn.Linear(*LAST, key=KEY), rows())
    assert any("jax.vmap(model)" in note for note in caught.value.__notes__)


def test_shapes_can_only_be_planned() -> None:
    model, x = of(lambda p, x: x @ p["a"], SQUARE)
    bare = model[0], jax.eval_shape(lambda: model[1])
    for call in (measure, lambda *args: initialize(*args, key=KEY)):
        with pytest.raises(ParameterError, match=r"'a' has only a shape.*make a plan"):
            call(bare, x)
    with pytest.raises(ParameterError, match="'a' has only a shape"):
        apply(bare, plan(bare, x), key=KEY)


# --- a user's own operation ---


def test_an_operation_gets_a_rule_by_its_name() -> None:
    @jax.jit
    def running_product(x: Any) -> Any:
        return jnp.cumprod(x, -1)

    model, x = of(lambda p, x: running_product(x @ p["a"]) @ p["b"], SQUARE, LAST)
    assert any("cumprod is not understood" in warning for warning in plan(model, x).warnings)

    @rule("jit running_product")
    def _(trace: Any, x: Any, **_: Any) -> Any:
        n = x.shape[-1]
        return trace.record("scale", [trace.signal(x)], mean=0.0, square=(n + 1) / 2)

    made = plan(model, x)
    assert not made.warnings
    assert made.weights[-1].std == pytest.approx((WIDTH * (WIDTH + 1) / 2) ** -0.5)


@pytest.mark.parametrize("together", [False, True])
def test_two_noises_of_one_size_are_two(together: bool) -> None:
    def noisy(params: Any, x: Any, key: Any) -> Any:
        first, second = (jax.random.normal(k, x.shape) for k in jax.random.split(key))
        x = x + (first + second) if together else x + first + second
        return x @ params["w"]

    x = jax.random.normal(jax.random.key(0), (256, 32))
    weight = plan((noisy, {"w": jnp.ones((32, 8))}), (x, jax.random.key(1))).weights[0]
    assert weight.std == pytest.approx(1 / (3 * 32) ** 0.5, rel=0.02)
