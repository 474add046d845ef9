"""The batches that the trainer consumes: exact to resume, and the same for any number of hosts.

The global batch is made of a fixed number of readers. A reader has one packer for each stream of the mixture; which
stream
gives a window is a function of the window's number alone, and a packer's state is a few integers. So the whole state
is [readers, streams, queue + 2, 4] integers, it travels with each batch, and a batch is a pure function of
configuration, seed and number.
"""

import dataclasses
import hashlib
import json
import queue
import threading
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np

from codellama_jax.config.data import STREAMS
from codellama_jax.errors import UserError
from tasks.packing import FEATURES, Encoder, Packed, Packer, PackerState
from tasks.reader import Reader
from tasks.sources.base import Source
from tasks.sources.filters import format_counts

# The fractional part of the golden ratio in 64 bits: multiples of it modulo 2^64 fill the range evenly at every length.
GOLDEN = 0x9E3779B97F4A7C15
# Raised with every change to the code that gives other bytes for the same configuration.
VERSION = 2


@dataclasses.dataclass(frozen=True)
class StreamInput:
    """One stream as the packers need it: its name, its files, and how its documents become ids."""

    name: str
    source: Source
    encoder: Encoder


def task_seed(seed: int, task: str) -> tuple[int, int]:
    """Integers to seed a task with. Its name is in it: tasks given one seed would draw identical numbers."""
    return seed, int.from_bytes(hashlib.sha256(task.encode()).digest()[:8], "big")


@dataclasses.dataclass(frozen=True)
class LoaderState:
    """Where the stream stands after a batch.

    Attributes:
        batch: batches given out.
        positions: int64 [readers of this host, streams, queue + 2, 4]: each packer's Position.
    """

    batch: int
    positions: np.ndarray


@dataclasses.dataclass(frozen=True)
class Batch:
    """Attributes:
    arrays: FEATURES, each [rows of this host, length].
    kinds: stream -> kind of document (plain, psm, spm, cut) -> tokens.
    begun: (stream, document) for the documents that begin in this batch.
    documents: (stream, path) of every document with tokens in it.
    state: the stream's, after this batch.
    """

    arrays: dict[str, np.ndarray]
    kinds: dict[str, Counter[str]]
    begun: list[tuple[str, Packed]]
    documents: list[tuple[str, str]]
    state: LoaderState

    @property
    def infilling_tokens(self) -> int:
        """Tokens of documents in an infilling form."""
        return sum(kinds["psm"] + kinds["spm"] for kinds in self.kinds.values())


