"""A stage's checkpoints: parameters, optimiser and step, and the stream's state, saved together or not at all."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from codellama_jax.errors import UserError
from codellama_jax.training.config import Checkpoints
from codellama_jax.training.step import TrainState

# Orbax narrates every save, and logs the traceback of an error which it raises as well.
logging.getLogger("absl").addFilter(lambda record: record.levelno >= logging.CRITICAL)


class Restored(NamedTuple):
    """A checkpoint as read: the training state, the stream's state, and what was noted beside them."""

    state: TrainState
    stream: dict[str, Any]
    metadata: dict[str, Any]


class StageCheckpoints:
    """The checkpoints of one stage folder.

    A save is written under a temporary name by a thread and renamed when whole: a half-written one is never listed, and
    is removed when the folder is opened again.
    """

    def __init__(self, stage_dir: Path, settings: Checkpoints):
        self.directory = stage_dir.absolute() / "checkpoints"
        self.directory.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=settings.keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        self._step: int | None = None  # of the save that was begun last
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_names=("params", "optimizer", "stream", "metadata")
        )

    def latest(self) -> int | None:
        """Step of the newest whole checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, stream: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Begins to save; returns once the arrays are copied off the devices.

        Raises:
            UserError: this save could not begin, or the one before did not end well.
        """
        items = ocp.args.Composite(
            params=ocp.args.PyTreeSave(state.params),
            optimizer=ocp.args.PyTreeSave({"opt_state": state.opt_state, "step": state.step}),
            stream=ocp.args.JsonSave(stream),
            metadata=ocp.args.JsonSave(metadata),
        )
        self.wait()  # for the save before, so that what fails now is this one
        self._step = step
        self._explained(lambda: self._manager.save(step, args=items, force=True))

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
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            if any(sign in str(error) for sign in ("No space left", "RESOURCE_EXHAUSTED", "ENOSPC")):
                reason = "no space left on the disk"
            kept = sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdigit())
            whole = f"step {kept[-1]}, which is whole" if kept else "the start"
            raise UserError(
                f"the checkpoint of step {self._step} could not be written to {self.directory}: {reason[:300]}; make"
                f" room there and run the same command again: it goes on from {whole}"
            ) from error

    def restore(self, step: int, abstract: TrainState) -> Restored:
        """Reads a checkpoint onto the devices as `abstract` (shapes, dtypes, shardings) says.

        Raises:
            UserError: it cannot be read, or has other shapes.
        """
        optimizer = {"opt_state": abstract.opt_state, "step": abstract.step}
        args = ocp.args.Composite(
            params=_restore_args(abstract.params),
            optimizer=_restore_args(optimizer),
            stream=ocp.args.JsonRestore(),
            metadata=ocp.args.JsonRestore(),
        )
        with _reading(self.directory / str(step)):
            items = self._manager.restore(step, args=args)
        state = TrainState(items.params, items.optimizer["opt_state"], items.optimizer["step"])
        return Restored(state, items.stream, items.metadata)

    def close(self) -> None:
        """Waits and releases the threads."""
        self.wait()
        self._manager.close()


class _reading:
    """Turns whatever Orbax raises while it reads into one line that names the checkpoint."""

    def __init__(self, directory: Path):
        self._directory = directory

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise UserError(
                f"the checkpoint {self._directory} cannot be read ({reason[:200]}); move it away and run the same"
                " command again to go on from the one before"
            ) from error


def _restore_args(abstract: Any) -> ocp.args.PyTreeRestore:
    return ocp.args.PyTreeRestore(
        item=abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract), partial_restore=False
    )


def read_metadata(checkpoint: Path) -> dict[str, Any]:
    """What was noted beside the checkpoint: config (text), llama (its fields), step.

    Raises:
        UserError: there is no checkpoint there.
    """
    with _reading(checkpoint):
        return json.loads((checkpoint / "metadata" / "metadata").read_text())


def load_params(checkpoint: Path, abstract: dict[str, Any]) -> dict[str, Any]:
    """The parameters alone of a checkpoint folder (runs/NAME/STAGE/checkpoints/STEP), laid out as `abstract` says."""
    with _reading(checkpoint), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore((checkpoint / "params").absolute(), args=_restore_args(abstract))


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
