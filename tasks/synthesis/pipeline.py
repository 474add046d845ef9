"""The phases of self-instruct, which run at the same time: questions, tests, solutions, and tests of the tests.

Models answer in threads of their own. The main thread reads answers, gives programs to the sandbox, and appends what
comes back to the records, so that only one thread writes. Whatever has a record is not asked for or run again.
"""

import contextlib
import dataclasses
import functools
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from codellama_jax.config.self_instruct import SelfInstruct
from codellama_jax.sandbox.jobs import Job, Outcome
from codellama_jax.sandbox.pool import Pool
from tasks.synthesis import execution, mutants, parsing, prompts, selection
from tasks.synthesis.dialogues import dialogue, unusable
from tasks.synthesis.duplicates import Questions
from tasks.synthesis.execution import Run
from tasks.synthesis.feed import Asking, Model
from tasks.synthesis.given import Given
from tasks.synthesis.parsing import Case, Malformed
from tasks.synthesis.prompts import Answer, Prompt
from tasks.synthesis.records import Records, question_id
from tasks.synthesis.selection import Choice, Solution

MOST_OPEN = 256  # questions that are answered or tested at a time; more would only fill the memory


@dataclasses.dataclass
class _Question:
    """A question that is being answered.

    Attributes:
        id: of the question.
        given: what was given of it, or its text alone.
        cases: its tests.
        shown: index of the test that prompts for solutions show.
        left_out: reasons of what was left out of the answer with the tests -> counts.
        answered: index -> program, or the reason why there is none.
        runs: index -> the run of a solution.
        wrong: programs that the tests should reject, the stub first, and the results of their runs by index.
    """

    id: str
    given: Given
    cases: tuple[Case, ...] = ()
    shown: int = 0
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    answered: dict[int, str | Malformed] = dataclasses.field(default_factory=dict)
    runs: dict[int, Run] = dataclasses.field(default_factory=dict)
    choice: Choice | None = None
    wrong: list[str] = dataclasses.field(default_factory=list)
    wrong_runs: dict[int, Run] = dataclasses.field(default_factory=dict)