class DataLoader:
    """This host's rows of the global batches.

    Args:
        tasks: the mixture's streams with their sources and encoders.
        shares: stream -> share of the windows, so of the tokens.
        seed: of the mixture's phase; files and infilling are drawn with the seeds of the encoders.
        readers: of the global batch; a multiple of hosts, divides batch_size.
        batch_size: windows of a global batch.
        length: tokens of a window.
        mask_documents: positions restart with each document.
        queue: documents that a packer may hold back until they fit a window.
        host, hosts: this host's index, and how many there are; a host serves a contiguous share of the readers.
        state: where to go on; None begins.
    """

    def __init__(
        self,
        tasks: Sequence[StreamInput],
        shares: Mapping[str, float],
        *,
        seed: int,
        readers: int,
        batch_size: int,
        length: int,
        mask_documents: bool,
        queue: int = 0,
        host: int = 0,
        hosts: int = 1,
        state: LoaderState | None = None,
    ):
        if batch_size % readers or readers % hosts:
            raise UserError(
                f"DataLoader.readers={readers} must divide the {batch_size} windows of a batch, and be a multiple of"
                f" the number of hosts, {hosts}"
            )
        # In one order whatever that of the shares is: it decides which stream gives a window, and the state's layout.
        given = [task for task in tasks if shares.get(task.name, 0) > 0]
        self.tasks = sorted(given, key=lambda task: STREAMS.index(task.name))
        self.readers, self.batch_size, self.length = readers, batch_size, length
        self._lane_numbers = range(host * readers // hosts, (host + 1) * readers // hosts)
        self._rows_per_lane = batch_size // readers
        shares_in_order = np.array([shares[task.name] for task in self.tasks])
        # Thresholds in 64-bit integers: exact on every machine.
        self._thresholds = np.round(np.cumsum(shares_in_order)[:-1] / shares_in_order.sum() * 2.0**64).astype(np.uint64)
        self._phase = np.random.default_rng([seed, 0]).integers(0, 2**64, dtype=np.uint64)
        self._batch, self._queue = state.batch if state else 0, queue
        self._identity = {
            "version": VERSION,
            "shares": {task.name: shares[task.name] for task in self.tasks},
            "seed": seed,
            "lanes": readers,  # the key that fingerprints of older checkpoints have
            "batch_size": batch_size,
            "length": length,
            "mask_documents": mask_documents,
            "queue": queue,
        }
        self._lanes: list[list[Reader]] = []
        self._packers: list[list[Packer]] = []
        for index, number in enumerate(self._lane_numbers):
            row = [Reader(task.source, number, readers, task.encoder.seed, task.encoder.check) for task in self.tasks]
            at = [
                PackerState.of_row(state.positions[index, task_index]) if state else None
                for task_index in range(len(self.tasks))
            ]
            self._lanes.append(row)
            self._packers.append(
                [
                    Packer(lane, task.encoder, length, mask_documents, queue, position)
                    for lane, task, position in zip(row, self.tasks, at, strict=True)
                ]
            )

    def fingerprint(self) -> str:
        """Digest of everything that shapes the stream but its position. A state is good only where this is equal."""
        tasks = {
            task.name: [
                task.source.fingerprint(),
                task.encoder.tokenizer.fingerprint,
                dataclasses.asdict(task.encoder.fim),
                dataclasses.asdict(task.encoder.chat),
                task.encoder.seed,
            ]
            for task in self.tasks
        }
        return hashlib.sha256(json.dumps([self._identity, tasks], sort_keys=True).encode()).hexdigest()

    def stream_of(self, windows: np.ndarray) -> np.ndarray:
        """Index into `tasks` of each window of the run, given by number.

        Windows are dealt out evenly rather than drawn: over any stretch of n windows every share is met to within a few
        windows, where independent draws would be off by about sqrt(n).
        """
        points = windows.astype(np.uint64) * np.uint64(GOLDEN) + self._phase  # modulo 2^64
        return np.searchsorted(self._thresholds, points, side="right")

    def next_batch(self) -> Batch:
        """The next batch, and the state after it."""
        arrays: dict[str, list[np.ndarray]] = {name: [] for name in FEATURES}
        kinds: dict[str, Counter[str]] = {task.name: Counter() for task in self.tasks}
        begun: list[tuple[str, Packed]] = []
        documents: list[tuple[str, str]] = []
        streams = self._streams_of_rows()
        for lane, packers in zip(self._lane_numbers, self._packers, strict=True):
            first = lane * self._rows_per_lane
            for task_index in streams[first : first + self._rows_per_lane]:
                window = packers[task_index].next_window()
                assert window is not None, "a stream repeats and never ends"
                for feature, values in window.arrays.items():
                    arrays[feature].append(values)
                name = self.tasks[task_index].name
                arrays["stream_ids"].append(np.full(self.length, STREAMS.index(name), np.int32))
                kinds[name] += window.tokens
                begun += [(name, packed) for packed in window.begun]
                documents += [(name, item.path) for item in window.documents]
        self._batch += 1
        stacked = {name: np.stack(rows) for name, rows in arrays.items()}
        return Batch(stacked, kinds, begun, documents, self.state())

    def _streams_of_rows(self) -> np.ndarray:
        """Index into `tasks` of each row of the next global batch.

        The windows of a batch are dealt out to its rows in an order of its own: else batches of 8, 13, 21, ... windows,
        whose ratios are near the golden one, would keep a lane with one stream for a long time.
        """
        windows = self._batch * self.batch_size + np.arange(self.batch_size, dtype=np.int64)
        order = np.random.default_rng([int(self._phase), self._batch]).permutation(self.batch_size)
        return self.stream_of(windows[order])

    def state(self) -> LoaderState:
        """Where the stream stands."""
        positions = [[packer.position.row(self._queue) for packer in row] for row in self._packers]
        return LoaderState(self._batch, np.array(positions, np.int64))

    def epochs(self, state: LoaderState) -> dict[str, float]:
        """How often each stream's pieces have been taken, over all readers of this host."""
        return {
            task.name: float(state.positions[:, index, 0, 0].mean() * self.readers / self._lanes[0][index].pieces)
            for index, task in enumerate(self.tasks)
        }

    def left_out(self) -> dict[str, Counter[str]]:
        """Stream -> filter -> documents it left out of what this host has read since this Stream was made, of each
        stream at most once through."""
        return {
            task.name: sum((row[index].left_out for row in self._lanes), Counter())
            for index, task in enumerate(self.tasks)
        }

    def left_out_lines(self) -> list[str]:
        """The same for a person: a line for each stream and filter, with the first place where it left one out."""
        lines = []
        for index, (name, reasons) in enumerate(self.left_out().items()):
            for reason, count in reasons.most_common():
                first = next(row[index].examples[reason] for row in self._lanes if reason in row[index].examples)
                lines.append(f"left out of {name}: {format_counts({reason: count})}, the first {first}")
        return lines

    def metrics(self, batch: Batch) -> dict[str, float]:
        """What is logged of a batch: documents that begin in it, tokens and documents in infilling forms, epochs.

        Where there are several hosts the counts are an estimate: this one's, times the number of hosts.
        """
        hosts = self.readers // len(self._lanes)
        kinds = Counter(packed.kind for _, packed in batch.begun)
        return {
            "infilling_tokens": batch.infilling_tokens * hosts,
            "infilling_share": batch.infilling_tokens / batch.arrays["tokens"].size,
            "documents": len(batch.begun) * hosts,
            "infilling_documents": (kinds["psm"] + kinds["spm"]) * hosts,
            **{f"epoch/{name}": epochs for name, epochs in self.epochs(batch.state).items()},
        }


def prefetched(stream: DataLoader, depth: int = 2) -> Generator[Batch]:
    """The stream's batches, made by a thread that keeps up to `depth` ahead.

    Each batch brings its own state, so what was prepared but not consumed is not lost on a resume.
    """
    ready: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: Any) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.2)
            except queue.Full:
                continue

    def work() -> None:
        try:
            while not stop.is_set():
                put(stream.next_batch())
        except BaseException as error:  # whatever it is, it belongs to the thread that asked for the batch
            put(error)

    thread = threading.Thread(target=work, name="data", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
