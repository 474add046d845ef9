"""All data of one stage: its tokenizer, its training stream, and what it is evaluated on."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from codellama_jax.config.data import STREAMS
from codellama_jax.config.run import Config
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from codellama_jax.tokenizer import Tokenizer
from tasks import mixtures, sources
from tasks.loader import DataLoader, LoaderState
from tasks.sources.base import Document, Source, items
from tasks.tokenizer_training import trained_tokenizer

# Characters of validation documents that are looked through for long ones: a real corpus has plenty.
SEARCHED = 50_000_000


class StageData:
    """Attributes:
    tokenizer: the run's.
    stream_names: names of all streams, in the order of their ids in `stream_ids`.
    shares: stream -> share of the tokens.
    """

    def __init__(self, configuration: Config, run_dir: Path, host: int, hosts: int, say: Callable[[str], None]):
        """Opens the run's tokenizer, making it if it must, and registers the stage's tasks and mixture with SeqIO.

        Args:
            configuration: of the run.
            run_dir: the run's folder, where its tokenizer is kept.
            host, hosts: which share of the batches is this host's, and how many there are (sharding.host_group).
            say: takes a line for the user.

        Raises:
            UserError: a corpus or tokenizer that cannot be used.
        """
        self._config, self._host, self._hosts = configuration, host, hosts
        self.tokenizer = _run_tokenizer(configuration, run_dir, say, writes=host == 0)
        self._mixture = mixtures.register(
            configuration.stage.name,
            configuration.mixture,
            corpus=configuration.corpus,
            filters=configuration.filters,
            tokenizer=self.tokenizer,
            fim=configuration.fim,
            packing=configuration.packing,
            chat=configuration.chat,
            seed=configuration.data_loader.seed,
        )
        self.stream_names, self.shares = STREAMS, configuration.mixture.shares

    def stream(self, split: str, state: LoaderState | None = None) -> DataLoader:
        """This host's share of the mixture's batches."""
        return DataLoader(
            mixtures.stream_tasks(self._mixture, split),
            mixtures.shares(self._mixture),
            seed=self._config.data_loader.seed,
            readers=self._config.data_loader.readers,
            batch_size=self._config.stage.batch_size,
            length=self._config.stage.sequence_length,
            mask_documents=self._config.packing.mask_documents,
            queue=self._config.packing.queue,
            host=self._host,
            hosts=self._hosts,
            state=state,
        )

    def saved(self, state: LoaderState, fingerprint: str) -> dict[str, Any]:
        """The whole stream's state for a checkpoint, every host's lanes in it, as JSON values."""
        positions = state.positions
        if self._hosts > 1:
            from jax.experimental import multihost_utils

            shares = np.asarray(multihost_utils.process_allgather(np.asarray(self._host))).tolist()
            gathered = np.asarray(multihost_utils.process_allgather(positions))
            # hosts that share their windows have the same lanes: one of each group will do
            positions = np.concatenate([gathered[shares.index(share)] for share in range(self._hosts)])
        return {"batch": state.batch, "positions": positions.tolist(), "fingerprint": fingerprint}

    def stream_state(self, saved: Mapping[str, Any]) -> LoaderState:
        """This host's part of what `saved` gave, for any number of hosts."""
        positions = np.array(saved["positions"], np.int64)
        lanes = len(positions)
        mine = positions[self._host * lanes // self._hosts : (self._host + 1) * lanes // self._hosts]
        return LoaderState(saved["batch"], mine)

    def validation_batches(self) -> list[dict[str, np.ndarray]]:
        """The first batches of the validation split: the same each time."""
        stream = self.stream("validation")
        return [stream.next_batch().arrays for _ in range(self._config.evaluation.batches)]

    def long_windows(self, length: int) -> np.ndarray:
        """Stretches of `length` + 1 tokens within one validation document of code each, int32 [windows, length + 1].

        Documents are whole files; the first stretch of each comes before the second of any.
        """
        corpus = dataclasses.replace(self._config.corpus, document_characters=None, group_by_repository=False)
        stream = self._preferred("code")
        source = sources.open(corpus.paths(stream), stream, "validation", corpus, self._config.filters)
        wanted, searched = self._config.evaluation.context_windows, 0
        long: list[np.ndarray] = []
        for document in _documents(source):
            searched += len(document.text)
            # hardly a token is shorter than a byte, so shorter texts need not be encoded
            if len(document.text.encode()) >= length:
                ids = np.concatenate([[self.tokenizer.bos_id], self.tokenizer.encode(document.text)])
                long += [ids] if len(ids) > length else []
            if len(long) >= wanted or searched > SEARCHED:
                break
        stretches = [
            (index, ids[index * length : (index + 1) * length + 1])
            for ids in long
            for index in range((len(ids) - 1) // length)
        ]
        stretches.sort(key=lambda stretch: stretch[0])
        chosen = [ids for _, ids in stretches[:wanted]]
        return np.array(chosen, np.int32).reshape(len(chosen), length + 1)

    def excerpts(self, count: int) -> list[tuple[str, str]]:
        """(stream, text) of validation documents, in an order that is the same each time, at most `count`."""
        stream = self._preferred("python", "code")
        corpus = self._config.corpus
        source = sources.open(corpus.paths(stream), stream, "validation", corpus, self._config.filters)
        each = -(-count // len(source))  # of a piece: they should not all be of one file where there are more
        return [(stream, document.text) for document in itertools.islice(_documents(source, each), count)]

    def _preferred(self, *streams: str) -> str:
        """The first of these streams that the mixture has, or else its first."""
        shares = self._config.mixture.shares
        return next(name for name in (*streams, *shares) if name in shares)


def _documents(source: Source, each: int | None = None) -> Iterator[Document]:
    """Texts of a source (at most `each` of a piece), its pieces in an order that is the same each time."""
    for piece in np.random.default_rng(0).permutation(len(source)):
        texts = (item for item in items(source, int(piece)) if isinstance(item, Document))
        yield from itertools.islice(texts, each)


def _run_tokenizer(configuration: Config, run_dir: Path, say: Callable[[str], None], writes: bool) -> Tokenizer:
    """The tokenizer of a run. A run keeps the one it began with: a later stage must not get another one."""
    settings, kept = configuration.tokenizer, run_dir / "tokenizer.model"
    if settings.model is None and kept.exists():
        return Tokenizer.from_file(kept, settings.infilling)
    tokenizer = trained_tokenizer(configuration.corpus, configuration.filters, settings, say)
    if not kept.exists() and writes:
        filesystem.write_atomically(kept, tokenizer.model)
    elif kept.exists() and kept.read_bytes() != tokenizer.model:
        raise UserError(f"{kept} is another tokenizer than {settings.model}: use another --name")
    return tokenizer
