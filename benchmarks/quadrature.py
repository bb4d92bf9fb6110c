"""One resolve of tanh beside the same moments by scipy.integrate.quad and by Monte Carlo."""

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
from scipy import integrate

import gainreg

STDS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1e3)


def fastest(work: Callable[[], Any], repeat: int) -> tuple[float, Any]:
    """Least seconds of ``repeat`` runs, and the result."""
    best, result = math.inf, None
    for _ in range(repeat):
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return best, result


def by_quad(std: float) -> tuple[float, ...]:
    """Second moment, mean, second moment of φ′ and slope by QUADPACK."""

    def density(z: float) -> float:
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    def expect(g: Callable[[float], float]) -> float:
        whole = (-math.inf, math.inf)
        return float(
            integrate.quad(lambda z: g(z) * density(z), *whole, epsabs=0, epsrel=1e-13, limit=200)[
                0
            ]
        )

    second = expect(lambda z: math.tanh(std * z) ** 2)
    mean = expect(lambda z: math.tanh(std * z))
    slope_second = expect(lambda z: (1 - math.tanh(std * z) ** 2) ** 2)
    stretched = expect(lambda z: math.tanh(std * z) ** 2 * z * z)
    return second, mean, slope_second, (stretched / second - 1) / 2


def by_monte_carlo(std: float) -> float:
    """The second moment of a million draws."""
    z = np.random.default_rng(0).standard_normal(1_000_000)
    return float(np.mean(np.tanh(std * z) ** 2))


def exact(std: float) -> float:
    with mpmath.workdps(25):
        pieces = [0, *(mpmath.mpf(10) ** k / std for k in range(-2, 3)), 3, 9, 25]
        half = mpmath.quad(
            lambda z: mpmath.tanh(std * z) ** 2 * mpmath.npdf(z),
            sorted(p for p in pieces if p < 26),
        )
        return float(2 * half)


if __name__ == "__main__":
    warnings.simplefilter("ignore", integrate.IntegrationWarning)
    gainreg.resolve("tanh", 0.123)  # finds the plugins
    print("tanh        gainreg            scipy.integrate.quad       1e6 draws")
    print("std         us     error       us     error    ratio      us     error")
    for std in STDS:
        true = exact(std)
        ours, entry = fastest(lambda std=std: gainreg.resolve("tanh", std), 400)
        quad, numbers = fastest(lambda std=std: by_quad(std), 15)
        drawn, sampled = fastest(lambda std=std: by_monte_carlo(std), 3)
        print(
            f"{std:<8g}{ours * 1e6:6.0f}  {abs(entry.second_moment / true - 1):8.1e} "
            f"{quad * 1e6:8.0f}  {abs(numbers[0] / true - 1):8.1e} {quad / ours:8.1f}"
            f"{drawn * 1e6:8.0f}  {abs(sampled / true - 1):8.1e}"
        )
    print("ratio to reach: 5")
