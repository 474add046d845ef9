"""Checkpoints of a stage: parameters, optimizer, step and the data loader's state, saved together or not at all."""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers
from orbax.checkpoint.path import atomicity

from codellama_jax.config.training import Checkpoints
from codellama_jax.errors import UserError, first_line
from codellama_jax.runtime import checksums, distributed, filesystem
from codellama_jax.runtime.run_dir import saved_steps
from codellama_jax.training.assets import FOLDER, Assets, SaveAssets
from codellama_jax.training.atomic_checkpoint import REMOVED, ChecksumsLast, RenamedWithChecksums
from codellama_jax.training.step import TrainState

# Orbax logs every save, and tracebacks of errors that it also raises: hidden, except critical messages.
logging.getLogger("absl").addFilter(lambda record: record.levelno >= logging.CRITICAL)

_ITEMS = ("params", "optimizer", "stream", "metadata", FOLDER)
_REPLACE = "replace it by an intact copy, or create it again"


class Restored(NamedTuple):
    """A checkpoint that was read: the training state, the data loader's state, and the metadata."""

    state: TrainState
    stream: dict[str, Any]
    metadata: dict[str, Any]


class StageCheckpoints:
    """The checkpoints in the folder of one stage.

    A thread writes each checkpoint, which becomes visible when it is complete (atomic_checkpoint). Incomplete
    checkpoints are never listed, and are removed when the folder is opened again.
    """

    def __init__(self, stage_dir: Path, settings: Checkpoints):
        self.directory = filesystem.absolute(stage_dir) / "checkpoints"
        self.directory.mkdir(parents=True, exist_ok=True)
        bucket = filesystem.is_remote(self.directory)
        if bucket:
            if jax.process_index() == 0:
                self._clean_up_bucket()
            multihost_utils.sync_global_devices("checkpoints are cleaned up")
        policies = checkpoint_managers
        kept: list[Any] = [policies.LatestN(n=settings.keep)]
        if settings.keep_every:
            kept.append(policies.EveryNSteps(interval_steps=settings.keep_every))
        if settings.keep_best:
            kept.append(policies.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(policies=kept),
            best_fn=_score,
            enable_async_checkpointing=True,
            cleanup_tmp_directories=not bucket,
            todelete_subdir=None if bucket else REMOVED,
            temporary_path_class=ChecksumsLast if bucket else RenamedWithChecksums,
        )
        self._saving_step: int | None = None  # step of the most recent save, for error messages
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=_ITEMS)

    def _clean_up_bucket(self) -> None:
        """Removes incomplete saves of a killed process; completes those that lack only their checksums.

        Also adds Orbax's commit markers to checkpoints that were copied from a disk: without the markers, Orbax
        considers them incomplete.
        """
        complete = self.steps()
        for path in [path for path in self.directory.glob("*") if path.name.isdigit()]:
            items = [path / item for item in _ITEMS if (path / item).is_dir()]
            markers = [folder / atomicity.COMMIT_SUCCESS_FILE for folder in (path, *items)]
            if int(path.name) in complete:
                for marker in markers:
                    if not marker.exists():
                        marker.write_text("copied complete")
            elif markers[0].exists():
                checksums.write(path)
            else:
                filesystem.remove_tree(path)

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, in order."""
        return saved_steps(self.directory.parent)

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint; None if there is none."""
        steps = self.steps()  # not Orbax's list, which omits a folder if one of Orbax's own files in it is damaged
        return steps[-1] if steps else None

    def last_saved(self) -> int | None:
        """Like `latest`, but waits for a save in progress first.

        Raises:
            UserError: that save failed.
        """
        self.wait()
        return self.latest()

    def save(
        self,
        step: int,
        state: TrainState,
        stream: dict[str, Any],
        metadata: dict[str, Any],
        validation_loss: float | None = None,
        files: Assets | None = None,
    ) -> None:
        """Starts a save; returns once the arrays have been copied from the devices.

        Args:
            step: step of the state.
            state: parameters and optimizer.
            stream, metadata: JSON values; `stream` is the data loader's state.
            validation_loss: validation loss at this step, which determines the best checkpoint; None if not measured.
            files: the files that the checkpoint carries for an export.

        Raises:
            UserError: this save could not start, or the previous one failed.
            RuntimeError: another process of the run was lost (distributed.is_peer_loss).
        """
        items = ocp.args.Composite(
            params=_save_args(state.params),
            optimizer=_save_args({"opt_state": state.opt_state, "step": state.step}),
            stream=ocp.args.JsonSave(stream),
            metadata=ocp.args.JsonSave(metadata),
            **({FOLDER: SaveAssets(files)} if files else {}),
        )
        self.wait()  # for the previous save, so that any failure after this line belongs to this save
        self._saving_step = step
        metrics = None if validation_loss is None else {"validation_loss": validation_loss}
        with self._write_errors():
            self._manager.save(step, args=items, metrics=metrics, force=True)

    def wait(self) -> None:
        """Blocks until the save in progress, if any, is complete.

        Raises:
            UserError: the save failed.
        """
        with self._write_errors():
            self._manager.wait_until_finished()

    def check(self) -> None:
        """Raises UserError if a save in the background has failed."""
        with self._write_errors():
            self._manager.check_for_errors()

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        """Converts errors of a save to a UserError with the reason and the remedy.

        The loss of another process is not converted: it is not an error of the save.
        """
        try:
            yield
        except Exception as error:
            if distributed.is_peer_loss(error):
                raise
            reason, remedy = first_line(error, 300), "fix the problem"
            if any(sign in str(error) for sign in ("No space left", "ENOSPC", "quota exceeded")):
                reason, remedy = "no space left on the disk", "free some space"
            elif any(sign in str(error) for sign in ("Permission denied", "Read-only file system")):
                reason, remedy = "the folder is not writable", "make it writable"
            step = self.latest()
            resumes = "starts again" if step is None else f"resumes from step {step}, which is complete"
            raise UserError(
                f"the checkpoint of step {self._saving_step} could not be written to {self.directory}: {reason};"
                f" {remedy} and run the same command again: it {resumes}"
            ) from error

    def restore(self, step: int, abstract: TrainState) -> Restored:
        """Verifies the checksums of a checkpoint, and loads it onto the devices.

        Args:
            step: step of the checkpoint.
            abstract: shapes, dtypes and shardings of the state.

        Raises:
            UserError: the checkpoint is damaged or has other shapes; the message names the step to resume from instead.
        """
        folder = self.directory / str(step)
        optimizer = {"opt_state": abstract.opt_state, "step": abstract.step}
        args = ocp.args.Composite(
            params=_restore_args(abstract.params),
            optimizer=_restore_args(optimizer),
            stream=ocp.args.JsonRestore(),
            metadata=ocp.args.JsonRestore(),
        )
        with _read_errors(folder, lambda: self._alternative(step)):
            verify(folder)
            items = self._manager.restore(step, args=args)
        state = TrainState(items.params, items.optimizer["opt_state"], items.optimizer["step"])
        return Restored(state, items.stream, items.metadata)

    def _alternative(self, step: int) -> str:
        """The remedy if the checkpoint of this step is damaged."""
        for older in reversed([other for other in self.steps() if other < step]):
            try:
                checksums.verify(self.directory / str(older))
            except UserError:
                continue
            return f"step {older} is intact: move {step} away and run the same command again to resume from it"
        return f"no other step is intact: move {self.directory} away and run the same command again to start over"

    def close(self) -> None:
        """Waits for the save in progress, and releases the threads."""
        self.wait()
        self._manager.close()
        if jax.process_index() == 0:
            filesystem.remove_tree(self.directory / REMOVED)


