"""Whole Keras models, on the backend of this process; test_keras_backends.py asks on the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="the models are Keras's")

from gainreg.adapters.keras import apply_, initialize_, measure, plan  # noqa: E402
from gainreg.errors import MomentError, ParameterError, PlanError  # noqa: E402

layers, ops = keras.layers, keras.ops
Made = tuple[Any, Any]


def normal(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def chain(shape: tuple[int, ...], *parts: Any) -> Made:
    """The layers one after the other, and an example."""
    return keras.Sequential([keras.Input(shape), *parts]), normal(16, *shape)


def attention(**options: Any) -> Made:
    x = keras.Input((12, 64))
    y = layers.MultiHeadAttention(4, 16, dropout=options.pop("dropout", 0.0))(x, x, **options)
    return keras.Model(x, layers.Dense(64)(y)), normal(16, 12, 64)


def embedded() -> Made:
    model = keras.Sequential(
        [
            keras.Input((9,), dtype="int32"),
            layers.Embedding(200, 64, mask_zero=True),
            layers.Dense(64, activation="gelu"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(8),
        ]
    )
    return model, np.random.default_rng(0).integers(1, 200, (16, 9))


def two_inputs(named: bool) -> Made:
    a, b = keras.Input((32,), name="a"), keras.Input((48,), name="b")
    x = layers.Concatenate()([layers.Dense(64, "relu")(a), layers.Dense(64, "tanh")(b)])
    y = layers.Dense(8)(x)
    given = normal(64, 32), normal(64, 48)
    if named:
        return keras.Model({"a": a, "b": b}, {"y": y}), dict(zip("ab", given, strict=True))
    return keras.Model([a, b], y), list(given)


class Own(keras.Model):  # type: ignore[misc,name-defined]
    """A class of one's own, whose call knows nothing of training."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = (layers.Dense(n) for n in (64, 64, 8))
        self.scale = self.add_weight((64,), "ones", name="scale")
        self.dropout = layers.Dropout(0.1, seed=3)
        self.norm = layers.BatchNormalization()
        self.stop = 99  # so often it may be called before it raises

    def call(self, x: Any) -> Any:
        self.stop -= 1
        if self.stop < 0:
            raise OSError("half-way")
        x = self.norm(ops.relu(self.first(x)))
        x = x + self.scale * self.dropout(keras.activations.silu(self.inner(x)))
        return self.last(x)


def own(stop: int = 99) -> Made:
    model, x = Own(), normal(64, 32)
    model(x)
    model.stop = stop
    return model, x


