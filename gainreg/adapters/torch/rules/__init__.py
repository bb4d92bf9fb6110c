"""What each ATen operation is, in the terms of gainreg.signals: a row of the design's table each.

A rule takes the trace and the operation's own arguments, and returns what its output is.
"""

from gainreg.adapters.torch.rules import (
    attention,
    elementwise,
    linear,
    moves,
    recurrent,
    reductions,
)

__all__ = ["attention", "elementwise", "linear", "moves", "recurrent", "reductions"]
