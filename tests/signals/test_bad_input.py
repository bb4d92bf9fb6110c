"""What cannot be planned, set or measured is refused in a sentence; the model is left as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="whole models are PyTorch's")
from torch import Tensor, nn  # noqa: E402

import gainreg  # noqa: E402
from gainreg.adapters.torch import apply_, initialize_, measure, plan  # noqa: E402
from gainreg.errors import GainregError, MomentError, ParameterError, PlanError  # noqa: E402

Call = Callable[..., Any]
CALLS = [plan, initialize_, measure]


def chain() -> nn.Sequential:
    """Two layers."""
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))


def state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all that a model holds."""
    return copy.deepcopy(model.state_dict())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def model() -> Iterator[nn.Sequential]:
    """A model that must be unchanged behind the test."""
    made = chain()
    before = state(made)
    yield made
    assert same(state(made), before)


# --- the example inputs ---


@pytest.mark.parametrize("call", CALLS)
def test_arguments_that_the_model_does_not_accept_raise_its_own_error_with_a_note(
    call: Call, model: nn.Module
) -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as raised:
        call(model, torch.randn(4, 9))
    assert any("gainreg was running Sequential" in note for note in raised.value.__notes__)
    with pytest.raises(TypeError, match="unexpected keyword argument") as raised:
        call(model, torch.randn(4, 8), {"mask": None})
    assert any("gainreg was running" in note for note in raised.value.__notes__)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("args", [(), (3,), ("text", None)])
def test_no_tensor_among_the_arguments(call: Call, args: Any, model: nn.Module) -> None:
    with pytest.raises(ParameterError, match="no tensor is among the example inputs"):
        call(model, args)


@pytest.mark.parametrize("args", [None, 3, {"x": torch.ones(2, 8)}])
def test_arguments_that_are_neither_a_tensor_nor_a_tuple(args: Any, model: nn.Module) -> None:
    with pytest.raises(ParameterError, match="a tensor or a tuple of example inputs"):
        plan(model, args)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_input_that_is_not_finite(call: Call, value: float, model: nn.Module) -> None:
    x = torch.randn(4, 8)
    x[2, 3] = value
    with pytest.raises(ParameterError, match="NaN or infinities"):
        call(model, x)


@pytest.mark.parametrize("call", [plan, initialize_])
def test_an_input_of_zeros_names_the_weight_that_it_feeds(call: Call, model: nn.Module) -> None:
    with pytest.raises(MomentError, match=r"'0\.weight'.*second moment that is zero"):
        call(model, torch.zeros(4, 8))


def test_an_input_of_zeros_is_measured_as_what_it_is() -> None:
    report = measure(chain(), torch.zeros(4, 8))
    assert report.weights[0].input_rms == report.weights[0].measured_input_rms == 0
    assert report.warnings


# --- the model ---


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("model", [nn.ReLU(), nn.Sequential(), nn.Flatten()])
def test_a_model_without_weights(call: Call, model: nn.Module) -> None:
    with pytest.raises(ParameterError, match="nothing to set"):
        call(model, torch.randn(4, 8))


@pytest.mark.parametrize("call", CALLS)
def test_a_model_whose_weights_no_signal_meets(call: Call) -> None:
    class Lost(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x)

    lost = Lost()
    before = state(lost)
    with pytest.raises(ParameterError, match="no weights that a signal meets"):
        call(lost, torch.randn(4, 8))
    assert same(state(lost), before)


@pytest.mark.parametrize("model", [torch.relu, "resnet18", None, nn.Linear])
def test_what_is_no_module(model: Any) -> None:
    with pytest.raises(ParameterError, match=r"a model is a torch\.nn\.Module, got"):
        plan(model, torch.randn(4, 8))


def test_weights_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = chain()
    before = state(model)
    with pytest.raises(ParameterError, match=r"'0\.weight' was made in inference mode"):
        initialize_(model, torch.randn(4, 8))
    assert same(state(model), before)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.complex64])
def test_weights_of_integer_or_complex_type(dtype: torch.dtype) -> None:
    class Typed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            start = torch.ones(8, 4).to(dtype)
            self.table = nn.Parameter(start, requires_grad=dtype.is_complex)

        def forward(self, x: Tensor) -> Tensor:
            return (x.to(dtype) @ self.table).abs().float()

    model = Typed()
    before = state(model)
    with pytest.raises(ParameterError, match=f"'table'.* type {dtype}"):
        initialize_(model, torch.randn(4, 8))
    assert same(state(model), before)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("call", CALLS)
def test_a_model_wrapped_by_torch_compile(call: Call, model: nn.Module) -> None:
    with pytest.raises(ParameterError, match=r"torch\.compile; give the original model"):
        call(torch.compile(model), torch.randn(4, 8))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("call", CALLS)
def test_a_scripted_or_traced_model(call: Call, model: nn.Module) -> None:
    x = torch.randn(4, 8)
    for made in (torch.jit.script(model), torch.jit.trace(model, x)):
        with pytest.raises(ParameterError, match="scripted; give the original model"):
            call(made, x)


# --- signals that die or explode on the way ---