MODELS: dict[str, Callable[[], Made]] = {
    "activations": lambda: chain(
        (64,), layers.Dense(128, "relu"), layers.Dense(128), layers.PReLU(), layers.Dropout(0.1),
        layers.Dense(128, "selu"), layers.Dense(128), layers.LeakyReLU(), layers.Dense(8),
    ),
    "depthwise and grouped": lambda: chain(
        (9, 9, 64), layers.DepthwiseConv2D(5, padding="same", activation="relu"),
        layers.Conv2D(64, 3, groups=2),
    ),
    "separable": lambda: chain(
        (9, 9, 64), layers.SeparableConv2D(64, 5, 2, padding="same", activation="relu"),
        layers.Conv2D(64, 1),
    ),
    "transposed": lambda: chain(
        (5, 5, 64), layers.Conv2DTranspose(64, 4, 2, padding="same", activation="relu"),
        layers.Conv2DTranspose(64, 3, 2, padding="valid"), layers.ReLU(), layers.Conv2D(64, 1),
    ),
    "one and three dimensions": lambda: chain(
        (6, 6, 6, 16), layers.Conv3D(64, 3, activation="relu"), layers.Reshape((64, 64)),
        layers.Conv1D(64, 3, padding="causal", activation="gelu"), layers.Conv1D(64, 1),
    ),
    "einsum": lambda: chain(
        (9, 64), layers.EinsumDense("abc,cde->abde", (None, 4, 32), "relu", bias_axes="de"),
        layers.EinsumDense("abde,dec->abc", (None, 64), bias_axes="c"), layers.Dense(64),
    ),
    "attention": attention,
    "causal attention": lambda: attention(use_causal_mask=True),
    "causal attention with dropout": lambda: attention(use_causal_mask=True, dropout=0.1),
    "embedding": embedded,
    "norms": lambda: chain(
        (7, 7, 64), layers.Conv2D(64, 3), layers.BatchNormalization(), layers.ReLU(),
        layers.Conv2D(64, 3), layers.GroupNormalization(8), layers.ReLU(),
        layers.Conv2D(64, 1), layers.LayerNormalization(), layers.Dense(64),
        layers.RMSNormalization(), layers.Dense(64), layers.UnitNormalization(), layers.Dense(64),
    ),
    "pooling": lambda: chain(
        (16, 16, 16), layers.Conv2D(128, 3, padding="same"), layers.AveragePooling2D(2),
        layers.ReLU(), layers.AveragePooling2D(3, 2, padding="same"),
        layers.Conv2D(128, 3, padding="same"), layers.MaxPooling2D(2), layers.ReLU(),
        layers.Conv2D(128, 1), layers.UpSampling2D(), layers.ReLU(), layers.ZeroPadding2D(1),
        layers.Conv2D(128, 3), layers.Cropping2D(1), layers.ReLU(), layers.Flatten(),
        layers.Dense(8),
    ),
    "two inputs": lambda: two_inputs(False),
    "named inputs": lambda: two_inputs(True),
    "a class of one's own": own,
    "half precision": lambda: chain(
        (64,), layers.Dense(128, "relu", dtype="mixed_bfloat16"),
        layers.Dense(64, dtype="mixed_bfloat16"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_what_feeds_each_weight_is_predicted_and_every_weight_accounted_for(name: str) -> None:
    model, x = MODELS[name]()
    report = initialize_(model, x, seed=1)
    for weight in report.weights:
        assert weight.input_rms == pytest.approx(weight.measured_input_rms, rel=0.2), weight
        assert weight.measured_gradient_rms == pytest.approx(weight.gradient_rms, rel=0.5), weight
    for variable in model.trainable_variables:
        status, reason = report.parameters[variable.path]
        kind = "set" if variable.name in ("kernel", "embeddings") else "kept"
        kind = "set" if variable.name.endswith("_kernel") else kind
        assert status == ("zeroed" if variable.name == "bias" else kind), (variable.path, reason)


def test_a_published_model_is_predicted() -> None:
    model = keras.applications.MobileNetV2(
        (64, 64, 3), 0.35, weights=None, classes=10, classifier_activation=None
    )
    report = initialize_(model, normal(8, 64, 64, 3), seed=0)
    assert len(report.weights) == 53
    for weight in report.weights:
        assert weight.measured_input_rms == pytest.approx(weight.input_rms, rel=0.1)
        assert weight.measured_gradient_rms == pytest.approx(weight.gradient_rms, rel=0.5)
    assert {status for status, _ in report.parameters.values()} == {"set", "zeroed", "kept"}


def test_units_are_the_last_axis_of_images() -> None:
    # channels that differ much from each other, and places that do not
    x = normal(8, 1, 1, 16) + 0.1 * normal(8, 6, 6, 16)
    model, _ = chain(
        (6, 6, 16), layers.Conv2D(256, 1), layers.GlobalAveragePooling2D(), layers.Dense(4)
    )
    report = initialize_(model, x, seed=0)
    assert report.weights[1].input_rms == pytest.approx(
        report.weights[1].measured_input_rms, rel=0.1
    )
    assert report.weights[1].input_rms > 0.9


@pytest.mark.parametrize("training", [True, False])
def test_batch_norms_go_by_the_batch_in_training_and_by_their_statistics_else(
    training: bool,
) -> None:
    model, x = chain((64,), layers.BatchNormalization(), layers.Dense(64))
    model.layers[0].moving_mean.assign(np.full(64, 3.0))
    (weight,) = measure(model, x, {"training": training}).weights
    assert weight.input_rms == pytest.approx(1 if training else 10**0.5, rel=0.02)
    assert weight.measured_input_rms == pytest.approx(weight.input_rms, rel=0.02)
    assert (weight.fed_by == "batch norm") == training


def test_recurrent_and_frozen_layers_are_kept() -> None:
    frozen = layers.Dense(64, "tanh")
    recurrent = layers.Bidirectional(layers.GRU(16))
    model, x = chain((5, 32), layers.Dense(32, "tanh"), recurrent, frozen, layers.Dense(8))
    frozen.trainable = False
    before = {v.path: ops.convert_to_numpy(v).copy() for v in model.variables}
    report = initialize_(model, x, seed=0)
    reasons = {reason for status, reason in report.parameters.values() if status == "kept"}
    assert reasons == {
        "not trainable: kept as it is",
        "part of GRU: recurrent layers are kept",
    }
    assert len(report.parameters) == 2 + 6 + 2 + 2
    for variable in model.variables:
        kept = report.parameters.get(variable.path, ("kept", ""))[0] == "kept"
        assert kept == np.array_equal(before[variable.path], ops.convert_to_numpy(variable)) or (
            variable.name == "bias"
        )
    for weight in report.weights:
        assert weight.measured_input_rms == pytest.approx(weight.input_rms, rel=0.2)


def seen(model: Any) -> dict[str, bytes]:
    """All that a model holds, the states of its seed generators too."""
    return {v.path: ops.convert_to_numpy(v).tobytes() for v in model.variables}


@pytest.mark.parametrize("call", [plan, measure])
def test_plan_and_measure_leave_no_mark(call: Callable[..., Any]) -> None:
    model, x = own()
    before, flags = seen(model), [v.trainable for v in model.variables]
    call(model, x)
    assert seen(model) == before
    assert [v.trainable for v in model.variables] == flags
    assert len(model.losses) == 0


def test_what_raises_half_way_sets_nothing() -> None:
    for stop in (0, 1):
        model, x = own(stop)
        before = seen(model)
        with pytest.raises((OSError, ParameterError), match="half-way"):
            initialize_(model, x, seed=0)
        assert seen(model) == before


def test_the_same_seed_gives_the_same_weights() -> None:
    def drawn(**options: Any) -> Any:
        model, x = own()
        initialize_(model, x, **options)
        moving = {v.path for v in model.non_trainable_variables}
        return [v for name, v in sorted(seen(model).items()) if name not in moving]

    assert drawn(seed=1) == drawn(seed=1) != drawn(seed=2)
    again = []
    for _ in range(2):
        keras.utils.set_random_seed(5)
        again.append(drawn())
    assert again[0] == again[1]


def test_a_plan_is_carried_out_by_another_process_and_refused_by_another_model(
    tmp_path: Path,
) -> None:
    import gainreg

    model, x = MODELS["depthwise and grouped"]()
    plan(model, keras.KerasTensor(x.shape)).write(tmp_path / "plan.yaml")
    made = gainreg.load_plan(tmp_path / "plan.yaml")
    for distribution in ("normal", "truncated_normal", "uniform", "orthogonal"):
        assert apply_(model, made, distribution=distribution, seed=0) is model
        for weight in made.weights:
            (variable,) = (v for v in model.variables if v.path == weight.name)
            numbers = ops.convert_to_numpy(variable)
            assert np.sqrt((numbers**2).mean()) == pytest.approx(weight.std, rel=0.1)
    square = ops.convert_to_numpy(model.layers[-1].kernel).reshape(-1, 64)
    product = square.T @ square
    np.testing.assert_allclose(product, product[0, 0] * np.eye(64), atol=1e-5)
    with pytest.raises(PlanError, match="a plan of another model"):
        apply_(own()[0], made)


def test_calibration_makes_every_output_what_it_aims_at() -> None:
    model, x = chain((8,), layers.Dense(16, "relu"), layers.Dense(16, "relu"), layers.Dense(16))
    for weight in initialize_(model, x, calibrate=True, seed=0).weights:
        level = weight.measured_input_rms * weight.weight_std * weight.fan_in**0.5
        assert level == pytest.approx(1, rel=1e-4)


# --- what is refused ---


@pytest.mark.parametrize("call", [plan, measure, initialize_])
def test_a_model_that_was_not_built_yet(call: Callable[..., Any]) -> None:
    model = keras.Sequential([layers.Dense(8, "relu"), layers.Dense(4)])
    with pytest.raises(ParameterError, match="was not built yet and has no weights; call it once"):
        call(model, normal(4, 8))
    assert not model.built


@pytest.mark.parametrize("call", [plan, measure, initialize_])
def test_what_is_no_model_and_what_has_nothing_to_set(call: Callable[..., Any]) -> None:
    with pytest.raises(ParameterError, match=r"a model is a keras.Model or a layer, got str"):
        call("resnet", normal(4, 8))
    with pytest.raises(ParameterError, match="nothing to set"):
        call(chain((8,), layers.ReLU())[0], normal(4, 8))


@pytest.mark.parametrize("call", [plan, measure, initialize_])
def test_examples_that_will_not_do(call: Callable[..., Any]) -> None:
    model, x = chain((8,), layers.Dense(4))
    with pytest.raises(ParameterError, match="no array is among the example inputs"):
        call(model, ())
    with pytest.raises(ParameterError, match="kwargs is a dict"):
        call(model, x, 3)
    x[0, 0] = np.nan
    with pytest.raises(ParameterError, match="NaN or infinities"):
        call(model, x)
    shape = keras.KerasTensor((None, 8))
    with pytest.raises(ParameterError, match=r"only a shape|give a whole one"):
        call(model, shape)


def test_seeds_and_options_that_will_not_do() -> None:
    model, x = chain((8,), layers.Dense(4))
    for seed in (-1, 1.5, True, "1"):
        with pytest.raises(ParameterError, match="seed is a whole number"):
            initialize_(model, x, seed=seed)
    with pytest.raises(ParameterError, match=r"'normal'.*got 'cauchy'"):
        initialize_(model, x, distribution="cauchy")
    with pytest.raises(ParameterError, match="residual is a finite number"):
        plan(model, x, residual=0)
    with pytest.raises(MomentError, match="second moment that is zero"):
        plan(model, 0 * x)
