"""Arrays that Orbax saves while they are read, a block at a time."""

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
from codellama_jax.conversion.canonical import BLOCK_BYTES, CUTS, Source, Tensor
from codellama_jax.errors import UserError, first_line

# Orbax says what it does at each step.
logging.getLogger("absl").addFilter(lambda record: record.levelno >= logging.CRITICAL)


class StreamedArray:
    """All layers of one parameter, as a leaf of the tree that Orbax saves."""

    def __init__(self, source: Source, parameter: str):
        self._source, self._llama = source, source.model.llama
        self._tensors = [tensor for tensor in canonical.tensors(self._llama) if tensor.parameter == parameter]
        name = self._tensors[0].name
        self._stacked = self._tensors[0].layer is not None
        layers = (self._llama.layers,) if self._stacked else ()
        self.shape = (*layers, *canonical.our_shape(self._llama, name))
        self.dtype = canonical.stored_dtype(source.model, parameter)
        self._blocks = canonical.blocks(self._llama, name, self.dtype.itemsize)
        # A chunk is what a block is, but cut along the model width: a device that holds a part of the width reads few.
        region = self._region(self._tensors[0], *self._blocks[0])
        chunk = [len(range(*part.indices(size))) for part, size in zip(region, self.shape, strict=True)]
        if name not in canonical.NORMS:
            width = self._stacked + canonical.width_axis(name)
            chunk[width] = min(chunk[width], self._llama.dim // math.gcd(self._llama.dim, CUTS))
        self.chunk = tuple(chunk)

    def _region(self, tensor: Tensor, start: int, stop: int) -> tuple[slice, ...]:
        layer = () if tensor.layer is None else (slice(tensor.layer, tensor.layer + 1),)
        within = canonical.our_rows(self._llama, tensor.name, start, stop)
        return layer + within

    def pieces(self) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
        """Where in the array, and what is there; whole chunks of it."""
        for tensor in self._tensors:
            for start, stop in self._blocks:
                rows = self._source.rows(tensor, start, stop)
                piece = canonical.to_ours(self._llama, tensor.name, rows).astype(self.dtype, copy=False)
                yield self._region(tensor, start, stop), piece[None] if self._stacked else piece


class _Handler(type_handlers.NumpyHandler):
    """Writes an StreamedArray where Orbax would write a whole one, through the TensorStore that Orbax specifies for it.

    Orbax has no leaf that is read while it is written: its handlers take arrays. This one is its public extension
    point, and the folder, its tree's metadata and the merge of what processes wrote are Orbax's own. What it wrote is
    a NumPy array to whoever reads it.
    """

    async def serialize(self, values: Sequence[StreamedArray], infos: Sequence[Any], args: Any = None) -> Sequence[Any]:
        """Writes the arrays one after the other, here and now, so that one block exists at a time."""
        for value, info in zip(values, infos, strict=True):
            await info.await_path_creation()
            spec = type_handlers.get_json_tspec_write(
                info,
                use_ocdbt=True,
                global_shape=value.shape,
                local_shape=value.chunk,  # a chunk is what Orbax takes for one device's part
                dtype=value.dtype,
                process_index=0,
                arg=ocp.SaveArgs(),
            )
            for part in ("base", "manifest"):  # synced to disk once, by filesystem.new_folder
                spec["kvstore"][part]["file_io_sync"] = False
            writing = deque([(ts.open(ts.Spec(spec), create=True, open=True, context=info.ts_context), 0)])
            try:
                store = _done(writing[0][0])
                for region, piece in value.pieces():
                    await asyncio.sleep(0)  # where Ctrl-C, if asyncio keeps it, ends this
                    # Several small pieces go to disk together; a large one is written while the next is read.
                    while writing and sum(nbytes for _, nbytes in writing) + piece.nbytes > 2 * BLOCK_BYTES:
                        _done(writing[0][0])
                        writing.popleft()
                    future = store[region].write(piece, can_reference_source_data_indefinitely=True)
                    writing.append((future, piece.nbytes))
            finally:  # nothing may still be written when the folder is removed
                for future, _ in writing:
                    while not future.done():
                        time.sleep(0.001)
            for future, _ in writing:
                _done(future)
        return []


def _done(future: Any) -> Any:
    """A future's result. TensorStore would abandon the future when Ctrl-C comes, and write on behind our back."""
    while not future.done():
        time.sleep(0.001)
    try:
        return future.result()
    except (ValueError, RuntimeError, OSError) as error:  # TensorStore has no class of its own
        # its messages tell the way down to the system's own words, which are what the user can mend
        reason = re.search(r": ([^:\[]+) \[os_error_code", str(error))
        words = reason[1] if reason else first_line(error, 300)
        raise UserError(f"the checkpoint could not be written ({words}); nothing was left of it") from None


def save(tree: Any, folder: Any) -> None:
    """Saves a tree of StreamedArrays where Orbax's PyTreeSave would have saved one of arrays."""
    registry = type_handlers.create_type_handler_registry((StreamedArray, _Handler()))
    # Weights hardly compress, and a stage's start should not wait for it.
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_compression=False)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(folder, args=ocp.args.PyTreeSave(tree))
