"""Other libraries that compute the same constants, where they are installed.

``pip install '.[peers]'`` brings e3nn and dks. timm needs torchvision, which wants a torch of its
own and does not import beside every other; its table is read from its source, for which
``pip install --no-deps timm`` will do. neural-tangents 0.6.5 imports TensorFlow, and with jax up to
0.4 only, so that it needs an environment of its own: ``pip install '.[neural-tangents]' dks``.
"""

import ast
import importlib.metadata
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# By library, what must import for its correlations.
KERNELS = {
    "neural-tangents": "neural_tangents",
    "dks": "dks.base.activation_transform",
}


def why_not(package: str) -> str:
    """Why a library is not compared with here; "" if it is."""
    try:
        importlib.import_module(package)
    except Exception as error:  # what an import of somebody else's library may raise
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def version(distribution: str) -> str:
    """The version that is installed, "" if none is."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def timm_gammas() -> dict[str, float]:
    """timm's γ of NFNets, which it found by sampling; {} if it is not installed."""
    found = importlib.util.find_spec("timm")
    if found is None or not found.submodule_search_locations:
        return {}
    source = Path(found.submodule_search_locations[0], "models", "nfnet.py").read_text()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_nonlin_gamma":
            call = node.value
            return {k.arg: ast.literal_eval(k.value) for k in call.keywords}  # type: ignore
    return {}


def e3nn_constant(phi: Callable[[Any], Any]) -> float:
    """e3nn's constant of φ: a million draws, at the construction of ``normalize2mom``."""
    import torch
    from e3nn.math import normalize2mom

    return float(normalize2mom(lambda x: torch.from_numpy(phi(x.numpy()))).cst)


def dks_constant(phi: Callable[[Any], Any]) -> float:
    """1/√E[φ²] by dks's rule: 100,000 Gauss-Legendre points from −10 to 10."""
    from dks.base import activation_transform

    return float(activation_transform._estimate_gaussian_mean(lambda x: phi(x) ** 2) ** -0.5)


def dks_correlation(phi: Callable[[Any], Any], rho: float) -> float:
    """dks's C map of φ at one correlation, which must have φ of numbers too."""
    from dks.base import activation_transform

    def of_any_shape(x: Any) -> Any:
        return phi(np.atleast_1d(x))[0] if np.ndim(x) == 0 else phi(x)

    return float(activation_transform._calc_c_map(of_any_shape, c=rho))


def tangents_correlation(layer: Any, rho: np.ndarray) -> np.ndarray:
    """neural-tangents' kernel behind a layer of its ``stax``, by the kernel at correlation 1."""
    x = math.sqrt(2) * np.array([[1.0, 0.0]])
    y = math.sqrt(2) * np.stack([rho, np.sqrt(1 - rho**2)], axis=1)
    kernel = layer[2]
    return np.asarray(kernel(y, x, "nngp"))[:, 0] / float(np.asarray(kernel(x, None, "nngp"))[0, 0])
