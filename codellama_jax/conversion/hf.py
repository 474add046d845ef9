"""Hugging Face's LlamaForCausalLM and its near kin: config.json and safetensors files, with an index if there are
several.

Older folders have pytorch_model*.bin instead, which torch_file reads. Matrices are [out, in]. Rotary channels are
half-split, as in the native layout, so q and k are not permuted; canonical.py does that for Meta's order.
"""

import dataclasses
import fnmatch
import json
import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from codellama_jax.conversion import canonical, hf_config, safetensors, torch_file
from codellama_jax.conversion.canonical import DTYPES, Model, Source, Tensor
from codellama_jax.conversion.json_values import read_object
from codellama_jax.conversion.output import OutputFolder
from codellama_jax.conversion.tensor_file import InputFile, StoredTensor
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from codellama_jax.tokenizer import BOS_ID, EOS_ID
from codellama_jax.training.lineage import SPECIAL_IDS

_log = logging.getLogger(__name__)

SHARD_BYTES = 5_000_000_000
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_OLD_INDEX, _OLD_SINGLE = "pytorch_model.bin.index.json", "pytorch_model.bin"

_GLOBAL = {"embedding": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight"}
_BLOCK = {
    "attention_norm": "input_layernorm",
    "wq": "self_attn.q_proj",
    "wk": "self_attn.k_proj",
    "wv": "self_attn.v_proj",
    "bq": "self_attn.q_proj",
    "bk": "self_attn.k_proj",
    "bv": "self_attn.v_proj",
    "wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "w1": "mlp.gate_proj",
    "w3": "mlp.up_proj",
    "w2": "mlp.down_proj",
}
_IGNORED = "rotary_emb.inv_freq"  # buffers of old files
_SHARD = re.compile(r"(model|pytorch_model)-\d+-of-\d+\.(safetensors|bin)")
_WEIGHTS = re.compile(r"(?!adapter).*\.safetensors|pytorch_model.*\.bin")


def name_of(tensor: Tensor) -> str:
    """Hugging Face's name of a tensor."""
    if tensor.layer is None:
        return _GLOBAL[tensor.name]
    kind = "bias" if tensor.name in canonical.BIASES else "weight"
    return f"model.layers.{tensor.layer}.{_BLOCK[tensor.name]}.{kind}"


def is_weights(name: str) -> bool:
    """Whether a file with this name holds tensors of a model (not of an adapter)."""
    return _WEIGHTS.fullmatch(name) is not None


class HuggingFace:
    """The Source of a Hugging Face folder."""

    def __init__(self, folder: Path):
        """Opens the files and checks all names and shapes.

        Raises:
            UserError: a file is missing or damaged, or the model is not of a supported family; the message names
                the file.
        """
        config = read_object(folder / CONFIG)
        llama, length = hf_config.read_llama(folder / CONFIG, config)
        self._files: dict[str, InputFile] = {}
        self._stored = self._read(folder)
        if llama.tied and {_GLOBAL["embedding"], _GLOBAL["head"]} <= self._stored.keys():
            if self._are_equal(folder / CONFIG):
                del self._stored[_GLOBAL["head"]]
            else:
                llama = dataclasses.replace(llama, tied=False)
        tensors = {name_of(tensor): tensor for tensor in canonical.tensors(llama)}
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
        notes = hf_config.special_ids(folder / CONFIG, config) | {"model_type": config["model_type"]}
        for line in hf_config.warnings(config, llama.vocab_size, set(dtypes.values())):
            _log.warning("warning: %s: %s", folder / CONFIG, line)
        self.model = Model(llama, length, dtypes, notes=notes)

    def _read(self, folder: Path) -> dict[str, StoredTensor]:
        present = set(filesystem.list_folder(folder))
        old = any(fnmatch.fnmatchcase(name, "pytorch_model*.bin*") for name in present)
        safe = INDEX in present or SINGLE in present or not old
        index, single = (INDEX, SINGLE) if safe else (_OLD_INDEX, _OLD_SINGLE)
        read = safetensors.read if safe else torch_file.read
        weight_map = _weight_map(folder / index) if index in present else None
        names = sorted(set(weight_map.values())) if weight_map else [single]
        if weight_map and single in present and names != [single]:
            raise UserError(
                f"{folder} has {single}, and {index} with other files: transformers reads the first, other readers the"
                " second; delete the one that is wrong"
            )
        if single not in present and weight_map is None and any(_SHARD.fullmatch(name) for name in present):
            raise UserError(f"{folder / index} is missing: fetch the complete checkpoint again")
        stored: dict[str, StoredTensor] = {}
        for name in names:
            self._files[name] = InputFile(folder / name)
            for key, tensor in read(self._files[name]).items():
                if key in stored:
                    raise UserError(
                        f"{folder} has {key} twice, in {stored[key].file.path.name} and {name}: fetch it again"
                    )
                stored[key] = tensor
        if weight_map:
            _check_places(folder / index, weight_map, {key: tensor.file.path.name for key, tensor in stored.items()})
        unread = sorted(name for name in present - set(names) if is_weights(name) or name.endswith((".pth", ".gguf")))
        if unread:
            text = ", ".join(unread[:3]) + (f" and {len(unread) - 3} more" if len(unread) > 3 else "")
            _log.warning("warning: %s: not read, because %s has the tensors: %s", folder, names[0], text)
        return {name: tensor for name, tensor in stored.items() if not name.endswith(_IGNORED)}

    def _are_equal(self, config: Path) -> bool:
        """Whether embedding and head are equal. A file with tie_word_embeddings may have both.

        Two different tensors are kept, and the flag is dropped with a warning.
        """
        embedding, head = (self._stored[_GLOBAL[name]] for name in ("embedding", "head"))
        if embedding.shape != head.shape or embedding.dtype != head.dtype:
            equal = False
        else:
            step = max(1, canonical.BLOCK_BYTES // max(1, embedding.nbytes // max(1, embedding.shape[0])))
            starts = range(0, embedding.shape[0], step)
            parts = [(start, min(start + step, embedding.shape[0])) for start in starts]
            equal = all(embedding.rows(*part).tobytes() == head.rows(*part).tobytes() for part in parts)
        if not equal:
            _log.warning(
                "warning: %s: tie_word_embeddings is true, but %s differs from %s: both are kept, as an untied model;"
                " some readers replace the head by the embedding",
                config,
                _GLOBAL["head"],
                _GLOBAL["embedding"],
            )
        return equal

    def rows(self, tensor: Tensor, start: int, stop: int) -> np.ndarray:
        """See Source.rows."""
        return self._stored[name_of(tensor)].rows(start, stop)

    def close(self) -> None:
        """See Source.close."""
        for file in self._files.values():
            file.close()


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor according to an index."""
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index} is damaged: it has no weight_map; fetch it again")
    for key, name in weight_map.items():
        if not isinstance(name, str) or not name or name != Path(name).name:
            raise UserError(f"{index} is damaged: the file of {key} is {json.dumps(name)}; fetch it again")
    return weight_map


def _check_places(index: Path, weight_map: dict[str, str], places: dict[str, str]) -> None:
    """Checks that every tensor is in the file that the index says, and that the index has all of them.

    Raises:
        UserError: one is not; the message names it.
    """
    for key in sorted(weight_map.keys() | places.keys()):
        said, found = weight_map.get(key), places.get(key)
        if said == found:
            continue
        if found is None:
            raise UserError(f"{index} says that {key} is in {said}, which does not have it: fetch both again")
        if said is None:
            raise UserError(f"{index} does not have {key}, which is in {found}: fetch both again")
        raise UserError(f"{index} says that {key} is in {said}, but it is in {found}: fetch both again")


def write(source: Source, folder: Path, shard_bytes: int = SHARD_BYTES, output: OutputFolder | None = None) -> None:
    """Writes tensors, index and config.json.

    Args:
        source: a checkpoint of any format.
        folder: an empty folder.
        shard_bytes: maximum size of one file of tensors.
        output: where to write the files of tensors; None: `folder`.
    """
    model = source.model
    by_name = {name_of(tensor): tensor for tensor in canonical.tensors(model.llama)}
    shapes = {name: canonical.shape(model.llama, tensor.name) for name, tensor in by_name.items()}
    dtypes = {name: model.dtypes[str(tensor)] for name, tensor in by_name.items()}
    sizes = {name: math.prod(shapes[name]) * DTYPES[dtypes[name]].itemsize for name in by_name}
    files = list(safetensors.shards(sizes.items(), shard_bytes))
    weight_map: dict[str, str] = {}
    for number, names in enumerate(files, 1):
        file = SINGLE if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        layout = [(name, dtypes[name], shapes[name]) for name in names]
        with (output or OutputFolder(folder, folder)).open(file) as opened:
            safetensors.write(opened, layout, _blocks(source, [by_name[name] for name in names]))
    if len(files) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    special = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID} | {
        key: model.notes[key] for key in SPECIAL_IDS if key in model.notes
    }
    (folder / CONFIG).write_text(json.dumps(hf_config.config_json(model) | special, indent=2) + "\n")


def _blocks(source: Source, tensors: list[Tensor]) -> Iterator[np.ndarray]:
    for tensor in tensors:
        itemsize = canonical.dtype_of(source.model, tensor).itemsize
        for start, stop in canonical.blocks(source.model.llama, tensor.name, itemsize):
            yield source.rows(tensor, start, stop)
