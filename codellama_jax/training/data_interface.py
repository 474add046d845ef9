"""What training needs from the data side, as protocols: `codellama_jax.training` does not import `tasks`."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from codellama_jax.tokenizer import Tokenizer


class HostBatch(Protocol):
    """This host's rows of a global batch."""

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """tokens, targets, segment_ids, positions, loss_weights and stream_ids, each [rows of this host, length]."""

    @property
    def documents(self) -> list[tuple[str, str]]:
        """(stream, path) of every document with tokens in the batch."""

    @property
    def state(self) -> Any:
        """The loader's state after this batch: what `TrainingData.stream` resumes from."""


class Loader(Protocol):
    """An endless sequence of batches."""

    def fingerprint(self) -> str:
        """Digest of everything that determines the batches. A saved state is valid only for an equal fingerprint."""

    def metrics(self, batch: Any) -> dict[str, float]:
        """The metrics of a batch to log, by name."""

    def left_out_lines(self) -> list[str]:
        """Messages about the documents that filters removed."""


class TrainingData(Protocol):
    """All data of one stage."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the run."""

    @property
    def stream_names(self) -> Sequence[str]:
        """Names of all streams, in the order of their ids in `stream_ids`."""

    def stream(self, split: str, state: Any = None) -> Any:
        """A Loader of this host's rows, from its first batch or from a state."""

    def stream_state(self, saved: Mapping[str, Any]) -> Any:
        """This host's part of a saved state, for `stream`."""

    def saved(self, state: Any, fingerprint: str) -> dict[str, Any]:
        """The state of all hosts as JSON values, for a checkpoint."""

    def validation_batches(self) -> list[dict[str, np.ndarray]]:
        """The arrays of the validation batches, the same every time."""

    def long_windows(self, length: int) -> np.ndarray:
        """Token ids of long validation documents, int32 [windows, length + 1]; may be empty."""

    def infilling_files(self, count: int) -> list[tuple[str, str]]:
        """(path, text) of at most `count` complete validation files of code, the same every time."""

    def general_files(self, count: int) -> list[tuple[str, str]]:
        """The same of Evaluation.general_corpus; may be empty."""

    def excerpts(self, count: int) -> list[tuple[str, str]]:
        """(stream, text) of at most `count` validation documents, the same every time."""
