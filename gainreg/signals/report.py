"""SignalReport: what was predicted of a model's signals, beside what was measured."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gainreg import document
from gainreg.errors import ParameterError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The marks of str(report). A signal is said to grow or to die where it is a factor 10 larger or
# smaller than 1, what every weight aims at; samples to collapse where two have 95 % in common.
GROWN, SHRUNK, ALIKE = 10.0, 0.1, 0.95

# Likewise of the norm of the gradient by a weight's output, beside that by the last weight's.
# Within one branch of a stream of 100 it is a tenth, and not dying.
MORE, LESS = 10.0, 0.01


@dataclass(frozen=True)
class WeightReport:
    """A weight at its first use; all sizes are root mean squares.

    Attributes:
        name: of the parameter.
        operation: what it is used in.
        fan_in: inputs that an output sums over, as far as they lie inside the padding.
        weight_std: of the weight: to be set, or as it is.
        fed_by: what feeds it.
        input_rms, output_rms: predicted of what feeds it and of its output.
        gradient_rms: predicted of its output, that by the model's output being 1.
        spread: standard deviation of ln rms that is to be expected at this width.
        elements: of its output.
        correlation: of its output, across samples.
        exact: whether nothing on the way was an approximation.
        note: what was, or what else is to be said.
        gradient_note: what was an approximation on the gradient's way back; empty if nothing.
        measured_input_rms, measured_output_rms, measured_gradient_rms: None if not measured.
        stream: the residual stream, numbered from 1 in order of first use, whose branch it is on,
            the innermost if several; 0 if on none.
        stream_rms: predicted of that stream where the branch has been added to it; None if on none.
    """

    name: str
    operation: str
    fan_in: float
    weight_std: float
    fed_by: str
    input_rms: float
    output_rms: float
    gradient_rms: float
    spread: float
    elements: int
    correlation: float
    exact: bool
    note: str
    gradient_note: str = ""
    measured_input_rms: float | None = None
    measured_output_rms: float | None = None
    measured_gradient_rms: float | None = None
    stream: int = 0
    stream_rms: float | None = None


@dataclass(frozen=True)
class SignalReport:
    """A model's signals.

    Attributes:
        weights: in order of first use.
        parameters: name → (status, reason).
        warnings: sentences.
    """

    weights: tuple[WeightReport, ...]
    parameters: Mapping[str, tuple[str, str]]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            "weights": [asdict(weight) for weight in self.weights],
            "parameters": {name: list(item) for name, item in self.parameters.items()},
            "warnings": list(self.warnings),
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON.

        Raises:
            ParameterError: the file cannot be written.
        """
        document.write(path, json.dumps(self.to_dict(), indent=1) + "\n", ParameterError)

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the report as a page for a browser: one file, which loads nothing from elsewhere.

        Raises:
            ParameterError: the file cannot be written.
            MissingPackageError: Jinja2 or matplotlib is not installed, which the extra ``page``
                brings.
        """
        from gainreg.page import report_page

        document.write(path, report_page(self), ParameterError)

    def plot(
        self, path: str | os.PathLike[str] | None = None, *, axes: Sequence[Axes] | None = None
    ) -> Figure:
        """Draw the sizes through the model: what feeds each weight and what comes out of it above,
        the gradient below; predicted and measured, with what is to be expected as a band.

        Needs matplotlib, ``pip install 'gainreg[plot]'``. See ``gainreg.plot.signal``.

        Args:
            path: a .png or .svg to write; None to write none.
            axes: three to draw on, from top to bottom; None for a figure of its own.

        Raises:
            MissingPackageError: matplotlib is not installed.
            ParameterError: the path has another suffix or cannot be written; there are not three
                axes; or the report has no weights.
        """
        from gainreg.plot import look, reports

        figure = reports.report(self, axes)
        if path is not None:
            look.save(figure, path)
        return figure

    def _repr_html_(self) -> str:
        from gainreg import notebook

        return notebook.report(self)

    def marks(self) -> list[str]:
        """Of each weight: ↑ the signal or its gradient grows, ↓ it dies out, = samples become
        alike, ~ something on the way was an approximation."""
        found = []
        for weight, gradient in zip(self.weights, norms(self.weights), strict=True):
            trends = trend(weight.input_rms, SHRUNK, GROWN) + trend(gradient, LESS, MORE)
            marks = "".join(sign for sign in "↑↓" if sign in trends)
            marks += "=" if weight.correlation > ALIKE else ""
            found.append(marks + ("" if weight.exact else "~"))
        return found

    def rows(self) -> tuple[str, list[tuple[str, ...]]]:
        """The weights as text: a title, and rows of cells of which the first is the head."""
        measured = any(weight.measured_input_rms is not None for weight in self.weights)
        pair = "predicted/measured" if measured else "predicted"
        title = f"rms {pair}; ↑ grows, ↓ dies out, = samples become alike, ~ approximate"
        pairs = zip(self.weights, self.marks(), strict=True)
        rows = [_row(weight, marks, measured) for weight, marks in pairs]
        return title, [("weight", "fed by", "std", "in", "out", "gradient", ""), *rows]

    def __str__(self) -> str:
        title, rows = self.rows()
        widths = [min(34, max(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
        lines = [title]
        for row in rows:
            cells = [
                _short(cell, width).ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        counts = Counter(status for status, _ in self.parameters.values())
        total = sum(counts.values())
        told = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
        lines.append(f"{total} parameters: {told}")
        lines += [f"! {sentence}" for sentence in self.warnings]
        return "\n".join(lines)


def _row(weight: WeightReport, marks: str, measured: bool) -> tuple[str, ...]:
    def cell(predicted: float, found: float | None) -> str:
        if not measured:
            return f"{predicted:.3g}"
        return f"{predicted:.3g}/" + ("–" if found is None else f"{found:.3g}")

    return (
        weight.name,
        weight.fed_by,
        f"{weight.weight_std:.3g}",
        cell(weight.input_rms, weight.measured_input_rms),
        cell(weight.output_rms, weight.measured_output_rms),
        cell(weight.gradient_rms, weight.measured_gradient_rms) + "~" * bool(weight.gradient_note),
        marks,
    )


def trend(size: float, low: float, high: float) -> str:
    """The mark of a size that grows or dies out: above ``high`` ↑, below ``low`` ↓."""
    return "↑" if size > high else "↓" if size < low else ""


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def norms(weights: tuple[WeightReport, ...]) -> list[float]:
    """Norms of the gradients by the weights' outputs, that of the last weight being 1."""
    sizes = [weight.gradient_rms * math.sqrt(weight.elements) for weight in weights]
    last = sizes[-1] if sizes and sizes[-1] > 0 else 1.0
    return [size / last for size in sizes]


