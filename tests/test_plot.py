"""What pictures hold: their lines, dots, marks and words. How they look is for eyes to judge."""

import base64
import dataclasses
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gainreg
from gainreg import Activation, GainEntry, ParameterError, TableError, UnknownActivationError
from gainreg.cli import main
from gainreg.signals.report import SignalReport, WeightReport

matplotlib = pytest.importorskip("matplotlib", reason="pictures need matplotlib")
matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from gainreg import plot  # noqa: E402
from gainreg.plot.look import LOOKS  # noqa: E402


@pytest.fixture(autouse=True)
def _no_figure_stays() -> Iterator[None]:
    yield
    pyplot.close("all")


def lines(ax: Axes) -> dict[str, np.ndarray]:
    """The points of each line that has a label, as an array of shape (2, points)."""
    named = [line for line in ax.lines if not str(line.get_label()).startswith("_")]
    return {str(line.get_label()): np.array(line.get_data(), dtype=float) for line in named}


def dots(ax: Axes) -> list[tuple[float, float]]:
    """Points that are drawn as marks, without a line."""
    marked = [line for line in ax.lines if line.get_linestyle() == "None"]
    return [point for line in marked for point in zip(*line.get_data(), strict=True)]


def words(ax: Axes) -> str:
    return " ".join(text.get_text() for text in ax.texts).replace("\n", " ")


# --- activations ---


def test_a_function_and_its_derivative_are_drawn_as_they_are() -> None:
    x, y = lines(plot.function("tanh"))["tanh"]
    assert (x.min(), x.max()) == pytest.approx((-4, 4), abs=1e-5)
    assert y == pytest.approx(np.tanh(x))
    x, y = lines(plot.derivative("tanh"))["tanh"]
    assert y == pytest.approx(1 - np.tanh(x) ** 2)
    x, y = lines(plot.derivative(lambda x: x**3))["<lambda>"]  # no derivative declared
    assert y == pytest.approx(3 * x**2, abs=1e-6)


def test_no_line_is_drawn_over_a_jump_and_kinks_are_in_the_picture() -> None:
    x, y = lines(plot.function("sign"))["sign"]
    assert np.isnan(y).sum() == 1
    assert set(y[~np.isnan(y)]) == {-1.0, 1.0}
    x, y = lines(plot.derivative("relu"))["relu"]
    assert np.isnan(y).sum() == 1
    x, y = lines(plot.function("relu6"))["relu6"]
    assert x.max() > 6
    assert not np.isnan(y).any()


def test_params_and_callables_may_be_drawn_and_are_named() -> None:
    ax = plot.function("elu", ("elu", {"alpha": 0.5}))
    assert list(lines(ax)) == ["elu", "elu(alpha=0.5)"]
    assert lines(ax)["elu(alpha=0.5)"][1].min() == pytest.approx(-0.5, abs=0.01)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["elu", "elu(alpha=0.5)"]


def test_of_a_gated_unit_the_gate_is_drawn_and_of_a_random_one_nothing() -> None:
    ax = plot.function("swiglu", "rrelu")
    x, y = lines(ax)["swiglu"]
    assert y == pytest.approx(x / (1 + np.exp(-x)))
    assert lines(ax)["rrelu"].size == 0
    assert "swiglu: a·φ(b), of which this is φ" in words(ax)
    assert "rrelu: random, or of more than one number" in words(ax)


@pytest.mark.parametrize("quantity", ["gain", "variance_slope", "gradient_factor"])
def test_over_std_the_curve_passes_through_the_tables_entries(quantity: str) -> None:
    ax = plot.over_std("gelu", quantity=quantity)
    std, y = lines(ax)["gelu"]
    assert (std[0], std[-1]) == pytest.approx((1e-2, 1e2))
    assert y == pytest.approx(getattr(gainreg.curve("gelu", std), quantity))
    shipped = gainreg.load_table().listings["gelu"].entries
    assert dots(ax) == [(entry.std, getattr(entry, quantity)) for entry in shipped]


