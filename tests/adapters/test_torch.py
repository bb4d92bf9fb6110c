"""The PyTorch adapter."""

import inspect
import pydoc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch adapter needs PyTorch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.nn.utils.parametrizations import weight_norm  # noqa: E402

import gainreg  # noqa: E402
import gainreg.host  # noqa: E402
from gainreg.adapters import torch as init  # noqa: E402

slopes = nn.PReLU(2)
slopes.weight.data = torch.tensor([0.5, -0.1])
MODULES: list[tuple[Any, str, dict[str, float]]] = [
    (nn.CELU(0.7), "celu", {"alpha": 0.7}),
    (nn.ELU(0.5), "elu", {"alpha": 0.5}),
    (nn.GELU(), "gelu", {}),
    (nn.GELU(approximate="tanh"), "gelu_tanh", {}),
    (nn.Hardshrink(0.3), "hardshrink", {"lambd": 0.3}),
    (nn.Hardsigmoid(), "hardsigmoid", {}),
    (nn.Hardswish(), "hardswish", {}),
    (nn.Hardtanh(-2.0, 0.5), "hardtanh", {"min_val": -2.0, "max_val": 0.5}),
    (nn.Identity(), "identity", {}),
    (nn.LeakyReLU(0.2), "leaky_relu", {"negative_slope": 0.2}),
    (nn.LogSigmoid(), "logsigmoid", {}),
    (nn.Mish(), "mish", {}),
    (nn.PReLU(init=0.5), "prelu", {"weight": 0.5}),
    (nn.ReLU(), "relu", {}),
    (nn.ReLU6(), "relu6", {}),
    (nn.RReLU(0.1, 0.3).eval(), "leaky_relu", {"negative_slope": 0.2}),
    (nn.SELU(), "selu", {}),
    (nn.SiLU(), "silu", {}),
    (nn.Sigmoid(), "sigmoid", {}),
    (nn.Softplus(2.0), "softplus", {"beta": 2.0}),
    (nn.Softshrink(0.3), "softshrink", {"lambd": 0.3}),
    (nn.Softsign(), "softsign", {}),
    (nn.Tanh(), "tanh", {}),
    (nn.Tanhshrink(), "tanhshrink", {}),
    (nn.Threshold(0.5, -1.0), "threshold", {"threshold": 0.5, "value": -1.0}),
]
OTHERS = [
    (nn.GLU(), "glu", {}, {}),
    (nn.RReLU(0.1, 0.3), "rrelu", {"lower": 0.1, "upper": 0.3}, {}),
    (slopes, "prelu", {"weight": 0.13**0.5}, {}),
    *((kind(), name, {"dim": 4}, {"dim": 4}) for kind, name in [
        (partial(nn.Softmax, 1), "softmax"), (nn.Softmax2d, "softmax"),
        (partial(nn.LogSoftmax, 1), "log_softmax"), (partial(nn.Softmin, 1), "softmin"),
    ]),
]  # fmt: skip
FUNCTIONS: list[tuple[Any, str, dict[str, float]]] = [
    (F.relu, "relu", {}),
    (torch.relu, "relu", {}),
    (torch.relu_, "relu", {}),
    (torch.Tensor.tanh, "tanh", {}),
    (torch.tanh, "tanh", {}),
    (torch.special.expit, "sigmoid", {}),
    (F.gelu, "gelu", {}),
    (partial(F.gelu, approximate="tanh"), "gelu_tanh", {}),
    (partial(F.elu, alpha=0.5, inplace=True), "elu", {"alpha": 0.5}),
    (partial(F.hardtanh, min_val=0.0), "hardtanh", {"min_val": 0.0}),
    (partial(F.threshold, threshold=0.5, value=1.0), "threshold", {"threshold": 0.5, "value": 1.0}),
    (F.leaky_relu, "leaky_relu", {}),
    (partial(F.rrelu, lower=0.1, upper=0.3), "leaky_relu", {"negative_slope": 0.2}),
    (F.rrelu, "leaky_relu", {"negative_slope": (1 / 8 + 1 / 3) / 2}),
    (partial(F.prelu, weight=torch.tensor([0.5])), "prelu", {"weight": 0.5}),
    (partial(F.softplus, beta=2.0), "softplus", {"beta": 2.0}),
    (F.silu, "silu", {}),
    (F.hardswish, "hardswish", {}),
    (torch.sin, "sin", {}),
]


