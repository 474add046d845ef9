"""Which program of the generation engine is planned."""

import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class ServingProgram:
    """A program of an engine.

    Attributes:
        slots: number of requests that are decoded together; 0: a chunk of one prompt.
        tokens: number of tokens of each request: steps of decoding, or the length of the chunk.
        context: maximum number of tokens of a request.
        cache_tokens: number of tokens that the cache holds.
        page: number of tokens in a page.
        cache_dtype: the dtype of the cache; None: the compute dtype.
    """

    slots: int
    tokens: int
    context: int
    cache_tokens: int
    page: int = 128
    cache_dtype: str | None = None

    @property
    def text(self) -> str:
        """The program as JSON, in which form it is passed to the compiler's process."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)
