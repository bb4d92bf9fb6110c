"""ELU's curve of all fields at 100,000 stds beside the bare cost of its two erfcx."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import erfcx

import gainreg


def fastest(work: Callable[[], Any], repeat: int = 30) -> float:
    """Least milliseconds of ``repeat`` runs."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


if __name__ == "__main__":
    stds = 10 ** np.random.default_rng(0).uniform(-6, 6, 100_000)
    gainreg.curve("elu", stds[:10])  # finds the plugins, checks the closed forms
    bare = fastest(lambda: (erfcx(stds * np.sqrt(0.5)), erfcx(stds * np.sqrt(2))))
    whole = fastest(lambda: gainreg.curve("elu", stds))
    print(f"two erfcx      {bare:6.1f} ms")
    print(f"gainreg.curve  {whole:6.1f} ms")
    print(f"ratio          {whole / bare:6.2f}   (to reach: 5)")
