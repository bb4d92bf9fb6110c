"""In-place initialisers of PyTorch weights, as in ``torch.nn.init``."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gainreg import scaling
from gainreg.errors import MomentError, ParameterError, PluginError

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional, init
except ImportError as error:  # pragma: no cover
    raise scaling.missing("PyTorch", "torch", error) from error

if TYPE_CHECKING:
    from gainreg.activation import Activation
    from gainreg.entry import GainEntry

_LINEAR = ("linear", *(f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)))
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PASSED = (nn.Identity, nn.Flatten, nn.Unflatten)  # φ(x) = x, and what only moves numbers


# --- initialisers ---


def normal_(
    tensor: Tensor,
    activation: str | Activation | GainEntry | Callable[..., Any],
    mode: str = "fan_in",
    *,
    std: float = 1.0,
    table: scaling.Table = None,
    generator: torch.Generator | None = None,
    transposed: bool = False,
    groups: int = 1,
    **params: float,
) -> Tensor:
    """Fill weights from a normal distribution of mean 0, and return them.

    Args:
        tensor: weights of shape (out, in, *kernel), as in Linear and Conv. Fans are PyTorch's own.
        activation: the one whose output feeds the weights ("identity" for data): a name, a
            ``gainreg.Activation``, a ``GainEntry``, a module such as ``nn.LeakyReLU(0.2)``, a
            function of ``torch`` or ``torch.nn.functional``, a ``functools.partial`` of one, or
            any callable on tensors. A PReLU with several slopes counts with their root mean
            square, which gives the exact average over channels; an RReLU in eval mode with its
            mean slope.
        mode: "fan_in" keeps the forward variance, "fan_out" the gradient variance, "fan_avg"
            makes the compromise of Glorot and Bengio (2010).
        std: standard deviation of the pre-activation, not its variance.
        table: a ``GainTable`` or its path: every constant comes from there.
        generator: the random numbers' source.
        transposed: True for the weights of a ConvTranspose, of shape (in, out / groups, *kernel):
            the tensor alone does not tell. A stride is not counted, as in ``torch.nn.init``.
        groups: of a grouped convolution. Left at 1 the fans are those of ``torch.nn.init``, whose
            fan_out (fan_in if transposed) counts the channels of all groups together.
        **params: the activation's parameters, where they differ from the defaults.

    Raises:
        ParameterError: a shape, mode, param or std is not what it must be.
        MomentError: the gain does not exist, as "fan_out" where φ jumps.
        TableError: ``table`` lacks the entry.
        UnknownActivationError, PluginError: as ``gainreg.resolve``.
    """
    scale = _weight_std(tensor, activation, mode, std, table, transposed, groups, params)
    return init.normal_(tensor, 0.0, scale, generator=generator)


def uniform_(
    tensor: Tensor,
    activation: str | Activation | GainEntry | Callable[..., Any],
    mode: str = "fan_in",
    *,
    std: float = 1.0,
    table: scaling.Table = None,
    generator: torch.Generator | None = None,
    transposed: bool = False,
    groups: int = 1,
    **params: float,
) -> Tensor:
    """Fill weights from a uniform distribution on (−√3·s, √3·s) of std s; see normal_."""
    scale = _weight_std(tensor, activation, mode, std, table, transposed, groups, params)
    bound = scaling.uniform_bound(scale)
    return init.uniform_(tensor, -bound, bound, generator=generator)


def trunc_normal_(
    tensor: Tensor,
    activation: str | Activation | GainEntry | Callable[..., Any],
    mode: str = "fan_in",
    *,
    std: float = 1.0,
    table: scaling.Table = None,
    generator: torch.Generator | None = None,
    transposed: bool = False,
    groups: int = 1,
    **params: float,
) -> Tensor:
    """Fill weights from a normal distribution cut off at twice its standard deviation; see normal_.

    It is widened so that what is left has the standard deviation that ``normal_`` would give.
    """
    scale = _weight_std(tensor, activation, mode, std, table, transposed, groups, params)
    wide = scaling.untruncated_std(scale)
    return init.trunc_normal_(tensor, 0.0, wide, -2 * wide, 2 * wide, generator=generator)


def orthogonal_(
    tensor: Tensor,
    activation: str | Activation | GainEntry | Callable[..., Any],
    mode: str = "fan_in",
    *,
    std: float = 1.0,
    table: scaling.Table = None,
    generator: torch.Generator | None = None,
    transposed: bool = False,
    groups: int = 1,
    **params: float,
) -> Tensor:
    """Fill weights with a semi-orthogonal matrix of the mean square of ``normal_``; see normal_.

    Trailing axes are flattened as in ``torch.nn.init.orthogonal_``. Saxe et al. 2014,
    arXiv:1312.6120. Half precision is drawn in float32, which has the QR factorisation.
    """
    scale = _weight_std(tensor, activation, mode, std, table, transposed, groups, params)
    rows = tensor.shape[0]
    factor = scaling.orthogonal_scale(scale, rows, tensor.numel() // rows)
    if tensor.dtype not in (torch.float16, torch.bfloat16):
        return init.orthogonal_(tensor, factor, generator=generator)
    drawn = init.orthogonal_(torch.empty_like(tensor, dtype=torch.float32), factor, generator)
    with torch.no_grad():
        return tensor.copy_(drawn)


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

        named = None if isinstance(nonlinearity, str) else _TORCH.read(nonlinearity)[0]
        if named is None and not isinstance(nonlinearity, str):
            raise ParameterError(f"{nonlinearity!r} has no param that gainreg knows of")
        activation = host().activation(named[0] if named else nonlinearity)
        params = dict.fromkeys(list(activation.params)[:1], param)
    return float(_TORCH.entry(nonlinearity, 1.0, params, None).gain)


def init_sequential_(
    model: nn.Sequential,
    table: scaling.Table = None,
    *,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Initialise a chain of layers, each for the activation before it, and return the chain.

    Every Linear and Conv gets normal weights that keep the forward variance (mode "fan_in") for
    the activation that feeds it: the identity for the first, whose input is data of mean square 1,
    and where two follow each other. All pre-activations then have standard deviation 1. Biases
    become 0. Sequentials within are flattened; Identity, Flatten and Unflatten are passed over.
    Nothing is changed if anything is refused.

    Args:
        model: a Sequential of Linear, Conv, ConvTranspose and activation modules.
        table: a ``GainTable`` or its path: every constant comes from there.
        generator: the random numbers' source.

    Raises:
        ParameterError: what is not such a chain, naming the module.
        TableError, MomentError: as ``normal_``.
    """
    from gainreg.table import GainTable, load_table

    if table is not None and not isinstance(table, GainTable):
        table = load_table(table)
    layers: list[tuple[Any, float]] = []
    feeding: tuple[str, nn.Module] | None = None
    for where, module in _chain(model, "model"):
        if isinstance(module, (nn.Linear, *_CONVS, *_TRANSPOSED)):
            if fault := _fault_of(module, [layer for layer, _ in layers]):
                raise ParameterError(f"{_name(where, module)} {fault}; initialise it yourself")
            try:
                entry = _TORCH.entry(feeding[1] if feeding else "identity", 1.0, {}, table)
                fan_in, _ = _fans(
                    module.weight,
                    isinstance(module, _TRANSPOSED),
                    1 if isinstance(module, nn.Linear) else module.groups,
                )
                if isinstance(module, _TRANSPOSED):  # of its inputs, so many reach one output
                    fan_in /= math.prod(module.stride)
                layers.append((module, math.sqrt(scaling.variance(entry, "fan_in", fan_in, 1))))
            except (ParameterError, MomentError, PluginError) as error:
                fed = f" after {_name(*feeding)}" if feeding else ""
                raise ParameterError(f"{_name(where, module)}{fed}: {error}") from error
            feeding = None
        elif type(module) in _MODULES and not isinstance(module, _PASSED):
            if feeding:
                raise ParameterError(
                    f"{_name(where, module)} follows the activation {_name(*feeding)}: "
                    "initialise the next layer yourself, with the composed function"
                )
            feeding = where, module
        elif type(module) not in _PASSED:
            raise ParameterError(
                f"{_name(where, module)} is no part of a chain that init_sequential_ knows: "
                "Linear, Conv, ConvTranspose, activation modules, Identity, Flatten, Unflatten and "
                "plain Sequential; initialise the layers yourself, with normal_"
            )
    for layer, scale in layers:
        init.normal_(layer.weight, 0.0, scale, generator=generator)
        if layer.bias is not None:
            init.zeros_(layer.bias)
    return model


