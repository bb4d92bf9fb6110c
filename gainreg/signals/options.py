"""What may be asked of a plan and of drawing weights, checked alike in every framework."""

from __future__ import annotations

import math
from typing import Any

from gainreg.errors import ParameterError
from gainreg.params import check_choice
from gainreg.signals.plan import Plan

DISTRIBUTIONS = ("normal", "truncated_normal", "uniform", "orthogonal")
CRITERIA = ("forward", "critical")


def options(residual: Any, output_std: Any, criterion: Any) -> dict[str, Any]:
    """The options of a plan, as it keeps them.

    Raises:
        ParameterError: one of them is not what it must be.
    """

    def is_size(value: Any) -> bool:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and 0 < value < math.inf

    if residual is not None and not is_size(residual):
        raise ParameterError(
            f"residual is a finite number above 0, or None for a share of 1 a branch, got "
            f"{residual!r}"
        )
    if not is_size(output_std):
        raise ParameterError(f"output_std is a finite number above 0, got {output_std!r}")
    check_choice(criterion, "criterion", CRITERIA)
    return {
        "residual": None if residual is None else float(residual),
        "output_std": float(output_std),
        "criterion": criterion,
    }


def check_distribution(distribution: Any) -> None:
    """Refuse a distribution that no weights are drawn from.

    Raises:
        ParameterError: it is none of those known.
    """
    check_choice(distribution, "distribution", DISTRIBUTIONS)


def check_plan(plan: Any) -> None:
    """Refuse what is no plan, as the path of one.

    Raises:
        ParameterError: it is none.
    """
    if not isinstance(plan, Plan):
        raise ParameterError(
            f"plan is what plan() or gainreg.load_plan(path) gives, got {type(plan).__name__}"
        )


def check_calibration(calibrate: bool, criterion: str) -> None:
    """Refuse to calibrate where biases have a size.

    Raises:
        ParameterError: calibrate goes with the criterion "forward" only.
    """
    if calibrate and criterion != "forward":
        raise ParameterError("calibrate goes with the criterion 'forward' only: biases have a size")
