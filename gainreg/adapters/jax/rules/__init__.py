"""What each primitive of JAX is, in the terms of gainreg.signals.

A rule takes the trace, the operands and the equation's parameters, and returns what its output is.
"""

from gainreg.adapters.jax.rules import calls, elementwise, linear, moves, reductions

__all__ = ["calls", "elementwise", "linear", "moves", "reductions"]
