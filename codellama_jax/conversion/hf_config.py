"""Reads the config.json of Hugging Face's LlamaForCausalLM. Two values for one fact are refused if they differ.

Versions of transformers read different keys. Version 4 reads rope_theta and rope_scaling. Version 5 reads
rope_parameters, but prefers rope_scaling where a file has both, and the rope_theta inside to the one outside.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from codellama_jax.config.model import Llama
from codellama_jax.conversion import canonical
from codellama_jax.conversion.json_values import number, whole_number
from codellama_jax.errors import UserError
from codellama_jax.training.lineage import SPECIAL_IDS

# Keys of models that resemble a Llama but compute something else -> the values with which they are a Llama
_OTHER_MODELS: dict[str, tuple[Any, ...]] = {
    "quantization_config": (None,),
    "compression_config": (None,),
    "attention_bias": (None, False),
    "mlp_bias": (None, False),
    "hidden_act": ("silu",),
    "partial_rotary_factor": (None, 1, 1.0),
    "sliding_window": (None,),
    "num_local_experts": (None, 0),
    "num_experts": (None, 0),
    "use_qk_norm": (None, False),
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
_SUPPORTED_ROPE = "'default' and 'linear' are supported"


class _Rope(NamedTuple):
    """What one place in the file says of the rotary embedding; None: it does not say.

    Attributes:
        place: the key, such as "rope_parameters.full_attention".
        scaling: the type, and the factor by which positions are divided.
        theta: the base.
    """

    place: str
    scaling: tuple[str, float] | None
    theta: float | None


def read_llama(path: Path, config: dict[str, Any]) -> tuple[Llama, int]:
    """The shape of the model, and its number of positions.

    Args:
        path: path of the file, for messages.
        config: its content.

    Raises:
        UserError: the decoder does not support the model, a value is impossible, or two values contradict each other.
    """
    _check_architecture(path, config)
    theta, factor = _rope(path, config)
    sizes = {}
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"):
        if key not in config:
            raise UserError(f"{path}: '{key}' is missing; only plain Llama models are supported")
        sizes[key] = whole_number(path, key, config[key])
    heads = sizes["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads")  # null: as many as query heads, in every version of transformers
    llama = canonical.checked_llama(
        path,
        dim=sizes["hidden_size"],
        layers=sizes["num_hidden_layers"],
        heads=heads,
        kv_heads=heads if kv_heads is None else whole_number(path, "num_key_value_heads", kv_heads),
        ffn_dim=sizes["intermediate_size"],
        vocab_size=sizes["vocab_size"],
        norm_eps=number(path, "rms_norm_eps", config.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scale=1 / factor,
    )
    if config.get("head_dim") is not None:
        width = whole_number(path, "head_dim", config["head_dim"])
        if width != llama.head_dim:
            raise _unsupported(path, f"head_dim is {width}, not hidden_size / num_attention_heads = {llama.head_dim}")
    _check_same(path, [(key, str(config[key]).removeprefix("torch.")) for key in _DTYPE if config.get(key) is not None])
    for keys in (_POSITIONS, _EPSILONS):
        _check_same(path, [(key, config[key]) for key in keys if config.get(key) is not None])
    return llama, whole_number(path, "max_position_embeddings", config.get("max_position_embeddings", 2048))


def tied(path: Path, config: dict[str, Any]) -> bool:
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
    for key in SPECIAL_IDS:
        ids = config.get(key)
        beyond = [id for id in (ids if isinstance(ids, list) else [ids]) if id is not None and id >= rows]
        if beyond:
            yield f"{key} is {beyond[0]}, but the vocabulary has {rows} rows: no row has this id"


def _unsupported(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: {reason}; only plain Llama models are supported")


def _check_architecture(path: Path, config: dict[str, Any]) -> None:
    architectures = config.get("architectures") or ["LlamaForCausalLM"]
    if config.get("model_type") != "llama" or architectures != ["LlamaForCausalLM"]:
        raise _unsupported(path, f"model_type is {config.get('model_type')!r}, architectures {architectures}")
    for key, neutral in _OTHER_MODELS.items():
        if key in config and config[key] not in neutral:
            raise _unsupported(path, f"{key} is {config[key]!r}")
    layer_types = config.get("layer_types") or []
    if not isinstance(layer_types, list) or any(kind != "full_attention" for kind in layer_types):
        raise _unsupported(path, f"layer_types is {layer_types!r}")


def _check_same(path: Path, stated: list[tuple[str, Any]]) -> None:
    """Checks that all (key, value) pairs have the same value.

    Raises:
        UserError: two have not; the message has both.
    """
    for key, value in stated[1:]:
        first, expected = stated[0]
        if value != expected:
            raise UserError(
                f"{path}: {first} is {_shown(expected)}, but {key} is {_shown(value)}: which one counts depends on the"
                " reader; remove the wrong one"
            )


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        kind, factor = value
        return f"{kind} with factor {factor:g}" if kind == "linear" else "no scaling"
    return json.dumps(value)


def _rope(path: Path, config: dict[str, Any]) -> tuple[float, float]:
    """The base, and the factor by which positions are divided."""
    stated = list(_stated_rope(path, config))
    thetas = [(f"{rope.place}.rope_theta", rope.theta) for rope in stated if rope.theta is not None]
    outer = config.get("rope_theta")
    if outer is not None or ("rope_theta" in config and not thetas):
        thetas.insert(0, ("rope_theta", number(path, "rope_theta", outer, above=1)))
    scalings = [(rope.place, rope.scaling) for rope in stated if rope.scaling is not None]
    _check_same(path, thetas)
    _check_same(path, scalings)
    theta = thetas[0][1] if thetas else 1e4
    return theta, scalings[0][1][1] if scalings else 1.0


def _stated_rope(path: Path, config: dict[str, Any]) -> Iterator[_Rope]:
    for key in ("rope_scaling", "rope_parameters"):
        value = config.get(key)
        if value is None or value == {}:
            if key == "rope_scaling" and key in config:  # version 4 writes null, and reads it as no scaling
                yield _Rope(key, ("default", 1.0), None)
            continue
        if not isinstance(value, dict):
            raise UserError(
                f'{path}: {key} is {json.dumps(value)}: it must be an object such as {{"type": "linear", "factor": 4}}'
            )
        nested = {name: entry for name, entry in value.items() if isinstance(entry, dict) or name.endswith("attention")}
        for name, entry in nested.items():  # one set of values for each type of layer
            if not isinstance(entry, dict):
                raise _unsupported(path, f"{key}.{name} is {json.dumps(entry)}")
            yield _one_rope(path, f"{key}.{name}", entry)
        flat = {name: entry for name, entry in value.items() if name not in nested}
        if flat:
            yield _one_rope(path, key, flat, complete=not nested)


def _one_rope(path: Path, place: str, rope: dict[str, Any], complete: bool = True) -> _Rope:
    """What one object says. If it is not complete, a missing type is not a statement."""
    kinds = [(f"{place}.{key}", rope[key]) for key in ("rope_type", "type") if key in rope]
    _check_same(path, kinds)
    kind = kinds[0][1] if kinds else "default"
    if kind not in ("default", "linear"):
        raise _unsupported(path, f"rotary scaling of type {kind!r} is not supported ({_SUPPORTED_ROPE})")
    if rope.get("partial_rotary_factor") not in (None, 1):
        raise _unsupported(path, f"{place}.partial_rotary_factor is {rope['partial_rotary_factor']!r}")
    factor = 1.0
    if kind == "linear" or rope.get("factor") is not None:
        if "factor" not in rope:
            raise UserError(f"{path}: {place} is linear, but has no factor: add it")
        factor = number(path, f"{place}.factor", rope["factor"], least=1)
    if kind == "default" and factor != 1:
        raise UserError(f"{path}: {place} has a factor of {factor:g}, but not its type ({_SUPPORTED_ROPE}): add it")
    theta = rope.get("rope_theta")
    if "rope_theta" in rope:
        theta = number(path, f"{place}.rope_theta", theta, above=1)
    scaling = (kind if factor != 1 else "default", factor) if kinds or complete else None
    return _Rope(place, scaling, theta)
