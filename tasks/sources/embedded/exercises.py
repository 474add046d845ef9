"""Small Python functions from a generator (codellama_jax/exercises): the place embedded:exercises.

A document is a function, sometimes with an assertion, or two functions. As dialogues, each function is the answer to a
request. The compositions are those of the generator's training split, so none is in the benchmark of this name.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

from codellama_jax.chat import Message
from codellama_jax.config.data import Corpus, Filters
from codellama_jax.errors import UserError
from codellama_jax.exercises import training
from codellama_jax.exercises.draws import Draws
from codellama_jax.exercises.exercise import Exercise
from tasks.sources.base import CODE_STREAMS, Block, Dialogue, Document, Source, hash_of
from tasks.sources.documents import check_document_characters, parts
from tasks.sources.embedded.single_place import SinglePlace, check_python
from tasks.sources.inventory import PlaceInventory
from tasks.sources.splits import select_split

PLACE = "embedded:exercises"
VERSION = 1  # part of the fingerprint: changes with the functions, and with what is made of them

_SHARD = 64  # functions
_ASSERTED, _PAIRED = 0.04, 0.1  # probabilities that a function has an assertion, or a document with the next function
_LONGEST_ASSERTION = 60  # characters

_REQUESTS = (
    "Write a Python function {request}",
    "Please implement {request}",
    "I need a Python function {request}",
)


@dataclasses.dataclass(frozen=True)
class _Shard:
    """Consecutive functions. The path decides the split."""

    path: str
    first: int
    end: int
    repository: str = ""


@functools.cache
def _shards() -> list[_Shard]:
    count = training.count()
    return [
        _Shard(f"exercises/{first // _SHARD:04}", first, min(first + _SHARD, count))
        for first in range(0, count, _SHARD)
    ]


def exercises_source(stream: str, split: str, corpus: Corpus, settings: Filters, where: str) -> Source:
    """One split of the exercises, divided by a hash of 64 functions: documents of code, or dialogues for instruct.

    Raises:
        UserError: the stream is natural language, the split is empty, or filters exclude Python.
        ValueError: no such split.
    """
    if stream not in (*CODE_STREAMS, "instruct"):
        raise UserError(f"{where}: exercises are code and dialogues: name another corpus for {stream}")
    check_document_characters(corpus)
    if stream != "instruct":
        check_python(settings, where, "exercises")
    by_shard = dataclasses.replace(corpus, group_by_repository=False)
    chosen = select_split(_shards(), split, by_shard, where)
    place = PlaceInventory(stream, PLACE, f"{training.count():,} generated functions")
    kind = _Dialogues if stream == "instruct" else _Documents
    return kind(stream, chosen, corpus, place)


class _Exercises(SinglePlace):
    """What sources of exercises have in common: shards of functions, each one block."""

    def __init__(self, name: str, shards: Sequence[_Shard], corpus: Corpus, place: PlaceInventory):
        super().__init__(name, place)
        self._shards, self._corpus = shards, corpus

    def __len__(self) -> int:
        return len(self._shards)

    def _functions(self, shard: int) -> Iterator[tuple[str, Exercise]]:
        """(path, function) of each function of a shard."""
        chosen = self._shards[shard]
        for number in range(chosen.first, chosen.end):
            yield f"{chosen.path}/{number}.py", training.function(number)

    def fingerprint(self) -> str:
        rules = ("exercises", VERSION, training.count(), self._corpus.document_characters)
        return hash_of(self.name, rules, ((shard.path, shard.end) for shard in self._shards))


class _Documents(_Exercises):
    """A Source[Document]."""

    def read(self, shard: int, skip: int = 0) -> Iterator[Block[Document]]:
        if skip:
            return
        limit = self._corpus.document_characters
        texts: list[tuple[str, str]] = []
        paired = False
        for path, exercise in self._functions(shard):
            draws = Draws("document", path)
            text = exercise.source + _assertion(exercise, draws)
            if paired and (limit is None or len(texts[-1][1]) + len(text) + 2 <= limit):
                texts[-1] = (texts[-1][0], f"{texts[-1][1]}\n\n{text}")
                paired = False
            else:
                texts.append((path, text))
                paired = draws.chance(_PAIRED)
        documents = [Document(text, path, "Python") for path, text in texts]
        yield Block([part for document in documents for part in parts(document, limit)], [])


class _Dialogues(_Exercises):
    """A Source[Dialogue]."""

    dialogues = True

    def read(self, shard: int, skip: int = 0) -> Iterator[Block[Dialogue]]:
        if skip:
            return
        found = []
        for path, exercise in self._functions(shard):
            request = Draws("dialogue", path).pick(_REQUESTS).format(request=exercise.request)
            messages: list[Message] = [
                {"role": "user", "content": request},
                {"role": "assistant", "content": exercise.source},
            ]
            found.append(Dialogue(messages, path))
        yield Block(found, [])


def _assertion(exercise: Exercise, draws: Draws) -> str:
    """A short assertion about the function, in few of them; otherwise ""."""
    if not draws.chance(_ASSERTED):
        return ""
    function = exercise.function()
    made = (exercise.assertion(arguments, function(*arguments)) for arguments in exercise.calls(draws, 4))
    return next((f"\n\n{line}" for line in made if len(line) <= _LONGEST_ASSERTION), "")