def std_of(tensor: Any) -> float:
    return float(tensor.detach().double().std())


@pytest.mark.parametrize(("module", "name", "params"), MODULES, ids=lambda v: str(v)[:30])
def test_modules_have_the_gain_of_what_they_compute(
    module: Any, name: str, params: dict[str, float]
) -> None:
    assert init.calculate_gain(module) == gainreg.gain(name, **params)
    x = torch.linspace(-4, 4, 401, dtype=torch.float64)
    with torch.no_grad():
        y = module.double()(x).numpy()
    ours = gainreg.host.host().bind(name, params).forward(x.numpy())
    np.testing.assert_allclose(y, ours, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(("module", "name", "params", "given"), OTHERS, ids=lambda v: str(v)[:30])
def test_modules_that_are_not_elementwise(
    module: Any, name: str, params: dict[str, float], given: dict[str, float]
) -> None:
    weights = init.normal_(torch.empty(500, 400), module, **given)
    assert std_of(weights) == pytest.approx(gainreg.gain(name, **params) / 20, rel=0.01)


def test_every_activation_module_of_torch_is_known() -> None:
    covered = {type(row[0]).__name__ for row in [*MODULES, *OTHERS]}
    assert set(nn.modules.activation.__all__) - covered == {"MultiheadAttention"}


@pytest.mark.parametrize(("function", "name", "params"), FUNCTIONS)
def test_functions_and_partials_have_their_names(
    function: Any, name: str, params: dict[str, float]
) -> None:
    assert init.calculate_gain(function) == gainreg.gain(name, **params)


def test_any_callable_on_tensors_is_resolved_through_autograd() -> None:
    assert init.calculate_gain(lambda x: torch.tanh(x)) == pytest.approx(
        gainreg.gain("tanh"), rel=1e-14
    )
    with torch.no_grad():
        weights = init.normal_(torch.empty(400, 500), lambda x: x * torch.sigmoid(x), "fan_out")
    wanted = gainreg.gain("silu", mode="backward") / 20
    assert std_of(weights) == pytest.approx(wanted, rel=0.01)
    with pytest.raises(gainreg.MomentError, match="no backward gain"):
        init.normal_(torch.empty(4, 4), lambda x: (x > 0).double(), "fan_out")


def test_a_softplus_with_a_low_threshold_counts_as_it_computes() -> None:
    exact = gainreg.gain(lambda x: np.where(2 * x > 1, x, np.logaddexp(0, 2 * x) / 2))
    for low in (nn.Softplus(2.0, 1.0), partial(F.softplus, beta=2.0, threshold=1.0)):
        assert init.calculate_gain(low) == pytest.approx(exact, rel=1e-9)


class InPlace(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.mul_(x.sigmoid())


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (nn.Sequential(nn.ReLU(inplace=True)), "relu"),
        (InPlace(), "silu"),
        (lambda x: F.relu(x, inplace=True), "relu"),
        (torch.no_grad()(lambda x: torch.tanh(x)), "tanh"),
        (lambda x: torch.tanh(x.float()), "tanh"),
        (lambda x: torch.tanh(x.float()).bfloat16().double() * 0 + torch.tanh(x), "tanh"),
        (lambda x: torch.where(x > 0, x, 0 * torch.sqrt(x.clamp(min=0))), "relu"),
    ],
    ids=["in place", "own module", "functional", "no_grad", "float32", "bfloat16", "nan gradient"],
)
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_callables_of_all_kinds_are_resolved(function: Any, name: str, mode: str) -> None:
    wanted = gainreg.gain(name, mode="forward" if mode == "fan_in" else "backward") / 20
    weights = init.normal_(torch.empty(400, 400), function, mode)
    assert std_of(weights) == pytest.approx(wanted, rel=0.01)


class Learned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(1, 1)
        self.calls = 0
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Any) -> Any:
        self.count += 1
        return x * self.scale(x[..., None])[..., 0].sigmoid()


