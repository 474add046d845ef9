"""The file of the samples of a benchmark: JSON Lines that are only appended to, and survive a crash at any time."""

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from codellama_jax.errors import UserError
from codellama_jax.evaluation.sample import Sample
from codellama_jax.runtime import filesystem
from codellama_jax.runtime.append_file import AppendFile

logger = logging.getLogger(__name__)

SYNC_SECONDS = 2.0  # at most this much is lost if the machine, not only the process, goes down

MOST_WARNINGS = 5  # about damaged lines of a file

Key = tuple[str, str, int]


@dataclasses.dataclass(frozen=True)
class Damaged:
    """A line that is no sample of the benchmark.

    Attributes:
        number: of the line, from 1.
        line: its bytes, without the line feed.
        reason: what is wrong with it.
    """

    number: int
    line: bytes
    reason: str


@dataclasses.dataclass(frozen=True)
class Content:
    """The content of a file of samples.

    Attributes:
        samples: key -> sample, in the order of the file.
        damaged: the other lines.
        torn: the last line, if it was cut off by a crash; b"" if not. Its sample was not done.
    """

    samples: dict[Key, Sample]
    damaged: list[Damaged]
    torn: bytes


def read(path: Path, foreign: Callable[[Sample], str] = lambda sample: "") -> Content:
    """Reads a file of samples; one that does not exist has none.

    Args:
        path: the file.
        foreign: says why a sample is not one of the benchmark; "": it is.
    """
    *lines, last = (filesystem.read_bytes(path) if filesystem.exists(path) else b"").split(b"\n")
    content = Content({}, [], last if isinstance(parsed(last), str) else b"")
    for number, line in enumerate([*lines, last] if last and not content.torn else lines, start=1):
        sample = parsed(line)
        if isinstance(sample, Sample) and sample.key in content.samples:
            sample = "the sample is there twice"
        if isinstance(sample, Sample):
            sample = foreign(sample) or sample
        if isinstance(sample, Sample):
            content.samples[sample.key] = sample
        else:
            content.damaged.append(Damaged(number, line, sample))
    return content


def warn(path: Path, lines: Sequence[Damaged], what: str) -> None:
    """Logs damaged lines of a file, and what is done with them."""
    for damaged in lines[:MOST_WARNINGS]:
        logger.warning("warning: %s:%d: %s: %s", path, damaged.number, damaged.reason, what)
    if (further := len(lines) - MOST_WARNINGS) > 0:
        logger.warning("warning: %s: %s further damaged lines: %s", path, f"{further:,}", what)


_TYPES: dict[str, type | tuple[type, ...]] = {
    "task_id": str,
    "sample": int,
    "seed": int,
    "prompt": str,
    "raw": str,
    "completion": str,
    "passed": (bool, type(None)),
    "reason": str,
    "variant": str,
    "input": dict,
    "scores": dict,
    "finish_reason": str,
    "status": str,
    "stderr": str,
}
_REQUIRED = ("task_id", "sample", "seed", "prompt", "raw", "completion", "passed", "reason")


def parsed(line: bytes) -> Sample | str:
    """The sample of a line, or what is wrong with it."""
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        return "it is not JSON"
    if not isinstance(row, dict):
        return "it is not an object"
    for name, kind in _TYPES.items():
        if name in row and not isinstance(row[name], kind):
            return f"{name} has a wrong type"
    if missing := [name for name in _REQUIRED if name not in row]:
        return f"{missing[0]} is missing"
    if isinstance(row["sample"], bool) or row["sample"] < 0:
        return f"sample is {row['sample']}, not an index"
    if not all(type(score) in (int, float) for score in row.get("scores", {}).values()):
        return "a score is not a number"
    return Sample(**{name: row[name] for name in _TYPES if name in row})


def line_of(sample: Sample) -> str:
    """The line of a sample. Fields of a default value are left out, except for those that every record has."""
    row = dataclasses.asdict(sample)
    optional = {field.name: field.default for field in dataclasses.fields(sample) if field.name not in _REQUIRED}
    unset = [name for name, default in optional.items() if row[name] in (default, {}) and name != "finish_reason"]
    return json.dumps({name: value for name, value in row.items() if name not in unset}) + "\n"


class SampleFile:
    """The file of the samples of a benchmark, open for appending.

    A last line that was cut off is removed. Damaged lines are moved to NAME.damaged.jsonl, so that their samples are
    done again. Both are logged.

    Args:
        path: samples/NAME.jsonl.
        foreign: as for `read`.

    Attributes:
        samples: key -> sample, of all samples in the file.
    """

    def __init__(self, path: Path, foreign: Callable[[Sample], str]):
        self.path = path
        content = read(path, foreign)
        self.samples = content.samples
        if content.torn:
            logger.warning("%s: the last line was cut off and is removed: its sample is done again", path)
        if content.damaged:
            aside = path.with_name(f"{path.stem}.damaged.jsonl")
            before = filesystem.read_bytes(aside) if filesystem.exists(aside) else b""
            lines = b"".join(damaged.line + b"\n" for damaged in content.damaged)
            filesystem.write_atomically(aside, before + lines, durable=True)
            warn(path, content.damaged, f"moved to {aside.name} and done again")
        if content.torn or content.damaged or _without_line_feed(path):
            text = "".join(map(line_of, self.samples.values()))
            filesystem.write_atomically(path, text.encode(), durable=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = AppendFile(path)
        self._synced, self._dirty, self._failed = time.monotonic(), False, False

    def append(self, samples: Iterable[Sample]) -> None:
        """Appends samples. The operating system has them when this returns; a crash of the process loses none.

        Raises:
            UserError: the disk is full, or the file cannot be written.
        """
        with self._errors_reported():
            for sample in samples:
                self._file.write(line_of(sample))
                self.samples[sample.key] = sample
                self._dirty = True
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Blocks until all samples are on the disk. Raises UserError as `append` does, but only once."""
        if self._dirty and not self._failed:
            with self._errors_reported():
                self._file.sync()
        self._synced, self._dirty = time.monotonic(), False

    def close(self) -> None:
        try:
            self.sync()
        finally:
            with contextlib.suppress(OSError):  # it would write again what it could not write before
                self._file.close()

    @contextlib.contextmanager
    def _errors_reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failed = True
            raise UserError(
                f"{self.path} cannot be written ({error.strerror}): {len(self.samples):,} samples are stored;"
                " make room, and the same command resumes"
            ) from None


def _without_line_feed(path: Path) -> bool:
    """Whether a file has a last line without a line feed."""
    return filesystem.exists(path) and filesystem.read_bytes(path)[-1:] not in (b"", b"\n")
