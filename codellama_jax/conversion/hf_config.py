"""The config.json of Hugging Face's LlamaForCausalLM and of the models that compute the same or almost the same.

Two values for one fact are refused if they differ.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from codellama_jax.config.model import Llama
from codellama_jax.conversion import canonical, hf_rope
from codellama_jax.conversion.canonical import Model, Tensor
from codellama_jax.conversion.json_values import check_same, number, whole_number
from codellama_jax.errors import UserError
from codellama_jax.training.lineage import SPECIAL_IDS


class _Family(NamedTuple):
    """A model_type of transformers.

    Attributes:
        architecture: the class of the model with a head.
        qkv_bias: whether the projections to queries, keys and values have biases.
        positions: the default of max_position_embeddings.
        kv_heads: the default of num_key_value_heads; None: as many as query heads.
        keys: the keys of config.json that only this type has, as an export writes them.
    """

    architecture: str
    qkv_bias: bool
    positions: int
    kv_heads: int | None
    keys: dict[str, Any]


FAMILIES = {
    "llama": _Family("LlamaForCausalLM", False, 2048, None, {"attention_bias": False, "mlp_bias": False}),
    "mistral": _Family("MistralForCausalLM", False, 4096 * 32, 8, {"sliding_window": None}),
    "qwen2": _Family("Qwen2ForCausalLM", True, 32_768, 32, {"use_sliding_window": False}),
}
_DEFAULT_WINDOW = 4096  # of MistralForCausalLM, if config.json does not have sliding_window
# Keys of models that resemble a Llama but compute something else -> the values with which they are a Llama
_OTHER_MODELS: dict[str, tuple[Any, ...]] = {
    "quantization_config": (None,),
    "compression_config": (None,),
    "attention_bias": (None, False),
    "mlp_bias": (None, False),
    "hidden_act": ("silu",),
    "partial_rotary_factor": (None, 1, 1.0),
    "use_sliding_window": (None, False),
    "use_mrope": (None, False),
    "num_local_experts": (None, 0),
    "num_experts": (None, 0),
    "use_qk_norm": (None, False),
    "qk_norm": (None, False),
    "qk_layernorm": (None, False),
    "clip_qkv": (None,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "logit_scale": (None, 1, 1.0),
    "logits_scaling": (None, 1, 1.0),
    "embedding_multiplier": (None, 1, 1.0),
    "residual_multiplier": (None, 1, 1.0),
    "no_rope_layers": (None, []),
}
# Other keys of a fact, which some readers prefer: vLLM takes the smallest number of positions
_POSITIONS = ("max_position_embeddings", "max_sequence_length", "max_seq_length", "max_seq_len", "n_positions")
_EPSILONS = ("rms_norm_eps", "norm_eps", "layer_norm_eps", "layer_norm_epsilon")
_DTYPE = ("dtype", "torch_dtype")


def read_llama(path: Path, config: dict[str, Any]) -> tuple[Llama, int]:
    """The shape of the model, and its number of positions.

    Args:
        path: path of the file, for messages.
        config: its content.

    Raises:
        UserError: the decoder does not support the model, a value is impossible, or two values contradict each other.
    """
    family = _checked_family(path, config)
    sizes = {}
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"):
        if key not in config:
            raise _unsupported(path, f"'{key}' is missing")
        sizes[key] = whole_number(path, key, config[key])
    positions = whole_number(path, "max_position_embeddings", config.get("max_position_embeddings", family.positions))
    heads = sizes["num_attention_heads"]
    # null: as many as query heads, in every version of transformers
    kv_heads = config.get("num_key_value_heads", family.kv_heads)
    width = config.get("head_dim")
    if width is not None:
        width = whole_number(path, "head_dim", width)
    llama = canonical.checked_llama(
        path,
        dim=sizes["hidden_size"],
        layers=sizes["num_hidden_layers"],
        heads=heads,
        kv_heads=heads if kv_heads is None else whole_number(path, "num_key_value_heads", kv_heads),
        ffn_dim=sizes["intermediate_size"],
        vocab_size=sizes["vocab_size"],
        head_width=0 if width is None or width * heads == sizes["hidden_size"] else width,
        qkv_bias=family.qkv_bias,
        tied=_tied(path, config),
        norm_eps=number(path, "rms_norm_eps", config.get("rms_norm_eps", 1e-6)),
        **hf_rope.read(path, config, positions),
    )
    check_same(path, [(key, str(config[key]).removeprefix("torch.")) for key in _DTYPE if config.get(key) is not None])
    for keys in (_POSITIONS, _EPSILONS):
        check_same(path, [(key, config[key]) for key in keys if config.get(key) is not None])
    return llama, positions


def config_json(model: Model) -> dict[str, Any]:
    """The configuration for transformers, vLLM and llama.cpp.

    Every fact has one key, so that an edit of the file changes it for all readers: keys that version 4 of transformers
    reads, and version 5 too (rope_theta and rope_scaling instead of rope_parameters, torch_dtype instead of dtype). The
    head dimension is left out where it follows from hidden_size.
    """
    llama = model.llama
    model_type = _model_type(model)
    family = FAMILIES[model_type]
    width = {"head_dim": llama.head_dim} if llama.head_dim * llama.heads != llama.dim else {}
    return {
        "architectures": [family.architecture],
        "model_type": model_type,
        "vocab_size": llama.vocab_size,
        "hidden_size": llama.dim,
        "intermediate_size": llama.ffn_dim,
        "num_hidden_layers": llama.layers,
        "num_attention_heads": llama.heads,
        "num_key_value_heads": llama.kv_heads,
        **width,
        "max_position_embeddings": hf_rope.positions(llama, model.sequence_length),
        "rms_norm_eps": llama.norm_eps,
        **hf_rope.write(llama),
        "hidden_act": "silu",
        **family.keys,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": llama.tied,
        "use_cache": True,
        "torch_dtype": model.dtypes[str(Tensor("embedding"))],
    }


def _model_type(model: Model) -> str:
    """The type that an export has: one that can express the model, and that of its import if that can."""
    if model.llama.qkv_bias:
        return "qwen2"
    if model.llama.dim % model.llama.heads:
        return "mistral"  # transformers refuses a LlamaConfig with such a head_dim
    return "mistral" if model.notes.get("model_type") == "mistral" else "llama"


def _tied(path: Path, config: dict[str, Any]) -> bool:
    """Whether the head is the embedding, according to the file. Raises UserError if the value is not a boolean."""
    value = config.get("tie_word_embeddings")
    if value is not None and not isinstance(value, bool):
        raise UserError(f"{path}: tie_word_embeddings is {json.dumps(value)}, not true or false; correct it")
    return bool(value)


def special_ids(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The ids of special tokens (SPECIAL_IDS) in the file: each a whole number, a list of them, or null.

    Raises:
        UserError: one is something else.
    """
    for key in SPECIAL_IDS:
        value = config.get(key)
        ids = value if isinstance(value, list) and value else [value]
        if value is not None and any(isinstance(id, bool) or not isinstance(id, int) for id in ids):
            raise UserError(f"{path}: {key} is {json.dumps(value)}, not the id of a token; correct it")
    return {key: config[key] for key in SPECIAL_IDS if key in config}


