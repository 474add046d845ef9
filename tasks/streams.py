"""The streams that a stage mixes, as plain objects: each has a source of documents and an encoder.

Nothing here imports SeqIO or TensorFlow, except for a mixture of SeqIO's registry (Mixture.seqio). tasks/mixtures.py
wraps the same objects as SeqIO tasks.
"""

import contextlib
import difflib
import functools

from codellama_jax.config.data import SPLITS, STREAMS, Corpus
from codellama_jax.config.run import Config
from codellama_jax.errors import UserError
from codellama_jax.runtime.console import quiet_stderr
from codellama_jax.tokenizer import Tokenizer
from tasks import sources
from tasks.encoder import Encoder
from tasks.loader import StreamInput, stream_seed
from tasks.sources import seqio_source
from tasks.sources.base import Source
from tasks.sources.duplicates import Identity, shared_files
from tasks.sources.inventory import Inventory, PlaceInventory
from tasks.sources.splits import EmptySplit


class StageStreams:
    """The streams of a stage's mixture.

    Args:
        config: the run's configuration. Reads mixture, corpus, filters, fim, chat, packing, data_loader, and stage if
            the argument `stage` is None.
        tokenizer: the run's tokenizer.
        stage: name of the stage; None takes it from `config`. It is part of the seeds, so that a stage does not repeat
            the order and the infilling of its parent.

    Attributes:
        shares: stream -> share of the tokens. They add up to 1.
        names: the names of all streams, in the order of their ids in `stream_ids`: STREAMS, then the tasks of a SeqIO
            mixture.

    Raises:
        UserError: the SeqIO mixture does not exist.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, stage: str | None = None):
        self._config, self._tokenizer = config, tokenizer
        self.stage = config.stage.name if stage is None else stage
        self.seqio_mixture = config.mixture.seqio
        if self.seqio_mixture is None:
            self.shares = {name: share for name, share in config.mixture.shares.items() if share}
        else:
            self.shares = seqio_shares(self.seqio_mixture)
        self.names = (*STREAMS, *sorted(self.shares.keys() - set(STREAMS)))

    @functools.cache  # noqa: B019 - one entry per stream and split, which lives as long as the stage
    def source(self, name: str, split: str) -> Source:
        """The source of one split of a stream.

        Raises:
            UserError: it cannot be read, or the split is empty.
        """
        return self.open(name, split, self._config.corpus)

    def open(self, name: str, split: str, corpus: Corpus) -> Source:
        """The source of one split of a stream, with other corpus settings than those of the stage."""
        if self.seqio_mixture is not None:
            where = f"Mixture.seqio={self.seqio_mixture}: task {name}"
            return seqio_source.open_task(name, split, corpus=corpus, filters=self._config.filters, where=where)
        return sources.open(corpus.paths(name), name, split, corpus, self._config.filters)

    def inventory(self, split: str = "train") -> Inventory:
        """The inventory of the streams of the mixture. `split` is the split whose documents are counted."""
        places: list[PlaceInventory] = []
        files: dict[str, dict[Identity, str]] = {}
        for name in self.shares:
            sources = [self.source(name, split)]
            (other,) = set(SPLITS) - {split}
            with contextlib.suppress(EmptySplit):
                sources.append(self.source(name, other))
            common = {place.place for source in sources[1:] for place in source.inventory()}
            for place in sources[0].inventory():
                places.append(place if place.place in common else place.noted(f"no document for {other}"))
            files[name] = {identity: split for source in sources for identity, split in source.file_splits().items()}
        return Inventory(tuple(places), tuple(shared_files(files)))

    def encoder(self, name: str) -> Encoder:
        """The encoder of a stream."""
        seed = stream_seed(self._config.data_loader.seed, f"{self.stage}/{name}")
        long_dialogues = self._config.packing.long_dialogues
        return Encoder(self._tokenizer, self._config.fim, self._config.chat, seed, long_dialogues)

    def inputs(self, split: str) -> list[StreamInput]:
        """The streams of the mixture, for a DataLoader."""
        return [StreamInput(name, self.source(name, split), self.encoder(name)) for name in self.shares]


def seqio_shares(mixture: str) -> dict[str, float]:
    """Task -> share of the tokens, for a mixture in SeqIO's registry: its rates, scaled so that they add up to 1.

    Raises:
        UserError: there is no such mixture, or its rates are not usable.
    """
    with quiet_stderr():
        import seqio

    setting = f"Mixture.seqio={mixture}"
    if mixture in seqio.TaskRegistry.names():
        raise UserError(f"{setting} is a task, not a mixture: to read one task, bind a corpus such as seqio:{mixture}")
    if mixture not in seqio.MixtureRegistry.names():
        near = difflib.get_close_matches(mixture, seqio.MixtureRegistry.names(), 1)
        hint = f"did you mean {near[0]}? Otherwise " if near else ""
        raise UserError(
            f"{setting}: SeqIO has no mixture of this name: {hint}import the module that registers it, with"
            " --import=MODULE or 'import MODULE' in a gin file"
        )
    registered = seqio.MixtureRegistry.get(mixture)
    rates = {task.name: registered.get_rate(task) for task in registered.tasks}
    total = sum(rates.values())
    if min(rates.values()) < 0 or total <= 0:
        raise UserError(f"{setting}: the rates of its tasks are {rates}; they must be positive")
    return {name: rate / total for name, rate in rates.items() if rate}
