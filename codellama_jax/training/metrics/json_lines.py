"""Files with one JSON object per line: metrics.jsonl and evaluations.jsonl."""

import contextlib
import json
import math
from pathlib import Path
from typing import Any

from codellama_jax.runtime import filesystem
from codellama_jax.runtime.append_file import AppendFile


class JsonLines:
    """A file of JSON lines that a run appends to, and a copy of its objects in memory.

    Opening it drops a truncated last line, and every line of a step after `last_step`: those steps run again. Floats
    are written with repr precision, so that equal runs have equal text; those that are not finite become null.

    Args:
        path: path of the file, which may exist.
        last_step: the step that the run resumes from.
        writes: whether to write the file; False keeps the objects only in memory.

    Attributes:
        lines: the objects so far.
        dropped: the objects that were dropped when the file was opened.
    """

    def __init__(self, path: Path, last_step: int, writes: bool = True):
        self.lines: list[dict[str, Any]] = []
        if path.exists():
            for line in filesystem.read_text(path).splitlines():
                with contextlib.suppress(ValueError):  # truncated by a crash; its step runs again
                    self.lines.append(json.loads(line))
        self._path, self._writes = path, writes
        self._file: AppendFile | None = None
        self.dropped = self.drop_after(last_step)

    def drop_after(self, step: int, keep_kind: str = "") -> list[dict[str, Any]]:
        """Drops the lines of steps after `step`, except those of kind `keep_kind`; returns the dropped objects."""
        lines = [line for line in self.lines if isinstance(line, dict)]
        kept = [line.get("step", math.inf) <= step or keep_kind == line.get("kind", None) for line in lines]
        self.lines = [line for line, keep in zip(lines, kept, strict=True) if keep]
        if self._file:
            self._file.close()
        if self._writes:
            text = "".join(json.dumps(line) + "\n" for line in self.lines)
            self._file = AppendFile(self._path, text)
        return [line for line, keep in zip(lines, kept, strict=True) if not keep]

    def write(self, record: dict[str, Any]) -> None:
        """Appends one object."""
        record = {name: _finite_or_none(value) for name, value in record.items()}
        self.lines.append(record)
        if self._file:
            self._file.write(json.dumps(record) + "\n")

    def sync(self) -> None:
        """Blocks until every line is stored durably."""
        if self._file:
            self._file.sync()


def _finite_or_none(value: Any) -> Any:
    """None in place of nan and infinity, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
