"""Answers the requests of many clients with one engine, which runs in a thread of its own.

    service = Service(model, engine, Server())
    service.start()
    running = service.submit(Job((prompt,), Sampling(max_tokens=64), client="editor"))
    async for delta in running:
        print(delta.text, end="")

The event loop submits jobs and reads deltas; the thread owns the engine, and admits waiting choices to free slots in
turns between clients, so that a client with many requests does not delay the others.
"""

import asyncio
import dataclasses
import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from codellama_jax.config.generation import Sampling
from codellama_jax.config.serving import Server
from codellama_jax.errors import UserError
from codellama_jax.generation.engine import Engine, Request
from codellama_jax.generation.prompts import Prompt
from codellama_jax.generation.stopping import TextStream, TokenTexts
from codellama_jax.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_IDLE = 0.2  # seconds between two checks of the time limits while nothing is generated
_LATEST = 50  # number of choices in `Service.first_token_seconds`


class Refused(Exception):
    """The service takes no job now. `retry_after`: seconds after which another try makes sense."""

    def __init__(self, message: str, retry_after: int):
        super().__init__(message)
        self.retry_after = retry_after


class EngineFailed(Exception):
    """The engine ended with an error; nothing more is generated."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One request of a client.

    Attributes:
        prompts: each has `n` answers. Choice i answers prompt i // n.
        sampling: settings of all answers. Answer j of a prompt has the seed `seed + j`.
        n: number of answers of each prompt.
        client: whom the job belongs to; the clients take turns.
        line_seconds: seconds of decoding after which an answer ends at its next line end; None: never.
    """

    prompts: tuple[Prompt, ...]
    sampling: Sampling
    n: int = 1
    client: str = ""
    line_seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Delta:
    """What was generated of one choice since its last delta.

    Attributes:
        choice: number of the choice.
        text: text that may be shown; "" while a character or a stop string may be incomplete.
        tokens: ids, without the stop id.
        logprobs: of these tokens, if the job asked for them.
        finish_reason: "stop", "length" or "timeout" in the last delta of the choice, otherwise None.
        stop: the stop string that ended the choice, if one did.
    """

    choice: int
    text: str
    tokens: list[int]
    logprobs: list[Any]
    finish_reason: str | None = None
    stop: str | None = None


class Choice:
    """One answer while it is generated.

    Attributes:
        prompt: its prompt.
        request: the engine's request; None before it has a slot.
        text: the text so far.
        submitted, started, first, ended: times (time.monotonic) of its arrival, its slot, its first token, its end.
    """

    def __init__(self, running: "Running", number: int, prompt: Prompt, sampling: Sampling, texts: TokenTexts):
        self.running, self.number, self.prompt, self.sampling = running, number, prompt, sampling
        self.request: Request | None = None
        self.stream = TextStream(texts, sampling.stop, prompt.skip)
        self.text = ""
        self.read = 0  # tokens of the request that deltas have shown
        self.submitted = time.monotonic()
        self.started = self.first = self.ended = None  # type: float | None

    def delta(self, finish_reason: str | None) -> Delta:
        """What is new since the last delta."""
        assert self.request is not None
        tokens = self.request.tokens[self.read :]
        logprobs = list(getattr(self.request, "logprobs", ())[self.read :])
        self.read += len(tokens)
        text = self.stream.add(tokens)
        if finish_reason is not None:
            text += self.stream.finish()
        if self.prompt.crlf:
            text = text.replace("\n", "\r\n")
        self.text += text
        return Delta(self.number, text, tokens, logprobs, finish_reason, self.stream.stopped)


