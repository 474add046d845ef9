"""Grows the vocabulary of a checkpoint during conversion: 32,000 -> 32,016 for infilling."""

import dataclasses

import numpy as np

from codellama_jax.conversion import canonical
from codellama_jax.conversion.canonical import Source, Tensor
from codellama_jax.errors import UserError


class GrownVocabulary:
    """A Source that adds vocabulary rows to another Source.

    Attributes:
        model: the description, with the larger vocabulary.
    """

    def __init__(self, source: Source, vocab_size: int, new_rows: str):
        """Adds rows to the embedding, and to the head of a model that is not tied.

        Args:
            source: the checkpoint to read.
            vocab_size: number of rows with the new ones.
            new_rows: their values: "mean" of the existing rows, computed in float32 like training's grow_vocabulary,
                or "zero".

        Raises:
            UserError: the checkpoint already has more rows.
        """
        self._source, self._old = source, source.model.llama.vocab_size
        if vocab_size < self._old:
            raise UserError(
                f"the checkpoint has {self._old} vocabulary rows, more than --vocab_size={vocab_size}: rows cannot"
                " be removed"
            )
        self.model = dataclasses.replace(
            source.model, llama=dataclasses.replace(source.model.llama, vocab_size=vocab_size)
        )
        self._new: dict[str, np.ndarray] = {}
        for name in ("embedding",) if source.model.llama.tied else ("embedding", "head"):
            mean = np.zeros(source.model.llama.dim, np.float64)
            if new_rows == "mean":
                for start, stop in canonical.blocks(source.model.llama, name, 8):
                    mean += source.rows(Tensor(name), start, stop).astype(np.float32).sum(0, dtype=np.float64)
            dtype = canonical.dtype_of(source.model, Tensor(name))
            self._new[name] = (mean / self._old).astype(np.float32).astype(dtype)

    def rows(self, tensor: Tensor, start: int, stop: int) -> np.ndarray:
        """See Source.rows."""
        if tensor.name not in self._new or stop <= self._old:
            return self._source.rows(tensor, start, stop)
        new = np.tile(self._new[tensor.name], (stop - max(start, self._old), 1))
        return new if start >= self._old else np.concatenate([self._source.rows(tensor, start, self._old), new])

    def close(self) -> None:
        """See Source.close."""
        self._source.close()
