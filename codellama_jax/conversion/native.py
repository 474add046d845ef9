"""Checkpoint folders of this project: written in Orbax's format one block at a time, and read in the same way.

    params/              all arrays, in the layout of Orbax's PyTreeSave: training/checkpoints.load_params reads it
    metadata/metadata    JSON: step, stage, sequence_length, llama, config (empty), imported and lineage (what an export
                         needs)
    tokenizer.model      of the imported checkpoint, if it had one
    assets/              its other files that an export carries (training/assets.py)
    checksums.json

Arrays keep the dtype of their source, and are loaded as float32. If the layers of one array have different dtypes, the
array is float32, which represents all of them exactly; export converts each layer to its original dtype.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from codellama_jax.config.model import Llama
from codellama_jax.conversion import canonical, orbax_stream
from codellama_jax.conversion.canonical import BLOCK_BYTES, DTYPES, Model, Source, Tensor
from codellama_jax.conversion.output import OutputFolder, output_folder
from codellama_jax.errors import UserError, first_line
from codellama_jax.runtime import checksums, filesystem
from codellama_jax.runtime.run_dir import newest_checkpoint
from codellama_jax.training import assets, inheritance
from codellama_jax.training.assets import Assets
from codellama_jax.training.lineage import Lineage

# Size of a read from an array whose chunks are large or hold many layers: TensorStore decodes complete chunks.
SLAB_BYTES = 1 << 30


def write(source: Source, path: Path, imported_from: str, files: Assets, lineage: Lineage) -> None:
    """Writes a checkpoint folder, from which any stage can start.

    Args:
        source: a checkpoint of any format.
        path: path of the new folder; its parent is created.
        imported_from: format and path of the source, for the metadata.
        files: the files of its tokenizer and its like, to carry.
        lineage: what it records for an export.

    Raises:
        UserError: the path exists, the disk has too little space, or the source is damaged. The folder is removed.
    """
    model = source.model
    names = dict.fromkeys(tensor.parameter for tensor in canonical.tensors(model.llama))
    arrays = {name: orbax_stream.StreamedArray(source, name) for name in names}
    tree: dict[str, Any] = {"blocks": {}}
    for name, array in arrays.items():
        group, _, last = name.rpartition(".")
        (tree[group] if group else tree)[last] = array
    imported = {
        "from": imported_from,
        "dtypes": _grouped(model),
        "notes": dict(model.notes),
    }
    metadata = {
        "step": 0,
        "stage": "import",
        "sequence_length": model.sequence_length,
        "llama": dataclasses.asdict(model.llama),
        "config": "",
        "imported": imported,
        "lineage": lineage.json(),
    }
    nbytes = sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays.values())
    with output_folder(path, nbytes, checksums.NAME) as output:
        orbax_stream.save(tree, output.target / "params")
        finish(output, metadata, files)


def finish(output: OutputFolder, metadata: Mapping[str, Any], files: Assets) -> None:
    """Writes everything but the arrays of a checkpoint folder; the checksums come last."""
    folder = output.path
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        checkpointer.save(folder / "metadata", args=ocp.args.JsonSave(metadata))
    assets.write({name: content for name, content in files.items() if name != assets.MODEL}, folder / assets.FOLDER)
    assets.write({name: content for name, content in files.items() if name == assets.MODEL}, folder)
    output.upload()
    checksums.write(output.target)


def _grouped(model: Model) -> dict[str, str]:
    """Array -> dtype of its first layer, and tensor -> dtype of each layer that has another one."""
    grouped: dict[str, str] = {}
    for tensor in canonical.tensors(model.llama):
        dtype = model.dtypes[str(tensor)]
        if grouped.setdefault(tensor.parameter, dtype) != dtype:
            grouped[str(tensor)] = dtype
    return grouped


def find(path: Path) -> Path | None:
    """The checkpoint folder at a path: the path itself, or the newest one of a stage (runs/NAME/STAGE)."""
    if (path / "metadata" / "metadata").is_file() and (path / "params").is_dir():
        if filesystem.is_remote(path) and not (path / checksums.NAME).exists():  # which is written last there
            raise UserError(f"{path} has no {checksums.NAME}: it is incomplete; write it again under another name")
        return path
    return newest_checkpoint(path)


class Training(NamedTuple):
    """What the parameters of a trained checkpoint went through.

    Attributes:
        stage: the stage that wrote it.
        step: number of its steps.
        parent: name of the stage, or of the folder, that it started from; None: random parameters.
        tokens: number of tokens of this and all earlier stages; None: not recorded.
    """

    stage: str
    step: int
    parent: str | None
    tokens: int | None

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "Training | None":
        """Reads it from the metadata of a checkpoint; None if training did not write it, or not in a stage."""
        if "imported" in metadata or "stage" not in metadata:
            return None
        folder = Path(parent["path"]) if (parent := metadata.get("parent")) else None
        if folder is not None and folder.parent.name == "checkpoints":  # RUN/STAGE/checkpoints/STEP
            folder = folder.parents[1]
        tokens = metadata.get("tokens", {}).get("lineage")
        return cls(metadata["stage"], metadata["step"], folder.name if folder else None, tokens)


class Description(NamedTuple):
    """What a checkpoint folder says about itself.

    Attributes:
        metadata: its metadata.
        llama: its model.
        lineage: what it records for an export.
        training: what its parameters went through, if a stage wrote it.
        files: the files of its tokenizer and its like.
    """

    metadata: Mapping[str, Any]
    llama: Llama
    lineage: Lineage
    training: Training | None
    files: Assets


def describe(path: Path) -> Description:
    """Reads everything but the arrays of a checkpoint folder.

    Raises:
        UserError: the metadata is damaged.
    """
    try:
        metadata = json.loads(filesystem.read_text(path / "metadata" / "metadata"))
        llama, lineage = inheritance.recorded_model(path, metadata), Lineage.of(metadata)
        training = Training.of(metadata)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}/metadata/metadata cannot be read ({error}): the checkpoint is damaged") from None
    if metadata.get("imported", {}).get("tied"):
        # earlier versions stored the head of a tied import, equal to the embedding
        llama = dataclasses.replace(llama, tied=True)
    files = assets.read(path)
    if "imported" not in metadata and assets.MODEL not in files:
        # earlier versions have it only in the folder of the run, of runs/NAME/STAGE/checkpoints/STEP
        for model_file in (folder / assets.MODEL for folder in list(filesystem.absolute(path).parents)[2:3]):
            files |= {assets.MODEL: filesystem.read_bytes(model_file)} if model_file.is_file() else {}
    return Description(metadata, llama, lineage, training, files)


def open_array(path: Path, name: str, shape: tuple[int, ...]) -> Any:
    """Opens an array of a checkpoint folder, for reading.

    Raises:
        UserError: it cannot be read, or has another shape, or a dtype that other formats do not have.
    """
    params = filesystem.absolute(path) / "params"
    base = f"{params}/" if filesystem.is_remote(params) else f"file://{params}/"
    kvstore = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    try:
        store = ts.open({"driver": "zarr", "kvstore": kvstore, "fill_missing_data_reads": False}).result()
    except (ValueError, OSError) as error:
        raise unreadable(path, name, error) from None
    if store.shape != shape:
        raise UserError(f"{path}: {name} has shape {list(store.shape)}, but its metadata says {list(shape)}")
    if store.dtype.name not in DTYPES:
        raise UserError(f"{path}: {name} has dtype {store.dtype.name}, which no other format supports")
    return store


def unreadable(path: Path, name: str, error: Exception) -> UserError:
    """The error for an array that cannot be read."""
    return UserError(f"{path} is damaged: {name} cannot be read ({first_line(error)})")


class Checkpoint:
    """The Source of a checkpoint folder of this project, imported or trained.

    Attributes:
        model: its description; the dtypes are those of the original format if imported, float32 if trained.
        trained: whether training wrote it.
        files: the files of its tokenizer and its like.
        lineage: what it records for an export.
        training: what its parameters went through, if a stage wrote it.
    """

    def __init__(self, path: Path):
        """Verifies the checksums and opens the arrays.

        Raises:
            UserError: the folder is damaged, or not a checkpoint.
        """
        checksums.verify(path)
        self._path = path
        described = describe(path)
        llama, self.lineage, self.training = described.llama, described.lineage, described.training
        imported = described.metadata.get("imported")
        self.trained, self.files = imported is None, described.files
        self._stores: dict[str, Any] = {}
        for tensor in canonical.tensors(llama):
            if tensor.parameter not in self._stores:
                layers = () if tensor.layer is None else (llama.layers,)
                shape = (*layers, *canonical.native_shape(llama, tensor.name))
                self._stores[tensor.parameter] = open_array(path, tensor.parameter, shape)
        dtypes = {}
        for tensor in canonical.tensors(llama):
            stored = self._stores[tensor.parameter].dtype.name
            original = imported["dtypes"] if imported else {}
            dtypes[str(tensor)] = original.get(str(tensor), original.get(tensor.parameter, stored))
        notes = imported["notes"] if imported else self.lineage.notes
        self.model = Model(llama, self.lineage.positions, dtypes, notes=notes)
        self._slab: tuple[str, int, np.ndarray] | None = None  # array name, first layer, layers from it on

    def rows(self, tensor: Tensor, start: int, stop: int) -> np.ndarray:
        """See Source.rows. The rows have the original dtype of the tensor."""
        store, llama = self._stores[tensor.parameter], self.model.llama
        slices = canonical.native_slices(llama, tensor.name, start, stop)
        chunk = store.chunk_layout.read_chunk.shape
        small = math.prod(chunk) * store.dtype.numpy_dtype.itemsize <= 4 * BLOCK_BYTES
        try:
            if small and (tensor.layer is None or chunk[0] == 1):
                block = (store if tensor.layer is None else store[tensor.layer])[slices].read().result()
            else:
                block = self._from_slab(tensor, store, chunk)[slices]
        except (ValueError, OSError) as error:
            raise unreadable(self._path, tensor.parameter, error) from None
        dtype = canonical.dtype_of(self.model, tensor)
        return canonical.from_native(llama, tensor.name, block.astype(dtype, copy=False))

    def _from_slab(self, tensor: Tensor, store: Any, chunk: tuple[int, ...]) -> np.ndarray:
        """One layer, or the array if it has no layers. Also reads, and keeps, the other layers in the same chunks."""
        layer = tensor.layer or 0
        if self._slab is not None and self._slab[0] == tensor.parameter:
            first, layers = self._slab[1:]
            if first <= layer < first + len(layers):
                return layers[layer - first]
        self._slab = None  # frees its memory before another one is read
        if tensor.layer is None:
            self._slab = (tensor.parameter, 0, store.read().result()[None])
        else:
            nbytes = math.prod(store.shape[1:]) * store.dtype.numpy_dtype.itemsize
            count = max(1, min(chunk[0], SLAB_BYTES // nbytes))
            first = layer // count * count
            self._slab = (tensor.parameter, first, store[first : min(first + count, store.shape[0])].read().result())
        return self._slab[2][layer - self._slab[1]]

    def close(self) -> None:
        """See Source.close."""
        self._stores.clear()
        self._slab = None
