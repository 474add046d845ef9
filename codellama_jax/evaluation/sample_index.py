"""An index of a file of samples: the verdicts in memory, the texts on the disk until one is wanted.

A file of 200 samples of each task has hundreds of megabytes of text, of which a report shows little.
"""

import dataclasses
import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from codellama_jax.errors import UserError
from codellama_jax.evaluation import sample_file
from codellama_jax.evaluation.failure import cut_off, failure_of
from codellama_jax.evaluation.sample import Sample


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """What the index has of a sample.

    Attributes:
        sample: index of the answer among those to the problem.
        passed, scores: see sample.Judgement.
        failure: see failure.failure_of.
        cut_off: see failure.cut_off.
        digest: equal for samples with the same completion and verdict.
        line: number of the line in the file, from 1.
        start: position of the line, in bytes.
    """

    sample: int
    passed: bool | None
    scores: Mapping[str, float]
    failure: str
    cut_off: bool
    digest: bytes
    line: int
    start: int


class SampleIndex:
    """The samples of a benchmark.

    Args:
        path: samples/NAME.jsonl.
        missing_ok: whether a file that does not exist has no samples.

    Attributes:
        path: the file.
        variants: variant -> task_id -> the entries of that problem, in the order of `sample`. Tasks are in natural
            order: numbers in their names count as numbers.
        samples: number of all samples.
        damaged: number of lines that are no samples.

    Raises:
        UserError: there is no such file, and `missing_ok` is not set.
    """

    def __init__(self, path: Path, missing_ok: bool = False):
        self.path = path
        self.samples = self.damaged = 0
        found = defaultdict[str, dict[str, list[Entry]]](dict)
        if not (exists := path.exists()) and not missing_ok:
            raise UserError(f"{path} is missing: evaluate again, or restore it")
        seen = set[sample_file.Key]()
        with path.open("rb") if exists else io.BytesIO() as file:
            start = 0
            for number, line in enumerate(file, start=1):
                sample = sample_file.parsed(line)
                if isinstance(sample, str) or sample.key in seen:
                    self.damaged += 1
                else:
                    seen.add(sample.key)
                    tasks = found[sample.variant]
                    tasks.setdefault(sample.task_id, []).append(_entry(sample, number, start))
                    self.samples += 1
                start += len(line)
        self.variants: dict[str, dict[str, list[Entry]]] = {
            variant: {
                task: sorted(tasks[task], key=lambda entry: entry.sample) for task in sorted(tasks, key=natural_order)
            }
            for variant, tasks in sorted(found.items(), key=lambda item: natural_order(item[0]))
        }

    def read(self, entry: Entry) -> Sample:
        """The sample of an entry.

        Raises:
            UserError: the file has changed since it was indexed.
        """
        with self.path.open("rb") as file:
            file.seek(entry.start)
            sample = sample_file.parsed(file.readline())
        if isinstance(sample, str) or sample.sample != entry.sample:
            raise UserError(f"{self.path} changed while it was read: evaluate again with the same command")
        return sample


def _entry(sample: Sample, number: int, start: int) -> Entry:
    shown = "\0".join((sample.completion, str(sample.passed), sample.reason, sample.finish_reason))
    digest = hashlib.sha256(shown.encode("utf-8", "surrogatepass")).digest()[:8]
    return Entry(
        sample.sample, sample.passed, sample.scores, failure_of(sample), cut_off(sample), digest, number, start
    )


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """A key of sorting where "task/10" follows "task/9"."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(part), "") if part[0] in "0123456789" and len(part) < 20 else (1, 0, part) for part in parts]
