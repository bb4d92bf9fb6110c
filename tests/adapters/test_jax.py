"""The JAX adapter, in plain JAX, Flax linen, Flax NNX and Equinox."""

from functools import partial
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the JAX adapter needs JAX")

import jax.numpy as jnp  # noqa: E402

import gainreg  # noqa: E402
from gainreg.adapters import jax as init  # noqa: E402

KEY = jax.random.key(0)
EVERY = pytest.mark.parametrize(
    "factory", [init.normal, init.uniform, init.truncated_normal, init.orthogonal]
)
FUNCTIONS: list[tuple[Any, str, dict[str, float]]] = [
    (jax.nn.relu, "relu", {}),
    (jax.nn.gelu, "gelu_tanh", {}),
    (partial(jax.nn.gelu, approximate=False), "gelu", {}),
    (jax.nn.leaky_relu, "leaky_relu", {}),
    (partial(jax.nn.leaky_relu, negative_slope=jnp.float32(0.5)), "leaky_relu",
     {"negative_slope": 0.5}),
    (partial(jax.nn.elu, alpha=0.5), "elu", {"alpha": 0.5}),
    (jax.nn.celu, "celu", {}),
    (jax.nn.swish, "silu", {}),
    (jax.nn.hard_tanh, "hardtanh", {}),
    (jax.nn.hard_sigmoid, "hardsigmoid", {}),
    (jax.nn.hard_silu, "hardswish", {}),
    (jax.nn.soft_sign, "softsign", {}),
    (jax.nn.softplus, "softplus", {}),
    (partial(jax.nn.squareplus, b=1.0), "squareplus", {"b": 1.0}),
    (jax.nn.sparse_plus, "sparse_plus", {}),
    (jax.nn.sparse_sigmoid, "sparse_sigmoid", {}),
    (jax.nn.log_sigmoid, "logsigmoid", {}),
    (jnp.tanh, "tanh", {}),
    (jax.lax.tanh, "tanh", {}),
    (jnp.sin, "sin", {}),
    (jax.scipy.special.erf, "erf", {}),
    (partial(jax.nn.glu, axis=-1), "glu", {}),
]  # fmt: skip


def std_of(weights: Any) -> float:
    return float(np.asarray(weights, dtype=np.float64).std())


@pytest.mark.parametrize(("function", "name", "params"), FUNCTIONS)
def test_functions_and_partials_have_their_names(
    function: Any, name: str, params: dict[str, float]
) -> None:
    weights = init.normal(function)(KEY, (8, 8))
    np.testing.assert_array_equal(weights, init.normal(name, **params)(KEY, (8, 8)))


def test_any_traceable_callable_is_resolved_in_float64_without_touching_the_flag() -> None:
    before = jax.config.jax_enable_x64
    activation = init.wrap(lambda x: x * jax.nn.sigmoid(x))
    for mode in ("forward", "backward"):
        assert gainreg.gain(activation, mode=mode) == pytest.approx(
            gainreg.gain("silu", mode=mode), rel=1e-13
        )
    assert jax.config.jax_enable_x64 is before
    assert jnp.ones(1).dtype == jnp.float32


def test_a_callable_may_be_resolved_while_jax_traces() -> None:
    @jax.jit
    def weights(key: Any) -> Any:
        return init.normal(lambda x: jnp.tanh(x), "fan_avg")(key, (4, 4))

    wanted = init.normal("tanh", "fan_avg")(KEY, (4, 4))
    np.testing.assert_allclose(weights(KEY), wanted, rtol=1e-5)


def test_softmax_needs_its_width() -> None:
    with pytest.raises(gainreg.ParameterError, match="how many numbers it runs over"):
        init.normal(jax.nn.softmax)
    with pytest.raises(gainreg.ParameterError, match="mode is one of"):
        init.normal("relu", "fan")  # already here, not when init is called


@pytest.mark.parametrize("factory", [init.normal, init.orthogonal])
def test_conv_batch_and_odd_axes(factory: Any) -> None:
    relu = factory("relu")
    assert std_of(relu(KEY, (3, 3, 40, 80))) == pytest.approx((2 / 360) ** 0.5, rel=0.02)
    out = factory("relu", "fan_out")
    assert std_of(out(KEY, (3, 3, 40, 80))) == pytest.approx((2 / 720) ** 0.5, rel=0.02)
    stacked = factory("relu", batch_axis=0)(KEY, (2, 90, 200))
    assert std_of(stacked) == pytest.approx((2 / 90) ** 0.5, rel=0.03)
    swapped = factory("relu", in_axis=1, out_axis=0)(KEY, (300, 200))
    assert std_of(swapped) == pytest.approx((2 / 200) ** 0.5, rel=0.02)
    heads = factory("relu", in_axis=0, out_axis=(1, 2))(KEY, (200, 4, 60))
    assert std_of(heads) == pytest.approx((2 / 200) ** 0.5, rel=0.02)


