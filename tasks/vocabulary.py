"""The tokenizers of this project as a seqio.Vocabulary."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_text as tf_text

from codellama_jax.tokenizer import SentencePieceTokenizer, Tokenizer


class LlamaVocabulary(seqio.Vocabulary):
    """Encodes and decodes as `Tokenizer` does. Further rows follow the pieces; no text is encoded to them.

    TensorFlow graphs use SentencepieceTokenizer for SentencePiece's models, because FastSentencepieceTokenizer loses
    newlines with Llama's, and call Python for a tokenizer.json.
    """

    def __init__(self, tokenizer: Tokenizer):
        super().__init__(extra_ids=tokenizer.rows - tokenizer.pieces)
        self.tokenizer = tokenizer
        self._tf_tokenizer = None

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, LlamaVocabulary) and self.tokenizer.fingerprint == other.tokenizer.fingerprint

    def __hash__(self) -> int:
        return hash(self.tokenizer.fingerprint)

    @property
    def bos_id(self) -> int | None:
        return self.tokenizer.bos_id

    @property
    def eos_id(self) -> int:
        return self.tokenizer.eos_id

    @property
    def unk_id(self) -> int | None:
        return self.tokenizer.unk_id

    @property
    def pad_id(self) -> int:
        """An id without text: 0 in SentencePiece's models; otherwise that of padding, or EOS."""
        if isinstance(self.tokenizer, SentencePieceTokenizer):
            return super().pad_id
        return self.tokenizer.eos_id if self.tokenizer.pad_id is None else self.tokenizer.pad_id

    @property
    def _base_vocab_size(self) -> int:
        return self.tokenizer.pieces

    def _encode(self, s: str) -> list[int]:
        return self.tokenizer.encode(s).tolist()

    def _decode(self, ids: Iterable[int]) -> str:
        return self.tokenizer.decode(ids)

    @property
    def tf_tokenizer(self) -> tf_text.SentencepieceTokenizer:
        """The SentencePiece model in TensorFlow; a tokenizer.json has none there."""
        assert isinstance(self.tokenizer, SentencePieceTokenizer)
        if self._tf_tokenizer is None:
            self._tf_tokenizer = tf_text.SentencepieceTokenizer(self.tokenizer.model)
        return self._tf_tokenizer

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        if isinstance(self.tokenizer, SentencePieceTokenizer):
            return self.tf_tokenizer.tokenize(s)

        def encode(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            rows = [self.tokenizer.encode(text.decode()) for text in np.ravel(texts)]
            return np.concatenate([*rows, np.zeros(0, np.int32)]), np.array([len(row) for row in rows], np.int64)

        ids, lengths = tf.numpy_function(encode, [s], (tf.int32, tf.int64))
        if s.shape.rank == 0:
            return tf.ensure_shape(ids, (None,))
        ragged = tf.RaggedTensor.from_row_lengths(tf.ensure_shape(ids, (None,)), tf.ensure_shape(lengths, (None,)))
        for axis in range(s.shape.rank - 1, 0, -1):  # the same axes as the input's
            ragged = tf.RaggedTensor.from_uniform_row_length(ragged, tf.shape(s, tf.int64)[axis])
        return ragged

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        if ids.shape.rank > 1:
            return tf.map_fn(self._decode_tf, ids, fn_output_signature=tf.TensorSpec(ids.shape[1:-1], tf.string))

        # The SentencePiece model raises for ids beyond its pieces, so the tokenizer removes them first.
        def decode(row: np.ndarray) -> bytes:
            return self.tokenizer.decode(row).encode()

        return tf.ensure_shape(tf.numpy_function(decode, [ids], tf.string), ())
