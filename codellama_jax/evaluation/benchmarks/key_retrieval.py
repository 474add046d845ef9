"""Key retrieval: the value that a function far above the cursor returns (arXiv 2308.12950, section 3.3)."""

import abc
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from codellama_jax.config.scored_benchmarks import KeyRetrieval as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation import task_files
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.filler import Filler
from codellama_jax.evaluation.problem import Completion, Problem
from codellama_jax.evaluation.sample import Answer, Judgement, Sample
from codellama_jax.runtime import filesystem
from codellama_jax.sandbox.jobs import Outcome
from codellama_jax.tokenizer import Tokenizer

FOLDER, MBPP = "key_retrieval", "mbpp/mbpp.jsonl"
KEY = '''def my_function() -> int:
    """Note that this function is used at the end
    """
    return {value}


'''
QUESTION = "assert my_function() == "
FIELDS = ("code", "solution", "canonical_solution")  # of JSON Lines: the first one that a row has


class Retrieval(Benchmark[Any]):
    """A function in filler, above a line that asks what it returns. Tasks are named LENGTH/POSITION/NUMBER.

    The settings have lengths, positions and problems.
    """

    needs_tokenizer = True

    @abc.abstractmethod
    def filler(self, data: Path, tokenizer: Tokenizer) -> Filler:
        """What surrounds the function; for data and errors see Benchmark.problems."""

    @abc.abstractmethod
    def asked(self, filler: Filler, length: int, position: float, index: int) -> tuple[Completion, Any]:
        """The prompt, and Problem.data. Both are functions of length, position and index.

        Raises:
            UserError: the length is too short.
        """

    def problems(self, data: Path) -> list[Problem]:
        if self.tokenizer is None:
            raise UserError(
                f"{self.name} counts tokens, and the model's tokenizer is not known: --tokenizer=FILE names its"
                " tokenizer.model"
            )
        filler = self.filler(data, self.tokenizer)
        return [
            Problem(f"{length}/{position:g}/{index}", *self.asked(filler, length, position, index))
            for index in range(self.settings.problems)  # the first tasks are of all lengths and positions
            for length in self.settings.lengths
            for position in self.settings.positions
        ]

    def variant_summary(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """pass@1 over all prompts, and "accuracy": length -> position -> the share of right answers."""
        right = defaultdict[tuple[int, float], list[bool]](list)
        for sample in samples:
            length, position, _ = sample.task_id.split("/")
            right[int(length), float(position)].append(bool(sample.passed))
        accuracy = defaultdict[str, dict[str, float]](dict)
        for (tokens, share), passed in sorted(right.items()):
            accuracy[str(tokens)][f"{share:g}"] = sum(passed) / len(passed)
        return {**super().variant_summary(samples), "accuracy": dict(accuracy)}


class KeyRetrieval(Retrieval):
    """Problem.data is the value."""

    name = "key_retrieval"
    settings_class = Settings
    paper_source = "section 3.3"
    paper: ClassVar = {
        "Code Llama 7B": {
            **{"8000 0 pass@1": 1.0, "8000 0.2 pass@1": 0.95, "8000 0.4 pass@1": 1.0},
            **{"16000 0 pass@1": 0.55, "16000 0.2 pass@1": 1.0, "16000 0.4 pass@1": 0.98},
            **{"24000 0 pass@1": 0.03, "24000 0.2 pass@1": 0.86, "24000 0.4 pass@1": 0.86},
        }
    }

    def filler(self, data: Path, tokenizer: Tokenizer) -> Filler:
        path = self._filler_path(data)
        filler = Filler(_programs(path), tokenizer)
        if not filler.programs:
            raise UserError(f"{path} has no valid Python 3: KeyRetrieval.filler names a file or folder with some")
        return filler

    def asked(self, filler: Filler, length: int, position: float, index: int) -> tuple[Completion, int]:
        rng = np.random.default_rng([length, round(position * 1e6), index])
        value = int(rng.integers(10, 100))
        try:
            text = filler.around(KEY.format(value=value), QUESTION, length, position, rng)
        except ValueError:
            raise UserError(f"KeyRetrieval.lengths has {length}, which is too short for the function itself") from None
        return Completion(text), value

    def _filler_path(self, data: Path) -> Path:
        if self.settings.filler:
            return data / self.settings.filler
        return data / FOLDER if filesystem.exists(data / FOLDER) else data / MBPP

    def completion(self, problem: Problem, raw: str) -> str:
        """The number at the start of the answer."""
        found = re.match(r"\s*(\d+)", raw)
        return found[1] if found else ""

    def judged(self, problem: Problem, completion: str, outcome: Outcome | None, answer: Answer) -> Judgement:
        passed = completion == str(problem.data)
        return Judgement(passed, reason="" if passed else f"the value is {problem.data}")

    def canonical(self, problem: Problem) -> str:
        return f"{problem.data}\n"


def _programs(path: Path) -> list[str]:
    """The programs of a Python file, of JSON Lines, or of all such files of a folder, in the order of their names."""
    if not filesystem.exists(path):
        raise UserError(
            f"{path} is missing: KeyRetrieval.filler names a file or folder with Python code, .py or .jsonl, below"
            " --data or absolute"
        )
    if not filesystem.is_folder(path):
        return _programs_of_file(path)
    files = [f"{folder}/{name}" for folder, _, names in filesystem.walk(str(path)) for name in names]
    wanted = sorted(file for file in files if file.endswith((".py", ".jsonl", ".jsonl.gz")))
    return [program for file in wanted for program in _programs_of_file(Path(file))]


def _programs_of_file(path: Path) -> list[str]:
    content = task_files.read(path, "", "")
    if path.suffix == ".py":
        return [content.decode(errors="replace")]
    programs = []
    for number, row in enumerate(task_files.json_lines(path, content, ()), start=1):
        field = next((field for field in FIELDS if field in row), None)
        if field is None:
            raise UserError(f"{path}:{number} has none of the fields {', '.join(FIELDS)}")
        programs.append(task_files.text(row, field, f"{path}:{number}"))
    return programs
