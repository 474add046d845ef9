"""Tiny random models of the families of docs/families.md, made by transformers."""

import json
from pathlib import Path
from typing import Any

VOCABULARY = 320
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": None,
    "initializer_range": 0.1,
}
_LLAMA_3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5e5}
_LLAMA_3 |= {"original_max_position_embeddings": 64}


def _rope(theta: float, **scaling: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta} | scaling}


# Family -> the class of transformers, and what its config.json has. Shapes and positions are tiny, so that each kind of
# rotary scaling has an effect within 160 tokens; all else is as published.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"rms_norm_eps": 1e-6, **_rope(1e4)}),
    "code-llama": ("Llama", {"vocab_size": VOCABULARY + 16, **_rope(1e6)}),
    "llama-3": ("Llama", {"num_key_value_heads": 1, **_rope(5e5)}),
    "llama-3.1": ("Llama", {"num_key_value_heads": 2, "rope_parameters": _LLAMA_3 | {"factor": 8.0}}),
    "llama-3.2": (
        "Llama",
        {"num_key_value_heads": 2, "tie_word_embeddings": True, "rope_parameters": _LLAMA_3 | {"factor": 32.0}},
    ),
    "tinyllama": ("Llama", {"num_attention_heads": 8, "num_key_value_heads": 1, **_rope(1e4)}),
    "smollm2": (
        "Llama",
        {
            "hidden_size": 72,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
            **_rope(1e5),
        },
    ),
    "deepseek-coder": ("Llama", {"rms_norm_eps": 1e-6, **_rope(1e5, rope_type="linear", factor=4.0)}),
    "yi-coder": ("Llama", {"num_key_value_heads": 2, **_rope(1e7)}),
    "opencoder": ("Llama", {"hidden_size": 56, "num_attention_heads": 7, "num_key_value_heads": 7, **_rope(1e4)}),
    "dynamic": ("Llama", _rope(1e4, rope_type="dynamic", factor=2.0)),
    "mistral": ("Mistral", {"num_key_value_heads": 2, "sliding_window": None, **_rope(1e6)}),
    "mistral-nemo": ("Mistral", {"num_key_value_heads": 2, "head_dim": 24, "sliding_window": None, **_rope(1e6)}),
    "qwen2.5-coder-1.5b": (
        "Qwen2",
        {
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "sliding_window": 128,
            **_rope(1e6),
        },
    ),
    "qwen2.5-coder-7b": ("Qwen2", {"num_key_value_heads": 2, "rms_norm_eps": 1e-6, **_rope(1e6)}),
    "qwen2.5-coder-yarn": (
        "Qwen2",
        {
            "num_key_value_heads": 2,
            **_rope(1e6, rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
        },
    ),
    "yarn-mscale": (
        "Llama",
        {
            "num_key_value_heads": 2,
            **_rope(1e4, rope_type="yarn", factor=8.0, original_max_position_embeddings=32, beta_fast=8.0),
        },
    ),
}
FAMILIES["yarn-mscale"][1]["rope_parameters"] |= {
    **{"beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 1.0, "truncate": False}
}


def model(name: str) -> Any:
    """The model of a family with random values everywhere, in biases and norms too."""
    import torch
    import transformers

    kind, keys = FAMILIES[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**_SHAPE | keys)
    made = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in made.named_parameters():
            if parameter.ndim == 1:
                noise = torch.randn_like(parameter) * 0.2
                parameter.copy_(noise if parameter_name.endswith("bias") else 1 + noise)
    return made


def save(made: Any, folder: Path, version: int) -> Path:
    """Writes the model, with the keys of version 4 or 5 of transformers in config.json."""
    made.save_pretrained(folder)
    if version == 4:
        config = json.loads((folder / "config.json").read_text())
        rope = config.pop("rope_parameters")
        config["torch_dtype"] = config.pop("dtype")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
        (folder / "config.json").write_text(json.dumps(config))
    return folder
