"""Pictures of entries, curves and tables: of the numbers themselves, nothing computed but lines to
see an entry on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from gainreg.entry import GainEntry
from gainreg.errors import ParameterError
from gainreg.plot import activations
from gainreg.plot.activations import QUANTITIES
from gainreg.plot.look import BLACK, GREY, LOOKS, STEEP, Picture, dressed, frame, plain, shown
from gainreg.table import GainTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A chart has a line of text an activation; this many are three screens.
ROWS = 150
ROW, MARGIN = 0.17, 0.9  # inches


def entry(found: GainEntry) -> Figure:
    """An entry, ringed, on the curves of its activation, which must be known here."""
    figure = Picture(13, 3.1)
    item = found.activation, found.params
    axes = figure.subplots(1, 4)
    activations.function(item, ax=axes[0])
    for quantity, ax in zip(QUANTITIES, axes[1:], strict=True):
        activations.over_std(item, quantity=quantity, ax=ax)
        value = getattr(found, quantity)
        if value is not None:
            ax.plot([found.std], [value], "o", color=BLACK, markersize=11, fillstyle="none")
        ax.get_legend().remove()
    return figure


def numbers(groups: Mapping[str, Iterable[GainEntry]]) -> Figure:
    """gain, variance_slope and gradient_factor of 1 to 7 groups of entries over their stds, by what
    the legend calls them."""
    if not 0 < len(groups) <= len(LOOKS):
        raise ParameterError(f"a picture holds 1 to {len(LOOKS)} curves legibly, got {len(groups)}")
    figure = Picture(11, 3.3)
    for quantity, ax in zip(QUANTITIES, figure.subplots(1, 3), strict=True):
        ax.set_xscale("log")
        if quantity != "variance_slope":
            ax.set_yscale("log")
        ax.axhline(1.0, color=GREY, linewidth=0.8, zorder=0)
        for look, (label, group) in zip(LOOKS, groups.items(), strict=False):
            entries = sorted(group, key=lambda each: each.std)
            y = np.array([getattr(each, quantity) for each in entries], dtype=np.float64)
            ax.plot(
                [each.std for each in entries], y, color=look.color, linestyle=look.line,
                marker=look.marker, markersize=4, label=shown(label),
            )  # fmt: skip
        frame(ax)
        plain(ax.xaxis)
        dressed(ax, QUANTITIES[quantity], "std of the pre-activation", quantity)
    return figure


def chart(table: GainTable) -> Figure:
    """gain, variance_slope and gradient_factor of a table's entries, a line an activation, with a
    mark for each of up to 7 stds."""
    names = [name for name, listing in table.listings.items() if listing.entries]
    stds = sorted({each.std for each in table})
    if not 0 < len(names) <= ROWS or len(stds) > len(LOOKS):
        raise ParameterError(
            f"a chart holds up to {ROWS} activations at {len(LOOKS)} stds, got {len(names)} at "
            f"{len(stds)}"
        )
    figure = Picture(11, MARGIN + ROW * len(names))
    rows = {name: row for row, name in enumerate(names)}
    for quantity, ax in zip(QUANTITIES, figure.subplots(1, 3, sharey=True), strict=True):
        ax.axvline(1.0, color=GREY, linewidth=0.8, zorder=0)
        if quantity != "variance_slope":
            ax.set_xscale("log")
        for look, std in zip(LOOKS, stds, strict=False):
            shown = [
                (getattr(each, quantity), rows[each.activation])
                for each in table
                if each.std == std and getattr(each, quantity) is not None
            ]
            if shown:
                x, y = zip(*shown, strict=True)
                ax.plot(x, y, look.marker, color=look.color, markersize=4, label=f"std {std:g}")
        if quantity == "variance_slope":
            low, high = ax.get_xlim()
            ax.set_xlim(max(low, -1.0), min(high, STEEP))
        else:
            plain(ax.xaxis)
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        dressed(ax, QUANTITIES[quantity], quantity, "")
    return figure
