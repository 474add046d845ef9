"""Adapters in the format of Hugging Face's peft: adapter_config.json and adapter_model.safetensors.

A matrix of [out, in] has lora_A [rank, in] and lora_B [out, rank]. Rotary channels are half-split in both formats, so
factors are transposed and nothing else.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from codellama_jax.config.lora import TARGETS, Lora
from codellama_jax.config.model import Llama
from codellama_jax.conversion import canonical, hf, safetensors
from codellama_jax.conversion.adapters import AdaptedCheckpoint, Factors
from codellama_jax.conversion.canonical import DTYPES, Tensor
from codellama_jax.conversion.json_values import read_object
from codellama_jax.conversion.output import OutputFolder
from codellama_jax.conversion.tensor_file import InputFile
from codellama_jax.errors import UserError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_([AB])\.weight")

# Keys of adapter_config.json that do not change what a trained adapter computes, and those that `read` reads. Any other
# key must have a value that switches it off.
_NEUTRAL = {"auto_mapping", "base_model_name_or_path", "inference_mode", "megatron_core", "peft_version", "revision"}
_NEUTRAL |= {"qalora_group_size", "task_type", "loftq_config", "runtime_config", "exclude_modules"}
_READ = {"peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "bias", "init_lora_weights"}
# Initialisations of the factors alone; others, such as "pissa", change the matrices of the model too.
_INITIALISATIONS = (None, True, False, "gaussian", "orthogonal")


def module_of(name: str, layer: int) -> str:
    """The name of a matrix of the blocks in peft, without the prefix of its wrapper."""
    return hf.name_of(Tensor(name, layer)).removesuffix(".weight")


def is_adapter(path: Path) -> bool:
    """Whether a folder has an adapter of peft."""
    return (path / CONFIG).is_file()


def read(path: Path, llama: Llama) -> tuple[Lora, dict[str, Factors]]:
    """Reads an adapter.

    Args:
        path: the folder.
        llama: the model that it belongs to.

    Returns:
        Its settings, and name of a matrix -> its adapter.

    Raises:
        UserError: it is damaged, belongs to another model, or has parts that this project does not have; the message
            names the key or tensor.
    """
    config = read_object(path / CONFIG)
    _check(path / CONFIG, config)
    if not (path / WEIGHTS).is_file():
        raise UserError(f"{path} has no {WEIGHTS}: save the adapter in the safetensors format")
    file = InputFile(path / WEIGHTS)
    try:
        found: dict[tuple[str, str], np.ndarray] = {}
        for key, stored in safetensors.read(file).items():
            match = _FACTOR.fullmatch(key.removeprefix(_PREFIX))
            if match is None:
                raise UserError(f"{path / WEIGHTS} has the tensor {key}, which is not a factor of LoRA")
            found[match[1], match[2]] = stored.rows(0, stored.shape[0]).astype(np.float32)
    finally:
        file.close()
    rank = config["r"]
    factors = {name: each for name in TARGETS if (each := _factors(path / WEIGHTS, name, llama, rank, found))}
    if found:
        module, factor = min(found)
        raise UserError(f"{path / WEIGHTS} has {module}.lora_{factor}, which is not a matrix of the blocks of a Llama")
    if not factors:
        raise UserError(f"{path / WEIGHTS} has no adapters")
    dropout, scaled = config.get("lora_dropout", 0.0), bool(config.get("use_rslora", False))
    try:
        return Lora(rank, float(config["lora_alpha"]), float(dropout), "+".join(factors), scaled), factors
    except (ValueError, TypeError) as error:
        raise UserError(f"{path / CONFIG} does not describe an adapter: {error}") from None


def _check(path: Path, config: dict[str, Any]) -> None:
    """Raises UserError if an adapter_config.json asks for something that `read` does not know."""
    if config.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type is {config.get('peft_type')!r}: only LORA is supported")
    for key in ("r", "lora_alpha"):
        if not isinstance(config.get(key), int | float) or isinstance(config[key], bool) or config[key] <= 0:
            raise UserError(f"{path}: {key} is {config.get(key)!r}, not a number above 0")
    if not isinstance(config["r"], int):
        raise UserError(f"{path}: r is {config['r']!r}, not a whole number")
    if config.get("bias", "none") != "none":
        raise UserError(f"{path}: bias is {config['bias']!r}: adapters with trained biases are not supported")
    if config.get("init_lora_weights", True) not in _INITIALISATIONS:
        raise UserError(
            f"{path}: init_lora_weights is {config['init_lora_weights']!r}, which changes the matrices of the model:"
            " convert the adapter to one of the unchanged model first (peft: path_initial_model_for_weight_conversion)"
        )
    for key, value in config.items():
        if key not in _NEUTRAL | _READ and value not in (None, False, 0) and value != {} and value != []:
            raise UserError(f"{path}: {key} is {value!r}, which is not supported: merge the adapter with peft instead")


def _factors(
    path: Path, name: str, llama: Llama, rank: int, found: dict[tuple[str, str], np.ndarray]
) -> Factors | None:
    """Takes the adapter of a matrix out of the tensors of a file; None if no layer has one.

    Raises:
        UserError: only some layers have one, or a shape is not that of the model.
    """
    outs, ins = canonical.shape(llama, name)
    present = [layer for layer in range(llama.layers) for key in "AB" if (module_of(name, layer), key) in found]
    if not present:
        return None
    stacked = []
    for key, shape in (("A", (rank, ins)), ("B", (outs, rank))):
        arrays = []
        for layer in range(llama.layers):
            module = module_of(name, layer)
            array = found.pop((module, key), None)
            if array is None:
                raise UserError(f"{path} has no {module}.lora_{key}: adapters of some layers only are not supported")
            if array.shape != shape:
                raise UserError(
                    f"{path}: {module}.lora_{key} has shape {list(array.shape)}, but the model and its rank {rank} say"
                    f" {list(shape)}: name the model that the adapter belongs to with --base"
                )
            arrays.append(array.T)
        stacked.append(np.stack(arrays))
    return Factors(*stacked)


def write(source: AdaptedCheckpoint, output: OutputFolder, dtype: str, base_name: str) -> int:
    """Writes the adapters of a checkpoint, which peft loads beside a model.

    Args:
        source: the checkpoint.
        output: an empty folder.
        dtype: of the factors.
        base_name: the model, as base_model_name_or_path.

    Returns:
        The number of parameters.
    """
    tensors: dict[str, np.ndarray] = {}
    for name, (a, b) in source.factors.items():
        for layer in range(source.model.llama.layers):
            module = _PREFIX + module_of(name, layer)
            tensors[f"{module}.lora_A.weight"] = a[layer].T.astype(DTYPES[dtype])
            tensors[f"{module}.lora_B.weight"] = b[layer].T.astype(DTYPES[dtype])
    layout = [(name, dtype, array.shape) for name, array in tensors.items()]
    with output.open(WEIGHTS) as file:
        safetensors.write(file, layout, tensors.values())
    lora = source.lora
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rslora,
        "target_modules": [module_of(name, 0).rpartition(".")[2] for name in lora.names],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }
    (output.path / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return sum(array.size for array in tensors.values())
