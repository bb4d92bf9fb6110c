"""Make wide.json: Gaussian moments of activations by high-precision numerical integration.

Every number is integrated by mpmath straight from the activation's definition, at 70 working
digits, over standard deviations from 1e-6 to 1e6. With z standard normal and x = std * z:

    mean                      E[phi(x)]
    second_moment             E[phi(x)^2]
    derivative_second_moment  E[phi'(x)^2], null where phi jumps
    variance_slope            E[phi(x)^2 (z^2 - 1)] / (2 second_moment)

Method: fold the line onto z > 0 (so that what is odd cancels point by point), cut it at the
activation's kinks, and on each piece use the trapezoid rule in the logarithm of the distance from
the piece's left end, which resolves every scale alike. The step is halved until two successive
results agree to 40 digits, or the run fails. As the error of the rule is about squared by each
halving, the finer result, which is the one written, is better than that. The exception: sin, cos
and snake at a large std, which oscillate too fast and come from exact Fourier formulas.

    python generate.py                  make wide.json afresh (two minutes on one core)
    python generate.py --only elu gelu  recompute these activations, keep the other rows
    python generate.py --check          compare this generator with moments.json, write nothing
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

import mpmath
from mpmath import mp, mpf

mp.dps = 70

HERE = Path(__file__).resolve().parent
WIDE = HERE / "wide.json"
MOMENTS = HERE / "moments.json"

STDS = (1e-6, 1e-5, 3e-4, 0.02, 0.07, 0.3, 0.7, 1.5, 4.0, 30.0, 200.0, 1e4, 1e6)
EXP_STDS = (*(std for std in STDS if std <= 18), 18.0)  # E[exp(x)^2] overflows soon after
SMALLEST, LARGEST = mpf("1e-300"), mpf("1e300")  # rows with a second moment outside are left out
AGREEMENT = mpf("1e-40")  # relative, between the last two steps
FIRST_LEVEL, LAST_LEVEL = 4, 10  # the step is 2^-level
REACH = mpf(190)  # the integrals stop where the integrand has fallen by e^-190 = 1e-82
FOURIER = ("sin", "cos", "snake")  # exact formulas, from this std on:
FOURIER_FROM = 10.0
QUANTITIES = ("mean", "second_moment", "derivative_second_moment", "variance_slope")

Real = Any  # mpf: mpmath has no types
Function = Callable[[Real], tuple[Real, Real]]
Row = dict[str, Any]
Moments = tuple[Real, Real, Real, Real]  # in the order of QUANTITIES

# --- The activations: each returns (phi(x), phi'(x)) for x other than a kink. ---
# exp(x) - 1 and the like lose a few of the 70 digits near 0, and that is all right here.

ROOT2, ROOT_PI = mpmath.sqrt(2), mpmath.sqrt(mp.pi)
GELU_ROOT = mpmath.sqrt(2 / mp.pi)
SELU_SCALE = mpf("1.0507009873554804934193349852946")
SELU_ALPHA = mpf("1.6732632423543772848170429916717")
ZERO, ONE = mpf(0), mpf(1)


def logistic(x: Real) -> Real:
    return 1 / (1 + mpmath.exp(-x))


def clip(x: Real, low: Real, high: Real) -> tuple[Real, Real]:
    return (low, ZERO) if x < low else (high, ZERO) if x > high else (x, ONE)


def odd(function: Function) -> Function:
    """Make an odd function exactly odd, whatever the rounding."""

    @wraps(function)
    def reflected(x: Real) -> tuple[Real, Real]:
        if x > 0:
            return function(x)
        f, d = function(-x)
        return -f, d

    return reflected


def identity(x: Real) -> tuple[Real, Real]:
    return x, ONE


def relu(x: Real) -> tuple[Real, Real]:
    return (x, ONE) if x > 0 else (ZERO, ZERO)


def leaky_relu(x: Real, negative_slope: Real) -> tuple[Real, Real]:
    return (x, ONE) if x > 0 else (negative_slope * x, negative_slope)


def prelu(x: Real, weight: Real) -> tuple[Real, Real]:
    return leaky_relu(x, weight)


def relu6(x: Real) -> tuple[Real, Real]:
    return clip(x, ZERO, mpf(6))


def relu_squared(x: Real) -> tuple[Real, Real]:
    return (x * x, 2 * x) if x > 0 else (ZERO, ZERO)


def abs_(x: Real) -> tuple[Real, Real]:
    return (x, ONE) if x > 0 else (-x, -ONE)


def square(x: Real) -> tuple[Real, Real]:
    return x * x, 2 * x


def elu(x: Real, alpha: Real) -> tuple[Real, Real]:
    if x > 0:
        return x, ONE
    e = mpmath.exp(x)
    return alpha * (e - 1), alpha * e


def celu(x: Real, alpha: Real) -> tuple[Real, Real]:
    if x > 0:
        return x, ONE
    e = mpmath.exp(x / alpha)
    return alpha * (e - 1), e


def selu(x: Real) -> tuple[Real, Real]:
    f, d = elu(x, SELU_ALPHA)
    return SELU_SCALE * f, SELU_SCALE * d


def gelu(x: Real) -> tuple[Real, Real]:
    cdf = (1 + mpmath.erf(x / ROOT2)) / 2
    return x * cdf, cdf + x * mpmath.exp(-x * x / 2) / (ROOT2 * ROOT_PI)


def gelu_tanh(x: Real) -> tuple[Real, Real]:
    c = mpf(0.044715)
    t = mpmath.tanh(GELU_ROOT * (x + c * x**3))
    return x * (1 + t) / 2, (1 + t + x * (1 - t * t) * GELU_ROOT * (1 + 3 * c * x * x)) / 2


def swish_beta(x: Real, beta: Real) -> tuple[Real, Real]:
    s = logistic(beta * x)
    return x * s, s + beta * x * s * (1 - s)


def quick_gelu(x: Real) -> tuple[Real, Real]:
    return swish_beta(x, mpf(1.702))


def silu(x: Real) -> tuple[Real, Real]:
    return swish_beta(x, ONE)


def mish(x: Real) -> tuple[Real, Real]:
    e = mpmath.exp(x)
    w = (1 + e) ** 2
    t = (w - 1) / (w + 1)  # tanh(log w) with the square taken: tanh(log1p(e^x))
    return x * t, t + x * (1 - t * t) * e / (1 + e)


def sigmoid(x: Real) -> tuple[Real, Real]:
    s = logistic(x)
    return s, s * (1 - s)


def softplus(x: Real, beta: Real) -> tuple[Real, Real]:
    e = mpmath.exp(beta * x)
    return mpmath.log(1 + e) / beta, e / (1 + e)


def logsigmoid(x: Real) -> tuple[Real, Real]:
    f, d = softplus(-x, ONE)
    return -f, d


def squareplus(x: Real, b: Real) -> tuple[Real, Real]:
    r = mpmath.sqrt(x * x + b)
    return (x + r) / 2, (1 + x / r) / 2


@odd
def tanh(x: Real) -> tuple[Real, Real]:
    t = mpmath.tanh(x)
    return t, 1 - t * t


@odd
def lecun_tanh(x: Real) -> tuple[Real, Real]:
    f, d = tanh(2 * x / 3)
    return mpf(1.7159) * f, mpf(1.7159) * 2 * d / 3


@odd
def tanhshrink(x: Real) -> tuple[Real, Real]:
    t = mpmath.tanh(x)
    return x - t, t * t


@odd
def softsign(x: Real) -> tuple[Real, Real]:
    r = 1 / (1 + x)
    return x * r, r * r


def hardtanh(x: Real, min_val: Real, max_val: Real) -> tuple[Real, Real]:
    return clip(x, min_val, max_val)


def hardsigmoid(x: Real) -> tuple[Real, Real]:
    f, d = clip(x / 6 + mpf(0.5), ZERO, ONE)
    return f, d / 6


def hardswish(x: Real) -> tuple[Real, Real]:
    f, d = hardsigmoid(x)
    return x * f, f + x * d


def hardshrink(x: Real, lambd: Real) -> tuple[Real, Real]:
    return (x, ONE) if abs(x) > lambd else (ZERO, ZERO)


def softshrink(x: Real, lambd: Real) -> tuple[Real, Real]:
    return (x - clip(x, -lambd, lambd)[0], ONE if abs(x) > lambd else ZERO)


def threshold(x: Real, threshold: Real, value: Real) -> tuple[Real, Real]:
    return (x, ONE) if x > threshold else (value, ZERO)


@odd
def sin(x: Real) -> tuple[Real, Real]:
    return mpmath.sin(x), mpmath.cos(x)


def cos(x: Real) -> tuple[Real, Real]:
    return mpmath.cos(x), -mpmath.sin(x)


def snake(x: Real, alpha: Real) -> tuple[Real, Real]:
    s, c = mpmath.sin(alpha * x), mpmath.cos(alpha * x)
    return x + s * s / alpha, 1 + 2 * s * c


def gaussian(x: Real) -> tuple[Real, Real]:
    e = mpmath.exp(-x * x)
    return e, -2 * x * e


@odd
def erf(x: Real) -> tuple[Real, Real]:
    return mpmath.erf(x), 2 * mpmath.exp(-x * x) / ROOT_PI


def exp(x: Real) -> tuple[Real, Real]:
    e = mpmath.exp(x)
    return e, e


@odd
def atan(x: Real) -> tuple[Real, Real]:
    return mpmath.atan(x), 1 / (1 + x * x)


@odd
def asinh(x: Real) -> tuple[Real, Real]:
    r = mpmath.sqrt(1 + x * x)
    return mpmath.log(x + r), 1 / r


def bent_identity(x: Real) -> tuple[Real, Real]:
    r = mpmath.sqrt(x * x + 1)
    return (r - 1) / 2 + x, x / (2 * r) + 1


def sparse_plus(x: Real) -> tuple[Real, Real]:
    if abs(x) < 1:
        return (x + 1) ** 2 / 4, (x + 1) / 2
    return (x, ONE) if x > 0 else (ZERO, ZERO)


def sparse_sigmoid(x: Real) -> tuple[Real, Real]:
    f, d = clip((x + 1) / 2, ZERO, ONE)
    return f, d / 2


def laplace(x: Real) -> tuple[Real, Real]:
    width = mpmath.sqrt(1 / (4 * mp.pi)) * ROOT2
    u = (x - mpmath.sqrt(mpf(0.5))) / width
    return (1 + mpmath.erf(u)) / 2, mpmath.exp(-u * u) / (ROOT_PI * width)


def star_relu(x: Real) -> tuple[Real, Real]:
    f, d = relu_squared(x)
    return mpf(0.8944) * f - mpf(0.4472), mpf(0.8944) * d


def telu(x: Real) -> tuple[Real, Real]:
    if x > 10:  # tanh(e^10) is 1 to 19000 digits
        return x, ONE
    e = mpmath.exp(x)
    t = mpmath.tanh(e)
    return x * t, t + x * e * (1 - t * t)


def xielu(x: Real, alpha_p: Real, alpha_n: Real, beta: Real) -> tuple[Real, Real]:
    if x > 0:
        return alpha_p * x * x + beta * x, 2 * alpha_p * x + beta
    e = mpmath.exp(x)
    return alpha_n * (e - 1 - x) + beta * x, alpha_n * (e - 1) + beta


def sign(x: Real) -> tuple[Real, Real]:
    return (ONE if x > 0 else -ONE), ZERO


def step(x: Real) -> tuple[Real, Real]:
    return (ONE if x > 0 else ZERO), ZERO


@dataclass(frozen=True)
class Case:
    """An activation with its parameters, and where it is not smooth.

    The line is cut at 0 and at plus and minus each kink.
    """

    name: str
    function: Callable[..., tuple[Real, Real]]
    params: dict[str, float] = field(default_factory=dict)
    kinks: tuple[float | str, ...] = ()  # numbers, or names of params
    jumps: bool = False
    stds: tuple[float, ...] = STDS
    growth: int = 0  # phi(x)^2 grows like exp(growth * x)

    def kink_points(self) -> list[Real]:
        return [mpf(self.params[k] if isinstance(k, str) else k) for k in self.kinks]

    def bound(self) -> Function:
        """Return the function of x alone."""
        params = {key: mpf(value) for key, value in self.params.items()}
        return lambda x: self.function(x, **params)


CASES = [
    Case("identity", identity),
    Case("relu", relu),
    *(Case("leaky_relu", leaky_relu, {"negative_slope": s}) for s in (0.01, -0.3, 1.5)),
    Case("prelu", prelu, {"weight": 0.25}),
    Case("relu6", relu6, kinks=(6.0,)),
    Case("relu_squared", relu_squared),
    Case("abs", abs_),
    Case("square", square),
    *(Case("elu", elu, {"alpha": a}) for a in (1.0, 0.05, 5.0)),
    *(Case("celu", celu, {"alpha": a}) for a in (1.0, 0.3, 4.0)),
    Case("selu", selu),
    Case("gelu", gelu),
    Case("gelu_tanh", gelu_tanh),
    Case("quick_gelu", quick_gelu),
    Case("silu", silu),
    *(Case("swish_beta", swish_beta, {"beta": b}) for b in (1.0, 0.2, 8.0)),
    Case("mish", mish),
    Case("sigmoid", sigmoid),
    Case("logsigmoid", logsigmoid),
    *(Case("softplus", softplus, {"beta": b}) for b in (1.0, 0.25, 6.0)),
    *(Case("squareplus", squareplus, {"b": b}) for b in (4.0, 0.01)),
    Case("tanh", tanh),
    Case("lecun_tanh", lecun_tanh),
    Case("tanhshrink", tanhshrink),
    Case("softsign", softsign),
    *(
        Case("hardtanh", hardtanh, {"min_val": a, "max_val": b}, kinks=("min_val", "max_val"))
        for a, b in ((-1.0, 1.0), (-0.2, 3.0))
    ),
    Case("hardsigmoid", hardsigmoid, kinks=(3.0,)),
    Case("hardswish", hardswish, kinks=(3.0,)),
    *(
        Case("hardshrink", hardshrink, {"lambd": c}, kinks=("lambd",), jumps=True)
        for c in (0.5, 0.01)
    ),
    *(Case("softshrink", softshrink, {"lambd": c}, kinks=("lambd",)) for c in (0.5, 2.0)),
    Case(
        "threshold",
        threshold,
        {"threshold": 0.1, "value": 20.0},
        kinks=("threshold",),
        jumps=True,
    ),
    Case("sin", sin),
    Case("cos", cos),
    *(Case("snake", snake, {"alpha": a}) for a in (1.0, 0.3)),
    Case("gaussian", gaussian),
    Case("erf", erf),
    Case("exp", exp, stds=EXP_STDS, growth=2),
    Case("atan", atan),
    Case("asinh", asinh),
    Case("bent_identity", bent_identity),
    Case("sparse_plus", sparse_plus, kinks=(1.0,)),
    Case("sparse_sigmoid", sparse_sigmoid, kinks=(1.0,)),
    Case("laplace", laplace),
    Case("star_relu", star_relu),
    Case("telu", telu),
    Case("xielu", xielu, {"alpha_p": 0.8, "alpha_n": 0.8, "beta": 0.5}),
    Case("sign", sign, jumps=True),
    Case("step", step, jumps=True),
]

# --- The integration. ---


@lru_cache(maxsize=256)
def nodes(
    start: Real, end: Real | None, std: float, growth: Real, level: int
) -> list[tuple[Real, Real]]:
    """Return the nodes z in (start, end) that `level` adds, with weights (step left out).

    The distance s from `start` is length / (1 + e^-v), or e^v where the piece is endless; v is t,
    the trapezoid rule's variable, but for an exponential bend below the smallest scale of the
    integrand (and at the far end of a finite piece), which makes the ends vanish doubly
    exponentially. The weights hold ds/dt and the normal density.
    """
    ahead = growth - start
    if ahead < 0:  # the root of s^2/2 - ahead s = REACH without cancellation
        farthest = 2 * REACH / (mpmath.sqrt(ahead**2 + 2 * REACH) - ahead)
    else:
        farthest = ahead + mpmath.sqrt(ahead**2 + 2 * REACH)
    scale = min(ONE, 1 / mpf(std), 1 / (1 + start))
    bend = mpmath.log(REACH)
    if end is None:
        length = ONE
        left = mpmath.log(scale) - 3
        right = mp.inf
        high = mpmath.log(farthest) + mpf(0.1)
    else:
        length = end - start
        left = min(mpmath.log(scale / length), ZERO) - 2
        right = mpf(2)
        part = farthest / length
        high = right + bend
        if part < 0.8:
            high = min(high, mpmath.log(part / (1 - part)) + mpf(0.2))
    low = left - bend
    step = mpf(2) ** -level
    first, last = int(mpmath.floor(low / step)), int(mpmath.ceil(high / step))
    found = []
    for j in range(first, last + 1):
        if level > FIRST_LEVEL and j % 2 == 0:
            continue  # an earlier level had it
        t = j * step
        below = mpmath.exp(left - t)
        if end is None:
            s = mpmath.exp(t - below)
            slope = s * (1 + below)
        else:
            above = mpmath.exp(t - right)
            small = mpmath.exp(below - t - above)  # (1 - w) / w
            w = 1 / (1 + small)
            s = length * w
            slope = s * small * w * (1 + below + above)
        z = start + s
        found.append((z, slope * mpmath.exp(-z * z / 2) / (ROOT2 * ROOT_PI)))
    return found


def integrate(case: Case, std: float) -> tuple[Moments, Real]:
    """Return the four numbers by the trapezoid rule, and how well the last two steps agreed."""
    phi = case.bound()
    sigma = mpf(std)
    cuts = sorted({ZERO} | {abs(kink) / sigma for kink in case.kink_points()})
    pieces = list(zip(cuts, [*cuts[1:], None], strict=True))
    # E[z^2 - 1] = 0, so a constant may be taken off: the value of the folded square at 0+.
    tiny = mpf(10) ** -1000
    base = phi(tiny)[0] ** 2 + phi(-tiny)[0] ** 2
    sums = [ZERO] * 4
    before: Moments | None = None
    gap = mp.inf
    for level in range(FIRST_LEVEL, LAST_LEVEL + 1):
        for start, end in pieces:
            for z, weight in nodes(start, end, std, case.growth * sigma, level):
                x = sigma * z
                f, df = phi(x)
                g, dg = phi(-x)
                squares = f * f + g * g
                sums[0] += weight * (f + g)
                sums[1] += weight * squares
                sums[2] += weight * (df * df + dg * dg)
                sums[3] += weight * (squares - base) * (z * z - 1)
        mean, second, derivative, slope = (total / 2**level for total in sums)
        if second == 0:
            return (mean, second, derivative, ZERO), ZERO
        now = (mean, second, derivative, slope / (2 * second))
        if before is not None:
            gap = max(distance(a, b) for a, b in zip(before, now, strict=True))
            if gap <= AGREEMENT:
                return now, gap
        before = now
    raise ArithmeticError(f"{case.name} {case.params} at std {std}: agrees to {gap} only")


def distance(a: Real, b: Real) -> Real:
    """Return how far a is from b, relative to b."""
    return ZERO if a == b else mp.inf if b == 0 else abs((a - b) / b)


def fourier(case: Case, std: float) -> Moments:
    """Return the numbers of sin, cos and snake from E[cos(k x)] = c(k) = exp(-k^2 std^2 / 2).

    At a large std the integrand oscillates too fast to integrate. Used with it, by differentiating
    in std: E[cos(k x) (z^2 - 1)] = -k^2 std^2 c(k). What is odd in x has mean 0.
    """
    variance = mpf(std) ** 2

    def c(k: Real) -> Real:
        return mpmath.exp(-k * k * variance / 2)

    def curved(k: Real) -> Real:
        return -k * k * variance * c(k)

    if case.name == "snake":
        # phi = x + (1 - cos(2ax)) / (2a); phi' = 1 + sin(2ax)
        a = mpf(case.params["alpha"])
        mean = (1 - c(2 * a)) / (2 * a)
        second = variance + (mpf(1.5) - 2 * c(2 * a) + c(4 * a) / 2) / (4 * a * a)
        derivative = mpf(1.5) - c(4 * a) / 2
        slope = 2 * variance + (-2 * curved(2 * a) + curved(4 * a) / 2) / (4 * a * a)
    else:
        sgn = 1 if case.name == "cos" else -1  # phi^2 = (1 + sgn cos(2x)) / 2
        mean = c(ONE) if case.name == "cos" else ZERO
        second = (1 + sgn * c(mpf(2))) / 2
        derivative = (1 - sgn * c(mpf(2))) / 2
        slope = sgn * curved(mpf(2)) / 2
    return mean, second, derivative, slope / (2 * second)


def compute(case: Case, std: float) -> tuple[Moments, Real]:
    """Return the four numbers, and how well the last two steps agreed (0: there were none)."""
    if case.name in FOURIER and std >= FOURIER_FROM:
        return fourier(case, std), ZERO
    return integrate(case, std)


def check_derivatives(cases: Iterable[Case]) -> None:
    """Compare each phi' with a numerical derivative of phi at points of many sizes."""
    rng = random.Random(1)
    for case in cases:
        phi = case.bound()
        for _ in range(12):
            x = mpf(rng.choice((-1, 1)) * 10 ** rng.uniform(-3, 1.3))
            numerical = mpmath.diff(lambda y: phi(y)[0], x)  # noqa: B023 (used at once)
            if abs(phi(x)[1] - numerical) > mpf("1e-25") * (1 + abs(numerical)):
                raise ArithmeticError(f"{case.name} {case.params}: wrong derivative at {x}")


