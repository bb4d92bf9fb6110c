"""Pictures of a model's signals, as a report has them."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from gainreg.errors import ParameterError
from gainreg.moments import FloatArray
from gainreg.params import check_choice
from gainreg.plot.look import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    Picture,
    as_written,
    axes_or_new,
    dressed,
    frame,
)
from gainreg.signals.report import ALIKE, GROWN, LESS, MORE, SHRUNK, norms, trend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gainreg.signals.report import SignalReport, WeightReport

SIZE = 11.0, 8.5  # of a report, in inches
# What a panel of a report shows of a weight: the title, and what the numbers are.
SIZES = {
    "input": ("forward: what feeds each weight", "rms"),
    "output": ("forward: what comes out of it", "rms"),
    "gradient": ("backward: gradient by its output", "norm, last weight's = 1"),
}
# The band covers what 19 draws of 20 are expected to.
SPREADS = 2.0
WIDEST = 300.0  # of ln rms, so that a band has ends that a double holds, though nobody sees them
# Weights are named one by one up to this many, and their blocks up to as many.
NAMED = 32
# Sentences of warning below a picture; the report has all.
SAID = 6


@as_written
def signal(report: SignalReport, size: str = "output", ax: Axes | None = None) -> Axes:
    """A size through a model, predicted (lines) and measured (dots), weight by weight.

    Gradients are drawn as norms, rms·√elements, that predicted for the last weight being 1: as
    ``str(report)`` judges them, since a gradient over more elements is not smaller.
    The band is what 19 draws of 20 of the weights are expected to lie in at these widths.
    Residual streams are a grey ground and, by the outputs, a line of the stream's own rms.

    Args:
        report: of ``initialize_`` or ``measure``, with one weight at least.
        size: "input", "output" or "gradient".
    """
    check_choice(size, "size", SIZES)
    weights = report.weights
    if not weights:
        raise ParameterError("this report has no weights: there is nothing to draw")
    ax = axes_or_new(ax)
    ax.set_yscale("log")
    ax.axhline(1.0, color=GREY, linewidth=0.8, zorder=0)
    x = np.arange(1.0, len(weights) + 1)
    predicted, measured = _sizes(weights, size)
    # of many weights a line of one weight's width would be hidden by its dot
    _steps(ax, x, predicted, max(0.4, len(x) / 250), color=BLUE, linewidth=2, label="predicted")
    if not np.isnan(measured).all():
        size_of_dot = max(2.0, min(5.0, 300 / len(x)))
        ax.plot(x, measured, "o", color=ORANGE, markersize=size_of_dot, zorder=3, label="measured")
    streams = [weight.stream for weight in weights]
    if size == "output" and any(streams):
        rms = np.array([np.nan if w.stream_rms is None else w.stream_rms for w in weights])
        settings = {"color": GREEN, "linewidth": 4, "alpha": 0.6, "label": "residual stream"}
        _steps(ax, x, rms, 0.5, **settings)
    frame(ax)
    if size == "output":  # it may be far wider than what is drawn, and the frame is not for it
        spreads = SPREADS * np.array([weight.spread for weight in weights])
        factor = np.exp(np.minimum(spreads, WIDEST))
        low, high = np.repeat(predicted / factor, 2), np.repeat(predicted * factor, 2)
        edges = np.column_stack([x - 0.5, x + 0.5]).ravel()
        limits = ax.get_ylim()
        ax.fill_between(
            edges, low, high, color=BLUE, alpha=0.2, linewidth=0, label="19 draws of 20"
        )
        ax.set_ylim(limits)
    _ground(ax, streams)
    _marks(ax, weights, size)
    ax.set_xlim(0.5, len(x) + 0.5)
    ax.set_xticks(*_names([weight.name for weight in weights]), rotation=90, fontsize=7)
    title, what = SIZES[size]
    return dressed(ax, title, "", what, above=13)  # the marks are between


@as_written
def report(found: SignalReport, axes: Sequence[Axes] | None = None) -> Figure:
    """The picture of a report: what feeds each weight, what comes out, and the gradient; on three
    axes, or on a figure of its own, which has the warnings' sentences below."""
    if axes is not None:
        if len(axes) != len(SIZES):
            raise ParameterError(f"a report is drawn on {len(SIZES)} axes, got {len(axes)}")
        for size, ax in zip(SIZES, axes, strict=True):
            signal(found, size, ax)
        return axes[0].figure.figure
    figure = Picture(*SIZE)
    own = figure.subplots(3, 1, sharex=True)
    handles: dict[str, Any] = {}
    for size, ax in zip(SIZES, own, strict=True):
        signal(found, size, ax)
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
        ax.get_legend().remove()
        ax.tick_params(labelbottom=size == "gradient")
    figure.legend(
        handles.values(), handles, loc="outside upper right", ncols=len(handles), frameon=False,
        fontsize=9,
    )  # fmt: skip
    said = [*found.warnings[:SAID]]
    if len(found.warnings) > SAID:
        said.append(f"and {len(found.warnings) - SAID} more warnings, which the report names")
    lines = [textwrap.fill(f"! {sentence}", 150, subsequent_indent="   ") for sentence in said]
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=9)
    return figure


