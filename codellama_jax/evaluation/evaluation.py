"""An evaluation in a folder: samples, their fingerprint and the results, whole or as shards.

OUT/results.json            {name of a benchmark: its results}
OUT/samples/NAME.jsonl      the samples of a benchmark
OUT/evaluation.json         {name of a benchmark: what its samples depend on}
OUT/shards/I-of-N/          the same, of a shard
OUT/rescored/               the same, of samples that were judged again
"""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.evaluation import fingerprint, sample_file
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.client import Client, Request
from codellama_jax.evaluation.clients.stored import StoredAnswers
from codellama_jax.evaluation.problem import Problem
from codellama_jax.evaluation.runner import Runner, key_of, requests_of, shuffled
from codellama_jax.evaluation.sample import Sample
from codellama_jax.evaluation.sample_file import SampleFile
from codellama_jax.runtime import filesystem, lock
from codellama_jax.sandbox.pool import Pool

logger = logging.getLogger(__name__)

RESULTS = "results.json"


class Evaluation:
    """Runs benchmarks in a folder, which no other process uses meanwhile.

    Args:
        out: the folder; it is created.
        pool: for the benchmarks that need a sandbox.
        shard: (I, N): only every N-th task is done, from the I-th of them, 1 to N; None: all.
        interrupted: whether to stop.

    Raises:
        UserError: another process uses the folder.
    """

    def __init__(
        self,
        out: Path,
        pool: Pool | None,
        shard: tuple[int, int] | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ):
        self._shard, self._pool, self._interrupted = shard, pool, interrupted
        self._folder = out / "shards" / f"{shard[0]}-of-{shard[1]}" if shard else out
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{error.filename} is not a folder: choose another --out", EXIT_USAGE) from None
        try:
            self._lock = lock.acquire(self._folder)
        except UserError as error:
            raise UserError(str(error).partition(":")[0] + ": wait for it, or choose another --out") from None
        except OSError as error:
            raise UserError(
                f"{self._folder} cannot be written ({error.strerror}): make room there, or choose another --out"
            ) from None

    def close(self) -> None:
        self._lock.release()

    def run(self, benchmark: Benchmark[Any], problems: Sequence[Problem], client: Client, limit: int = 0) -> bool:
        """Runs a benchmark, or the rest of it, and writes its results. Returns whether it is complete.

        Args:
            problems: from Benchmark.problems.
            limit: number of tasks, the first ones; 0: all.

        Raises:
            UserError: the folder has samples of another evaluation; or see Runner.run.
        """
        current = fingerprint.fingerprint(benchmark, problems, client.identity)
        file = self._samples_of(benchmark, problems, current)
        try:
            wanted = self._wanted(benchmark, problems, limit)
            complete = Runner(benchmark, client, self._pool, file, self._interrupted).run(wanted)
            samples = [file.samples[key_of(request)] for request in wanted] if complete else []
        finally:
            file.close()
        if complete:
            write_results(self._folder, benchmark, problems, samples, current)
        return complete

    def rescore(self, benchmark: Benchmark[Any], problems: Sequence[Problem], limit: int = 0) -> bool:
        """Judges the samples in the folder again, into its folder "rescored". Returns whether all are.

        Raises:
            UserError: there are no samples, a line is damaged, or the prompts are others.
        """
        path = self._folder / "samples" / f"{benchmark.name}.jsonl"
        if not filesystem.exists(path):
            raise UserError(f"{path} does not exist: there is nothing to rescore")
        content = sample_file.read(path, _foreign(benchmark, problems))
        if content.damaged:
            first = content.damaged[0]
            raise UserError(
                f"{path}:{first.number} is damaged ({first.reason}): evaluate without --rescore sets such lines aside"
                " and does their samples again; or move the line to another file"
            )
        if not content.samples:
            raise UserError(f"{path} has no samples: there is nothing to rescore")
        before = fingerprint.stored(self._folder).get(benchmark.name, {})
        identity = {key: value for key, value in before.items() if key not in ("problems", "settings")}
        client = StoredAnswers(content.samples, identity, str(path))
        folder = self._folder / "rescored"
        rescored = folder / path.relative_to(self._folder)
        filesystem.write_atomically(rescored, b"") if filesystem.exists(rescored) else None
        file = SampleFile(rescored, _foreign(benchmark, problems))
        wanted = [
            request
            for request in self._wanted(benchmark, problems, limit, samples=max(key[2] for key in content.samples) + 1)
            if key_of(request) in content.samples
        ]
        try:
            complete = Runner(benchmark, client, self._pool, file, self._interrupted).run(wanted)
            samples = [file.samples[key_of(request)] for request in wanted] if complete else []
        finally:
            file.close()
        if complete:
            current = fingerprint.fingerprint(benchmark, problems, identity)
            write_results(folder, benchmark, problems, samples, current)
        return complete

    def results_path(self, rescored: bool = False) -> Path:
        """The file of results."""
        return (self._folder / "rescored" if rescored else self._folder) / RESULTS

    def results(self, rescored: bool = False) -> dict[str, Any]:
        """Name of a benchmark -> its results."""
        found: dict[str, Any] = json.loads(filesystem.read_text(self.results_path(rescored)))
        return found

    def _wanted(
        self, benchmark: Benchmark[Any], problems: Sequence[Problem], limit: int, samples: int = 0
    ) -> list[Request]:
        """The requests for all samples of this folder."""
        tasks = list(dict.fromkeys(problem.task_id for problem in problems))
        chosen = set(tasks[:limit] if limit else tasks)
        kept = shuffled([problem for problem in problems if problem.task_id in chosen])
        if self._shard:
            index, count = self._shard
            kept = kept[index - 1 :: count]
        return list(requests_of(benchmark, kept, samples))

    def _samples_of(
        self, benchmark: Benchmark[Any], problems: Sequence[Problem], current: dict[str, Any]
    ) -> SampleFile:
        """The file of samples, with those of shards."""
        name = benchmark.name
        path = self._folder / "samples" / f"{name}.jsonl"
        size = len(filesystem.read_bytes(path)) if filesystem.exists(path) else 0
        fingerprint.check_same(self._folder, name, current, size)
        if fingerprint.stored(self._folder).get(name) != current:
            fingerprint.store(self._folder, name, current)
        path.parent.mkdir(exist_ok=True)
        file = SampleFile(path, _foreign(benchmark, problems))
        for shard in sorted((self._folder / "shards").glob("*-of-*")):
            source = shard / "samples" / f"{name}.jsonl"
            if not source.is_file():
                continue
            lock.check_not_in_use(shard)
            fingerprint.check_same(shard, name, current, source.stat().st_size)
            content = sample_file.read(source, _foreign(benchmark, problems))
            new = [sample for key, sample in content.samples.items() if key not in file.samples]
            file.append(new)
            if new:
                logger.info("%s: %s samples of shard %s", name, f"{len(new):,}", shard.name)
            sample_file.warn(source, content.damaged, "left out")
        return file


