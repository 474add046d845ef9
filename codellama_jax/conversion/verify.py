"""Compares two checkpoints, of any formats: configuration, tensors and logits."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from codellama_jax.config.model import Llama
from codellama_jax.config.rope import ROPE
from codellama_jax.conversion import canonical
from codellama_jax.conversion.canonical import Source

TOKENS = 64  # number of random token ids whose logits are compared
_CONFIG = (
    *("dim", "layers", "heads", "kv_heads", "head_dim", "ffn_dim", "vocab_size", "qkv_bias", "norm_eps"),
    *ROPE,
)


def different_settings(a: Llama, b: Llama) -> list[str]:
    """The settings of two models that differ and that a checkpoint determines, as "NAME: A and B"."""
    return [
        f"{field}: {getattr(a, field)} and {getattr(b, field)}"
        for field in _CONFIG
        if getattr(a, field) != getattr(b, field)
    ]


def tensors(a: Source, b: Source) -> dict[str, Any]:
    """Compares the configurations, and all values of all tensors as float32.

    A tied model equals one that is not tied, but has two equal matrices.

    Returns:
        A dict with these keys; if shapes differ, only with the first:
        unlike: settings that differ, as "NAME: A and B".
        max_tensor_difference: the largest absolute difference; infinite if only one of the values is NaN.
        worst_tensor: the tensor with this difference; None if there is no difference.
        same_dtypes: whether every tensor has the same dtype in both.
        tensors: the number of tensors.
    """
    if a.model.llama.tied != b.model.llama.tied:
        a, b = (canonical.Untied(source) if source.model.llama.tied else source for source in (a, b))
    unlike = different_settings(a.model.llama, b.model.llama)
    result: dict[str, Any] = {"unlike": unlike}
    names = list(canonical.tensors(a.model.llama))
    if names != list(canonical.tensors(b.model.llama)) or any(
        canonical.shape(a.model.llama, tensor.name) != canonical.shape(b.model.llama, tensor.name) for tensor in names
    ):
        return result
    largest, worst = 0.0, None
    for tensor in names:
        itemsize = max(canonical.dtype_of(source.model, tensor).itemsize for source in (a, b))
        for start, stop in canonical.blocks(a.model.llama, tensor.name, itemsize):
            difference = _difference(a.rows(tensor, start, stop), b.rows(tensor, start, stop))
            if difference > largest:
                largest, worst = difference, str(tensor)
    same = all(a.model.dtypes[str(tensor)] == b.model.dtypes[str(tensor)] for tensor in names)
    return result | {
        "max_tensor_difference": largest,
        "worst_tensor": worst,
        "same_dtypes": same,
        "tensors": len(names),
    }


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest absolute difference. Equal infinities have no difference, and two NaNs have none."""
    if a.dtype == b.dtype and a.tobytes() == b.tobytes():
        return 0.0
    x, y = a.astype(np.float32), b.astype(np.float32)
    differs = ~((x == y) | (np.isnan(x) & np.isnan(y)))
    if not differs.any():
        return 0.0
    largest = float(np.abs(x[differs] - y[differs]).max())
    return math.inf if math.isnan(largest) else largest


def logits(a: Source, b: Source) -> float:
    """The largest difference of the logits of fixed random ids, computed by this project's decoder in float32."""
    ids = np.random.default_rng(0).integers(0, a.model.llama.vocab_size, TOKENS)
    return float(np.abs(logits_of(a, ids) - logits_of(b, ids)).max())


def logits_of(source: Source, ids: np.ndarray) -> np.ndarray:
    """Logits [S, V] of ids [S], in float32. Loads the complete model into memory."""
    import jax
    import jax.numpy as jnp

    from codellama_jax.model.llama import hidden_states, output_head
    from codellama_jax.training.step import merged

    llama = dataclasses.replace(source.model.llama, compute_dtype="float32", remat="none", offload="", unroll=1)
    params = load(source)
    tokens_BS = jnp.asarray(ids, jnp.int32)[None]

    def forward(params: dict[str, Any]) -> jax.Array:
        model = merged(llama, params)
        return hidden_states(model, llama, tokens_BS, jnp.arange(len(ids))[None])[0] @ output_head(model, llama)

    with jax.default_matmul_precision("float32"):
        return np.asarray(jax.jit(forward)(params))


def load(source: Source) -> dict[str, Any]:
    """All parameters in float32, as the nested dictionary of the modules."""
    llama = source.model.llama
    params: dict[str, Any] = {"blocks": {}}
    for tensor in canonical.tensors(llama):
        layers = () if tensor.layer is None else (llama.layers,)
        group = params if tensor.layer is None else params["blocks"]
        if tensor.name not in group:
            group[tensor.name] = np.empty((*layers, *canonical.native_shape(llama, tensor.name)), np.float32)
        array = group[tensor.name] if tensor.layer is None else group[tensor.name][tensor.layer]
        for start, stop in canonical.blocks(llama, tensor.name, 4):
            rows = source.rows(tensor, start, stop)
            array[canonical.native_slices(llama, tensor.name, start, stop)] = canonical.to_native(
                llama, tensor.name, rows
            )
    return params


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The lines of a result, for the terminal."""
    yield "equal" if result["equal"] else "different"
    for line in result["unlike"]:
        yield f"  {line}"
    if "max_tensor_difference" in result:
        where = f" in {result['worst_tensor']}" if result["worst_tensor"] else ""
        yield f"  largest difference of {result['tensors']} tensors: {result['max_tensor_difference']:g}{where}"
        if not result["same_dtypes"]:
            yield "  dtypes differ"
    if "max_logit_difference" in result:
        yield f"  largest difference of logits: {result['max_logit_difference']:g}"
