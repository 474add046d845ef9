"""Checkpoints of adapters (LoRA): read with the model that they belong to as one model, and written by an import."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp

from codellama_jax.config.lora import Lora
from codellama_jax.config.model import Llama
from codellama_jax.conversion import canonical, native
from codellama_jax.conversion.canonical import Model, Source, Tensor
from codellama_jax.conversion.output import output_folder
from codellama_jax.errors import UserError
from codellama_jax.runtime import checksums
from codellama_jax.training.adapter_record import AdapterRecord
from codellama_jax.training.assets import Assets
from codellama_jax.training.inheritance import first_difference
from codellama_jax.training.lineage import Lineage


class Factors(NamedTuple):
    """The adapter of one matrix in all layers, float32.

    Attributes:
        a: [layers, in, rank].
        b: [layers, rank, out]; its columns have the order of the rows of the canonical [out, in].
    """

    a: np.ndarray
    b: np.ndarray


class Base(NamedTuple):
    """The model that adapters belong to.

    Attributes:
        source: reads its tensors.
        files: the files of its tokenizer and its like.
        lineage: what it records for an export.
    """

    source: Source
    files: Assets
    lineage: Lineage


class AdaptedCheckpoint:
    """The Source of a checkpoint of adapters: the tensors of its model, those with adapters as W + scale A B.

    The sum is computed in float32, in blocks of rows as they are read.

    Attributes:
        model: its description; tensors with adapters are float32, all others as in the model.
        trained: whether training wrote the adapters.
        files: the files of its tokenizer and its like.
        lineage: what it records for an export.
        training: what its parameters went through, if a stage wrote it.
        lora: the settings of the adapters.
        factors: name of a matrix -> its adapter.
        base_path: path of the model.
        base_name: the folder of Hugging Face that the model was imported from, if it was; else base_path.
        base: the Source of the model.
    """

    def __init__(self, path: Path, open_base: Callable[[Path], Base]):
        """Verifies the checksums, reads the adapters, and opens their model.

        Args:
            path: the folder.
            open_base: opens the model at a path.

        Raises:
            UserError: the folder is damaged, or its model is missing or has changed.
        """
        checksums.verify(path)
        described = native.describe(path)
        record = AdapterRecord.of(described.metadata)
        assert record is not None
        llama, self.lora = described.llama, record.lora
        self.lineage, self.training, self.files = described.lineage, described.training, described.files
        self.trained = "imported" not in described.metadata
        self.base_path = record.find_base(path)
        self.base_name = _hugging_face_folder(self.base_path) or str(self.base_path)
        self.base = open_base(self.base_path).source
        of_base = self.base.model
        different = first_difference(dataclasses.asdict(llama), of_base.llama)
        if different is None and of_base.llama.vocab_size != llama.vocab_size:
            different = "vocab_size", llama.vocab_size, of_base.llama.vocab_size
        if different:
            field, theirs, of_this = different
            self.base.close()
            raise UserError(
                f"{path} has adapters of a model with Llama.{field}={theirs}, but {self.base_path} has {of_this}: it is"
                " not the model that they belong to"
            )
        self.factors = {name: _read(path, llama, self.lora, name) for name in self.lora.names}
        dtypes = {
            str(tensor): "float32" if tensor.name in self.factors else of_base.dtypes[str(tensor)]
            for tensor in canonical.tensors(llama)
        }
        notes = self.lineage.notes if self.trained else of_base.notes
        self.model = Model(llama, self.lineage.positions, dtypes, notes=notes)

    def rows(self, tensor: Tensor, start: int, stop: int) -> np.ndarray:
        """See Source.rows."""
        rows = self.base.rows(tensor, start, stop)
        if tensor.name not in self.factors:
            return rows
        a, b = self.factors[tensor.name]
        assert tensor.layer is not None
        delta = b[tensor.layer][:, start:stop].T @ a[tensor.layer].T
        return rows.astype(np.float32) + np.float32(self.lora.scale) * delta

    def close(self) -> None:
        """See Source.close."""
        self.base.close()


def read_factors(path: Path, base: Path, llama: Llama) -> tuple[Lora, dict[str, Factors]]:
    """The adapters of a checkpoint without their model.

    Args:
        path: the checkpoint, or the folder of a stage.
        base: the checkpoint folder of the model that is used with them.
        llama: this model.

    Returns:
        The settings, and name of a matrix -> its adapter.

    Raises:
        UserError: there are no adapters, they are damaged, or they belong to another model.
    """
    folder = native.find(path)
    described = native.describe(folder) if folder else None
    record = AdapterRecord.of(described.metadata) if described else None
    if folder is None or described is None or record is None:
        raise UserError(f"{path} has no adapters: name a stage that trained some, an import of them, or peft's folder")
    checksums.verify(folder)
    digest = checksums.digest(base)
    if None not in (digest, record.digest) and digest != record.digest:
        raise UserError(f"{path} has adapters of {record.base}, whose content differs from that of {base}")
    if different := first_difference(dataclasses.asdict(described.llama), llama):
        raise UserError(f"{path} has adapters of a model with another Llama.{different[0]} than {base}")
    return record.lora, {name: _read(folder, llama, record.lora, name) for name in record.lora.names}


def _hugging_face_folder(path: Path) -> str | None:
    """The folder of Hugging Face that a checkpoint of this project was imported from."""
    if native.find(path) is None:
        return None
    origin = native.describe(path).metadata.get("imported", {}).get("from", "")
    return origin.removeprefix("Hugging Face: ") if origin.startswith("Hugging Face: ") else None


def _read(path: Path, llama: Llama, lora: Lora, name: str) -> Factors:
    """The adapter of a matrix. Raises UserError if it cannot be read."""
    outs, ins = canonical.shape(llama, name)
    native_a, native_b = native_shapes(llama, lora, name)
    read = []
    for key, shape in ((f"blocks.{name}_a", native_a), (f"blocks.{name}_b", native_b)):
        try:
            read.append(np.asarray(native.open_array(path, key, shape).read().result(), np.float32))
        except (ValueError, OSError) as error:
            raise native.unreadable(path, key, error) from None
    return Factors(read[0].reshape(llama.layers, ins, lora.rank), read[1].reshape(llama.layers, lora.rank, outs))


def native_shapes(llama: Llama, lora: Lora, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of the two native arrays of the adapter of a matrix (model/lora.py)."""
    within = canonical.native_shape(llama, name)
    inputs = 2 if name == "wo" else 1
    return (llama.layers, *within[:inputs], lora.rank), (llama.layers, lora.rank, *within[inputs:])