def test_each_member_of_a_batch_is_orthogonal() -> None:
    stacked = np.asarray(init.orthogonal("identity", batch_axis=0)(KEY, (3, 5, 8)))
    for matrix in stacked:
        np.testing.assert_allclose(matrix @ matrix.T * 5 / 8, np.eye(5), atol=1e-5)


@EVERY
def test_jit_vmap_and_bfloat16(factory: Any) -> None:
    draw = factory("tanh")
    plain = draw(KEY, (30, 40), jnp.float32)
    jitted = jax.jit(draw, static_argnums=(1, 2))(KEY, (30, 40), jnp.float32)
    np.testing.assert_allclose(plain, jitted, rtol=1e-4, atol=1e-6)
    keys = jax.random.split(KEY, 3)
    mapped = jax.vmap(lambda key: draw(key, (30, 40)))(keys)
    np.testing.assert_allclose(mapped[1], draw(keys[1], (30, 40)), rtol=1e-4, atol=1e-6)
    half = draw(KEY, (300, 400), jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    assert std_of(half) == pytest.approx(gainreg.gain("tanh") / 300**0.5, rel=0.02)
    assert factory("tanh", dtype=jnp.bfloat16)(KEY, (3, 4)).dtype == jnp.bfloat16


@EVERY
def test_dtypes_are_those_of_jax(factory: Any) -> None:
    he = jax.nn.initializers.he_normal()
    draw = factory("relu")
    assert draw(KEY, (3, 4)).dtype == he(KEY, (3, 4)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert draw(KEY, (3, 4)).dtype == he(KEY, (3, 4)).dtype == jnp.float64
    with jax.numpy_dtype_promotion("strict"):
        assert draw(KEY, (3, 4), jnp.float16).dtype == jnp.float16
    with pytest.raises(gainreg.ParameterError, match="floating-point"):
        draw(KEY, (3, 4), jnp.int32)


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: jnp.tanh(x.astype(jnp.float32)), "tanh"),
        (lambda x: jnp.where(x > 0, x + 0 * jnp.log(x), 0), "relu"),
        (jax.jit(lambda x: x * jax.nn.sigmoid(x)), "silu"),
        (jax.vmap(lambda x: x * jax.nn.sigmoid(x)), "silu"),
        (jax.vmap(jax.grad(lambda x: x * x / 2)), "identity"),
    ],
    ids=["float32", "nan gradient", "jitted", "vmapped", "a gradient"],
)
def test_callables_of_all_kinds_are_resolved(function: Any, name: str, mode: str) -> None:
    wanted = gainreg.gain(name, mode="forward" if mode == "fan_in" else "backward") / 20
    weights = init.normal(function, mode)(KEY, (400, 400))
    assert std_of(weights) == pytest.approx(wanted, rel=0.02)


def test_where_the_gradient_is_not_the_slope_it_is_left_out() -> None:
    assert jnp.isfinite(init.normal(jnp.floor)(KEY, (4, 4))).all()
    with pytest.raises(gainreg.MomentError, match="φ jumps"):
        init.normal(jnp.floor, "fan_out")
    sinc = gainreg.resolve(init.wrap(jnp.sinc)).derivative_second_moment
    assert sinc == pytest.approx(gainreg.resolve(np.sinc).derivative_second_moment, rel=1e-5)


def test_low_precision_is_a_staircase_on_the_way_of_the_function() -> None:
    stairs = init.wrap(lambda x: jnp.tanh(x.astype(jnp.float8_e4m3fn).astype(jnp.float32)))
    assert gainreg.gain(stairs) == pytest.approx(gainreg.gain("tanh"), rel=1e-3)


@EVERY
def test_flax_linen_and_nnx(factory: Any) -> None:
    pytest.importorskip("flax", reason="this test needs Flax")
    from flax import linen, nnx

    wanted = gainreg.gain("silu") / 300**0.5
    dense = linen.Dense(400, kernel_init=factory("silu"))
    kernel = dense.init(KEY, jnp.ones((1, 300)))["params"]["kernel"]
    assert std_of(kernel) == pytest.approx(wanted, rel=0.02)
    conv = linen.Conv(64, (3, 3), kernel_init=factory("silu"))
    kernel = conv.init(KEY, jnp.ones((1, 8, 8, 32)))["params"]["kernel"]
    assert std_of(kernel) == pytest.approx(gainreg.gain("silu") / 288**0.5, rel=0.02)
    layer = nnx.Linear(300, 400, kernel_init=factory("silu"), rngs=nnx.Rngs(0))
    assert std_of(layer.kernel[...]) == pytest.approx(wanted, rel=0.02)


@EVERY
def test_equinox(factory: Any) -> None:
    eqx = pytest.importorskip("equinox", reason="this test needs Equinox")
    model = eqx.nn.Linear(300, 400, key=KEY)
    draw = factory("elu", in_axis=-1, out_axis=-2)  # Equinox keeps (out, in)
    model = eqx.tree_at(lambda m: m.weight, model, draw(KEY, model.weight.shape))
    assert std_of(model.weight) == pytest.approx(gainreg.gain("elu") / 300**0.5, rel=0.02)


