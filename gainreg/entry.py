"""GainEntry: one answer of gainreg, its moments and the gains that follow from them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gainreg.errors import MomentError
from gainreg.params import check_choice

if TYPE_CHECKING:
    from gainreg.moments import FloatArray

Number = TypeVar("Number", float, "FloatArray")

EPS = sys.float_info.epsilon
# The least normal double. A moment below it has lost digits, so that no gain is made of it.
SMALLEST = sys.float_info.min
# A variance is taken for 0, and φ for a constant, up to this part of the second moment. φ is right
# to a few EPS, so that a constant φ may vary by as much; the smallest variances that are not
# rounding, of 1 + x at std 1e-14, lie above.
CONSTANT = (8 * EPS) ** 2
# gradient_factor is a quotient of moments that are right to some EPS each. Up to this difference
# from 1 (plus the relative error of the second moment) it is taken for 1, so that ReLU's critical
# bias is 0 and not the root of a last digit.
LEVEL = 16 * EPS

# What a gain keeps, and the attribute that has it. Some name the fan that goes with it instead:
# std gain/√fan_in of the weights keeps the forward variance, backward_gain/√fan_out the gradient's.
MODES = {
    "forward": "gain",
    "fan_in": "gain",
    "centered": "centered_gain",
    "backward": "backward_gain",
    "fan_out": "backward_gain",
}

# All that plain data says of an entry, in the order of a table's file.
KEYS = (
    *("params", "std", "gain", "centered_gain", "backward_gain"),
    *("variance_slope", "gradient_factor", "critical_bias_std"),
    *("mean", "second_moment", "variance", "derivative_second_moment"),
    *("width", "method", "error"),
)


@dataclass(frozen=True, eq=False)
class Gains(Generic[Number]):
    """The moments of one activation, x = std·z, z standard normal, and all that follows from them.

    With weights of mean 0 and standard deviation gain/√fan, Var[y_l] = n_l·Var[w_l]·E[φ(y_{l−1})²]
    stays what it is from layer to layer (He et al. 2015, eq. 7), and likewise the gradient's
    variance going back (eq. 14).

    Attributes:
        activation: canonical name.
        params: all parameters with their values.
        std: standard deviation of the pre-activation.
        mean: E[φ(x)].
        second_moment: E[φ(x)²].
        variance: E[φ(x)²] − E[φ(x)]², with more digits than that difference has.
        derivative_second_moment: E[φ′(x)²]; 0 where it is too small for a double; None where it
            does not exist (φ jumps, or φ′ is singular) or is not known.
        variance_slope: d ln second_moment / d ln std²: what a small relative error in the
            variance is multiplied by in each layer.
        width: outputs for each pre-activation: ½ for gated units, 2 for crelu.
        method: "analytic", "quadrature" or "sampling": how second_moment was found.
        error: how far off second_moment may be, absolute.
    """

    activation: str
    params: Mapping[str, float]
    std: Number
    mean: Number
    second_moment: Number
    variance: Number
    derivative_second_moment: Number | None
    variance_slope: Number
    width: float
    method: Any
    error: Number

    def _where(self, holds: Any, value: Callable[[], Any]) -> Any:
        """``value()`` where it holds, None elsewhere."""
        return value() if holds else None

    @property
    def gain(self) -> Any:
        """std / √second_moment: keeps the pre-activation variance, forward (fan_in)."""
        return self.std * (1 / self.second_moment) ** 0.5  # 1/½ is exact, 1/√½ is not

    @property
    def centered_gain(self) -> Any:
        """std / √variance, for weights whose rows are centred (Brock et al. 2021, the γ of NFNets).

        None for a constant φ. Where the variance is far below second_moment, φ itself loses digits:
        about 2e-16·√(second_moment/variance) of them.
        """
        varies = self.variance > CONSTANT * self.second_moment
        return self._where(varies, lambda: self.std * (1 / self.variance) ** 0.5)

    @property
    def backward_gain(self) -> Any:
        """1 / √derivative_second_moment: keeps the gradient variance, backward (fan_out)."""
        slope: Any = self.derivative_second_moment
        return self._where(slope is not None and slope > 0, lambda: (1 / slope) ** 0.5)

    @property
    def gradient_factor(self) -> Any:
        """gain²·derivative_second_moment/width: the mean squared gradient's growth a layer.

        Also the slope of the correlation map at 1: above 1 signals of different inputs part, below
        1 they become alike. None where derivative_second_moment is.
        """
        slope: Any = self.derivative_second_moment
        return self._where(  # without a root, which differs by a last digit between machines
            slope is not None and slope >= 0,
            lambda: self.std / self.second_moment * slope * self.std / self.width,
        )

    @property
    def critical_bias_std(self) -> Any:
        """std·√(1 − 1/gradient_factor): of the biases that keep variance and gradients at once.

        They go with weights of standard deviation backward_gain·√(width/fan_in) (Roberts, Yaida and
        Hanin 2022, ch. 5). None where gradient_factor is None or below 1; 0 where it is 1 up to
        what is known of it.
        """
        factor = self.gradient_factor
        unsure = LEVEL + self.error / self.second_moment
        return self._where(
            factor is not None and (factor > 0) & (factor >= 1 - unsure),
            lambda: self.std * abs((factor > 1 + unsure) * (factor - 1) / factor) ** 0.5,
        )


@dataclass(frozen=True)
class GainEntry(Gains[float]):
    """The moments and gains of one activation at one std: numbers, None where there is none."""

    @property
    def backward_gain(self) -> float:
        """1 / √derivative_second_moment: keeps the gradient variance, backward (fan_out).

        Raises:
            MomentError: there is none.
        """
        return self.gain_for("backward")

    def _repr_html_(self) -> str:
        from gainreg import notebook

        return notebook.entry(self)

    def gain_for(self, mode: str) -> float:
        """The gain for a mode: "forward" or "fan_in", "centered", "backward" or "fan_out".

        Raises:
            ParameterError: another mode.
            MomentError: the gain does not exist.
        """
        check_choice(mode, "mode", MODES)
        name = MODES[mode]
        found: float | None = getattr(super(), name)
        if found is None:
            why = "E[φ′²] is 0, or below all doubles"
            if self.centered_gain is None:
                why = "φ is constant, so that no gradient passes and its variance is 0"
            elif self.derivative_second_moment is None:
                why = "E[φ′²] does not exist (φ jumps, or φ′ is singular) or is not known (φ is "
                why += "not elementwise); its forward gain is there"
            raise MomentError(f"{self.activation!r} has no {name.replace('_', ' ')}: {why}")
        return found


def to_dict(entry: GainEntry) -> dict[str, Any]:
    """An entry as plain data with the keys KEYS; None for what does not exist."""
    missing = () if entry.derivative_second_moment else ("backward_gain",)
    data = {key: None if key in missing else getattr(entry, key) for key in KEYS}
    return {**data, "params": dict(entry.params)}