def _fault_of(module: Any, before: list[Any]) -> str:
    """Why a layer's weights cannot be set here, "" if they can."""
    weight = module._parameters.get("weight")
    if weight is None:
        return "computes its weight from others (weight_norm, pruning or a parametrization)"
    if nn.parameter.is_lazy(weight):
        return "has no weights before its first call"
    storages = [layer.weight.untyped_storage().data_ptr() for layer in before]
    if weight.untyped_storage().data_ptr() in storages and not weight.is_meta:
        return "has the weight of a layer before it"
    if weight.is_inference() and not torch.is_inference_mode_enabled():
        return "was made in inference mode"
    if not any(type(module).forward is kind.forward for kind in (nn.Linear, *_CONVS, *_TRANSPOSED)):
        return "computes something else than its kind of layer"
    return ""


def _chain(model: nn.Module, where: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a Sequential, with those of Sequentials within it, and where they stand."""
    if not isinstance(model, nn.Sequential) or type(model).forward is not nn.Sequential.forward:
        raise ParameterError(f"{_name(where, model)} is no plain nn.Sequential")
    # named_children would leave out repetitions
    for key, module in model._modules.items():
        place = f"{where}[{key}]"
        if isinstance(module, nn.Sequential):
            yield from _chain(module, place)
        elif module is not None:
            yield place, module


def _name(where: str, module: object) -> str:
    return f"{where} ({type(module).__name__})"


# --- fans and activations ---


def _weight_std(
    tensor: Tensor,
    activation: Any,
    mode: str,
    std: float,
    table: scaling.Table,
    transposed: bool,
    groups: int,
    params: dict[str, float],
) -> float:
    fan_in, fan_out = _fans(tensor, transposed, groups)
    entry = _TORCH.entry(activation, std, params, table)
    return math.sqrt(scaling.variance(entry, mode, fan_in, fan_out))


def _fans(tensor: Tensor, transposed: bool, groups: int) -> tuple[float, float]:
    if not isinstance(tensor, Tensor):
        raise ParameterError(
            f"weights are a tensor, such as layer.weight, got {type(tensor).__name__}"
        )
    if nn.parameter.is_lazy(tensor):
        raise ParameterError("a lazy layer has no weights before its first call")
    scaling.fans(tensor.shape, 1, 0)  # refuses what is no shape of weights
    if tensor.dtype not in _DTYPES:
        raise ParameterError(f"weights are floating-point numbers, got dtype {tensor.dtype}")
    overlap = any(
        n > 1 and not stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    if tensor.layout != torch.strided or overlap:
        raise ParameterError(
            "weights must have memory of their own, got a sparse or expanded tensor"
        )
    if not isinstance(groups, int) or groups < 1 or tensor.shape[0] % groups:
        raise ParameterError(f"groups must divide the first axis {tensor.shape[0]}, got {groups}")
    fan_in, fan_out = init._calculate_fan_in_and_fan_out(tensor)
    fan_out //= groups
    return (fan_out, fan_in) if transposed else (fan_in, fan_out)


def wrap(function: Callable[..., Any]) -> Activation:
    """A callable on tensors as an ``Activation``, evaluated in float64, φ′ through autograd."""

    if isinstance(function, nn.Module):
        # a copy, which evaluation may change, and in double precision, if it has parameters
        function = copy.deepcopy(function).to("cpu", torch.float64)

    def tensor(x: Any, **options: Any) -> Tensor:
        return torch.tensor(x, dtype=torch.float64, device="cpu", **options)

    def forward(x: Any) -> Any:
        with torch.inference_mode(False), torch.no_grad():
            return _double(function(tensor(x)))

    def derivative(x: Any) -> Any:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = tensor(x, requires_grad=True)
            y = function(leaf.clone())  # no leaf, as φ may work in place
            (slope,) = torch.autograd.grad(y.sum(), leaf, materialize_grads=True)
        return _double(slope)

    return scaling.elementwise(function, forward, derivative)


def _double(y: Any) -> Any:
    """A tensor as an array, in float64 if its numbers are real; anything else as it is."""
    if not isinstance(y, Tensor):
        return y
    return (y.double() if y.is_floating_point() else y).numpy(force=True)


def _prelu(weight: Tensor) -> scaling.Named:
    if weight.is_meta:
        raise ParameterError("the slope of a PReLU on the meta device has no value yet")
    slopes = weight.detach().flatten().tolist()
    return "prelu", {"weight": scaling.root_mean_square(slopes)}


def _rrelu(
    lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> scaling.Named:
    if training:
        return "rrelu", {"lower": lower, "upper": upper}
    return "leaky_relu", {"negative_slope": (lower + upper) / 2}


def _gelu(approximate: str = "none") -> scaling.Named:
    if approximate not in ("none", "tanh"):
        raise ParameterError(f"GELU's approximate is 'none' or 'tanh', got {approximate!r}")
    return ("gelu" if approximate == "none" else "gelu_tanh"), {}


def _softplus(beta: float = 1.0, threshold: float = 20.0) -> scaling.Named | None:
    # a line from beta·x = threshold on: by default, where a double does not tell them apart
    return ("softplus", {"beta": beta}) if threshold >= 20 else None


def _threshold(threshold: float, value: float, inplace: bool = False) -> scaling.Named:
    return "threshold", {"threshold": threshold, "value": value}


def _refuse_attention(_: nn.Module) -> scaling.Named:
    raise ParameterError("MultiheadAttention is no activation function; its weights are its own")


_READERS: dict[str, scaling.Reader] = {
    **scaling.READERS,
    "gelu": _gelu,
    "hardshrink": lambda lambd=0.5: ("hardshrink", {"lambd": lambd}),
    "hardtanh": lambda min_val=-1.0, max_val=1.0, inplace=False: (
        "hardtanh",
        {"min_val": min_val, "max_val": max_val},
    ),
    "prelu": _prelu,
    "rrelu": _rrelu,
    "softplus": _softplus,
    "softshrink": lambda lambd=0.5: ("softshrink", {"lambd": lambd}),
    "threshold": _threshold,
}


def _read(reader: str, *attributes: str) -> Callable[[Any], scaling.Named | None]:
    """The reader of a module: that of a function, given the module's attributes."""
    return lambda module: _READERS[reader](**{name: getattr(module, name) for name in attributes})


_MODULES: dict[type, Callable[[Any], scaling.Named | None]] = {
    nn.CELU: _read("celu", "alpha"),
    nn.ELU: _read("elu", "alpha"),
    nn.GELU: _read("gelu", "approximate"),
    nn.GLU: _read("glu"),
    nn.Hardshrink: _read("hardshrink", "lambd"),
    nn.Hardsigmoid: _read("hardsigmoid"),
    nn.Hardswish: _read("hardswish"),
    nn.Hardtanh: _read("hardtanh", "min_val", "max_val"),
    nn.Identity: _read("identity"),
    nn.LeakyReLU: _read("leaky_relu", "negative_slope"),
    nn.LogSigmoid: _read("logsigmoid"),
    nn.LogSoftmax: _read("log_softmax"),
    nn.Mish: _read("mish"),
    nn.MultiheadAttention: _refuse_attention,
    nn.PReLU: _read("prelu", "weight"),
    nn.ReLU: _read("relu"),
    nn.ReLU6: _read("relu6"),
    nn.RReLU: _read("rrelu", "lower", "upper", "training"),
    nn.SELU: _read("selu"),
    nn.SiLU: _read("silu"),
    nn.Sigmoid: _read("sigmoid"),
    nn.Softmax: _read("softmax"),
    nn.Softmax2d: _read("softmax"),
    nn.Softmin: _read("softmin"),
    nn.Softplus: _read("softplus", "beta", "threshold"),
    nn.Softshrink: _read("softshrink", "lambd"),
    nn.Softsign: _read("softsign"),
    nn.Tanh: _read("tanh"),
    nn.Tanhshrink: _read("tanhshrink"),
    nn.Threshold: _read("threshold", "threshold", "value"),
}
_TORCH = scaling.Framework(
    functions=scaling.functions_in(
        (torch, torch.special, Tensor, functional), _READERS, suffixes=("", "_")
    ),
    objects=_MODULES,
    wrap=wrap,
)
