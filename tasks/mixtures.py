"""The streams of a stage as SeqIO tasks and a mixture, for programs that read SeqIO.

A task's source gives documents, and its preprocessor packs them into windows. A mixture mixes windows, so its rates are
shares of tokens for documents of any length. The sources, encoders and packer are those of the trainer
(tasks/streams.py, tasks/packing.py), so the windows have the same bytes.

    from tasks import mixtures
    mixtures.register(config, tokenizer)
    seqio.get_mixture_or_task("code_mixture").get_dataset({"tokens": 4096}, split="train")
"""

import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from codellama_jax.config.data import SPLITS, STREAMS, Packing
from codellama_jax.config.run import Config
from codellama_jax.errors import UserError
from codellama_jax.tokenizer import Tokenizer
from tasks.dialogue_packing import DialoguePacker
from tasks.encoder import Encoder
from tasks.loader import stream_seed
from tasks.packing import FEATURES, START, Cursor, Packer
from tasks.reader import Reader
from tasks.sources.base import Dialogue, Document, Source
from tasks.sources.records.tf_examples import elements
from tasks.streams import StageStreams
from tasks.vocabulary import LlamaVocabulary


class CorpusSource(seqio.DataSource):
    """Documents of one stream as SeqIO examples: text, path, messages (a dialogue as JSON) and key (for infilling)."""

    def __init__(self, streams: StageStreams, name: str):
        super().__init__(splits=SPLITS)
        self._streams, self._name, self.encoder = streams, name, streams.encoder(name)

    def documents(self, split: str) -> Source:
        """The plain source of a split."""
        return self._streams.source(self._name, split)

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
        order = self.encoder.seed if seed is None else stream_seed(seed, self._name)

        def examples() -> Iterator[dict]:
            source, validate = self.documents(split), self.encoder.validate
            reader = Reader(source, index, shards, order, validate, shuffle, repeat=False)
            cursor = START
            while (result := reader.seek(cursor)) is not None:
                cursor, document = result
                yield {
                    "text": document.text if isinstance(document, Document) else "",
                    "path": document.path,
                    "messages": json.dumps(document.messages) if isinstance(document, Dialogue) else "",
                    "key": np.array(reader.key(cursor), np.int64),
                }
                cursor = cursor._replace(document=cursor.document + 1)

        signature = {name: tf.TensorSpec((), tf.string) for name in ("text", "path", "messages")}
        return tf.data.Dataset.from_generator(
            examples, output_signature=signature | {"key": tf.TensorSpec((3,), tf.int64)}
        )


class _ExampleReader:
    """Reads the documents of a dataset in order, as a DocumentReader. They can be read only once, from the start.

    Attributes:
        dialogues: whether they are dialogues.
    """

    def __init__(self, dataset: tf.data.Dataset):
        examples = elements(dataset)
        first = list(itertools.islice(examples, 1))
        self.dialogues = any(example["messages"] for example in first)
        self._examples = enumerate(itertools.chain(first, examples))
        self._keys: dict[int, tuple[int, ...]] = {}

    def seek(self, cursor: Cursor) -> tuple[Cursor, Document | Dialogue] | None:
        """The next document. The cursor is ignored, because a new packer requests the documents in order."""
        number, example = next(self._examples, (0, None))
        if example is None:
            return None
        cursor, path = Cursor(number, 0, 0), example["path"].decode()
        if example["messages"]:
            return cursor, Dialogue(json.loads(example["messages"]), path)
        self._keys[number] = tuple(map(int, example["key"]))
        return cursor, Document(example["text"].decode(), path)

    def key(self, cursor: Cursor) -> tuple[int, ...]:
        """The key of the example, a text. It can be requested only once."""
        return self._keys.pop(cursor.shard)

    def leave_out(self, cursor: Cursor, reason: str, document: Document | Dialogue) -> None:
        """Does nothing, because a SeqIO dataset has no counters."""


def pack(
    dataset: tf.data.Dataset, sequence_length: Mapping[str, int], *, encoder: Encoder, stream_id: int, packing: Packing
) -> tf.data.Dataset:
    """SeqIO preprocessor: turns documents into full windows of sequence_length["tokens"] tokens."""
    length = sequence_length["tokens"]

    def windows() -> Iterator[dict]:
        reader = _ExampleReader(dataset)
        packer_class = DialoguePacker if reader.dialogues else Packer
        packer = packer_class(reader, encoder, length, packing.mask_documents, packing.queue)
        stream_ids = np.full(length, stream_id, np.int32)
        while (window := packer.next_window()) is not None:
            yield window.arrays | {"stream_ids": stream_ids}

    signature = {name: tf.TensorSpec((length,), tf.as_dtype(dtype)) for name, dtype in FEATURES.items()}
    return tf.data.Dataset.from_generator(windows, output_signature=signature)


def register(config: Config, tokenizer: Tokenizer) -> seqio.Mixture:
    """Registers the streams of a stage as SeqIO tasks, and their mixture.

    The tasks are named code, python, nl_code, nl and instruct, the mixture STAGE_mixture. For a mixture of SeqIO's
    registry (Mixture.seqio), a task of packed windows is registered for each of its tasks, as TASK_packed. Tasks and
    mixtures that an earlier call registered under these names are replaced.

    Args:
        config: the run's configuration. Reads stage, mixture, corpus, filters, fim, packing, chat and data_loader.
        tokenizer: the run's tokenizer.

    Raises:
        UserError: another module has registered a task or mixture under one of these names.
    """
    streams = StageStreams(config, tokenizer)
    vocabulary = LlamaVocabulary(tokenizer)
    features = {
        name: seqio.Feature(vocabulary, add_eos=False, dtype=tf.as_dtype(dtype)) for name, dtype in FEATURES.items()
    }
    suffix = "" if streams.seqio_mixture is None else "_packed"
    mixture_name = f"{streams.stage}_mixture"
    names = STREAMS if streams.seqio_mixture is None else tuple(streams.shares)
    for name in names:
        _remove_own(seqio.TaskRegistry, name + suffix)
    # A mixture keeps the task objects that it was created with, so it is replaced together with them.
    _remove_own(seqio.MixtureRegistry, mixture_name)
    for name in names:
        source = CorpusSource(streams, name)
        packed = functools.partial(
            pack, encoder=source.encoder, stream_id=streams.names.index(name), packing=config.packing
        )
        seqio.TaskRegistry.add(name + suffix, source=source, preprocessors=[packed], output_features=features)
    rates = [(stream + suffix, share) for stream, share in streams.shares.items()]
    return seqio.MixtureRegistry.add(mixture_name, rates)


def _remove_own(registry: type[seqio.TaskRegistry] | type[seqio.MixtureRegistry], name: str) -> None:
    """Removes a task or mixture that `register` added. Raises UserError if another module registered it."""
    if name not in registry.names():
        return
    registered = registry.get(name)
    tasks = registered.tasks if isinstance(registered, seqio.Mixture) else [registered]
    if not all(isinstance(task.source, CorpusSource) for task in tasks):
        kind = "mixture" if isinstance(registered, seqio.Mixture) else "task"
        raise UserError(f"a SeqIO {kind} named {name} is already registered: rename it")
    registry.remove(name)
