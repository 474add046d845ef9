"""Source over a registered SeqIO task, so that a user's own task can be the corpus of a stream: seqio:NAME.

The task's examples must be text: its preprocessors are applied, and none of them may tokenize. These features are read,
all of them strings:

    text streams   the text, path, language, repository and licence as in records (records/record_fields.py); without a
                   text, targets, preceded by inputs and a line break if there are inputs
    dialogues      the shapes of records/dialogue_shapes.py, with lists of messages as JSON

A shard is a shard of the task's source, read in its own order without shuffling, and a block is consecutive examples of
about Corpus.shuffle_bytes. Documents are found again by shard and number, so that exact resume needs no tf.data
iterator state. Random preprocessors get a seed that is a hash of the task's name and the shard: they draw the same
numbers in each epoch. SeqIO and TensorFlow are imported when a task is opened.
"""

import functools
from collections.abc import Iterator
from typing import Any

from codellama_jax.config.data import Corpus, Filters
from codellama_jax.errors import UserError
from tasks.sources.base import Source, hash_of
from tasks.sources.duplicates import FilesRead, check_not_repeated
from tasks.sources.files import UNKNOWN_SIZE, Found
from tasks.sources.inventory import PlaceInventory
from tasks.sources.records.record_file import Damaged, Record, RecordLocation, message_of
from tasks.sources.records.record_source import Records
from tasks.sources.records.tf_examples import tensorflow
from tasks.sources.seqio_task import TaskReader, find_task

PREFIX = "seqio:"


def open_task(
    name: str,
    split: str,
    *,
    corpus: Corpus,
    filters: Filters,
    stream: str | None = None,
    where: str | None = None,
    files_read: FilesRead | None = None,
) -> Source:
    """Opens one split of a registered task.

    The task's own splits train and validation are used. If it has no validation split, train is divided by a hash as
    other records are. Other splits, such as test, are never read.

    Args:
        name: name of the task.
        split: train or validation.
        corpus: how documents are split, cut and grouped, and the size of a block.
        filters: which documents are removed.
        stream: the stream that reads the task, one of STREAMS. With None, the stream has the task's name, dialogues are
            read if the examples have messages or prompt and completion, and filters for code are not applied.
        where: the setting that error messages name.
        files_read: the files that earlier places of the stream read.

    Raises:
        UserError: no such task or split, an earlier place is the same task, the task yields tokens or no text, or the
            split has no usable document.
        ValueError: no such split.
    """
    where = where or f"{PREFIX}{name}"
    place = f"{PREFIX}{name}"
    check_not_repeated(where, *(files_read or FilesRead()).add(place, [Found(name, place, UNKNOWN_SIZE, "", place)]))
    task = find_task(name, where)
    has_validation = "validation" in task.splits
    read_split = split if has_validation else "train"
    if read_split not in task.splits:
        raise UserError(f"{where}: the task has no split {read_split} (found: {', '.join(task.splits) or 'none'})")
    reader = TaskReader(task, read_split, where)
    dialogues = stream == "instruct" if stream else reader.has_messages
    reader.select_features(dialogues, stream or name, corpus)
    return SeqioSource(
        reader,
        split,
        name=stream or name,
        corpus=corpus,
        settings=filters,
        where=where,
        single_split=has_validation,
        dialogues=dialogues,
        columns=dict.fromkeys(reader.features),
        place=PlaceInventory(
            stream or name,
            place,
            "SeqIO task",
            read={"shards": len(reader.shards)},
            fields=reader.taken,
            ignored_fields=reader.ignored,
            split_by="the task's splits" if has_validation else "",
        ),
    )


class SeqioSource(Records):
    """A Source over the shards of a SeqIO task."""

    def __init__(self, reader: TaskReader, split: str, **options: Any):
        """See open_task, and Records for the options."""
        self._reader = reader
        super().__init__([TaskShard(reader, index) for index in range(len(reader.shards))], split, **options)

    def fingerprint(self) -> str:
        return hash_of(self.name, ("seqio", super().fingerprint(), self._records.single, *self._reader.identity()), ())


class TaskShard:
    """A Format: one shard of a task, whose records are the preprocessed examples."""

    def __init__(self, reader: TaskReader, index: int):
        self.file, self._reader, self._index = reader.shards[index], reader, index

    def __len__(self) -> int:
        return 1

    def read(self, shard: int) -> Iterator[Record]:
        tf = tensorflow()
        number = 0
        try:
            for number, example in enumerate(self._reader.examples(self._index), 1):
                location = RecordLocation(self.file, number, separator="#")
                size = sum(len(value) for value in example.values() if isinstance(value, bytes))
                yield Record(location, size, functools.partial(self._reader.fields, example))
        except tf.errors.DataLossError as error:
            raise Damaged(message_of(error), RecordLocation(self.file, number + 1, separator="#")) from None
        except tf.errors.OpError as error:
            raise UserError(
                f"{self._reader.where}: example {number + 1} of {self.file.path} cannot be read ({message_of(error)}):"
                " correct the task's source or its preprocessors"
            ) from error
