"""Pages for a browser: of a table of gains, and of the report on a model's signals.

Each is one file that asks nothing of any network. What a page says is put together here; what it
looks like and does stands in ``templates/``.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gainreg import __version__
from gainreg.entry import to_dict
from gainreg.errors import GainregError, missing
from gainreg.host import host
from gainreg.params import called
from gainreg.resolver import known_at

if TYPE_CHECKING:
    from gainreg.bound import Bound
    from gainreg.entry import GainEntry
    from gainreg.schema import Listing
    from gainreg.signals.report import SignalReport
    from gainreg.table import GainTable

# Lines that set a layer's weights by its framework alone, and keep the forward variance.
CODE = {
    "PyTorch": "torch.nn.init.normal_(layer.weight, std={gain!r} / layer.weight[0].numel() ** 0.5)",
    "JAX": 'jax.nn.initializers.variance_scaling({square!r}, "fan_in", "normal")',
    "Keras": 'keras.initializers.VarianceScaling({square!r}, "fan_in", "untruncated_normal")',
}

# The stds of the curves, 8 a decade: moments are smooth in ln std on a scale of 1.
STDS = np.logspace(-2, 2, 33)
# Where φ is drawn. No node is a round number, as jumps are; what is cut off the corners of φ is
# smaller than a line is thick.
POINTS = np.linspace(-4, 4, 160)

# Rows beyond these have no curves, and say so. A row's take 5 kB and some milliseconds: those of
# the shipped table half a megabyte in all.
MOST_CURVES = 500


# --- the table ---


class Row(NamedTuple):
    """One activation with one choice of params."""

    title: str  # its name with them, as one writes it
    aliases: tuple[str, ...]
    family: str  # the plugin that declares it here; "" if none does
    formula: str  # its definition and paper; "" likewise
    entries: list[GainEntry]  # of the table, by std
    charts: list[Chart]
    note: str  # why something is missing


def table_page(table: GainTable, title: str) -> str:
    """The page of a table, with a row for each activation and choice of params.

    Formulas and curves are those of the activations that go by the table's names here.

    Raises:
        MissingPackageError: Jinja2 is not installed.
    """
    rows: list[Row] = []
    for name, listing in table.listings.items():
        rows.extend(_rows(name, listing, MOST_CURVES - len(rows)))
    rows.sort(key=lambda row: not row.entries)  # those without a number last
    stds = sorted({entry.std for entry in table})
    usual = min(stds, key=lambda std: abs(math.log(std)), default=1.0)
    return _render(
        "table.html", title=title, rows=rows, stds=stds, usual=usual, code=CODE, to_dict=to_dict
    )


def _rows(name: str, listing: Listing, curves: int) -> Iterator[Row]:
    """The rows of one activation; one without entries if it has none."""
    family, formula = "", ""
    with contextlib.suppress(GainregError):  # the table may be of plugins that are not here
        activation = host().activation(name)
        family, formula = host().owner(activation.name), activation.reference
    chosen: dict[str, list[GainEntry]] = {}
    for entry in listing.entries:
        chosen.setdefault(called(name, entry.params), []).append(entry)
    for i, (title, entries) in enumerate(chosen.items() or [(name, [])]):
        entries = sorted(entries, key=lambda entry: entry.std)
        charts: list[Chart] = []
        note = f"No curves: this table has more than {MOST_CURVES} rows."
        if not entries:
            needed = [key for key, default in listing.params.items() if default is None]
            note = "The table has no entry of it."
            if needed:
                note = f"The table has no entry of it: it has none without {', '.join(needed)}."
        elif i < curves:
            charts, note = _charts(entries)
        yield Row(title, listing.aliases, family, formula, entries, charts, note)


# --- curves ---


class Axis(NamedTuple):
    """An axis, of a logarithmic scale or not, and the numbers that stand at it."""

    label: str
    low: float
    high: float
    ticks: Sequence[float]
    is_log: bool = False

    def place(self, value: float) -> float:
        """Where a number stands: 0 is ``low``, 1 is ``high``, and what lies far outside stands
        a little outside.
        """
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return min(max((value - low) / (high - low), -0.5), 1.5)


Point = tuple[float, float | None]  # None where a line is interrupted


class Chart(NamedTuple):
    """Lines, and dots on some of them, by the lines' names; and a level to compare them with."""

    x: Axis
    y: Axis
    lines: Mapping[str, list[Point]]
    dots: Mapping[str, list[Point]]
    level: float | None = None


