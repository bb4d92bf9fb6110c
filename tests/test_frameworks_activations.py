"""Nobody who names an activation that a framework ships is told that it is unknown."""

import inspect
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.special

import gainreg
from gainreg.frameworks import as_activation
from gainreg.host import host

# dense around 0 and around the kinks, and wide
GRID = np.unique(
    np.concatenate([np.linspace(-8, 8, 801), *(s * np.logspace(-8, 2, 60) for s in (1, -1))])
)
FREE = {"threshold": {"threshold": 0.1, "value": 20.0}}  # for params without a default
# by several inputs, or random: the sampled ones are tested elsewhere
NO_FORWARD = {"rrelu", "glu", "softmax", "log_softmax", "softmin", "sparsemax"}


def squeezed(name: str) -> str:
    return name.replace("_", "").lower()


def named_by_gainreg(name: str) -> str | None:
    """The canonical name of what a framework calls ``name``, LogSigmoid or log_sigmoid alike."""
    for activation in host().activations():
        if squeezed(name) in map(squeezed, (activation.name, *activation.aliases)):
            return activation.name
    return None


def phi(name: str, **params: float) -> np.ndarray:
    return host().bind(name, params | FREE.get(name, {})).forward(GRID)


def assert_same(ours: np.ndarray, theirs: Any, tolerance: float = 2e-14) -> None:
    # theirs may cancel where it is small, ours must not: hence the absolute tolerance
    np.testing.assert_allclose(ours, np.asarray(theirs), rtol=1e-14, atol=tolerance)


# --- torch ---

TORCH_OTHERS = {"MultiheadAttention"}
TORCH_NAMES = {"Softmax2d": "softmax"}
# softplus is linear there from a threshold on, 20 by default
TORCH_ARGS: dict[str, dict[str, Any]] = {
    "Threshold": FREE["threshold"],
    "Softplus": {"threshold": 500.0},
}


def torch_names() -> list[str]:
    import torch.nn.modules.activation as module

    return sorted(set(module.__all__) - TORCH_OTHERS)


@pytest.mark.parametrize("name", torch_names())
def test_every_torch_activation_has_its_name(name: str) -> None:
    assert TORCH_NAMES.get(name) or named_by_gainreg(name), f"gainreg cannot name torch.nn.{name}"


def test_torch_modules_compute_the_same() -> None:
    import torch

    compared = 0
    for name in torch_names():
        ours = TORCH_NAMES.get(name) or named_by_gainreg(name)
        assert ours is not None
        if ours in NO_FORWARD:
            continue
        module = getattr(torch.nn, name)(**TORCH_ARGS.get(name, {})).double()
        with torch.no_grad():
            theirs = module(torch.from_numpy(GRID)).numpy()
        assert_same(phi(ours), theirs)
        compared += 1
    assert compared > 20


def test_torch_gelu_by_tanh_computes_the_same() -> None:
    import torch

    module = torch.nn.GELU(approximate="tanh")
    assert_same(phi("gelu_tanh"), module(torch.from_numpy(GRID)).numpy())


# --- jax ---

JAX_OTHERS = {
    "dot_product_attention",
    "get_scaled_dot_general_config",
    "initializers",
    "log1mexp",
    "logmeanexp",
    "logsumexp",
    "one_hot",
    "scaled_dot_general",
    "scaled_matmul",
    "standardize",
}


def public(module: ModuleType, others: set[str]) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in sorted(dir(module)):
        if not name.startswith("_") and name not in others:
            yield name, getattr(module, name)


def test_every_jax_activation_has_its_name_and_computes_the_same() -> None:
    import jax

    compared = 0
    with jax.enable_x64(True):
        for name, function in public(jax.nn, JAX_OTHERS):
            ours = named_by_gainreg(name)
            assert ours, f"gainreg cannot name jax.nn.{name}"
            if ours in NO_FORWARD:
                continue
            options = {"approximate": False} if name == "gelu" else {}
            assert_same(phi(ours), function(jax.numpy.asarray(GRID), **options))
            compared += 1
        assert_same(phi("gelu_tanh"), jax.nn.gelu(jax.numpy.asarray(GRID), approximate=True))
    assert compared > 20


# --- keras ---