def tendencies(weights: tuple[WeightReport, ...]) -> list[str]:
    """Sentences on what grows, dies out or collapses, each with the first weight that shows it."""
    found: list[str] = []
    pairs = list(zip(weights, norms(weights), strict=True))
    for hits, what in (
        (
            [w for w in weights if not math.isfinite(w.measured_input_rms or 0.0)],
            "the measured signal is not finite: its rms is {0.measured_input_rms}",
        ),
        (
            [w for w in weights if w.input_rms > GROWN],
            "the signal grows: it reaches rms {0.input_rms:.3g}",
        ),
        (
            [w for w in weights if w.input_rms < SHRUNK],
            "the signal dies out: it falls to rms {0.input_rms:.3g}",
        ),
        (
            [w for w, gradient in pairs if gradient > MORE],
            "the gradient grows, going back: it is {0.gradient_rms:.3g} of the output's",
        ),
        (
            [w for w, gradient in pairs if gradient < LESS],
            "the gradient dies out, going back: it is {0.gradient_rms:.3g} of the output's",
        ),
        (
            [w for w in weights if w.correlation > ALIKE],
            "samples become alike: two have a correlation of {0.correlation:.3g}",
        ),
    ):
        if hits:
            more = f", and at {len(hits) - 1} more weights" if len(hits) > 1 else ""
            found.append(f"{what.format(hits[0])} at {hits[0].name}{more}")
    return found
