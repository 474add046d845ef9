"""What a stage starts from: its own checkpoint, the parameters of another one, or random parameters."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codellama_jax.config.lora import OFF, Lora
from codellama_jax.config.model import Llama
from codellama_jax.config.run import Config
from codellama_jax.config.training import AdamW, Stage
from codellama_jax.errors import UserError
from codellama_jax.runtime import checksums, filesystem
from codellama_jax.runtime.run_dir import final_step, newest_checkpoint
from codellama_jax.tokenizer import JSON, SentencePieceTokenizer, Tokenizer, from_files
from codellama_jax.training import assets, inheritance, lineage
from codellama_jax.training.adapter_record import AdapterRecord
from codellama_jax.training.checkpoints import Restored, StageCheckpoints, read_metadata
from codellama_jax.training.frozen_base import load_frozen, load_model, with_shardings
from codellama_jax.training.optimizer import make_optimizer
from codellama_jax.training.step import (
    VOCABULARY_AXES,
    Params,
    TrainState,
    abstract_params,
    init_params,
    state_shardings,
)


@dataclasses.dataclass(frozen=True)
class ParentCheckpoint:
    """A checkpoint whose parameters another stage starts from.

    Attributes:
        path: its folder, runs/NAME/STAGE/checkpoints/STEP.
        llama: its model.
        sequence_length: length of the windows that it was trained on.
        tokens: number of tokens that its parameters were trained on, including by its own parents, if known; else 0.
        digest: digest of its checksums; None if it has no checksums.
    """

    path: Path
    llama: Llama
    sequence_length: int
    tokens: int
    digest: str | None

    @classmethod
    def read(cls, path: Path, child: Llama) -> "ParentCheckpoint":
        """Reads the metadata of a checkpoint.

        Raises:
            UserError: there is no checkpoint, or its model has another shape than the child's (its vocabulary may be
                smaller).
        """
        metadata = read_metadata(path)
        llama = inheritance.recorded_model(path, metadata)
        inheritance.check_shape(path, metadata["llama"], child)
        tokens = metadata.get("tokens", {}).get("lineage", 0)
        return cls(path, llama, metadata["sequence_length"], tokens, checksums.digest(path))

    def metadata(self) -> dict[str, Any]:
        """What the checkpoints of the child record about this one, as JSON values."""
        return dataclasses.asdict(self) | {"path": str(self.path)}

    def load_params(self, mesh: jax.sharding.Mesh) -> Params:
        """Loads its parameters, sharded over the mesh."""
        return load_model(self.path, self.llama, mesh)


@dataclasses.dataclass
class Start:
    """What a stage starts from.

    Attributes:
        parent: metadata of the checkpoint whose parameters the stage had before its first step; None: random ones.
        step: step of the stage's own checkpoint, if it resumes from one.
        state, loader_state: training state, and state of the data loader, in that checkpoint.
        checkpoint: the checkpoint of another stage, if this stage is at its first step and starts from it.
        params: the parameters of `checkpoint`, unless they are frozen.
        adapter: if the stage trains adapters, the record of the model that they belong to.
        base: the frozen parameters of this model.
        notes: what the user should know about `checkpoint`, one line each.
    """

    parent: dict[str, Any] | None = None
    step: int | None = None
    state: TrainState | None = None
    loader_state: dict[str, Any] | None = None
    checkpoint: ParentCheckpoint | None = None
    params: Params | None = None
    adapter: AdapterRecord | None = None
    base: Params | None = None
    notes: tuple[str, ...] = ()

    def take_state(
        self, llama: Llama, stage: Stage, settings: AdamW, mesh: jax.sharding.Mesh, lora: Lora = OFF
    ) -> TrainState:
        """The training state before the stage's next step.

        Call it once: this object drops its references to the arrays, since device memory may not have room for a second
        copy.
        """
        state, params, self.state, self.params = self.state, self.params, None, None
        return fresh_state(llama, stage, settings, mesh, params, lora) if state is None else state


def load_start(
    config: Config,
    run_dir: Path,
    checkpoints: StageCheckpoints,
    llama: Llama,
    tokenizer: Tokenizer,
    mesh: jax.sharding.Mesh,
) -> Start:
    """Loads what a stage starts from, the first of these that applies:

    1. its own newest complete checkpoint: parameters, optimizer, step, and the state of the data loader
    2. the final checkpoint of its parent in the same run: the parameters only, with rows added to the vocabulary if
       the stage needs more rows
    3. for a stage without parent, Checkpoints.initial: the parameters of another checkpoint, or random ones

    A stage with adapters also loads the model that they belong to, every time: that of 2 or 3.

    Raises:
        UserError: a checkpoint is damaged or has another shape, the parent is not finished, the stage computes
            something else with its parameters (training.inheritance), or the model of its adapters has changed.
    """
    stage, lora = config.stage, config.lora
    if (step := checkpoints.latest()) is not None:
        folder, base = checkpoints.directory / str(step), None
        if (record := AdapterRecord.of(read_metadata(folder))) is not None:
            base = load_frozen(record.find_base(folder), llama, lora, mesh)
        restored = restored_state(checkpoints, step, llama, stage, config.adamw, mesh, lora)
        parent = restored.metadata["parent"]
        return Start(parent, step, restored.state, restored.stream, adapter=record, base=base)
    if (path := start_checkpoint(config, run_dir)) is None:
        return Start()
    checkpoint, notes = ParentCheckpoint.read(path, llama), inheritance.check_model(path, read_metadata(path), config)
    notes += inheritance.check_tokenizer(path, tokenizer, config.checkpoints, stage.name)
    start = Start(checkpoint.metadata(), checkpoint=checkpoint, notes=tuple(notes))
    if lora.rank:
        start.adapter = AdapterRecord.new(lora, path, run_dir)
        start.base = load_frozen(path, checkpoint.llama, lora, mesh)
    else:
        start.params = checkpoint.load_params(mesh)
    return start


class StageModel(NamedTuple):
    """The model of a stage, and what its checkpoints carry for an export.

    Attributes:
        llama: the model, with the rows of its vocabulary.
        lineage: facts about this stage and those before it.
        files: the files of the tokenizer and its like.
    """

    llama: Llama
    lineage: lineage.Lineage
    files: assets.Assets


def stage_model(config: Config, run_dir: Path, tokenizer: Tokenizer, dialogues: bool) -> StageModel:
    """The model of a stage, by its configuration, its tokenizer and the checkpoint that it starts from.

    Args:
        config: the configuration of the stage.
        run_dir: folder of the run.
        tokenizer: the run's tokenizer.
        dialogues: whether the stage's mixture has dialogues.

    Raises:
        UserError: the tokenizer, Llama.vocab_size and the checkpoint do not belong together.
    """
    origin = origin_checkpoint(config, run_dir)
    if origin is None:
        llama = with_vocabulary(config.llama, tokenizer)
        return StageModel(llama, lineage.after(None, config, dialogues), tokenizer.files)
    metadata, files = read_metadata(origin), assets.read(origin)
    differs = bool(inheritance.check_tokenizer(origin, tokenizer, config.checkpoints, config.stage.name))
    files = _carried(files, tokenizer, differs)
    _check_added_tokens(origin, files, tokenizer)
    rows = inheritance.recorded_model(origin, metadata).vocab_size
    llama = with_vocabulary(config.llama, tokenizer, rows, assets.named_rows(files, rows))
    if config.lora.rank and llama.vocab_size > rows:
        raise UserError(
            f"{origin} has {rows} vocabulary rows and {config.stage.name} needs {llama.vocab_size}, but adapters"
            f" (Lora.rank={config.lora.rank}) add none: bind INFILLING=False and FIM_RATE=0.0, or add the rows before:"
            f" python -m codellama_jax.convert import --from={origin} --to=DIR --vocab_size={llama.vocab_size}"
        )
    return StageModel(llama, lineage.after(lineage.Lineage.of(metadata), config, dialogues), files)


def _carried(files: dict[str, bytes], tokenizer: Tokenizer, differs: bool) -> dict[str, bytes]:
    """The files that a stage's checkpoints carry: those of its parent, if they describe the run's tokenizer.

    Args:
        files: those of the parent.
        tokenizer: the run's.
        differs: whether the parent's tokenizer is known to be another one.
    """
    if tokenizer.file_name == assets.MODEL:
        carried = files.get(assets.MODEL, tokenizer.model)
        if differs or SentencePieceTokenizer(carried, infilling=False).model != tokenizer.model:
            return tokenizer.files  # the parent's files describe other ids, or not all pieces
        return {assets.MODEL: tokenizer.model} | files
    if differs or JSON not in files:
        return tokenizer.files
    others = {name: content for name, content in files.items() if name != assets.MODEL}
    same = from_files(others, tokenizer.infilling)
    if from_files(files, infilling=False).file_name == JSON:  # a tokenizer.model that is not read stays as it is
        same.files |= {name: files[name] for name in (assets.MODEL,) if name in files}
    if same.fingerprint == tokenizer.fingerprint:
        return same.files  # the parent's, with the names of new infilling rows
    return same.files | {name: tokenizer.files[name] for name in assets.TOKENIZER_FILES if name in tokenizer.files}


def origin_checkpoint(config: Config, run_dir: Path) -> Path | None:
    """The checkpoint that a stage's parameters come from: its own newest one, its parent's, or Checkpoints.initial.

    None: the stage starts from random parameters.

    Raises:
        UserError: the parent is not finished.
    """
    return newest_checkpoint(run_dir / config.stage.name) or start_checkpoint(config, run_dir)


def _check_added_tokens(origin: Path, files: assets.Assets, tokenizer: Tokenizer) -> None:
    """Raises UserError if added tokens of a checkpoint have the infilling ids of the run's tokenizer."""
    taken = assets.other_infilling_tokens(files, tokenizer.pieces)
    if tokenizer.file_name == assets.MODEL and tokenizer.infilling and taken:
        id, text = min(taken.items())
        raise UserError(
            f"{origin} has the added token {text!r} with id {id}, which Tokenizer.infilling=True uses for infilling:"
            " bind INFILLING=False and FIM_RATE=0.0, or start from a checkpoint without added tokens"
        )