def _sizes(weights: Sequence[WeightReport], size: str) -> tuple[FloatArray, FloatArray]:
    """Predicted and measured; NaN where there is none, or it is 0 and has no logarithm."""
    predicted = np.array([getattr(weight, f"{size}_rms") for weight in weights])
    found = np.array([getattr(weight, f"measured_{size}_rms") for weight in weights], dtype=float)
    with np.errstate(all="ignore"):
        if size == "gradient":
            norm = np.array(norms(tuple(weights)))
            found = found * norm / predicted
            predicted = norm
        predicted, found = (np.where((y > 0) & (y < np.inf), y, np.nan) for y in (predicted, found))
    return predicted, found


def _steps(ax: Axes, x: FloatArray, y: FloatArray, half: float, **settings: Any) -> None:
    """A level line at each x."""
    gap = np.full(len(x), np.nan)
    across = np.column_stack([x - half, x + half, gap]).ravel()
    ax.plot(across, np.column_stack([y, y, gap]).ravel(), solid_capstyle="butt", **settings)


def _ground(ax: Axes, streams: Sequence[int]) -> None:
    """A grey ground under the branches of each residual stream, in two shades by turns."""
    label = "branches of a stream"
    for number, run in groupby(range(len(streams)), key=lambda i: streams[i]):
        places = list(run)
        if number:
            ends = places[0] + 0.5, places[-1] + 1.5
            shade = 0.08 if number % 2 else 0.16
            ax.axvspan(*ends, color=GREY, alpha=shade, linewidth=0, zorder=-1, label=label)
            label = ""


def _marks(ax: Axes, weights: Sequence[WeightReport], size: str) -> None:
    """What the report warns of, above the weight that shows it; below, what is approximate."""
    measured = [getattr(weight, f"measured_{size}_rms") for weight in weights]
    signs = {
        "input": [trend(weight.input_rms, SHRUNK, GROWN) for weight in weights],
        "output": ["=" if weight.correlation > ALIKE else "" for weight in weights],
        "gradient": [trend(gradient, LESS, MORE) for gradient in norms(tuple(weights))],
    }[size]
    above = {
        ("^", "grows"): [sign == "↑" for sign in signs],
        ("v", "dies out"): [sign == "↓" for sign in signs],
        ("s", "samples become alike"): [sign == "=" for sign in signs],
        ("X", "not finite"): [y is not None and not math.isfinite(y) for y in measured],
    }
    for (shape, label), shown in above.items():
        at = 1 + np.flatnonzero(shown)
        if len(at):
            ax.plot(
                at, np.full(len(at), 1.03), shape, label=label, color=BLACK, markersize=5,
                clip_on=False, transform=ax.get_xaxis_transform(),
            )  # fmt: skip
    rough = np.array([np.nan if weight.exact else -0.015 for weight in weights])
    if size == "output" and not np.isnan(rough).all():
        below = {"color": GREY, "linewidth": 3, "transform": ax.get_xaxis_transform()}
        below["clip_on"] = False
        _steps(ax, np.arange(1.0, len(weights) + 1), rough, 0.5, label="approximate", **below)


def _names(names: Sequence[str]) -> tuple[list[int], list[str]]:
    """Places and labels of ticks: each weight, or where they are many, the start of each block."""
    if len(names) <= NAMED:
        return list(range(1, len(names) + 1)), [_short(_bare(name), 36) for name in names]
    starts = [
        (next(run)[0], block)
        for block, run in groupby(enumerate(names, 1), key=lambda item: _block(item[1]))
    ]
    every = math.ceil(len(starts) / NAMED)
    places, labels = zip(*starts[::every], strict=True)
    return list(places), [_short(label, 22) for label in labels]


def _block(name: str) -> str:
    """A name up to its first number: the block that a weight belongs to."""
    found = re.match(r".*?\d+(?!\w)", name)
    return found[0] if found else _bare(name)


def _bare(name: str) -> str:
    """A name without the end that nearly all have."""
    return name.removesuffix(".weight") or name


def _short(name: str, width: int) -> str:
    """The end of a name, from a dot on if it has one."""
    if len(name) <= width:
        return name
    tail = name[len(name) - width + 1 :]
    return "…" + tail[max(0, tail.find(".")) :]
