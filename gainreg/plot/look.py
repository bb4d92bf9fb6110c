"""The look that all pictures share, their axes, and their files.

Colours are those of Okabe and Ito (2008), which the colour-blind tell apart; what differs by colour
differs by line or marker as well, so that print in grey will do.
"""

from __future__ import annotations

import io
import math
import os
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from gainreg.errors import ParameterError, missing

try:
    import matplotlib
    from matplotlib import pyplot
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
except ImportError as error:
    raise missing("gainreg.plot", "matplotlib", error) from error


class Look(NamedTuple):
    """How one of several activations is drawn."""

    color: str
    line: Any
    marker: str


BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
YELLOW, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#777777"
LOOKS = (
    Look(BLUE, "-", "o"),
    Look(ORANGE, "--", "s"),
    Look(GREEN, "-.", "^"),
    Look(PINK, ":", "D"),
    Look(BLACK, (0, (9, 1.5)), "v"),
    Look(YELLOW, (0, (5, 1, 1, 1, 1, 1)), "P"),
    Look(SKY, (0, (1, 2.5)), "X"),
)

# What small print inside a panel stands on.
PAPER: dict[str, Any] = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1}

SUFFIXES = (".png", ".svg")
# A logarithmic axis shows at least from 1/NARROW to NARROW, so that what is level looks level.
NARROW = 2.0
# variance_slope is drawn up to this: above 1 it is bad enough, and that of exp has no end.
STEEP = 4.0

# Decorates what draws names and sentences of others: a $ in them begins no formula.
as_written = matplotlib.rc_context({"text.parse_math": False})


class Picture(Figure):
    """A figure that needs no window, and shows itself in a notebook."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), layout="constrained")

    def _repr_png_(self) -> bytes:
        return png(self)


def axes_or_new(ax: Axes | None) -> Axes:
    if ax is None:
        return pyplot.subplots(figsize=(5, 3.6), layout="constrained")[1]
    if not isinstance(ax, Axes):
        raise ParameterError(f"ax must be matplotlib Axes, got {type(ax).__name__}")
    return ax


def dressed(ax: Axes, title: str, x: str, y: str, above: float = 8) -> Axes:
    ax.set_title(title, fontsize=10, loc="left", pad=above)
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.tick_params(labelsize=8)
    ax.grid(color=GREY, alpha=0.2, linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, frameon=False, handlelength=3)
    return ax


def frame(ax: Axes, widest: float = math.inf) -> None:
    """Limits and ticks of a vertical axis: no narrower than what is level needs, no wider than is
    legible."""
    low, high = ax.dataLim.intervaly
    if ax.get_yscale() != "log":
        ax.set_ylim(max(min(low, 0.0), -1.0) - 0.05, min(max(high, NARROW), STEEP) + 0.05)
        return
    low = max(1 / widest, min(low / 1.2, 1 / NARROW))
    ax.set_ylim(low, min(widest, max(high * 1.2, NARROW)))
    plain(ax.yaxis)


def plain(axis: Axis) -> None:
    """Numbers at a logarithmic axis as they are usually written: 0.5 and not 5·10⁻¹."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def say(ax: Axes, what: str, labels: Sequence[str]) -> None:
    """A line of small print inside the axes, below those said before, on what some are not."""
    if labels:
        y = 0.97 - 0.06 * lines_said(ax)
        text = textwrap.fill(f"{', '.join(labels)}: {what}", 46)
        ax.text(0.03, y, text, transform=ax.transAxes, fontsize=7, va="top", bbox=PAPER)


def lines_said(ax: Axes) -> int:
    return sum(text.get_text().count("\n") + 1 for text in ax.texts)


def shown(name: str) -> str:
    """A name as matplotlib shows it: a $ begins a formula there, and a leading _ hides a label."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure to a file, by its suffix .png or .svg.

    Raises:
        ParameterError: another suffix, or the file cannot be written.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in SUFFIXES:
        raise ParameterError(
            f"a picture is written as .png or .svg, got {str(path)!r}; end its name in one of them"
        )
    options: dict[str, Any] = {"metadata": {"Date": None}} if suffix == ".svg" else {"dpi": 150}
    try:
        with matplotlib.rc_context({"svg.hashsalt": "gainreg"}):  # the same bytes every time
            figure.savefig(path, format=suffix[1:], **options)
    except OSError as error:
        raise ParameterError(f"cannot write {str(path)!r}: {error.strerror}") from error


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


def svg(figure: Figure) -> str:
    """A figure as an SVG element of a page, on the page's ground."""
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with (
        io.StringIO() as buffer,
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gainreg"}),
    ):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
        text = buffer.getvalue()
    return text[text.index("<svg") :]


def window(width: float, height: float) -> Figure:
    """An empty figure on the screen; ``matplotlib.pyplot.show()`` shows it."""
    figure = pyplot.figure(figsize=(width, height), layout="constrained")
    if figure.canvas.required_interactive_framework is None:
        pyplot.close(figure)
        raise ParameterError("there is no screen to draw on; name a file, as in -o gelu.png")
    return figure
