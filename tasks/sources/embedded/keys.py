"""Documents for key retrieval from a generator (codellama_jax/exercises/keys.py): the place embedded:keys."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

from codellama_jax.config.data import Corpus, Filters
from codellama_jax.errors import UserError
from codellama_jax.exercises import keys
from tasks.sources.base import CODE_STREAMS, Block, Document, Source, hash_of
from tasks.sources.embedded.single_place import SinglePlace, check_python
from tasks.sources.inventory import PlaceInventory
from tasks.sources.splits import select_split

PLACE = "embedded:keys"
VERSION = 1  # part of the fingerprint: changes with the documents

DOCUMENTS = 32_768
_SHARD = 64  # documents


@dataclasses.dataclass(frozen=True)
class _Shard:
    """Consecutive documents. The path decides the split."""

    path: str
    first: int
    repository: str = ""


@functools.cache
def _shards() -> list[_Shard]:
    return [_Shard(f"keys/{first // _SHARD:04}", first) for first in range(0, DOCUMENTS, _SHARD)]


def keys_source(stream: str, split: str, corpus: Corpus, settings: Filters, where: str) -> Source:
    """One split of the documents, divided by a hash of 64 of them.

    Raises:
        UserError: the stream is not one of code, the split is empty, or filters exclude Python.
        ValueError: no such split.
    """
    if stream not in CODE_STREAMS:
        raise UserError(f"{where}: documents with keys are code: name another corpus for {stream}")
    check_python(settings, where, "the documents")
    by_shard = dataclasses.replace(corpus, group_by_repository=False)
    return _Keys(stream, select_split(_shards(), split, by_shard, where), corpus.key_characters)


class _Keys(SinglePlace):
    """A Source[Document] over shards, each of which is one block."""

    def __init__(self, name: str, shards: Sequence[_Shard], characters: int):
        super().__init__(name, PlaceInventory(name, PLACE, f"{DOCUMENTS:,} generated documents"))
        self._shards, self._characters = shards, characters

    def __len__(self) -> int:
        return len(self._shards)

    def read(self, shard: int, skip: int = 0) -> Iterator[Block[Document]]:
        if skip:
            return
        chosen = self._shards[shard]
        numbers = range(chosen.first, chosen.first + _SHARD)
        texts = ((number, keys.document(number, self._characters)) for number in numbers)
        yield Block([Document(text, f"{chosen.path}/{number}.py", "Python") for number, text in texts], [])

    def fingerprint(self) -> str:
        rules = ("keys", VERSION, self._characters)
        return hash_of(self.name, rules, ((shard.path, DOCUMENTS) for shard in self._shards))