def test_a_module_with_parameters_is_resolved_and_left_as_it_was() -> None:
    learned = Learned()
    with torch.no_grad():
        learned.scale.weight.fill_(1.0)
        learned.scale.bias.zero_()
    assert init.calculate_gain(learned) == pytest.approx(gainreg.gain("silu"), rel=1e-9)
    assert learned.count == 0
    assert learned.scale.weight.dtype == torch.float32


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient


@pytest.mark.parametrize(
    "stairs", [torch.floor, torch.round, StraightThrough.apply], ids=["floor", "round", "ste"]
)
def test_where_autograd_is_not_the_slope_it_is_left_out(stairs: Any) -> None:
    assert init.normal_(torch.empty(4, 4), stairs).isfinite().all()
    with pytest.raises(gainreg.MomentError, match="φ jumps"):
        init.normal_(torch.empty(4, 4), stairs, "fan_out")


@pytest.mark.parametrize("odd", [partial(F.elu, inplace=True), partial(F.leaky_relu, inplace=True)])
def test_what_a_partial_does_not_state_may_stand_beside_it(odd: Any) -> None:
    name = "alpha" if odd.func is F.elu else "negative_slope"
    init.normal_(torch.empty(4, 4), odd, **{name: 0.5})


def test_a_number_is_no_table() -> None:
    with pytest.raises(gainreg.TableError, match="the path of its file"):
        init.normal_(torch.empty(4, 4), "relu", table=1)


def test_callables_are_evaluated_on_the_cpu_and_with_gradients_wherever_one_is() -> None:
    wanted = pytest.approx(gainreg.gain("silu", mode="backward"), rel=1e-9)
    with torch.device("meta"):
        assert gainreg.gain(init.wrap(lambda x: x * torch.sigmoid(x)), mode="backward") == wanted
    with torch.inference_mode():
        assert gainreg.gain(init.wrap(lambda x: x * torch.sigmoid(x)), mode="backward") == wanted


def test_a_param_of_calculate_gain_counts_for_functions_too() -> None:
    wanted = nn.init.calculate_gain("leaky_relu", 0.2)
    assert init.calculate_gain(F.leaky_relu, 0.2) == pytest.approx(wanted, rel=1e-15)
    assert init.calculate_gain(F.relu, 0.2) == gainreg.gain("relu")
    with pytest.raises(gainreg.ParameterError, match="its own negative_slope"):
        init.calculate_gain(nn.LeakyReLU(0.3), 0.2)
    with pytest.raises(gainreg.ParameterError, match="no param"):
        init.calculate_gain(lambda x: x, 0.2)


def test_a_bare_function_takes_params_beside_it() -> None:
    torch.manual_seed(0)
    first = init.normal_(torch.empty(4, 4), F.leaky_relu, negative_slope=0.2)
    torch.manual_seed(0)
    second = init.normal_(torch.empty(4, 4), "leaky_relu", negative_slope=0.2)
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    "odd", [partial(F.relu, slope=0.2), partial(F.gelu, approximate="foo"), nn.GELU("foo")]
)
def test_arguments_that_the_function_does_not_take_are_refused(odd: Any) -> None:
    with pytest.raises(gainreg.ParameterError):
        init.normal_(torch.empty(4, 4), odd)


@pytest.mark.parametrize(
    "weights",
    [nn.LSTM(4, 4), np.zeros((4, 4)), torch.empty(4, 4, dtype=torch.int8), torch.empty(4)],
    ids=["layer", "array", "integers", "vector"],
)
def test_what_is_no_weight_is_refused(weights: Any) -> None:
    with pytest.raises(gainreg.ParameterError, match="weights"):
        init.normal_(weights, "relu")


def test_what_cannot_be_read_is_refused() -> None:
    weights = torch.empty(4, 4)
    with pytest.raises(gainreg.ParameterError, match="how many numbers it runs over"):
        init.normal_(weights, nn.Softmax(1))
    with pytest.raises(gainreg.ParameterError, match="has its own alpha"):
        init.normal_(weights, nn.ELU(0.5), alpha=1.0)
    with pytest.raises(gainreg.ParameterError, match="cannot be read"):
        init.normal_(weights, F.threshold)
    with pytest.raises(gainreg.ParameterError, match="MultiheadAttention is no activation"):
        init.normal_(weights, nn.MultiheadAttention(4, 2))


