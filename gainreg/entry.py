"""GainEntry: one answer of gainreg, and the formulas that make gains of moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gainreg.errors import MomentError, ParameterError

MODES = ("forward", "centered", "backward")


class Gains:
    """The gains that follow from ``std`` and the moments; floats or arrays alike.

    With weights of mean 0 and standard deviation gain/√fan, Var[y_l] = n_l·Var[w_l]·E[φ(y_{l−1})²]
    stays what it is from layer to layer (He et al. 2015, eq. 7), and likewise the gradient's
    variance going back (eq. 14).
    """

    activation: str
    std: Any
    second_moment: Any
    derivative_second_moment: Any

    @property
    def gain(self) -> Any:
        """std / √second_moment: keeps the pre-activation variance, forward (fan_in)."""
        return self.std * (1 / self.second_moment) ** 0.5  # 1/½ is exact, 1/√½ is not

    @property
    def backward_gain(self) -> Any:
        """1 / √derivative_second_moment: keeps the gradient variance, backward (fan_out).

        Raises:
            MomentError: φ jumps or its derivative is not known, so that no such gain exists.
        """
        if self.derivative_second_moment is None:
            raise MomentError(
                f"{self.activation!r} has no backward gain: E[φ′²] does not exist (φ jumps, or φ′ "
                "is singular) or is not known (φ is not elementwise); its forward gain is there"
            )
        if isinstance(self.derivative_second_moment, float) and not self.derivative_second_moment:
            raise MomentError(
                f"{self.activation!r} has no backward gain: E[φ′²] is 0, or below all doubles"
            )
        return (1 / self.derivative_second_moment) ** 0.5

    @property
    def gradient_factor(self) -> Any:
        """gain²·derivative_second_moment: the mean squared gradient's growth a layer, or None."""
        if self.derivative_second_moment is None:
            return None
        return self.gain * self.derivative_second_moment * self.gain


@dataclass(frozen=True)
class GainEntry(Gains):
    """The gains and moments of one activation at one std, x = std·z, z standard normal.

    Attributes:
        activation: canonical name.
        params: all parameters with their values.
        std: standard deviation of the pre-activation.
        mean: E[φ(x)].
        second_moment: E[φ(x)²].
        derivative_second_moment: E[φ′(x)²], or None where φ jumps.
        centered_gain: std / √(second_moment − mean²), for weights whose rows are centred (Brock
            et al. 2021, the γ of NFNets); None for a constant φ. Where the variance is far below
            second_moment, φ itself loses digits: about 2e-16·√(second_moment/variance) of them.
        variance_slope: d ln second_moment / d ln std²: what a small relative error in the
            variance is multiplied by in each layer.
        method: "analytic", "quadrature" or "sampling": how second_moment was found.
        error: how far off second_moment may be, absolute.
    """

    activation: str
    params: Mapping[str, float]
    std: float
    mean: float
    second_moment: float
    derivative_second_moment: float | None
    centered_gain: float | None
    variance_slope: float
    method: str
    error: float

    def gain_for(self, mode: str) -> float:
        """The gain for a mode: "forward", "centered" or "backward".

        Raises:
            ParameterError: another mode.
            MomentError: the gain does not exist.
        """
        if mode == "forward":
            return float(self.gain)
        if mode == "backward":
            return float(self.backward_gain)
        if mode != "centered":
            raise ParameterError(f"mode is one of {', '.join(map(repr, MODES))}, got {mode!r}")
        if self.centered_gain is None:
            raise MomentError(
                f"{self.activation!r} has no centered gain: φ is constant, its variance is 0"
            )
        return self.centered_gain
