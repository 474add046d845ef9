"""The rows of Arrow's record batches as records: their sizes and fields."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tasks.sources.files import Found
from tasks.sources.records.record_file import Damaged, Record, RecordLocation


def records(file: Found, batches: Iterable[Any], number: int = 0) -> Iterator[Record]:
    """The records of the batches of a file. `number` is the number of records before them.

    Raises:
        Damaged: the batches cannot be decoded.
    """
    import pyarrow

    try:
        for batch in batches:
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            for row, size in enumerate(row_sizes(batch).tolist()):
                number += 1
                location = RecordLocation(file, number, separator="#")
                yield Record(location, size, functools.partial(_row_fields, columns, row, location))
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise Damaged(error, RecordLocation(file, number + 1, separator="#")) from None


def row_sizes(batch: Any) -> np.ndarray:
    """The approximate size of each row in bytes, int64, after decoding: text of a dictionary counts in each row.

    It depends on the row only, not on how rows are divided into batches.
    """
    return sum((_sizes(column) for column in batch.columns), np.zeros(batch.num_rows, np.int64))


def _row_fields(columns: Mapping[str, Any], row: int, location: RecordLocation) -> Mapping[str, Any]:
    """The fields of a row.

    Raises:
        Damaged: a text within a list or an object is not UTF-8. Another one is returned as bytes, which the filter
            not_utf8 removes.
    """
    fields = {}
    for name, column in columns.items():
        scalar = column[row]
        try:
            fields[name] = scalar.as_py()
        except UnicodeDecodeError:
            scalar = getattr(scalar, "value", scalar) if hasattr(scalar, "dictionary") else scalar
            if not hasattr(scalar, "as_buffer"):
                raise Damaged(f"{name} is not UTF-8", location) from None
            fields[name] = scalar.as_buffer().to_pybytes()
    return fields


def _sizes(column: Any) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        sizes = np.append(_sizes(column.dictionary), 0)  # a null has the index -1
        return sizes[column.indices.cast(pa.int64()).fill_null(-1).to_numpy()]
    if _has_length(kind):
        return pc.binary_length(column).cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        lengths = pc.list_value_length(_as_list(column)).cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        ends = np.cumsum(lengths)
        total = np.concatenate([[0], np.cumsum(_sizes(_as_list(column).flatten()))])
        return total[ends] - total[ends - lengths]
    if pa.types.is_struct(kind):
        return sum((_sizes(field) for field in column.flatten()), np.zeros(len(column), np.int64))
    try:
        return np.full(len(column), -(-kind.bit_width // 8), np.int64)
    except ValueError:  # a type of variable width that corpora do not use for text
        return np.full(len(column), 8, np.int64)


def _has_length(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind)


def _as_list(column: Any) -> Any:
    import pyarrow as pa

    if not pa.types.is_map(column.type):
        return column
    return column.cast(pa.list_(pa.struct([("key", column.type.key_type), ("value", column.type.item_type)])))
