"""All data of one stage: its tokenizer, its training batches, and the documents it is evaluated on."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from codellama_jax.config.data import HASH, Corpus
from codellama_jax.config.run import Config
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from codellama_jax.runtime.run_dir import tokenizer_file
from codellama_jax.tokenizer import JSON, MODEL, Tokenizer, open_tokenizer
from tasks.loader import DataLoader, LoaderState
from tasks.sources.base import Document, Source, items
from tasks.sources.filters import LeftOut
from tasks.sources.inventory import Inventory
from tasks.streams import StageStreams
from tasks.tokenizer_training import trained_tokenizer

# Limit of the search for long validation documents, in characters. A real corpus has enough of them within this limit.
SEARCHED_CHARACTERS = 50_000_000


@dataclasses.dataclass(frozen=True)
class Epoch:
    """The size of one pass over the documents of a stream: their number, and their tokens in plain form."""

    stream: str
    share: float
    documents: int
    tokens: int


class StageData:
    """The data of a stage, for the trainer.

    Attributes:
        tokenizer: the run's tokenizer.
        stream_names: names of all streams, in the order of their ids in `stream_ids`.
        shares: stream -> share of the tokens.
    """

    def __init__(
        self,
        configuration: Config,
        run_dir: Path,
        host: int,
        hosts: int,
        log: Callable[[str], None],
        writes: bool = True,
    ):
        """Opens the tokenizer of the run, or trains it, and finds the streams of the stage's mixture.

        Args:
            configuration: the run's configuration.
            run_dir: the run's folder, which keeps its tokenizer.
            host, hosts: this host's share of the batches, and the number of shares (sharding.host_group).
            log: called with messages for the user.
            writes: whether this process writes the tokenizer to the run folder. Of several hosts one does, also where
                hosts share their batches.

        Raises:
            UserError: a corpus, mixture or tokenizer cannot be used.
        """
        self._config, self._host, self._hosts = configuration, host, hosts
        self.tokenizer = _run_tokenizer(configuration, run_dir, log, writes)
        self._streams = StageStreams(configuration, self.tokenizer)
        self._train: DataLoader | None = None  # the loader of the training batches
        self.stream_names, self.shares = self._streams.names, self._streams.shares
        if configuration.mixture.seqio is not None:
            shares = ", ".join(f"{name} {share:.1%}" for name, share in self.shares.items())
            replaced = " instead of the stage's Mixture.shares" if configuration.mixture.shares else ""
            log(f"SeqIO mixture {configuration.mixture.seqio}{replaced}: {shares}")

    def stream(self, split: str, state: LoaderState | None = None) -> DataLoader:
        """A loader of this host's share of the batches, which starts at the first batch or resumes from a state."""
        loader = DataLoader(
            self._streams.inputs(split),
            self.shares,
            seed=self._config.data_loader.seed,
            readers=self._config.data_loader.readers,
            batch_size=self._config.stage.batch_size,
            length=self._config.stage.sequence_length,
            mask_documents=self._config.packing.mask_documents,
            queue=self._config.packing.queue,
            host=self._host,
            hosts=self._hosts,
            names=self.stream_names,
            state=state,
        )
        if split == "train":
            self._train = loader
        return loader

    def inventory(self) -> Inventory:
        """What is read of each place of the corpora, with the documents that this host has trained on so far.

        Raises:
            UserError: a corpus cannot be used.
        """
        inventory = self._streams.inventory()
        if self._train is None:
            return inventory
        return dataclasses.replace(inventory, places=tuple(self._train.with_counts(inventory.places)))

    def saved(self, state: LoaderState, fingerprint: str) -> dict[str, Any]:
        """The state of the loaders of all hosts as JSON values, for a checkpoint."""
        positions = state.positions
        if self._hosts > 1:
            from jax.experimental import multihost_utils

            shares = np.asarray(multihost_utils.process_allgather(np.asarray(self._host))).tolist()
            gathered = np.asarray(multihost_utils.process_allgather(positions))
            # Hosts with the same share of the batches have the same readers: take one host for each share.
            positions = np.concatenate([gathered[shares.index(share)] for share in range(self._hosts)])
        return {"batch": state.batch, "positions": positions.tolist(), "fingerprint": fingerprint}

    def stream_state(self, saved: Mapping[str, Any]) -> LoaderState:
        """This host's part of a state from `saved`, which any number of hosts may have saved."""
        positions = np.array(saved["positions"], np.int64)
        readers = len(positions)
        own = positions[self._host * readers // self._hosts : (self._host + 1) * readers // self._hosts]
        return LoaderState(saved["batch"], own)

    def validation_batches(self) -> list[dict[str, np.ndarray]]:
        """The first batches of the validation split; the same in every call."""
        loader = self.stream("validation")
        return [loader.next_batch().arrays for _ in range(self._config.evaluation.batches)]

    def epoch(self) -> Epoch:
        """The size of one pass over the training documents of the stream with the largest share. Encodes all of them.

        Raises:
            UserError: it has no usable document.
        """
        name = max(self.shares, key=self.shares.__getitem__)
        source, encoder = self._streams.source(name, "train"), self._streams.encoder(name)
        tokens = documents = 0
        for shard in range(len(source)):
            for document in items(source, shard):
                with contextlib.suppress(LeftOut):  # a dialogue that training leaves out too
                    encoder.validate(document)
                    tokens += len(encoder.plain(document)[0])
                    documents += 1
        return Epoch(name, self.shares[name], documents, tokens)

    def infilling_files(self, count: int) -> list[tuple[str, str]]:
        """(path, text) of at most `count` validation files of code, complete; the same in every call."""
        return self._files(self._config.corpus, count)

    def general_files(self, count: int) -> list[tuple[str, str]]:
        """The same of Evaluation.general_corpus, whose validation split is that of the hash of the paths.

        Raises:
            UserError: the corpus cannot be used.
        """
        general = self._config.evaluation.general_corpus
        if general is not None and not len(general):
            return []
        defaults = Corpus()
        corpus = dataclasses.replace(
            self._config.corpus, code=general, held_out=HASH, validation_share=defaults.validation_share
        )
        return self._files(corpus, count, "code")

    def _files(self, corpus: Corpus, count: int, stream: str | None = None) -> list[tuple[str, str]]:
        whole = dataclasses.replace(corpus, document_characters=None, group_by_repository=False, neighbour_bytes=0)
        source = self._streams.open(stream or self._first_available("code", "python"), "validation", whole)
        return [(document.path, document.text) for document in itertools.islice(_documents(source), count)]

    def long_windows(self, length: int) -> np.ndarray:
        """Windows of `length` + 1 tokens, each from one validation document of code, int32 [windows, length + 1].

        Documents are complete files. The first window of every document comes before the second window of any.
        """
        corpus = dataclasses.replace(self._config.corpus, document_characters=None, group_by_repository=False)
        source = self._streams.open(self._first_available("code"), "validation", corpus)
        wanted, searched = self._config.evaluation.context_windows, 0
        long_documents: list[np.ndarray] = []
        for document in _documents(source):
            searched += len(document.text)
            # Very few tokens are shorter than a byte, so shorter texts need not be encoded.
            if len(document.text.encode()) >= length:
                ids = np.asarray(self.tokenizer.prompt_ids(document.text), np.int32)
                long_documents += [ids] if len(ids) > length else []
            if len(long_documents) >= wanted or searched > SEARCHED_CHARACTERS:
                break
        windows = [
            (index, ids[index * length : (index + 1) * length + 1])
            for ids in long_documents
            for index in range((len(ids) - 1) // length)
        ]
        windows.sort(key=lambda window: window[0])
        chosen = [ids for _, ids in windows[:wanted]]
        return np.array(chosen, np.int32).reshape(len(chosen), length + 1)

    def excerpts(self, count: int) -> list[tuple[str, str]]:
        """(stream, text) of at most `count` validation documents; the same in every call."""
        stream = self._first_available("python", "code")
        source = self._streams.source(stream, "validation")
        per_shard = -(-count // len(source))  # from several files, if there are several
        return [(stream, document.text) for document in itertools.islice(_documents(source, per_shard), count)]

    def _first_available(self, *preferred: str) -> str:
        """The first of the preferred streams that the mixture has, otherwise the mixture's first stream."""
        return next(name for name in (*preferred, *self.shares) if name in self.shares)


def _documents(source: Source, per_shard: int | None = None) -> Iterator[Document]:
    """Texts of a source, at most `per_shard` of each shard, with the shards in an order that is always the same."""
    for shard in np.random.default_rng(0).permutation(len(source)):
        documents = (item for item in items(source, int(shard)) if isinstance(item, Document))
        yield from itertools.islice(documents, per_shard)


def _run_tokenizer(configuration: Config, run_dir: Path, log: Callable[[str], None], writes: bool) -> Tokenizer:
    """The tokenizer of a run. The run keeps its first one, so that all stages use the same tokenizer."""
    settings = configuration.tokenizer
    if settings.model is None and (kept := tokenizer_file(run_dir)) is not None:
        return open_tokenizer(kept, settings.infilling)
    tokenizer = trained_tokenizer(configuration.corpus, configuration.filters, settings, log)
    kept = run_dir / tokenizer.file_name
    other = run_dir / (JSON if tokenizer.file_name == MODEL else MODEL)
    if other.exists() or (kept.exists() and kept.read_bytes() != tokenizer.model):
        raise UserError(
            f"{other if other.exists() else kept} differs from the tokenizer {settings.model}: use another --name"
        )
    if not kept.exists() and writes:
        # the file by which later stages find the tokenizer comes last
        for name, content in tokenizer.files.items() if tokenizer.file_name == JSON else ():
            if name != JSON:
                filesystem.write_atomically(run_dir / name, content)
        filesystem.write_atomically(kept, tokenizer.model)
    return tokenizer
