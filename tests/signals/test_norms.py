"""A norm that is written out is the norm: the same plan and prediction as of PyTorch's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch", reason="the models are PyTorch's")
from networks import Of  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from gainreg.adapters.torch import measure, plan  # noqa: E402

F = nn.functional
EPSILON = 1e-3
Norm = Callable[[Tensor, Tensor, Tensor], Tensor]


def by_moments(x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and variance, the latter from the mean square."""
    mean = x.mean(axes, keepdim=True)
    return mean, x.square().mean(axes, keepdim=True) - mean.square()


def of_tokens(g: Tensor) -> Tensor:
    return g


def of_channels(g: Tensor) -> Tensor:
    return g[:, None, None]


def layer_one(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + EPSILON).sqrt() * g + b


def layer_two(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
    mean, variance = by_moments(x, (-1,))
    scaled = (variance + EPSILON).rsqrt() * g
    return x * scaled + (b - mean * scaled)


def layer_three(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, -1, keepdim=True, unbiased=False)
    return b + g * ((x - mean) * torch.pow(variance + EPSILON, -0.5))


def batch_one(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
    mean, variance = by_moments(x, (0, 2, 3))
    centred = x.subtract(mean).mul_(variance.add(EPSILON).rsqrt_().mul(of_channels(g)))
    return centred.add_(of_channels(b))


def batch_two(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
    """Without a scale, which is written as ones."""
    mean, variance = by_moments(x, (0, 2, 3))
    return (x - mean) * ((variance + EPSILON).rsqrt() * torch.ones(32, 1, 1)) + of_channels(b)


def group_one(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
    parted = x.reshape(x.shape[0], 4, -1, *x.shape[2:])
    mean, variance = by_moments(parted, (2, 3, 4))
    inverse = (variance + EPSILON).rsqrt() * g.reshape(4, -1, 1, 1)
    y = parted * inverse + (b.reshape(4, -1, 1, 1) - mean * inverse)
    return y.reshape(x.shape)


def rms_one(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
    return g * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON))


def rms_two(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
    return x / ((x * x).sum(-1, keepdim=True) / x.shape[-1] + EPSILON).sqrt() * g


def layer(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], g, b, EPSILON)


def batch(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, g, b, training=True, eps=EPSILON)


def batch_unscaled(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, None, b, training=True, eps=EPSILON)


def group(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
    return F.group_norm(x, 4, g, b, EPSILON)


def rms(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], g, EPSILON)


def model(norm: Norm, images: bool, scales: bool) -> nn.Module:
    """A layer, a residual branch that begins and ends with a norm, and a layer."""
    torch.manual_seed(0)

    def weight() -> nn.Module:
        return nn.Conv2d(32, 32, 3, padding=1) if images else nn.Linear(32, 32)

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = torch.relu(m.stem(x))
        x = x + norm(m.inner(norm(x, m.g, m.b)), m.g2, m.b2)
        return m.head(torch.relu(x))

    def numbers(near: float) -> nn.Parameter:
        return nn.Parameter(near + 0.3 * scales * torch.randn(32))

    parts = {"stem": weight(), "inner": weight(), "head": weight()}
    return Of(forward, **parts, g=numbers(1), b=numbers(0), g2=numbers(1), b2=numbers(0))


PAIRS: list[tuple[Norm, Norm]] = [
    (layer_one, layer), (layer_two, layer), (layer_three, layer), (batch_one, batch),
    (batch_two, batch_unscaled), (group_one, group), (rms_one, rms), (rms_two, rms),
]  # fmt: skip


@pytest.mark.parametrize("scales", [False, True])
@pytest.mark.parametrize(("written", "whole"), PAIRS)
def test_a_norm_written_out_is_the_norm(written: Norm, whole: Norm, scales: bool) -> None:
    images = whole in (batch, batch_unscaled, group)
    x = torch.randn(4, 32, 6, 6) if images else torch.randn(4, 6, 32)
    made, wanted = (plan(model(norm, images, scales), x) for norm in (written, whole))
    assert [w.std for w in made.weights] == pytest.approx([w.std for w in wanted.weights], rel=1e-9)
    assert made.parameters == wanted.parameters
    assert made.warnings == wanted.warnings
    ours, theirs = (measure(model(norm, images, scales), x).weights for norm in (written, whole))
    for one, other in zip(ours, theirs, strict=True):
        assert one.gradient_rms == pytest.approx(other.gradient_rms, rel=1e-9)


def test_what_only_looks_like_a_norm_is_none() -> None:
    def centred(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True)

    def halves(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1)

    for other in (centred, halves):
        made = Of(
            lambda m, x, f=other: m.head(f(m.stem(x), x, x)),
            stem=nn.Linear(32, 32),
            head=nn.Linear(32, 32),
        )
        assert "norm" not in plan(made, torch.randn(4, 6, 32)).weights[1].fed_by
