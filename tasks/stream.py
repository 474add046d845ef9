"""The batches that the trainer consumes: exact to resume, and the same for any number of hosts.

The global batch is made of a fixed number of lanes. A lane has one packer for each stream of the mixture; which stream
gives a window is a function of the window's number alone, and a packer's state is three integers. So the whole state
is [lanes, streams, 3] integers, it travels with each batch, and a batch is a pure function of configuration, seed and
number.
"""

import dataclasses
import functools
import hashlib
import json
import queue
import threading
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np

from codellama_jax.errors import UserError
from tasks.config import STREAMS
from tasks.packing import FEATURES, Encoder, Packed, Packer, Position
from tasks.sources import Dialogue, Document, Source

# The fractional part of the golden ratio in 64 bits: multiples of it modulo 2^64 fill the range evenly at every length.
GOLDEN = 0x9E3779B97F4A7C15


@dataclasses.dataclass(frozen=True)
class StreamTask:
    """One stream as the packers need it: its name, its files, and how its documents become ids."""

    name: str
    source: Source
    encoder: Encoder


def task_seed(seed: int, task: str) -> tuple[int, int]:
    """Integers to seed a task with. Its name is in it: tasks given one seed would draw identical numbers."""
    return seed, int.from_bytes(hashlib.sha256(task.encode()).digest()[:8], "big")


@functools.lru_cache(maxsize=16)
def _permutation(seed: tuple[int, ...], files: int) -> np.ndarray:
    """The order of files in one epoch; one array for all lanes."""
    return np.random.default_rng(seed).permutation(files)


class FileOrder:
    """The files of one lane: every lane takes each `lanes`-th file of an order that is drawn anew for each epoch."""

    def __init__(self, source: Source, lane: int, lanes: int, seed: Sequence[int]):
        self._source, self._lane, self._lanes, self._seed = source, lane, lanes, tuple(seed)
        self._epoch, self._order = -1, np.zeros(0, np.int64)
        self._left_out = 0

    def number(self, file: int) -> int:
        """Number of the lane's file among all lanes' files, over all epochs."""
        return file * self._lanes + self._lane

    def key(self, file: int, document: int) -> tuple[int, int]:
        """What identifies a document of the lane's file among all lanes and epochs."""
        return self.number(file), document

    def read(self, file: int) -> Sequence[Document | Dialogue]:
        """Documents of the lane's file; never ends.

        Raises:
            UserError: as many files in turn as the source has gave no document.
        """
        epoch, index = divmod(self.number(file), len(self._source))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, _permutation((*self._seed, epoch), len(self._source))
        documents = self._source.read(int(self._order[index]))
        self._left_out = 0 if documents else self._left_out + 1
        if self._left_out > len(self._source):
            raise UserError(f"{self._source.name}: none of its {len(self._source)} files holds a usable document")
        return documents


@dataclasses.dataclass(frozen=True)
class StreamState:
    """Where the stream stands after a batch.

    Attributes:
        batch: batches given out.
        positions: int64 [lanes of this host, streams, 3]: each packer's file, document and offset.
    """

    batch: int
    positions: np.ndarray


@dataclasses.dataclass(frozen=True)
class Batch:
    """Attributes:
    arrays: FEATURES, each [rows of this host, length].
    infilling_tokens: tokens of documents in an infilling form.
    begun: (stream, document) for the documents that begin in this batch.
    state: the stream's, after this batch.
    """

    arrays: dict[str, np.ndarray]
    infilling_tokens: int
    begun: list[tuple[str, Packed]]
    state: StreamState