def test_dots_are_those_of_the_table_and_of_the_params_only(tmp_path: Path) -> None:
    table = gainreg.build_table([("elu", {"alpha": 0.5})], stds=[0.1, 0.2, 0.4, 0.8, 1.6])
    table.write(tmp_path / "mine.yaml")
    for given in (table, tmp_path / "mine.yaml"):
        ax = plot.over_std(("elu", {"alpha": 0.5}), table=given)
        assert [std for std, _ in dots(ax)] == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert dots(plot.over_std("elu", table=table)) == []
    assert dots(plot.over_std(Activation("elu", np.abs))) == []  # not what the table calls elu
    with pytest.raises(TableError, match="nowhere"):
        plot.over_std("elu", table=tmp_path / "nowhere.yaml")


def test_what_has_no_gradient_factor_is_said_to_have_none() -> None:
    ax = plot.over_std("sign", "relu", quantity="gradient_factor")
    assert np.isnan(lines(ax)["sign"][1]).all()
    assert words(ax) == "sign: E[φ′²] does not exist or is not known"
    assert len(dots(ax)) == 3


def test_stds_without_a_gain_are_left_out() -> None:
    std, gain = lines(plot.over_std("exp"))["exp"]
    assert std.max() < 30
    assert np.isfinite(gain).all()


def test_the_correlation_map_is_that_of_gainreg() -> None:
    ax = plot.correlation("relu", "reglu", "rrelu", std=2.0)
    rho, behind = lines(ax)["relu"]
    assert behind == pytest.approx(gainreg.correlation("relu", rho, 2.0))
    assert lines(ax)["reglu"][1] == pytest.approx(rho * behind)
    assert np.isnan(lines(ax)["rrelu"][1]).all()
    assert "rrelu: not known" in words(ax)


def test_depth_is_a_median_in_a_band_that_narrows_with_the_width() -> None:
    def band(width: int) -> tuple[Axes, float]:
        ax = plot.depth("relu", width=width, layers=50)
        edges = ax.collections[0].get_paths()[0].vertices[:, 1]
        return ax, edges.max() / edges.min()

    ax, wide = band(100)
    assert lines(ax)["relu"].shape == (2, 51)
    assert "width 100" in ax.get_title(loc="left")
    assert wide > 1.5 * band(1000)[1]


def test_an_overview_has_a_line_an_activation_in_each_of_seven_panels() -> None:
    axes = plot.overview("relu", "gelu").axes
    drawn = [ax for ax in axes if ax.axison]
    assert len(drawn) == 7
    for ax in drawn:
        assert list(lines(ax)) == ["relu", "gelu"]
        assert ax.get_legend() is None
        assert ax.get_xlabel()
        assert ax.get_ylabel()
        assert ax.get_title(loc="left")
    (other,) = [ax for ax in axes if not ax.axison]
    assert [text.get_text() for text in other.get_legend().get_texts()] == ["relu", "gelu"]


def test_names_are_shown_as_they_are_written() -> None:
    def _mine(x: np.ndarray) -> np.ndarray:
        return x

    ax = plot.function(_mine, Activation("a$b$c", np.tanh))
    first, second = (text.get_text() for text in ax.get_legend().get_texts())
    assert "_mine" in first
    assert second == r"a\$b\$c"


def test_activations_differ_by_colour_line_and_mark_and_the_next_call_goes_on() -> None:
    for part in range(3):
        assert len({look[part] for look in LOOKS}) == len(LOOKS)
    ax = pyplot.subplots()[1]
    assert plot.function("relu", ax=ax) is ax
    plot.function("gelu", ax=ax)
    assert [line.get_color() for line in ax.lines] == [LOOKS[0].color, LOOKS[1].color]


