"""Runs a benchmark: generation and execution at once, and every sample is stored as it is judged.

The client generates in a thread of its own. The main thread gives completions to the sandbox, judges their outcomes and
appends the samples to the file, so that only one thread writes.
"""

import contextlib
import dataclasses
import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from codellama_jax.errors import UserError
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.client import Client, Request
from codellama_jax.evaluation.problem import Infilling, Problem
from codellama_jax.evaluation.progress import Progress
from codellama_jax.evaluation.sample import Answer, Judgement, Sample, shown_input
from codellama_jax.evaluation.sample_file import SampleFile
from codellama_jax.sandbox.jobs import Job, Outcome
from codellama_jax.sandbox.pool import Pool

MOST_PENDING = 2048  # samples that are generated or executed at a time; more would only fill the memory
MOST_SECONDS_UNSTORED = 0.2  # after this, samples are stored although further events wait
STDERR_CHARACTERS = 2000  # of a program's standard error that are kept


def shuffled(problems: Sequence[Problem]) -> list[Problem]:
    """The problems in an order that is a function of their names: the first ones are a fair sample of all.

    So pass@1 of the samples that are done estimates that of all. The samples of a task stay together, because they
    share the cache of the prompt.
    """

    def place(problem: Problem) -> bytes:
        return hashlib.sha256(f"{problem.task_id}\0{problem.variant}".encode()).digest()

    return sorted(problems, key=place)


def requests_of(benchmark: Benchmark[Any], problems: Iterable[Problem], samples: int = 0) -> Iterator[Request]:
    """The requests for the samples of problems, as many for each as the settings or `samples` say."""
    for problem in problems:
        sampling = benchmark.sampling(problem)
        for sample in range(samples or benchmark.settings.samples):
            seed = benchmark.seed(problem.task_id, sample)
            yield Request(problem, sample, dataclasses.replace(sampling, seed=seed))


def key_of(request: Request) -> tuple[str, str, int]:
    """The key of the sample that a request is for."""
    return request.problem.task_id, request.problem.variant, request.sample


