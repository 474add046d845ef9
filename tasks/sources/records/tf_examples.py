"""TFRecord files of tf.train.Example. TensorFlow is imported when one is read."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from codellama_jax.runtime.console import quiet_stderr
from tasks.sources.files import Found
from tasks.sources.records.record_file import Damaged, Record, RecordLocation, message_of, unreadable


@functools.cache
def tensorflow() -> Any:
    """TensorFlow, for reading files only. It cannot use the GPU, whose memory is for the model."""
    with quiet_stderr():
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # TensorFlow has already initialized its devices
            tf.config.set_visible_devices([], "GPU")
    return tf


def elements(dataset: Any) -> Iterator[Any]:
    """The elements of a dataset as NumPy values, in an order that is always the same.

    Without tf.data's tuning, for which each iterator would have a thread: it waits for this thread when it is closed,
    with the interpreter's lock, for longer than a small shard takes to read.
    """
    options = tensorflow().data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    return dataset.with_options(options).as_numpy_iterator()


class TfRecords:
    """Serialized tf.train.Example records, in one shard. Checksums are verified."""

    def __init__(self, file: Found):
        self.file = file

    def __len__(self) -> int:
        return 1

    def read(self, shard: int) -> Iterator[Record]:
        tf = tensorflow()
        number = end = 0
        try:
            for number, data in enumerate(elements(tf.data.TFRecordDataset(self.file.location)), 1):
                end += len(data) + 16  # length and two checksums
                location = RecordLocation(self.file, number, separator="#")
                yield Record(location, len(data), functools.partial(_example, data, location))
        except tf.errors.DataLossError as error:
            raise Damaged(message_of(error), RecordLocation(self.file, number + 1, separator="#")) from None
        except tf.errors.OpError as error:
            raise unreadable(self.file.location, error) from None
        if end != self.file.size:  # TensorFlow reports no error where the remaining bytes are shorter than a header
            raise Damaged("the file is truncated", RecordLocation(self.file, number + 1, separator="#"))


def _example(data: bytes, location: RecordLocation) -> Mapping[str, Any]:
    """The features of a tf.train.Example: each is a single value, a list of several values, or None if it is empty."""
    from google.protobuf.message import DecodeError

    try:
        features = tensorflow().train.Example.FromString(data).features.feature
    except DecodeError:
        raise Damaged("the record is not a tf.train.Example", location) from None
    fields = {}
    for name, feature in features.items():
        kind = feature.WhichOneof("kind")
        values = list(getattr(feature, kind).value) if kind else []
        fields[name] = values[0] if len(values) == 1 else values or None
    return fields