# A vocabulary is padded to a multiple of 64 or 128, at most of 1,024: more rows than that belong to another tokenizer.
_MAX_PADDING = 1_024


def with_vocabulary(llama: Llama, tokenizer: Tokenizer, origin_rows: int = 0, named_rows: int = 0) -> Llama:
    """The model with the rows of its vocabulary, some of which may be padding.

    Args:
        llama: the configuration; its vocab_size may be 0.
        tokenizer: the run's tokenizer.
        origin_rows: rows of the checkpoint that the stage starts from; 0: none.
        named_rows: rows that the tokenizer files of this checkpoint name, such as its added tokens.

    Raises:
        UserError: Llama.vocab_size is set to a number that cannot be right.
    """
    needed = max(tokenizer.rows, named_rows)
    rows = llama.vocab_size or max(needed, origin_rows)
    padding = rows - needed
    further = tokenizer.rows - tokenizer.pieces
    added = f" and {further} for infilling" if tokenizer.file_name == assets.MODEL else f" and {further} control tokens"
    what = f"the tokenizer needs {needed} rows ({tokenizer.pieces} pieces{added if further > 0 else ''})"
    if origin_rows > rows:
        raise UserError(
            f"the checkpoint that the stage starts from has {origin_rows} vocabulary rows, but Llama.vocab_size={rows}:"
            f" rows cannot be removed; bind VOCAB_SIZE={origin_rows}, or Llama.vocab_size={origin_rows}"
        )
    if not 0 <= padding < _MAX_PADDING:
        found = f"Llama.vocab_size={rows}" if llama.vocab_size else f"the checkpoint has {origin_rows}"
        raise UserError(
            f"{what}, but {found}: bind TOKENIZER to the model's own tokenizer, or Llama.vocab_size={needed}"
        )
    if llama.padding_rows not in (0, padding):
        raise UserError(f"{what} of {rows}, but Llama.padding_rows={llama.padding_rows}: remove that binding")
    return dataclasses.replace(llama, vocab_size=rows, padding_rows=padding)