class Stream:
    """This host's rows of the global batches.

    Args:
        tasks: the mixture's streams with their sources and encoders.
        shares: stream -> share of the windows, so of the tokens.
        seed: of the mixture's phase; files and infilling are drawn with the seeds of the encoders.
        lanes: of the global batch; a multiple of hosts, divides batch_size.
        batch_size: windows of a global batch.
        length: tokens of a window.
        mask_documents: positions restart with each document.
        host, hosts: this host's index, and how many there are; a host serves a contiguous share of the lanes.
        state: where to go on; None begins.
    """

    def __init__(
        self,
        tasks: Sequence[StreamTask],
        shares: Mapping[str, float],
        *,
        seed: int,
        lanes: int,
        batch_size: int,
        length: int,
        mask_documents: bool,
        host: int = 0,
        hosts: int = 1,
        state: StreamState | None = None,
    ):
        if batch_size % lanes or lanes % hosts:
            raise UserError(
                f"Stream.lanes={lanes} must divide the {batch_size} windows of a batch, and be a multiple of the number"
                f" of hosts, {hosts}"
            )
        # In one order whatever that of the shares is: it decides which stream gives a window, and the state's layout.
        given = [task for task in tasks if shares.get(task.name, 0) > 0]
        self.tasks = sorted(given, key=lambda task: STREAMS.index(task.name))
        self.lanes, self.batch_size, self.length = lanes, batch_size, length
        self._lane_numbers = range(host * lanes // hosts, (host + 1) * lanes // hosts)
        self._rows_per_lane = batch_size // lanes
        shares_in_order = np.array([shares[task.name] for task in self.tasks])
        # Thresholds in 64-bit integers: exact on every machine.
        self._thresholds = np.round(np.cumsum(shares_in_order)[:-1] / shares_in_order.sum() * 2.0**64).astype(np.uint64)
        self._phase = np.random.default_rng([seed, 0]).integers(0, 2**64, dtype=np.uint64)
        self._batch = state.batch if state else 0
        self._identity = {
            "shares": {task.name: shares[task.name] for task in self.tasks},
            "seed": seed,
            "lanes": lanes,
            "batch_size": batch_size,
            "length": length,
            "mask_documents": mask_documents,
        }
        self._packers = []
        for index, lane in enumerate(self._lane_numbers):
            row = []
            for task_index, task in enumerate(self.tasks):
                files = FileOrder(task.source, lane, lanes, task.encoder.seed)
                position = Position(*map(int, state.positions[index, task_index])) if state else Position()
                row.append(
                    Packer(
                        files.read,
                        files.key,
                        task.encoder,
                        length,
                        mask_documents,
                        position,
                    )
                )
            self._packers.append(row)

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
        infilling_tokens = 0
        begun: list[tuple[str, Packed]] = []
        for lane, packers in zip(self._lane_numbers, self._packers, strict=True):
            first = self._batch * self.batch_size + lane * self._rows_per_lane
            for task_index in self.stream_of(np.arange(first, first + self._rows_per_lane, dtype=np.int64)):
                window = packers[task_index].next_window()
                assert window is not None, "a stream repeats and never ends"
                for feature, values in window.arrays.items():
                    arrays[feature].append(values)
                name = self.tasks[task_index].name
                arrays["stream_ids"].append(np.full(self.length, STREAMS.index(name), np.int32))
                infilling_tokens += window.infilling_tokens
                begun += [(name, packed) for packed in window.begun]
        self._batch += 1
        stacked = {name: np.stack(rows) for name, rows in arrays.items()}
        return Batch(stacked, infilling_tokens, begun, self.state())

    def state(self) -> StreamState:
        """Where the stream stands."""
        positions = [[dataclasses.astuple(packer.position) for packer in row] for row in self._packers]
        return StreamState(self._batch, np.array(positions, np.int64).reshape(len(self._packers), -1, 3))

    def epochs(self, state: StreamState) -> dict[str, float]:
        """How often each stream's files have been read, by the lane that is furthest on."""
        return {
            task.name: float(state.positions[:, index, 0].max() * self.lanes / len(task.source))
            for index, task in enumerate(self.tasks)
        }


def prefetched(stream: Stream, depth: int = 2) -> Generator[Batch]:
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
