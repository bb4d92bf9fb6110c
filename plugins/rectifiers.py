"""Rectifiers: linear or polynomial on each side of 0 or of a few kinks."""

from gainreg import Activation, hookimpl
from gainreg.moments.piecewise import Piecewise, X, piecewise


@hookimpl
def gainreg_activations() -> list[Activation]:
    return [
        Activation(
            "identity",
            aliases=("linear",),
            **piecewise(lambda: Piecewise([], [X])),
            reference="φ(x) = x",
        ),
        Activation(
            "relu",
            **piecewise(lambda: Piecewise([0], [0, X])),
            reference="max(x, 0); gain √2: He et al. 2015, arXiv:1502.01852, eq. 10",
        ),
        Activation(
            "leaky_relu",
            params={"negative_slope": 0.01},
            **piecewise(lambda negative_slope: Piecewise([0], [negative_slope * X, X])),
            reference="max(x, 0) + negative_slope·min(x, 0); Maas, Hannun and Ng 2013",
        ),
    ]
