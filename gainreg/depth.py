"""What a plain stack makes of a signal's size, layer by layer, by theory.

A plain stack has one activation throughout, weights of standard deviation gain/√fan_in and no
biases. With φ at std, K the mean square of a layer's pre-activations and n their number, the next
layer has K′ = gain²·E[φ(√K·z)²] on average (He et al. 2015, eq. 7), and ln K′ strays from draw to
draw of the weights with variance (κ − 1)/n, κ = E[φ⁴]/E[φ²]² (Hanin and Nica 2018,
arXiv:1812.05994).
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import PchipInterpolator

from gainreg.bound import Bound
from gainreg.errors import MomentError, ParameterError
from gainreg.frameworks import Item, bind
from gainreg.moments import FloatArray
from gainreg.params import check_std
from gainreg.resolver import curve_of, known_at

# The stds at which a layer is evaluated. Between them ln K′ − ln K is a smooth function of ln std,
# on a scale of 1: with four a decade, monotone cubics give GELU's and tanh's to 3e-3. Beyond them
# both it and κ are what they are at the end.
STDS: FloatArray = np.logspace(-3, 3, 25)
# Nodes in z and weights of a trapezoid sum for κ, which is needed to a percent: kinks and jumps
# inside a step of 0.01 leave 1e-3.
NODES: FloatArray = np.linspace(-9.0, 9.0, 1801)
DENSITY: FloatArray = np.exp(-(NODES**2) / 2)
DENSITY /= DENSITY.sum()
# What is random or not elementwise is sampled: κ to some percent, at a std a decade.
SAMPLES = 1 << 15
SAMPLED: FloatArray = np.logspace(-3, 3, 7)
# The draws of a whole stack that are followed: 1000 give the quantiles of ln rms to 5 % of their
# distance. More cost time, and the picture does not show them.
DRAWS = 1000
# One draw in six is below the first quantile and one above the last, as in a Gaussian beyond one
# standard deviation.
QUANTILES = (0.1587, 0.5, 0.8413)
# |ln K| up to which a draw is followed, far outside any picture: e⁷⁰ is 10³⁰.
FAR = 70.0


def through_depth(
    activation: Item, *, std: float = 1.0, width: int = 256, layers: int = 100, **params: float
) -> FloatArray:
    """The rms of the pre-activations of each layer of a plain stack, over draws of its weights.

    Args:
        activation: a registered name or alias; an ``Activation``; any vectorised callable; or a
            function or module of a framework that is imported already.
        std: of the first layer's pre-activations, for which the gain is chosen.
        width: pre-activations of a layer.
        layers: how many follow the first.
        **params: the activation's parameters, where they differ from the defaults.

    Returns:
        Shape (3, layers + 1): the rms below which one draw in six lies, the median, and the rms
        above which one in six lies.

    Raises:
        ParameterError: width or layers is no whole number above 0; or a param or the std is not
            what it must be.
        UnknownActivationError, MomentError, PluginError: as ``gainreg.resolve``.
    """
    for name, value in (("width", width), ("layers", layers)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ParameterError(f"{name} must be a whole number above 0, got {value!r}")
    bound = bind(activation, params)
    (start,) = curve_of(bound, [check_std(std)])
    # with the std itself among them, where an activation of slope above 1 must stand exactly still
    entries = known_at(bound, np.unique([*STDS, start.std]))
    grid = np.log([entry.std for entry in entries])
    growth = np.log([entry.second_moment for entry in entries]) + 2 * np.log(start.gain) - 2 * grid
    drift = PchipInterpolator(grid, growth) if len(grid) > 1 else lambda _: growth[0]
    with np.errstate(all="ignore"):
        at, kurtosis = _kurtosis(bound)
    outputs = width * bound.width
    rng = np.random.default_rng(0)
    log_k = np.full(DRAWS, 2 * np.log(start.std))
    found = np.empty((layers + 1, DRAWS))
    for layer in range(layers + 1):
        # of n Gaussian pre-activations, ln of the mean square itself strays by 2/n
        found[layer] = (log_k + np.sqrt(2 / width) * rng.standard_normal(DRAWS)) / 2
        noise = (np.interp(log_k / 2, at, kurtosis) - 1) / outputs
        step = drift(np.clip(log_k / 2, grid[0], grid[-1])) - noise / 2  # so that E[K′] is right
        log_k = log_k + step + np.sqrt(noise) * rng.standard_normal(DRAWS)
        log_k = np.clip(log_k, -FAR, FAR)
    return np.asarray(np.exp(np.quantile(found, QUANTILES, axis=1)), dtype=np.float64)


def _kurtosis(bound: Bound) -> tuple[FloatArray, FloatArray]:
    """ln std and κ = E[φ⁴]/E[φ²]² there."""
    function, factor = (bound, 1.0) if bound.gate is None else (bound.gate, 3.0)
    if function.integrable:
        # of a·φ(b), E[a⁴] = 3·E[a²]² multiplies it
        stds, y = STDS, function.forward(np.outer(STDS, NODES))
    else:
        assert bound.sampler is not None
        rng = np.random.default_rng(0)
        stds = SAMPLED
        y = np.array([bound.sampler(float(std), SAMPLES, rng) for std in stds])
    weights = DENSITY if function.integrable else np.full(SAMPLES, 1 / SAMPLES)
    kurtosis = factor * (y**4 @ weights) / (y**2 @ weights) ** 2
    known = np.isfinite(kurtosis)
    if not known.any():
        raise MomentError(f"E[φ⁴] of {bound.name!r} is not known at any std")
    # of a sign it is 1 less a last digit
    return np.log(stds[known]), np.maximum(1.0, kurtosis[known])
