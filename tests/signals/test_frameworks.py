"""The same model gives the same plan in every framework, and what is asked of it is the same."""

from __future__ import annotations

import pytest
from frameworks import FRAMEWORKS, Framework, images, rows, tokens

MODELS = {
    "an MLP": lambda of: (of.mlp((32, 128, 128, 8), "gelu"), rows(32)),
    "a stream": lambda of: (of.stream(3, norm=True), rows(128)),
    "a residual ConvNet": lambda of: (of.convnet(), images()),
    "a Transformer block": lambda of: (of.transformer(), tokens()),
}


@pytest.mark.parametrize("other", FRAMEWORKS[1:], ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", MODELS)
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
