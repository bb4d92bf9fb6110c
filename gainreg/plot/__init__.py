"""Pictures of activations, tables and reports, by matplotlib (extra ``plot``).

A function draws one panel, on ``ax=`` beside what is there or on a figure of its own, and returns
its Axes; those of several panels (``overview``, ``report``, ``entry``, ``numbers``, ``chart``)
return a Figure. Activations are names, Activations or functions, or pairs of one and its params, as
in ``("elu", {"alpha": 0.5})``, and at most 7, which is what a picture holds legibly. What is wrong
with them, a std or a table is said as by ``gainreg.resolve`` and ``gainreg.load_table``.
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