class Running:
    """A job that was accepted: an asynchronous iterator of its deltas.

    Attributes:
        choices: its choices; their requests have the counts of tokens.
    """

    def __init__(self, service: "Service", job: Job, texts: TokenTexts):
        self.job, self._service = job, service
        self._deltas: asyncio.Queue[Delta | Exception] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        seeds = [(job.sampling.seed + copy) % 2**64 for copy in range(job.n)]
        settings = [dataclasses.replace(job.sampling, seed=seed) for seed in seeds]
        pairs = itertools.product(job.prompts, settings)
        self.choices = [Choice(self, number, *pair, texts) for number, pair in enumerate(pairs)]
        self._open = len(self.choices)

    @property
    def client(self) -> str:
        return self.job.client

    @property
    def prompt_tokens(self) -> int:
        return sum(len(prompt.ids) for prompt in self.job.prompts)

    @property
    def answer_tokens(self) -> int:
        return sum(len(choice.request.tokens) for choice in self.choices if choice.request is not None)

    @property
    def cached_tokens(self) -> int:
        """Number of tokens of the prompts that the prefix cache held."""
        return sum(choice.request.cached for choice in self.choices[:: self.job.n] if choice.request is not None)

    def put(self, item: Delta | Exception) -> None:
        """Passes a delta to the event loop. Called by the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._deltas.put_nowait, item)
        except RuntimeError:  # the event loop has ended
            self.cancel()

    def cancel(self) -> None:
        """Ends what is not finished; its pages become free. Can be called at any time, from any thread."""
        self._service.cancel(self)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """The deltas of all choices; cancels the job if the reader stops early.

        Raises:
            EngineFailed: the engine ended.
        """
        try:
            while self._open:
                item = await self._deltas.get()
                if isinstance(item, Exception):
                    raise item
                self._open -= item.finish_reason is not None
                yield item
        finally:
            if self._open:
                self.cancel()

    async def finish(self) -> list[Delta]:
        """Waits for the end; returns one delta for each choice, with all its text and tokens."""
        whole = [Delta(choice.number, "", [], []) for choice in self.choices]
        async for delta in self:
            before = whole[delta.choice]
            whole[delta.choice] = dataclasses.replace(
                delta,
                text=before.text + delta.text,
                tokens=before.tokens + delta.tokens,
                logprobs=before.logprobs + delta.logprobs,
            )
        return whole


class Service:
    """The engine's thread, and the queue before it.

    Args:
        tokenizer: of the model.
        engine: nothing else may use it while the service runs.
        settings: the limits.
        observe: called in the engine's thread with each choice that has ended, and its finish reason.

    Attributes:
        tokenizer, texts: of the model.
        context: number of tokens that a prompt and its answer may have.
        ready: whether the programs are compiled.
        failure: the error that ended the engine; None while it works.
        generated_tokens: number of tokens generated since the start.
        first_token_seconds: of the latest choices, the time from their arrival to their first token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        engine: Engine,
        settings: Server,
        observe: Callable[[Choice, str], None] = lambda choice, reason: None,
    ):
        self.tokenizer, self.texts = tokenizer, TokenTexts(tokenizer)
        self.engine, self._settings, self._observe = engine, settings, observe
        self.context = engine.serving.context
        self.ready, self.failure = False, None  # type: bool, BaseException | None
        self.generated_tokens, self.first_token_seconds = 0, deque[float](maxlen=_LATEST)
        self._commands: queue.SimpleQueue[tuple[str, Running | None]] = queue.SimpleQueue()
        self._waiting: dict[str, deque[Choice]] = {}  # by client, in the order of their turns
        self._active: list[Choice] = []
        self._lock = threading.Lock()
        self._queued = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Takes no further jobs; those that were accepted go on."""
        self._closing = True

    def stop(self) -> None:
        """Ends the thread; what is not finished is cancelled."""
        self._closing = True
        self._commands.put(("stop", None))
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def waiting(self) -> int:
        """Number of choices that wait for a slot."""
        return self._queued

    @property
    def active(self) -> int:
        """Number of choices that have a slot."""
        return len(self._active)

    def submit(self, job: Job) -> Running:
        """Accepts a job. Must be called in the event loop that reads its deltas.

        Raises:
            Refused: the queue is full, or the service is closing.
            UserError: a prompt does not fit.
            EngineFailed: the engine has ended.
        """
        for prompt in job.prompts:
            self.check(prompt.ids)
        if self.failure is not None:
            raise EngineFailed("the engine has ended with an error; restart the server")
        if self._closing:
            raise Refused("the server is shutting down", retry_after=10)
        count = len(job.prompts) * job.n
        with self._lock:
            if self._queued + count > self._settings.queue:
                raise Refused(f"{self._queued} requests are waiting already; try again later", retry_after=1)
            self._queued += count
        running = Running(self, job, self.texts)
        self._commands.put(("submit", running))
        return running

    def check(self, ids: list[int]) -> None:
        """Raises UserError for a prompt that the model cannot take."""
        if len(ids) >= self.context:
            raise UserError(
                f"the prompt has {len(ids):,} tokens, and prompt and answer must fit {self.context:,}: shorten it"
            )
        if not ids:
            raise UserError("the prompt has no tokens")
        if not 0 <= min(ids) <= max(ids) < self.tokenizer.rows:
            raise UserError(f"the prompt has ids outside 0 to {self.tokenizer.rows - 1}")

    def cancel(self, running: Running) -> None:
        self._commands.put(("cancel", running))

    # --- the engine's thread

    def _run(self) -> None:
        try:
            self.engine.warm_up()
            self.ready = True
            while self._take_commands():
                self._admit()
                if self._active:
                    self._generate()
                self._end_late()
        except BaseException as error:
            logger.exception("the engine failed")
            self.failure = error
        finally:
            self.ready = False
            self._abandon()

    def _take_commands(self) -> bool:
        """Carries out what the event loop asked for; waits if nothing is being generated. Returns whether to go on."""
        block = not self._active
        while True:
            try:
                command, running = self._commands.get(block=block, timeout=_IDLE if block else None)
            except queue.Empty:
                return True
            block = False
            if command == "stop":
                return False
            assert running is not None
            if command == "submit":
                self._waiting.setdefault(running.client, deque()).extend(running.choices)
            else:
                self._drop([choice for choice in running.choices if choice.ended is None])

    def _admit(self) -> None:
        """Gives free slots to waiting choices, in turns between clients."""
        while self._waiting and len(self._active) < self.engine.serving.slots:
            client, choices = next(iter(self._waiting.items()))
            choice = choices.popleft()
            del self._waiting[client]
            if choices:
                self._waiting[client] = choices  # behind the other clients
            with self._lock:
                self._queued -= 1
            prompt = choice.prompt
            try:
                choice.request = self.engine.submit(prompt.ids, choice.sampling, prompt.stop_ids, prompt.allowed)
            except (UserError, ValueError) as error:  # one that `check` did not find
                choice.ended = time.monotonic()
                choice.running.put(error)
                continue
            choice.started = time.monotonic()
            self._active.append(choice)

    def _generate(self) -> None:
        """One step of the engine; passes on what it generated."""
        self.engine.step()
        now = time.monotonic()
        for choice in list(self._active):
            request = choice.request
            assert request is not None
            if len(request.tokens) == choice.read and not request.finished:
                continue
            self.generated_tokens += len(request.tokens) - choice.read
            if choice.first is None:
                choice.first = now
                self.first_token_seconds.append(now - choice.submitted)
            delta = choice.delta(request.finish_reason)
            if delta.finish_reason is None and self._must_end(choice, now):
                self.engine.finish(request, "stop" if choice.stream.stopped is not None else "length")
                rest = choice.delta(request.finish_reason)
                delta = dataclasses.replace(delta, text=delta.text + rest.text, finish_reason=rest.finish_reason)
            elif delta.stop is not None:
                delta = dataclasses.replace(delta, finish_reason="stop")
            self._pass_on(choice, delta)

    def _must_end(self, choice: Choice, now: float) -> bool:
        """Whether an answer has a stop string, or a line after its time for whole lines."""
        limit = choice.running.job.line_seconds
        late = limit is not None and choice.first is not None and now - choice.first > limit and "\n" in choice.text
        return choice.stream.stopped is not None or late

    def _end_late(self) -> None:
        """Ends the choices that have taken longer than a request may take, with the text that they have."""
        oldest = time.monotonic() - self._settings.timeout
        waiting = [choice for choices in self._waiting.values() for choice in choices]
        for choice in [*self._active, *waiting]:
            if choice.submitted > oldest:
                continue
            if choice.request is None:
                self._drop([choice])
                choice.running.put(Refused("the request waited too long for its turn", retry_after=10))
            else:
                self.engine.finish(choice.request, "timeout")
                self._pass_on(choice, choice.delta("timeout"))

    def _pass_on(self, choice: Choice, delta: Delta) -> None:
        if delta.finish_reason is not None:
            choice.ended = time.monotonic()
            self._active.remove(choice)
            self._observe(choice, delta.finish_reason)
        choice.running.put(delta)

    def _drop(self, choices: list[Choice]) -> None:
        """Ends choices that nobody waits for."""
        for choice in choices:
            if choice.request is not None:
                self.engine.finish(choice.request, "cancelled")
                if choice in self._active:
                    self._active.remove(choice)
            elif choice in (queued := self._waiting.get(choice.running.client, ())):
                queued.remove(choice)  # type: ignore[union-attr]
                if not queued:
                    del self._waiting[choice.running.client]
                with self._lock:
                    self._queued -= 1
            choice.ended = time.monotonic()
            self._observe(choice, "cancelled")

    def _abandon(self) -> None:
        """Reports the end of the engine to everybody who still waits."""
        jobs = {id(choice.running): choice.running for choice in self._active}
        jobs |= {id(choice.running): choice.running for choices in self._waiting.values() for choice in choices}
        while not self._commands.empty():
            command, running = self._commands.get()
            if command == "submit" and running is not None:
                jobs[id(running)] = running
        for running in jobs.values():
            running.put(EngineFailed("the server has stopped"))