KERAS_OTHERS = {"deserialize", "get", "serialize"}
KERAS_OPTIONS: dict[str, dict[str, float]] = {
    "threshold": {"threshold": 0.1, "default_value": 20.0},
    "leaky_relu": {"negative_slope": 0.01},
}


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # keras on torch
def test_every_keras_activation_has_its_name_and_computes_the_same() -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    compared = 0
    for name, function in public(keras.activations, KERAS_OTHERS):
        if not inspect.isfunction(function):
            continue
        ours = named_by_gainreg(name)
        assert ours, f"gainreg cannot name keras.activations.{name}"
        if ours in NO_FORWARD:
            continue
        x = keras.ops.convert_to_tensor(GRID, dtype="float64")
        theirs = keras.ops.convert_to_numpy(function(x, **KERAS_OPTIONS.get(name, {})))
        assert theirs.dtype == np.float64
        # on torch, softplus is linear from 20 on
        assert_same(phi(ours), theirs, math.exp(-20) if ours == "softplus" else 2e-14)
        compared += 1
    assert compared > 20


# --- objects of frameworks ---


def test_objects_of_imported_frameworks_are_understood() -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    for activation, name, params in [
        (torch.relu, "relu", {}),
        (torch.Tensor.tanh, "tanh", {}),
        (torch.nn.GELU(), "gelu", {}),
        (torch.nn.GELU, "gelu", {}),
        (partial(torch.nn.functional.gelu, approximate="tanh"), "gelu_tanh", {}),
        (keras.layers.LeakyReLU(0.2), "leaky_relu", {"negative_slope": 0.2}),
        (keras.layers.LeakyReLU, "leaky_relu", {"negative_slope": 0.3}),
        (keras.activations.leaky_relu, "leaky_relu", {"negative_slope": 0.2}),
        (jax.nn.gelu, "gelu_tanh", {}),
        (jax.nn.identity, "identity", {}),
        (jax.lax.logistic, "sigmoid", {}),
        (np.tanh, "tanh", {}),
        (scipy.special.expit, "sigmoid", {}),
    ]:
        assert as_activation(activation, {}) == (name, params), activation
        assert gainreg.gain(activation) == gainreg.gain(name, **params)
    assert as_activation(torch.nn.Softmax(1), {"dim": 4}) == ("softmax", {"dim": 4})


def test_what_belongs_to_no_framework_is_a_callable_on_arrays() -> None:
    for own in (lambda x: x, math.tanh, partial(max, 1)):
        found, params = as_activation(own, {})
        assert isinstance(found, gainreg.Activation)
        assert not params
    for no_function in (int, 3, None, gainreg.resolve("elu")):
        with pytest.raises(gainreg.ParameterError, match="an activation is a name"):
            gainreg.gain(no_function)  # type: ignore[arg-type]


def test_a_function_of_tensors_is_called_with_tensors() -> None:
    torch = pytest.importorskip("torch")
    assert gainreg.gain(lambda x: torch.relu(x)) == gainreg.gain("relu")
    swish = gainreg.resolve(lambda x: x * torch.sigmoid(x))
    assert swish.backward_gain == pytest.approx(gainreg.gain("silu", mode="backward"), rel=1e-12)


def test_a_layer_that_is_no_activation_is_called_so() -> None:
    torch = pytest.importorskip("torch")
    for layer in (torch.nn.Linear(2, 2), torch.nn.LayerNorm(8), torch.nn.BatchNorm1d(8)):
        name = type(layer).__name__
        with pytest.raises(gainreg.ParameterError, match=f"^{name} is no activation, or fails"):
            gainreg.gain(layer)


def test_a_module_of_ones_own_is_evaluated_by_its_framework() -> None:
    torch = pytest.importorskip("torch")

    class Swish(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x * x.sigmoid()

    for swish in (Swish, Swish()):
        assert gainreg.gain(swish) == pytest.approx(gainreg.gain("silu"), rel=1e-12)


@pytest.mark.usefixtures("fresh_host")
def test_what_is_registered_later_is_known_in_every_framework() -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    gainreg.register(gainreg.Activation("sinc", np.sinc))
    for function in (np.sinc, torch.sinc, torch.special.sinc, jax.numpy.sinc):
        assert as_activation(function, {}) == ("sinc", {})


@pytest.mark.usefixtures("fresh_host")
def test_a_function_that_only_has_the_name_of_an_activation_is_not_believed() -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    gainreg.register(gainreg.Activation("floor", np.ceil))
    for function in (np.identity, jax.numpy.identity, torch.floor, torch.nn.Linear(6, 6)):
        assert not isinstance(as_activation(function, {})[0], str)


def test_no_framework_is_imported_to_understand_an_object() -> None:
    code = (
        "import sys, numpy, gainreg; from gainreg.frameworks import as_activation; "
        "as_activation(numpy.tanh, {}); as_activation(lambda x: x, {}); "
        "print({'torch', 'jax', 'keras'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
