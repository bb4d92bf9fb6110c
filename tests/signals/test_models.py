"""Whole PyTorch models: all that a model may do, and what is found, set and reported."""

import math
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional
nn = torch.nn

from networks import (  # noqa: E402
    WIDTH,
    Attention,
    Mixer,
    Of,
    Residual,
    ResNet,
    UNet,
    between,
    images,
    rows,
    tokens,
)
from torch.nn.utils import parametrizations  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from gainreg.adapters.torch import initialize_, plan  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's own, of lazy layers and encoders


class Straight(torch.autograd.Function):
    """A function with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * x.sin()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def as_long_as(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = m.first(x)
    for _ in range(3 if float(x.detach().sum()) > 0 else 4):
        x = m.again(torch.tanh(x))
    return x


def in_parts(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = m.before(x)
    whole = x.new_empty(x.shape[0], 2 * WIDTH)
    whole[:, :WIDTH] = torch.relu(x)
    whole[:, WIDTH:] = torch.tanh(x)
    return m.after(whole)


def standardised(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    weight = m.weight - m.weight.mean(1, keepdim=True)
    weight = m.gain * weight / (weight.std(1, keepdim=True) * math.sqrt(WIDTH))
    return m.after(torch.relu(F.linear(x, weight)))


def experts(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    share = torch.softmax(m.router(x), -1)
    hidden = torch.relu(torch.einsum("bi,eio->beo", x, m.up))
    mixed = torch.einsum("beo,eod->bed", hidden, m.down) * share[..., None]
    return m.head(mixed.sum(1))


def linear_attention(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    q, k, v = m.q(x), m.k(x), m.v(x)
    return m.out(F.elu(q) @ (F.elu(k).transpose(1, 2) @ v) / 16)


def layers(*names: str, width: int = WIDTH) -> dict[str, nn.Module]:
    return {name: nn.Linear(WIDTH, width) for name in names}


def tied() -> tuple[nn.Module, Any]:
    table, head = nn.Embedding(500, WIDTH), nn.Linear(WIDTH, 500, bias=False)
    head.weight = table.weight
    model = Of(
        lambda m, i: m.head(m.norm(m.inner(torch.relu(m.table(i))))),
        table=table,
        head=head,
        inner=nn.Linear(WIDTH, WIDTH),
        norm=nn.LayerNorm(WIDTH),
    )
    return model, torch.randint(0, 500, (8, 12))


ENCODER = {"nhead": 4, "dim_feedforward": 512, "batch_first": True}

MODELS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "a loop that depends on data": lambda: (Of(as_long_as, **layers("first", "again")), rows()),
    "a module used twice": lambda: (
        Of(lambda m, x: m.a(torch.relu(m.a(x))), **layers("a")),
        rows(),
    ),
    "bare parameters and einsum": lambda: (
        Of(
            lambda m, x: torch.einsum("bi,oi->bo", torch.relu(x @ m.a), m.b),
            a=nn.Parameter(torch.randn(WIDTH, WIDTH)),
            b=nn.Parameter(torch.randn(64, WIDTH)),
        ),
        rows(),
    ),
    "attention to another sequence": lambda: (
        Of(
            lambda m, x, y: m.a(x, y, y)[0],
            a=nn.MultiheadAttention(WIDTH, 4, batch_first=True, kdim=128, vdim=128),
        ),
        (tokens(), torch.randn(8, 20, 128)),
    ),
    "attention that shows its weights": lambda: (
        Of(
            lambda m, x: m.a(x, x, x, need_weights=True)[0],
            a=nn.MultiheadAttention(WIDTH, 4, batch_first=True),
        ),
        tokens(),
    ),
    "fused causal attention": lambda: (Attention(), tokens()),
    "attention written out": lambda: (Attention(fused=False), tokens()),
    "linear attention": lambda: (
        Of(linear_attention, **layers("q", "k", "v", "out")),
        tokens(),
    ),
    "an encoder": lambda: (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, norm_first=True, **ENCODER), 2),
        tokens(),
    ),
    "an encoder in evaluation": lambda: (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, **ENCODER), 2).eval(),
        tokens(),
    ),
    "a transformer": lambda: (
        nn.Transformer(WIDTH, 4, 1, 1, 512, batch_first=True),
        (tokens(), tokens()),
    ),
    "lazy layers": lambda: (
        nn.Sequential(nn.LazyConv2d(64, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(64)),
        images(),
    ),
    "checkpointing": lambda: (
        Of(
            lambda m, x: m.b(checkpoint(lambda y: torch.relu(m.a(y)), x, use_reentrant=False)),
            **layers("a", "b"),
        ),
        rows(),
    ),
    "in place": lambda: (
        nn.Sequential(
            nn.Linear(WIDTH, WIDTH),
            nn.ReLU(inplace=True),
            nn.Linear(WIDTH, WIDTH),
            nn.SiLU(inplace=True),
            nn.Dropout(0.1, inplace=True),
            nn.Linear(WIDTH, 64),
        ),
        rows(),
    ),
    "written in parts": lambda: (
        Of(in_parts, before=nn.Linear(WIDTH, WIDTH), after=nn.Linear(2 * WIDTH, 64)),
        rows(),
    ),
    "weight norm": lambda: (
        nn.Sequential(
            parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)), nn.ReLU(), nn.Linear(WIDTH, 64)
        ),
        rows(),
    ),
    "spectral norm": lambda: (
        nn.Sequential(
            parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)), nn.ReLU(), nn.Linear(WIDTH, 64)
        ),
        rows(),
    ),
    "standardised weights": lambda: (
        Of(
            standardised,
            weight=nn.Parameter(torch.randn(WIDTH, WIDTH)),
            gain=nn.Parameter(torch.ones(WIDTH, 1)),
            after=nn.Linear(WIDTH, 64),
        ),
        rows(),
    ),
    "a decoder of transposed convolutions": lambda: (
        nn.Sequential(
            nn.ConvTranspose2d(64, 64, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 64, 3, 2, 1, output_padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 3, 3, padding=1),
        ),
        images(64, 4),
    ),
    "depthwise and grouped": lambda: (
        nn.Sequential(
            nn.Conv2d(128, 128, 3, padding=1, groups=4),
            nn.SiLU(),
            nn.Conv2d(128, 128, 3, padding=1, groups=128),
            nn.SiLU(),
            nn.Conv2d(128, 64, 1),
        ),
        images(128, 8),
    ),
    "a tied head": tied,
    "an LSTM": lambda: (
        Of(
            lambda m, x: m.b(m.a(x)[0]),
            a=nn.LSTM(WIDTH, WIDTH, batch_first=True),
            b=nn.Linear(WIDTH, 64),
        ),
        tokens(),
    ),
    "gated halves": lambda: (
        nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GLU(), nn.Linear(WIDTH, 64)),
        rows(),
    ),
    "SwiGLU": lambda: (
        Of(lambda m, x: m.c(F.silu(m.a(x)) * m.b(x)), **layers("a", "b", "c")),
        rows(),
    ),
    "experts": lambda: (
        Of(
            experts,
            router=nn.Linear(WIDTH, 4),
            up=nn.Parameter(torch.randn(4, WIDTH, WIDTH)),
            down=nn.Parameter(torch.randn(4, WIDTH, WIDTH)),
            head=nn.Linear(WIDTH, 64),
        ),
        rows(),
    ),
    "a gradient of its own": lambda: (between(Straight.apply), rows()),
    "a bag of tokens": lambda: (
        nn.Sequential(nn.EmbeddingBag(500, WIDTH), nn.Linear(WIDTH, 64)),
        torch.randint(0, 500, (16, 5)),
    ),
    "a PReLU": lambda: (
        nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.PReLU(), nn.Linear(WIDTH, 64)),
        rows(),
    ),
    "a mixer": lambda: (Mixer(), torch.randn(8, 32, 48)),
    "a U-Net": lambda: (UNet(), images(3, 16)),
    "a ResNet": lambda: (ResNet(), torch.randn(8, 3, 64, 64)),
}


# keys and queries whose units all have a mean, which the products then have in common
APPROXIMATE = {"linear attention": 0.2}


@pytest.mark.parametrize("name", MODELS)
def test_what_feeds_each_weight_is_predicted(name: str) -> None:
    torch.manual_seed(1)
    model, args = MODELS[name]()
    report = initialize_(model, args)
    assert report.weights
    for weight in report.weights:
        if weight.measured_input_rms is not None:
            off = math.log(weight.input_rms / weight.measured_input_rms)
            least = 0.03 if weight.exact else APPROXIMATE.get(name, 0.1)
            assert abs(off) < max(least, 3 * weight.spread), (weight.name, weight.input_rms, off)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_accounted_for(name: str) -> None:
    torch.manual_seed(1)
    model, args = MODELS[name]()
    report = initialize_(model, args)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert sorted(report.parameters) == sorted(names)
    for status, reason in report.parameters.values():
        assert status in ("set", "zeroed", "kept", "tied", "unreached")
        assert reason


@pytest.mark.parametrize(
    ("name", "status", "part"),
    [
        ("weight norm", "kept", "parametrizations.weight.original1"),
        ("standardised weights", "kept", "weight"),
        ("an LSTM", "kept", "a.weight_ih_l0"),
        ("a tied head", "tied", "head.weight"),
        ("a tied head", "set", "table.weight"),
        ("a PReLU", "kept", "1.weight"),
        ("experts", "set", "up"),
    ],
)
def test_what_is_not_set_has_a_reason(name: str, status: str, part: str) -> None:
    model, args = MODELS[name]()
    found = initialize_(model, args).parameters
    assert status in {now for full, (now, _) in found.items() if full.endswith(part)}


# --- residual streams ---


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("branches", [8, 48, 96])
def test_a_stream_and_its_gradient_stay_level_at_any_depth(branches: int, norm: bool) -> None:
    torch.manual_seed(0)
    model = Residual(branches, norm)
    x = torch.randn(256, 128)
    report = initialize_(model, x)
    assert 0.8 < float(model(x).var() / x.var()) < 2.9
    firsts = report.weights[::2]
    assert firsts[0].measured_gradient_rms / firsts[-1].measured_gradient_rms < 4
    assert firsts[0].gradient_rms == pytest.approx(firsts[0].measured_gradient_rms, rel=0.25)


def test_what_arrives_at_the_sum_counts_where_a_branch_goes_on() -> None:
    torch.manual_seed(0)
    parts = nn.ModuleList(
        nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
        for _ in range(16)
    )

    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        for part in m.parts:
            x = x + 0.5 * part(x)
        return x

    model, x = Of(forward, parts=parts), torch.randn(64, 512)
    initialize_(model, x)
    assert float(model(x).square().mean()) == pytest.approx(2.0, rel=0.15)


def test_neither_a_written_out_gelu_nor_rotary_embeddings_are_a_residual() -> None:
    def gelu(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    reasons = plan(between(gelu), rows()).parameters
    assert not any("residual" in reason for _, reason in reasons.values())
    assert not any(
        "residual" in reason for _, reason in plan(Attention(), tokens()).parameters.values()
    )
    fed = plan(between(gelu), rows()).weights[-1].fed_by
    assert fed == "gelu_tanh at std 1"


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_two_constants_of_one_size_are_two_and_one_taken_off_again_is_gone(device: str) -> None:
    first = torch.linspace(-1, 1, WIDTH, device=device)
    second = first.flip(0)

    def last_std(function: Any) -> float:
        model = Of(lambda m, x: m.b(function(m.a(x))), **layers("a", "b")).to(device)
        return plan(model, rows().to(device)).weights[-1].std

    plain = last_std(lambda x: x)
    assert last_std(lambda x: x + first - first) == pytest.approx(plain)
    assert last_std(lambda x: x + first - second) < 0.9 * plain


def test_a_branch_that_ends_in_a_norm_is_named() -> None:
    assert any("end in a norm" in line for line in plan(ResNet(), images(3, 64)).warnings)


# --- attention, outputs, calibration ---


def test_attention_on_random_tokens_is_no_average_of_independent_values() -> None:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(WIDTH, norm_first=True, dropout=0.0, **ENCODER)
    table = nn.Embedding(1000, WIDTH)
    model = Of(lambda m, i: m.block(m.table(i) + 1.0), table=table, block=block)
    report = initialize_(model, torch.randint(0, 1000, (8, 64)))
    out = next(w for w in report.weights if "out_proj" in w.name)
    assert out.input_rms == pytest.approx(out.measured_input_rms, rel=0.05)


def test_weights_behind_attention_count_the_values() -> None:
    found = {w.name: w for w in plan(Attention(), tokens()).weights}
    assert found["out.weight"].std == pytest.approx(1 / math.sqrt(WIDTH))


def test_a_tied_table_is_what_the_output_needs() -> None:
    torch.manual_seed(0)
    model, i = tied()
    report = initialize_(model, i)
    assert float(model(i).std()) == pytest.approx(1, rel=0.1)
    assert report.parameters["head.weight"][0] == "tied"


@pytest.mark.parametrize("activation", [nn.GELU, nn.Tanh])
def test_critical_weights_keep_signals_and_gradients_level(activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    layers = [m for _ in range(30) for m in (nn.Linear(512, 512), activation())]
    report = initialize_(nn.Sequential(*layers), torch.randn(64, 512), criterion="critical")
    first, last = report.weights[1], report.weights[-2]
    assert first.output_rms == pytest.approx(1.8872 if activation is nn.GELU else 1.0, rel=0.02)
    # half-stable: what one draw loses does not come back, nor does it go on
    assert abs(math.log(last.measured_output_rms / first.measured_output_rms)) < 0.6
    assert first.measured_gradient_rms == pytest.approx(last.measured_gradient_rms, rel=0.3)
    statuses = {status for name, (status, _) in report.parameters.items() if "bias" in name}
    assert statuses == {"set", "zeroed"}  # the first layer's input is data
