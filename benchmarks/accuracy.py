"""gainreg's constant of every activation beside those published elsewhere, errors and times.

Columns: gainreg's gain at std 1, its method, its stated relative error and its time; then how far
off, relative, are torch's calculate_gain, timm's sampled γ of NFNets (against centered_gain), a
million draws as e3nn makes them at construction, and 25 Gauss-Hermite points.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from torch.nn.init import calculate_gain

import gainreg
from gainreg.host import host

# timm, nfnet.py: γ of scaled weight standardisation, by sampling; facts, quoted as published
TIMM_GAMMAS = {
    "identity": 1.0,
    "celu": 1.270926833152771,
    "elu": 1.2716004848480225,
    "gelu": 1.7015043497085571,
    "leaky_relu": 1.70590341091156,
    "logsigmoid": 1.9193484783172607,
    "relu": 1.7139588594436646,
    "relu6": 1.7131484746932983,
    "selu": 1.0008515119552612,
    "sigmoid": 4.803835391998291,
    "silu": 1.7881293296813965,
    "softsign": 2.338853120803833,
    "softplus": 1.9203323125839233,
    "tanh": 1.5939117670059204,
}
HERMITE = np.polynomial.hermite_e.hermegauss(25)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Microseconds of the second of two runs, and the result."""
    work()
    start = time.perf_counter()
    result = work()
    return (time.perf_counter() - start) * 1e6, result


def published(name: str) -> float | None:
    """torch's constant, where it has one."""
    try:
        return float(calculate_gain("linear" if name == "identity" else name))
    except ValueError:
        return None


def off(value: float | None, true: float | None) -> float | None:
    return None if value is None or true is None else abs(value / true - 1)


def show(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.0e}':>8}"


def main() -> None:
    print(
        f"{'':14}{'gain':>19}  {'method':<11}{'error':>7}{'us':>6} |"
        f"{'torch':>8}{'timm':>8}{'1e6 draws':>10}{'us':>7}{'25 nodes':>9}{'us':>5}"
    )
    worst: dict[str, tuple[float, str]] = {}
    draws = np.random.default_rng(0).standard_normal(1_000_000)
    nodes, weights = HERMITE[0], HERMITE[1] / math.sqrt(2 * math.pi)
    for activation in host().activations():
        name = activation.name
        if None in activation.params.values() or activation.forward is None:
            continue
        micros, entry = timed(lambda name=name: gainreg.resolve(name))
        bound = host().bind(activation, {})
        forward = lambda x, bound=bound: host().forward(bound, x)  # noqa: E731
        drawn, sampled = timed(lambda f=forward: float(np.mean(f(draws) ** 2)) ** -0.5)
        fixed, hermite = timed(lambda f=forward: float(weights @ f(nodes) ** 2) ** -0.5)
        errors = {
            "torch": off(published(name), entry.gain),
            "timm": off(TIMM_GAMMAS.get(name), entry.centered_gain),
            "1e6 draws": off(sampled, entry.gain),
            "25 nodes": off(hermite, entry.gain),
            "gainreg": entry.error / entry.second_moment / 2,
        }
        for source, error in errors.items():
            if error is not None:
                worst[source] = max(worst.get(source, (0.0, "")), (error, name))
        print(
            f"{name:14}{entry.gain:19.16f}  {entry.method:<11}"
            f"{errors['gainreg']:7.0e}{micros:6.0f} |"
            f"{show(errors['torch'])}{show(errors['timm'])}{show(errors['1e6 draws']):>10}"
            f"{drawn:7.0f}{show(errors['25 nodes']):>9}{fixed:5.0f}"
        )
    print("\n| source | largest relative error | at |\n| --- | --- | --- |")
    for source, (error, name) in worst.items():
        print(f"| {source} | {error:.0e} | {name} |")
    first = time.perf_counter()
    names = [a.name for a in host().activations() if a.forward and None not in a.params.values()]
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exp and hardshrink leave the range of a double
        table = gainreg.build_table(names, np.geomspace(1e-2, 1e2, 33))
    print(
        f"\n{len(table)} entries, {len(names)} activations at 33 stds:"
        f" {time.perf_counter() - first:.1f} s   (to reach: 2)"
    )


if __name__ == "__main__":
    main()
