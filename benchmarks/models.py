"""Published models, from their configurations alone: predicted sizes against measured ones.

    python benchmarks/models.py [NAME ...]

For each model: of the rms of what feeds each weight, the median error and the share within 10 %;
of the gradients, the share within a factor 1.5; and the seconds that plan, apply and measure take
beside one forward pass.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn

from gainreg.adapters.torch import apply_, measure, plan

Make = Callable[[], tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]
BATCH = 8


def _tokens(length: int = 64, vocabulary: int = 1000) -> torch.Tensor:
    return torch.randint(5, vocabulary, (BATCH, length))


def _text(name: str, head: str = "AutoModel", **options: Any) -> Make:
    def make() -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
        config = transformers.AutoConfig.for_model(name, **options)
        return getattr(transformers, head).from_config(config), (), {"input_ids": _tokens()}

    return make


def _vision(name: str, size: int = 64, **options: Any) -> Make:
    def make() -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
        config = transformers.AutoConfig.for_model(name, **options)
        model = transformers.AutoModelForImageClassification.from_config(config)
        return model, (), {"pixel_values": torch.randn(BATCH, 3, size, size)}

    return make


_BERT = {"vocab_size": 1000, "hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4,
         "intermediate_size": 1024}  # fmt: skip
_VIT = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4,
        "intermediate_size": 1024, "image_size": 64, "patch_size": 8}  # fmt: skip
MODELS: dict[str, Make] = {
    "bert": _text("bert", **_BERT),
    "roberta": _text("roberta", **_BERT),
    "distilbert": _text("distilbert", vocab_size=1000, dim=256, n_layers=6, n_heads=4,
                        hidden_dim=1024),
    "electra": _text("electra", embedding_size=128, **_BERT),
    "gpt2": _text("gpt2", "AutoModelForCausalLM", vocab_size=1000, n_embd=256, n_layer=6, n_head=4),
    "opt": _text("opt", "AutoModelForCausalLM", vocab_size=1000, hidden_size=256, ffn_dim=1024,
                 num_hidden_layers=6, num_attention_heads=4, word_embed_proj_dim=256),
    "llama": _text("llama", "AutoModelForCausalLM", num_key_value_heads=2, **_BERT),
    "mistral": _text("mistral", "AutoModelForCausalLM", num_key_value_heads=2, **_BERT),
    "gemma": _text("gemma", "AutoModelForCausalLM", num_key_value_heads=2, head_dim=64, **_BERT),
    "phi": _text("phi", "AutoModelForCausalLM", **_BERT),
    "gpt_neox": _text("gpt_neox", "AutoModelForCausalLM", **_BERT),
    "qwen2": _text("qwen2", "AutoModelForCausalLM", num_key_value_heads=2, **_BERT),
    "vit": _vision("vit", **_VIT),
    "beit": _vision("beit", **_VIT),
    "swin": _vision("swin", 64, image_size=64, embed_dim=64, depths=[2, 2, 4],
                    num_heads=[2, 4, 8], window_size=4, patch_size=2),
    "swinv2": _vision("swinv2", 64, image_size=64, embed_dim=64, depths=[2, 2, 4],
                      num_heads=[2, 4, 8], window_size=4, patch_size=2),
    "convnext": _vision("convnext", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 4, 2]),
    "convnextv2": _vision("convnextv2", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 4, 2]),
    "resnet18": _vision("resnet", 96, layer_type="basic", hidden_sizes=[64, 128, 256, 512],
                        depths=[2, 2, 2, 2], embedding_size=64),
    "resnet50": _vision("resnet", 96),
    "regnet": _vision("regnet", 96),
    "mobilenet_v2": _vision("mobilenet_v2", 96, image_size=96),
    "poolformer": _vision("poolformer", 96, hidden_sizes=[64, 128, 256, 256]),
    "segformer": _vision("segformer", 96),
    "pvt_v2": _vision("pvt_v2", 96, image_size=96),
}  # fmt: skip


def errors(report: Any) -> tuple[list[float], list[float]]:
    """|ln(predicted/measured)| of what feeds each weight, and of the gradients."""
    forward, backward = [], []
    for weight in report.weights:
        if weight.measured_input_rms and weight.operation != "embedding":
            forward.append(abs(math.log(weight.input_rms / weight.measured_input_rms)))
        if weight.measured_gradient_rms and weight.gradient_rms:
            backward.append(abs(math.log(weight.gradient_rms / weight.measured_gradient_rms)))
    return forward, backward


def figures(report: Any) -> str:
    """How many weights, the median error, and the shares within 10 % and within a factor 1.5."""
    sizes, gradients = errors(report)
    near = sum(error < math.log(1.1) for error in sizes) / len(sizes)
    close = sum(error < math.log(1.5) for error in gradients) / max(1, len(gradients))
    return f"{len(sizes):7} {statistics.median(sizes):7.1%} {near:8.0%} {close:17.0%}"


COLUMNS = "weights  median  in 10 %  gradients in 1.5"


def trained(model: nn.Module) -> nn.Module:
    """A model in the mode in which it is measured: as it will be trained where batch norm is there,
    since before that its buffers norm nothing."""
    norms = nn.modules.batchnorm._BatchNorm
    return model.train(any(isinstance(module, norms) for module in model.modules()))


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """How long a call takes, and what it gives."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    print(f"{'model':13} {COLUMNS}  forward   plan  apply  measure")
    for name in names or MODELS:
        torch.manual_seed(0)
        model, args, kwargs = MODELS[name]()
        trained(model)
        with torch.no_grad():
            model(*args, **kwargs)
            forward, _ = seconds(lambda: model(*args, **kwargs))  # noqa: B023
        planning, made = seconds(lambda: plan(model, args, kwargs))  # noqa: B023
        applying, _ = seconds(lambda: apply_(model, made))  # noqa: B023
        measuring, report = seconds(lambda: measure(model, args, kwargs))  # noqa: B023
        print(
            f"{name:13} {figures(report)} {forward:8.2f} "
            f"{planning:6.2f} {applying:6.2f} {measuring:8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
