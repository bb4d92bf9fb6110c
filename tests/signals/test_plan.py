"""Plans and reports as documents, what is left untouched, and what is refused."""

import copy
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

from networks import Of, ResNet, images, rows  # noqa: E402

import gainreg  # noqa: E402
from gainreg import MomentError, ParameterError, PlanError  # noqa: E402
from gainreg.adapters.torch import apply_, initialize_, measure, plan, rule  # noqa: E402


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 128),
        nn.BatchNorm1d(128),
        nn.GELU(),
        nn.Dropout(0.5),
        nn.Linear(128, 128),
        nn.Tanh(),
        nn.Linear(128, 8),
    )


X = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))


def everything(model: nn.Module) -> list[Any]:
    """All that must not change, with the states of all sources of random numbers."""
    return [
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        {name: p.grad for name, p in model.named_parameters()},
        {name: p.requires_grad for name, p in model.named_parameters()},
        [module.training for module in model.modules()],
        [len(module._forward_hooks) for module in model.modules()],
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
    ]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


# --- untouched ---


@pytest.mark.parametrize("look", [plan, measure])
def test_looking_changes_nothing(look: Any) -> None:
    model = network()
    model(X).sum().backward()
    model[4].weight.requires_grad_(False)
    model[3].eval()
    before = everything(model)
    look(model, X)
    assert same(everything(model), before)


@pytest.mark.parametrize("look", [plan, measure])
def test_a_buffer_that_the_model_makes_anew_is_put_back(look: Any) -> None:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        m.seen = x if m.seen is None else torch.cat((m.seen, x))
        m.register_buffer("last", x)
        return m.into(m.seen)

    model = Of(forward, into=nn.Linear(64, 8))
    model.register_buffer("seen", None, persistent=False)
    for _ in range(2):
        look(model, X)
        assert dict(model.named_buffers()) == {}
        assert model.seen is None


@pytest.mark.parametrize("call", [plan, measure, initialize_])
def test_nothing_was_set_where_the_model_raises_half_way(call: Any) -> None:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        random.random()
        raise RuntimeError(f"no {m.a(x).shape}")

    model = Of(forward, a=network())
    before = everything(model)
    with pytest.raises(RuntimeError, match="no torch") as caught:
        call(model, X)
    assert "gainreg was running Of" in caught.value.__notes__[0]
    assert same(everything(model), before)


def test_weights_come_back_where_the_model_raises_after_they_were_set() -> None:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if float(m.a[0].bias.detach().abs().sum()) == 0:
            raise RuntimeError("biases are 0")
        return m.a(x)

    model = Of(forward, a=network())
    before = everything(model)
    with pytest.raises(RuntimeError, match="biases are 0"):
        initialize_(model, X)
    assert same(everything(model), before)


def test_initialising_changes_weights_and_biases_only() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    report = initialize_(model, X)
    for name, tensor in model.state_dict().items():
        status = report.parameters.get(name, ("kept", ""))[0]
        assert torch.equal(tensor, before[name]) == (status == "kept"), name
    assert float(model[0].bias.detach().abs().sum()) == 0


# --- documents ---


def test_a_plan_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    made = plan(ResNet(), images(3, 64), residual=0.5)
    made.write(tmp_path / "plan.yaml")
    read = gainreg.load_plan(tmp_path / "plan.yaml")
    assert read == made
    assert read.to_yaml() == made.to_yaml()
    assert read.options == {"residual": 0.5, "output_std": 1.0, "criterion": "forward"}


