"""The data loader of a training stage. It resumes exactly, and gives the same batches for any number of hosts.

A fixed number of readers produces the global batch. A reader has one packer for each stream of the mixture. The stream
of a window is a function of the window's number, and the state of a packer is a few integers. So the complete state is
an array of integers [readers, streams, queue + 2, 4]. Each batch contains the state after it. A batch is a pure
function of the configuration, the seed and its number.
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

from codellama_jax.config.data import STREAMS, TEMPLATE, Fim
from codellama_jax.errors import UserError
from tasks.dialogue_packing import DialoguePacker
from tasks.encoder import Encoder
from tasks.packing import FEATURES, PackedDocument, Packer, PackerState
from tasks.reader import Reader
from tasks.sources.base import Source, has_dialogues
from tasks.sources.filters import format_counts
from tasks.sources.inventory import PlaceInventory
from tasks.window_schedule import WindowSchedule

# Increase it with every code change that changes the batches of a configuration.
VERSION = 2
# The same for changes that affect only streams of dialogues.
DIALOGUE_VERSION = 1


@dataclasses.dataclass(frozen=True)
class StreamInput:
    """One stream of a mixture.

    Attributes:
        name: the stream's name.
        source: the stream's documents.
        encoder: encodes the documents.
    """

    name: str
    source: Source
    encoder: Encoder


def stream_seed(seed: int, stream: str) -> tuple[int, int]:
    """The seed of a stream. It depends on the name: streams with the same seed would draw identical numbers."""
    return seed, int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "big")


def _fim_identity(fim: Fim) -> dict[str, Any]:
    """The settings of the infilling transform that change its draws. Earlier checkpoints have no `line_share`."""
    return {name: value for name, value in dataclasses.asdict(fim).items() if name != "line_share" or fim.cut == "both"}


@dataclasses.dataclass(frozen=True)
class LoaderState:
    """The state of a loader after a batch.

    Attributes:
        batch: number of batches returned so far.
        positions: int64 [readers of this host, streams, queue + 2, 4]: the PackerState of each packer.
    """

    batch: int
    positions: np.ndarray


@dataclasses.dataclass(frozen=True)
class Batch:
    """This host's rows of a global batch.

    Attributes:
        arrays: FEATURES, each [rows of this host, length].
        tokens: stream -> kind of document (plain, psm, spm, cut, last_turns) -> number of tokens.
        started: (stream, document) for the documents that start in this batch.
        documents: (stream, path) of every document with tokens in this batch.
        state: the loader's state after this batch.
    """

    arrays: dict[str, np.ndarray]
    tokens: dict[str, Counter[str]]
    started: list[tuple[str, PackedDocument]]
    documents: list[tuple[str, str]]
    state: LoaderState

    @property
    def infilling_tokens(self) -> int:
        """Tokens of documents in an infilling form."""
        return sum(by_kind["psm"] + by_kind["spm"] for by_kind in self.tokens.values())


class DataLoader:
    """Produces this host's rows of the global batches.

    Args:
        streams: the streams of the mixture.
        shares: stream -> share of the windows, and so of the tokens.
        seed: decides which stream each window comes from. The order of documents and their infilling depend on the
            seeds of the encoders.
        readers: number of readers of the global batch; a multiple of `hosts` that divides `batch_size`.
        batch_size: number of windows in a global batch.
        length: number of tokens in a window.
        mask_documents: whether positions restart with each document.
        queue: number of documents that a packer may hold back until they fit a window.
        host, hosts: index of this host, and number of hosts. A host runs a contiguous share of the readers.
        names: the names of all streams, in the order of their ids in `stream_ids`.
        state: where to resume; None starts with the first batch.

    Raises:
        UserError: `readers` does not divide `batch_size`, or is not a multiple of `hosts`.
    """

    def __init__(
        self,
        streams: Sequence[StreamInput],
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
        names: Sequence[str] = STREAMS,
        state: LoaderState | None = None,
    ):
        if batch_size % readers or readers % hosts:
            raise UserError(
                f"DataLoader.readers={readers} must divide the {batch_size} windows of a batch, and be a multiple of"
                f" the number of hosts, {hosts}"
            )
        # Sorted by id: the order decides which stream a window comes from, and the layout of the state.
        mixed = [stream for stream in streams if shares.get(stream.name, 0) > 0]
        self.streams = sorted(mixed, key=lambda stream: names.index(stream.name))
        self.readers, self.batch_size, self.length = readers, batch_size, length
        self.schedule = WindowSchedule([shares[stream.name] for stream in self.streams], seed, batch_size)
        self._ids = [names.index(stream.name) for stream in self.streams]
        self._reader_indices = range(host * readers // hosts, (host + 1) * readers // hosts)
        self._batch, self._queue = state.batch if state else 0, queue
        self._identity = {
            "version": VERSION,
            "shares": {stream.name: shares[stream.name] for stream in self.streams},
            "seed": seed,
            "lanes": readers,  # the key in the fingerprints of existing checkpoints  # codespell:ignore lanes
            "batch_size": batch_size,
            "length": length,
            "mask_documents": mask_documents,
            "queue": queue,
        }
        if tuple(names) != STREAMS:
            self._identity["names"] = list(names)
        self._readers = [
            [Reader(s.source, index, readers, s.encoder.seed, s.encoder.validate) for s in self.streams]
            for index in self._reader_indices
        ]
        self._packers = [
            [
                (DialoguePacker if has_dialogues(stream.source) else Packer)(
                    reader,
                    stream.encoder,
                    length,
                    mask_documents,
                    queue,
                    PackerState.of_row(state.positions[row, column]) if state else None,
                )
                for column, (reader, stream) in enumerate(zip(row_readers, self.streams, strict=True))
            ]
            for row, row_readers in enumerate(self._readers)
        ]

    def fingerprint(self) -> str:
        """Digest of everything that determines the batches. A state is valid only for a loader with the same one."""
        streams = {
            stream.name: [
                stream.source.fingerprint(),
                stream.encoder.tokenizer.fingerprint,
                _fim_identity(stream.encoder.fim),
                dataclasses.asdict(stream.encoder.chat),
                *([stream.encoder.tokenizer.chat_template] if stream.encoder.chat.format == TEMPLATE else []),
                stream.encoder.seed,
                *([DIALOGUE_VERSION, stream.encoder.long_dialogues] if has_dialogues(stream.source) else []),
            ]
            for stream in self.streams
        }
        return hashlib.sha256(json.dumps([self._identity, streams], sort_keys=True).encode()).hexdigest()

    def next_batch(self) -> Batch:
        """The next batch, which contains the state after it."""
        arrays: dict[str, list[np.ndarray]] = {name: [] for name in FEATURES}
        tokens: dict[str, Counter[str]] = {stream.name: Counter() for stream in self.streams}
        started: list[tuple[str, PackedDocument]] = []
        documents: list[tuple[str, str]] = []
        stream_indices = self.schedule.streams_of_rows(self._batch)
        rows_per_reader = self.batch_size // self.readers
        for reader, packers in zip(self._reader_indices, self._packers, strict=True):
            first = reader * rows_per_reader
            for stream_index in stream_indices[first : first + rows_per_reader]:
                window = packers[stream_index].next_window()
                assert window is not None, "a stream repeats and never ends"
                for feature, values in window.arrays.items():
                    arrays[feature].append(values)
                arrays["stream_ids"].append(np.full(self.length, self._ids[stream_index], np.int32))
                name = self.streams[stream_index].name
                tokens[name] += window.tokens
                started += [(name, packed) for packed in window.started]
                documents += [(name, document.path) for document in window.documents]
        self._batch += 1
        stacked = {name: np.stack(rows) for name, rows in arrays.items()}
        return Batch(stacked, tokens, started, documents, self.state())

    def state(self) -> LoaderState:
        """The state after the last batch."""
        positions = [[packer.state.row(self._queue) for packer in packers] for packers in self._packers]
        return LoaderState(self._batch, np.array(positions, np.int64))

    def epochs(self, state: LoaderState) -> dict[str, float]:
        """Stream -> how many times its shards have been read, averaged over the readers of this host."""
        return {
            stream.name: float(state.positions[:, index, 0, 0].mean() * self.readers / self._readers[0][index].shards)
            for index, stream in enumerate(self.streams)
        }

    def left_out(self) -> dict[str, Counter[str]]:
        """Stream -> filter -> number of documents that the filter removed.

        Counts the documents that this host has read since this loader was created, at most one epoch of each stream.
        """
        return {
            name: self._counts(index, "left_out") for index, name in enumerate(stream.name for stream in self.streams)
        }

    def left_out_lines(self) -> list[str]:
        """Messages about documents that filters removed or rules changed, and fields of dialogues that are ignored.

        There is a line for each stream and filter, rule or field, with the first of its documents.
        """
        lines = []
        for index, stream in enumerate(self.streams):
            for action, attribute in (("left out of", "left_out"), ("changed in", "changed")):
                for reason, count in self._counts(index, attribute).most_common():
                    readers = (readers[index] for readers in self._readers if reason in readers[index].examples)
                    first = next(readers).examples[reason]
                    lines.append(f"{action} {stream.name}: {format_counts({reason: count})}, the first {first}")
            for field, count in self._counts(index, "ignored").most_common():
                readers = (readers[index] for readers in self._readers if field in readers[index].ignored)
                first = next(readers).ignored_examples[field]
                messages = f"{count:,} message{'s' * (count != 1)}"
                lines.append(f"ignored in {stream.name}: the field {field} of {messages}, the first {first}")
        return lines

    def _counts(self, stream: int, attribute: str) -> Counter[str]:
        """The sum of a counter of the readers of a stream."""
        return sum((getattr(readers[stream], attribute) for readers in self._readers), Counter())

    def with_counts(self, places: Sequence[PlaceInventory]) -> list[PlaceInventory]:
        """The inventory of the sources with the documents that this host has read, counted as in `left_out`."""
        readers = {stream.name: [row[index] for row in self._readers] for index, stream in enumerate(self.streams)}
        counted: list[PlaceInventory] = []
        numbers: Counter[str] = Counter()  # of the places of each stream so far
        for place in places:
            number = numbers[place.stream]
            numbers[place.stream] += 1
            seen = sum(reader.seen[number] for reader in readers[place.stream])
            left_out: Counter[str] = Counter()
            for reader in readers[place.stream]:
                left_out.update({reason: count for (at, reason), count in reader.left_out_of.items() if at == number})
            counted.append(place.counted(seen, left_out) if seen or left_out else place)
        return counted

    def metrics(self, batch: Batch) -> dict[str, float]:
        """The metrics of a batch: documents that start in it, tokens and documents in infilling forms, epochs.

        With several hosts the counts are estimates: the counts of this host, times the number of hosts.
        """
        hosts = self.readers // len(self._readers)
        kinds = Counter(packed.kind for _, packed in batch.started)
        return {
            "infilling_tokens": batch.infilling_tokens * hosts,
            "infilling_share": batch.infilling_tokens / batch.arrays["tokens"].size,
            "documents": len(batch.started) * hosts,
            "infilling_documents": (kinds["psm"] + kinds["spm"]) * hosts,
            **{f"epoch/{name}": epochs for name, epochs in self.epochs(batch.state).items()},
        }


def prefetched(loader: DataLoader, depth: int = 2) -> Generator[Batch]:
    """Yields the loader's batches, which a thread prepares up to `depth` batches ahead.

    Each batch contains its own state, so batches that were prepared but not consumed are not lost on a resume. An
    exception of the loader is raised in the thread that requests the batch.
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
                put(loader.next_batch())
        except BaseException as error:
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
