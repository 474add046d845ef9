"""Prompts on their way to a model, and answers on their way back."""

import abc
import heapq
import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Mapping

from tasks.synthesis.prompts import Answer, Prompt


class Model(abc.ABC):
    """Answers prompts.

    Attributes:
        name: of the model.
        identity: what the answers depend on, besides the prompts and the settings.
    """

    name: str
    identity: Mapping[str, str]

    @abc.abstractmethod
    def answers(self, prompts: Iterator[Prompt], stop: threading.Event) -> Iterator[tuple[Prompt, Answer]]:
        """Answers all prompts, in any order.

        Args:
            prompts: taken one after another, as there is room for them. Taking one may block until an answer that was
                yielded leads to the next prompt.
            stop: when it is set, the iterator ends soon.

        Raises:
            UserError: the model cannot answer any more.
        """


class Feed:
    """The prompts that wait for a model: an iterator that other threads add to. Later phases come first.

    So few questions are open at a time, and dialogues are complete early.
    """

    def __init__(self) -> None:
        self._waiting = list[tuple[int, int, Prompt]]()
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, prompt: Prompt) -> None:
        with self._changed:
            heapq.heappush(self._waiting, (prompt.kind == "questions", next(self._numbers), prompt))
            self._changed.notify()

    def close(self) -> None:
        """Ends the iterator: what waits is not taken any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Prompt]:
        return self

    def __next__(self) -> Prompt:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                raise StopIteration
            return heapq.heappop(self._waiting)[2]


class Asking:
    """A model that answers in a thread of its own.

    Args:
        model: the model.
        events: gets a function for each answer, which calls `answered`; the main thread calls it.
        answered: takes a prompt and its answer.
        failed: takes the error that ended the thread.
    """

    def __init__(
        self,
        model: Model,
        events: "queue.SimpleQueue[Callable[[], None]]",
        answered: Callable[[Prompt, Answer], None],
        failed: Callable[[BaseException], None],
    ):
        self.feed = Feed()
        self._model, self._events, self._answered, self._failed = model, events, answered, failed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for prompt, answer in self._model.answers(self.feed, self._stop):
                self._events.put(lambda prompt=prompt, answer=answer: self._answered(prompt, answer))  # type: ignore[misc]
        except BaseException as error:
            self._events.put(lambda error=error: self._failed(error))  # type: ignore[misc]

    def close(self) -> None:
        """Ends the thread; answers that are on their way are lost."""
        self._stop.set()
        self.feed.close()
        self._thread.join()