@pytest.mark.parametrize(
    ("draw", "error", "sentence"),
    [
        (lambda: plot.function("gelo"), UnknownActivationError, "'gelo'"),
        (lambda: plot.function(("elu", 0.5)), ParameterError, "an activation is a name"),
        (lambda: plot.function(("elu", {"beta": 1})), ParameterError, "beta"),
        (lambda: plot.over_std("elu", quantity="mean"), ParameterError, "quantity is one of 'gain"),
        (lambda: plot.correlation("elu", std=0.0), ParameterError, "std must be above 0"),
        (lambda: plot.depth("elu", width=0), ParameterError, "width must be a whole number"),
        (lambda: plot.overview(), ParameterError, "name at least one activation"),
        (
            lambda: plot.overview(*["relu"] * 8),
            ParameterError,
            "holds 7 activations legibly, got 8",
        ),
        (
            lambda: plot.function("relu", ax=3),
            ParameterError,
            "ax must be matplotlib Axes, got int",
        ),
    ],
)
def test_bad_input_is_a_sentence(draw: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=re.escape(sentence)):
        draw()


# --- files and the command line ---


def test_the_command_writes_png_and_svg(tmp_path: Path) -> None:
    assert main(["plot", "elu", "relu", "-p", "alpha=0.5", "-o", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plot", "elu", "-p", "alpha=0.1,1", "-o", str(tmp_path / "both.svg")]) == 0
    assert "elu(alpha=0.1)" in (tmp_path / "both.svg").read_text()
    for name in ("a.svg", "b.SVG"):
        assert main(["plot", "relu", "-o", str(tmp_path / name)]) == 0
    assert "<svg" in (tmp_path / "a.svg").read_text()
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.SVG").read_bytes()


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("plot gelo -o x.png", "no activation is called 'gelo'"),
        ("plot gelu -o x.pdf", "a picture is written as .png or .svg, got 'x.pdf'"),
        ("plot gelu -o x", "a picture is written as .png or .svg, got 'x'"),
        ("plot gelu", "there is no screen to draw on; name a file, as in -o gelu.png"),
        ("plot gelu -o no/where/x.png", "cannot write 'no/where/x.png'"),
        ("plot gelu --width 0 -o x.png", "width must be a whole number above 0, got 0"),
        ("plot rectifiers -o x.png", "a picture holds 7 activations legibly"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(
    command: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert sentence in said
    assert not list(tmp_path.iterdir())


WITHOUT = "import sys; sys.modules['matplotlib'] = None\n"


def without_matplotlib(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code], capture_output=True, text=True, check=False
    )


def test_without_matplotlib_the_sentence_has_the_command_that_installs_it() -> None:
    done = without_matplotlib("from gainreg.cli import main; main(['plot', 'gelu', '-o', 'x.png'])")
    assert done.stderr.startswith("gainreg: gainreg.plot needs matplotlib")
    assert done.stderr.endswith("install it with: pip install --upgrade matplotlib\n")
    code = """
from gainreg import GainregError
from gainreg.signals.report import SignalReport
try:
    SignalReport((), {}, ()).plot()
except GainregError as error:
    print(isinstance(error, ImportError), error)
"""
    assert without_matplotlib(code).stdout.startswith("True gainreg.plot needs matplotlib")


# --- reports ---


def weight(i: int, **facts: Any) -> WeightReport:
    common: dict[str, Any] = {
        "name": f"blocks.{i // 4}.linear{i % 4}.weight", "operation": "linear", "fan_in": 64.0,
        "weight_std": 0.1, "fed_by": "gelu", "input_rms": 0.5, "output_rms": 1.0,
        "gradient_rms": 0.25, "spread": 0.1, "elements": 100, "correlation": 0.2, "exact": True,
        "note": "",
    }  # fmt: skip
    return WeightReport(**{**common, **facts})


def report_of(*weights: WeightReport, warnings: tuple[str, ...] = ()) -> SignalReport:
    return SignalReport(weights, {}, warnings)


def levels(points: np.ndarray) -> np.ndarray:
    """The height of each level line that is drawn, NaN for none."""
    return points[1].reshape(-1, 3)[:, 0]


@pytest.mark.parametrize("size", ["input", "output"])
def test_predicted_sizes_are_lines_and_measured_ones_dots(size: str) -> None:
    facts = [{f"{size}_rms": 1 + i / 10, f"measured_{size}_rms": 1 + i / 9} for i in range(12)]
    ax = plot.signal(report_of(*(weight(i, **fact) for i, fact in enumerate(facts))), size)
    assert levels(lines(ax)["predicted"]) == pytest.approx([1 + i / 10 for i in range(12)])
    assert lines(ax)["measured"][1] == pytest.approx([1 + i / 9 for i in range(12)])
    assert lines(ax)["measured"][0] == pytest.approx(range(1, 13))
    names = [text.get_text() for text in ax.get_xticklabels()]
    assert names == [f"blocks.{i // 4}.linear{i % 4}" for i in range(12)]


def test_gradients_are_norms_beside_the_last_weights() -> None:
    first = weight(0, gradient_rms=0.1, elements=400, measured_gradient_rms=0.2)
    last = weight(1, gradient_rms=0.5, elements=100, measured_gradient_rms=0.5)
    ax = plot.signal(report_of(first, last), "gradient")
    assert levels(lines(ax)["predicted"]) == pytest.approx([0.4, 1.0])
    assert lines(ax)["measured"][1] == pytest.approx([0.8, 1.0])


def test_the_band_is_two_spreads_each_way_and_does_not_set_the_frame() -> None:
    ax = plot.signal(report_of(weight(0, spread=0.1), weight(1, spread=5.0)))
    (band,) = [it for it in ax.collections if it.get_label() == "19 draws of 20"]
    edges = band.get_paths()[0].vertices
    first = edges[edges[:, 0] < 1.4][:, 1]
    assert (first.min(), first.max()) == pytest.approx((math.exp(-0.2), math.exp(0.2)))
    assert edges[:, 1].max() == pytest.approx(math.exp(10))
    assert ax.get_ylim()[1] <= 2


def test_a_spread_beyond_all_numbers_is_drawn_off_the_picture() -> None:
    plot.report(report_of(weight(0, spread=1e4, output_rms=1e30), weight(1, output_rms=1e-30)))


def test_what_was_not_measured_has_no_dots_and_what_is_zero_no_line() -> None:
    found = report_of(weight(0, output_rms=0.0), weight(1))
    ax = plot.signal(found)
    assert "measured" not in lines(ax)
    assert levels(lines(ax)["predicted"]) == pytest.approx([math.nan, 1.0], nan_ok=True)


def test_residual_streams_are_a_ground_and_a_line() -> None:
    inside = [weight(i, stream=1, stream_rms=1.1 + i // 2 / 10) for i in range(4)]
    other = [weight(4), weight(5, stream=2, stream_rms=1.4)]
    ax = plot.signal(report_of(*inside, *other))
    rms = levels(lines(ax)["residual stream"])
    assert rms == pytest.approx([1.1, 1.1, 1.2, 1.2, math.nan, 1.4], nan_ok=True)
    grounds = [patch.get_extents() for patch in ax.patches]
    ends = [ax.transData.inverted().transform(box)[:, 0] for box in grounds]
    assert [tuple(end) for end in ends] == [pytest.approx((0.5, 4.5)), pytest.approx((5.5, 6.5))]


def test_warnings_are_marked_over_the_weights_that_show_them() -> None:
    found = report_of(
        weight(0, input_rms=20.0, gradient_rms=100.0),
        weight(1, input_rms=0.01, correlation=0.99, exact=False),
        weight(2, measured_input_rms=math.inf, gradient_rms=1e-9),
        weight(3),
        warnings=("the signal grows: so it does", "another"),
    )
    figure = plot.report(found)
    fed, out, gradient = (lines(ax) for ax in figure.axes)
    assert fed["grows"][0] == [1]
    assert fed["dies out"][0] == [2]
    assert fed["not finite"][0] == [3]
    assert out["samples become alike"][0] == [2]
    assert np.isnan(levels(out["approximate"])).tolist() == [True, False, True, True]
    assert gradient["grows"][0] == [1]
    assert gradient["dies out"][0] == [3]
    assert figure.get_supxlabel() == "! the signal grows: so it does\n! another"
    assert found.marks() == ["↑", "↓=~", "↓", ""]


def test_of_five_hundred_weights_the_blocks_are_named_and_few_warnings_are_written() -> None:
    found = report_of(*(weight(i) for i in range(500)), warnings=tuple(map(str, range(20))))
    figure = plot.report(found)
    ticks = [text.get_text() for text in figure.axes[2].get_xticklabels()]
    assert 16 <= len(ticks) <= 32
    assert ticks[:2] == ["blocks.0", "blocks.4"]
    assert figure.get_supxlabel().endswith("and 14 more warnings, which the report names")


def test_a_report_is_written_and_drawn_on_axes_of_ones_own(tmp_path: Path) -> None:
    found = report_of(weight(0), weight(1))
    found.plot(tmp_path / "signals.png")
    assert (tmp_path / "signals.png").read_bytes().startswith(b"\x89PNG")
    figure, axes = pyplot.subplots(3)
    assert found.plot(axes=list(axes)) is figure
    assert all("predicted" in lines(ax) for ax in axes)
    with pytest.raises(ParameterError, match=r"drawn on 3 axes, got 2"):
        found.plot(axes=list(axes[:2]))
    with pytest.raises(ParameterError, match=r"\.png or \.svg, got '.*signals\.jpg'"):
        found.plot(tmp_path / "signals.jpg")
    with pytest.raises(ParameterError, match="no weights"):
        report_of().plot()
    with pytest.raises(ParameterError, match="size is one of 'input', 'output', 'gradient'"):
        plot.signal(found, "spread")


# --- notebooks ---


def pictures(html: str) -> list[bytes]:
    return [base64.b64decode(data) for data in re.findall(r'base64,([^"]*)"', html)]


def test_entries_curves_tables_and_reports_show_numbers_and_a_picture() -> None:
    for shown, number in (
        (gainreg.resolve("elu"), "1.2451983007007066"),
        (gainreg.curve("elu", [0.5, 1.0]), "1.2452"),
        (gainreg.build_table(["elu", "gelu"]), "1.2452"),
        (gainreg.load_table(), "1.2452"),
        (report_of(weight(0), weight(1), warnings=("x < y",)), "x &lt; y"),
    ):
        html = shown._repr_html_()  # type: ignore[attr-defined]
        assert number in html
        (picture,) = pictures(html)
        assert picture.startswith(b"\x89PNG")


def test_an_entry_is_ringed_on_its_curve() -> None:
    axes = plot.entry(gainreg.resolve("tanh", std=3.0)).axes
    assert [dots(ax)[-1][0] for ax in axes[1:]] == [3.0] * 3


def test_a_chart_has_a_dot_for_each_number_of_a_table() -> None:
    table = gainreg.load_table()
    gain, slope, factor = plot.chart(table).axes
    assert len(dots(gain)) == len(dots(slope)) == len(table)
    assert len(dots(factor)) == sum(entry.gradient_factor is not None for entry in table)
    rows = [text.get_text() for text in gain.get_yticklabels()]
    assert rows == [name for name, listing in table.listings.items() if listing.entries]


def test_an_entry_of_an_activation_not_known_here_has_its_numbers_and_no_picture() -> None:
    entry = dataclasses.replace(gainreg.resolve("elu"), activation="theirs")
    assert isinstance(entry, GainEntry)
    html = entry._repr_html_()
    assert "theirs" in html
    assert pictures(html) == []


def test_of_a_large_table_only_the_first_rows_are_shown() -> None:
    html = gainreg.curve("relu", np.linspace(0.5, 2, 1000))._repr_html_()
    assert html.count("<tr>") == 301
    assert "and 700 more" in html


def test_no_number_needs_matplotlib() -> None:
    code = "import gainreg; print(gainreg.load_table().lookup('elu')._repr_html_())"
    html = without_matplotlib(code).stdout
    assert "1.2451983007007066" in html
    assert "<img" not in html
    code = "import gainreg, sys; gainreg.resolve('elu'); print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
