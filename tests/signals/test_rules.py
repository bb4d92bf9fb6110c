"""Each rule on one operation, against a network wide enough to measure it."""

import math
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional
nn = torch.nn

from networks import Of  # noqa: E402

from gainreg.adapters.torch import initialize_, measure, plan  # noqa: E402

WIDE = 2048


def window(h: torch.Tensor) -> torch.Tensor:
    return h.masked_fill((h < -1) | (h > 1), 0.0)


def assigned(h: torch.Tensor, where: torch.Tensor, value: float) -> torch.Tensor:
    h = h.clone()
    h[where] = value
    return h


# what stands between two layers, what its second moment is, and the part of it that a network of
# this width may be off by
ELEMENTWISE = {
    "GELU by sigmoid": (lambda h: h * torch.sigmoid(1.702 * h), 0.6496**2),
    "x + relu": (lambda h: h + torch.relu(h), 2.5),
    "2x − x": (lambda h: 2 * h - h, 1.0),
    "a relu": (torch.relu, 0.5),
    "leaky ReLU by where": (lambda h: torch.where(h > 0, h, 0.1 * h), 0.505),
    "a shelf by where": (lambda h: torch.where(h <= -1, torch.zeros_like(h), h), 0.59937),
    "ReLU by masked_fill": (lambda h: h.masked_fill(h < 0, 0.0), 0.5),
    "a window by two conditions": (
        lambda h: torch.where((h > -1) & ~(h > 1), h, torch.zeros_like(h)),
        0.19874804,
    ),
    "assigned by a condition": (lambda h: assigned(h, (h < -1) | (h > 1), 0.5), 0.27807585),
    "in place": (lambda h: (h * 3).relu_() / 3, 0.5),
    "a gate of halves": (lambda h: h[..., : WIDE // 2] * torch.relu(h[..., WIDE // 2 :]), 0.5),
    "a gate of itself": (lambda h: h * torch.relu(h), 1.5),
    "chunks": (lambda h: math.prod(h.chunk(2, -1)), 1.0),
    "a norm": (lambda h: F.layer_norm(3 * h + 1, (WIDE,)), 1.0),
    "a norm written out": (
        lambda h: (h - h.mean(-1, keepdim=True)) * (h.var(-1, keepdim=True) + 1e-5).rsqrt(),
        1.0,
    ),
    "RMS norm written out": (
        lambda h: F.relu(5 * h) * (F.relu(5 * h).pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt(),
        1.0,
    ),
    "dropout": (lambda h: F.dropout(h, 0.25), 1 / 0.75),
    "a concatenation": (lambda h: torch.cat([h, torch.relu(h)], -1), 0.75),
    "a stack of transposes": (lambda h: (torch.relu(h).T.contiguous().T - h) / 2, 1 / 8),
    "softplus of a number": (lambda h: F.softplus(torch.zeros_like(h)) + h, 1 + math.log(2) ** 2),
    "squares": (lambda h: (h**2 - 1) / math.sqrt(2), 1.0),
    "where": (lambda h: torch.where(h > 0, h, 0.1 * h), 0.505),
    "clamp": (lambda h: h.clamp(min=0), 0.5),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_what_stands_between_two_layers_is_one_function(name: str) -> None:
    function, expected = ELEMENTWISE[name]
    torch.manual_seed(0)
    model = Of(
        lambda m, x: m.after(function(m.before(x))),
        before=nn.Linear(256, WIDE),
        after=nn.LazyLinear(128),
    )
    after = initialize_(model, torch.randn(32, 256)).weights[-1]
    tolerance = 3 * after.spread + 0.005
    exact = plan_again(model)
    assert exact == pytest.approx(math.sqrt(expected), rel=1e-3)
    assert math.log(after.input_rms / after.measured_input_rms) == pytest.approx(0, abs=tolerance)


def test_where_a_function_jumps_gradients_are_those_beside_the_jumps() -> None:
    torch.manual_seed(0)
    model = Of(
        lambda m, x: m.after(window(m.before(x))),
        before=nn.Linear(256, WIDE),
        after=nn.Linear(WIDE, 128),
    )
    first, last = initialize_(model, torch.randn(32, 256)).weights
    assert plan_again(model) == pytest.approx(math.sqrt(0.19874804), rel=1e-6)
    # E[φ′²] = P(|x| ≤ 1) beside the jumps; what was drawn strays by a few thousandths
    assert first.measured_gradient_rms is not None
    factor = math.sqrt(128 * last.weight_std**2 * 0.68268949)
    assert first.gradient_rms / last.gradient_rms == pytest.approx(factor, rel=5e-3)


def plan_again(model: nn.Module) -> float:
    """What is predicted to feed the second layer when the first keeps second moment 1."""
    weight = plan(model, torch.randn(32, 256)).weights[-1]
    return 1 / (weight.std * math.sqrt(weight.fan_in))


POSITIONS = {
    "convolution, padded": (nn.Conv2d(64, 256, 3, padding=1), (64, 8, 8)),
    "convolution, strided and dilated": (nn.Conv2d(64, 256, 3, 2, 2, dilation=2), (64, 9, 9)),
    "grouped convolution": (nn.Conv2d(64, 256, 3, groups=4), (64, 8, 8)),
    "transposed convolution": (nn.ConvTranspose2d(64, 256, 4, 2, 1), (64, 6, 6)),
    "transposed convolution with gaps": (nn.ConvTranspose1d(64, 256, 2, 3), (64, 20)),
    "convolution of one axis": (nn.Conv1d(64, 256, 5, 2), (64, 30)),
    "convolution of three axes": (nn.Conv3d(16, 128, 3, padding=1), (16, 4, 4, 4)),
    "linear": (nn.Linear(64, 512), (16, 64)),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_a_weight_alone_keeps_what_its_taps_inside_bring(name: str) -> None:
    layer, shape = POSITIONS[name]
    torch.manual_seed(0)
    (weight,) = initialize_(layer, torch.randn(16, *shape)).weights
    assert weight.exact
    assert weight.measured_output_rms == pytest.approx(1.0, rel=0.04)
    assert weight.output_rms == pytest.approx(weight.measured_output_rms, rel=0.03)
    assert weight.measured_gradient_rms == pytest.approx(weight.gradient_rms, rel=0.03)


def head(forward: Callable[..., torch.Tensor], **parts: nn.Module) -> nn.Module:
    """A convolution, what is tested, and a linear layer on top."""
    return Of(
        lambda m, x: m.top(forward(m, m.first(x))),
        first=nn.Conv2d(32, 512, 3, padding=1),
        top=nn.LazyLinear(256),
        **parts,
    )


# what comes between a convolution and the top, and how far off the prediction may be
OVER_POSITIONS = {
    "mean of all positions": (lambda m, x: F.relu(x).mean((2, 3)), {}, 0.03),
    "average pool": (lambda m, x: F.avg_pool2d(F.gelu(x), 2).mean((2, 3)), {}, 0.03),
    "mean of a level signal": (lambda m, x: x.mean((-1, -2)), {}, 0.05),
    "maximum pool": (lambda m, x: F.max_pool2d(F.relu(x), 8).flatten(1), {}, 0.03),
    "global maximum": (lambda m, x: x.amax((2, 3)), {}, 0.03),
    "flattened": (lambda m, x: F.silu(x).flatten(1), {}, 0.03),
    "batch norm": (lambda m, x: m.norm(F.relu(x)).flatten(1), {"norm": nn.BatchNorm2d(512)}, 0.02),
    "batch norm in evaluation": (
        lambda m, x: m.norm(F.relu(x)).flatten(1),
        {"norm": nn.BatchNorm2d(512).eval()},
        0.02,
    ),
    "group norm": (lambda m, x: m.norm(F.relu(x)).flatten(1), {"norm": nn.GroupNorm(8, 512)}, 0.02),
    "instance norm": (
        lambda m, x: F.relu(m.norm(F.relu(x))).flatten(1),
        {"norm": nn.InstanceNorm2d(512)},
        0.02,
    ),
    "enlarged": (lambda m, x: F.interpolate(F.relu(x), scale_factor=2).flatten(1), {}, 0.03),
    "blended": (
        lambda m, x: F.interpolate(F.relu(x), scale_factor=2, mode="bilinear").flatten(1),
        {},
        0.05,
    ),
    "gated by the mean": (
        lambda m, x: (x * m.gate(F.relu(x).mean((2, 3)))[..., None, None].sigmoid()).flatten(1),
        {"gate": nn.Linear(512, 512)},
        0.03,
    ),
}


@pytest.mark.parametrize("name", OVER_POSITIONS)
def test_positions_share_what_the_covariances_say(name: str) -> None:
    forward, parts, tolerance = OVER_POSITIONS[name]
    torch.manual_seed(0)
    model = head(forward, **parts)
    report = initialize_(model, torch.randn(8, 32, 8, 8))
    for weight in report.weights:
        assert weight.input_rms == pytest.approx(weight.measured_input_rms, rel=tolerance)
        assert weight.gradient_rms == pytest.approx(weight.measured_gradient_rms, rel=0.25)


@pytest.mark.parametrize("function", [torch.relu, F.gelu, torch.abs])
def test_the_largest_of_many_is_that_of_all_of_them(function: Callable[..., torch.Tensor]) -> None:
    torch.manual_seed(0)
    model = Of(
        lambda m, x: m.top(function(m.first(x)).amax(1)),
        first=nn.Linear(128, 512),
        top=nn.Linear(512, 64),
    )
    report = initialize_(model, torch.randn(4, 1024, 128))
    assert "maximum of 1024" in report.weights[1].fed_by
    for weight in report.weights:  # 1.4 times if that is taken for the largest of 64
        assert weight.input_rms == pytest.approx(weight.measured_input_rms, rel=0.02)
        assert weight.gradient_rms == pytest.approx(weight.measured_gradient_rms, rel=0.1)


@pytest.mark.parametrize("keys", [1, 2, 5, 40])
@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0, 6.0, 17.0])
@pytest.mark.parametrize("alike", [0.0, 0.6, 1.0])
def test_softmax_sees_so_much_of_a_few_keys(alike: float, spread: float, keys: int) -> None:
    from gainreg.signals.softmax import overlaps

    torch.manual_seed(0)
    common, one, two = torch.randn(3, 50_000, keys, dtype=torch.float64) * math.sqrt(spread)
    p, r = (
        (math.sqrt(alike) * common + math.sqrt(1 - alike) * own).softmax(-1) for own in (one, two)
    )
    both = (p * r).sum(-1)
    passed = both - (p * p * r).sum(-1) - (p * r * r).sum(-1) + both**2
    found = overlaps(spread, alike, (keys, 100))[0]
    assert found.seen == pytest.approx(float(both.mean()), rel=0.03)
    assert found.passed == pytest.approx(float(passed.mean()), rel=0.03, abs=1e-12)


def test_a_model_as_it_is_is_predicted_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 512))  # PyTorch's sizes
    report = measure(model, torch.randn(64, 512))
    assert report.weights[0].output_rms == pytest.approx(math.sqrt(1 / 3), rel=0.02)
    for weight in report.weights:
        assert weight.output_rms == pytest.approx(weight.measured_output_rms, rel=0.03)
        assert weight.gradient_rms == pytest.approx(weight.measured_gradient_rms, rel=0.05)


class Standardised(nn.Conv2d):
    """A convolution whose rows are brought to mean 0 and the second moment that keeps its input's
    size (Brock et al. 2021)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weight
        centred = w - w.mean((1, 2, 3), keepdim=True)
        scaled = centred / centred.square().mean((1, 2, 3), keepdim=True).sqrt()
        return F.conv2d(x, scaled / math.sqrt(w[0].numel()), padding=self.padding)


def test_weights_that_are_centred_do_not_see_what_all_units_have_in_common() -> None:
    torch.manual_seed(0)
    centred = (Standardised(256, 256, 3, padding=1), nn.ReLU())
    model = nn.Sequential(
        nn.Conv2d(32, 256, 1), nn.ReLU(), *centred, *centred, nn.Conv2d(256, 9, 1)
    )
    last = initialize_(model, torch.randn(8, 32, 16, 16)).weights[-1]
    assert last.input_rms == pytest.approx(last.measured_input_rms, rel=0.05)  # else twice as large


def left(x: torch.Tensor) -> torch.Tensor:
    """What is still to be summed at each place."""
    sums = x.cumsum(2)
    return sums[:, :, -1:] - sums


def resized(**how: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: F.interpolate(x, **how)


def kept_before(x: torch.Tensor) -> torch.Tensor:
    """Exponentials of scores, where a mask leaves any."""
    mask = torch.ones(16, 16, dtype=torch.bool).triu(1)
    return (x / 2).masked_fill(mask, -torch.inf).exp()


LINE = torch.tensor([1.0, 2.0, 1.0]) / 4
BLUR = torch.outer(LINE, LINE)
SOBEL = torch.outer(LINE, torch.tensor([1.0, 0.0, -1.0]))
HAAR = torch.tensor([[[1, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]])
COSINES = torch.outer(torch.arange(16.0), (torch.arange(16) + 0.5) * math.pi / 16).cos() / 8**0.5
BLOCKS = torch.kron(torch.eye(4), torch.ones(4, 4)) / 4


def by_kernels(*kernels: torch.Tensor, **how: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Each channel by itself with the same kernels."""
    each = torch.stack(kernels)[:, None].float()
    kind = F.conv_transpose2d if how.pop("transposed", False) else F.conv2d
    return lambda x: kind(x, each.repeat(x.shape[1], 1, 1, 1), groups=x.shape[1], **how)


def blurred_as_samples(x: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x.flatten(0, 1)[:, None], BLUR[None, None]).unflatten(0, x.shape[:2])[:, :, 0]


KNOWN = {
    "a blur": by_kernels(BLUR, padding=1),
    "a blur of every second": by_kernels(BLUR, stride=2, padding=1),
    "a blur with gaps": by_kernels(BLUR, dilation=2),
    "a blur into more": by_kernels(4 * BLUR, transposed=True, stride=2, padding=1),
    "a blur of what is reshaped": blurred_as_samples,
    "a blur with a bias": lambda x: F.conv2d(
        x, BLUR.expand(256, 1, 3, 3), BLUR.new_ones(256), groups=256
    ),
    "slopes": by_kernels(SOBEL, padding=1),
    "wavelets": by_kernels(*HAAR, stride=2),
    "averages by a matrix": lambda x: BLOCKS @ x,
    "averages by a layer": lambda x: F.linear(x, BLOCKS),
    "the first cosines": lambda x: torch.einsum("nchw,kw->nckh", x, COSINES[:5]),
    "a weighted sum": lambda x: (x.transpose(-1, -2) @ torch.arange(16.0) / 99)[..., None],
    "running sums": lambda x: x.cumsum(2),
    "sums that are left": left,
    "decays by what is left": lambda x: (-left(F.relu(x)) / 8).exp(),
    "masked exponentials": kept_before,
    "blended": resized(scale_factor=1.5, mode="bilinear"),
    "blended into fewer": resized(scale_factor=0.37, mode="bilinear", antialias=True),
    "bicubic": resized(scale_factor=2, mode="bicubic"),
    "bicubic, from corner to corner": resized(size=(20, 13), mode="bicubic", align_corners=True),
    "bicubic into fewer": resized(size=(5, 9), mode="bicubic", antialias=True),
}


@pytest.mark.parametrize("act", [nn.Identity(), nn.ReLU()])
@pytest.mark.parametrize("name", KNOWN)
def test_what_mixes_positions_in_a_known_way(name: str, act: nn.Module) -> None:
    torch.manual_seed(0)
    model = Of(
        lambda m, x: m.c(torch.relu(m.b(KNOWN[name](m.act(m.a(x)))))),
        a=nn.Conv2d(16, 256, 1), act=act, b=nn.LazyConv2d(256, 1), c=nn.Conv2d(256, 64, 1),
    )  # fmt: skip
    report = initialize_(model, torch.randn(8, 16, 16, 16))
    assert not any("not understood" in warning for warning in report.warnings)
    first, second, _ = report.weights
    assert second.input_rms == pytest.approx(second.measured_input_rms, rel=0.05)
    # at a place where little is left a gradient comes from all places before, which is not seen
    off = 0.3 if name == "decays by what is left" else 0.15
    assert first.gradient_rms == pytest.approx(first.measured_gradient_rms, rel=off)


@pytest.mark.parametrize("act", [nn.Identity(), nn.ReLU()])
@pytest.mark.parametrize("known", [by_kernels(BLUR, padding=1), lambda x: x @ BLOCKS])
def test_a_known_map_meets_what_it_is_made_of(known: Callable[..., Any], act: nn.Module) -> None:
    """As in unsharp masks: taken for independent, a third too large."""
    torch.manual_seed(0)
    model = Of(
        lambda m, x: m.b((h := act(m.a(x))) - known(h)),
        a=nn.Conv2d(16, 256, 1), b=nn.Conv2d(256, 9, 1),
    )  # fmt: skip
    last = initialize_(model, torch.randn(8, 16, 16, 16)).weights[-1]
    assert last.input_rms == pytest.approx(last.measured_input_rms, rel=0.02)


def test_constants_that_mix_units_and_positions_are_marked() -> None:
    torch.manual_seed(0)
    model = Of(
        lambda m, x: m.b(F.conv2d(F.relu(m.a(x)), m.kernel)),
        a=nn.Conv2d(16, 32, 1), kernel=nn.Buffer(torch.rand(32, 32, 3, 3)), b=nn.Conv2d(32, 9, 1),
    )  # fmt: skip
    last = initialize_(model, torch.randn(2, 16, 8, 8)).weights[-1]
    assert not last.exact
    assert "a map by constants" in last.note


def test_what_no_weight_has_met_is_measured() -> None:
    torch.manual_seed(0)
    cosines = torch.outer(torch.arange(64) + 0.5, torch.arange(64) * math.pi / 64).cos() / 32**0.5
    level = torch.linspace(-3, 300, 64)
    model = Of(
        lambda m, x: m.b(F.relu(m.a(((x * 40 + 100) @ cosines - level)[:, 3:60].clamp(-90)))),
        a=nn.Linear(57, 256),
        b=nn.Linear(256, 9),
    )
    first = initialize_(model, torch.randn(32, 64)).weights[0]
    assert first.exact
    assert first.input_rms == pytest.approx(first.measured_input_rms, rel=1e-5)


def test_sums_of_few_large_values_are_larger_at_some_positions() -> None:
    def shrunk(x: torch.Tensor, times: int) -> torch.Tensor:
        for _ in range(times):
            x = F.silu(x)
        return x

    torch.manual_seed(0)
    model = Of(
        lambda m, x: m.c(shrunk(m.b(shrunk(m.a(x), 6)), 4)),
        a=nn.Linear(64, 128), b=nn.Linear(128, 1024), c=nn.Linear(1024, 9),
    )  # fmt: skip
    last = initialize_(model, torch.randn(256, 64)).weights[-1]
    assert not last.exact
    assert last.input_rms == pytest.approx(last.measured_input_rms, rel=0.2)  # else a third off


@pytest.mark.parametrize("learned", [False, True])
def test_an_interpolation_is_a_sum_of_its_ends(learned: bool) -> None:
    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.full((256,), 0.4)) if learned else 0.4
            self.map = nn.Sequential(nn.Linear(256, 256), nn.LayerNorm(256))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.by * (self.map(x) - x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), *(Moved() for _ in range(6)), nn.Linear(256, 9))
    first = initialize_(model, torch.randn(64, 64)).weights[0]  # else 4 times too large
    assert first.gradient_rms == pytest.approx(first.measured_gradient_rms, rel=0.15)


