"""What a stage starts from, first match wins:

1. its own newest whole checkpoint: parameters, optimiser, step, and the stream's position
2. its parent's final checkpoint in the same run: parameters only, the vocabulary grown if it must be
3. for a stage without parent Checkpoints.initial: another checkpoint's parameters, or random ones
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from codellama_jax.config.model import Llama
from codellama_jax.config.training import AdamW, Stage
from codellama_jax.errors import UserError
from codellama_jax.runtime import checksums
from codellama_jax.training.checkpoints import Restored, StageCheckpoints, grow_vocabulary, load_params, read_metadata
from codellama_jax.training.optimizer import make_optimizer
from codellama_jax.training.step import (
    Params,
    TrainState,
    abstract_params,
    init_params,
    param_shardings,
    state_shardings,
)


@dataclasses.dataclass(frozen=True)
class ParentCheckpoint:
    """A checkpoint of another stage, as a start.

    Attributes:
        path: its folder, runs/NAME/STAGE/checkpoints/STEP.
        llama: the model it belongs to.
        sequence_length: what that stage was trained on.
        tokens: that its parameters were trained on, its own parents' included, as far as is known.
        digest: of its checksums; None if it has none.
    """

    path: Path
    llama: Llama
    sequence_length: int
    tokens: int
    digest: str | None

    def noted(self) -> dict[str, Any]:
        """What the checkpoints of the stage that starts from here say of it, as JSON values."""
        return dataclasses.asdict(self) | {"path": str(self.path)}

    @classmethod
    def at(cls, path: Path, child: Llama) -> "ParentCheckpoint":
        """Reads what is noted beside a checkpoint.

        Raises:
            UserError: there is none, or its shape is another one's than the child's (the vocabulary may be smaller).
        """
        metadata = read_metadata(path)
        llama = Llama(**metadata["llama"])
        for field in ("dim", "layers", "heads", "kv_heads", "ffn_dim"):
            theirs, ours = getattr(llama, field), getattr(child, field)
            if theirs != ours:
                raise UserError(
                    f"{path} has Llama.{field}={theirs}, this stage {ours}: a stage keeps its parent's size"
                )
        tokens = metadata.get("tokens", {}).get("lineage", 0)
        return cls(path, llama, metadata["sequence_length"], tokens, checksums.digest(path))

    def params(self, mesh: jax.sharding.Mesh) -> Params:
        """Its parameters, spread over the mesh."""
        return load_params(self.path, _placed(abstract_params(self.llama), param_shardings(self.llama, mesh)))


def fresh_state(
    llama: Llama, stage: Stage, settings: AdamW, mesh: jax.sharding.Mesh, origin_params: Params | None
) -> TrainState:
    """A state at step 0, spread over the mesh: with these parameters, or random ones."""
    optimizer = make_optimizer(settings, stage.steps)
    shardings = state_shardings(llama, optimizer, mesh)

    def start(params: Params) -> TrainState:
        return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))

    if origin_params is None:
        # made where it will lie: no device ever holds the whole
        return jax.jit(lambda: start(init_params(llama, stage.seed)), out_shardings=shardings)()
    params = jax.device_put(grow_vocabulary(origin_params, llama.vocab_size), shardings.params)
    return jax.jit(start, out_shardings=shardings, donate_argnums=0)(params)


def restored_state(
    saves: StageCheckpoints, step: int, llama: Llama, stage: Stage, settings: AdamW, mesh: jax.sharding.Mesh
) -> Restored:
    """The stage's own checkpoint, its state spread over the mesh."""
    optimizer = make_optimizer(settings, stage.steps)
    params = abstract_params(llama)
    step_shape = jax.ShapeDtypeStruct((), jnp.int32)
    abstract = TrainState(params, jax.eval_shape(optimizer.init, params), step_shape)  # type: ignore[arg-type]
    return saves.restore(step, _placed(abstract, state_shardings(llama, optimizer, mesh)))


def _placed(abstract: Any, shardings: Any) -> Any:
    """Shapes with their places."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
