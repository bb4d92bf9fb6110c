"""What an operation is once its framework's spelling is gone: what the rules of every tracer call.

Arguments a, b, x are tensors of the framework, or numbers where that is said; what comes back is
what the output is. A tensor knows its ``shape``; all else is asked of the ``Trace``.
"""

from gainreg.signals.operations.attending import attention, contracted, kept_where, masked, softmax
from gainreg.signals.operations.means import averaged, blended, running_sum
from gainreg.signals.operations.moves import (
    concatenated,
    cut,
    expanded,
    moved,
    padded,
    picked,
    reordered,
)
from gainreg.signals.operations.sums import divided, dropped, line, multiplied, summed
from gainreg.signals.operations.weights import linear, looked_up, role, shared

__all__ = [
    "attention",
    "averaged",
    "blended",
    "concatenated",
    "contracted",
    "cut",
    "divided",
    "dropped",
    "expanded",
    "kept_where",
    "line",
    "linear",
    "looked_up",
    "masked",
    "moved",
    "multiplied",
    "padded",
    "picked",
    "reordered",
    "role",
    "running_sum",
    "shared",
    "softmax",
    "summed",
]