def write_results(
    folder: Path,
    benchmark: Benchmark[Any],
    problems: Sequence[Problem],
    samples: Sequence[Any],
    current: dict[str, Any],
) -> None:
    """Adds the results of a benchmark to the file of results. The samples are summed up in the order of the tasks."""
    order = {(problem.task_id, problem.variant): number for number, problem in enumerate(problems)}
    ordered = sorted(samples, key=lambda sample: (order[sample.task_id, sample.variant], sample.sample))
    refusals = [sample for sample in ordered if sample.finish_reason == "refused"]
    entry = benchmark.summary(ordered) | ({"refused": len(refusals)} if refusals else {}) | current
    if refusals:
        counts = f"{len(refusals):,} of {len(samples):,} samples"
        judged = refusals[0].passed is not None or refusals[0].scores
        counted = "count as wrong" if judged else "are not counted"
        reason = refusals[0].reason
        logger.warning("warning: %s: %s have no answer and %s: %s", benchmark.name, counts, counted, reason)
    path = folder / RESULTS
    try:
        before = json.loads(filesystem.read_text(path)) if filesystem.exists(path) else {}
        if not isinstance(before, dict):
            raise ValueError("it is not an object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it, and the same command writes it again") from None
    filesystem.write_atomically(path, json.dumps(before | {benchmark.name: entry}, indent=1) + "\n", durable=True)


def _foreign(benchmark: Benchmark[Any], problems: Sequence[Problem]) -> Callable[[Sample], str]:
    """What shows that a sample is of another benchmark, or of no problem; "" if nothing does."""
    keys = {(problem.task_id, problem.variant) for problem in problems}

    def reason(sample: Sample) -> str:
        if (sample.task_id, sample.variant) not in keys:
            return f"there is no task {sample.task_id!r}" + (f" ({sample.variant})" if sample.variant else "")
        seed = benchmark.seed(sample.task_id, sample.sample)
        return "" if sample.seed == seed else f"its seed is {sample.seed}, and that of this sample {seed}"

    return reason