def warnings(config: dict[str, Any], rows: int, dtypes: set[str]) -> Iterator[str]:
    """What the file says otherwise than the tensors, where that does not change the model.

    Args:
        config: the content of a file that `read_llama` and `special_ids` accept.
        rows: rows of the vocabulary.
        dtypes: dtypes of the tensors.
    """
    for key in _DTYPE:
        if isinstance(config.get(key), str) and config[key].removeprefix("torch.") not in {"auto", *dtypes}:
            yield f"{key} is {config[key]}, but the tensors are {' and '.join(sorted(dtypes))}, which they stay"
            break
    for key in hf_rope.unread(config):
        yield f"{key} is not read: this type of rotary scaling has no such value"
    for key in SPECIAL_IDS:
        ids = config.get(key)
        beyond = [id for id in (ids if isinstance(ids, list) else [ids]) if id is not None and id >= rows]
        if beyond:
            yield f"{key} is {beyond[0]}, but the vocabulary has {rows} rows: no row has this id"


def _unsupported(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: {reason}; only Llama, Mistral and Qwen2 models without sliding windows are supported")


def _checked_family(path: Path, config: dict[str, Any]) -> _Family:
    family = FAMILIES.get(str(config.get("model_type")))
    architectures = config.get("architectures") or [family.architecture if family else "LlamaForCausalLM"]
    if family is None or architectures != [family.architecture]:
        raise _unsupported(path, f"model_type is {config.get('model_type')!r}, architectures {architectures}")
    for key, neutral in _OTHER_MODELS.items():
        if key in config and config[key] not in neutral:
            raise _unsupported(path, f"{key} is {config[key]!r}")
    if family.architecture == "MistralForCausalLM" and "sliding_window" not in config:
        raise _unsupported(path, f"sliding_window is missing, so it is {_DEFAULT_WINDOW}")
    if config.get("sliding_window") is not None and family.architecture != "Qwen2ForCausalLM":  # has use_sliding_window
        raise _unsupported(path, f"sliding_window is {config['sliding_window']!r}")
    layer_types = config.get("layer_types") or []
    if not isinstance(layer_types, list) or any(kind != "full_attention" for kind in layer_types):
        raise _unsupported(path, f"layer_types is {layer_types!r}")
    return family
