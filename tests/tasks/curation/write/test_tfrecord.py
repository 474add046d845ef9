"""Serialized examples, as TensorFlow parses them."""

import pytest

from tasks.curation.write.tfrecord import example
from tasks.sources.records.tf_examples import tensorflow


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**31, 2**40])
def test_an_example_parses_with_protobuf(value: int) -> None:
    text = "né\0\n" * value if value < 400 else ""
    message = tensorflow().train.Example.FromString(example({"text": text, "n": value}))
    features = message.features.feature
    assert list(features["n"].int64_list.value) == [value]
    assert features["text"].bytes_list.value[0].decode() == text