class Runner:
    """Answers and judges the samples of one benchmark that a file lacks.

    Args:
        benchmark: the benchmark.
        client: answers the requests.
        pool: runs the jobs; None: the benchmark has none.
        file: has the samples, and gets the new ones.
        interrupted: whether to stop; asked several times a second.
    """

    def __init__(
        self,
        benchmark: Benchmark[Any],
        client: Client,
        pool: Pool | None,
        file: SampleFile,
        interrupted: Callable[[], bool] = lambda: False,
    ):
        self._benchmark, self._client, self._pool, self._file = benchmark, client, pool, file
        self._interrupted = interrupted
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._room = threading.Semaphore(MOST_PENDING)
        self._stop = threading.Event()
        self._ready = list[Sample]()
        self._generating = True
        self._executing = 0
        self._error: BaseException | None = None

    def run(self, wanted: Sequence[Request]) -> bool:
        """Does the samples that are missing; returns whether all are done, which they are unless it was interrupted.

        Args:
            wanted: the requests for all samples of the evaluation (requests_of).

        Raises:
            UserError: the client or the sandbox failed, or the disk is full. What was judged is stored.
        """
        missing = [request for request in wanted if key_of(request) not in self._file.samples]
        self._check_orders(wanted)
        progress = Progress(self._benchmark.name, len(wanted))
        for request in wanted:
            if key_of(request) in self._file.samples:
                progress.add(self._file.samples[key_of(request)])
        progress.start()
        thread = threading.Thread(target=self._generate, args=(missing,), name="generation", daemon=True)
        thread.start()
        try:
            self._judge_all(progress)
        finally:
            self._stop.set()
            self._room.release(MOST_PENDING)  # the thread may wait for room
            thread.join()
            progress.close()
            self._file.sync()
        if self._error is not None:
            raise self._error
        return all(key_of(request) in self._file.samples for request in missing)

    def _check_orders(self, wanted: Sequence[Request]) -> None:
        inputs = (request.problem.input for request in wanted)
        orders = {asked.order for asked in inputs if isinstance(asked, Infilling)}
        if len(orders) > 1 and self._client.chooses_order:
            setting = f"{type(self._benchmark.settings).__name__}.orders"
            raise UserError(
                f"{self._benchmark.name} asks for infilling in the orders {' and '.join(sorted(orders))}, but an"
                " endpoint of another server chooses the order itself: bind the one that it uses, such as"
                f" --gin.{setting}=\"('psm',)\""
            )

    # --- the client's thread

    def _generate(self, missing: Sequence[Request]) -> None:
        try:
            for request, answer in self._client.answers(self._pulled(missing), self._stop):
                self._events.put(lambda request=request, answer=answer: self._answered(request, answer))  # type: ignore[misc]
        except BaseException as error:
            self._events.put(lambda error=error: self._failed(error))  # type: ignore[misc]
        finally:
            self._events.put(self._generated)

    def _pulled(self, missing: Sequence[Request]) -> Iterator[Request]:
        """The requests, as long as not too many are pending."""
        for request in missing:
            self._room.acquire()
            if self._stop.is_set():
                return
            yield request

    # --- the main thread

    def _judge_all(self, progress: Progress) -> None:
        """Takes events until generation and execution have ended, or one of them failed."""
        while self._generating or self._executing:
            try:
                with contextlib.suppress(queue.Empty):
                    self._events.get(timeout=0.2)()
                    # Judging takes time, and new answers arrive meanwhile: what is judged does not wait for them.
                    until = time.monotonic() + MOST_SECONDS_UNSTORED
                    while time.monotonic() < until:
                        self._events.get_nowait()()
            finally:
                self._store(progress)
            if self._error is not None or self._interrupted():
                return

    def _store(self, progress: Progress) -> None:
        self._file.append(self._ready)
        for sample in self._ready:
            progress.add(sample)
        self._ready.clear()

    def _answered(self, request: Request, answer: Answer) -> None:
        benchmark, problem = self._benchmark, request.problem
        if answer.refusal:
            self._judged(request, answer, "", benchmark.refused(problem, answer.refusal), None)
            return
        completion = benchmark.completion(problem, answer.text)
        job = benchmark.job(problem, completion)
        if job is None:
            self._judged(request, answer, completion, benchmark.judged(problem, completion, None, answer), None)
        else:
            self._execute(request, answer, completion, job)

    def _execute(self, request: Request, answer: Answer, completion: str, job: Job) -> None:
        assert self._pool is not None, "Benchmark.needs_sandbox is False"
        self._executing += 1

        def ended(future: Future[Outcome]) -> None:
            if future.cancelled():  # the run is over
                return
            outcome = future.exception() or future.result()
            self._events.put(lambda: self._executed(request, answer, completion, outcome))

        self._pool.submit(job).add_done_callback(ended)

    def _executed(self, request: Request, answer: Answer, completion: str, outcome: Outcome | BaseException) -> None:
        self._executing -= 1
        if isinstance(outcome, BaseException):
            self._failed(outcome)
        else:
            judgement = self._benchmark.judged(request.problem, completion, outcome, answer)
            self._judged(request, answer, completion, judgement, outcome)

    def _judged(
        self, request: Request, answer: Answer, completion: str, judgement: Judgement, outcome: Outcome | None
    ) -> None:
        self._ready.append(sample_of(request, answer, completion, judgement, outcome))
        self._room.release()

    def _generated(self) -> None:
        self._generating = False

    def _failed(self, error: BaseException) -> None:
        self._error = self._error or error


def sample_of(
    request: Request, answer: Answer, completion: str, judgement: Judgement, outcome: Outcome | None
) -> Sample:
    """The record of a judged answer."""
    prompt, further = shown_input(request.problem)
    return Sample(
        task_id=request.problem.task_id,
        variant=request.problem.variant,
        sample=request.sample,
        seed=request.sampling.seed,
        prompt=prompt,
        input=further,
        raw=answer.text,
        completion=completion,
        passed=judgement.passed,
        scores=judgement.scores,
        reason=judgement.reason,
        finish_reason=answer.finish_reason,
        status=outcome.status if outcome is not None else "",
        stderr=outcome.stderr[:STDERR_CHARACTERS] if outcome is not None else "",
    )
