"""What 33 correlations take: of what the series settles, and of what needs the plane."""

import time

import numpy as np

import gainreg

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

if __name__ == "__main__":
    grids = {
        "even from -1 to 1": np.linspace(-1, 1, 33),
        "beside 1": 1 - np.geomspace(1e-12, 0.1, 33),
    }
    print(f"{'ms':24}", *(f"{grid:>20}" for grid in grids))
    for activation, std, what in CASES:
        name = activation if isinstance(activation, str) else "clip"
        times = []
        for rho in grids.values():
            gainreg.correlation(activation, rho[:1], std)  # finds the plugins, the polynomials
            runs = []
            for _ in range(3):
                start = time.perf_counter()
                gainreg.correlation(activation, rho, std)
                runs.append(time.perf_counter() - start)
            times.append(min(runs) * 1e3)
        print(f"{f'{name} at {std:g}, {what}':28}", *(f"{t:16.1f}    " for t in times))
