"""Writes what benchmarks print as pages of the site: python benchmarks/pages.py NAME …

A page is the script's docstring, how it was run and on what, and what it printed: tables and
sentences as they are, everything else as text. Run it on a quiet machine.
"""

import ast
import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path

FOLDER = Path(__file__).parent
PACKAGES = (
    *("gainreg", "numpy", "scipy", "torch", "jax", "e3nn", "dks", "timm", "neural-tangents"),
    *("distributed", "transformers", "scikit-learn"),
)
TITLES = {
    "accuracy": "Accuracy",
    "build": "Tables of 100,000 entries",
    "correlation": "Correlations",
    "curve": "A curve",
    "depth": "Depth",
    "lookup": "Look-ups",
    "models": "Published models",
    "quadrature": "Quadrature",
    "training": "Training",
}


def processor() -> str:
    """The processor's name, as far as the system says it."""
    try:
        found = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def versions(script: str) -> str:
    """What is installed of what a script imports."""
    found = []
    for package in PACKAGES:
        module = package.replace("-", "_").replace("scikit_learn", "sklearn")
        if package in ("gainreg", "numpy", "scipy") or re.search(rf"\b{module}\b", script):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(found)


def aligned(line: str) -> bool:
    """Whether a line has columns aligned by spaces, which are kept as they are."""
    return not line.startswith("|") and re.search(r"\S {2,}\S", line) is not None


def page(name: str) -> str:
    """A page of what a benchmark prints."""
    path = FOLDER / f"{name}.py"
    script = path.read_text()
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    busy = f" {load:.0f} other programs ran on its {cores} cores." if load >= 0.5 else ""
    words = [sys.executable, "-W", "ignore", str(path)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    parts = [f"# {TITLES[name]}", ast.get_docstring(ast.parse(script)) or ""]
    parts += [
        f"`python benchmarks/{name}.py` on {processor()}; Python {platform.python_version()}, "
        f"{versions(script + (FOLDER / 'peers.py').read_text() * ('peers' in script))}.{busy}"
    ]
    for columns, lines in groupby(done.stdout.splitlines(), aligned):
        text = "\n".join(lines)
        parts.append(f"```text\n{text}\n```" if columns else text)
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        target = FOLDER.parent / "docs" / "measured" / f"{name}.md"
        target.write_text(page(name))
        print(target)
