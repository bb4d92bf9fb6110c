"""How a signal's size goes through a network: plain numbers, and no framework.

A framework's adapter records a ``Tape`` of what its model did; ``Flow`` sends the signal through
it; what comes out is a ``Plan`` and a ``SignalReport``.
"""

from gainreg.signals.flow import Aims, Flow
from gainreg.signals.plan import Plan, PlannedWeight, load_plan
from gainreg.signals.report import SignalReport, WeightReport
from gainreg.signals.tape import Node, Parameter, Tape

__all__ = [
    "Aims",
    "Flow",
    "Node",
    "Parameter",
    "Plan",
    "PlannedWeight",
    "SignalReport",
    "Tape",
    "WeightReport",
    "load_plan",
]
