"""Answers the requests of many clients with one engine, which runs in a thread of its own.

    service = Service(tokenizer, engine, Server())
    service.start()
    running = service.submit(Job((prompt,), Sampling(max_tokens=64), client="editor"))
    async for delta in running:
        print(delta.text, end="")

The event loop submits jobs and reads deltas; the thread owns the engine, and admits waiting choices to free slots in
turns between clients, so that a client with many requests does not delay the others.
"""

import dataclasses
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable

from codellama_jax.config.serving import Server
from codellama_jax.errors import UserError
from codellama_jax.generation.engine import Engine
from codellama_jax.generation.stopping import TokenTexts
from codellama_jax.serving.jobs import Choice, Delta, EngineFailed, Job, Refused, Running
from codellama_jax.tokenizer import Tokenizer

_LATEST = 50  # number of choices in `Service.first_token_seconds`


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
        closing: whether no further jobs are taken.
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
        self.engine, self._settings, self.observe = engine, settings, observe
        self.context = engine.serving.context
        self.ready, self.failure = False, None  # type: bool, BaseException | None
        self.closing = self._ended = False
        self.generated_tokens, self.first_token_seconds = 0, deque[float](maxlen=_LATEST)
        self._commands: queue.SimpleQueue[tuple[str, Running | None]] = queue.SimpleQueue()
        self._waiting: dict[str, deque[Choice]] = {}  # by client, in the order of their turns
        self._active: list[Choice] = []
        self._lock = threading.Lock()
        self._queued: Counter[str] = Counter()  # choices of each client that wait; changed under the lock
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Takes no further jobs; those that were accepted go on."""
        self.closing = True

    def end_all(self) -> None:
        """Ends all jobs, with the text that they have."""
        self._commands.put(("end", None))

    def stop(self, seconds: float | None = None) -> bool:
        """Ends the thread; what is not finished is cancelled.

        Args:
            seconds: how long to wait for it: it may be compiling. None: until it ends.

        Returns:
            Whether it has ended.
        """
        self.closing = True
        self._commands.put(("stop", None))
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Number of choices that wait for a slot."""
        return self._queued.total()

    @property
    def active(self) -> int:
        """Number of choices that have a slot."""
        return len(self._active)

    @property
    def most_choices(self) -> int:
        """The most answers that one request may have."""
        return min(self._settings.choices, self._settings.queue_of_client)

    def submit(self, job: Job) -> Running:
        """Accepts a job. Must be called in the event loop that reads its deltas.

        Raises:
            Refused: the queue is full, or the service is closing.
            UserError: a prompt does not fit, or there are too many answers.
            EngineFailed: the engine has ended.
        """
        for prompt in job.prompts:
            self.check(prompt.ids, job.sampling.max_tokens)
        if self.failure is not None:
            raise EngineFailed("the engine has ended with an error; restart the server")
        if self.closing:
            raise Refused("the server is shutting down", retry_after=10, overloaded=False)
        count = len(job.prompts) * job.n
        if count > self.most_choices:
            raise UserError(f"the request has {count} answers; at most {self.most_choices} are possible")
        with self._lock:
            waiting, own = self._queued.total(), self._queued[job.client]
            if waiting + count > self._settings.queue:
                raise Refused(f"{waiting} answers are waiting already; try again later", retry_after=1)
            if own + count > self._settings.queue_of_client:
                raise Refused(f"{own} answers for this client are waiting already; try again later", retry_after=1)
            self._queued[job.client] += count
        running = Running(job, self.texts, self.cancel)
        self._commands.put(("submit", running))
        if self._ended:  # meanwhile
            running.put(EngineFailed("the server has stopped"))
        return running

    def check(self, ids: list[int], max_tokens: int = 1) -> None:
        """Raises UserError for a prompt that the model cannot take, or that leaves no room for an answer."""
        if ids and not 0 <= min(ids) <= max(ids) < self.tokenizer.rows:  # further rows of the model are padding
            raise UserError(f"the prompt has ids outside 0 to {self.tokenizer.rows - 1}")
        self.engine.check(ids, max_tokens)

    def cancel(self, running: Running) -> None:
        self._commands.put(("cancel", running))

    # --- the engine's thread

    def _run(self) -> None:
        try:
            self.engine.warm_up()
            self.ready = True
            while self._take_commands():
                self._end_late(time.monotonic() - self._settings.timeout)
                self._admit()
                if self._active:
                    self._generate()
        except BaseException as error:
            self.failure = error
        finally:
            self.ready = False
            self._abandon()

    def _take_commands(self) -> bool:
        """Carries out what the event loop asked for; waits if there is nothing to do. Returns whether to go on."""
        block = not (self._active or self._waiting)
        while True:
            try:
                command, running = self._commands.get(block=block)
            except queue.Empty:
                return True
            block = False
            if command == "stop":
                return False
            if command == "end":
                self._end_late(time.monotonic())
                continue
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
            self._leaves_queue(client)
            prompt = choice.prompt
            try:
                given = prompt.ids, choice.sampling, prompt.stop_ids, prompt.allowed
                choice.request = self.engine.submit(*given, choice.running.job.adapter)
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
        passed: list[tuple[Running, Delta | Exception]] = []
        try:
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
                self._ends_with(choice, delta)
                passed.append((choice.running, delta))
        finally:
            Running.put_all(passed)

    def _must_end(self, choice: Choice, now: float) -> bool:
        """Whether an answer has a stop string, or a line after its time for whole lines."""
        limit = choice.running.job.line_seconds
        late = (
            limit is not None and choice.first is not None and now - choice.first > limit and "\n" in choice.stream.text
        )
        return choice.stream.stopped is not None or late

    def _end_late(self, latest: float) -> None:
        """Ends the choices that were submitted before this time, with the text that they have."""
        waiting = [choice for choices in self._waiting.values() for choice in choices]
        for choice in [*self._active, *waiting]:
            if choice.submitted > latest:
                continue
            if choice.request is None:
                self._drop([choice])
                late = Refused("the request waited too long for its turn", retry_after=10, overloaded=False)
                choice.running.put(late)
            else:
                self.engine.finish(choice.request, "timeout")
                delta = choice.delta("timeout")
                self._ends_with(choice, delta)
                choice.running.put(delta)

    def _ends_with(self, choice: Choice, delta: Delta) -> None:
        """Frees the slot of a choice whose last delta this is."""
        if delta.finish_reason is not None:
            choice.ended = time.monotonic()
            self._active.remove(choice)
            self.observe(choice, delta.finish_reason)

    def _drop(self, choices: Iterable[Choice]) -> None:
        """Ends choices that nobody waits for."""
        for choice in choices:
            client = choice.running.client
            if choice.request is not None:
                self.engine.finish(choice.request, "cancelled")
                if choice in self._active:
                    self._active.remove(choice)
            elif choice in (queued := self._waiting.get(client, deque())):
                queued.remove(choice)
                if not queued:
                    del self._waiting[client]
                self._leaves_queue(client)
            choice.ended = time.monotonic()
            self.observe(choice, "cancelled")

    def _leaves_queue(self, client: str) -> None:
        with self._lock:
            self._queued[client] -= 1
            if not self._queued[client]:
                del self._queued[client]

    def _abandon(self) -> None:
        """Reports the end of the engine to everybody who still waits."""
        jobs = {id(choice.running): choice.running for choice in self._active}
        if self.failure is None:
            for choice in self._active:
                assert choice.request is not None
                self.engine.finish(choice.request, "cancelled")
        jobs |= {id(choice.running): choice.running for choices in self._waiting.values() for choice in choices}
        self._active, self._waiting, self._ended = [], {}, True
        while not self._commands.empty():
            command, running = self._commands.get()
            if command == "submit" and running is not None:
                jobs[id(running)] = running
        for running in jobs.values():
            running.put(EngineFailed("the server has stopped"))