def test_calculate_gain_is_pytorchs_with_the_true_numbers() -> None:
    for name in ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose3d"):
        assert init.calculate_gain(name) == 1.0
    assert init.calculate_gain("relu", 0) == pytest.approx(2**0.5, rel=1e-15)
    for param in (None, 0.2, 1):
        theirs = nn.init.calculate_gain("leaky_relu", param)
        assert init.calculate_gain("leaky_relu", param) == pytest.approx(theirs, rel=1e-15)
    assert init.calculate_gain("tanh") == pytest.approx(1.5925374197228314, rel=1e-15)
    assert init.calculate_gain("sigmoid") == gainreg.gain("sigmoid")
    assert init.calculate_gain("elu", 0.5) == gainreg.gain("elu", alpha=0.5)
    for wrong in ("1", True, float("nan")):
        with pytest.raises(ValueError, match="param 'negative_slope'"):
            init.calculate_gain("leaky_relu", wrong)  # type: ignore[arg-type]
    with pytest.raises(gainreg.UnknownActivationError):
        init.calculate_gain("nonsense")


@pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out"),
    [
        (nn.Linear(300, 200), 300, 200),
        (nn.Conv1d(40, 60, 5), 200, 300),
        (nn.Conv2d(40, 60, 3), 360, 540),
        (nn.Conv3d(20, 30, 3), 540, 810),
        (nn.Conv2d(40, 80, 3, groups=4), 90, 720),  # as torch.nn.init counts
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "draw", [init.normal_, init.uniform_, init.trunc_normal_, init.orthogonal_]
)
def test_fans_are_those_of_torch(layer: Any, fan_in: int, fan_out: int, draw: Any) -> None:
    torch.manual_seed(0)
    assert draw(layer.weight, "relu") is layer.weight
    assert std_of(layer.weight) == pytest.approx((2 / fan_in) ** 0.5, rel=0.03)
    draw(layer.weight, "relu", "fan_out")
    assert std_of(layer.weight) == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)


def test_transposed_and_grouped_convolutions_have_arguments() -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(40, 80, 3, groups=4)
    init.normal_(layer.weight, "relu", transposed=True, groups=4)
    assert std_of(layer.weight) == pytest.approx((2 / 90) ** 0.5, rel=0.03)
    init.normal_(layer.weight, "relu", "fan_out", transposed=True, groups=4)
    assert std_of(layer.weight) == pytest.approx((2 / 180) ** 0.5, rel=0.03)
    with pytest.raises(gainreg.ParameterError, match="groups must divide"):
        init.normal_(layer.weight, "relu", groups=3)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(256, 256),
        nn.Conv2d(64, 64, 4, stride=2),
        nn.Conv2d(128, 256, 3, groups=32),
        nn.Conv1d(256, 256, 7, groups=256),
        nn.ConvTranspose2d(64, 64, 4, stride=2),
        nn.ConvTranspose2d(128, 64, 6, stride=(2, 3), groups=4),
    ],
    ids=str,
)
@pytest.mark.parametrize("draw", [init.normal_, init.trunc_normal_])
def test_a_layer_tells_all_that_its_fans_depend_on(layer: Any, draw: Any) -> None:
    torch.manual_seed(0)
    assert draw(layer, nn.Identity) is layer
    assert not layer.bias.any()
    axes = layer.weight.dim() - 2
    channels = layer.in_channels if axes else layer.in_features
    x = torch.randn(8 if axes else 512, channels, *[48] * axes, requires_grad=True)
    inside = (..., *[slice(8, -8)] * axes)  # away from the edges
    assert std_of(layer(x)[inside]) == pytest.approx(1, rel=0.05)
    draw(layer, nn.Identity, "fan_out")
    y = layer(x)
    (gradient,) = torch.autograd.grad(y, x, torch.randn(y.shape))
    assert std_of(gradient[inside]) == pytest.approx(1, rel=0.05)


def test_a_layer_stands_alone() -> None:
    with pytest.raises(gainreg.ParameterError, match="a layer has its transposed and groups"):
        init.normal_(nn.Conv2d(4, 4, 3, groups=2), "relu", groups=2)