def test_sums_over_positions_share_no_gradient_among_units() -> None:
    def mixed(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """As state-space models do: a few sums over all positions, and a mean of these."""
        h = m.first(x)
        return m.top(F.silu(m.inner(h.mT @ m.write(h) / 8)).mean(2))

    torch.manual_seed(0)
    sizes = {"first": (32, 256), "write": (256, 16), "top": (256, 64)}
    parts = {name: nn.Linear(*size) for name, size in sizes.items()}
    parts["inner"] = nn.Conv1d(256, 256, 1)
    report = initialize_(Of(mixed, **parts), torch.randn(8, 49, 32))
    for weight in report.weights[:2]:
        off = weight.gradient_rms / weight.measured_gradient_rms
        assert off == pytest.approx(1, rel=0.3)


def test_what_was_padded_is_padded_no_more_in_another_shape() -> None:
    def windows(x: torch.Tensor) -> torch.Tensor:
        padded = F.pad(F.relu(x), (0, 0, 0, 2, 0, 2)).reshape(-1, 2, 8, 2, 8, 64)
        return padded.transpose(2, 3).reshape(-1, 64, 64)

    torch.manual_seed(0)
    parts = {"a": nn.Linear(16, 64), "b": nn.Linear(64, 32)}
    model = Of(lambda m, x: m.b(windows(m.a(x))), **parts)
    last = initialize_(model, torch.randn(8, 14, 14, 16)).weights[-1]
    assert last.input_rms == pytest.approx(last.measured_input_rms, rel=0.05)


def test_bounds_that_are_tensors_may_be_infinite() -> None:
    torch.manual_seed(0)
    least, most = torch.tensor(-float("inf")), torch.tensor(0.5)
    model = Of(
        lambda m, x: m.b(torch.clamp(m.a(x), least, most)),
        a=nn.Linear(64, 512),
        b=nn.Linear(512, 9),
    )
    last = initialize_(model, torch.randn(64, 64)).weights[-1]
    assert last.exact
    assert last.input_rms == pytest.approx(last.measured_input_rms, rel=0.05)


def test_a_gate_may_interpolate_in_either_spelling() -> None:
    def cell(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        h = m.first(x)
        for gate, new in zip(m.gates, m.news, strict=True):
            n, z = torch.tanh(new(h)), torch.sigmoid(gate(h))
            h = n + z * (h - n)
        return m.last(h)

    def layers() -> nn.ModuleList:
        return nn.ModuleList(nn.Linear(256, 256) for _ in range(4))

    torch.manual_seed(0)
    parts = {"first": nn.Linear(64, 256), "last": nn.Linear(256, 9)}
    model = Of(cell, gates=layers(), news=layers(), **parts)
    weights = initialize_(model, torch.randn(64, 64)).weights
    assert weights[-1].input_rms == pytest.approx(weights[-1].measured_input_rms, rel=0.05)
    assert weights[0].gradient_rms == pytest.approx(weights[0].measured_gradient_rms, rel=0.2)
