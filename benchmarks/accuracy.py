"""The constant of every activation at std 1, gainreg's beside those of other libraries.

gainreg states with each number how far off it may be. The others run here on the same φ: torch's
`calculate_gain`; e3nn's `normalize2mom`, a million draws at construction; dks's rule of 100,000
Gauss-Legendre points from −10 to 10; 25 Gauss-Hermite points, as neural-tangents takes where it has
no closed form; and timm's table of the γ of NFNets, found by sampling, against centered_gain.
"""

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import peers
from torch.nn.init import calculate_gain

import gainreg
from gainreg.host import host

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(25)

# values for params without a default
FREE: dict[str, dict[str, float]] = {
    "threshold": {"threshold": 0.5, "value": 0.0},
    "maxout": {"k": 2.0},
    **{name: {"dim": 10.0} for name in ("softmax", "log_softmax", "softmin", "sparsemax")},
}

Phi = Callable[[Any], Any]
Pair = tuple[float | None, float | None]  # a library's constant, and what it should be


def hermite(phi: Phi) -> float:
    """1/√E[φ²] by 25 Gauss-Hermite points."""
    return float(WEIGHTS @ phi(NODES) ** 2 / math.sqrt(2 * math.pi)) ** -0.5


COMPUTED: dict[str, Callable[[Phi], float]] = {
    "e3nn's `normalize2mom`": peers.e3nn_constant,
    "dks's 100,000 points": peers.dks_constant,
    "25-point Gauss-Hermite": hermite,
}
if why := peers.why_not("e3nn.math"):
    del COMPUTED["e3nn's `normalize2mom`"]
if also := peers.why_not("dks.base.activation_transform"):
    del COMPUTED["dks's 100,000 points"]
TIMM = peers.timm_gammas()


def published(name: str) -> float | None:
    """torch's constant, where it has one."""
    try:
        return float(calculate_gain("linear" if name == "identity" else name))
    except ValueError:
        return None


def constants(activation: gainreg.Activation, entry: gainreg.GainEntry) -> dict[str, Pair]:
    """Constants that need no computing, each with what it should be."""
    names = (activation.name, *activation.aliases)
    found: dict[str, Pair] = {
        "torch's `calculate_gain`, where it answers": (published(activation.name), entry.gain)
    }
    if TIMM:
        gamma = next((TIMM[name] for name in names if name in TIMM), None)
        found["timm's table"] = gamma, entry.centered_gain
    return found


def off(value: float | None, true: float | None) -> float | None:
    return None if value is None or true is None else abs(value / true - 1)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Microseconds of the second of two runs, and the result."""
    work()
    start = time.perf_counter()
    result = work()
    return (time.perf_counter() - start) * 1e6, result


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the largest errors, then each constant with its error."""
    worst: dict[str, tuple[float, str]] = {}
    took: dict[str, list[float]] = {"gainreg, as it states itself": []}
    rows = []
    for activation in host().activations():
        name, params = activation.name, FREE.get(activation.name, {})
        micros, entry = timed(lambda name=name, params=params: gainreg.resolve(name, **params))
        others = constants(activation, entry)
        if activation.forward is not None:
            phi = host().bind(activation, params).forward
            for source, compute in COMPUTED.items():
                spent, value = timed(lambda compute=compute, phi=phi: compute(phi))
                others[source] = value, entry.gain
                took.setdefault(source, []).append(spent)
        own = entry.error / entry.second_moment / 2
        errors = {source: off(*pair) for source, pair in others.items()}
        if entry.method != "sampling":
            took["gainreg, as it states itself"].append(micros)
            for source, error in {**errors, "gainreg, as it states itself": own}.items():
                if error is not None and error > worst.get(source, (0.0, ""))[0]:
                    worst[source] = error, name
        cells = [f"`{name}`", repr(entry.gain), entry.method, f"{own:.0e}"]
        for source in (*constants(activation, entry), *COMPUTED):
            value, error = others.get(source, (None, None))[0], errors.get(source)
            cells.append("" if value is None or error is None else f"{value:.5f}, {error:.0e}")
        rows.append(row(cells))
    print(
        "Largest relative errors over all activations that are not sampled, and microseconds that"
    )
    print("one takes, in the median:\n")
    print("| source | largest relative error | at | µs |\n| --- | --- | --- | ---: |")
    for source, (error, name) in sorted(worst.items(), key=lambda item: item[1]):
        spent = f"{np.median(took[source]):.0f}" if source in took else ""
        print(row([source, f"{error:.0e}", f"`{name}`", spent]))
    absent = {"e3nn": why, "dks": also, "timm": "" if TIMM else "it is not installed"}
    for library, reason in absent.items():
        if reason:
            print(f"\n{library} is not compared with: {reason}")
    print("\nEach constant, and its relative error:\n")
    sources = [*constants(activation, entry), *COMPUTED]
    print(row(["activation", "gainreg", "method", "error", *sources]))
    print(row(["---"] * (4 + len(sources))))
    print(*rows, sep="\n")
    names = [a.name for a in host().activations() if None not in a.params.values()]
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exp and hardshrink leave the range of a double
        table = gainreg.build_table(names, np.geomspace(1e-2, 1e2, 33))
    print(f"\n{len(table)} entries, {len(names)} activations at 33 stds: ", end="")
    print(f"{time.perf_counter() - start:.1f} s (to reach: 2)")


if __name__ == "__main__":
    main()