@pytest.mark.parametrize("factory", [init.normal, init.orthogonal])
def test_nnx_layers_tell_all_that_their_fans_depend_on(factory: Any) -> None:
    nnx = pytest.importorskip("flax.nnx", reason="this test needs Flax")
    rngs = nnx.Rngs(0)
    pictures = jax.random.normal(KEY, (2, 24, 24, 64))

    def through(layer: Any, x: Any) -> float:
        return std_of(layer(x)[:, 8:-8, 8:-8] if x.ndim == 4 else layer(x))

    for layer, x in [
        (nnx.Linear(400, 300, rngs=rngs), jax.random.normal(KEY, (400, 400))),
        (nnx.Conv(64, 128, (3, 3), feature_group_count=64, rngs=rngs), pictures),
        (nnx.ConvTranspose(64, 32, (4, 4), strides=(2, 2), rngs=rngs), pictures),
        (nnx.ConvTranspose(64, 32, (4, 4), strides=2, transpose_kernel=True, rngs=rngs), pictures),
    ]:
        layer.bias[...] = jnp.ones_like(layer.bias[...])
        assert factory("identity")(jax.random.key(1), layer) is layer
        assert through(layer, x) == pytest.approx(1, rel=0.06)


@pytest.mark.parametrize("factory", [init.normal, init.orthogonal])
def test_equinox_layers_tell_all_that_their_fans_depend_on(factory: Any) -> None:
    eqx = pytest.importorskip("equinox", reason="this test needs Equinox")
    pictures = jax.random.normal(KEY, (2, 64, 24, 24))

    def through(layer: Any, x: Any) -> float:
        return std_of(jax.vmap(layer)(x)[..., 8:-8, 8:-8] if x.ndim == 4 else jax.vmap(layer)(x))

    for layer, x in [
        (eqx.nn.Linear(400, 300, key=KEY), jax.random.normal(KEY, (400, 400))),
        (eqx.nn.Linear(400, 300, use_bias=False, key=KEY), jax.random.normal(KEY, (400, 400))),
        (eqx.nn.Conv2d(64, 128, 3, groups=64, key=KEY), pictures),
        (eqx.nn.ConvTranspose2d(64, 32, 4, stride=2, groups=2, key=KEY), pictures),
    ]:
        new = factory("identity")(jax.random.key(1), layer)
        assert new.bias is None or not new.bias.any()
        assert through(new, x) == pytest.approx(1, rel=0.06)


def test_a_kind_tells_what_a_shape_does_not() -> None:
    up = init.normal("relu", kind="transposed", strides=2)(KEY, (4, 4, 64, 32))
    assert std_of(up) == pytest.approx((2 * 4 / (16 * 64)) ** 0.5, rel=0.03)
    depthwise = init.normal("relu", "fan_out", groups=64)(KEY, (3, 3, 1, 128))
    assert std_of(depthwise) == pytest.approx((2 / (9 * 2)) ** 0.5, rel=0.06)
    swapped = init.normal("relu", kind="equinox")(KEY, (300, 200))
    assert std_of(swapped) == pytest.approx((2 / 200) ** 0.5, rel=0.02)
    with pytest.raises(gainreg.ParameterError, match="kind is one of"):
        init.normal("relu", kind="conv")


def test_a_layer_of_another_kind_is_named_in_one_line() -> None:
    eqx = pytest.importorskip("equinox", reason="this test needs Equinox")
    nnx = pytest.importorskip("flax.nnx", reason="this test needs Flax")
    for layer in (nnx.Embed(3, 4, rngs=nnx.Rngs(0)), eqx.nn.MLP(3, 3, 4, 1, key=KEY)):
        name = type(layer).__name__
        with pytest.raises(gainreg.ParameterError, match=f"^{name} is no Linear, Conv or ConvTr.*"):
            init.normal("relu")(KEY, layer)


def test_critical_initializers_go_into_layers_of_flax_and_equinox() -> None:
    eqx = pytest.importorskip("equinox", reason="this test needs Equinox")
    linen = pytest.importorskip("flax.linen", reason="this test needs Flax")
    entry, both = gainreg.resolve("tanh"), init.critical(jnp.tanh, std=1.0)
    dense = linen.Dense(900, **both).init(KEY, jnp.ones((1, 400)))["params"]
    assert std_of(dense["kernel"]) == pytest.approx(entry.backward_gain / 20, rel=0.01)
    assert std_of(dense["bias"]) == pytest.approx(entry.critical_bias_std, rel=0.1)
    new = both["kernel_init"](KEY, eqx.nn.Linear(400, 900, key=KEY))
    assert std_of(new.weight) == pytest.approx(entry.backward_gain / 20, rel=0.01)
    assert std_of(new.bias) == pytest.approx(entry.critical_bias_std, rel=0.1)
    with pytest.raises(gainreg.ParameterError, match="no bias"):
        both["kernel_init"](KEY, eqx.nn.Linear(4, 4, use_bias=False, key=KEY))
