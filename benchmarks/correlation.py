"""What 33 correlations take, of what the series settles and of what needs the plane; and how far
the kernels of neural-tangents and the C map of dks are from them.

neural-tangents has closed forms for a few activations and 25 Gauss-Hermite points in the plane for
the rest; dks integrates over the plane adaptively, one correlation at a time.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import peers

import gainreg
from gainreg.host import host

CASES = [
    ("gelu", 1.0, "smooth"),
    ("tanh", 3.0, "smooth"),
    ("elu", 1.0, "a kink of φ′"),
    ("relu", 1.0, "a kink"),
    ("hardtanh", 1.0, "kinks apart"),
    ("sign", 1.0, "a jump"),
    ("tanh", 100.0, "nearly a jump"),
    ("sin", 30.0, "lively"),
    (lambda x: np.clip(x, -1.7, 2.2), 1.0, "undeclared kinks"),
]
EVEN = np.linspace(-1, 1, 33)
BESIDE_ONE = 1 - np.geomspace(1e-12, 0.1, 33)
COMPARED = ("relu", "gelu", "sin", "tanh", "elu")


def timed(work: Callable[[], Any], repeat: int = 3) -> tuple[float, Any]:
    """Least milliseconds, and the result."""
    best, result = np.inf, None
    for _ in range(repeat):
        start = time.perf_counter()
        result = work()
        best = min(best, (time.perf_counter() - start) * 1e3)
    return best, result


def own() -> None:
    """Print the times of each case."""
    print("Milliseconds:\n\n| φ | std | | even from −1 to 1 | beside 1 |")
    print("| --- | ---: | --- | ---: | ---: |")
    for activation, std, what in CASES:
        name = activation if isinstance(activation, str) else "clip"
        times = []
        for rho in (EVEN, BESIDE_ONE):
            gainreg.correlation(activation, rho[:1], std)  # finds the plugins, the polynomials
            times.append(timed(lambda a=activation, r=rho, s=std: gainreg.correlation(a, r, s))[0])
        print(f"| {name} | {std:g} | {what} | {times[0]:.1f} | {times[1]:.1f} |")


def tangents() -> dict[str, Any]:
    """The layers of neural-tangents for what is compared."""
    import jax

    jax.config.update("jax_enable_x64", True)
    from neural_tangents import stax

    layers = {
        "relu": stax.Relu(),
        "gelu": stax.Gelu(),
        "sin": stax.Sin(),
        "tanh": stax.ElementwiseNumerical(jax.numpy.tanh, deg=25),
        "elu": stax.ElementwiseNumerical(jax.nn.elu, deg=25),
    }
    return {name: stax.serial(stax.Dense(1), layer) for name, layer in layers.items()}


def main() -> None:
    own()
    rows = []
    rho = EVEN[1:-1]
    why = {library: peers.why_not(module) for library, module in peers.KERNELS.items()}
    layers = {} if why["neural-tangents"] else tangents()
    for name in COMPARED:
        spent, ours = timed(lambda name=name: gainreg.correlation(name, rho))
        if name in layers:
            layer = layers[name]
            took, theirs = timed(lambda layer=layer: peers.tangents_correlation(layer, rho))
            rows.append(
                (name, "neural-tangents", len(rho), np.abs(theirs - ours).max(), took, spent)
            )
        if not why["dks"]:
            phi = host().bind(name, {}).forward
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its integrator asks for more than there is
                took, value = timed(lambda phi=phi: peers.dks_correlation(phi, 0.5), 1)
            spent, exact = timed(lambda name=name: gainreg.correlation(name, 0.5))
            rows.append((name, "dks", 1, abs(value - exact), took, spent))
    for library, reason in why.items():
        if reason:
            print(f"\n{library} is not compared with: {reason}")
    if rows:
        print(
            "\nOthers, at std 1: the largest difference from gainreg's, whose error is below 1e-10,"
        )
        print("and milliseconds:\n")
        print("| φ | library | correlations | difference | its ms | gainreg's ms |")
        print("| --- | --- | ---: | ---: | ---: | ---: |")
        for name, library, count, difference, took, spent in rows:
            print(f"| {name} | {library} | {count} | {difference:.0e} | {took:.1f} | {spent:.1f} |")


if __name__ == "__main__":
    main()
