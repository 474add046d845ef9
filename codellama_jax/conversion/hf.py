"""Hugging Face's LlamaForCausalLM: config.json and safetensors files, with an index if there are several.

Older folders have pytorch_model*.bin instead, which torch_file reads. Matrices are [out, in]. Rotary channels are
half-split, as in the native layout, so q and k are not permuted; canonical.py does that for Meta's order.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from codellama_jax.conversion import canonical, safetensors, torch_file
from codellama_jax.conversion.canonical import DTYPES, Model, Source, Tensor
from codellama_jax.conversion.tensor_file import InputFile, StoredTensor, json_object
from codellama_jax.errors import UserError
from codellama_jax.training.lineage import SPECIAL_IDS

SHARD_BYTES = 5_000_000_000
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_OLD_INDEX, _OLD_SINGLE = "pytorch_model.bin.index.json", "pytorch_model.bin"

_GLOBAL = {"embedding": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight"}
_BLOCK = {
    "attention_norm": "input_layernorm",
    "wq": "self_attn.q_proj",
    "wk": "self_attn.k_proj",
    "wv": "self_attn.v_proj",
    "wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "w1": "mlp.gate_proj",
    "w3": "mlp.up_proj",
    "w2": "mlp.down_proj",
}
_IGNORED = "rotary_emb.inv_freq"  # buffers of old files


def name_of(tensor: Tensor) -> str:
    """Hugging Face's name of a tensor."""
    if tensor.layer is None:
        return _GLOBAL[tensor.name]
    return f"model.layers.{tensor.layer}.{_BLOCK[tensor.name]}.weight"


class HuggingFace:
    """The Source of a Hugging Face folder."""

    def __init__(self, folder: Path):
        """Opens the files and checks all names and shapes.

        Raises:
            UserError: a file is missing or damaged, or the model is not a plain Llama; the message names
                the file.
        """
        config = json_object(folder / "config.json")
        llama, length = _llama(folder / "config.json", config)
        self._files: dict[str, InputFile] = {}
        self._stored = self._read(folder)
        tied = bool(config.get("tie_word_embeddings", False)) and _GLOBAL["head"] not in self._stored
        tensors = {name_of(tensor): tensor for tensor in canonical.tensors(llama)}
        if tied:
            self._stored[_GLOBAL["head"]] = self._stored.get(_GLOBAL["embedding"])  # type: ignore[assignment]
        canonical.check_names(folder, tensors.keys(), self._stored.keys(), "complete Llama")
        dtypes = {}
        for name, tensor in tensors.items():
            stored, shape = self._stored[name], canonical.shape(llama, tensor.name)
            if stored.shape != shape:
                raise UserError(
                    f"{stored.file.path}: {name} has shape {list(stored.shape)}, but config.json says {list(shape)}:"
                    " they do not belong together"
                )
            dtypes[str(tensor)] = stored.dtype.name
        notes = {key: config[key] for key in SPECIAL_IDS if config.get(key) is not None}
        self.model = Model(llama, length, dtypes, tied=tied, notes=notes)

    def _read(self, folder: Path) -> dict[str, StoredTensor]:
        safe = (folder / INDEX).exists() or (folder / SINGLE).exists() or not any(folder.glob("pytorch_model*.bin*"))
        index, names = (folder / INDEX, [SINGLE]) if safe else (folder / _OLD_INDEX, [_OLD_SINGLE])
        read = safetensors.read if safe else torch_file.read
        if index.exists():
            weight_map = json_object(index).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise UserError(f"{index} is damaged: it has no weight_map; fetch it again")
            names = sorted(set(weight_map.values()))
        stored: dict[str, StoredTensor] = {}
        for name in names:
            self._files[name] = InputFile(folder / name)
            stored |= read(self._files[name])
        return {name: tensor for name, tensor in stored.items() if not name.endswith(_IGNORED)}

    def rows(self, tensor: Tensor, start: int, stop: int) -> np.ndarray:
        """See Source.rows."""
        return self._stored[name_of(tensor)].rows(start, stop)

    def close(self) -> None:
        """See Source.close."""
        for file in self._files.values():
            file.close()


