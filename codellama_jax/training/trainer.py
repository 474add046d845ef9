"""The training loop of a stage.

`Trainer.run` and `Trainer._run_steps` show what happens in a run, in the order in which it happens: a step is
dispatched, the metrics of the step before are fetched and logged, and after some steps the loop waits, validates, saves
or stops. These two methods call the others.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from codellama_jax.config.model import Llama
from codellama_jax.config.run import Config, operative_text
from codellama_jax.errors import UserError
from codellama_jax.model import lora as adapters
from codellama_jax.runtime import cli
from codellama_jax.runtime.lock import Lock
from codellama_jax.runtime.signals import StopSignals
from codellama_jax.sharding import put_batch, put_flag
from codellama_jax.training.assets import Assets
from codellama_jax.training.bits_per_byte import BitsPerByte
from codellama_jax.training.checkpoints import StageCheckpoints, load_params
from codellama_jax.training.context_length import ContextLengthEvaluation
from codellama_jax.training.data_interface import HostBatch, Loader, TrainingData
from codellama_jax.training.early_stopping import EarlyStopping
from codellama_jax.training.infilling_samples import infilling_samples, punch_holes
from codellama_jax.training.initialization import load_start, restored_state
from codellama_jax.training.lineage import Lineage
from codellama_jax.training.loss_spikes import LossSpike, LossSpikeMonitor
from codellama_jax.training.metrics.stage_log import StageLog
from codellama_jax.training.optimizer import make_optimizer
from codellama_jax.training.profiler import Profiler
from codellama_jax.training.step import Batch, Params, make_train_step, state_shardings
from codellama_jax.training.validation import Evaluator
from codellama_jax.training.watchdog import Watchdog

if TYPE_CHECKING:
    from codellama_jax.evaluation.gold import GoldText
    from codellama_jax.training.infilling_comparison import InfillingComparison


class DispatchedStep(NamedTuple):
    """A step that the device may still be computing: its metrics have not been fetched."""

    step: int
    batch: HostBatch
    metrics: dict[str, jax.Array]


class Trainer:
    """Trains a stage, from its initialization or its last checkpoint, to its last step.

    Args:
        config: configuration of the run.
        run_dir: folder of the run, which contains the folder of the stage.
        llama: the model, with the vocabulary of the run's tokenizer.
        mesh: mesh of all devices, which must also be set by jax.set_mesh.
        data: data of the stage.
        prefetch: iterates over the batches of a loader, which a thread prepares; closing the iterator ends the thread.
        stop: the stop signals that this process and the other hosts have received.
        watchdog: is reset after every step, validation and save.
        lock: lock of the stage's folder, on the host that writes; None on the other hosts.
        logger: logger of messages to the user.
        gold: the gold texts whose bits per byte every evaluation measures.
        infilling: measures held-out infilling, at every evaluation and before the first step; None: it is not measured.

    Attributes:
        state: parameters, optimizer and step; each step donates the buffers of the state before it.
        adapter, base: if the stage trains adapters, the record of the model that they belong to and its frozen
            parameters; else None.
        start_step: number of steps done before the loop starts: 0, or the step of the checkpoint that it starts from.
        dispatched: the step whose metrics are fetched next; None if there is none.
        clock: time.monotonic() when the dispatched step started, as seen by the host.
        loader: the batches; a rollback replaces it.
        resumed_step: the step that this process resumes from; None if the stage is at its first step.
        lineage, files: what the checkpoints carry for an export; None: nothing.
        parent: metadata of the checkpoint whose parameters the stage started from; None: random parameters.
    """

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        llama: Llama,
        mesh: jax.sharding.Mesh,
        data: TrainingData,
        prefetch: Callable[[Any], Generator[HostBatch]],
        *,
        stop: StopSignals,
        watchdog: Watchdog,
        lock: Lock | None,
        logger: logging.LoggerAdapter[Any],
        gold: Sequence["GoldText"] = (),
        infilling: "InfillingComparison | None" = None,
        lineage: Lineage | None = None,
        files: Assets | None = None,
    ):
        stage, masked = config.stage, config.packing.mask_documents
        stage_dir, host = run_dir / stage.name, jax.process_index()
        self.config, self.llama, self.mesh, self.data, self.prefetch = config, llama, mesh, data, prefetch
        self.stop, self.watchdog, self.lock, self.logger = stop, watchdog, lock, logger
        self.lineage, self.files, self.infilling = lineage, files, infilling

        # What the stage starts from.
        self.checkpoints = StageCheckpoints(stage_dir, config.checkpoints)
        start = load_start(config, run_dir, self.checkpoints, llama, data.tokenizer, mesh)
        self.resumed_step, self.start_step, self.parent = start.step, start.step or 0, start.parent
        if start.step is not None:
            logger.info(f"resuming from step {start.step}")
        self.context_length = ContextLengthEvaluation(stage, self.parent, config.evaluation.context_factor, data)
        self.parent_curve: dict[str, Any] | None = None
        self.adapter, self.base = start.adapter, start.base
        before = start.params if start.base is None else adapters.combine(start.base, {"blocks": {}}, config.lora)
        if start.checkpoint and before and self.context_length.has_parent_curve:
            # with the parent's RoPE frequencies: the curve is the baseline for the new ones
            logger.info("measuring perplexity against context length before the stage")
            evaluator = Evaluator(start.checkpoint.llama, mesh, masked, data.stream_names)
            self.parent_curve = self.context_length.record("before", 0, stage.parent or "", evaluator, before)
        del before  # its buffers are donated
        self.state = start.take_state(llama, stage, config.adamw, mesh, config.lora)
        if start.checkpoint:
            logger.info(f"starts from the parameters of {start.checkpoint.path}")
        for note in start.notes:
            logger.info(note)

        # The data.
        saved = start.loader_state
        self.loader: Loader = data.stream("train", data.stream_state(saved) if saved else None)
        self.fingerprint = self.loader.fingerprint()
        if saved and saved["fingerprint"] != self.fingerprint:
            raise UserError(
                f"{stage_dir}: the data differs from that of the checkpoint, so the run cannot resume: the files of the"
                " corpus, Corpus.splits ('named' or 'hash'), the interpreter, its packages or the version of this"
                " program (see CHANGELOG.md) have changed; restore what has changed, or use another --name"
            )

        # Records, validation and monitoring.
        self.log = StageLog(stage_dir, stage, data.stream_names, self.resumed_step, writes=host == 0)
        self.evaluator = Evaluator(llama, mesh, masked, data.stream_names)
        self.validation_batches = [put_batch(mesh, arrays) for arrays in data.validation_batches()]
        self.bits_per_byte = BitsPerByte(llama, mesh, stage, gold) if gold else None
        self.spikes = LossSpikeMonitor(config.loss_spikes, stage_dir, host, self.log, self.checkpoints, self.start_step)
        traced = config.monitoring.profile_first, config.monitoring.profile_last
        self.profiler = Profiler(*traced, trigger=stage_dir / "profile", log_dir=stage_dir / "tensorboard")

        # The step.
        self.dispatched: DispatchedStep | None = None
        self.clock = time.monotonic()
        self.train_step = jax.jit(
            make_train_step(llama, stage, config.adamw, masked, len(data.stream_names), mesh, config.lora),
            donate_argnums=0,
            out_shardings=(state_shardings(llama, make_optimizer(config.adamw, stage.steps), mesh, config.lora), None),
        )

    @property
    def params(self) -> Params:
        """The parameters of the model, also of one whose adapters alone are in the state."""
        params = self.state.params
        return params if self.base is None else adapters.combine(self.base, params, self.config.lora)

    def run(self) -> int:
        """Trains until the last step or a stop signal. Returns the number of steps done, whose state is saved."""
        if self.resumed_step is None:
            if self.parent_curve:
                self.log.record_evaluation(self.parent_curve)
            self.logger.info(f"validation loss {self._validate(0):.3f} before the first step")
            self._measure_benchmarks(0)
            if self.infilling:
                self._measure_infilling(0)
                self.infilling.measure("before", self.params, self.start_model)
        self.log.overhead["startup"] = time.time() - cli.PROCESS_STARTED
        try:
            while spike := self._run_steps():
                self._roll_back(spike)
            self.checkpoints.close()
        finally:
            self.log.end_progress()
            self.profiler.close()
        return int(self.state.step)

    @property
    def start_model(self) -> str:
        """Identifies the parameters before the first step."""
        return str((self.parent or {}).get("digest") or (self.parent or {}).get("path"))

    @property
    def early_stopping(self) -> EarlyStopping:
        """The evaluations so far, and whether they end the stage."""
        kind = "infilling" if self.infilling else "validation"
        return EarlyStopping.of(self.config.evaluation.patience, kind, self.log.evaluations)

    @property
    def finished(self) -> bool:
        """Whether the stage has reached its last step, or early stopping has ended it."""
        return int(self.state.step) == self.config.stage.steps or self.early_stopping.stops

    def _run_steps(self) -> LossSpike | None:
        """Runs the steps after start_step until the last one, a stop signal, or a loss spike, which is returned."""
        last_step = self.start_step if self.early_stopping.stops else self.config.stage.steps
        validate_every, save_every = self.config.evaluation.every, self.config.checkpoints.every
        batches = self.prefetch(self.loader)
        self.dispatched, self.clock = None, time.monotonic()
        try:
            for step in range(self.start_step + 1, last_step + 1):
                batch = next(batches)
                inputs = (self._to_devices(batch),) if self.base is None else (self._to_devices(batch), self.base)
                self.state, metrics = self.train_step(self.state, *inputs)  # returns before it is done
                self._log_dispatched()  # the step before: while the device computes this one
                self.dispatched = DispatchedStep(step, batch, metrics)

                last = step == last_step
                validates, saves = last or step % validate_every == 0, last or step % save_every == 0
                if validates or saves or self.stop.requested:
                    self._log_dispatched()  # this step too: waits for the device
                    stopping = self.stop.requested  # read once: a signal after this line must not stop without a save
                    loss = self._evaluate(step) if validates else None
                    found = self.early_stopping if validates else EarlyStopping(0)
                    if saves or stopping or found.stops or (found.patience and found.best_step == step):
                        self._save(step, batch, loss)
                    if stopping or found.stops:
                        break
                    self.clock = time.monotonic()  # validating and saving do not count as time of the next step
        except LossSpike as spike:
            return spike.with_traceback(None)  # its frames hold device arrays, and memory may not have room for more
        finally:
            batches.close()
        return None

    def _to_devices(self, batch: HostBatch) -> Batch:
        """The batch as global arrays; with several hosts, also the flag by which they agree on stopping."""
        arrays = put_batch(self.mesh, batch.arrays)
        if jax.process_count() > 1:
            arrays["stop"] = put_flag(self.mesh, self.stop.received)
        return arrays

    def _log_dispatched(self) -> None:
        """Waits for the dispatched step, if there is one, and logs its metrics.

        Raises:
            LossSpike: the stage must be rolled back.
            UserError: the run cannot continue.
        """
        if self.dispatched is None:
            return
        step, batch, metrics = self.dispatched
        metrics = jax.device_get(metrics)  # waits for the step
        now = time.monotonic()
        seconds, self.clock, self.dispatched = now - self.clock, now, None
        if self.lock:
            self.lock.check()
        self.checkpoints.check()  # a save that failed in the background ends the run now, not at the next save
        self.stop.update(bool(metrics.get("stop", False)))
        self.log.record_step(step, metrics, seconds, self.loader.metrics(batch))
        self.watchdog.reset()
        if message := self.profiler.step_done(step):
            self.logger.info(message)
        self.spikes.check(step, batch, metrics)

    def _validate(self, step: int) -> float:
        """Runs and records a validation after a step; returns its loss."""
        result = self.evaluator.validation(self.params, self.validation_batches)
        self.log.record_evaluation({"kind": "validation", "step": step, **result})
        return result["loss"]

    def _measure_benchmarks(self, step: int) -> None:
        """Measures and records the bits per byte of the benchmarks after a step, if there are any."""
        if self.bits_per_byte:
            measured = self.bits_per_byte.measure(self.params)
            self.log.record_evaluation({"kind": "benchmarks", "step": step, **measured})

    def _measure_infilling(self, step: int) -> float:
        """Measures and records the bits per byte of held-out infilling after a step; returns them."""
        assert self.infilling is not None
        measured = self.infilling.evaluation(self.params, step)
        self.log.record_evaluation(measured)
        return measured["loss"]

    def _evaluate(self, step: int) -> float:
        """The evaluation between two steps; returns the loss by which the best checkpoint is chosen."""
        with self.log.overhead_of("validation"):
            loss = self._validate(step)
        self.watchdog.reset()
        if self.bits_per_byte:
            with self.log.overhead_of("benchmarks"):
                self._measure_benchmarks(step)
            self.watchdog.reset()
        if self.infilling:
            with self.log.overhead_of("infilling"):
                infilling_loss = self._measure_infilling(step)
            self.watchdog.reset()
            loss = infilling_loss if self.config.evaluation.patience else loss
        return loss

    def _save(self, step: int, batch: HostBatch, validation_loss: float | None) -> None:
        """Starts to save the state after a step; the files are written in the background."""
        self.log.sync()  # every step in a checkpoint must be in metrics.jsonl
        tokens = self.log.tokens
        metadata = {
            "step": step,
            "stage": self.config.stage.name,
            "sequence_length": self.config.stage.sequence_length,
            "llama": dataclasses.asdict(self.llama),
            "config": operative_text(self.config),
            "code": cli.code_version(),
            "parent": self.parent,
            **({"adapter": self.adapter.json()} if self.adapter else {}),
            "lineage": self.lineage.json() if self.lineage else None,
            "tokens": tokens | {"lineage": sum(tokens.values()) + (self.parent["tokens"] if self.parent else 0)},
        }
        with self.log.overhead_of("save"):
            loader_state = self.data.saved(batch.state, self.fingerprint)
            self.checkpoints.save(step, self.state, loader_state, metadata, validation_loss, self.files)
        self.watchdog.reset()

    def _roll_back(self, spike: LossSpike) -> None:
        """Returns to the last checkpoint; the next batch is the one after the spike."""
        step = self.checkpoints.last_saved() or 0
        self.logger.info(f"{spike}; rolling back to step {step}, and skipping the batches up to that spike")
        del self.state  # device memory may not have room for two states
        self.state = restored_state(
            self.checkpoints, step, self.llama, self.config.stage, self.config.adamw, self.mesh, self.config.lora
        ).state
        self.start_step = step
        self.loader = self.data.stream("train", spike.batch.state)
        self.log.roll_back(step, spike.step, spike.loss)

    def take_best(self) -> int:
        """Replaces the parameters by those of the step that the stage ends with, which is returned: with early stopping
        that of the lowest loss, otherwise the last one. The optimizer's state is released.

        Raises:
            UserError: that checkpoint is damaged.
        """
        step, best = int(self.state.step), self.early_stopping
        if not best.patience or best.best_step in (None, step):
            return step
        assert best.best_step is not None
        self.logger.info(f"step {best.best_step} has the lowest loss, {best.best_loss:.4f}: the stage ends with it")
        shardings = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), self.state)
        self.state = self.state._replace(params={}, opt_state=())
        params = load_params(self.checkpoints.directory / str(best.best_step), shardings.params)
        self.state = self.state._replace(params=params)
        return best.best_step

    def evaluate_context_length(self) -> None:
        """Records the perplexity against context length after the stage, unless an earlier process has recorded it."""
        if len(self.context_length.windows) and not any(line.get("when") == "after" for line in self.log.evaluations):
            self.logger.info("measuring perplexity against context length after the stage")
            stage = self.config.stage
            self.log.record_evaluation(
                self.context_length.record("after", stage.steps, stage.name, self.evaluator, self.params)
            )

    def infilling_samples(self) -> list[dict[str, Any]]:
        """Evaluation.samples infilling samples: holes in validation documents, filled by the model."""
        settings = self.config.evaluation
        if not settings.samples:
            return []
        self.logger.info(f"generating {settings.samples} infilling samples")
        characters = min(600, self.config.stage.sequence_length)
        holes = punch_holes(self.data.excerpts(20), settings.samples, characters, self.config.fim.cut)
        tokens = settings.sample_tokens
        return infilling_samples(self.llama, self.mesh, self.params, self.data.tokenizer, holes, tokens)
