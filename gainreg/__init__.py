"""gainreg: how large initial weights must be so that signals keep their size through depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gainreg.errors import (
    GainregError,
    MomentError,
    ParameterError,
    PluginError,
    TableError,
    UnknownActivationError,
)

__version__ = "0.1.0"