def test_the_signature_is_whole_for_help_and_for_readers() -> None:
    for draw in (init.normal_, init.uniform_, init.trunc_normal_, init.orthogonal_):
        names = list(inspect.signature(draw).parameters)
        assert names[:4] == ["tensor", "activation", "mode", "std"]
        assert names[-1] == "params"
        assert draw.__name__ in pydoc.render_doc(draw)
        assert "Fill weights" in pydoc.render_doc(draw)
        with pytest.raises(TypeError, match=r"^missing a required argument: 'activation'$"):
            draw(nn.Linear(4, 4), nonlinearity="relu")


@pytest.mark.parametrize(
    "draw", [init.normal_, init.uniform_, init.trunc_normal_, init.orthogonal_]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_any_dtype(draw: Any, dtype: Any) -> None:
    weights = draw(torch.empty(300, 300, dtype=dtype), "relu")
    assert weights.dtype == dtype
    assert std_of(weights) == pytest.approx((2 / 300) ** 0.5, rel=0.02)


# --- init_sequential_ -----------------------------------------------------------------------------


def test_a_chain_is_initialised_from_what_precedes_each_layer(table: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(16, 40, 3),
        nn.SELU(),
        nn.Sequential(nn.Identity(), nn.ConvTranspose2d(40, 32, 3), nn.ELU()),
        nn.Flatten(),
        nn.Linear(512, 256, bias=False),
        nn.Linear(256, 300),
        nn.LeakyReLU(),
        nn.Linear(300, 400),
        nn.Softmax(1),
    )
    assert init.init_sequential_(model, table) is model
    fed = [("identity", 144), ("selu", 360), ("elu", 512), ("identity", 256), ("leaky_relu", 300)]
    layers = [m for m in model.modules() if hasattr(m, "weight")]
    for layer, (name, fan_in) in zip(layers, fed, strict=True):
        wanted = gainreg.gain(name) / fan_in**0.5
        assert std_of(layer.weight) == pytest.approx(wanted, rel=0.03)
        assert layer.bias is None or not layer.bias.any()
    with pytest.raises(gainreg.TableError):
        init.init_sequential_(nn.Sequential(nn.Linear(4, 4), nn.Mish(), nn.Linear(4, 4)), table)


def test_a_strided_transposed_convolution_keeps_the_size_too() -> None:
    torch.manual_seed(0)
    up = [nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1) for _ in range(4)]
    model = nn.Sequential(*[part for layer in up for part in (layer, nn.Tanh())][:-1])
    init.init_sequential_(model)
    with torch.no_grad():
        assert std_of(model(torch.randn(4, 64, 5, 5))) == pytest.approx(1, rel=0.15)


tied = [nn.Linear(4, 4), nn.Linear(4, 4)]
tied[1].weight = tied[0].weight


expanded, eighths, sharing = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
expanded.weight = nn.Parameter(torch.randn(4, 1).expand(4, 4))
eighths.weight = nn.Parameter(eighths.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)


class Scaled(nn.Linear):
    def forward(self, x: Any) -> Any:
        return 5 * super().forward(x)


class Residual(nn.Sequential):
    def forward(self, x: Any) -> Any:
        return x + super().forward(x)


again = nn.Linear(4, 4)
sharing.weight = nn.Parameter(again.weight.data)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(4, 4), r"model \(Linear\) is no plain nn.Sequential"),
        (nn.Sequential(nn.Linear(4, 4), nn.Dropout()), r"model\[1\] \(Dropout\)"),
        (nn.Sequential(nn.Sequential(nn.BatchNorm1d(4))), r"model\[0\]\[0\] \(BatchNorm1d\)"),
        (nn.Sequential(Residual(nn.Linear(4, 4))), r"model\[0\] \(Residual\) is no plain"),
        (nn.Sequential(nn.Tanh(), nn.ReLU(), nn.Linear(4, 4)), r"\(ReLU\) follows the activation"),
        (nn.Sequential(again, nn.ReLU(), again), "the weight of a layer before it"),
        (nn.Sequential(tied[0], nn.ReLU(), tied[1]), "the weight of a layer before it"),
        (nn.Sequential(weight_norm(nn.Linear(4, 4))), "weight from others"),
        (nn.Sequential(Scaled(4, 4)), "computes something else"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), expanded), "memory of their own"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), eighths), "floating-point numbers"),
        (nn.Sequential(again, nn.ReLU(), sharing), "the weight of a layer before it"),
        (
            nn.Sequential(nn.Linear(4, 4), nn.Softmax(1), nn.Linear(4, 4)),
            r"model\[2\] \(Linear\) after model\[1\] \(Softmax\): .*how many numbers",
        ),
        (nn.Sequential(nn.LazyLinear(4)), "before its first call"),
    ],
)
def test_what_is_no_chain_is_refused_and_left_alone(model: Any, message: str) -> None:
    lazy = nn.parameter.UninitializedParameter
    before = [p.detach().clone() for p in model.parameters() if not isinstance(p, lazy)]
    with pytest.raises(gainreg.ParameterError, match=message):
        init.init_sequential_(model)
    after = [p for p in model.parameters() if not isinstance(p, lazy)]
    same = [torch.equal(a.float(), b.float()) for a, b in zip(before, after, strict=True)]
    assert all(same)


