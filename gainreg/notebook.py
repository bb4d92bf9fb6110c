"""What a notebook shows of an entry, a curve, a table and a report: a table in HTML, and a picture
where matplotlib is installed."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from itertools import islice
from typing import TYPE_CHECKING, Any

from gainreg.entry import to_dict
from gainreg.errors import GainregError
from gainreg.params import called

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from gainreg.entry import GainEntry
    from gainreg.resolver import GainCurve
    from gainreg.signals.report import SignalReport
    from gainreg.table import GainTable

# Rows that are shown: a browser takes a second for some thousands.
ROWS = 300
COLUMNS = (
    *("std", "gain", "centered_gain", "backward_gain", "variance_slope", "gradient_factor"),
    *("second_moment", "method", "error"),
)


def entry(found: GainEntry) -> str:
    """All numbers of an entry, and its place on the curves of its activation."""
    facts = [(key, _cell(value, repr)) for key, value in to_dict(found).items() if key != "params"]
    return _table(called(found.activation, found.params), (), facts) + _picture(
        lambda plot: plot.entry(found)
    )


def curve(found: GainCurve) -> str:
    """The numbers of a curve, and the curve."""
    entries = list(found)
    name = called(found.activation, found.params)
    shown = _table(f"{name}: {len(entries)} stds", COLUMNS, map(_row, entries))
    return shown + _picture(lambda plot: plot.numbers({name: entries}))


def table(found: GainTable) -> str:
    """The entries of a table, and a picture of them: curves of a few activations, or a chart."""
    columns = ("activation", *COLUMNS)
    names = [called(each.activation, each.params) for each in found]
    rows = ((name, *_row(each)) for name, each in zip(names, found, strict=True))
    title = f"{len(found)} entries of {len(found.listings)} activations"

    def draw(plot: Any) -> Figure:
        groups: dict[str, list[GainEntry]] = {}
        for name, each in zip(names, found, strict=True):
            groups.setdefault(name, []).append(each)
        drawn: Figure = plot.numbers(groups) if len(groups) <= 7 else plot.chart(found)
        return drawn

    return _table(title, columns, rows) + _picture(draw)


def report(found: SignalReport) -> str:
    """The weights of a report, its warnings, and its picture."""
    title, (columns, *rows) = found.rows()
    warnings = "".join(f"<li>{escape(sentence)}</li>" for sentence in found.warnings)
    listed = f"<ul>{warnings}</ul>" if warnings else ""
    return _table(title, columns, rows) + listed + _picture(lambda plot: plot.report(found))


def _row(found: GainEntry) -> list[str]:
    facts = to_dict(found)
    return [_cell(facts[key]) for key in COLUMNS]


def _cell(value: Any, number: Callable[[float], str] = "{:.6g}".format) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else number(value)


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells under a title; in a box that scrolls, and no more than ROWS."""
    rows = iter(rows)
    shown = [f"<tr>{_cells('td', row)}</tr>" for row in islice(rows, ROWS)]
    left = sum(1 for _ in rows)
    more = f"<p>and {left} more</p>" if left else ""
    head = f"<thead><tr>{_cells('th', columns)}</tr></thead>" if columns else ""
    return (
        f"<p>{escape(title)}</p>"
        '<div style="max-height: 26em; overflow: auto; display: inline-block; max-width: 100%">'
        f"<table>{head}<tbody>{''.join(shown)}</tbody></table>{more}</div>"
    )


def _cells(tag: str, cells: Sequence[str]) -> str:
    style = 'style="text-align: left; white-space: nowrap"'
    return "".join(f"<{tag} {style}>{escape(cell)}</{tag}>" for cell in cells)


def _picture(draw: Callable[[Any], Figure]) -> str:
    """What is drawn with ``gainreg.plot``, as an image in the text. None where matplotlib is not
    installed, or there is nothing to draw: the numbers stand above."""
    try:
        from gainreg import plot
        from gainreg.plot.look import png

        data = base64.b64encode(png(draw(plot))).decode()
    except GainregError:
        return ""
    source = f"data:image/png;base64,{data}"
    return f'<img alt="picture of these numbers" style="max-width: 100%" src="{source}">'
