"""A report says which residual stream a weight's branch joins, and how large that is there."""

import time

import pytest

torch = pytest.importorskip("torch", reason="the models are PyTorch's")

from torch import Tensor, nn  # noqa: E402

from gainreg.adapters.torch import initialize_, plan  # noqa: E402


class Branch(nn.Module):
    """x + f(x), or skip(x) + f(x)."""

    def __init__(self, *parts: nn.Module, skip: nn.Module | None = None) -> None:
        super().__init__()
        self.parts, self.skip = nn.Sequential(*parts), skip or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.parts(x)


def linear(width: int = 32, out: int = 32) -> nn.Linear:
    return nn.Linear(width, out, bias=False)


def streams(model: nn.Module) -> dict[str, tuple[int, float | None]]:
    report = initialize_(model, torch.randn(64, 32), generator=torch.Generator().manual_seed(0))
    return {weight.name: (weight.stream, weight.stream_rms) for weight in report.weights}


def test_branches_of_one_stream_have_its_number_and_its_size_behind_each_sum() -> None:
    blocks = [Branch(nn.LayerNorm(32), linear(), nn.GELU(), linear()) for _ in range(4)]
    found = streams(nn.Sequential(linear(), *blocks, linear()))
    assert found["0.weight"] == found["5.weight"] == (0, None)
    sizes = []
    for block in range(1, 5):
        first, last = found[f"{block}.parts.1.weight"], found[f"{block}.parts.3.weight"]
        assert first == last
        assert first[0] == 1
        sizes.append(first[1])
    # together they double the stream's second moment, which begins with 1
    assert sizes == pytest.approx([(1 + i / 4) ** 0.5 for i in range(1, 5)], rel=0.05)


def test_a_projected_skip_begins_a_stream_of_its_own() -> None:
    widen = Branch(linear(32, 64), nn.ReLU(), linear(64, 64), skip=linear(32, 64))
    model = nn.Sequential(linear(), Branch(nn.ReLU(), linear()), widen, linear(64, 8))
    found = {name: stream for name, (stream, _) in streams(model).items()}
    assert found["1.parts.1.weight"] == 1
    assert found["2.parts.0.weight"] == found["2.parts.2.weight"] == 2
    assert found["2.skip.weight"] == 0


def test_a_branch_within_a_branch_counts_as_the_inner_one() -> None:
    inner = Branch(nn.ReLU(), linear())
    model = nn.Sequential(linear(), Branch(nn.ReLU(), linear(), inner, linear()), linear())
    found = {name: stream for name, (stream, _) in streams(model).items()}
    assert found["1.parts.1.weight"] == found["1.parts.3.weight"]
    assert found["1.parts.2.parts.1.weight"] not in (0, found["1.parts.1.weight"])


def test_of_a_stream_in_parts_the_largest_counts() -> None:
    class WithClassToken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(0.01 * torch.randn(1, 1, 32))
            self.first, self.branch = linear(), Branch(nn.LayerNorm(32), linear())

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x.reshape(-1, 8, 32))
            return self.branch(torch.cat([self.token.expand(len(y), -1, -1), y], 1))

    number, rms = streams(WithClassToken())["branch.parts.1.weight"]
    assert number == 1
    assert rms == pytest.approx(2**0.5, rel=0.1)  # of the patches; the class token's is 1


def test_one_constant_that_is_added_again_and_again_is_no_stream() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.shift = linear(), torch.tensor(3.0)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.layer(x) + self.shift)

    found = streams(nn.Sequential(Shifted(), Shifted(), linear()))
    assert {stream for stream, _ in found.values()} == {0}


def test_what_is_made_of_parameters_and_added_everywhere_is_no_stream() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(torch.randn(32))
            self.made, self.layers = linear(), nn.ModuleList(linear() for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            bias = nn.functional.gelu(self.made(self.places[None]))
            for layer in self.layers:
                x = layer(torch.relu(x + bias))
            return x

    assert {number for number, _ in streams(Biased()).values()} == {0}


@pytest.mark.parametrize("inside", [False, True])
def test_a_stream_of_nonlinear_branches_costs_no_more_for_its_depth(inside: bool) -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(80))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x + 0.1 * torch.relu(layer(x) + x if inside else layer(x))
            return x

    model, x = Deep(), torch.randn(8, 64)
    before = time.perf_counter()
    made = plan(model, x)
    assert time.perf_counter() - before < 20  # 0.6 s and 3 s; for ever if branches meet the stream
    assert len(made.weights) == 80