class Between(nn.Module):
    """Two layers, and a function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Second of function of first."""
        return self.second(self.function(self.first(x)))


DYING: dict[str, Callable[[Tensor], Tensor]] = {
    "0 times": lambda x: 0 * x,
    "x − x": lambda x: x - x,
    "zeros": torch.zeros_like,
    "relu of what is below 0": lambda x: torch.relu(-torch.relu(x)),
    "far out": lambda x: torch.relu(x - 60),
}


class Questions(nn.Module):
    """Questions that begin with 0 and look at an input, as DETR's."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.look = (nn.MultiheadAttention(16, 2, batch_first=True) for _ in range(2))
        self.places, self.head = nn.Parameter(torch.randn(1, 5, 16)), nn.Linear(16, 4)
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        """What they find."""
        places = self.places.expand(len(x), -1, -1)
        questions = torch.zeros_like(places)
        asked = questions + places
        questions = self.norm(questions + self.own(asked, asked, questions)[0])
        found: Tensor = self.head(questions + self.look(questions + places, x, x)[0])
        return found


def test_a_constant_of_0_is_no_signal_that_dies() -> None:
    report = initialize_(Questions(), torch.randn(8, 6, 16))
    assert "a constant of 0 lets nothing through" in report.parameters["own.out_proj.weight"][1]


@pytest.mark.parametrize("call", [plan, initialize_])
@pytest.mark.parametrize("name", DYING)
def test_a_signal_that_dies_names_the_weight_that_it_would_feed(call: Call, name: str) -> None:
    model = Between(DYING[name])
    before = state(model)
    with pytest.raises(GainregError, match=r"'second\.weight'.*zero"):
        call(model, torch.randn(64, 8))
    assert same(state(model), before)


EXPLODING: dict[str, Callable[[Tensor], Tensor]] = {
    "a huge factor": lambda x: x * 1e30 * 1e30,
    "exp of exp of exp": lambda x: x.exp().exp().exp().exp(),
    "division by zero": lambda x: x / 0,
    "log of what is below 0": torch.log,
}


@pytest.mark.parametrize("call", [plan, initialize_])
@pytest.mark.parametrize("name", EXPLODING)
def test_a_signal_that_explodes_is_named_by_what_it_was(call: Call, name: str) -> None:
    model = Between(EXPLODING[name])
    before = state(model)
    with pytest.raises(GainregError, match=r"fed by .*'first\.weight'.* not finite|NaN or inf"):
        call(model, torch.randn(64, 8))
    assert same(state(model), before)


# --- options ---


# --- plans ---


def test_a_plan_of_other_names_or_shapes_says_which_and_how_many() -> None:
    made = plan(chain(), torch.randn(4, 8))
    wide = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 4))
    longer = nn.Sequential(*chain(), nn.Linear(4, 4))
    other = nn.ModuleDict({"a": nn.Linear(8, 16)})
    for model, said in (
        (wide, r"3 parameters have another shape \(0\.weight \(32, 8\) instead of \(16, 8\)"),
        (longer, r"2 parameters of the model are not in the plan \(3\.weight, 3\.bias\)"),
        (
            other,
            r"4 parameters of the plan are not in the model \(0\.weight, 0\.bias, 2\.weight, …\)",
        ),
    ):
        before = state(model)
        with pytest.raises(PlanError, match=said):
            apply_(model, made)
        assert same(state(model), before)


def test_a_torn_or_edited_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    plan(chain(), torch.randn(4, 8)).write(path)
    whole = path.read_text()
    edited = whole.replace("std: ", "std: 1", 1)
    assert edited != whole
    for text in (whole[: len(whole) // 2], edited, "", "weights: [", "a: 1\n"):
        path.write_text(text)
        with pytest.raises(PlanError, match=r"plan\.yaml"):
            gainreg.load_plan(path)
    with pytest.raises(PlanError, match=r"none\.yaml"):
        gainreg.load_plan(tmp_path / "none.yaml")


def test_a_table_is_no_plan(tmp_path: Path) -> None:
    gainreg.build_table(["relu"], stds=[1.0]).write(tmp_path / "gains.yaml")
    with pytest.raises(PlanError, match=r"gains\.yaml"):
        gainreg.load_plan(tmp_path / "gains.yaml")


# --- the meta device ---


def test_a_meta_model_that_asks_for_a_value_is_told_what_to_do() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(x)
            return x if float(x.sum()) > 0 else -x

    with torch.device("meta"):
        model, x = Asks(), torch.randn(4, 8)
    with pytest.raises(RuntimeError, match="meta") as raised:
        plan(model, x)
    notes = " ".join(raised.value.__notes__)
    assert "if its code asks one for its value, plan on a small model with values instead" in notes


@pytest.mark.parametrize("call", [initialize_, measure])
def test_a_meta_model_can_only_be_planned(call: Call) -> None:
    with torch.device("meta"):
        model, x = chain(), torch.randn(4, 8)
    with pytest.raises(ParameterError, match=r"'0\.weight' is on the meta device.*make a plan"):
        call(model, x)
    made = plan(model, x)
    with pytest.raises(ParameterError, match="on the meta device"):
        apply_(model, made)
