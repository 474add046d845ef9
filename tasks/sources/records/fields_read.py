"""Which fields of a place's records are read, for the inventory. Records of one file can have different fields."""

from collections.abc import Iterable, Mapping
from typing import Any

from codellama_jax.config.data import Corpus
from tasks.sources.named_splits import COLUMNS
from tasks.sources.records.record_fields import REPOSITORY, FieldChoice, MissingField, choose_fields, select_fields
from tasks.sources.records.record_file import RecordLocation


class FieldsRead:
    """Collects the fields of records while a place is opened.

    Attributes:
        columns: names of all columns. Formats that know them before reading records add to the same object.
    """

    def __init__(self, stream: str, corpus: Corpus, columns: dict[str, None], dialogues: bool):
        self.columns = columns
        self._stream, self._corpus, self._dialogues = stream, corpus, dialogues
        self._taken: dict[str, dict[str, None]] = {}  # property -> the fields that are read for it, in order
        self._read: set[str] = set()

    def note(self, fields: Mapping[str, Any]) -> None:
        """Takes note of a record."""
        self.columns |= dict.fromkeys(fields)
        if not self._dialogues:
            self._note(tuple(fields))

    def _note(self, names: Iterable[str]) -> None:
        try:
            choice = choose_fields(names, self._stream, self._corpus)
        except MissingField:
            return
        for name, field in choice.taken.items():
            self._taken.setdefault(name, {})[field] = None
        self._read |= set(names).difference(choice.ignored)

    def choice(self, location: RecordLocation) -> FieldChoice:
        """The fields that are read; "content or text" if records differ. `location` is for error messages."""
        names = tuple(self.columns)
        if self._dialogues and names:
            read = select_fields("instruct", self._corpus, names, location)
            self._taken = {"messages": dict.fromkeys([", ".join(name for name in read if name not in REPOSITORY)])}
            if repository := next((name for name in REPOSITORY if name in names), None):
                self._taken["repository"] = {repository: None}
            self._read = set(read)
        taken = {name: " or ".join(fields) for name, fields in self._taken.items()}
        if split := next((column for column in COLUMNS if column in names), None):
            taken["split"] = split
        return FieldChoice(taken, tuple(name for name in names if name not in {*self._read, taken.get("split")}))
