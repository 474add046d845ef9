"""Takes requests from an iterator that may block, so that nothing else waits for it."""

import threading
from collections import deque
from collections.abc import Iterator

from codellama_jax.evaluation.client import Request


class RequestReader:
    """Takes requests in a thread of its own, a few ahead.

    The next request may depend on an answer that is on its way: whoever gives answers must not wait for it.

    Args:
        requests: the iterator.
        changed: is notified when a request has arrived or the iterator has ended. `take` and the properties are used by
            threads that hold it.
        ahead: number of requests that are taken ahead.
    """

    def __init__(self, requests: Iterator[Request], changed: threading.Condition, ahead: int = 1):
        self._requests, self._changed, self._most = requests, changed, ahead
        self._ahead = deque[Request]()
        self._ended = self._closed = False
        self._error: BaseException | None = None
        threading.Thread(target=self._read, name="requests", daemon=True).start()

    @property
    def exhausted(self) -> bool:
        """Whether all requests have been taken."""
        return self._ended and not self._ahead and self._error is None

    def take(self) -> Request | None:
        """The next request; None: there is none now. Raises what the iterator has raised."""
        if self._ahead:
            self._changed.notify_all()
            return self._ahead.popleft()
        if self._error is not None:
            raise self._error
        return None

    def close(self) -> None:
        """Takes no further request."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _read(self) -> None:
        try:
            for request in self._requests:
                with self._changed:
                    self._ahead.append(request)
                    self._changed.notify_all()
                    while len(self._ahead) >= self._most and not self._closed:
                        self._changed.wait()
                    if self._closed:
                        return
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
