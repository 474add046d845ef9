"""The Llama tokenizer as a seqio.Vocabulary."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_text as tf_text

from codellama_jax.tokenizer import Tokenizer


class LlamaVocabulary(seqio.Vocabulary):
    """Encodes and decodes as `Tokenizer` does. The infilling rows follow the pieces; no text is encoded to them.

    TensorFlow graphs use SentencepieceTokenizer, because FastSentencepieceTokenizer loses newlines with Llama's model.
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
    def bos_id(self) -> int:
        return self.tokenizer.bos_id

    @property
    def eos_id(self) -> int:
        return self.tokenizer.eos_id

    @property
    def unk_id(self) -> int:
        return self.tokenizer.unk_id

    @property
    def _base_vocab_size(self) -> int:
        return self.tokenizer.pieces

    def _encode(self, s: str) -> list[int]:
        return self.tokenizer.encode(s).tolist()

    def _decode(self, ids: Iterable[int]) -> str:
        return self.tokenizer.decode(ids)

    @property
    def tf_tokenizer(self) -> tf_text.SentencepieceTokenizer:
        if self._tf_tokenizer is None:
            self._tf_tokenizer = tf_text.SentencepieceTokenizer(self.tokenizer.model)
        return self._tf_tokenizer

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        return self.tf_tokenizer.tokenize(s)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        if ids.shape.rank > 1:
            return tf.map_fn(self._decode_tf, ids, fn_output_signature=tf.TensorSpec(ids.shape[1:-1], tf.string))

        # The SentencePiece model raises for ids beyond its pieces, so the tokenizer removes them first.
        def decode(row: np.ndarray) -> bytes:
            return self.tokenizer.decode(row).encode()

        return tf.ensure_shape(tf.numpy_function(decode, [ids], tf.string), ())
