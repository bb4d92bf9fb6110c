"""In-place initialisers of PyTorch's weights, layers and chains, as in ``torch.nn.init``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import init

from gainreg import scaling
from gainreg.adapters.torch.activations import FRAMEWORK
from gainreg.errors import ParameterError
from gainreg.scaling import Kind

if TYPE_CHECKING:
    from gainreg.activation import Activation
    from gainreg.entry import GainEntry

Layer = TypeVar("Layer", bound=nn.Module)
Weights = TypeVar("Weights", bound=Tensor | nn.Module)

_LINEAR = ("linear", *(f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)))
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)

_OUT_IN = Kind(inputs=1, outputs=0)
_IN_OUT = Kind(inputs=0, outputs=1, transposed=True, inputs_whole=True)  # of a ConvTranspose


# --- initialisers ---


def fill(
    tensor: Tensor, std: float, distribution: str, generator: torch.Generator | None = None
) -> None:
    """Fill a tensor with numbers of a root mean square. Its first axis is one side of an orthogonal
    matrix; where it is the only one, they are normal."""
    if distribution == "normal" or (distribution == "orthogonal" and tensor.dim() < 2):
        init.normal_(tensor, 0.0, std, generator=generator)
    elif distribution == "uniform":
        bound = math.sqrt(3) * std
        init.uniform_(tensor, -bound, bound, generator=generator)
    elif distribution == "truncated_normal":
        wide = std / scaling.TRUNCATED_STD
        init.trunc_normal_(tensor, 0.0, wide, -2 * wide, 2 * wide, generator=generator)
    else:
        # half precision has no QR factorisation
        drawn = torch.empty_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))
        factor = scaling.orthogonal_scale(std, len(tensor), tensor.numel() // len(tensor))
        init.orthogonal_(drawn, factor, generator)
        with torch.no_grad():
            tensor.copy_(drawn)


def _drawing(
    tensor: Weights,
    activation: str | Activation | GainEntry | Callable[..., Any],
    mode: str = "fan_in",
    *,
    std: float | None = 1.0,
    table: scaling.Table = None,
    generator: torch.Generator | None = None,
    transposed: bool = False,
    groups: int = 1,
    **params: float,
) -> Callable[[str], Weights]:
    weight, fans = weights_and_fans(tensor, transposed, groups)
    entry = scaling.entry_of(FRAMEWORK, activation, std, params, table)
    scale = math.sqrt(scaling.variance(entry, mode, fans.fan_in, fans.fan_out))
    bias = getattr(tensor, "bias", None)  # a tensor has none
    bias_std = scaling.bias_std(entry, mode, isinstance(tensor, Tensor) or bias is not None)

    def draw(distribution: str) -> Weights:
        fill(weight, scale, distribution, generator)
        if bias is not None:
            fill(bias, bias_std, "normal", generator)
        return tensor

    return draw


@scaling.takes(_drawing)
def normal_(draw: Callable[[str], Weights]) -> Weights:
    """Fill weights from a normal distribution of mean 0, and return what was given.

    Args:
        tensor: a Linear, Conv or ConvTranspose layer, whose bias becomes 0; or weights alone, of
            shape (out, in, *kernel) as in Linear and Conv, with PyTorch's own fans.
            A layer tells its groups, whether it is transposed, and its stride s: an output of a
            transposed one sums over 1/∏s of the kernel, an input of another reaches 1/∏s of it.
        activation: the one whose output feeds the weights, as for all adapters: also a module such
            as ``nn.LeakyReLU(0.2)`` or ``nn.GELU``, or a function of ``torch`` or
            ``torch.nn.functional``. A PReLU with several slopes counts with their root mean
            square, which gives the exact average over channels; an RReLU in eval mode with its
            mean slope.
        mode, std, table, params: as for all adapters; see ``help(gainreg.adapters)``, which says
            what is raised too.
        generator: the random numbers' source.
        transposed: True for the weights alone of a ConvTranspose, (in, out / groups, *kernel). A
            stride is not counted then, as in ``torch.nn.init``: give the layer.
        groups: for the weights alone of a grouped convolution. Left at 1 the fans are those of
            ``torch.nn.init``, whose fan_out (fan_in if transposed) counts all groups' channels.
    """
    return draw("normal")


@scaling.takes(_drawing)
def uniform_(draw: Callable[[str], Weights]) -> Weights:
    """Fill weights from a uniform distribution; see normal_."""
    return draw("uniform")


@scaling.takes(_drawing)
def trunc_normal_(draw: Callable[[str], Weights]) -> Weights:
    """Fill weights from a normal distribution cut off at twice its std; see normal_."""
    return draw("truncated_normal")


@scaling.takes(_drawing)
def orthogonal_(draw: Callable[[str], Weights]) -> Weights:
    """Fill weights with a semi-orthogonal matrix, as torch.nn.init.orthogonal_; see normal_."""
    return draw("orthogonal")


def critical_(
    layer: Layer,
    activation: str | Activation | GainEntry | Callable[..., Any],
    *,
    std: float | None = None,
    table: scaling.Table = None,
    generator: torch.Generator | None = None,
    **params: float,
) -> Layer:
    """Set a layer's weights and bias so that signals and gradients both keep their size.

    It is ``normal_`` with the mode "critical", which ``help(gainreg.adapters)`` explains, by
    default at the critical std of the activation.
    """
    entry = scaling.entry_of(FRAMEWORK, activation, std, params, table)
    return normal_(layer, entry, "critical", generator=generator)


def calculate_gain(nonlinearity: Any, param: float | None = None) -> float:
    """The gain of a nonlinearity, a standard deviation, as ``torch.nn.init.calculate_gain``.

    The values are exact where PyTorch's are not: tanh 1.5925 (5/3 there), selu 1 (3/4), sigmoid
    1.8462 (1), and any other activation that gainreg knows.

    Args:
        nonlinearity: a name, "linear", "conv1d" … "conv_transpose3d", or a module or function.
        param: the first parameter of the activation, as leaky_relu's negative slope; an
            activation without parameters ignores it, as in PyTorch.

    Raises:
        ParameterError: ``param`` is not a finite number, or a module has its own.
        UnknownActivationError, MomentError, PluginError: as ``gainreg.resolve``.
    """
    if isinstance(nonlinearity, str) and nonlinearity in _LINEAR:
        return 1.0
    params = {}
    if param is not None:
        from gainreg.host import host

        name, _ = FRAMEWORK.understood(nonlinearity, {})
        if not isinstance(name, str):
            raise ParameterError(f"{nonlinearity!r} has no param that gainreg knows of")
        params = dict.fromkeys(list(host().activation(name).params)[:1], param)
    return float(scaling.entry_of(FRAMEWORK, nonlinearity, 1.0, params).gain)


# --- fans ---


def weights_and_fans(
    given: Any, transposed: bool = False, groups: int = 1
) -> tuple[Tensor, scaling.Fans]:
    """The weights of a layer, or weights alone, and their fans.

    Raises:
        ParameterError: they are no weights that can be set.
    """
    if not isinstance(given, nn.Module):
        _check(given)
        kind = _IN_OUT if transposed else _OUT_IN
        return given, scaling.fans(given.shape, replace(kind, groups=groups))
    if transposed or groups != 1:
        raise ParameterError("a layer has its transposed and groups; leave them out beside it")
    if not any(type(given).forward is layer.forward for layer in LAYERS):
        raise ParameterError(
            f"{type(given).__name__} is no Linear, Conv or ConvTranspose, or computes something "
            "else; where its weights are used as theirs, give these alone, as layer.weight"
        )
    weight = given._parameters.get("weight")
    if weight is None:
        raise ParameterError(
            "the layer computes its weight from others (weight_norm, pruning or a "
            "parametrization); initialise it yourself"
        )
    _check(weight)
    kind = _IN_OUT if isinstance(given, _TRANSPOSED) else _OUT_IN
    kind = replace(kind, strides=getattr(given, "stride", 1), groups=getattr(given, "groups", 1))
    return weight, scaling.fans(weight.shape, kind)


def _check(weight: Any) -> None:
    if not isinstance(weight, Tensor):
        raise ParameterError(
            "weights are a tensor, such as layer.weight, or a Linear, Conv or ConvTranspose "
            f"layer, got {type(weight).__name__}"
        )
    if nn.parameter.is_lazy(weight):
        raise ParameterError("a lazy layer has no weights before its first call")
    if weight.is_inference() and not torch.is_inference_mode_enabled():
        raise ParameterError("weights that were made in inference mode cannot be set outside it")
    if weight.dtype not in _DTYPES:
        raise ParameterError(f"weights are floating-point numbers, got dtype {weight.dtype}")
    overlap = any(
        n > 1 and not stride for n, stride in zip(weight.shape, weight.stride(), strict=True)
    )
    if weight.layout != torch.strided or overlap:
        raise ParameterError(
            "weights must have memory of their own, got a sparse or expanded tensor"
        )
