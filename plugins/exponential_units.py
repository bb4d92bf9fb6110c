"""Exponential units: polynomial above 0, exponential below; and the exponential itself."""

from gainreg import Activation, Piecewise, X, exp, piecewise

from . import all_of

ELU = Activation(
    "elu",
    params={"alpha": 1.0},
    **piecewise(lambda alpha: Piecewise([0], [alpha * (exp(1) - 1), X])),
    reference="x for x > 0, else alpha·(eˣ − 1); Clevert et al. 2015, arXiv:1511.07289",
)

CELU = Activation(
    "celu",
    params={"alpha": 1.0},
    **piecewise(lambda alpha: Piecewise([0], [alpha * (exp(1 / alpha) - 1), X])),
    constraints={"alpha > 0": lambda alpha: alpha > 0},
    reference="x for x > 0, else alpha·(e^{x/alpha} − 1); Barron 2017, arXiv:1704.07483",
)

# Klambauer et al. 2017, eq. 14: the fixed point at mean 0 and variance 1
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946

SELU = Activation(
    "selu",
    **piecewise(lambda: Piecewise([0], [SELU_SCALE * SELU_ALPHA * (exp(1) - 1), SELU_SCALE * X])),
    reference="scale·elu(x, alpha); Klambauer et al. 2017, arXiv:1706.02515",
)


XIELU = Activation(
    "xielu",
    params={"alpha_p": 0.8, "alpha_n": 0.8, "beta": 0.5},
    **piecewise(
        lambda alpha_p, alpha_n, beta: Piecewise(
            [0], [alpha_n * (exp(1) - 1 - X) + beta * X, alpha_p * X * X + beta * X]
        )
    ),
    reference="alpha_p·x² + beta·x for x > 0, else alpha_n·(eˣ − 1 − x) + beta·x, at its "
    "initial values; Huang and Schlag 2024, arXiv:2411.13010",
)


EXP = Activation(
    "exp",
    aliases=("exponential",),
    **piecewise(lambda: Piecewise([], [exp(1)])) | {"variance_slope": lambda std: 2 * std**2},
    reference="eˣ; its moments are those of the lognormal distribution",
)

gainreg_activations = all_of(globals())