def _llama(path: Path, config: dict[str, Any]) -> tuple[Any, int]:
    """The shape and the number of positions in config.json; raises UserError for what the decoder does not support."""

    def refuse(reason: str) -> UserError:
        return UserError(f"{path}: {reason}; only plain Llama models are supported")

    architectures = config.get("architectures") or ["LlamaForCausalLM"]
    if config.get("model_type") != "llama" or architectures != ["LlamaForCausalLM"]:
        raise refuse(f"model_type is {config.get('model_type')!r}, architectures {architectures}")
    for key in ("quantization_config", "attention_bias", "mlp_bias"):
        if config.get(key):
            raise refuse(f"{key} is {config[key]!r}, which is not supported")
    if config.get("hidden_act", "silu") != "silu":
        raise refuse(f"hidden_act is {config['hidden_act']!r}")
    if config.get("partial_rotary_factor", 1) != 1:
        raise refuse(f"partial_rotary_factor is {config['partial_rotary_factor']}")
    # version 5 of transformers replaces rope_theta and rope_scaling by rope_parameters
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear"):
        raise refuse(f"rotary scaling of type {kind!r} is not supported")
    try:
        llama = canonical.checked_llama(
            path,
            dim=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
            ffn_dim=config["intermediate_size"],
            vocab_size=config["vocab_size"],
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 1e4))),
            rope_scale=1 / float(rope["factor"]) if kind == "linear" else 1.0,
        )
    except KeyError as error:
        raise refuse(f"{error} is missing") from None
    if config.get("head_dim") not in (None, llama.head_dim):
        raise refuse(f"head_dim is {config['head_dim']}, not hidden_size / num_attention_heads = {llama.head_dim}")
    return llama, int(config.get("max_position_embeddings", 2048))


def write(source: Source, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes tensors, index and config.json.

    Args:
        source: a checkpoint of any format.
        folder: an empty folder.
        shard_bytes: maximum size of one file of tensors.
    """
    model = source.model
    stored = [tensor for tensor in canonical.tensors(model.llama) if not (model.tied and tensor.name == "head")]
    by_name = {name_of(tensor): tensor for tensor in stored}
    shapes = {name: canonical.shape(model.llama, tensor.name) for name, tensor in by_name.items()}
    dtypes = {name: model.dtypes[str(tensor)] for name, tensor in by_name.items()}
    sizes = {name: math.prod(shapes[name]) * DTYPES[dtypes[name]].itemsize for name in by_name}
    files = list(safetensors.shards(sizes.items(), shard_bytes))
    weight_map: dict[str, str] = {}
    for number, names in enumerate(files, 1):
        file = SINGLE if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        layout = [(name, dtypes[name], shapes[name]) for name in names]
        safetensors.write(folder / file, layout, _blocks(source, [by_name[name] for name in names]))
    if len(files) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    special = {"bos_token_id": 1, "eos_token_id": 2} | {
        key: model.notes[key] for key in SPECIAL_IDS if key in model.notes
    }
    (folder / "config.json").write_text(json.dumps(config_json(model) | special, indent=2) + "\n")


def _blocks(source: Source, tensors: list[Tensor]) -> Iterator[np.ndarray]:
    for tensor in tensors:
        itemsize = canonical.dtype_of(source.model, tensor).itemsize
        for start, stop in canonical.blocks(source.model.llama, tensor.name, itemsize):
            yield source.rows(tensor, start, stop)


def config_json(model: Model) -> dict[str, Any]:
    """The configuration for transformers, vLLM and llama.cpp. Version 4 reads rope_theta, 5 rope_parameters."""
    llama = model.llama
    dtype = model.dtypes[str(Tensor("embedding"))]
    rope: dict[str, Any] = {"rope_theta": llama.rope_theta, "rope_type": "default"}
    if llama.rope_scale != 1:
        rope = {"rope_theta": llama.rope_theta, "rope_type": "linear", "factor": 1 / llama.rope_scale}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": llama.vocab_size,
        "hidden_size": llama.dim,
        "intermediate_size": llama.ffn_dim,
        "num_hidden_layers": llama.layers,
        "num_attention_heads": llama.heads,
        "num_key_value_heads": llama.kv_heads,
        "head_dim": llama.head_dim,
        "max_position_embeddings": model.sequence_length,
        "rms_norm_eps": llama.norm_eps,
        "rope_theta": llama.rope_theta,
        "rope_scaling": None if llama.rope_scale == 1 else {"type": "linear", "factor": 1 / llama.rope_scale},
        "rope_parameters": rope,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": model.tied,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,
    }