def _charts(entries: Sequence[GainEntry]) -> tuple[list[Chart], str]:
    """The curves of an activation with dots at its entries, and a note on what is missing."""
    name, params = entries[0].activation, entries[0].params
    try:
        bound = host().bind(name, params)
        found = [_shape(bound.gate, "φ in a·φ(b)")] if bound.gate else []
        found += [_shape(bound, "φ")] if bound.activation.forward is not None else []
        stds = np.union1d(STDS, [entry.std for entry in entries])
        curve = known_at(bound, stds)
    except GainregError as error:
        return [], f"No curves: {error}."
    gains = [entry.gain for entry in curve]
    std = Axis("std", stds[0], stds[-1], _round_numbers(stds[0], stds[-1]), is_log=True)
    low, high = max(min(gains), 1e-4) / 1.4, min(max(gains), 1e4) * 1.4
    gain = Axis("", low, high, _round_numbers(low, high), is_log=True)
    factor = Axis("", -0.25, 2.25, (0, 0.5, 1, 1.5, 2))
    for y, names, level in (
        (gain, ["gain"], None),
        (factor, ["variance_slope", "gradient_factor"], 1.0),
    ):
        lines, dots = (
            {
                key: [(entry.std, getattr(entry, key)) for entry in these]
                for key in names
                if any(getattr(entry, key) is not None for entry in (*curve, *entries))
            }
            for these in (curve, entries)
        )
        found.append(Chart(std, y, lines, dots, level))
    return found, ""


def _shape(bound: Bound, name: str) -> Chart:
    """φ, by the name that it has here, and φ′."""
    with np.errstate(all="ignore"):
        values, slopes = bound.forward(POINTS), bound.slope(POINTS)
    seen = np.clip([values, slopes], -5, 5)
    margin = 0.06 * max(np.ptp(seen), 1.0)
    low, high = float(seen.min() - margin), float(seen.max() + margin)
    ticks = [tick for tick in range(-5, 6) if low <= tick <= high]
    lines: dict[str, list[Point]] = {
        line: [(float(x), float(y)) for x, y in zip(POINTS, ys, strict=True)]
        for line, ys in ((name, values), ("φ′", slopes))
    }
    return Chart(Axis("x", -4, 4, (-4, -2, 0, 2, 4)), Axis("", low, high, ticks), lines, {})


def _round_numbers(low: float, high: float) -> list[float]:
    """Powers of ten between two numbers; multiples of them too, where those are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1.0,) if high > 100 * low else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    numbers = (digit * 10.0**power for power in powers for digit in digits)
    return [number for number in numbers if low <= number <= high]


# --- the report ---


def report_page(report: SignalReport, title: str = "Signals of a model") -> str:
    """The page of a report: its warnings, its picture, its weights and its parameters.

    Raises:
        MissingPackageError: Jinja2 or matplotlib is not installed.
    """
    return _render(
        "report.html",
        title=title,
        report=report,
        weights=list(zip(report.weights, report.marks(), strict=True)),
        picture=_picture(report) if report.weights else "",
        measured=any(weight.measured_input_rms is not None for weight in report.weights),
        counts=sorted(Counter(status for status, _ in report.parameters.values()).items()),
    )


def _picture(report: SignalReport) -> str:
    """The picture of a report, as SVG, in the page's own colours.

    Without its warnings, which the page has itself.
    """
    figure = report.plot()
    from gainreg.plot.look import BLACK, BLUE, GREEN, ORANGE, svg

    figure.supxlabel("")
    text = svg(figure)
    for color, name in (
        (BLACK, "currentColor"),
        (BLUE, "var(--line-0)"),
        (ORANGE, "var(--line-1)"),
        (GREEN, "var(--line-2)"),
    ):
        text = text.replace(color.lower(), name)
    return text


# --- both ---


def _render(template: str, **content: Any) -> str:
    try:
        import jinja2
    except ImportError as error:
        raise missing("gainreg.page", "jinja2", error) from error
    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,  # names, formulas and warnings are of plugins and models
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = _short
    return environment.get_template(template).render(version=__version__, **content)


def _short(value: float, digits: int = 5) -> str:
    """A number for the eye."""
    return f"{value:.{digits}g}"
