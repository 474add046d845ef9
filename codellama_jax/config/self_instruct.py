"""Settings of self-instruct, `python -m tasks.self_instruct`."""

import dataclasses

FORMS = ("text", "chat", "completion")
CHOICES = ("first_passing", "agreement", "first")
QUESTIONS = ("question", "question_and_tests")
ANSWERS = ("fenced", "tags", "plain")


@dataclasses.dataclass(frozen=True)
class SelfInstruct:
    """How dialogues are made of questions, tests and solutions that models write (arXiv 2308.12950, section 2.5).

    The paper states the prompts, their number and the number of solutions. Temperatures, top_p and numbers of tokens
    are not published: those here are ours.

    Attributes:
        prompts: number of times that questions are asked for, 50 of them each. 1,240 give the 62,000 of the paper.
        solutions: solutions to each question.
        question_temperature, test_temperature, solution_temperature: temperatures of sampling.
        top_p: of sampling.
        question_tokens, test_tokens, solution_tokens: the most tokens of an answer.
        form: "text", the prompts as texts with [INST] and [/INST], which are those of Llama 2 and Code Llama; or
            "chat", the same as messages, for endpoints whose models have another format of dialogues. "completion": a
            solution continues the prompt of a question that is given, for models that were not trained on dialogues.
        choice: which solution is kept. "first_passing": the first one that passes all tests, as in the paper.
            "agreement": one of those that agree, where solutions that pass the same tests agree, and the largest
            product of the number of solutions and the number of tests decides (CodeT, arXiv 2207.10397); tests that it
            fails are dropped. "first": the first one, whatever the tests say, to compare with; the tests are not
            tested.
        least_agreeing: with "agreement", the least number of different solutions that agree.
        least_tests: a question with fewer tests is dropped.
        mutants: the most mutants of the accepted solution that its tests are run on.
        least_rejected: the least share that tests must reject of the mutants; in any case they must reject the stub,
            and a mutant or another solution if there is one.
        cpu_seconds: processor time of a solution, and of its tests.
        question: the user's message of a dialogue: the "question", or the "question_and_tests".
        most_questions: of questions that are given, only the first ones are used; None: all.
        most_dialogues: only the first ones are written; None: all. So two choices have equal quantities.
        answer: the assistant's message: the solution as a "fenced" block, between the "tags" of the prompt, or "plain".
        seed: of sampling, and of the choices of the shown test and of mutants.
    """

    prompts: int = 1240
    solutions: int = 10
    question_temperature: float = 0.8
    test_temperature: float = 0.8
    solution_temperature: float = 0.8
    top_p: float = 0.95
    question_tokens: int = 4096
    test_tokens: int = 1024
    solution_tokens: int = 1024
    form: str = "text"
    choice: str = "first_passing"
    least_agreeing: int = 2
    least_tests: int = 1
    mutants: int = 8
    least_rejected: float = 0.0
    cpu_seconds: float = 3.0
    most_questions: int | None = None
    most_dialogues: int | None = None
    question: str = "question"
    answer: str = "fenced"
    seed: int = 0

    def __post_init__(self):
        for field in ("prompts", "solutions", "question_tokens", "test_tokens", "solution_tokens", "least_agreeing"):
            _check(field, getattr(self, field), 1)
        for field, lowest in (("least_tests", 1), ("mutants", 0), ("seed", 0)):
            _check(field, getattr(self, field), lowest)
        for field in ("most_questions", "most_dialogues"):
            if getattr(self, field) is not None:
                _check(field, getattr(self, field), 1)
        for field in ("question_temperature", "test_temperature", "solution_temperature"):
            if not 0 <= getattr(self, field) <= 1000:
                raise ValueError(f"SelfInstruct.{field}={getattr(self, field)} must be between 0 and 1000")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"SelfInstruct.top_p={self.top_p} must be above 0 and at most 1")
        if not 0 <= self.least_rejected <= 1:
            raise ValueError(f"SelfInstruct.least_rejected={self.least_rejected} must be between 0 and 1")
        if not self.cpu_seconds > 0:
            raise ValueError(f"SelfInstruct.cpu_seconds={self.cpu_seconds} must be above 0")
        choices = {"form": FORMS, "choice": CHOICES, "question": QUESTIONS, "answer": ANSWERS}
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"SelfInstruct.{field}={getattr(self, field)} must be one of {', '.join(allowed)}")
        for field, count in (("question_temperature", self.prompts), ("solution_temperature", self.solutions)):
            if count > 1 and getattr(self, field) == 0:
                raise ValueError(f"SelfInstruct.{field}=0 would give equal answers: set a temperature above 0")


def _check(field: str, value: int, lowest: int) -> None:
    if value < lowest:
        raise ValueError(f"SelfInstruct.{field}={value} must be at least {lowest}")
