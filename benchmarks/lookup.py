"""A warm look-up beside torch.nn.init.calculate_gain; a cold one beside bare imports."""

import subprocess
import sys
import time
import timeit
from collections.abc import Callable

from torch.nn.init import calculate_gain

import gainreg


def nanoseconds(work: Callable[[], float]) -> float:
    """Least time of a call."""
    return min(timeit.repeat(work, number=100_000, repeat=9)) * 1e4


def warm() -> None:
    tanh = lambda: gainreg.gain("tanh"), lambda: calculate_gain("tanh")
    leaky = (
        lambda: gainreg.gain("leaky_relu", negative_slope=0.2),
        lambda: calculate_gain("leaky_relu", 0.2),
    )
    for name, (ours, theirs), reach in (("tanh", tanh, 1), ("leaky_relu, 0.2", leaky, 1.2)):
        times = nanoseconds(ours), nanoseconds(theirs)
        print(f"warm  gainreg.gain {name:<16}{times[0]:5.0f} ns")
        print(f"warm  calculate_gain {name:<14}{times[1]:5.0f} ns")
        print(f"      ratio {times[0] / times[1]:31.2f}   (to reach: {reach})")


def process(*words: str, repeat: int = 15) -> float:
    """Median seconds of a whole process."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def cold() -> None:
    command = process("gainreg", "gain", "elu")
    print(f"cold  gainreg gain elu {command * 1e3:17.0f} ms")
    for module, reach in (("yaml", "   (to reach: 3)"), ("numpy", ""), ("torch", "")):
        seconds = process(sys.executable, "-c", f"import {module}", repeat=7)
        print(f"cold  import {module:<12}{seconds * 1e3:15.0f} ms")
        print(f"      ratio {command / seconds:28.2f}{reach}")


if __name__ == "__main__":
    warm()
    cold()
