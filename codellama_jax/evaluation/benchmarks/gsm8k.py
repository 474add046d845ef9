"""GSM8K (arXiv 2110.14168): word problems of grade-school mathematics, with worked examples in the prompt."""

import re
from decimal import Decimal, InvalidOperation
from pathlib import Path

from codellama_jax.config.scored_benchmarks import Gsm8k as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation import task_files
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.problem import Completion, Problem
from codellama_jax.evaluation.sample import Answer, Judgement
from codellama_jax.sandbox.jobs import Outcome

FILE = "gsm8k/test.jsonl"
FIELDS = ("question", "answer")
MARK = "####"  # stands before the number in a published answer

# The eight worked examples of arXiv 2201.11903 (table 20), which evaluations of GSM8K commonly use.
SHOTS = (
    (
        "There are 15 trees in the grove. Grove workers will plant trees in the grove today. After they are done, there"
        " will be 21 trees. How many trees did the grove workers plant today?",
        "There are 15 trees originally. Then there were 21 trees after some more were planted. So there must have been"
        " 21 - 15 = 6. The answer is 6.",
    ),
    (
        "If there are 3 cars in the parking lot and 2 more cars arrive, how many cars are in the parking lot?",
        "There are originally 3 cars. 2 more cars arrive. 3 + 2 = 5. The answer is 5.",
    ),
    (
        "Leah had 32 chocolates and her sister had 42. If they ate 35, how many pieces do they have left in total?",
        "Originally, Leah had 32 chocolates. Her sister had 42. So in total they had 32 + 42 = 74. After eating 35,"
        " they had 74 - 35 = 39. The answer is 39.",
    ),
    (
        "Jason had 20 lollipops. He gave Denny some lollipops. Now Jason has 12 lollipops. How many lollipops did Jason"
        " give to Denny?",
        "Jason started with 20 lollipops. Then he had 12 after giving some to Denny. So he gave Denny 20 - 12 = 8. The"
        " answer is 8.",
    ),
    (
        "Shawn has five toys. For Christmas, he got two toys each from his mom and dad. How many toys does he have"
        " now?",
        "Shawn started with 5 toys. If he got 2 toys each from his mom and dad, then that is 4 more toys. 5 + 4 = 9."
        " The answer is 9.",
    ),
    (
        "There were nine computers in the server room. Five more computers were installed each day, from monday to"
        " thursday. How many computers are now in the server room?",
        "There were originally 9 computers. For each of 4 days, 5 more computers were added. So 5 * 4 = 20 computers"
        " were added. 9 + 20 is 29. The answer is 29.",
    ),
    (
        "Michael had 58 golf balls. On tuesday, he lost 23 golf balls. On wednesday, he lost 2 more. How many golf"
        " balls did he have at the end of wednesday?",
        "Michael started with 58 golf balls. After losing 23 on tuesday, he had 58 - 23 = 35. After losing 2 more, he"
        " had 35 - 2 = 33 golf balls. The answer is 33.",
    ),
    (
        "Olivia has $23. She bought five bagels for $3 each. How much money does she have left?",
        "Olivia had 23 dollars. 5 bagels for 3 dollars each will be 5 x 3 = 15 dollars. So she has 23 - 15 dollars"
        " left. 23 - 15 is 8. The answer is 8.",
    ),
)

_NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
_STATED = re.compile(rf"answer is[\s:]*\$?\s*({_NUMBER})", re.IGNORECASE)
_ANY = re.compile(_NUMBER)


class Gsm8k(Benchmark[Settings]):
    """Problem.data is the published answer with its steps. pass@1 is the solve rate."""

    name = "gsm8k"
    settings_class = Settings

    def problems(self, data: Path) -> list[Problem]:
        path = data / FILE
        content = task_files.read(path, self.settings.sha256, "Gsm8k.sha256")
        problems = []
        for number, row in enumerate(task_files.json_lines(path, content, FIELDS)):
            where = f"{path}:{number + 1}"
            answer = task_files.text(row, "answer", where)
            if _decimal(answer.rpartition(MARK)[2]) is None or MARK not in answer:
                raise UserError(f"{where} has an answer without {MARK} and a number: this is another file than GSM8K's")
            prompt = self._prompt(task_files.text(row, "question", where))
            problems.append(Problem(f"{number}", Completion(prompt), answer))
        return problems

    def _prompt(self, question: str) -> str:
        shots = "".join(f"Q: {asked}\nA: {answer}\n\n" for asked, answer in SHOTS[: self.settings.shots])
        return f"{shots}Q: {question}\nA:"

    def judged(self, problem: Problem, completion: str, outcome: Outcome | None, answer: Answer) -> Judgement:
        found, right = number_of(completion), _decimal(problem.data.rpartition(MARK)[2])
        if found == right:
            return Judgement(True)
        return Judgement(False, reason="no number" if found is None else f"the answer is {right}, not {found}")

    def canonical(self, problem: Problem) -> str:
        steps, _, number = problem.data.rpartition(MARK)
        return f" {steps.strip()} The answer is {number.strip()}.\n"


def number_of(answer: str) -> Decimal | None:
    """The number after the first "answer is", or else the last number of an answer; None if there is none."""
    stated = _STATED.search(answer)
    numbers = [stated[1]] if stated else _ANY.findall(answer)
    return _decimal(numbers[-1]) if numbers else None


def _decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text.strip().replace(",", ""))
    except InvalidOperation:
        return None