def start_checkpoint(config: Config, run_dir: Path) -> Path | None:
    """The checkpoint of another stage that a stage without checkpoints starts from; None: random parameters.

    Raises:
        UserError: the parent is not finished, or the stage trains adapters of random parameters.
    """
    initial = config.checkpoints.initial
    if config.stage.parent is not None:
        return parent_checkpoint(config.stage, run_dir)
    if initial == "scratch":
        if config.lora.rank:
            raise UserError(
                f"Lora.rank={config.lora.rank} trains adapters of a model, but {config.stage.name} starts from random"
                " parameters: bind INITIAL_CHECKPOINT to a checkpoint, or Lora.rank=0"
            )
        return None
    path = filesystem.to_path(initial)
    return newest_checkpoint(path) or path


def parent_checkpoint(stage: Stage, run_dir: Path) -> Path:
    """The folder of the final checkpoint of a stage's parent.

    Raises:
        UserError: the parent is not finished; the message has the command that runs it.
    """
    assert stage.parent is not None
    step = final_step(run_dir / stage.parent)
    if step is None:
        raise UserError(
            f"{stage.name} starts from {stage.parent}, which is not finished in {run_dir}; run it first:"
            f" python xm_launch.py --gin_file=gin/{stage.parent}.gin --gin_file=gin/models/{stage.size}.gin"
            f" --run_dir={run_dir.parent} --name={run_dir.name}"
        )
    return run_dir / stage.parent / "checkpoints" / str(step)


