"""Pictures of activations, tables and reports, by matplotlib (extra ``plot``).

Every function draws one panel, on ``ax=`` or on a figure of its own, and returns its Axes; the last
ones put panels together and return a Figure. Activations differ by colour, line and marker at once
(colours of Okabe and Ito 2008, which the colour-blind tell apart), so that print in grey will do.
"""

from __future__ import annotations

import io
import math
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gainreg.activation import Activation
from gainreg.bound import Bound
from gainreg.correlation_map import correlation as correlation_of
from gainreg.depth import known_at, through_depth
from gainreg.errors import MissingPackageError, MomentError, ParameterError
from gainreg.frameworks import as_activation
from gainreg.host import host
from gainreg.moments import FloatArray
from gainreg.signals.report import ALIKE, GROWN, LESS, MORE, SHRUNK, norms, trend
from gainreg.table import GainTable, load_table

try:
    import matplotlib
    from matplotlib import pyplot
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
except ImportError as error:
    raise MissingPackageError(
        f"pictures need matplotlib, which cannot be imported ({error}); install it by "
        "pip install 'gainreg[plot]'"
    ) from error

if TYPE_CHECKING:
    from gainreg.signals.report import SignalReport, WeightReport

Item = str | Activation | Callable[..., Any]


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
    Look(BLACK, (0, (5, 1)), "v"),
    Look(YELLOW, (0, (3, 1, 1, 1)), "P"),
    Look(SKY, (0, (1, 1)), "X"),
)

# What small print inside a panel stands on.
PAPER: dict[str, Any] = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1}

SUFFIXES = (".png", ".svg")
STDS = np.logspace(-2, 2, 161)
# Where φ is drawn, wider where it has kinks further out, up to FAR: relu6's at 6, but not
# threshold's default of 20.
REACH, FAR = 4.0, 10.0
# Beside a kink φ is drawn from this far on. A difference of φ across it that is larger than JUMP
# is a jump, and no line is drawn over it.
BESIDE, JUMP = 1e-6, 1e-3
# A logarithmic axis shows at least from 1/NARROW to NARROW, so that what is level looks level, and
# at most from 1/WIDE to WIDE around 1.
NARROW, WIDE = 2.0, 1e3
# variance_slope is drawn up to this: above 1 it is bad enough, and that of exp has no end.
STEEP = 4.0

# --- activations ---

LEGEND = """dots: entries of the table
grey lines: what keeps a size, or a correlation
last panel: median of all draws of the weights,
and the two thirds of them around it"""


class _Subject(NamedTuple):
    """An activation with its params, and how it is drawn."""

    activation: str | Activation
    params: Mapping[str, Any]
    bound: Bound
    label: str
    look: Look


