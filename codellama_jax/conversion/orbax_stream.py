"""Writes an Orbax checkpoint while its arrays are read, one block at a time."""

import asyncio
import logging
import math
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from orbax.checkpoint import type_handlers

from codellama_jax.conversion import canonical
from codellama_jax.conversion.canonical import BLOCK_BYTES, WIDTH_CHUNKS, Source, Tensor
from codellama_jax.errors import UserError, first_line

# Orbax logs every step of a save through absl: hidden, except critical messages.
logging.getLogger("absl").addFilter(lambda record: record.levelno >= logging.CRITICAL)


class StreamedArray:
    """All layers of one parameter, read in blocks: a leaf of the tree that Orbax saves."""

    def __init__(self, source: Source, parameter: str):
        self._source, self._llama = source, source.model.llama
        self._tensors = [tensor for tensor in canonical.tensors(self._llama) if tensor.parameter == parameter]
        name = self._tensors[0].name
        self._stacked = self._tensors[0].layer is not None
        layers = (self._llama.layers,) if self._stacked else ()
        self.shape = (*layers, *canonical.native_shape(self._llama, name))
        self.dtype = canonical.stored_dtype(source.model, parameter)
        self._blocks = canonical.blocks(self._llama, name, self.dtype.itemsize)
        # A chunk is a block divided along the model width, so a device with a shard of the width reads few chunks.
        region = self._region(self._tensors[0], *self._blocks[0])
        chunk = [len(range(*part.indices(size))) for part, size in zip(region, self.shape, strict=True)]
        if name not in (*canonical.NORMS, *canonical.BIASES):
            width = self._stacked + canonical.width_axis(name)
            chunk[width] = min(chunk[width], self._llama.dim // math.gcd(self._llama.dim, WIDTH_CHUNKS))
        self.chunk = tuple(chunk)

    def _region(self, tensor: Tensor, start: int, stop: int) -> tuple[slice, ...]:
        layer = () if tensor.layer is None else (slice(tensor.layer, tensor.layer + 1),)
        within = canonical.native_slices(self._llama, tensor.name, start, stop)
        return layer + within

    def blocks(self) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
        """Yields each block: its region of the array, which consists of complete chunks, and its values."""
        for tensor in self._tensors:
            for start, stop in self._blocks:
                rows = self._source.rows(tensor, start, stop)
                block = canonical.to_native(self._llama, tensor.name, rows).astype(self.dtype, copy=False)
                yield self._region(tensor, start, stop), block[None] if self._stacked else block


class _Handler(type_handlers.NumpyHandler):
    """Writes a StreamedArray block by block, through the TensorStore that Orbax specifies for the array.

    Orbax's own handlers take complete arrays. This class uses Orbax's public extension point; the folder, the metadata
    of the tree and the merge of the processes' files remain Orbax's. Readers see a NumPy array.
    """

    async def serialize(self, values: Sequence[StreamedArray], infos: Sequence[Any], args: Any = None) -> Sequence[Any]:
        """Writes the arrays one after the other, synchronously, so that one block exists at a time."""
        for value, info in zip(values, infos, strict=True):
            await info.await_path_creation()
            spec = type_handlers.get_json_tspec_write(
                info,
                use_ocdbt=True,
                global_shape=value.shape,
                local_shape=value.chunk,  # Orbax uses the shape of a device's shard as the chunk shape
                dtype=value.dtype,
                process_index=0,
                arg=ocp.SaveArgs(),
            )
            for part in ("base", "manifest"):
                store_spec = spec["kvstore"].get(part)
                if isinstance(store_spec, dict) and store_spec.get("driver") == "file":
                    store_spec["file_io_sync"] = False  # filesystem.new_folder syncs all files once
            writing = deque([(ts.open(ts.Spec(spec), create=True, open=True, context=info.ts_context), 0)])
            try:
                store = _result(writing[0][0])
                for region, block in value.blocks():
                    await asyncio.sleep(0)  # lets asyncio raise a KeyboardInterrupt that it has deferred
                    # Several small blocks are written together; a large one is written while the next is read.
                    while writing and sum(nbytes for _, nbytes in writing) + block.nbytes > 2 * BLOCK_BYTES:
                        _result(writing[0][0])
                        writing.popleft()
                    future = store[region].write(block, can_reference_source_data_indefinitely=True)
                    writing.append((future, block.nbytes))
            finally:  # all writes must end before the folder is removed
                for future, _ in writing:
                    while not future.done():
                        time.sleep(0.001)
            for future, _ in writing:
                _result(future)
        return []


def _result(future: Any) -> Any:
    """Waits for a future. TensorStore's own wait returns on Ctrl-C, although the write continues."""
    while not future.done():
        time.sleep(0.001)
    try:
        return future.result()
    except (ValueError, RuntimeError, OSError) as error:  # TensorStore has no error class of its own
        # its messages include the error of the operating system, which the user can fix
        match = re.search(r": ([^:\[]+) \[os_error_code", str(error))
        reason = match[1] if match else first_line(error, 300)
        raise UserError(f"the checkpoint could not be written ({reason}); its files were removed") from None


def save(tree: Any, folder: Any) -> None:
    """Saves a tree of StreamedArrays in the format of Orbax's PyTreeSave."""
    registry = type_handlers.create_type_handler_registry((StreamedArray, _Handler()))
    # Weights hardly compress, and decompression would delay the start of a stage.
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_compression=False)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(folder, args=ocp.args.PyTreeSave(tree))
