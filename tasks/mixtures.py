"""The streams as SeqIO tasks and a stage's mixture of them.

A task's source gives documents, its preprocessor packs them into windows; a mixture mixes windows, so its rates are
shares of tokens whatever the documents' lengths. Anything that reads SeqIO tasks can use them. The trainer takes their
sources and encoders (`stream_tasks`) and draws its windows through tasks/loader.py, with the same packer.
"""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from codellama_jax.config.data import SPLITS, STREAMS, Chat, Corpus, Filters, Fim, Mixture, Packing
from codellama_jax.tokenizer import Tokenizer
from tasks import sources
from tasks.loader import StreamInput, task_seed
from tasks.packing import FEATURES, Cursor, Encoder, Packer
from tasks.reader import Reader
from tasks.sources.base import Dialogue, Document, Source
from tasks.vocabulary import LlamaVocabulary


class CorpusSource(seqio.DataSource):
    """Documents of one stream as SeqIO examples: text, path, messages (JSON, of a dialogue) and a key for drawing."""

    def __init__(self, stream: str, corpus: Corpus, filters: Filters, encoder: Encoder):
        super().__init__(splits=SPLITS)
        self._stream, self._corpus, self._filters, self._encoder = stream, corpus, filters, encoder

    @functools.cache  # noqa: B019 - a source lives as long as its registration
    def files(self, split: str) -> Source:
        """The files of a split."""
        paths = self._corpus.paths(self._stream)
        return sources.open(paths, self._stream, split, self._corpus, self._filters)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        return [split]

    def get_dataset(
        self,
        split: str,
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
    ) -> tf.data.Dataset:
        """One pass over the documents; with `shuffle`, in the order of the trainer's first epoch."""
        index, shards = (shard_info.index, shard_info.num_shards) if shard_info else (0, 1)
        order = self._encoder.seed if seed is None else task_seed(seed, self._stream)

        def examples() -> Iterator[dict]:
            lane = Reader(self.files(split), index, shards, order, self._encoder.check, shuffle, endless=False)
            place = (0, 0, 0)
            while (found := lane.find(place)) is not None:
                (piece, block, number), document = found
                yield {
                    "text": document.text if isinstance(document, Document) else "",
                    "path": document.path,
                    "messages": json.dumps(document.messages) if isinstance(document, Dialogue) else "",
                    "key": np.array(lane.key(found[0]), np.int64),
                }
                place = piece, block, number + 1

        signature = {name: tf.TensorSpec((), tf.string) for name in ("text", "path", "messages")}
        return tf.data.Dataset.from_generator(
            examples, output_signature=signature | {"key": tf.TensorSpec((3,), tf.int64)}
        )


class _Examples:
    """The documents of a dataset, in its order, as a packer takes them."""

    def __init__(self, dataset: tf.data.Dataset):
        self._examples = enumerate(dataset.as_numpy_iterator())
        self._keys: dict[int, tuple[int, ...]] = {}

    def find(self, place: Cursor) -> tuple[Cursor, Document | Dialogue] | None:
        """The next document: a packer that begins at the beginning asks for one after the other."""
        number, example = next(self._examples, (0, None))
        if example is None:
            return None
        self._keys[number] = tuple(map(int, example["key"]))
        path = example["path"].decode()
        if example["messages"]:
            return (number, 0, 0), Dialogue(json.loads(example["messages"]), path)
        return (number, 0, 0), Document(example["text"].decode(), path)

    def key(self, place: Cursor) -> tuple[int, ...]:
        """What came with the example; asked for once."""
        return self._keys.pop(place[0])


def pack(
    dataset: tf.data.Dataset, sequence_length: Mapping[str, int], *, encoder: Encoder, stream: str, packing: Packing
) -> tf.data.Dataset:
    """SeqIO preprocessor: documents in, full windows of sequence_length["tokens"] out."""
    length = sequence_length["tokens"]

    def windows() -> Iterator[dict]:
        packer = Packer(_Examples(dataset), encoder, length, packing.mask_documents, packing.queue)
        stream_ids = np.full(length, STREAMS.index(stream), np.int32)
        while (window := packer.next_window()) is not None:
            yield window.arrays | {"stream_ids": stream_ids}

    signature = {name: tf.TensorSpec((length,), tf.as_dtype(dtype)) for name, dtype in FEATURES.items()}
    return tf.data.Dataset.from_generator(windows, output_signature=signature)


def register(
    stage: str,
    mixture: Mixture,
    *,
    corpus: Corpus,
    filters: Filters,
    tokenizer: Tokenizer,
    fim: Fim,
    packing: Packing,
    chat: Chat,
    seed: int,
) -> seqio.Mixture:
    """Registers the five streams as tasks and `STAGE_mixture` of them; what was registered under those names goes."""
    vocabulary = LlamaVocabulary(tokenizer)
    features = {
        name: seqio.Feature(vocabulary, add_eos=False, dtype=tf.as_dtype(dtype)) for name, dtype in FEATURES.items()
    }
    for name in STREAMS:
        # The stage is in the seed: a later stage must not read again what its parent read first, cut where it was cut.
        encoder = Encoder(tokenizer, fim, chat, task_seed(seed, f"{stage}/{name}"))
        seqio.TaskRegistry.remove(name)
        seqio.TaskRegistry.add(
            name,
            source=CorpusSource(name, corpus, filters, encoder),
            preprocessors=[functools.partial(pack, encoder=encoder, stream=name, packing=packing)],
            output_features=features,
        )
    name = f"{stage}_mixture"
    # A mixture keeps the task objects it was built with, so it is always built anew with them.
    seqio.MixtureRegistry.remove(name)
    return seqio.MixtureRegistry.add(name, [(stream, share) for stream, share in mixture.shares.items() if share])


def stream_tasks(mixture: seqio.Mixture, split: str) -> list[StreamInput]:
    """The mixture's tasks as tasks/loader.py takes them."""
    tasks = []
    for task in mixture.tasks:
        (preprocessor,) = task.preprocessors
        tasks.append(StreamInput(task.name, task.source.files(split), preprocessor.keywords["encoder"]))
    return tasks


def shares(mixture: seqio.Mixture) -> dict[str, float]:
    """Stream -> rate."""
    return {task.name: mixture.get_rate(task) for task in mixture.tasks}