def check_fourier(cases: Iterable[Case]) -> None:
    """Compare the exact formulas with the integrals, where these are still easy."""
    for case in cases:
        if case.name in FOURIER:
            pairs = zip(fourier(case, 4.0), integrate(case, 4.0)[0], strict=True)
            if max(distance(a, b) for a, b in pairs) > AGREEMENT:
                raise ArithmeticError(f"{case.name} {case.params}: wrong formula")


# --- The files. ---


def make_row(case: Case, std: float, moments: Moments) -> Row:
    row: Row = {"activation": case.name, "params": case.params, "std": std}
    for key, value in zip(QUANTITIES, moments, strict=True):
        no_value = case.jumps and key == "derivative_second_moment"
        row[key] = None if no_value else mpmath.nstr(value, 20)
    return row


def place(row: Row) -> tuple[int, float]:
    """Return where a row stands in the file: in the order of CASES, then by std."""
    for index, case in enumerate(CASES):
        if row["activation"] == case.name and row["params"] == case.params:
            return index, row["std"]
    raise ValueError(f"no such case: {row}")


def write(rows: list[Row]) -> None:
    text = "[\n" + ",\n".join(json.dumps(row) for row in sorted(rows, key=place)) + "\n]\n"
    partial = WIDE.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(WIDE)


