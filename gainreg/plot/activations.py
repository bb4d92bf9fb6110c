"""Pictures of activations: φ, its gains over std, its correlation map, and its signal in depth."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gainreg.activation import Activation
from gainreg.bound import Bound
from gainreg.correlation_map import correlation as correlation_of
from gainreg.depth import through_depth
from gainreg.entry import GainEntry
from gainreg.errors import MomentError, ParameterError
from gainreg.frameworks import Item, as_activation, with_params
from gainreg.host import host
from gainreg.moments import FloatArray
from gainreg.params import called, check_choice
from gainreg.plot.look import (
    GREY,
    LOOKS,
    Look,
    Picture,
    axes_or_new,
    dressed,
    frame,
    lines_said,
    plain,
    say,
    shown,
)
from gainreg.resolver import known_at
from gainreg.table import GainTable, load_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Items = Item | tuple[Item, Mapping[str, Any]]

SIZE = 13.0, 6.2  # of an overview, in inches
# Ten a decade, on whose scale of 1 in ln std all changes: a function of which nothing is declared
# takes 60 ms at each.
STDS = np.logspace(-2, 2, 41)
# Where φ is drawn, wider where it has kinks further out, up to FAR: relu6's at 6, but not
# threshold's default of 20.
REACH, FAR = 4.0, 10.0
# Beside a kink φ is drawn from this far on, twice the step of the differences that stand for φ′.
# A difference of φ across it that is larger than JUMP is a jump, and no line is drawn over it.
BESIDE, JUMP = 1e-6, 1e-3
# A gain, a gradient_factor and a signal are drawn at most from 1/WIDE to WIDE.
WIDE = 1e3
LEGEND = """dots: entries of the table
grey lines: what keeps a size, or a correlation
last panel: median of all draws of the weights,
and the two thirds of them around it"""


class _Subject(NamedTuple):
    """An activation, with its params, and how it is drawn."""

    activation: Activation
    bound: Bound
    label: str
    look: Look


def function(*activations: Items, ax: Axes | None = None) -> Axes:
    """φ(x)."""
    ax = _of_x(activations, ax, lambda phi, x: phi.forward(x))
    return dressed(ax, "activation", "x", "φ(x)")


def derivative(*activations: Items, ax: Axes | None = None) -> Axes:
    """φ′(x)."""
    ax = _of_x(activations, ax, lambda phi, x: phi.slope(x))
    return dressed(ax, "its derivative", "x", "φ′(x)")


# What a panel over std says of each quantity.
QUANTITIES = {
    "gain": "gain: std / rms of φ",
    "variance_slope": "a layer's growth of a small error",
    "gradient_factor": "a layer's growth of gradient²",
}


def over_std(
    *activations: Items,
    quantity: str = "gain",
    table: GainTable | str | os.PathLike[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A quantity over the std of the pre-activation, from 1e-2 to 1e2.

    Args:
        quantity: "gain", "variance_slope" or "gradient_factor".
        table: a table or its path, whose entries are drawn as dots; None for the shipped one.
    """
    check_choice(quantity, "quantity", QUANTITIES)
    ax = axes_or_new(ax)
    whole = table if isinstance(table, GainTable) else load_table(table)
    ax.set_xscale("log")
    if quantity != "variance_slope":
        ax.set_yscale("log")
    ax.axhline(1.0, color=GREY, linewidth=0.8, zorder=0)
    unknown: list[str] = []
    for subject in _subjects(activations, ax):
        entries = _entries(subject.bound)
        y = np.array([getattr(entry, quantity) for entry in entries], dtype=np.float64)
        _line(ax, subject, [entry.std for entry in entries], y)
        if np.isnan(y).all():
            unknown.append(subject.label)
        is_registered = any(each is subject.activation for each in host().activations())
        listing = whole.listings.get(subject.bound.name) if is_registered else None
        dots = [
            (entry.std, getattr(entry, quantity))
            for entry in (listing.entries if listing else ())
            if entry.params == subject.bound.params and getattr(entry, quantity) is not None
        ]
        if dots:
            look = subject.look
            ax.plot(*zip(*dots, strict=True), look.marker, color=look.color, markersize=5)
    say(ax, "E[φ′²] does not exist or is not known", unknown)
    frame(ax, WIDE)
    ax.set_xlim(STDS[0] / 1.5, STDS[-1] * 1.5)
    plain(ax.xaxis)
    return dressed(ax, QUANTITIES[quantity], "std of the pre-activation", quantity)


