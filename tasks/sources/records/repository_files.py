"""Records that are repositories: a field `files` is a list of objects, one for each file, as in The Stack v2.

Each file becomes a record. Its fields are those of the object, and those of the repository that the object lacks.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tasks.sources.records.record_file import Damaged, Record, RecordLocation, SelectColumns

FILES = "files"
_TEXTS = ("content", "text", "code")


def selecting_files(select: SelectColumns) -> SelectColumns:
    """A choice of columns that also accepts files without a column for the text, if they have the column `files`."""

    def select_columns(names: Sequence[str], location: RecordLocation) -> list[str]:
        try:
            return select(names, location)
        except Damaged:
            if FILES in names:
                return list(names)
            raise

    return select_columns


def expanded(records: Iterable[Record | Damaged]) -> Iterator[Record | Damaged]:
    """The records, with one for each file of those that are repositories."""
    for record in records:
        if isinstance(record, Damaged):
            yield record
            continue
        try:
            fields = record.fields()
        except Damaged as damage:
            yield damage
            continue
        files = fields.get(FILES)
        if files is None or not _is_repository(fields, files):
            yield record._replace(fields=functools.partial(_unchanged, fields))
            continue
        repository = {name: value for name, value in fields.items() if name != FILES}
        for file in files:
            yield record._replace(fields=functools.partial(_unchanged, repository | file))


def _is_repository(fields: Mapping[str, Any], files: Any) -> bool:
    if not isinstance(files, list) or any(name in fields for name in _TEXTS):
        return False
    return all(isinstance(file, Mapping) for file in files)


def _unchanged(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return fields