def test_a_plan_of_a_meta_model_sets_the_real_one_in_another_process(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = network()
    made = plan(model, X.to("meta"))
    made.write(tmp_path / "plan.yaml")
    program = """
import sys, torch, gainreg
from torch import nn
from gainreg.adapters.torch import apply_
model = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.GELU(), nn.Dropout(0.5),
                      nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 8))
apply_(model, gainreg.load_plan(sys.argv[1]))
print(*[float(model[i].weight.detach().std()) for i in (0, 4, 6)])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "plan.yaml")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = [float(number) for number in done.stdout.split()]
    real = plan(network(), torch.randn(4096, 64))
    for std, planned, weight in zip(found, made.weights, real.weights, strict=True):
        assert planned.std == pytest.approx(weight.std, rel=0.01)
        assert std == pytest.approx(weight.std, rel=0.1)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda text: text.replace("std: 0", "std: 1", 1), "damaged or was edited"),
        (lambda text: text[:-20], "damaged or was edited"),
        (lambda text: text.split("\n", 1)[1], "does not begin with the digest"),
        (lambda text: "", "does not begin"),
    ],
)
def test_a_torn_or_edited_plan_is_refused(spoil: Any, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    plan(network(), X).write(path)
    path.write_text(spoil(path.read_text()))
    with pytest.raises(PlanError, match=complaint):
        gainreg.load_plan(path)


def test_a_missing_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot read plan"):
        gainreg.load_plan(tmp_path / "none.yaml")


def test_a_plan_of_another_model_names_what_differs() -> None:
    made = plan(network(), X)
    other = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 8))
    before = everything(other)
    with pytest.raises(PlanError, match=re.escape("0.weight (100, 64) instead of (128, 64)")):
        apply_(other, made)
    with pytest.raises(PlanError, match="6 parameters of the plan are not in the model"):
        apply_(other, made)
    assert same(everything(other), before)


def test_a_report_says_what_grows_dies_out_and_collapses() -> None:
    deep = nn.Sequential(*[m for _ in range(40) for m in (nn.Linear(64, 64), nn.Tanh())])
    with torch.no_grad():
        for layer in deep[::2]:
            layer.weight.normal_(0, 3 / 8)
    assert any("gradient grows" in line for line in measure(deep, X).warnings)
    with torch.no_grad():
        for layer in deep[::2]:
            layer.weight.normal_(0, 0.3 / 8)
            layer.bias.zero_()
    warnings = " ".join(measure(deep, X).warnings)
    assert "signal dies out" in warnings
    assert "gradient dies out" in warnings
    relu = nn.Sequential(*[m for _ in range(40) for m in (nn.Linear(256, 256), nn.ReLU())])
    assert any("become alike" in line for line in plan_report(relu))


def plan_report(model: nn.Module) -> tuple[str, ...]:
    return initialize_(model, torch.randn(16, 256)).warnings


# --- a user's own operation ---


@torch.library.custom_op("gainreg_tests::bent", mutates_args=())
def bent(x: torch.Tensor, scale: float) -> torch.Tensor:
    return torch.relu(x) * scale


@torch.library.custom_op("gainreg_tests::summed", mutates_args=())
def summed(x: torch.Tensor) -> torch.Tensor:
    return x.cumsum(-1)


def with_operation(operation: Any) -> nn.Module:
    return Of(lambda m, x: m.b(operation(m.a(x))), a=nn.Linear(256, 512), b=nn.Linear(512, 8))


def test_an_unknown_elementwise_operation_is_run_on_samples() -> None:
    weight = plan(with_operation(lambda x: bent(x, 3.0)), rows()).weights[-1]
    assert weight.std == pytest.approx((4.5 * 512) ** -0.5, rel=1e-4)


def test_any_other_is_passed_on_with_a_warning_until_it_has_a_rule() -> None:
    model = with_operation(summed)
    assert any("gainreg_tests.summed is not understood" in w for w in plan(model, rows()).warnings)

    @rule(torch.ops.gainreg_tests.summed)
    def _(trace: Any, x: torch.Tensor) -> Any:
        n = x.shape[-1]
        return trace.record("scale", [trace.signal(x)], mean=0.0, square=(n + 1) / 2)

    made = plan(model, rows())
    assert not made.warnings
    assert made.weights[-1].std == pytest.approx((512 * 513 / 2) ** -0.5, rel=1e-4)


# --- bad input ---


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"residual": 0.0}, "residual is a finite number above 0"),
        ({"residual": -1}, "residual is"),
        ({"residual": float("nan")}, "residual is"),
        ({"residual": True}, "residual is"),
        ({"output_std": 0}, "output_std is"),
        ({"output_std": float("inf")}, "output_std is"),
        ({"criterion": "backward"}, "criterion is one of"),
    ],
)
def test_options_out_of_range_are_refused(options: Any, complaint: str) -> None:
    with pytest.raises(ParameterError, match=complaint):
        plan(network(), X, **options)


def test_an_unknown_distribution_is_refused() -> None:
    with pytest.raises(ParameterError, match="distribution is one of"):
        initialize_(network(), X, distribution="cauchy")


@pytest.mark.parametrize(
    ("model", "args", "complaint"),
    [
        (network(), (), "no tensor is among"),
        (network(), 3.0, "args is a tensor or a tuple"),
        (network(), X * float("nan"), "NaN or infinities"),
        (network(), X / 0, "NaN or infinities"),
        (nn.ReLU(), X, "no parameters"),
        (nn.LayerNorm(64), X, "no weights that a signal meets"),
        (torch.relu, X, r"a model is a torch.nn.Module"),
    ],
)
def test_models_and_inputs_that_cannot_be_followed_are_refused(
    model: Any, args: Any, complaint: str
) -> None:
    with pytest.raises(ParameterError, match=complaint):
        plan(model, args)


@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of what it has deprecated
def test_a_compiled_or_scripted_model_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"wrapped by torch.compile"):
        plan(torch.compile(network()), X)
    with pytest.raises(ParameterError, match="scripted"):
        plan(torch.jit.trace(nn.Linear(64, 8), X), X)


def test_arguments_that_the_model_does_not_accept_are_the_models_own_error() -> None:
    with pytest.raises(TypeError, match="positional") as caught:
        plan(network(), (X, X))
    assert "nothing was set" in caught.value.__notes__[0]


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64])
def test_weights_of_other_types_are_refused(dtype: torch.dtype) -> None:
    model = Of(
        lambda m, x: (x.to(m.weight.dtype) @ m.weight).real.float(),
        weight=nn.Parameter(torch.ones(64, 8).to(dtype), requires_grad=False),
    )
    for call in (plan, measure, initialize_):
        with pytest.raises(ParameterError, match="only real floating-point weights"):
            call(model, X)


def test_a_model_of_kept_weights_alone_is_refused_with_the_reason() -> None:
    with pytest.raises(ParameterError, match=r"nothing to set .*recurrent layers"):
        initialize_(nn.LSTM(64, 8), torch.randn(5, 4, 64))


def test_weights_that_autocast_has_cast_before_are_set() -> None:
    model = network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(X)
        found = initialize_(model, X).parameters
    assert "unreached" not in {status for status, _ in found.values()}


def test_a_function_without_moments_is_marked() -> None:
    model = Of(lambda m, x: m.out(1 / m.into(x)), into=nn.Linear(64, 64), out=nn.Linear(64, 8))
    (_, weight) = initialize_(model, X).weights
    assert not weight.exact
    assert "moments do not exist" in weight.note


def test_weights_in_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        model = network()
    with pytest.raises(ParameterError, match="inference mode"):
        initialize_(model, X)


def test_an_input_of_zeros_names_the_weight_that_it_feeds() -> None:
    with pytest.raises(MomentError, match=r"weight '0.weight' cannot be set.*zero"):
        plan(nn.Sequential(nn.Linear(64, 8)), torch.zeros(4, 64))


def test_a_signal_that_dies_or_explodes_names_the_weight_and_what_feeds_it() -> None:
    dead = Of(lambda m, x: m.b(m.a(x) * 0.0), a=nn.Linear(64, 64), b=nn.Linear(64, 8))
    with pytest.raises(MomentError, match=r"weight 'b.weight' cannot be set"):
        plan(dead, X)
    wild = Of(lambda m, x: m.b(m.a(x) * 1e200), a=nn.Linear(64, 64), b=nn.Linear(64, 8))
    with pytest.raises(MomentError, match="not finite"):
        plan(wild.double(), X.double())


def test_a_meta_model_that_asks_a_tensor_for_its_value_is_told_what_to_do() -> None:
    with torch.device("meta"):
        model = Of(lambda m, x: m.a(x) if float(x.sum()) > 0 else x, a=nn.Linear(64, 8))
    with pytest.raises(RuntimeError) as caught:
        plan(model, X.to("meta"))
    assert any("meta device" in note for note in caught.value.__notes__)