def generate(names: list[str] | None) -> None:
    """Make the rows of `names` (None: of all), writing the file after each case."""
    cases = [case for case in CASES if names is None or case.name in names]
    check_derivatives(cases)
    check_fourier(cases)
    rows: list[Row] = []
    if names is not None and WIDE.exists():
        rows = [row for row in json.loads(WIDE.read_text()) if row["activation"] not in names]
    worst = ZERO
    for case in cases:
        began, case_worst, left_out = time.monotonic(), ZERO, []
        for std in case.stds:
            moments, gap = compute(case, std)
            if SMALLEST <= moments[1] <= LARGEST:
                rows.append(make_row(case, std, moments))
                case_worst = max(case_worst, gap)
            else:
                left_out.append(std)
        write(rows)
        worst = max(worst, case_worst)
        print(
            f"{case.name} {case.params}: {time.monotonic() - began:.1f} s, steps agree to"
            f" {mpmath.nstr(case_worst, 2)}" + (f", left out stds {left_out}" * bool(left_out)),
            flush=True,
        )
    print(f"{len(rows)} rows; over all, steps agree to {mpmath.nstr(worst, 2)}")


def known_error(name: str, key: str, std: float) -> bool:
    """Tell whether README.md explains why moments.json is off here."""
    return (
        name in ("quick_gelu", "gelu_tanh")
        or (name in FOURIER and key != "mean" and std in (0.001, 0.1))
        or (key == "derivative_second_moment" and std == 0.001)
    )