def write(
    path: Path,
    lora: Lora,
    factors: Mapping[str, Factors],
    base: Base,
    base_path: Path,
    imported_from: str,
) -> None:
    """Writes a checkpoint of adapters, which generation, exports and stages open with their model.

    Args:
        path: path of the new folder; its parent is created.
        lora: the settings.
        factors: name of a matrix -> its adapter.
        base, base_path: the model.
        imported_from: format and path of the adapters, for the metadata.

    Raises:
        UserError: the path exists, or the disk has too little space.
    """
    model = base.source.model
    arrays: dict[str, np.ndarray] = {}
    for name, (a, b) in factors.items():
        for key, array, shape in zip("ab", (a, b), native_shapes(model.llama, lora, name), strict=True):
            arrays[f"{name}_{key}"] = np.ascontiguousarray(array, np.float32).reshape(shape)
    metadata: dict[str, Any] = {
        "step": 0,
        "stage": "import",
        "sequence_length": model.sequence_length,
        "llama": dataclasses.asdict(model.llama),
        "config": "",
        "imported": {"from": imported_from, "dtypes": {}, "notes": dict(model.notes)},
        "adapter": AdapterRecord.new(lora, base_path, None).json(),
        "lineage": base.lineage.json(),
    }
    with output_folder(path, sum(array.nbytes for array in arrays.values()), checksums.NAME) as output:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            checkpointer.save(output.target / "params", args=ocp.args.PyTreeSave({"blocks": arrays}))
        native.finish(output, metadata, base.files)
