"""timm's models, one of each family, at their own size of image: predicted against measured.

    pip install --no-deps timm torchvision
    python benchmarks/families.py [NAME ...]

For each model, of a batch of 8: of the rms of what feeds each weight, the median error and the
share within 10 %; of the gradients, the share within a factor 1.5, and the worst factor; and for
how many weights that are marked exact the rms is more than three spreads off.

torchvision's operators are compiled for one build of PyTorch. No model calls one, so that it is
enough to declare their names where they cannot be loaded.
"""

from __future__ import annotations

import importlib.util
import math
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from models import BATCH, COLUMNS, errors, figures, trained

from gainreg.adapters.torch import initialize_

# Parts of names that small models have, the smallest first.
SMALL = ("atto", "femto", "pico", "nano", "xxs", "tiny", "_xt", "small", "_s", "mini", "_0", "18",
         "050", "b0", "base")  # fmt: skip


def declared() -> torch.library.Library:
    """torchvision's operators, by their names alone; they are there as long as it is kept."""
    library = torch.library.Library("torchvision", "DEF")
    found = importlib.util.find_spec("torchvision")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("torchvision is not installed; pip install --no-deps timm torchvision")
    source = Path(found.submodule_search_locations[0], "_meta_registrations.py").read_text()
    for name in sorted(set(re.findall(r'register_meta\("(\w+)"\)|torchvision::(\w+)', source))):
        library.define(f"{''.join(name)}(Tensor x) -> Tensor")
    return library


def families(timm: Any) -> list[str]:
    """The smallest model of each of timm's modules, by its name."""

    def size(name: str) -> tuple[int, int]:
        return next((i for i, part in enumerate(SMALL) if part in name), len(SMALL)), len(name)

    modules = ([n for n in timm.list_models(module=m) if not re.search("384|448|512", n)]
               for m in timm.models.list_modules())  # fmt: skip
    return [min(names, key=size) for names in modules if names]


def wild(report: Any) -> int:
    """Weights that are marked exact, and more than three spreads (and 2 %) off."""
    return sum(
        abs(math.log(weight.input_rms / weight.measured_input_rms)) > max(3 * weight.spread, 0.02)
        for weight in report.weights
        if weight.exact and weight.measured_input_rms
    )


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    try:
        import torchvision  # noqa: F401
    except Exception:
        library = declared()  # noqa: F841
    import timm

    print(f"{'model':29} {COLUMNS}   worst  exact and off")
    for name in names or families(timm):
        torch.manual_seed(0)
        try:
            model = trained(timm.create_model(name, pretrained=False))
            report = initialize_(model, torch.randn(BATCH, *model.pretrained_cfg["input_size"]))
        except Exception as error:
            print(f"{name:29} {type(error).__name__}: {str(error).splitlines()[0][:70]}")
            continue
        worst = math.exp(max(errors(report)[1], default=0.0))
        print(f"{name:29} {figures(report)} {worst:7.2f} {wild(report):14}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
