"""What self-instruct stores: answers, runs of programs, and what became of each question.

OUT/records/answers.jsonl     each answer of a model, as it arrived
OUT/records/runs.jsonl        each run of a program in the sandbox
OUT/records/questions.jsonl   each question: why it was dropped, or the dialogue that it became

The first two are all that cannot be computed again. A command that was killed resumes from them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.synthesis.execution import Run
from tasks.synthesis.journal import Journal
from tasks.synthesis.prompts import Answer, Prompt

FOLDER = "records"
_KINDS = {"questions": 0, "tests": 1, "solution": 2}
_WHAT = {"solution": 0, "stub": 1, "mutant": 2}


class Records:
    """The three files in a folder OUT."""

    def __init__(self, out: Path):
        folder = out / FOLDER
        self.answers = Journal(folder / "answers.jsonl", ("kind", "id", "index"))
        self.runs = Journal(folder / "runs.jsonl", ("id", "what", "index"))
        self.questions = Journal(folder / "questions.jsonl", ("id",))

    def answer(self, kind: str, id: str, index: int) -> Answer | None:
        """An answer that is stored; None if there is none."""
        row = self.answers.get(kind, id, index)
        return None if row is None else Answer(row["raw"], row["finish_reason"], row.get("refusal", ""))

    def add_answer(self, prompt: Prompt, answer: Answer) -> None:
        row: dict[str, Any] = {"kind": prompt.kind, "id": prompt.id, "index": prompt.index, "seed": prompt.seed}
        row |= {"raw": answer.text, "finish_reason": answer.finish_reason}
        self.answers.append(row | ({"refusal": answer.refusal} if answer.refusal else {}))

    def run(self, id: str, what: str, index: int) -> Run | None:
        """A run that is stored; None if there is none."""
        row = self.runs.get(id, what, index)
        return None if row is None else Run(row["status"], row["message"], row["passed"])

    def add_run(self, id: str, what: str, index: int, run: Run) -> None:
        row = {"id": id, "what": what, "index": index, "status": run.status, "message": run.message}
        self.runs.append(row | {"passed": run.passed})

    def question(self, id: str) -> dict[str, Any] | None:
        """The record of a question; None if there is none, or one whose answers or runs were lost in a crash."""
        row = self.questions.get(id)
        if row is None or row.get("dropped_before") == "unique":
            return row
        solutions, wrong = row.get("solutions", ()), range(len(row.get("wrong_programs", ())))
        answers = [("solution", id, entry["index"]) for entry in solutions]
        answers += [] if row.get("given_tests") else [("tests", id, 0)]
        runs = [(id, "solution", entry["index"]) for entry in solutions if "malformed" not in entry]
        runs += [(id, "mutant" if index else "stub", index) for index in wrong]
        there = all(key in self.answers for key in answers) and all(key in self.runs for key in runs)
        return row if there else None

    def add_question(self, row: Mapping[str, Any]) -> None:
        self.questions.append(dict(row))

    def sort(self) -> None:
        """Puts the records into an order that does not depend on when they were made."""
        self.answers.sort(lambda key: (_KINDS.get(key[0], 9) > 0, order(key[1]), _KINDS.get(key[0], 9), key[2]))
        self.runs.sort(lambda key: (order(key[0]), _WHAT.get(key[1], 9), key[2]))
        self.questions.sort(lambda key: order(key[0]))

    def close(self) -> None:
        for journal in (self.answers, self.runs, self.questions):
            journal.close()


def question_id(prompt: int, position: int) -> str:
    """The id of a question: the number of its prompt, and its place in the answer."""
    return f"{prompt}.{position}"


def order(id: str) -> tuple[int, int]:
    """What ids are sorted by; that of the prompts for questions, "", comes first."""
    prompt, _, position = id.partition(".")
    return (int(prompt), int(position)) if id else (-1, 0)