def correlation(*activations: Items, std: float = 1.0, ax: Axes | None = None) -> Axes:
    """The correlation map at a std of the pre-activation: of two signals in the next layer, by that
    in this one."""
    ax = axes_or_new(ax)
    rho = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 101))  # dense at −1 and 1, where it bends
    ax.plot([-1, 1], [-1, 1], color=GREY, linewidth=0.8, zorder=0)
    unknown: list[str] = []
    for subject in _subjects(activations, ax):
        gate = subject.bound.gate
        try:
            if gate is None:
                known = correlation_of(subject.activation, rho, std, **subject.bound.params)
            else:  # a and b are independent
                known = rho * correlation_of(gate.activation, rho, std)
        except MomentError:
            known = np.full_like(rho, np.nan)
            unknown.append(subject.label)
        _line(ax, subject, rho, known)
    say(ax, "not known", unknown)
    return dressed(ax, f"correlation map at std {std:g}", "ρ before", "ρ behind")


def depth(
    *activations: Items,
    std: float = 1.0,
    width: int = 256,
    layers: int = 100,
    ax: Axes | None = None,
) -> Axes:
    """The rms of the pre-activations through a plain stack, by theory: the median of all draws of
    its weights, and as a band the two thirds of them around it.

    Args:
        std: of the pre-activations of the first layer, for which the gain is chosen.
        width: pre-activations of a layer.
        layers: how many.
    """
    ax = axes_or_new(ax)
    ax.set_yscale("log")
    ax.axhline(std, color=GREY, linewidth=0.8, zorder=0)
    layer = np.arange(layers + 1)
    for subject in _subjects(activations, ax):
        params = subject.bound.params
        low, median, high = through_depth(
            subject.activation, std=std, width=width, layers=layers, **params
        )
        _line(ax, subject, layer, median)
        ax.fill_between(layer, low, high, color=subject.look.color, alpha=0.18, linewidth=0)
    frame(ax, WIDE)
    return dressed(ax, f"signal through depth, width {width}", "layer", "rms of pre-activations")


def overview(
    *activations: Items,
    std: float = 1.0,
    width: int = 256,
    table: GainTable | str | os.PathLike[str] | None = None,
    figure: Figure | None = None,
) -> Figure:
    """All panels of one or a few activations.

    Args:
        std, width, table: as for the panels, ``depth`` and ``over_std``.
        figure: where to draw; None for a new one, which knows no window.
    """
    if not activations:
        raise ParameterError("name at least one activation to draw, as in 'gelu'")
    figure = Picture(*SIZE) if figure is None else figure
    activations = tuple(as_activation(*with_params(item)) for item in activations)
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
        activation, params = as_activation(*with_params(item))
        known = host().activation(activation) if isinstance(activation, str) else activation
        bound = host().bind(known, params)
        other = {k: v for k, v in bound.params.items() if v != known.params.get(k)}
        yield _Subject(known, bound, shown(called(bound.name, other)), look)


@functools.lru_cache(16)
def _entries(bound: Bound) -> list[GainEntry]:
    """The entries over STDS, once for the three panels that show them; ``bound`` is another object
    when what plugins say of it has changed."""
    return known_at(bound, STDS)


def _of_x(
    items: Sequence[Any], ax: Axes | None, values: Callable[[Bound, FloatArray], FloatArray]
) -> Axes:
    """Draw φ or φ′, with gaps where it jumps."""
    ax = axes_or_new(ax)
    gated: list[str] = []
    unknown: list[str] = []
    for subject in _subjects(items, ax):
        bound = subject.bound
        if bound.gate is not None:
            gated.append(subject.label)
            bound = bound.gate
        with np.errstate(all="ignore"):
            known = bound.integrable
            if not known:
                unknown.append(subject.label)
            _line(ax, subject, *(_with_gaps(bound, values) if known else ([], [])))
    say(ax, "a·φ(b), of which this is φ", gated)
    say(ax, "random, or of more than one number", unknown)
    if not any(np.size(line.get_xdata()) for line in ax.lines):
        ax.set(xlim=(-REACH, REACH), ylim=(-1, 1))
    low, high = np.clip(ax.get_ylim(), -FAR, FAR)
    ax.set_ylim(low, high + 0.08 * lines_said(ax) * (high - low))
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


def _line(ax: Axes, subject: _Subject, x: Any, y: Any) -> None:
    look = subject.look
    ax.plot(x, y, color=look.color, linestyle=look.line, linewidth=1.8, label=subject.label)