def function(*activations: Item | tuple[Item, Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """φ(x).

    Args:
        *activations: names, Activations or functions, or pairs of one and its params, as in
            ``("elu", {"alpha": 0.5})``.
        ax: where to draw, beside what is there; None for a new figure.

    Raises:
        UnknownActivationError, ParameterError, PluginError: as ``gainreg.resolve``.
    """
    ax = _of_x(activations, ax, lambda phi, x: phi.forward(x))
    return _dressed(ax, "activation", "x", "φ(x)")


def derivative(*activations: Item | tuple[Item, Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """φ′(x). Arguments and errors are those of ``function``."""
    return _dressed(_of_x(activations, ax, _slope), "its derivative", "x", "φ′(x)")


# What a panel over std says of each quantity.
QUANTITIES = {
    "gain": "gain: std / rms of φ",
    "variance_slope": "a layer's growth of a small error",
    "gradient_factor": "a layer's growth of gradient²",
}


def over_std(
    *activations: Item | tuple[Item, Mapping[str, Any]],
    quantity: str = "gain",
    table: GainTable | str | os.PathLike[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A quantity over the std of the pre-activation, from 1e-2 to 1e2.

    Args:
        *activations: as for ``function``.
        quantity: "gain", "variance_slope" or "gradient_factor".
        table: a table or its path, whose entries are drawn as dots; None for the shipped one.
        ax: where to draw, beside what is there; None for a new figure.

    Raises:
        ParameterError: another quantity.
        UnknownActivationError, ParameterError, MomentError, PluginError: as ``gainreg.resolve``.
        TableError: the table cannot be read.
    """
    if quantity not in QUANTITIES:
        raise ParameterError(
            f"quantity is one of {', '.join(map(repr, QUANTITIES))}, got {quantity!r}"
        )
    ax = _axes(ax)
    whole = table if isinstance(table, GainTable) else load_table(table)
    ax.set_xscale("log")
    if quantity != "variance_slope":
        ax.set_yscale("log")
    ax.axhline(1.0, color=GREY, linewidth=0.8, zorder=0)
    unknown: list[str] = []
    for subject in _subjects(activations, ax):
        entries = known_at(subject.activation, STDS, subject.params)
        y = np.array([getattr(entry, quantity) for entry in entries], dtype=np.float64)
        _line(ax, subject, [entry.std for entry in entries], y)
        if np.isnan(y).all():
            unknown.append(subject.label)
        listing = whole.listings.get(subject.bound.name) if _is_registered(subject) else None
        dots = [
            (entry.std, getattr(entry, quantity))
            for entry in (listing.entries if listing else ())
            if entry.params == subject.bound.params and getattr(entry, quantity) is not None
        ]
        if dots:
            look = subject.look
            ax.plot(*zip(*dots, strict=True), look.marker, color=look.color, markersize=5)
    _say(ax, "E[φ′²] does not exist or is not known", unknown)
    _frame(ax, WIDE)
    return _dressed(ax, QUANTITIES[quantity], "std of the pre-activation", quantity)


def correlation(
    *activations: Item | tuple[Item, Mapping[str, Any]], std: float = 1.0, ax: Axes | None = None
) -> Axes:
    """The correlation map: of two signals in the next layer, by that in this one.

    Args:
        *activations: as for ``function``.
        std: of the pre-activation.
        ax: where to draw, beside what is there; None for a new figure.

    Raises:
        UnknownActivationError, ParameterError, PluginError: as ``gainreg.correlation``.
    """
    ax = _axes(ax)
    rho = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 101))  # dense at −1 and 1, where it bends
    ax.plot([-1, 1], [-1, 1], color=GREY, linewidth=0.8, zorder=0)
    unknown: list[str] = []
    for subject in _subjects(activations, ax):
        gate = subject.bound.gate
        try:
            if gate is None:
                known = correlation_of(subject.activation, rho, std, **subject.params)
            else:  # a and b are independent
                known = rho * correlation_of(gate.activation, rho, std)
        except MomentError:
            known = np.full_like(rho, np.nan)
            unknown.append(subject.label)
        _line(ax, subject, rho, known)
    _say(ax, "not known", unknown)
    return _dressed(ax, f"correlation map at std {std:g}", "ρ before", "ρ behind")


def depth(
    *activations: Item | tuple[Item, Mapping[str, Any]],
    std: float = 1.0,
    width: int = 256,
    layers: int = 100,
    ax: Axes | None = None,
) -> Axes:
    """The rms of the pre-activations through a plain stack, by theory: the median of all draws of
    its weights, and as a band the two thirds of them around it.

    Args:
        *activations: as for ``function``.
        std: of the pre-activations of the first layer, for which the gain is chosen.
        width: pre-activations of a layer.
        layers: how many.
        ax: where to draw, beside what is there; None for a new figure.

    Raises:
        UnknownActivationError, ParameterError, MomentError, PluginError: as
            ``gainreg.depth.through_depth``.
    """
    ax = _axes(ax)
    ax.set_yscale("log")
    ax.axhline(std, color=GREY, linewidth=0.8, zorder=0)
    layer = np.arange(layers + 1)
    for subject in _subjects(activations, ax):
        low, median, high = through_depth(
            subject.activation, std=std, width=width, layers=layers, **subject.params
        )
        _line(ax, subject, layer, median)
        ax.fill_between(layer, low, high, color=subject.look.color, alpha=0.18, linewidth=0)
    _frame(ax, WIDE)
    return _dressed(ax, f"signal through depth, width {width}", "layer", "rms of pre-activations")


def overview(
    *activations: Item | tuple[Item, Mapping[str, Any]],
    std: float = 1.0,
    width: int = 256,
    table: GainTable | str | os.PathLike[str] | None = None,
) -> Figure:
    """All panels of one or a few activations.

    Args:
        *activations: as for ``function``; at most 7, which is what a picture holds legibly.
        std: of the pre-activation, for the correlation map and the signal through depth.
        width: pre-activations of a layer, for the signal through depth.
        table: as for ``over_std``.

    Raises:
        ParameterError: none or too many activations; else as the panels.
        UnknownActivationError, MomentError, PluginError, TableError: as the panels.
    """
    if not activations:
        raise ParameterError("name at least one activation to draw, as in 'gelu'")
    figure = Figure(figsize=(13, 6.2), layout="constrained")
    axes = figure.subplots(2, 4).ravel()
    function(*activations, ax=axes[0])
    derivative(*activations, ax=axes[1])
    correlation(*activations, std=std, ax=axes[2])
    for quantity, ax in zip(QUANTITIES, axes[4:], strict=False):
        over_std(*activations, quantity=quantity, table=table, ax=ax)
    depth(*activations, std=std, width=width, ax=axes[7])
    handles, labels = axes[4].get_legend_handles_labels()
    for ax in axes:
        if ax.get_legend():
            ax.get_legend().remove()
    axes[3].set_axis_off()
    axes[3].legend(
        handles, labels, loc="upper left", frameon=False, fontsize=11, handlelength=3.5,
    )  # fmt: skip
    axes[3].text(0.03, 0.02, LEGEND, fontsize=8, color=GREY, transform=axes[3].transAxes)
    return figure


def _subjects(items: Sequence[Any], ax: Axes) -> Iterator[_Subject]:
    """The activations, each with the next look that the axes have free."""
    start = len(ax.get_legend_handles_labels()[0])
    if start + len(items) > len(LOOKS):
        raise ParameterError(
            f"a picture holds {len(LOOKS)} activations legibly, got {start + len(items)}; "
            "draw them in several"
        )
    for item, look in zip(items, LOOKS[start:], strict=False):
        pair = item if isinstance(item, tuple) else (item, {})
        if len(pair) != 2 or not isinstance(pair[1], Mapping):
            raise ParameterError(
                "an activation to draw is a name, an Activation, a function, or a pair of one and "
                f"its params, as in ('elu', {{'alpha': 0.5}}); got {item!r}"
            )
        activation, params = as_activation(*pair)
        bound = host().bind(activation, params)
        known = host().activation(activation) if isinstance(activation, str) else activation
        told = ", ".join(
            f"{key}={value:g}"
            for key, value in bound.params.items()
            if value != known.params.get(key)
        )
        yield _Subject(activation, params, bound, bound.name + (told and f"({told})"), look)


def _is_registered(subject: _Subject) -> bool:
    """Whether it is what its name means in the registry, and so in a table."""
    if isinstance(subject.activation, str):
        return True
    return any(known is subject.activation for known in host().activations())


def _of_x(
    items: Sequence[Any], ax: Axes | None, values: Callable[[Bound, FloatArray], FloatArray]
) -> Axes:
    """Draw φ or φ′, with gaps where it jumps."""
    ax = _axes(ax)
    gated: list[str] = []
    unknown: list[str] = []
    for subject in _subjects(items, ax):
        bound = subject.bound
        if bound.gate is not None:
            gated.append(subject.label)
            bound = bound.gate
        with np.errstate(all="ignore"):
            known = bound.facts.integrable
            if not known:
                unknown.append(subject.label)
            _line(ax, subject, *(_with_gaps(bound, values) if known else ([], [])))
    _say(ax, "a·φ(b), of which this is φ", gated)
    _say(ax, "random, or of more than one number", unknown)
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, -FAR), min(high, FAR))
    return ax


def _with_gaps(
    bound: Bound, values: Callable[[Bound, FloatArray], FloatArray]
) -> tuple[FloatArray, FloatArray]:
    """x and the values there, with NaN between the two sides of a jump."""
    kinks = sorted({k for k in (0.0, *(bound.kinks or ())) if abs(k) < FAR})
    ends = [min(-REACH, 1.5 * kinks[0]), *kinks, max(REACH, 1.5 * kinks[-1])]
    xs: list[FloatArray] = []
    ys: list[FloatArray] = []
    for low, high in pairwise(ends):
        x = np.linspace(low + BESIDE, high - BESIDE, 401)
        y = values(bound, x)
        if ys and not abs(y[0] - ys[-1][-1]) <= JUMP * max(1.0, abs(y[0])):
            xs.append(np.array([low]))
            ys.append(np.array([np.nan]))
        xs.append(x)
        ys.append(y)
    return np.concatenate(xs), np.concatenate(ys)


def _slope(bound: Bound, x: FloatArray) -> FloatArray:
    """φ′, as declared where that was found right, else by differences."""
    if bound.facts.derivative is not None:
        return bound.facts.derivative(x)
    step = BESIDE / 2
    return (bound.forward(x + step) - bound.forward(x - step)) / (2 * step)


def _line(ax: Axes, subject: _Subject, x: Any, y: Any) -> None:
    look = subject.look
    ax.plot(x, y, color=look.color, linestyle=look.line, linewidth=1.8, label=subject.label)


# --- reports ---

# What a panel of a report shows of a weight: the title, and what the numbers are.
SIZES = {
    "input": ("forward: what feeds each weight", "rms"),
    "output": ("forward: what comes out of it", "rms"),
    "gradient": ("backward: gradient by its output", "norm, last weight's = 1"),
}
# The band covers what 19 draws of 20 are expected to.
SPREADS = 2.0
# Weights are named one by one up to this many, and their blocks up to as many.
NAMED = 32
# Sentences of warning below a picture; the report has all.
SAID = 6


def signal(report: SignalReport, size: str = "output", ax: Axes | None = None) -> Axes:
    """A size through a model, predicted (lines) and measured (dots), weight by weight.

    Gradients are drawn as norms, rms·√elements, that predicted for the last weight being 1: as
    ``str(report)`` judges them, since a gradient over more elements is not smaller.
    The band is what 19 draws of 20 of the weights are expected to lie in at these widths.
    Residual streams are a grey ground and, by the outputs, a line of the stream's own rms.

    Args:
        report: of ``initialize_`` or ``measure``.
        size: "input", "output" or "gradient".
        ax: where to draw; None for a new figure.

    Raises:
        ParameterError: another size, or a report without weights.
    """
    if size not in SIZES:
        raise ParameterError(f"size is one of {', '.join(map(repr, SIZES))}, got {size!r}")
    weights = report.weights
    if not weights:
        raise ParameterError("this report has no weights: there is nothing to draw")
    ax = _axes(ax)
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
    _frame(ax)
    if size == "output":  # it may be far wider than what is drawn, and the frame is not for it
        factor = np.exp(SPREADS * np.array([weight.spread for weight in weights]))
        low, high = np.repeat(predicted / factor, 2), np.repeat(predicted * factor, 2)
        edges = np.column_stack([x - 0.5, x + 0.5]).ravel()
        limits = ax.get_ylim()
        ax.fill_between(
            edges, low, high, color=BLUE, alpha=0.2, linewidth=0, label="19 draws of 20"
        )
        ax.set_ylim(limits)
    _ground(ax, streams, named=size == "input")
    _marks(ax, weights, size)
    ax.set_xlim(0.5, len(x) + 0.5)
    ax.set_xticks(*_names([weight.name for weight in weights]), rotation=90, fontsize=7)
    title, what = SIZES[size]
    return _dressed(ax, title, "", what, above=13)  # the marks are between


def report(found: SignalReport, axes: Sequence[Axes] | None = None) -> Figure:
    """The picture of a report: what feeds each weight, what comes out, and the gradient.

    Args:
        found: the report.
        axes: three, to be drawn on, from top to bottom; None for a figure of its own, which has the
            warnings' sentences below.

    Raises:
        ParameterError: axes are not three, or the report has no weights.
    """
    if axes is not None:
        if len(axes) != len(SIZES):
            raise ParameterError(f"a report is drawn on {len(SIZES)} axes, got {len(axes)}")
        for size, ax in zip(SIZES, axes, strict=True):
            signal(found, size, ax)
        figure = axes[0].get_figure(root=True)
        assert isinstance(figure, Figure)
        return figure
    figure = Figure(figsize=(11, 8.5), layout="constrained")
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


def _ground(ax: Axes, streams: Sequence[int], named: bool) -> None:
    """A grey ground under the weights of each residual stream, in two shades by turns."""
    said: set[int] = set()
    for number, run in groupby(range(1, len(streams) + 1), key=lambda i: streams[i - 1]):
        places = list(run)
        if not number:
            continue
        shade = 0.08 if number % 2 else 0.16
        ends = places[0] - 0.5, places[-1] + 0.5
        ax.axvspan(*ends, color=GREY, alpha=shade, linewidth=0, zorder=-1)
        if named and number not in said and len(places) > len(streams) / 20:
            ax.text(
                places[0] - 0.3, 0.04, f"residual stream {number}", fontsize=7, bbox=PAPER,
                transform=ax.get_xaxis_transform(), clip_on=True,
            )  # fmt: skip
        said.add(number)


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
    rough = np.array([np.nan if weight.exact else 0.01 for weight in weights])
    if size == "output" and not np.isnan(rough).all():
        below = {"color": GREY, "linewidth": 3, "transform": ax.get_xaxis_transform()}
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
    return name if len(name) <= width else "…" + name[len(name) - width + 1 :]


# --- the look of all ---


def _axes(ax: Axes | None) -> Axes:
    if ax is None:
        return pyplot.subplots(figsize=(5, 3.6), layout="constrained")[1]
    if not isinstance(ax, Axes):
        raise ParameterError(f"ax must be matplotlib Axes, got {type(ax).__name__}")
    return ax


def _dressed(ax: Axes, title: str, x: str, y: str, above: float = 8) -> Axes:
    ax.set_title(title, fontsize=10, loc="left", pad=above)
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.tick_params(labelsize=8)
    ax.grid(color=GREY, alpha=0.2, linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, frameon=False, handlelength=3)
    return ax


def _frame(ax: Axes, widest: float = math.inf) -> None:
    """Limits and ticks of a vertical axis: no narrower than what is level needs, no wider than is
    legible."""
    low, high = ax.get_ylim()
    if ax.get_yscale() != "log":
        drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in ax.lines])
        low, high = np.nanmin(drawn), np.nanmax(drawn)
        ax.set_ylim(max(min(low, 0.0), -1.0) - 0.05, min(max(high, NARROW), STEEP) + 0.05)
        return
    low, high = max(1 / widest, min(low, 1 / NARROW)), min(widest, max(high, NARROW))
    ax.set_ylim(low, high)
    within = high / low < 100
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if within else (1,)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _say(ax: Axes, what: str, labels: Sequence[str]) -> None:
    """A line of small print inside the axes, below those said before, on what some are not."""
    if labels:
        y = 0.97 - 0.06 * sum(text.get_text().count("\n") + 1 for text in ax.texts)
        text = textwrap.fill(f"{', '.join(labels)}: {what}", 46)
        ax.text(0.03, y, text, transform=ax.transAxes, fontsize=7, va="top", bbox=PAPER)


# --- files ---


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure to a file, by its suffix .png or .svg.

    Raises:
        ParameterError: another suffix, or the file cannot be written.
    """
    suffix = check_suffix(path)
    options: dict[str, Any] = {"metadata": {"Date": None}} if suffix == ".svg" else {"dpi": 150}
    try:
        with matplotlib.rc_context({"svg.hashsalt": "gainreg"}):  # the same bytes every time
            figure.savefig(path, format=suffix[1:], **options)
    except OSError as error:
        raise ParameterError(f"cannot write {str(path)!r}: {error.strerror}") from error


def check_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix of a picture's file.

    Raises:
        ParameterError: it is neither .png nor .svg.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in SUFFIXES:
        raise ParameterError(
            f"a picture is written as .png or .svg, got {str(path)!r}; name it so, as in gelu.png"
        )
    return suffix


def png(figure: Figure, dpi: int = 100) -> bytes:
    """A figure as the bytes of a PNG file."""
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="png", dpi=dpi)
        return buffer.getvalue()
