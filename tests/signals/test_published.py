"""Published models, from small configurations: predictions against one pass of each."""

import math
import statistics
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="these models are of transformers")

from gainreg.adapters.torch import apply_, measure, plan  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own

TEXT = {"vocab_size": 500, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
        "intermediate_size": 512, "pad_token_id": 0}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("AutoModel", TEXT),
    "gpt2": ("AutoModelForCausalLM",
             {"vocab_size": 500, "n_embd": 128, "n_layer": 4, "n_head": 4, "bos_token_id": 1,
              "eos_token_id": 2}),
    "llama": ("AutoModelForCausalLM", {**TEXT, "num_key_value_heads": 2}),
    "vit": ("AutoModelForImageClassification",
            {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
             "intermediate_size": 512, "image_size": 64, "patch_size": 8}),
    "swin": ("AutoModelForImageClassification",
             {"image_size": 64, "embed_dim": 64, "depths": [2, 2], "num_heads": [2, 4],
              "window_size": 4, "patch_size": 2}),
    "convnext": ("AutoModelForImageClassification",
                 {"hidden_sizes": [64, 128, 256], "depths": [2, 2, 2], "num_stages": 3}),
    "resnet": ("AutoModelForImageClassification",
               {"layer_type": "basic", "hidden_sizes": [64, 128], "depths": [2, 2],
                "embedding_size": 64}),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_sizes_are_predicted_within_a_few_percent(name: str) -> None:
    torch.manual_seed(0)
    head, options = MODELS[name]
    config = transformers.AutoConfig.for_model(name, **options)
    model = getattr(transformers, head).from_config(config).train(name == "resnet")
    text = "image" not in head.lower()
    data = torch.randint(5, 500, (8, 32)) if text else torch.randn(8, 3, 64, 64)
    kwargs = {"input_ids" if text else "pixel_values": data}
    made = plan(model, (), kwargs)
    assert sorted(made.listed) == sorted(
        n for n, _ in model.named_parameters(remove_duplicate=False)
    )
    apply_(model, made)
    off = []
    for weight in measure(model, (), kwargs).weights:
        error = abs(math.log(weight.input_rms / weight.measured_input_rms))
        off.append(error)
        assert error < max(3 * weight.spread, 0.02 if weight.exact else 0.25), weight.name
    assert statistics.median(off) < 0.03
    assert sum(error < math.log(1.1) for error in off) >= 0.85 * len(off)


def test_the_depth_scaling_of_gpt2_is_found_without_its_names() -> None:
    head, options = MODELS["gpt2"]
    config = transformers.AutoConfig.for_model("gpt2", **options)
    with torch.device("meta"):
        model = getattr(transformers, head).from_config(config)
    made = plan(model, torch.ones(2, 16, dtype=torch.long, device="meta"))
    ends = {name for name, (_, reason) in made.parameters.items() if "of 8 residual" in reason}
    expected = {
        f"transformer.h.{i}.{part}.c_proj.weight" for i in range(4) for part in ("attn", "mlp")
    }
    assert ends == expected


def test_a_llama_of_7_billion_parameters_is_planned_without_computing_it() -> None:
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig())
    made = plan(model, torch.ones(1, 2048, dtype=torch.long, device="meta"))
    assert sum(status == "set" for status, _ in made.parameters.values()) == 226
    down = next(w for w in made.weights if w.name.endswith("layers.31.mlp.down_proj.weight"))
    assert down.std == pytest.approx((64 * 11008 * 0.3557) ** -0.5, rel=0.01)