def _score(metrics: dict[str, float]) -> float:
    """The score of a checkpoint by its metrics; the best checkpoint has the highest."""
    loss = metrics["validation_loss"]
    return -loss if loss == loss else -float("inf")  # nan is the worst


@contextlib.contextmanager
def _read_errors(folder: Path, remedy: Callable[[], str]) -> Iterator[None]:
    """Converts errors of reading a checkpoint to a UserError with its folder and the remedy.

    The loss of another process is not converted: it is not an error of the checkpoint.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}; {remedy()}") from error
    except Exception as error:
        if distributed.is_peer_loss(error):
            raise
        raise UserError(f"the checkpoint {folder} cannot be read ({first_line(error)}); {remedy()}") from error


def verify(folder: Path) -> None:
    """Compares a checkpoint with its checksums; each host compares part of the files. A collective.

    Raises:
        UserError: this host or another one found a damaged file.
    """
    damage = None
    try:
        checksums.verify(folder, jax.process_index(), jax.process_count())
    except UserError as error:
        damage = error
    if jax.process_count() > 1:  # all continue or all raise: otherwise, the others would wait for this host
        found = multihost_utils.process_allgather(np.asarray(damage is not None))
        if damage is None and np.any(found):
            hosts = ", ".join(str(host) for host in np.flatnonzero(found))
            damage = UserError(f"{folder} is damaged: see the message of host {hosts}")
    if damage:
        raise damage


def _save_args(tree: Any) -> ocp.args.PyTreeSave:
    """Arguments that write a device's shard in small chunks of one layer each.

    Export reads one layer at a time, and so does not have to decode the others.
    """

    def chunks(path: Any, x: jax.Array) -> ocp.SaveArgs:
        stacked = "blocks" in jax.tree_util.keystr(path) and x.ndim > 2
        return ocp.SaveArgs(chunk_byte_size=64 << 20, shard_axes=(0,) if stacked else ())

    return ocp.args.PyTreeSave(tree, save_args=jax.tree.map_with_path(chunks, tree))


def _restore_args(abstract: Any, partial: bool = False) -> ocp.args.PyTreeRestore:
    return ocp.args.PyTreeRestore(
        item=abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract), partial_restore=partial
    )


def read_metadata(checkpoint: Path) -> dict[str, Any]:
    """The metadata of a checkpoint: at least llama (its fields), config (gin text), sequence_length and step.

    Raises:
        UserError: this is not a checkpoint, or it is damaged.
    """
    if not (checkpoint / "metadata" / "metadata").exists():
        raise UserError(
            f"{checkpoint} is not a checkpoint: name a folder runs/NAME/STAGE/checkpoints/STEP, or one that python -m"
            " codellama_jax.convert import wrote"
        )
    with _read_errors(checkpoint, lambda: _REPLACE):
        return json.loads((checkpoint / "metadata" / "metadata").read_text())


def load_params(checkpoint: Path, abstract: dict[str, Any]) -> dict[str, Any]:
    """Loads the parameters of a checkpoint folder (runs/NAME/STAGE/checkpoints/STEP), without optimizer and step.

    Args:
        checkpoint: the folder.
        abstract: shapes, dtypes and shardings of the parameters.

    Raises:
        UserError: the checkpoint is damaged or has other shapes.
    """
    with _read_errors(checkpoint, lambda: _REPLACE):
        verify(checkpoint)
    return load_some(checkpoint, abstract, all_of_them=True)


def load_some(checkpoint: Path, abstract: dict[str, Any], all_of_them: bool = False) -> dict[str, Any]:
    """Loads some parameters of a checkpoint folder, without verifying its checksums.

    Args:
        checkpoint: the folder.
        abstract: shapes, dtypes and shardings of the parameters to load.
        all_of_them: whether these must be all parameters of the checkpoint.

    Raises:
        UserError: the checkpoint is damaged or has other shapes.
    """
    with _read_errors(checkpoint, lambda: _REPLACE):
        # not through a Checkpointer: in a bucket it requires a marker, which a checkpoint copied from a disk lacks
        folder = filesystem.absolute(checkpoint / "params")
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
            return handler.restore(folder, args=_restore_args(abstract, partial=not all_of_them))
