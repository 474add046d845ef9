"""Benchmarks at the end of a stage: the trained model answers them, and host 0 runs its programs in the sandbox.

The samples and results are those of the evaluate command on the stage's folder with --out=STAGE/evaluation, which can
add samples to them or judge them again. A stage that was killed meanwhile resumes with the samples that are done.
"""

import contextlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from codellama_jax.config.generation import DRAFT_TOKENS, Serving
from codellama_jax.errors import UserError
from codellama_jax.evaluation import gold, sample_file
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.client import Request
from codellama_jax.evaluation.clients.local import LocalModel
from codellama_jax.evaluation.evaluation import Evaluation
from codellama_jax.evaluation.runner import key_of, requests_of, shuffled
from codellama_jax.evaluation.sample import Answer
from codellama_jax.generation.engine import Engine
from codellama_jax.report.evaluation import write_evaluation_report
from codellama_jax.runtime import distributed, filesystem
from codellama_jax.sandbox.pool import Pool
from codellama_jax.training.infilling_samples import generation_weights
from codellama_jax.training.trainer import Trainer

FOLDER = "evaluation"
SLOTS = 16  # answers that are generated at a time
# Tokens of the cache, or the context if that is more: every device has all of it, unless the mesh has a tensor axis.
CACHE_TOKENS = 8_192


class StageModel(LocalModel):
    """The trained model. All processes of its mesh must ask it the same.

    Args:
        trainer: the trainer, after its last step.
        name: of the model.
    """

    def __init__(self, trainer: Trainer, name: str):
        llama, mesh, tokenizer, stage = trainer.llama, trainer.mesh, trainer.data.tokenizer, trainer.config.stage
        weights = generation_weights(llama, mesh, trainer.params)
        context = trainer.lineage.positions if trainer.lineage else stage.sequence_length  # as evaluate
        sizes = Serving(slots=SLOTS, context=context, cache_tokens=CACHE_TOKENS, draft_tokens=DRAFT_TOKENS)
        engine = Engine(weights, llama, sizes, tokenizer.rows, mesh)
        super().__init__(engine, tokenizer, name, weights, lambda: trainer.config.chat.format)
        self._on_answer = trainer.watchdog.reset

    def answers(self, requests: Iterator[Request], stop: threading.Event) -> Iterator[tuple[Request, Answer]]:
        for answered in super().answers(requests, stop):
            self._on_answer()
            yield answered


def evaluate_stage(trainer: Trainer, stage_dir: Path) -> dict[str, str]:
    """Measures Evaluation.final_benchmarks. Every process of the mesh must call it; host 0 writes.

    Args:
        trainer: the trainer, after its last step.
        stage_dir: the stage's folder; samples and results are in its folder `evaluation`.

    Returns:
        Name of a benchmark -> why it was not measured, on host 0: the sandbox cannot be started.

    Raises:
        UserError: the folder has samples of another evaluation, or is in use, or the disk is full.
    """
    config = trainer.config
    names = config.evaluation.measured_at_the_end
    benchmarks = [gold.configured(config, name, trainer.data.tokenizer) for name in names]
    skipped: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        pool, reason = None, ""
        if jax.process_index() == 0 and any(benchmark.needs_sandbox for benchmark in benchmarks):
            try:
                pool = stack.enter_context(Pool())
            except UserError as error:
                reason = str(error).partition(";")[0]
        if distributed.from_host_0(np.asarray(bool(reason))):
            skipped = {benchmark.name: reason for benchmark in benchmarks if benchmark.needs_sandbox}
            benchmarks = [benchmark for benchmark in benchmarks if not benchmark.needs_sandbox]
            trainer.logger.info(
                f"{', '.join(skipped)}: not measured ({reason}); on a machine with a sandbox, python -m"
                f" codellama_jax.evaluate --checkpoint={stage_dir} --out={stage_dir / FOLDER} ... measures it"
            )
        if benchmarks:
            model = StageModel(trainer, f"{stage_dir.parent.name}-{stage_dir.name}")
            _measure(trainer, benchmarks, model, stage_dir / FOLDER, pool)
    return skipped


def _measure(
    trainer: Trainer, benchmarks: Sequence[Benchmark[Any]], model: StageModel, out: Path, pool: Pool | None
) -> None:
    """Runs the benchmarks on host 0; the other hosts take the same steps of the engine."""
    with contextlib.ExitStack() as stack:
        evaluation = None
        if jax.process_index() == 0:
            out = stack.enter_context(filesystem.staged_locally(out))  # a run in a bucket does not resume it
            evaluation = Evaluation(out, pool)
            stack.callback(evaluation.close)
        for benchmark in benchmarks:
            problems = benchmark.problems(filesystem.to_path(trainer.config.evaluation.benchmark_data or ""))
            requests = list(requests_of(benchmark, shuffled(problems)))
            done = sample_file.read(out / "samples" / f"{benchmark.name}.jsonl").samples if evaluation else {}
            missing = distributed.from_host_0(np.asarray([key_of(request) not in done for request in requests]))
            trainer.logger.info(f"measuring {benchmark.name}: {missing.sum():,} of {len(missing):,} samples")
            if evaluation:
                evaluation.run(benchmark, problems, model)
            else:
                for _ in model.answers(itertools.compress(requests, missing), threading.Event()):
                    pass
        if evaluation:
            trainer.logger.info(f"report of the benchmarks: {write_evaluation_report(out)}")
