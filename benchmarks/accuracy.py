"""gainreg's constant of every activation beside those published elsewhere, with errors and times.

First gainreg's gain at std 1, its method, its stated relative error and its time in microseconds.
Then the constants of others, each with its relative error: torch's calculate_gain; timm's sampled
γ of NFNets, against centered_gain; a million draws, as e3nn makes them at construction, with the
time; and 25 Gauss-Hermite points, with the time.
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


def show(value: float | None, error: float | None) -> str:
    if value is None or error is None:
        return f"{'-':>15}"
    return f"{value:9.5f} {error:.0e}"


# values for params without a default
FREE: dict[str, dict[str, float]] = {
    "threshold": {"threshold": 0.5, "value": 0.0},
    "maxout": {"k": 2.0},
    **{name: {"dim": 10.0} for name in ("softmax", "log_softmax", "softmin", "sparsemax")},
}


def constants(name: str, entry: gainreg.GainEntry) -> dict[str, tuple[float | None, float | None]]:
    """Constants published for an activation, each with what it should be."""
    return {
        "torch's `calculate_gain`, where it answers": (published(name), entry.gain),
        "timm's table": (TIMM_GAMMAS.get(name), entry.centered_gain),
    }


def main() -> None:
    print(
        f"{'':15}{'gain':>19}  {'method':<11}{'error':>6}{'us':>6} |"
        f"{'torch':>15} |{'timm':>15} |{'1e6 draws':>15}{'us':>7} |{'25 nodes':>15}{'us':>5}"
    )
    worst: dict[str, tuple[float, str]] = {}
    draws = np.random.default_rng(0).standard_normal(1_000_000)
    nodes, weights = HERMITE[0], HERMITE[1] / math.sqrt(2 * math.pi)
    for activation in host().activations():
        name, params = activation.name, FREE.get(activation.name, {})
        micros, entry = timed(lambda name=name, params=params: gainreg.resolve(name, **params))
        bound = host().bind(activation, params)
        drawn, sampled, fixed, hermite = 0.0, None, 0.0, None
        if activation.forward is not None:
            forward = bound.forward
            drawn, sampled = timed(lambda f=forward: float(np.mean(f(draws) ** 2)) ** -0.5)
            fixed, hermite = timed(lambda f=forward: float(weights @ f(nodes) ** 2) ** -0.5)
        others = {
            **constants(name, entry),
            "a million draws, as in e3nn": (sampled, entry.gain),
            "25-point Gauss-Hermite": (hermite, entry.gain),
        }
        own = entry.error / entry.second_moment / 2
        errors = {source: off(*pair) for source, pair in others.items()}
        if entry.method != "sampling":
            errors["gainreg, as it states itself"] = own
        for source, error in errors.items():
            if error is not None and error > worst.get(source, (0.0, ""))[0]:
                worst[source] = error, name
        torch_cell, timm_cell, drawn_cell, hermite_cell = (
            show(value, errors[source]) for source, (value, _) in others.items()
        )
        print(
            f"{name:15}{entry.gain:19.16f}  {entry.method:<11}{own:6.0e}{micros:6.0f} |"
            f"{torch_cell} |{timm_cell} |{drawn_cell}{drawn:7.0f} |{hermite_cell}{fixed:5.0f}"
        )
    print("\n| source | largest relative error | at |\n| --- | --- | --- |")
    for source, (error, name) in sorted(worst.items(), key=lambda item: item[1]):
        print(f"| {source} | {error:.0e} | {name} |")
    first = time.perf_counter()
    names = [a.name for a in host().activations() if None not in a.params.values()]
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
