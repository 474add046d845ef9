"""SantaCoder's infilling benchmark (arXiv 2301.03988): single lines of HumanEval's solutions in three languages.

A hole is a line that is neither blank nor a comment: 1,043 of Python, 1,780 of Java and 1,969 of JavaScript, together
the 4,792 of the paper.
"""

import json
from pathlib import Path
from typing import Any

from codellama_jax.config.evaluation import SantaCoderFim as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation import task_files
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.problem import Infilling, Problem
from codellama_jax.evaluation.sample import Answer, Judgement
from codellama_jax.sandbox.jobs import Outcome

LANGUAGES = {"python": "py", "java": "java", "javascript": "js"}
COMMENTS = ("#", "//", "/*", "*")


class SantaCoderFim(Benchmark[Settings]):
    """Problem.data has the language and the line. A task is asked once in each order, which is the variant."""

    name = "santacoder_fim"
    settings_class = Settings

    def problems(self, data: Path) -> list[Problem]:
        holes = [hole for language in LANGUAGES for hole in self._holes(data, language)]
        return [
            Problem(
                hole["task_id"],
                Infilling(hole["prefix"], hole["suffix"], "spm" if order == "spm" else "psm"),
                {"language": hole["language"], "line": hole["line"]},
                order,
            )
            for order in self.settings.orders
            for hole in holes
        ]

    def _holes(self, data: Path, language: str) -> list[dict[str, Any]]:
        path = data / "multipl-e" / f"fim-humaneval-{LANGUAGES[language]}.json"
        setting = f"sha256_{language}"
        content = task_files.read(path, getattr(self.settings, setting), f"SantaCoderFim.{setting}")
        try:
            functions = json.loads(content)
        except ValueError as error:
            raise UserError(f"{path} is not JSON ({error}): fetch it again") from None
        holes = []
        for number, function in enumerate(functions):
            lines = task_files.with_fields(function, ("prompt", "body"), f"{path}: function {number}")["body"]
            for index, line in enumerate(lines):
                if line.strip() and not line.strip().startswith(COMMENTS):
                    holes.append(
                        {
                            "task_id": f"{language}/{number}/L{index}",
                            "language": language,
                            "line": line,
                            "prefix": function["prompt"] + "".join(f"{before}\n" for before in lines[:index]),
                            "suffix": "".join(f"\n{after}" for after in lines[index + 1 :]),
                        }
                    )
        return holes

    def judged(self, problem: Problem, completion: str, outcome: Outcome | None, answer: Answer) -> Judgement:
        passed = completion.strip() == problem.data["line"].strip()
        return Judgement(passed, {problem.data["language"]: float(passed)}, "" if passed else "it is another line")

    def canonical(self, problem: Problem) -> str:
        return str(problem.data["line"])