# --- the critical point -----------------------------------------------------------------------


def test_a_layer_is_set_by_the_backward_gain_and_the_critical_bias() -> None:
    torch.manual_seed(0)
    for std in (1.0, 2.0):
        entry = gainreg.resolve("tanh", std=std)
        layer = nn.Linear(1000, 1000)
        assert init.critical_(layer, nn.Tanh, std=std) is layer
        assert std_of(layer.weight) == pytest.approx(entry.backward_gain / 1000**0.5, rel=0.01)
        assert std_of(layer.bias) == pytest.approx(entry.critical_bias_std, rel=0.1)
    assert not init.critical_(nn.Linear(9, 9), "relu", std=1.0).bias.any()


def test_a_critical_layer_may_have_its_constants_from_a_table(table: Path) -> None:
    layers = nn.Linear(8, 8), nn.Linear(8, 8)
    for layer, options in zip(layers, ({"table": table}, {}), strict=True):
        torch.manual_seed(0)
        init.critical_(layer, "tanh", std=1.0, **options)
    for one, other in zip(*(layer.parameters() for layer in layers), strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(gainreg.ParameterError, match="does not say which std is critical"):
        init.critical_(layers[0], "tanh", table=table)


def test_no_std_is_that_of_the_critical_point() -> None:
    torch.manual_seed(0)
    layer = init.normal_(nn.Linear(1000, 1000), "gelu", "critical", std=None)
    point = gainreg.critical("gelu")
    assert std_of(layer.weight) == pytest.approx(point.gain / 1000**0.5, rel=0.01)
    assert std_of(layer.bias) == pytest.approx(point.bias_std, rel=0.1)


def test_without_a_bias_or_a_critical_point_layers_are_not_critical() -> None:
    bare = nn.Linear(4, 4, bias=False)
    with pytest.raises(gainreg.ParameterError, match="has no bias"):
        init.critical_(bare, "tanh", std=1.0)
    init.critical_(bare, "relu", std=1.0)
    with pytest.raises(gainreg.ParameterError, match="no critical point: give the std"):
        init.critical_(nn.Linear(4, 4), "sigmoid")
    with pytest.raises(gainreg.MomentError, match="gradient_factor is below 1"):
        init.critical_(nn.Linear(4, 4), "softplus", std=1.0)
    with pytest.raises(gainreg.ParameterError, match="criterion is"):
        init.init_sequential_(nn.Sequential(bare), criterion="both")


def test_a_critical_chain_brings_each_activation_to_its_own_level() -> None:
    torch.manual_seed(0)
    width = 1024
    layers = [nn.Linear(width, width) for _ in range(5)]
    layers[3] = nn.Linear(width, width, bias=False)
    parts = [layers[0], nn.GELU(), layers[1], nn.Tanh(), layers[2], nn.GELU(), layers[3],
             nn.Sigmoid(), layers[4]]  # fmt: skip
    init.init_sequential_(nn.Sequential(*parts), criterion="critical")
    x, found = torch.randn(32, width), []
    for part in parts:
        x = part(x)
        if isinstance(part, nn.Linear):
            found.append(float(x.detach().square().mean().sqrt()))
    level = gainreg.critical("gelu").std
    assert found == pytest.approx([level, 1, 1, 1, 1], rel=0.06)  # no bias: by the gain at 1