class Pipeline:
    """Does what is missing of self-instruct in a folder.

    Args:
        settings: the settings.
        question_model, solution_model: may be the same object, which then answers in one thread. Without the first,
            the questions are `given`.
        pool: runs the programs.
        records: gets what is made.
        questions: the questions that are kept so far: none.
        given: questions that no model writes.
        interrupted: whether to stop; asked several times a second.
        progress: called after each event; see Progress.update.
    """

    def __init__(
        self,
        settings: SelfInstruct,
        question_model: Model | None,
        solution_model: Model,
        pool: Pool,
        records: Records,
        questions: Questions,
        given: Sequence[Given] = (),
        interrupted: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int, int, int], None] = lambda *counts: None,
    ):
        self._settings, self._pool, self._records, self._questions = settings, pool, records, questions
        self._models = question_model, solution_model
        self._interrupted, self._progress = interrupted, progress
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._asking = dict[int, Asking]()
        self._lists = dict[int, Sequence[Given]]()  # prompt -> its questions, until those of earlier prompts are known
        self._prompts = settings.prompts if question_model else 1
        if not question_model:
            self._lists[0] = given
        self._waiting = list[_Question]()  # questions for which there is no room yet, the next one last
        self._open = dict[str, _Question]()
        self._released = self._known = self._closed = self._kept = 0
        self._error: BaseException | None = None

    def run(self) -> bool:
        """Returns whether all is done, which it is unless it was interrupted.

        Raises:
            UserError: a model or the sandbox failed, or the disk is full. What was done is stored.
        """
        for model in dict.fromkeys(filter(None, self._models)):
            self._asking[id(model)] = Asking(model, self._events, self._answered, self._failed)
        try:
            for index in range(self._prompts if not self._lists else 0):
                self._ask(prompts.for_questions(index, self._settings))
            self._advance()
            while not self._done and self._error is None and not self._interrupted():
                with contextlib.suppress(queue.Empty):
                    self._events.get(timeout=0.2)()
                self._advance()
        finally:
            for asking in self._asking.values():
                asking.close()
        if self._error is not None:
            raise self._error
        return self._done

    @property
    def _done(self) -> bool:
        return self._released == self._prompts and not self._open and not self._waiting

    # --- answers

    def _ask(self, prompt: Prompt) -> None:
        """Asks for an answer, unless it is stored."""
        stored = self._records.answer(prompt.kind, prompt.id, prompt.index)
        if stored is not None:
            self._use(prompt, stored)
        else:
            self._asking[id(self._models[prompt.kind != "questions"])].feed.put(prompt)

    def _answered(self, prompt: Prompt, answer: Answer) -> None:
        self._records.add_answer(prompt, answer)
        self._use(prompt, answer)

    def _use(self, prompt: Prompt, answer: Answer) -> None:
        if prompt.kind == "questions":
            self._lists[prompt.index] = [Given(text) for text in parsing.questions(answer)[0]]
        elif prompt.kind == "tests":
            self._use_tests(self._open[prompt.id], answer)
        else:
            self._use_solution(self._open[prompt.id], prompt.index, answer)

    def _failed(self, error: BaseException) -> None:
        self._error = self._error or error

    # --- questions

    def _advance(self) -> None:
        """Takes up the next questions, in the order of the prompts, as far as they are known and there is room."""
        while len(self._open) < MOST_OPEN:
            if self._waiting:
                self._start(self._waiting.pop())
            elif self._released in self._lists:
                listed = self._lists.pop(self._released)
                new = [_Question(question_id(self._released, place), given) for place, given in enumerate(listed)]
                self._waiting = new[::-1]
                self._known += len(new)
                self._released += 1
            else:
                break
        self._progress(self._released, self._closed, self._known, self._kept)

    def _start(self, question: _Question) -> None:
        dropped = self._questions.add(question.given.text)
        if (stored := self._records.question(question.id)) is not None:
            self._closed += 1
            self._kept += not stored["dropped"]
            return
        self._open[question.id] = question
        if dropped:
            self._close(question, "unique", dropped)
        elif question.given.cases:
            self._ask_for_solutions(question, question.given.cases)
        else:
            self._ask(prompts.for_tests(question.id, question.given.text, self._settings))

    def _use_tests(self, question: _Question, answer: Answer) -> None:
        try:
            tests = parsing.tests(answer)
        except Malformed as reason:
            self._close(question, "with_tests", f"tests_{reason}")
            return
        question.left_out = dict(tests.left_out)
        self._ask_for_solutions(question, tests.cases)

    def _ask_for_solutions(self, question: _Question, cases: tuple[Case, ...]) -> None:
        settings, given = self._settings, question.given
        question.cases = cases
        if len(cases) < settings.least_tests:
            self._close(question, "with_tests", "tests_few")
            return
        question.shown = prompts.seed(settings, "shown", question.id) % len(cases)
        test = cases[question.shown].source
        for index in range(settings.solutions):
            if settings.form == "completion":
                self._ask(prompts.for_completion(question.id, given.prompt, index, settings))
            else:
                self._ask(prompts.for_solution(question.id, given.text, test, index, settings))

    # --- solutions

    def _use_solution(self, question: _Question, index: int, answer: Answer) -> None:
        try:
            program = self._program(question, answer)
        except Malformed as reason:
            question.answered[index] = reason
            self._judge_when_complete(question)
            return
        question.answered[index] = program
        self._execute(question, "solution", index, program, question.cases)

    def _program(self, question: _Question, answer: Answer) -> str:
        if self._settings.form == "completion":
            return parsing.completed(question.given.prompt, answer, prompts.COMPLETION_STOP)
        return parsing.program(answer)

    def _execute(self, question: _Question, what: str, index: int, program: str, cases: Sequence[Case]) -> None:
        """Runs a program on tests, unless the run is stored."""
        stored = self._records.run(question.id, what, index)
        if stored is not None:
            self._ran(question, what, index, stored)
            return
        names = mutants.functions(cases, program)
        job: Job = execution.job(program, cases, names, self._settings.cpu_seconds)

        def ended(future: Future[Outcome]) -> None:
            if not future.cancelled():
                found = future.exception() or future.result()
                self._events.put(functools.partial(self._executed, question, what, index, found, len(cases)))

        self._pool.submit(job).add_done_callback(ended)

    def _executed(self, question: _Question, what: str, index: int, found: Outcome | BaseException, count: int) -> None:
        if isinstance(found, BaseException):
            self._failed(found)
            return
        run = execution.run_of(found, count)
        self._records.add_run(question.id, what, index, run)
        self._ran(question, what, index, run)

    def _ran(self, question: _Question, what: str, index: int, run: Run) -> None:
        if what == "solution":
            question.runs[index] = run
            self._judge_when_complete(question)
        else:
            question.wrong_runs[index] = run
            if len(question.wrong_runs) == len(question.wrong):
                self._judge_tests(question)

    def _judge_when_complete(self, question: _Question) -> None:
        """Chooses a solution when all have run, and then tests its tests."""
        programs = {index: text for index, text in question.answered.items() if isinstance(text, str)}
        if len(question.answered) < self._settings.solutions or len(question.runs) < len(programs):
            return
        solutions = [Solution(index, programs[index], question.runs[index].passed) for index in sorted(programs)]
        question.choice = selection.choose(solutions, self._settings)
        if question.choice is None:
            self._close(question, "solved", "unsolved")
            return
        chosen, settings = question.choice.solution, self._settings
        if settings.choice == "first":  # whatever the tests say
            self._close(question, "kept", self._unusable(question))
            return
        seed = prompts.seed(settings, "mutants", question.id)
        question.wrong = [mutants.stub(chosen.program), *mutants.mutants(chosen.program, settings.mutants, seed)]
        kept = [question.cases[index] for index in question.choice.tests]
        for index, program in enumerate(question.wrong):
            self._execute(question, "mutant" if index else "stub", index, program, kept)

    def _judge_tests(self, question: _Question) -> None:
        choice = question.choice
        assert choice is not None
        rejected = [not question.wrong_runs[index].all_passed for index in range(len(question.wrong))]
        others = {
            index: any(run.passed[test] == "0" for test in choice.tests)
            for index, run in sorted(question.runs.items())
            if index != choice.solution.index
        }
        if reason := selection.weakness(rejected[0], rejected[1:], others, self._settings):
            self._close(question, "kept", reason)
            return
        self._close(question, "kept", self._unusable(question))

    def _unusable(self, question: _Question) -> str:
        """Why the dialogue of a question cannot be used; "" if it can."""
        choice, text = question.choice, question.given.text
        assert choice is not None
        kept = [question.cases[index].source for index in choice.tests]
        reason = unusable(dialogue(text, kept, choice.solution.program, self._settings))
        if not reason and self._questions.contaminated("\n".join([text, *kept, choice.solution.program])):
            reason = "contaminated"
        return reason

    # --- results

    def _close(self, question: _Question, phase: str, dropped: str) -> None:
        """Records a question that nothing more happens to.

        Args:
            phase: the part of the funnel that it did not reach; "kept" and no reason: it did.
            dropped: why; "" if it is kept.
        """
        del self._open[question.id]
        self._closed += 1
        self._kept += not dropped
        self._records.add_question(_row(question, phase, dropped))


def _row(question: _Question, phase: str, dropped: str) -> dict[str, object]:
    """The record of a question."""
    row: dict[str, object] = {"id": question.id, "question": question.given.text, "dropped": dropped}
    row |= {"dropped_before": phase} if dropped else {}
    if question.given.cases:
        row["given_tests"] = True
    if question.left_out:
        row["tests_left_out"] = question.left_out
    if question.cases:
        row |= {"tests": [case.source for case in question.cases], "shown": question.shown}
    if question.answered:
        row["solutions"] = [
            {"index": index, "malformed": str(found)}
            if isinstance(found, Malformed)
            else {"index": index, "program": found, **dataclasses.asdict(question.runs[index])}
            for index, found in sorted(question.answered.items())
        ]
    if choice := question.choice:
        row |= {"chosen": choice.solution.index, "kept_tests": list(choice.tests)}
        row["wrong_programs"] = [
            {"program": program, "rejected": not question.wrong_runs[index].all_passed}
            for index, program in enumerate(question.wrong)
        ]
    return row
