"""Pictures of activations, tables and reports, by matplotlib (extra ``plot``).

A function draws one panel, on ``ax=`` or on a figure of its own, and returns its Axes; those of
several panels (``overview``, ``report``, ``entry``, ``numbers``, ``chart``) return a Figure.
"""

from gainreg.plot.activations import (
    correlation,
    depth,
    derivative,
    function,
    over_std,
    overview,
)
from gainreg.plot.look import save
from gainreg.plot.reports import report, signal
from gainreg.plot.tables import chart, entry, numbers

__all__ = [
    "chart",
    "correlation",
    "depth",
    "derivative",
    "entry",
    "function",
    "numbers",
    "over_std",
    "overview",
    "report",
    "save",
    "signal",
]
