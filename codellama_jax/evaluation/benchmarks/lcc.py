"""Long Code Completion (arXiv 2306.14893): the next line of a file, from files of all sizes alike."""

import hashlib
import io
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from codellama_jax.config.scored_benchmarks import Lcc as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation import task_files
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.bleu import code_bleu4
from codellama_jax.evaluation.problem import Completion, Problem
from codellama_jax.evaluation.sample import Answer, Judgement
from codellama_jax.runtime import filesystem
from codellama_jax.sandbox.jobs import Outcome

_log = logging.getLogger(__name__)

FOLDER = "lcc"
LAST_TOKENS = 4_000  # of the prompt, for models without long-context fine-tuning (section 3.3)
LONG_CONTEXT = 16_384  # windows of long-context fine-tuning (section 2.4)
ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")
_FORMAT = (
    "LCC's files are lcc/LANGUAGE/*.jsonl or *.parquet with the fields context and gt, or LongBench's lcc/lcc.jsonl"
    " with context, answers and language"
)


class Lcc(Benchmark[Settings]):
    """Problem.data is the next line. The variants are the languages. pass@1 is the exact match of stripped lines."""

    name = "lcc"
    settings_class = Settings
    paper_source = "section 3.3, with long-context fine-tuning"
    paper: ClassVar = {
        "Code Llama 7B": {
            **{"python pass@1": 0.3923, "python bleu": 0.6184},
            **{"java pass@1": 0.5194, "java bleu": 0.7189},
            **{"csharp pass@1": 0.5020, "csharp bleu": 0.7022},
        }
    }

    def problems(self, data: Path) -> list[Problem]:
        """The published validation and test sets together, balanced."""
        found = _rows(data / FOLDER)
        problems = []
        for language in self.settings.languages:
            tasks = list(dict.fromkeys(found.get(language, ())))
            if not tasks:
                raise UserError(
                    f"{data / FOLDER} has no tasks for {language}: {_FORMAT};"
                    " --gin.Lcc.languages=\"['python']\" chooses the languages"
                )
            wanted: int = getattr(self.settings, f"{language}_tasks")
            chosen = balanced(tasks, wanted, self.settings.bucket) if wanted else tasks
            if len(chosen) < wanted:
                _log.warning(
                    "warning: lcc has %d tasks for %s, fewer than Lcc.%s_tasks=%d: all are used, without balancing",
                    *(len(chosen), language, language, wanted),
                )
            problems += [
                Problem(_digest(context, line)[:16], self._prompt(context), line, language) for context, line in chosen
            ]
        return problems

    def _prompt(self, context: str) -> Completion:
        text = context if context.endswith("\n") else f"{context}\n"
        if self.settings.last_tokens is None:
            return Completion(text, LAST_TOKENS, LONG_CONTEXT)
        return Completion(text, self.settings.last_tokens or None)

    def completion(self, problem: Problem, raw: str) -> str:
        """The first line that is not empty, without white space at its ends."""
        return next((line.strip() for line in super().completion(problem, raw).split("\n") if line.strip()), "")

    def judged(self, problem: Problem, completion: str, outcome: Outcome | None, answer: Answer) -> Judgement:
        line = problem.data.strip()
        passed = completion == line
        reason = "" if passed else f"the next line is {line}"
        return Judgement(passed, {"bleu": code_bleu4(completion, line)}, reason)

    def refused(self, problem: Problem, refusal: str) -> Judgement:
        remedy = "--gin.Lcc.last_tokens=4000 gives the model the last 4,000 tokens"
        return Judgement(False, {"bleu": 0.0}, f"{refusal}; {remedy}")

    def canonical(self, problem: Problem) -> str:
        return f"{problem.data}\n"


Task = tuple[str, str]  # the file up to a line, and the line


def balanced(tasks: Sequence[Task], count: int, bucket: int) -> list[Task]:
    """At most `count` of the tasks, with as many of each size of context as there are.

    Sizes are counted in buckets of `bucket` characters. Each bucket gives the same number of tasks, or all that it has;
    what is missing then comes from the larger ones, one task at a time, beginning with the longest files. Which tasks
    of a bucket are taken depends on their content alone.
    """
    buckets = defaultdict[int, list[Task]](list)
    for task in tasks:
        buckets[len(task[0]) // bucket].append(task)
    for content in buckets.values():
        content.sort(key=lambda task: _digest(*task))
    taken = dict.fromkeys(sorted(buckets, reverse=True), 0)
    left = min(count, len(tasks))
    while left:
        open_buckets = [size for size in taken if taken[size] < len(buckets[size])]
        share = max(1, min(left // len(open_buckets), min(len(buckets[s]) - taken[s] for s in open_buckets)))
        for size in open_buckets[:left]:
            taken[size] += share
            left -= share
    chosen = {task for size, number in taken.items() for task in buckets[size][:number]}
    return [task for task in tasks if task in chosen]


def _rows(folder: Path) -> dict[str, list[Task]]:
    """Language -> tasks of all files but those of the training split, in the order of the names of the files."""
    if not filesystem.is_folder(folder):
        raise UserError(f"{folder} is missing: {_FORMAT}")
    files = [(place, name) for place, _, names in filesystem.walk(str(folder)) for name in names]
    tasks = defaultdict[str, list[Task]](list)
    for place, name in sorted(files):
        if name.endswith(ENDINGS) and "train" not in name:
            path = Path(place) / name
            for number, row in enumerate(_read(path), start=1):
                where = f"{path}:{number}"
                language = str(row.get("language") or Path(place).name).lower()
                tasks[language].append((task_files.text(row, "context", where), _next_line(row, where)))
    return tasks


def _read(path: Path) -> Iterator[dict[str, Any]]:
    content = task_files.read(path, "", "")
    if path.suffix != ".parquet":
        yield from task_files.json_lines(path, content, ("context",))
        return
    from pyarrow import ArrowException, parquet

    try:
        rows = parquet.read_table(io.BytesIO(content)).to_pylist()
    except ArrowException as error:
        raise UserError(f"{path} is not a Parquet file ({error}): fetch it again") from None
    for number, row in enumerate(rows, start=1):
        yield task_files.with_fields(row, ("context",), f"{path}:{number}")


def _next_line(row: dict[str, Any], where: str) -> str:
    answers = row["gt"] if "gt" in row else row.get("answers")
    answer = answers[0] if isinstance(answers, list) and answers else answers
    if not isinstance(answer, str) or not answer.strip():
        raise UserError(f"{where} has neither gt nor answers with a line: {_FORMAT}")
    return task_files.text({"gt": answer}, "gt", where)


def _digest(context: str, line: str) -> str:
    return hashlib.sha256(f"{context}\0{line}".encode()).hexdigest()
