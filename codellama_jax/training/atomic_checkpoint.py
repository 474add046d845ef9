"""Makes Orbax write atomic checkpoints that include this project's checksums.

On a disk, a checkpoint is written under a temporary name, and renamed when its files and their checksums are complete.
In a bucket nothing can be renamed: a checkpoint has its final name from the start, and counts as complete when it has
checksums (run_dir.saved_steps), which are written last.
"""

import asyncio
import shutil
from pathlib import Path
from typing import Any

from orbax.checkpoint.path import atomicity

from codellama_jax.runtime import checksums

# A checkpoint that is no longer kept is renamed to this before its files are removed. Orbax treats the name as
# temporary.
REMOVED = "removed.orbax-checkpoint-tmp"


class RenamedWithChecksums(atomicity.AtomicRenameTemporaryPath):
    """The temporary folder of a save on a disk: checksums are added before it is renamed."""

    _final_path: Any  # set by the base class

    async def create(self) -> Any:
        if self._final_path.name.isdigit():  # frees disk space for this save; no other thread is removing files now
            await asyncio.to_thread(shutil.rmtree, Path(self._final_path).parent / REMOVED, ignore_errors=True)
        return await super().create()

    async def finalize(self) -> None:
        final = self._final_path
        if not final.name.isdigit():  # the folder of an item, inside the folder of the step
            return await super().finalize()
        # Orbax writes into the folder until it is renamed, so the first rename is to another temporary name.
        self._final_path = final.with_name(f"{final.name}.orbax-checkpoint-tmp-checksums")
        await super().finalize()
        await asyncio.to_thread(checksums.write, Path(self._final_path))
        await asyncio.to_thread(self._final_path.rename, final)
        self._final_path = final


class ChecksumsLast(atomicity.CommitFileTemporaryPath):
    """The folder of a save in a bucket: checksums are written after everything else."""

    _final_path: Any  # set by the base class

    async def finalize(self) -> None:
        await super().finalize()
        if self._final_path.name.isdigit():
            await asyncio.to_thread(checksums.write, self._final_path)
