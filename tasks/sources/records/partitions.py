"""Folders whose names hold a field of the records below them, as Spark and Hive write them: lang=C/part.parquet."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from tasks.sources.files import Found
from tasks.sources.records.record_file import Format, Record, RecordLocation, SelectColumns, layout_of

_FOLDER = re.compile(r"([A-Za-z_][\w.-]*)=(.*)")
_NULL = "__HIVE_DEFAULT_PARTITION__"


def is_partition(name: str) -> bool:
    """Whether a folder's name is FIELD=VALUE."""
    return _FOLDER.fullmatch(name) is not None


def partition_fields(file: Found) -> dict[str, str | None]:
    """The fields that the folders of a file name."""
    folders = filter(None, map(_FOLDER.fullmatch, file.location.split("/")[:-1]))
    return {match[1]: None if match[2] == _NULL else unquote(match[2]) for match in folders}


def selecting_with(fields: Mapping[str, str | None], select: SelectColumns) -> SelectColumns:
    """A choice of columns that takes these fields into account, and returns those of the file."""

    def select_columns(names: Sequence[str], location: RecordLocation) -> list[str]:
        added = [name for name in fields if name not in names]
        return [name for name in select([*names, *added], location) if name in names]

    return select_columns if fields else select


class Partition:
    """A file of records, with the fields of its folders added to each record that does not have them."""

    def __init__(self, form: Format, fields: Mapping[str, str | None]):
        self.file, self._form, self._fields = form.file, form, dict(fields)
        self.layout = f"{layout_of(form)} {self._fields}"

    def __len__(self) -> int:
        return len(self._form)

    def read(self, shard: int) -> Iterator[Record]:
        for record in self._form.read(shard):
            yield record._replace(fields=functools.partial(self._with_fields, record))

    def _with_fields(self, record: Record) -> Mapping[str, Any]:
        return self._fields | dict(record.fields())
