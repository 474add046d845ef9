"""Reads the files of tasks, after a check that they are the published ones."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem


def read(path: Path, sha256: str, setting: str) -> bytes:
    """The content of a file, decompressed if its name ends in .gz.

    Args:
        path: the file.
        sha256: digest of the content; "": it is not checked.
        setting: name of the setting with the digest, for the error message.

    Raises:
        UserError: the file is missing, cannot be read, or has another digest.
    """
    if not filesystem.exists(path):
        raise UserError(
            f"{path} is missing: --data=DIR, or in training Evaluation.benchmark_data, names the folder with the"
            " benchmarks' data files"
        )
    try:
        content = filesystem.read_bytes(path)
        content = gzip.decompress(content) if path.name.endswith(".gz") else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): fetch it again") from None
    digest = hashlib.sha256(content).hexdigest()
    if sha256 and digest != sha256:
        raise UserError(
            f"{path} is damaged or of another version: its content has the SHA-256 {digest}, not {sha256};"
            f" fetch it again, or accept it with --gin.{setting}={digest}"
        )
    return content


def json_lines(path: Path, content: bytes, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of JSON Lines.

    Raises:
        UserError: a line is not an object with these fields.
    """
    rows = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number} is not JSON ({error}): fetch the file again") from None
        rows.append(with_fields(row, fields, f"{path}:{number}"))
    return rows


def with_fields(row: Any, fields: Sequence[str], where: str) -> dict[str, Any]:
    """The row. Raises UserError unless it is an object with these fields."""
    if not isinstance(row, dict) or (missing := [field for field in fields if field not in row]):
        lacks = f" with {missing[0]}" if isinstance(row, dict) else ""
        raise UserError(f"{where} is not an object{lacks}: this is another file than the benchmark's")
    return row


def text(row: dict[str, Any], field: str, where: str) -> str:
    """A field of a row. Halves of surrogate pairs, which JSON may have, become U+FFFD.

    Raises:
        UserError: it is not a text.
    """
    value = row[field]
    if not isinstance(value, str):
        raise UserError(
            f"{where}: {field} is {type(value).__name__}, not text: this is another file than the benchmark's"
        )
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
