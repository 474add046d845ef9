"""A stage's checkpoints: parameters, optimiser and step, and the stream's state, saved together or not at all."""

import asyncio
import contextlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers
from orbax.checkpoint.path import atomicity

from codellama_jax.config.training import Checkpoints
from codellama_jax.errors import UserError, first_line
from codellama_jax.runtime import checksums, distributed, filesystem
from codellama_jax.runtime.run_dir import saved_steps
from codellama_jax.training.step import TrainState

# Orbax narrates every save, and logs the traceback of an error which it raises as well.
logging.getLogger("absl").addFilter(lambda record: record.levelno >= logging.CRITICAL)


class Restored(NamedTuple):
    """A checkpoint as read: the training state, the stream's state, and what was noted beside them."""

    state: TrainState
    stream: dict[str, Any]
    metadata: dict[str, Any]


def _goodness(metrics: dict[str, float]) -> float:
    """Of a save, higher is better."""
    loss = metrics["validation_loss"]
    return -loss if loss == loss else -float("inf")  # nan is the worst of all


_ITEMS = ("params", "optimizer", "stream", "metadata")

# Where a checkpoint that is not kept is renamed to, whole, before its files are removed: a temporary name as well.
_REMOVED = "removed.orbax-checkpoint-tmp"


class _WithChecksums(atomicity.AtomicRenameTemporaryPath):
    """A save's temporary folder, whose files get their checksums before it is renamed."""

    _final_path: Any  # of the base class

    async def create(self) -> Any:
        if self._final_path.name.isdigit():  # room for this save, in which no removal is under way
            await asyncio.to_thread(shutil.rmtree, Path(self._final_path).parent / _REMOVED, ignore_errors=True)
        return await super().create()

    async def finalize(self) -> None:
        final = self._final_path
        if not final.name.isdigit():  # an item's folder, within the step's
            return await super().finalize()
        # Orbax writes into the folder until it renames it. So it is let rename it to what is a temporary name as well.
        self._final_path = final.with_name(f"{final.name}.orbax-checkpoint-tmp-checksums")
        await super().finalize()
        await asyncio.to_thread(checksums.write, Path(self._final_path))
        await asyncio.to_thread(self._final_path.rename, final)
        self._final_path = final


class _ChecksumsLast(atomicity.CommitFileTemporaryPath):
    """A save in a bucket, where nothing can be renamed: it has its name from the start, and counts when its checksums
    are there (run_folder.saved_steps), which are written after all else."""

    _final_path: Any  # of the base class

    async def finalize(self) -> None:
        await super().finalize()
        if self._final_path.name.isdigit():
            await asyncio.to_thread(checksums.write, self._final_path)


