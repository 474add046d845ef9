"""Our own checkpoint folders: written a block at a time as Orbax writes them whole, and read in the same way.

    params/              every array, in the layout of Orbax's PyTreeSave: training/checkpoints.load_params reads it
    metadata/metadata    JSON: step, stage, sequence_length, llama, config (none), imported (what export wants back)
    tokenizer.model      of the checkpoint that was imported, if it had one
    checksums.json

Arrays keep the dtype of their source and become float32 when they are loaded; where layers of one array differ in dtype
it is float32, which holds all of them exactly, and export gives each layer its own again.
"""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from codellama_jax.config.model import Llama
from codellama_jax.conversion import canonical, orbax_stream
from codellama_jax.conversion.canonical import BLOCK_BYTES, DTYPES, Model, Source, Tensor
from codellama_jax.errors import UserError, first_line
from codellama_jax.runtime import checksums
from codellama_jax.runtime.filesystem import new_folder

# What is read at once of an array whose chunks are large or hold many layers: a chunk is decoded whole.
SLAB_BYTES = 1 << 30


def write(source: Source, path: Path, imported_from: str, tokenizer: Path | None) -> None:
    """Writes a source as a checkpoint folder, which any stage takes as its start.

    Args:
        source: any format.
        path: of the folder; its parent is made.
        imported_from: format and place, for the metadata.
        tokenizer: the model's, copied.

    Raises:
        UserError: path exists, there is no room, or the source is damaged; then nothing is left of the folder.
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
        "tied": model.tied,
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
    }
    with new_folder(path, sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays.values())) as folder:
        orbax_stream.save(tree, folder / "params")
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
            checkpointer.save(folder / "metadata", args=ocp.args.JsonSave(metadata))
        if tokenizer is not None:
            shutil.copyfile(tokenizer, folder / "tokenizer.model")
        checksums.write(folder)


def _grouped(model: Model) -> dict[str, str]:
    """The dtypes by array, and by tensor where a layer has another one than its first."""
    grouped: dict[str, str] = {}
    for tensor in canonical.tensors(model.llama):
        dtype = model.dtypes[str(tensor)]
        if grouped.setdefault(tensor.parameter, dtype) != dtype:
            grouped[str(tensor)] = dtype
    return grouped


def find(path: Path) -> Path | None:
    """The checkpoint at a path: the folder itself, or the newest one of a stage's folder (runs/NAME/STAGE)."""
    if (path / "metadata" / "metadata").is_file() and (path / "params").is_dir():
        return path
    steps = [int(folder.name) for folder in (path / "checkpoints").glob("*") if folder.name.isdigit()]
    if not steps:
        return None
    return path / "checkpoints" / str(max(steps))


class Checkpoint:
    """A Source of a checkpoint folder of ours, imported or trained.

    Attributes:
        model: its dtypes are those of the source it was imported from; of a trained one, float32.
        trained: whether training wrote it.
        tokenizer: the tokenizer's model file, if it is known.
    """

    def __init__(self, path: Path):
        """Opens it, after its checksums are verified.

        Raises:
            UserError: it is damaged, or no checkpoint.
        """
        checksums.verify(path)
        self._path = path
        try:
            metadata = json.loads((path / "metadata" / "metadata").read_text())
            llama, length = Llama(**metadata["llama"]), int(metadata["sequence_length"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}/metadata/metadata cannot be read ({error}): the checkpoint is damaged") from None
        imported = metadata.get("imported")
        self.trained = imported is None
        # runs/NAME/STAGE/checkpoints/STEP: the tokenizer is the run's
        candidates = [path / "tokenizer.model", *(path.absolute().parents[2:3] if self.trained else [])]
        files = [place / "tokenizer.model" if place.is_dir() else place for place in candidates]
        self.tokenizer = next((file for file in files if file.is_file()), None)
        self._stores: dict[str, Any] = {}
        for tensor in canonical.tensors(llama):
            if tensor.parameter not in self._stores:
                layers = () if tensor.layer is None else (llama.layers,)
                wanted = (*layers, *canonical.our_shape(llama, tensor.name))
                self._stores[tensor.parameter] = self._opened(tensor.parameter, wanted)
        dtypes = {}
        for tensor in canonical.tensors(llama):
            own = self._stores[tensor.parameter].dtype.name
            kept = imported["dtypes"] if imported else {}
            dtypes[str(tensor)] = kept.get(str(tensor), kept.get(tensor.parameter, own))
        notes = imported["notes"] if imported else {}
        self.model = Model(llama, length, dtypes, tied=bool(imported and imported["tied"]), notes=notes)
        self._slab: tuple[str, int, np.ndarray] | None = None  # an array's name, the first layer, some of its layers

    def _opened(self, name: str, wanted: tuple[int, ...]) -> Any:
        kvstore = {"driver": "ocdbt", "base": f"file://{self._path.absolute() / 'params'}/", "path": f"{name}/"}
        try:
            store = ts.open({"driver": "zarr", "kvstore": kvstore, "fill_missing_data_reads": False}).result()
        except (ValueError, OSError) as error:
            raise self._unreadable(name, error) from None
        if store.shape != wanted:
            raise UserError(f"{self._path}: {name} is {list(store.shape)}, its metadata says {list(wanted)}")
        if store.dtype.name not in DTYPES:
            raise UserError(f"{self._path}: {name} is {store.dtype.name}, which no other format has")
        return store

    def _unreadable(self, name: str, error: Exception) -> UserError:
        reason = first_line(error)
        return UserError(f"{self._path} is damaged: {name} cannot be read ({reason})")

    def rows(self, tensor: Tensor, start: int, stop: int) -> np.ndarray:
        """As Source.rows; cast to the dtype that the model has for this tensor."""
        store, llama = self._stores[tensor.parameter], self.model.llama
        within = canonical.our_rows(llama, tensor.name, start, stop)
        chunk = store.chunk_layout.read_chunk.shape
        small = math.prod(chunk) * store.dtype.numpy_dtype.itemsize <= 4 * BLOCK_BYTES
        try:
            if small and (tensor.layer is None or chunk[0] == 1):
                block = (store if tensor.layer is None else store[tensor.layer])[within].read().result()
            else:
                block = self._from_slab(tensor, store, chunk)[within]
        except (ValueError, OSError) as error:
            raise self._unreadable(tensor.parameter, error) from None
        own = canonical.dtype_of(self.model, tensor)
        return canonical.from_ours(llama, tensor.name, block.astype(own, copy=False))

    def _from_slab(self, tensor: Tensor, store: Any, chunk: tuple[int, ...]) -> np.ndarray:
        """One layer (or the whole of an array without layers), of those that lie in the same chunks."""
        layer = tensor.layer or 0
        if self._slab is not None and self._slab[0] == tensor.parameter:
            first, held = self._slab[1:]
            if first <= layer < first + len(held):
                return held[layer - first]
        self._slab = None  # before another one is read
        if tensor.layer is None:
            self._slab = (tensor.parameter, 0, store.read().result()[None])
        else:
            nbytes = math.prod(store.shape[1:]) * store.dtype.numpy_dtype.itemsize
            layers = max(1, min(chunk[0], SLAB_BYTES // nbytes))
            first = layer // layers * layers
            self._slab = (tensor.parameter, first, store[first : min(first + layers, store.shape[0])].read().result())
        return self._slab[2][layer - self._slab[1]]

    def close(self) -> None:
        """As Source.close."""
        self._stores.clear()
        self._slab = None
