"""100,000 entries on one process and on two: seconds, memory, and the sizes of their containers.

    python benchmarks/build.py [ENTRIES]

ELU and leaky ReLU at 25 params each, GELU and mish, at as many stds as it takes. The file of a
table is written and read whole, with each number checked, so that it has a limit; the last lines
say where it is reached, and what the same numbers take as NumPy arrays from ``gainreg.curve``.
"Of processors" counts the work of the processes themselves, whatever else the machine does.
"""

import io
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

import gainreg
from gainreg.document import MAX_BYTES

ENTRIES = 100_000
ALPHAS = np.linspace(0.1, 2.5, 25)
ITEMS = [
    ("elu", {"alpha": ALPHAS}),
    ("leaky_relu", {"negative_slope": ALPHAS / 10}),
    "gelu",
    "mish",
]  # fmt: skip
FIELDS = ("gain", "centered_gain", "backward_gain", "variance_slope", "gradient_factor", "error")


def peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def busy() -> float:
    """Seconds of processor time that this process and those that it has ended have taken."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def main(entries: int) -> None:
    stds = np.geomspace(1e-3, 1e3, entries // (2 * len(ALPHAS) + 2) + 1)
    gainreg.build_table(ITEMS)  # finds the plugins
    before = peak()
    tables = []
    print("| processes | entries | seconds | of processors | entries a second |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for jobs in (1, 2):
        start, worked = time.perf_counter(), busy()
        if jobs == 1:
            table = gainreg.build_table(ITEMS, stds)
        else:
            with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
                table = gainreg.build_table(ITEMS, stds, executor=pool)
        took = time.perf_counter() - start
        print(f"| {jobs} | {len(table)} | {took:.1f} | {busy() - worked:.1f} ", end="")
        print(f"| {len(table) / took:.0f} |", flush=True)
        tables.append(list(table))
        if jobs == 1:
            memory = peak() - before
    same = all(vars(one) == vars(two) for one, two in zip(*tables, strict=True))
    print(f"\nBoth are {'the same' if same else 'NOT THE SAME'}, to the last digit.")

    part = gainreg.build_table(["elu"], stds[:1000])
    size = len(part.to_yaml()) / len(part)
    packed = io.BytesIO()
    start = time.perf_counter()
    curve = gainreg.curve("elu", np.geomspace(1e-3, 1e3, entries))
    np.savez(packed, std=curve.std, **{name: getattr(curve, name) for name in FIELDS})
    took = time.perf_counter() - start
    print(
        f"Memory of the entries: {memory:.0f} MB, {memory * 2**20 / len(table):.0f} bytes each.\n"
        f"In a table's file: {size:.0f} bytes each, so that its {MAX_BYTES >> 20} MiB hold "
        f"{MAX_BYTES / size:.0f}.\n"
        f"`gainreg.curve` at {entries} stds, with {len(FIELDS)} fields to NumPy's npz: "
        f"{took:.2f} s, {packed.tell() / entries:.0f} bytes each."
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ENTRIES)