def fresh_state(
    llama: Llama,
    stage: Stage,
    settings: AdamW,
    mesh: jax.sharding.Mesh,
    params: Params | None,
    lora: Lora = OFF,
) -> TrainState:
    """The state at step 0, sharded over the mesh, with the given parameters, whose buffers are donated, or new ones."""
    optimizer = make_optimizer(settings, stage.steps)
    shardings = state_shardings(llama, optimizer, mesh, lora)

    def initial(params: Params) -> TrainState:
        return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))

    if params is None:
        # initialized under its shardings: no device ever holds all parameters
        return jax.jit(lambda: initial(init_params(llama, stage.seed, lora)), out_shardings=shardings)()
    params = jax.device_put(grow_vocabulary(params, llama.vocab_size), shardings.params)
    return jax.jit(initial, out_shardings=shardings, donate_argnums=0)(params)


def restored_state(
    checkpoints: StageCheckpoints,
    step: int,
    llama: Llama,
    stage: Stage,
    settings: AdamW,
    mesh: jax.sharding.Mesh,
    lora: Lora = OFF,
) -> Restored:
    """Restores a checkpoint of the stage itself, with its state sharded over the mesh."""
    optimizer = make_optimizer(settings, stage.steps)
    params = abstract_params(llama, lora)
    step_shape = jax.ShapeDtypeStruct((), jnp.int32)
    abstract = TrainState(params, jax.eval_shape(optimizer.init, params), step_shape)  # type: ignore[arg-type]
    return checkpoints.restore(step, with_shardings(abstract, state_shardings(llama, optimizer, mesh, lora)))


def grow_vocabulary(params: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """Adds rows to the embedding, and columns to an untied head, up to vocab_size, each the mean of the existing ones.

    The mean is neutral: the logit of a new token is the average logit, its embedding the average embedding (assumption;
    the paper does not specify it).

    Raises:
        UserError: the parameters have more rows than vocab_size.
    """
    old = params["embedding"].shape[0]
    if old > vocab_size:
        raise UserError(
            f"the checkpoint has {old} vocabulary rows, but this stage has {vocab_size}: rows cannot be removed"
        )
    if old == vocab_size:
        return params

    @jax.jit
    def extend(matrices: dict[str, jax.Array]) -> dict[str, jax.Array]:
        new, extended = vocab_size - old, {}
        for name, matrix in matrices.items():
            axis = VOCABULARY_AXES[name]
            shape = [new if i == axis else size for i, size in enumerate(matrix.shape)]
            mean = jnp.broadcast_to(matrix.mean(axis, keepdims=True), shape)
            extended[name] = jnp.concatenate([matrix, mean], axis)
        return extended

    return params | extend({name: params[name] for name in VOCABULARY_AXES if name in params})
