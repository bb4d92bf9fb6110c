"""A warm look-up beside torch.nn.init.calculate_gain; a cold one beside bare imports."""

import subprocess
import sys
import time
import timeit

from torch.nn.init import calculate_gain

import gainreg


def warm() -> None:
    ours = min(timeit.repeat(lambda: gainreg.gain("tanh"), number=100_000, repeat=9)) / 1e5
    theirs = min(timeit.repeat(lambda: calculate_gain("tanh"), number=100_000, repeat=9)) / 1e5
    print(f"warm  gainreg.gain('tanh')      {ours * 1e9:8.0f} ns")
    print(f"warm  calculate_gain('tanh')    {theirs * 1e9:8.0f} ns")
    print(f"      ratio                     {ours / theirs:8.2f}   (to reach: 1)")


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
    print(f"cold  gainreg gain elu          {command * 1e3:8.0f} ms")
    for module, reach in (("yaml", "   (to reach: 3)"), ("numpy", ""), ("torch", "")):
        seconds = process(sys.executable, "-c", f"import {module}", repeat=7)
        print(f"cold  import {module:<19}{seconds * 1e3:8.0f} ms")
        print(f"      ratio                     {command / seconds:8.2f}{reach}")


if __name__ == "__main__":
    warm()
    cold()