class StageCheckpoints:
    """The checkpoints of one stage folder.

    A save is written by a thread, under a temporary name, and renamed when whole, its checksums in it; in a bucket the
    checksums come last. A half-written one is never listed, and is removed when the folder is opened again.
    """

    def __init__(self, stage_dir: Path, settings: Checkpoints):
        self.directory = filesystem.absolute(stage_dir) / "checkpoints"
        self.directory.mkdir(parents=True, exist_ok=True)
        bucket = filesystem.is_remote(self.directory)
        if bucket:
            if jax.process_index() == 0:
                self._tidy_bucket()
            multihost_utils.sync_global_devices("checkpoints are tidy")
        policies = checkpoint_managers
        kept: list[Any] = [policies.LatestN(n=settings.keep)]
        if settings.keep_every:
            kept.append(policies.EveryNSteps(interval_steps=settings.keep_every))
        if settings.keep_best:
            best = policies.BestN(get_metric_fn=_goodness, n=1, keep_checkpoints_without_metrics=False)
            kept.append(best)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(policies=kept),
            best_fn=_goodness,
            enable_async_checkpointing=True,
            cleanup_tmp_directories=not bucket,
            todelete_subdir=None if bucket else _REMOVED,
            temporary_path_class=_ChecksumsLast if bucket else _WithChecksums,
        )
        self._step: int | None = None  # of the save that was begun last
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=_ITEMS)

    def _tidy_bucket(self) -> None:
        """Removes what a killed save left, unless its checksums are all that is missing; and gives checkpoints that
        were copied here from a disk Orbax's own marks, without which it would take them for unfinished."""
        whole = self.steps()
        for path in [path for path in self.directory.glob("*") if path.name.isdigit()]:
            marks = [folder / atomicity.COMMIT_SUCCESS_FILE for folder in (path, *(path / item for item in _ITEMS))]
            if int(path.name) in whole:
                for mark in marks:
                    if not mark.exists():
                        mark.write_text("copied here whole")
            elif marks[0].exists():
                checksums.write(path)
            else:
                filesystem.remove_tree(path)

    def latest(self) -> int | None:
        """Step of the newest whole checkpoint, None if there is none."""
        steps = self.steps()  # not Orbax's: it passes over a folder in which one of its own files is damaged
        return steps[-1] if steps else None

    def save(
        self,
        step: int,
        state: TrainState,
        stream: dict[str, Any],
        metadata: dict[str, Any],
        validation_loss: float | None = None,
    ) -> None:
        """Begins to save; returns once the arrays are copied off the devices.

        Args:
            step: of the state.
            state: parameters and optimiser.
            stream, metadata: JSON values.
            validation_loss: of this very step, None where it was not taken; decides which save is the best.

        Raises:
            UserError: this save could not begin, or the one before did not end well.
            RuntimeError: another process of the run is lost (hosts.lost).
        """
        items = ocp.args.Composite(
            params=_save_args(state.params),
            optimizer=_save_args({"opt_state": state.opt_state, "step": state.step}),
            stream=ocp.args.JsonSave(stream),
            metadata=ocp.args.JsonSave(metadata),
        )
        self.wait()  # for the save before, so that what fails now is this one
        self._step = step
        metrics = None if validation_loss is None else {"validation_loss": validation_loss}
        self._explained(lambda: self._manager.save(step, args=items, metrics=metrics, force=True))

    def wait(self) -> None:
        """Returns when what was begun is on disk.

        Raises:
            UserError: it is not.
        """
        self._explained(self._manager.wait_until_finished)

    def check(self) -> None:
        """Raises UserError if a save in the background has failed."""
        self._explained(self._manager.check_for_errors)

    def _explained(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            if distributed.is_peer_loss(error):
                raise  # nothing is wrong with the disk
            reason, cure = first_line(error, 300), "mend that"
            if any(sign in str(error) for sign in ("No space left", "ENOSPC", "quota exceeded")):
                reason, cure = "no space left on the disk", "make room there"
            elif any(sign in str(error) for sign in ("Permission denied", "Read-only file system")):
                reason, cure = "the folder may not be written to", "let it be written to"
            kept = self.steps()
            whole = f"step {kept[-1]}, which is whole" if kept else "the start"
            raise UserError(
                f"the checkpoint of step {self._step} could not be written to {self.directory}: {reason}; {cure}"
                f" and run the same command again: it goes on from {whole}"
            ) from error

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, in order."""
        return saved_steps(self.directory.parent)

    def restore(self, step: int, abstract: TrainState) -> Restored:
        """Compares a checkpoint with its checksums, and reads it onto the devices as `abstract` (shapes, dtypes,
        shardings) says.

        Raises:
            UserError: it is damaged, or has other shapes; the message has the step that the stage can go on from.
        """
        folder = self.directory / str(step)
        optimizer = {"opt_state": abstract.opt_state, "step": abstract.step}
        args = ocp.args.Composite(
            params=_restore_args(abstract.params),
            optimizer=_restore_args(optimizer),
            stream=ocp.args.JsonRestore(),
            metadata=ocp.args.JsonRestore(),
        )
        with _reading(folder, lambda: self._way_back(step)):
            verify(folder)
            items = self._manager.restore(step, args=args)
        state = TrainState(items.params, items.optimizer["opt_state"], items.optimizer["step"])
        return Restored(state, items.stream, items.metadata)

    def _way_back(self, step: int) -> str:
        """What to do where the checkpoint of this step is damaged."""
        for older in reversed([other for other in self.steps() if other < step]):
            try:
                checksums.verify(self.directory / str(older))
            except UserError:
                continue
            return f"step {older} is whole: move {step} away and run the same command again to go on from it"
        return f"no other is whole: move {self.directory} away and run the same command again to begin anew"

    def close(self) -> None:
        """Waits and releases the threads."""
        self.wait()
        self._manager.close()
        if jax.process_index() == 0:
            filesystem.remove_tree(self.directory / _REMOVED)


class _reading:
    """Turns whatever is raised while a checkpoint is read into one line that names it, and what to do; but for the loss
    of another process, of which the checkpoint is innocent."""

    def __init__(self, folder: Path, cure: Callable[[], str]):
        self._folder, self._cure = folder, cure

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, UserError):
            raise UserError(f"{error}; {self._cure()}") from error
        if isinstance(error, Exception) and not distributed.is_peer_loss(error):
            reason = first_line(error)
            raise UserError(f"the checkpoint {self._folder} cannot be read ({reason}); {self._cure()}") from error


def verify(folder: Path) -> None:
    """Compares a checkpoint with its checksums, each host a part of the files.

    Raises:
        UserError: this host, or another one, found a file that is damaged.
    """
    damage = None
    try:
        checksums.verify(folder, jax.process_index(), jax.process_count())
    except UserError as error:
        damage = error
    if jax.process_count() > 1:  # all go on, or none: the others would wait for this one
        found = multihost_utils.process_allgather(np.asarray(damage is not None))
        if damage is None and np.any(found):
            finders = ", ".join(str(host) for host in np.flatnonzero(found))
            damage = UserError(f"{folder} is damaged: host {finders} found it and says where")
    if damage:
        raise damage


def _save_args(tree: Any) -> ocp.args.PyTreeSave:
    """A device's part of an array is written a layer at a time, and no piece is large: so export, which reads a layer
    at a time, does not decode the others."""

    def pieces(path: Any, x: jax.Array) -> ocp.SaveArgs:
        stacked = "blocks" in jax.tree_util.keystr(path) and x.ndim > 2
        return ocp.SaveArgs(chunk_byte_size=64 << 20, shard_axes=(0,) if stacked else ())

    return ocp.args.PyTreeSave(tree, save_args=jax.tree.map_with_path(pieces, tree))


def _restore_args(abstract: Any) -> ocp.args.PyTreeRestore:
    return ocp.args.PyTreeRestore(
        item=abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract), partial_restore=False
    )


def read_metadata(checkpoint: Path) -> dict[str, Any]:
    """What was noted beside a checkpoint: at least llama (its fields), config (text), sequence_length, step.

    Raises:
        UserError: there is no checkpoint there, or it is damaged.
    """
    if not (checkpoint / "metadata" / "metadata").exists():
        raise UserError(
            f"{checkpoint} is no checkpoint: name a folder runs/NAME/STAGE/checkpoints/STEP, or what python -m"
            " codellama_jax.convert import made of Llama's files"
        )
    with _reading(checkpoint, lambda: _ANOTHER_COPY):
        return json.loads((checkpoint / "metadata" / "metadata").read_text())


def load_params(checkpoint: Path, abstract: dict[str, Any]) -> dict[str, Any]:
    """The parameters alone of a checkpoint folder (runs/NAME/STAGE/checkpoints/STEP), laid out as `abstract` says.

    Raises:
        UserError: it is damaged, or has other shapes.
    """
    with _reading(checkpoint, lambda: _ANOTHER_COPY):
        verify(checkpoint)
        # not through a Checkpointer: in a bucket that wants a mark which a copy of a checkpoint of a disk has not
        folder = filesystem.absolute(checkpoint / "params")
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
            return handler.restore(folder, args=_restore_args(abstract))


_ANOTHER_COPY = "put a whole copy of it there, or make it again"


def grow_vocabulary(params: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """Adds rows to the embedding and columns to the head, each the mean of the old ones, up to vocab_size.

    The mean is a neutral start: a new row's logit is the average logit, its embedding the average embedding
    (assumption; the paper does not say).

    Raises:
        UserError: the parameters have more rows already.
    """
    old = params["embedding"].shape[0]
    if old > vocab_size:
        raise UserError(f"the checkpoint has {old} vocabulary rows, this stage {vocab_size}: rows cannot be dropped")
    if old == vocab_size:
        return params

    @jax.jit
    def grown(embedding_VD: jax.Array, head_DV: jax.Array) -> tuple[jax.Array, jax.Array]:
        new = vocab_size - old
        rows = jnp.broadcast_to(embedding_VD.mean(0, keepdims=True), (new, embedding_VD.shape[1]))
        columns = jnp.broadcast_to(head_DV.mean(1, keepdims=True), (head_DV.shape[0], new))
        return jnp.concatenate([embedding_VD, rows]), jnp.concatenate([head_DV, columns], axis=1)

    embedding, head = grown(params["embedding"], params["head"])
    return params | {"embedding": embedding, "head": head}
