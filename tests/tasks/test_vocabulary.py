"""The Llama tokenizer as a SeqIO vocabulary."""

import json
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizer_families

from codellama_jax.runtime.console import quiet_stderr
from codellama_jax.tokenizer import SentencePieceTokenizer, Tokenizer, from_files

with quiet_stderr():
    import tensorflow as tf

    from tasks.vocabulary import LlamaVocabulary

Fuzz = Callable[[np.random.Generator, int], str]


@pytest.fixture(params=["small", "llama", "llama3", "mistral"])
def vocabulary(request: pytest.FixtureRequest) -> LlamaVocabulary:
    if request.param in tokenizer_families.FAMILIES:
        pytest.importorskip("tokenizers")
        return LlamaVocabulary(from_files(tokenizer_families.files(request.param), infilling=True))
    return LlamaVocabulary(request.getfixturevalue(f"{request.param}_tokenizer"))


@pytest.fixture(scope="module")
def strings(fuzzed: Fuzz) -> list[str]:
    """Fuzzed strings, and complete source files with their newlines."""
    rng = np.random.default_rng(4)
    drawn = [fuzzed(rng, int(rng.integers(0, 80))) for _ in range(300)]
    files = [Path(module.__file__ or "").read_text(encoding="utf-8") for module in (json, types, json.decoder)]
    return ["", " ", "\n", "\n\n  x", "\r\n", "a\tb", *drawn, *files, files[0].replace("\n", "\r\n")]


def test_encode_and_encode_tf_agree(vocabulary: LlamaVocabulary, strings: list[str]):
    """They agree with each other and with the tokenizer, for one string and for a batch."""
    expected = [vocabulary.tokenizer.encode(text).tolist() for text in strings]
    assert [vocabulary.encode(text) for text in strings] == expected
    assert vocabulary.encode_tf(tf.constant(strings)).to_list() == expected
    for text, ids in list(zip(strings, expected, strict=True))[::10]:
        encoded = vocabulary.encode_tf(tf.constant(text))
        assert encoded.dtype == tf.int32 and encoded.numpy().tolist() == ids


def test_decoding_encoded_text_gives_the_text(vocabulary: LlamaVocabulary, strings: list[str]):
    assert [vocabulary.decode(vocabulary.encode(text)) for text in strings] == strings
    ragged = vocabulary.encode_tf(tf.constant(strings[:40]))
    for ids in (ragged, ragged.to_tensor(vocabulary.pad_id)):
        assert [text.decode() for text in vocabulary.decode_tf(ids).numpy()] == strings[:40]
    for text in [*strings[::10], strings[-1]]:
        decoded = vocabulary.decode_tf(vocabulary.encode_tf(tf.constant(text)))
        assert decoded.shape == () and decoded.numpy().decode() == text


def test_decodes_in_a_graph_with_any_number_of_axes(vocabulary: LlamaVocabulary):
    ids = vocabulary.encode_tf(tf.constant(["ab", "ab", "cd", "ab"])).to_tensor(vocabulary.pad_id)
    for shape, expected in (((4,), [b"ab", b"ab", b"cd", b"ab"]), ((2, 2), [[b"ab", b"ab"], [b"cd", b"ab"]])):
        reshaped = tf.reshape(ids, (*shape, -1))
        decode = tf.function(vocabulary.decode_tf, input_signature=[tf.TensorSpec((*shape, None), tf.int32)])
        assert decode(reshaped).numpy().tolist() == expected
    dataset = tf.data.Dataset.from_tensors("a b").map(vocabulary.encode_tf).map(vocabulary.decode_tf)
    assert list(dataset.as_numpy_iterator()) == [b"a b"]


def test_rows_beyond_the_pieces_have_no_text(vocabulary: LlamaVocabulary):
    tokenizer = vocabulary.tokenizer
    assert vocabulary.vocab_size == tokenizer.rows > tokenizer.pieces
    step = [] if tokenizer.step_id is None else [tokenizer.step_id]
    text = [*tokenizer.start_ids, tokenizer.prefix_id, *tokenizer.encode("a <EOT>"), tokenizer.eot_id, *step]
    for ids in (text, [*text, tokenizer.eos_id, *tokenizer.encode("b")]):  # nothing after EOS is read
        assert vocabulary.decode(ids[: len(text) + 1]) == "a <EOT>"
        assert vocabulary.decode_tf(tf.constant(ids)).numpy() == b"a <EOT>"
    expected = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id)
    assert (vocabulary.bos_id, vocabulary.eos_id, vocabulary.unk_id) == expected
    if isinstance(tokenizer, SentencePieceTokenizer):
        assert tokenizer.rows == tokenizer.pieces + 16 and expected == (1, 2, 0) and vocabulary.pad_id == 0


def test_batches_of_any_rank_are_encoded_in_a_graph(vocabulary: LlamaVocabulary):
    texts = [[["a b", ""], ["c", "\n"]], [["d", "e"], ["<|eot_id|>", " f"]]]
    expected = [[[vocabulary.encode(text) for text in row] for row in rows] for rows in texts]
    encode = tf.function(vocabulary.encode_tf, input_signature=[tf.TensorSpec((2, None, 2), tf.string)])
    assert encode(tf.constant(texts)).to_list() == expected


def test_vocabularies_of_one_tokenizer_are_equal(small_tokenizer: Tokenizer):
    """SeqIO rejects a mixture of tasks with different vocabularies."""
    one, other = (
        LlamaVocabulary(small_tokenizer),
        LlamaVocabulary(SentencePieceTokenizer(small_tokenizer.model, infilling=True)),
    )
    assert one == other and hash(one) == hash(other)
    assert one != LlamaVocabulary(SentencePieceTokenizer(small_tokenizer.model, infilling=False))
