"""The same model gives the same plan in every framework; and what is found, set, measured and left
alone is asked of each with the same functions."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameworks import FRAMEWORKS, Framework, each_framework, images, rows, tokens

import gainreg
from gainreg import MomentError, ParameterError, PlanError
from gainreg.signals import Plan

MODELS = {
    "an MLP": lambda of: (of.mlp((32, 128, 128, 8), "gelu"), rows(32)),
    "a stream": lambda of: (of.stream(3, norm=True), rows(128)),
    "a residual ConvNet": lambda of: (of.convnet(), images()),
    "a Transformer block": lambda of: (of.transformer(), tokens()),
}

each_model = pytest.mark.parametrize("name", MODELS)

CHAIN = (32, 64, 8)


def same(before: Any, after: Any) -> bool:
    """Bit for bit."""
    return before.keys() == after.keys() and all(
        np.array_equal(before[name], after[name], equal_nan=True) for name in before
    )


def rms(x: Any) -> float:
    return math.sqrt(float(np.mean(np.square(x, dtype=np.float64))))


def shrinking(plan: Plan) -> Plan:
    """The plan with a tenth of each std."""
    listed = {
        name: item if item.std is None else replace(item, std=item.std / 10)
        for name, item in plan.listed.items()
    }
    return replace(plan, listed=listed)


# --- the same everywhere ---


@pytest.mark.parametrize("other", FRAMEWORKS[1:], ids=lambda kind: kind.name)
@each_model
def test_the_same_model_gives_the_same_plan(name: str, other: type[Framework]) -> None:
    plans = []
    for framework in (FRAMEWORKS[0](), other()):
        model, x = MODELS[name](framework)
        plans.append(framework.plan(model, x))
    first, second = plans
    assert len(first.weights) == len(second.weights)
    for here, there in zip(first.weights, second.weights, strict=True):
        assert there.std == pytest.approx(here.std, rel=1e-9), (here, there)
        assert there.fan_in == pytest.approx(here.fan_in, rel=1e-12)
        assert (there.operation, there.fed_by) == (here.operation, here.fed_by)
    statuses: list[list[str]] = [sorted(s for s, _ in p.parameters.values()) for p in plans]
    assert statuses[0] == statuses[1]
    assert first.warnings == second.warnings


@pytest.mark.parametrize("activation", ["gelu", "silu", "tanh"])
def test_what_is_critical_is_so_however_a_framework_spells_it(activation: str) -> None:
    plans = []
    for framework in (kind() for kind in FRAMEWORKS):
        model = framework.mlp((32, 64, 64, 8), activation)
        plans.append(framework.plan(model, rows(32), criterion="critical"))
    first, *others = ([item.std for item in p.listed.values() if item.std] for p in plans)
    for other in others:
        assert sorted(other) == pytest.approx(sorted(first), rel=1e-9)


def test_a_gelu_whose_constants_are_in_single_precision_is_the_same_behind_a_mean() -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    from gainreg.adapters.jax import plan
    from gainreg.adapters.torch import plan as plan_in_torch

    nn, x = torch.nn, np.random.default_rng(0).normal(size=(8, 12, 32)).astype(np.float32)

    class Averaged(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(32, 64, bias=False), nn.Linear(64, 8, bias=False)

        def forward(self, x: Any) -> Any:
            return self.b(nn.functional.gelu(self.a(x)).mean(1))

    def averaged(p: Any, x: Any) -> Any:
        return jax.nn.gelu(x @ p["a"], approximate=False).mean(1) @ p["b"]

    shapes = {"a": jax.ShapeDtypeStruct((32, 64), "float32")}
    shapes["b"] = jax.ShapeDtypeStruct((64, 8), "float32")
    first = plan_in_torch(Averaged(), torch.from_numpy(x))
    second = plan((averaged, shapes), x)
    for here, there in zip(first.weights, second.weights, strict=True):
        assert there.std == pytest.approx(here.std, rel=1e-10)


# --- prediction beside measurement ---


@each_framework
@each_model
def test_what_is_predicted_is_measured(name: str, framework: type[Framework]) -> None:
    of = framework()
    model, x = MODELS[name](of)
    _, report = of.initialize(model, x)
    assert report.weights
    for weight in report.weights:
        for predicted, found, least in (
            (weight.input_rms, weight.measured_input_rms, 0.03 if weight.exact else 0.1),
            (weight.output_rms, weight.measured_output_rms, 0.05 if weight.exact else 0.15),
            (weight.gradient_rms, weight.measured_gradient_rms, 0.4),
        ):
            if weight.operation == "embedding" and found is None:
                continue
            off = math.log(predicted / found)
            assert abs(off) < max(least, 3 * weight.spread), (weight.name, predicted, found)


@each_framework
@each_model
def test_every_parameter_is_accounted_for(name: str, framework: type[Framework]) -> None:
    of = framework()
    model, x = MODELS[name](of)
    planned = of.plan(model, x)
    report = of.measure(model, x, backward=False)
    assert planned.parameters.keys() == report.parameters.keys()
    for status, reason in planned.parameters.values():
        assert status in ("set", "zeroed", "kept")
        assert reason
    assert {weight.name for weight in planned.weights} == {
        name for name, (status, _) in planned.parameters.items() if status == "set"
    }


@each_framework
def test_a_stream_and_its_gradient_stay_level(framework: type[Framework]) -> None:
    of = framework()
    x = rows(128, 256)
    for norm in (True, False):
        model, report = of.initialize(of.stream(8, norm), x)
        assert 0.8 < float(np.var(of.run(model, x)) / x.var()) < 2.9
        firsts = report.weights[::2]
        assert firsts[0].measured_gradient_rms / firsts[-1].measured_gradient_rms < 4
        assert firsts[0].gradient_rms == pytest.approx(firsts[0].measured_gradient_rms, rel=0.25)


@each_framework
def test_each_branch_aims_at_1_without_a_residual(framework: type[Framework]) -> None:
    of = framework()
    x = rows(128, 256)
    model = of.stream(8, norm=True)
    model = of.apply(model, of.plan(model, x, residual=None))
    assert float(np.var(of.run(model, x))) == pytest.approx(9, rel=0.2)


@each_framework
def test_the_output_has_the_std_that_was_asked_for(framework: type[Framework]) -> None:
    of = framework()
    x = rows(128)
    model = of.mlp((128, 512, 512), "gelu")
    model = of.apply(model, of.plan(model, x, output_std=0.1))
    assert rms(of.run(model, x)) == pytest.approx(0.1, rel=0.1)


@each_framework
def test_calibration_sets_weights_by_what_feeds_them_in_fact(framework: type[Framework]) -> None:
    of = framework()
    model = of.mlp((128,) * 9, "gelu")
    for weight in of.initialize(model, rows(128), calibrate=True)[1].weights:
        assert weight.measured_output_rms == pytest.approx(1, rel=0.15)


@each_framework
def test_critical_weights_keep_signals_and_gradients_level(framework: type[Framework]) -> None:
    of = framework()
    model = of.mlp((256,) * 11, "tanh")
    _, report = of.initialize(model, rows(256), criterion="critical")
    first, last = report.weights[1], report.weights[-2]
    assert first.output_rms == pytest.approx(1, rel=0.02)
    assert first.measured_gradient_rms == pytest.approx(last.measured_gradient_rms, rel=0.3)
    statuses = {status for name, (status, _) in report.parameters.items() if "bias" in name}
    assert statuses == {"set", "zeroed"}  # the first layer's input is data


@each_framework
@pytest.mark.parametrize("distribution", ["normal", "truncated_normal", "uniform", "orthogonal"])
def test_all_distributions_have_the_same_mean_square(
    distribution: str, framework: type[Framework]
) -> None:
    of = framework()
    model = of.mlp((256, 256), "relu")
    planned = of.plan(model, rows(256))
    state = of.state(of.apply(model, planned, distribution=distribution))
    (weight,) = (x for x in state.values() if x.ndim == 2)
    assert rms(weight) == pytest.approx(planned.weights[0].std, rel=0.015)


# --- untouched ---


@each_framework
def test_looking_changes_nothing(framework: type[Framework]) -> None:
    of = framework()
    model, x = of.convnet(), images()
    before, data = of.state(model), x.copy()
    of.plan(model, x)
    of.measure(model, x)
    assert same(of.state(model), before)
    assert np.array_equal(x, data)


@each_framework
def test_initialising_changes_weights_and_biases_only(framework: type[Framework]) -> None:
    of = framework()
    model, x = of.convnet(), images()
    before = of.state(model)
    after, report = of.initialize(model, x)
    changed = {
        name for name, array in of.state(after).items() if not np.array_equal(array, before[name])
    }
    counts = [status for status, _ in report.parameters.values()].count
    assert len(changed) in (counts("set"), counts("set") + counts("zeroed"))
    for name, array in of.state(after).items():
        assert array.dtype == before[name].dtype


@each_framework
def test_the_same_seed_sets_the_same_weights(framework: type[Framework]) -> None:
    of = framework()
    found = [
        of.state(of.initialize(of.mlp(CHAIN, "relu"), rows(32), seed)[0]) for seed in (1, 1, 2)
    ]
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


# --- plans and reports ---


@each_framework
def test_a_plan_of_shapes_alone_sets_the_real_model(
    framework: type[Framework], tmp_path: Path
) -> None:
    of = framework()
    planned = of.plan(*of.shapes_only(CHAIN, "gelu"))
    planned.write(tmp_path / "plan.yaml")
    read = gainreg.load_plan(tmp_path / "plan.yaml")
    assert read == planned
    model = of.apply(of.mlp(CHAIN, "gelu"), read)
    report = of.measure(model, rows(32))
    for weight, item in zip(report.weights, planned.weights, strict=True):
        assert weight.weight_std == pytest.approx(item.std, rel=0.1)
    real = of.plan(of.mlp(CHAIN, "gelu"), rows(32, 4096))
    for weight, item in zip(real.weights, planned.weights, strict=True):
        assert item.std == pytest.approx(weight.std, rel=0.01)


@each_framework
def test_a_report_is_a_table_for_a_terminal_and_plain_data(
    framework: type[Framework], tmp_path: Path
) -> None:
    of = framework()
    report = of.measure(
        of.apply(of.mlp(CHAIN, "gelu"), of.plan(*of.shapes_only(CHAIN, "gelu"))), rows(32)
    )
    text = str(report)
    assert re.search(r"gelu at std [01]\.?\d* .* \d\.\d+/\d", text)
    assert "4 parameters: 4 kept" in text
    assert max(map(len, text.split("\n"))) <= 120
    report.write(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == report.to_dict()


@each_framework
def test_a_plan_of_another_model_is_refused(framework: type[Framework]) -> None:
    of = framework()
    planned = of.plan(of.mlp(CHAIN, "relu"), rows(32))
    wide, longer = of.mlp((32, 100, 8), "relu"), of.mlp((32, 64, 8, 8), "relu")
    for model, said in ((wide, "parameters have another shape"), (longer, "not in the plan")):
        before = of.state(model)
        with pytest.raises(PlanError, match=said):
            of.apply(model, planned)
        assert same(of.state(model), before)


# --- bad input ---


@each_framework
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"residual": 0.0}, "residual is a finite number above 0"),
        ({"residual": math.nan}, "residual is a finite number above 0"),
        ({"output_std": -1}, "output_std is a finite number above 0"),
        ({"criterion": "best"}, "criterion is one of 'forward', 'critical'"),
        ({"distribution": "cauchy"}, "distribution is one of 'normal'"),
        ({"calibrate": True, "criterion": "critical"}, "calibrate goes with"),
    ],
)
def test_a_wrong_option_is_a_sentence(
    options: dict[str, Any], complaint: str, framework: type[Framework]
) -> None:
    of = framework()
    model = of.mlp(CHAIN, "relu")
    before = of.state(model)
    with pytest.raises(ParameterError, match=complaint):
        of.initialize(model, rows(32), **options)
    assert same(of.state(model), before)


@each_framework
def test_inputs_that_nothing_can_be_made_of(framework: type[Framework]) -> None:
    of = framework()
    model = of.mlp(CHAIN, "relu")
    before = of.state(model)
    for call in (of.plan, of.measure, of.initialize):
        with pytest.raises(ParameterError, match="NaN or infinities"):
            call(model, np.full((4, 32), np.nan, np.float32))
        with pytest.raises(ParameterError, match="is among the example inputs"):
            call(model, ())
    with pytest.raises(MomentError, match="cannot be set: the signal that feeds it, data"):
        of.initialize(model, np.zeros((4, 32), np.float32))
    with pytest.raises((RuntimeError, TypeError, ValueError)) as caught:
        of.initialize(model, rows(33))
    assert any("nothing was set" in note for note in caught.value.__notes__)
    assert same(of.state(model), before)


@each_framework
def test_what_is_no_model(framework: type[Framework]) -> None:
    for model in (None, "resnet18", 3):
        with pytest.raises(ParameterError, match="a model is a"):
            framework().plan(model, rows(32))


def test_a_plan_written_by_one_framework_is_applied_by_another(tmp_path: Path) -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    from gainreg.adapters import jax as in_jax
    from gainreg.adapters import torch as in_torch

    def mlp(params: Any, x: Any) -> Any:
        x = jax.nn.gelu(x @ params["0"]["kernel"] + params["0"]["bias"], approximate=False)
        return x @ params["2"]["kernel"] + params["2"]["bias"]

    def zeros(a: int, b: int) -> Any:
        return {"kernel": jax.numpy.zeros((a, b)), "bias": jax.numpy.zeros(b)}

    params = {"0": zeros(64, 512), "2": zeros(512, 32)}
    shapes = {f"{i}/{name}": x.shape for i, layer in params.items() for name, x in layer.items()}
    model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.GELU(), torch.nn.Linear(512, 32))
    x = rows(64)
    in_torch.plan(model, torch.as_tensor(x)).write(tmp_path / "plan.yaml")
    plan = gainreg.load_plan(tmp_path / "plan.yaml")

    def name_in_jax(name: str) -> str:
        return name.replace(".weight", "/kernel").replace(".bias", "/bias")

    own = in_jax.plan((mlp, params), x)
    renamed = plan.renamed(name_in_jax, shapes)
    assert [w.name for w in renamed.weights] == [w.name for w in own.weights]
    assert [w.std for w in renamed.weights] == pytest.approx([w.std for w in own.weights], rel=1e-9)
    new = in_jax.apply((mlp, params), renamed, key=jax.random.key(0))
    for weight in own.weights:
        layer, name = weight.name.split("/")
        assert rms(new[layer][name]) == pytest.approx(weight.std, rel=0.05)
    with pytest.raises(PlanError, match="which the other model does not have"):
        plan.renamed(str, shapes)
    with pytest.raises(PlanError, match="two parameters"):
        plan.renamed(lambda name: "0/kernel", shapes)
    with pytest.raises(PlanError, match="cannot be the same weight"):
        plan.renamed(name_in_jax, {**shapes, "2/kernel": (2, 2)})


@each_framework
def test_a_gradient_that_dies_out_is_measured_as_far_as_single_precision_goes(
    framework: type[Framework],
) -> None:
    of = framework()
    model = of.mlp((32,) * 25, "relu")
    shrunk = of.apply(model, shrinking(of.plan(model, rows(32))))
    gradients = [weight.measured_gradient_rms for weight in of.measure(shrunk, rows(32)).weights]
    assert all(gradients)
    assert gradients[0] < 1e-23