def check() -> None:
    """Recompute the rows of moments.json, and demand agreement to 1e-18.

    Its known errors, of less than 1e-16, are let pass: see README.md.
    """
    first = {case.name: case for case in reversed(CASES)}
    rows = json.loads(MOMENTS.read_text())
    worst, known = ZERO, ZERO
    for row in rows:
        name = row["activation"].replace("log_sigmoid", "logsigmoid")
        case = replace(first[name], params=row["params"])
        for key, value in zip(QUANTITIES, compute(case, row["std"])[0], strict=True):
            if row[key] is None:
                continue
            theirs = mpf(row[key])
            if abs(value - theirs) < mpf("1e-35"):
                continue  # moments.json has noise of 1e-40 or so where a number is 0
            gap = distance(value, theirs)
            if gap <= mpf("1e-18"):
                worst = max(worst, gap)
            elif gap <= mpf("1e-16") and known_error(name, key, row["std"]):
                known = max(known, gap)
            else:
                worst = mp.inf
                print(f"differs by {mpmath.nstr(gap, 2)}: {row} {key} {mpmath.nstr(value, 20)}")
    print(
        f"{len(rows)} rows compared; the farthest apart differ by {mpmath.nstr(worst, 2)}, and"
        f" where an error is known by {mpmath.nstr(known, 2)}"
    )
    if worst > mpf("1e-18"):
        raise ArithmeticError("moments.json disagrees")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make wide.json.")
    parser.add_argument("--only", nargs="+", choices=sorted({case.name for case in CASES}))
    parser.add_argument("--check", action="store_true", help="compare with moments.json instead")
    args = parser.parse_args()
    if args.check:
        check()
    else:
        generate(args.only)


if __name__ == "__main__":
    main()
