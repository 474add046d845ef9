"""Self-instruct with execution feedback, and rehearsal during instruction tuning."""

from collections.abc import Iterator
from pathlib import Path

from study.claim import BITS, PASS, Claim, Comparison, Measure, Value
from study.claims.base import BASE, BASE_PASS, exercise_ends, exercises_pass, results
from study.step import Step, evaluation, training

_DIALOGUES = 300  # of each choice: equal quantities


def _self_instruct(name: str, choice: str, solutions: int, minutes: float) -> Step:
    settings = {
        "form": "completion",
        "answer": "plain",
        "choice": choice,
        "solutions": solutions,
        "solution_tokens": 128,
        "mutants": 2,
        "most_dialogues": _DIALOGUES,
        "seed": "{seed}",
    }
    arguments = ("-m", "tasks.self_instruct", "--questions=embedded:exercises", "--solutions={folder}/base/code")
    flags = tuple(f"--gin.SelfInstruct.{field}={value}" for field, value in settings.items())
    return Step(name, (*arguments, f"--out={{folder}}/{name}", "--workers=1", "--slots=64", *flags), ("base",), minutes)


def _tuned(name: str, data: Step, form: str, steps: int, rate: str) -> Step:
    macro, file = ("PYTHON", "programs") if form == "programs" else ("INSTRUCT", "dialogues")
    corpus = f"{macro}_CORPUS='{{folder}}/{data.name}/{file}.jsonl'"
    return training(
        name,
        "instruct",
        initial="base/code",
        files=["gin/paper/instruct.gin", f"gin/paper/{form}.gin"],
        flags=[corpus, f"Stage.steps={steps}", f"INSTRUCT_LEARNING_RATE={rate}"],
        needs=[data.name],
        minutes=0.5,
    )


def _chat(name: str, model: str) -> Step:
    return evaluation(name, model, "exercises", flags=["Exercises.prompts=('chat',)", "--chat_format=inst"])


_FILTERED = _self_instruct("filtered", "first_passing", 4, 3.0)
_UNFILTERED = _self_instruct("unfiltered", "first", 1, 1.0)
_BY_EXECUTION = _tuned("functions_filtered", _FILTERED, "programs", 100, "1e-4")
_BLIND = _tuned("functions_unfiltered", _UNFILTERED, "programs", 100, "1e-4")
_PLAIN = _tuned("dialogues", _FILTERED, "dialogues_only", 200, "1e-3")
_REHEARSED = _tuned("rehearsal", _FILTERED, "rehearsal", 200, "1e-3")
_TUNED = (_BY_EXECUTION, _BLIND, _PLAIN, _REHEARSED)
_PASSES = tuple(exercises_pass(step, "instruct") for step in _TUNED)
_CHAT_PASS = Measure("pass@1 of exercises that are asked for in a dialogue", "%")
_BEFORE, _ONLY, _WITH = "before", "dialogues only", "with rehearsal of code"
_SELECTED, _ALL = "programs that passed their tests", "programs that were not run"


def _self_instruct_values(folder: Path) -> Iterator[Value]:
    yield from exercise_ends(folder, _BEFORE, "base")
    for condition, step in ((_SELECTED, _BY_EXECUTION), (_ALL, _BLIND)):
        yield from exercise_ends(folder, condition, step.name, "instruct")
    for condition, name in ((_BEFORE, "base_chat"), (_ONLY, "dialogues_chat")):
        yield Value(condition, _CHAT_PASS, results(folder, name, "exercises")["pass@1"])


def _rehearsal_values(folder: Path) -> Iterator[Value]:
    yield from exercise_ends(folder, _BEFORE, "base")
    for condition, step in ((_ONLY, _PLAIN), (_WITH, _REHEARSED)):
        yield from exercise_ends(folder, condition, step.name, "instruct")


SELF_INSTRUCT = Claim(
    "self-instruct",
    "Instruction data that was selected by running it is better",
    "tables 9 and 18",
    "Questions and tests are the generator's third split, solutions are the model's own. The model is tuned on"
    f" {_DIALOGUES} programs that passed, or on as many of those that it wrote first: as plain functions, and the first"
    " also as dialogues.",
    (
        *(BASE, BASE_PASS, _FILTERED, _UNFILTERED, _BY_EXECUTION, _BLIND, _PLAIN, *_PASSES[:3]),
        *(_chat("base_chat", "base/code"), _chat("dialogues_chat", "dialogues/instruct")),
    ),
    _self_instruct_values,
    (
        Comparison("Selected by running, against not selected", PASS, _ALL, _SELECTED, "better"),
        Comparison("Selected by running, against not selected", BITS, _ALL, _SELECTED, "better"),
        Comparison("Dialogues, against before", _CHAT_PASS, _BEFORE, _ONLY, "better"),
    ),
    remark="A model of this size does not learn from so few dialogues to copy the name that a request asks for.",
)
REHEARSAL = Claim(
    "rehearsal",
    "Rehearsal keeps what the model knew during instruction tuning",
    "section 2.5",
    "The same dialogues, with and without 8% of code.",
    (BASE, BASE_PASS, _FILTERED, _PLAIN, _REHEARSED, *_PASSES[2:]),
    _rehearsal_values,
    (
        Comparison("With rehearsal, against without", PASS, _ONLY, _WITH, "better"),
        Comparison("With rehearsal, against without", BITS, _ONLY, _WITH, "better"),
        Comparison("Without rehearsal, against before", BITS, _BEFORE, _ONLY, "worse"),
    ),
)
