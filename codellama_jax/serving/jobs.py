"""Jobs of clients while they are answered: what the event loop reads of the engine's thread."""

import asyncio
import dataclasses
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence

from codellama_jax.config.generation import Sampling
from codellama_jax.generation.logprobs import TokenLogprobs
from codellama_jax.generation.prompts import Prompt, text_stream
from codellama_jax.generation.request import Request
from codellama_jax.generation.stopping import TokenTexts


class Refused(Exception):
    """The service does not answer a job.

    Attributes:
        retry_after: seconds after which another try makes sense.
        overloaded: whether the client has too many requests here, or all clients have; otherwise the server is
            shutting down or too slow.
    """

    def __init__(self, message: str, retry_after: int, overloaded: bool = True):
        super().__init__(message)
        self.retry_after, self.overloaded = retry_after, overloaded


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
        adapter: number of the adapter that answers, 0 for none.
    """

    prompts: tuple[Prompt, ...]
    sampling: Sampling
    n: int = 1
    client: str = ""
    line_seconds: float | None = None
    adapter: int = 0


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
    logprobs: list[TokenLogprobs]
    finish_reason: str | None = None
    stop: str | None = None


def joined(parts: Sequence[Delta]) -> Delta:
    """Consecutive deltas of one choice as one."""
    if len(parts) == 1:
        return parts[0]
    return dataclasses.replace(
        parts[-1],
        text="".join(part.text for part in parts),
        tokens=list(itertools.chain.from_iterable(part.tokens for part in parts)),
        logprobs=list(itertools.chain.from_iterable(part.logprobs for part in parts)),
    )


class Choice:
    """One answer while it is generated.

    Attributes:
        prompt: its prompt.
        request: the engine's request; None before it has a slot.
        stream: its text.
        submitted, started, first, ended: times (time.monotonic) of its arrival, its slot, its first token, its end.
    """

    def __init__(self, running: "Running", number: int, prompt: Prompt, sampling: Sampling, texts: TokenTexts):
        self.running, self.number, self.prompt, self.sampling = running, number, prompt, sampling
        self.request: Request | None = None
        self.stream = text_stream(prompt, texts, sampling.stop)
        self.read = 0  # tokens of the request that deltas have shown
        self.submitted = time.monotonic()
        self.started = self.first = self.ended = None  # type: float | None

    def delta(self, finish_reason: str | None) -> Delta:
        """What is new since the last delta."""
        assert self.request is not None
        tokens = self.request.tokens[self.read :]
        logprobs = self.request.logprobs[self.read :]
        self.read += len(tokens)
        text = self.stream.add(tokens)
        if finish_reason is not None:
            text += self.stream.finish()
        return Delta(self.number, text, tokens, logprobs, finish_reason, self.stream.stopped)


class Running:
    """A job that was accepted: an asynchronous iterator of its deltas.

    What a slow reader has not taken yet is joined, so that it takes no more memory than the answer.

    Args:
        job: the job.
        texts: of the model.
        cancel: ends the job.

    Attributes:
        choices: its choices; their requests have the counts of tokens.
    """

    def __init__(self, job: Job, texts: TokenTexts, cancel: Callable[["Running"], None]):
        self.job, self._cancel = job, cancel
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._parts: dict[int, list[Delta]] = {}  # by choice; what was not read yet
        self._error: Exception | None = None
        settings = [
            dataclasses.replace(job.sampling, seed=(job.sampling.seed + copy) % 2**64) if copy else job.sampling
            for copy in range(job.n)
        ]
        pairs = itertools.product(job.prompts, settings)
        self.choices = [Choice(self, number, *pair, texts) for number, pair in enumerate(pairs)]
        self._open = len(self.choices)

    @property
    def client(self) -> str:
        return self.job.client

    @property
    def ended(self) -> bool:
        """Whether the iterator has shown the last delta of every choice."""
        return not self._open

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
        self.put_all([(self, item)])

    def _receive(self, item: Delta | Exception) -> None:
        if isinstance(item, Exception):
            self._error = item
        else:
            self._parts.setdefault(item.choice, []).append(item)
        self._arrived.set()

    @staticmethod
    def put_all(items: Sequence[tuple["Running", Delta | Exception]]) -> None:
        """Passes the deltas of one step to the event loop, which wakes once. Called by the engine's thread."""
        if items:
            try:
                items[0][0]._loop.call_soon_threadsafe(_receive_all, items)
            except RuntimeError:  # the event loop has ended
                for running, _ in items:
                    running.cancel()

    def cancel(self) -> None:
        """Ends what is not finished; its pages become free. Can be called at any time, from any thread."""
        self._cancel(self)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """The deltas of all choices; cancels the job if the reader stops early.

        Raises:
            EngineFailed: the engine ended.
            Refused: the job waited for its turn until its time was over.
        """
        try:
            while self._open:
                await self._arrived.wait()
                self._arrived.clear()
                parts, self._parts = self._parts, {}
                for delta in map(joined, parts.values()):
                    self._open -= delta.finish_reason is not None
                    yield delta
                if self._error is not None and self._open:
                    raise self._error
        finally:
            if self._open:
                self.cancel()

    async def finish(self) -> list[Delta]:
        """Waits for the end; returns one delta for each choice, with all its text and tokens. Raises as the iterator
        does."""
        parts: list[list[Delta]] = [[] for _ in self.choices]
        async for delta in self:
            parts[delta.choice].append(delta)
        return [joined(of_choice) for of_choice in parts]


def _receive_all(items: Sequence[tuple[Running, Delta | Exception]]) -> None:
    for running, item in items:
        running._receive(item)
