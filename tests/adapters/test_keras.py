"""The Keras adapter, on the backend of this process."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="the Keras adapter needs Keras")

import gainreg  # noqa: E402
from gainreg.adapters.keras import VarianceScaling, critical  # noqa: E402

activations, layers = keras.activations, keras.layers
prelu = layers.PReLU(alpha_initializer="ones")
prelu.build((1, 3))
ACTIVATIONS: list[tuple[Any, str, dict[str, float]]] = [
    (activations.relu, "relu", {}),
    (partial(activations.relu, max_value=6), "relu6", {}),
    (partial(activations.relu, negative_slope=0.1), "leaky_relu", {"negative_slope": 0.1}),
    (partial(activations.relu, threshold=0.5), "threshold", {"threshold": 0.5, "value": 0.0}),
    (activations.leaky_relu, "leaky_relu", {"negative_slope": 0.2}),
    (activations.gelu, "gelu", {}),
    (partial(activations.gelu, approximate=True), "gelu_tanh", {}),
    (keras.ops.gelu, "gelu_tanh", {}),
    (activations.hard_sigmoid, "hardsigmoid", {}),
    (partial(activations.hard_shrink, threshold=0.3), "hardshrink", {"lambd": 0.3}),
    (activations.exponential, "exp", {}),
    (activations.linear, "identity", {}),
    (partial(activations.threshold, threshold=0.5, default_value=1.0), "threshold",
     {"threshold": 0.5, "value": 1.0}),
    (layers.Activation("gelu"), "gelu", {}),
    (layers.Activation("leaky_relu"), "leaky_relu", {"negative_slope": 0.2}),
    (layers.ELU(0.5), "elu", {"alpha": 0.5}),
    (layers.Identity(), "identity", {}),
    (layers.LeakyReLU(), "leaky_relu", {"negative_slope": 0.3}),
    (layers.LeakyReLU(negative_slope=0.2), "leaky_relu", {"negative_slope": 0.2}),
    (layers.ReLU(), "relu", {}),
    (layers.ReLU(max_value=6), "relu6", {}),
    (layers.ReLU(max_value=2.0), "hardtanh", {"min_val": 0.0, "max_val": 2.0}),
    (prelu, "prelu", {"weight": 1.0}),
]  # fmt: skip


def assert_same(found: gainreg.GainEntry, wanted: gainreg.GainEntry) -> None:
    """One may come from the shipped table, which another processor made."""
    assert (found.activation, found.params, found.std) == (
        wanted.activation, wanted.params, wanted.std,
    )  # fmt: skip
    assert abs(found.second_moment - wanted.second_moment) <= found.error + wanted.error
    pair = (found.derivative_second_moment, wanted.derivative_second_moment)
    assert pair == (None, None) or pair[0] == pytest.approx(pair[1], rel=1e-13)


@pytest.mark.parametrize(("activation", "name", "params"), ACTIVATIONS)
def test_functions_and_layers_have_their_names(
    activation: Any, name: str, params: dict[str, float]
) -> None:
    assert_same(VarianceScaling(activation).entry, gainreg.resolve(name, **params))


def test_every_function_of_keras_has_the_gain_of_what_it_computes() -> None:
    skipped = {"deserialize", "get", "serialize", "glu", "softmax", "log_softmax", "sparsemax"}
    for name, function in vars(activations).items():
        if name.startswith("_") or name in skipped or not callable(function):
            continue
        given = {"threshold": 0.5, "default_value": 0.0} if name == "threshold" else {}
        whole = partial(function, **given)
        live = VarianceScaling(lambda x, f=whole: f(x)).entry
        # some Keras functions compute in float32 on some backends
        assert VarianceScaling(whole).entry.gain == pytest.approx(live.gain, rel=1e-6), name


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(gainreg.ParameterError, match="before it is built"):
        VarianceScaling(layers.PReLU())
    with pytest.raises(gainreg.ParameterError, match="how many numbers it runs over"):
        VarianceScaling(layers.Softmax())
    with pytest.raises(gainreg.ParameterError, match="distribution is one of"):
        VarianceScaling("relu", distribution="cauchy")
    four = VarianceScaling(activations.softmax, dim=4).entry
    assert_same(four, gainreg.resolve("softmax", dim=4))


def test_layers_without_a_name_in_gainreg_are_resolved_as_functions() -> None:
    odd = VarianceScaling(layers.ReLU(max_value=2.0, threshold=0.5)).entry
    exact = gainreg.resolve(
        gainreg.Activation(
            "odd", lambda x: np.minimum(np.where(x > 0.5, x, 0), 2), kinks=(0.5, 2.0)
        )
    )
    assert odd.gain == pytest.approx(exact.gain, rel=1e-6)
    mine = layers.Activation(lambda x: x * keras.ops.sigmoid(x))
    assert VarianceScaling(mine).entry.gain == pytest.approx(gainreg.gain("silu"), rel=1e-6)
    sloped = layers.Activation(partial(activations.leaky_relu, negative_slope=0.5))
    assert_same(VarianceScaling(sloped).entry, gainreg.resolve("leaky_relu", negative_slope=0.5))
    assert_same(
        VarianceScaling(layers.Activation(layers.LeakyReLU(0.3))).entry,
        gainreg.resolve("leaky_relu", negative_slope=0.3),
    )


@keras.saving.register_keras_serializable()
class Shifted(layers.Layer):
    def build(self, shape: Any) -> None:
        self.shift = self.add_weight(shape=(), initializer="zeros")
        self.built = True

    def call(self, x: Any) -> Any:
        return x * keras.ops.sigmoid(x + self.shift)


def test_a_layer_of_ones_own_is_resolved_and_left_unbuilt() -> None:
    layer = Shifted()
    assert VarianceScaling(layer).entry.gain == pytest.approx(gainreg.gain("silu"), rel=1e-5)
    assert not layer.built


@pytest.mark.parametrize("distribution", ["truncated_normal", "uniform", "orthogonal"])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_attention_and_einsum_layers_have_the_variance_that_keras_gives_them(
    distribution: str, mode: str
) -> None:
    x = np.zeros((1, 4, 128), np.float32)

    def stds(initializer: Any) -> list[float]:
        layer = layers.MultiHeadAttention(8, 32, kernel_initializer=initializer)
        layer(x, x)
        dense = layers.EinsumDense("abc,cde->abde", (None, 16, 24), kernel_initializer=initializer)
        dense(x)
        kernels = [w for w in (*layer.weights, *dense.weights) if "kernel" in w.path]
        return [float(np.std(keras.ops.convert_to_numpy(w))) for w in kernels]

    theirs = stds(keras.initializers.VarianceScaling(1.0, mode, seed=1))
    ours = stds(VarianceScaling("identity", mode, distribution, seed=1))
    assert ours == pytest.approx(theirs, rel=0.05)


def test_an_edited_config_is_refused_or_resolved_anew() -> None:
    config = VarianceScaling("elu", alpha=0.5).get_config()
    for edit in ({"activation": "tanh"}, {"alpha": 0.7}, {"std": 2.0}):
        with pytest.raises((gainreg.ParameterError, gainreg.TableError)):
            VarianceScaling.from_config({**config, **edit})
    with pytest.raises(gainreg.TableError):
        VarianceScaling.from_config({**config, "entry": {**config["entry"], "gain": float("nan")}})
    anew = {k: v for k, v in config.items() if k != "entry"} | {"alpha": 0.7}
    assert VarianceScaling.from_config(anew).entry == gainreg.resolve("elu", alpha=0.7)


def test_configs_round_trip_with_the_constants_in_them(table: Path) -> None:
    for made in (
        VarianceScaling("elu", "fan_avg", "orthogonal", 3, std=2.0, alpha=0.5),
        VarianceScaling("tanh", table=table, seed=1),
        VarianceScaling(lambda x: x * keras.ops.sigmoid(x), "fan_out", "uniform", seed=2),
    ):
        config = made.get_config()
        again = VarianceScaling.from_config(config)
        assert again.get_config() == config
        first, second = (keras.ops.convert_to_numpy(i((8, 6))) for i in (made, again))
        np.testing.assert_array_equal(first, second)
        assert (
            keras.initializers.deserialize(keras.initializers.serialize(made)).entry == made.entry
        )
    assert VarianceScaling("elu", alpha=0.5).get_config()["alpha"] == 0.5


def test_the_string_identifier_is_known_to_keras() -> None:
    name = "gainreg>VarianceScaling"
    assert_same(keras.initializers.get(name).entry, gainreg.resolve("identity"))
    config = {"class_name": name, "config": {"activation": "gelu", "mode": "fan_out"}}
    dense = layers.Dense(4, kernel_initializer=config)
    assert_same(dense.kernel_initializer.entry, gainreg.resolve("gelu"))
    assert layers.Dense(4, kernel_initializer=name).kernel_initializer.mode == "fan_in"


def test_conv_kernels_and_half_precision() -> None:
    for distribution in ("truncated_normal", "orthogonal"):
        draw = VarianceScaling("relu", distribution=distribution, seed=0)
        kernel = keras.ops.convert_to_numpy(draw((3, 3, 40, 80)))
        assert kernel.std() == pytest.approx((2 / 360) ** 0.5, rel=0.02)
        assert keras.backend.standardize_dtype(draw((4, 4), "bfloat16").dtype) == "bfloat16"


@pytest.mark.parametrize(
    ("kind", "layer", "channels"),
    [
        ("linear", layers.Dense(300), 300),
        ("linear", layers.Conv2D(64, 3, groups=4), 64),
        ("depthwise", layers.DepthwiseConv2D(5, depth_multiplier=2), 64),
        ("transposed", layers.Conv2DTranspose(32, 4, strides=2), 64),
    ],
)
def test_layers_and_their_kinds_tell_what_shapes_do_not(
    kind: str, layer: Any, channels: int
) -> None:
    shape = (512, channels) if isinstance(layer, layers.Dense) else (4, 32, 32, channels)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def level() -> float:
        y = keras.ops.convert_to_numpy(layer(x))
        return float(y[:, 8:-8, 8:-8].std() if y.ndim == 4 else y.std())

    strides = getattr(layer, "strides", 1)
    layer.kernel_initializer = VarianceScaling("identity", kind=kind, strides=strides, seed=0)
    if kind == "depthwise":
        layer.depthwise_initializer = layer.kernel_initializer
    assert level() == pytest.approx(1, rel=0.06)
    layer.bias.assign(np.ones(layer.bias.shape))
    for distribution in ("uniform", "orthogonal"):
        assert VarianceScaling("identity", distribution=distribution, seed=1)(layer) is layer
        assert level() == pytest.approx(1, rel=0.06)


def test_a_layer_without_weights_is_refused() -> None:
    with pytest.raises(gainreg.ParameterError, match="before it is built"):
        VarianceScaling("relu")(layers.Dense(3))
    with pytest.raises(gainreg.ParameterError, match="give the initializer as"):
        VarianceScaling("relu")(layers.LSTM(3))


def test_critical_initializers_go_into_layers() -> None:
    entry, both = gainreg.resolve("tanh"), critical(activations.tanh, std=1.0, seed=0)
    dense = layers.Dense(900, **both)
    dense.build((None, 400))
    for again in range(2):
        kernel, bias = map(keras.ops.convert_to_numpy, (dense.kernel, dense.bias))
        assert kernel.std() == pytest.approx(entry.backward_gain / 20, rel=0.01), again
        assert bias.std() == pytest.approx(entry.critical_bias_std, rel=0.1), again
        both["kernel_initializer"](dense)
    made = both["kernel_initializer"]
    assert VarianceScaling.from_config(made.get_config()).get_config() == made.get_config()


def test_models_are_saved_and_loaded(tmp_path: Path) -> None:
    assert keras.backend.backend() == os.environ["KERAS_BACKEND"]
    scaling = VarianceScaling(layers.LeakyReLU(negative_slope=0.2), "fan_avg", seed=1)
    model = keras.Sequential([keras.Input((30,)), layers.Dense(40, kernel_initializer=scaling)])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(*(m.get_weights()[0] for m in (model, again)))
    assert again.layers[-1].kernel_initializer.get_config() == scaling.get_config()


@pytest.mark.parametrize(
    "distribution", ["truncated_normal", "untruncated_normal", "uniform", "orthogonal"]
)
def test_every_distribution_has_the_variance_of_its_mode(distribution: str) -> None:
    entry = gainreg.resolve("elu")
    variances = {
        "fan_in": entry.gain**2 / 300,
        "fan_out": entry.backward_gain**2 / 700,
        "fan_avg": 2 / (300 * entry.second_moment + 700 * entry.derivative_second_moment),
    }
    for mode, variance in variances.items():
        draw = VarianceScaling("elu", mode, distribution, seed=0)
        wide = keras.ops.convert_to_numpy(draw((300, 700)))
        assert np.mean(wide**2) == pytest.approx(variance, rel=0.02), mode


def test_a_layer_that_is_refused_is_left_alone() -> None:
    layer = layers.Dense(3, use_bias=False)
    layer.build((None, 4))
    before = keras.ops.convert_to_numpy(layer.kernel)
    with pytest.raises(gainreg.ParameterError, match="has no bias"):
        VarianceScaling("tanh", "critical")(layer)
    np.testing.assert_array_equal(layer.kernel, before)
