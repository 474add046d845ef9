"""Prefetching: batches, errors and the end of the thread."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from memory_source import (
    same_batch,
)

from codellama_jax.errors import UserError
from tasks.loader import Batch, DataLoader, prefetched


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.usefixtures("no_thread_left")
def test_prefetched_batches_are_those_of_the_loader(
    make_loader: Callable[..., DataLoader], uninterrupted: list[Batch], depth: int
):
    batches = prefetched(make_loader(), depth)
    for expected, batch in zip(uninterrupted[:10], batches, strict=False):
        assert same_batch(batch, expected)
    batches.close()


@pytest.mark.usefixtures("no_thread_left")
def test_batches_that_were_prepared_but_not_consumed_are_not_lost(
    make_loader: Callable[..., DataLoader], uninterrupted: list[Batch]
):
    batches = prefetched(make_loader(), 4)
    last = [next(batches) for _ in range(7)][-1]
    time.sleep(0.05)  # the thread prepares more batches
    batches.close()
    assert same_batch(make_loader(state=last.state).next_batch(), uninterrupted[7])


class FailingLoader:
    """A loader whose third batch fails."""

    def __init__(self, error: BaseException):
        self.error, self.returned = error, 0

    def next_batch(self) -> int:
        self.returned += 1
        if self.returned == 3:
            raise self.error
        return self.returned


@pytest.mark.parametrize("error", [UserError("a file cannot be read"), ValueError("a bug"), KeyboardInterrupt()])
@pytest.mark.usefixtures("no_thread_left")
def test_an_exception_is_raised_where_the_batch_is_requested(error: BaseException):
    """The same exception, after the earlier batches. The thread ends."""
    batches = prefetched(FailingLoader(error))  # type: ignore[arg-type]
    assert [next(batches), next(batches)] == [1, 2]
    raised: list[BaseException] = []

    def request() -> None:
        try:
            next(batches)
        except BaseException as exception:
            raised.append(exception)

    thread = threading.Thread(target=request, daemon=True)  # so that a failure does not hang the test
    thread.start()
    thread.join(10)
    assert len(raised) == 1 and raised[0] is error
    with pytest.raises(StopIteration):
        next(batches)


@pytest.mark.usefixtures("no_thread_left")
def test_closing_ends_a_thread_that_waits(make_loader: Callable[..., DataLoader]):
    batches = prefetched(make_loader(), 1)
    next(batches)
    time.sleep(0.05)  # by now the thread waits for a free slot
    batches.close()


@pytest.mark.usefixtures("no_thread_left")
def test_prepares_at_most_depth_batches():
    class CountingLoader:
        created = 0

        def next_batch(self) -> int:
            self.created += 1
            return self.created

    loader = CountingLoader()
    batches = prefetched(loader, 3)  # type: ignore[arg-type]
    assert next(batches) == 1
    deadline = time.monotonic() + 10
    while loader.created < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert loader.created == 5  # one consumed, three ready, one waiting for a free slot
    batches.close()
