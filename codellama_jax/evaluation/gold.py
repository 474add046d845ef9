"""The gold texts of benchmarks: the right answers, as token ids after the benchmark's own prompts.

A stage measures how likely they are while it trains (training/bits_per_byte.py). Gold texts are canonical solutions, or
the middles of holes; no end of answer follows them. Prompts are those that the evaluate command generates from.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from codellama_jax.config.run import PARTS, Config
from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.problem import Completion, Infilling
from codellama_jax.evaluation.table import BENCHMARKS
from codellama_jax.runtime import filesystem
from codellama_jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class GoldText:
    """The right answer of one task.

    Attributes:
        benchmark: name of the curve that it belongs to, such as "humaneval" or "infilling_single_line/psm".
        prompt: token ids, at least one.
        gold: token ids of the answer.
        nbytes: length of the answer in UTF-8.
        shortened: whether the prompt has been cut.
    """

    benchmark: str
    prompt: Sequence[int]
    gold: Sequence[int]
    nbytes: int
    shortened: bool = False


@dataclasses.dataclass(frozen=True)
class GoldProblem:
    """A problem and its right answer, as text."""

    benchmark: str
    input: Completion | Infilling
    gold: str


def configured(config: Config, name: str, tokenizer: Tokenizer | None = None) -> Benchmark[Any]:
    """A benchmark with the settings of a configuration; with its defaults if they are not in it.

    Raises:
        UserError: there is no such benchmark.
    """
    if name not in BENCHMARKS:
        raise UserError(f"there is no benchmark {name!r}: the names are {', '.join(BENCHMARKS)}", EXIT_USAGE)
    kind = BENCHMARKS[name]
    attribute = next(attribute for attribute, part in PARTS.items() if part is kind.settings_class)
    return kind(getattr(config, attribute) or kind.settings_class(), tokenizer)


def read(config: Config) -> list[GoldProblem]:
    """Reads the problems of Evaluation.benchmarks, the first variant of each, and of infilling all orders. Checks those
    of final_benchmarks too.

    Raises:
        UserError: a file is missing, damaged or of another version, or there is no such benchmark.
    """
    found = []
    for name in config.evaluation.measured_at_the_end:
        configured(config, name).problems(filesystem.to_path(config.evaluation.benchmark_data or ""))
    for name in config.evaluation.measured:
        benchmark = configured(config, name)
        problems = benchmark.problems(filesystem.to_path(config.evaluation.benchmark_data or ""))
        for problem in problems:
            gold = benchmark.completion(problem, str(benchmark.canonical(problem)))
            match problem.input:
                case Infilling(order=order):
                    found.append(GoldProblem(f"{name}/{order}", problem.input, gold))
                case Completion():
                    if problem.variant == problems[0].variant:
                        found.append(GoldProblem(name, problem.input, gold))
                case _:
                    raise UserError(
                        f"Evaluation.benchmarks cannot measure {name} as dialogues: choose its other prompt, or leave"
                        " it out",
                        EXIT_USAGE,
                    )
    return found


def encoded(problems: Sequence[GoldProblem], tokenizer: Tokenizer, length: int) -> list[GoldText]:
    """The problems as token ids. Those of infilling are left out if the tokenizer has no infilling ids.

    A prompt that does not fit into a window with its gold text is cut: the end of a text to continue is kept, and of a
    hole the text around it. Half of the window is always for the prompt.

    Args:
        length: positions of a window. It has one token more, which is only a target.
    """
    texts = []
    for problem in problems:
        gold = tokenizer.encode_continuation(problem.gold).tolist()
        room = max(length + 1 - len(gold), length // 2)
        match problem.input:
            case Completion(text):
                prompt = tokenizer.prompt_ids(text)
                kept = prompt if len(prompt) <= room else [prompt[0], *prompt[len(prompt) - room + 1 :]]
            case Infilling() if tokenizer.infilling:
                prompt, kept = _hole(tokenizer, problem.input, room)
            case _:
                continue
        nbytes = len(problem.gold.encode())
        texts.append(GoldText(problem.benchmark, kept, gold, nbytes, shortened=len(kept) < len(prompt)))
    return texts


def lines(config: Config, texts: Sequence[GoldText]) -> list[str]:
    """Messages about what is measured: the number of gold texts, prompts that were cut, and benchmarks left out."""
    if not config.evaluation.measured:
        return []
    messages = []
    if texts:
        tokens = sum(len(text.prompt) + len(text.gold) for text in texts)
        names = ", ".join(dict.fromkeys(text.benchmark for text in texts))
        messages.append(f"every evaluation measures bits per byte of {names}: {tokens:,} tokens")
    if shortened := sum(text.shortened for text in texts):
        messages.append(
            f"{shortened:,} of {len(texts):,} prompts of benchmarks do not fit into a window of the stage with their"
            " answers, and are cut"
        )
    for name in config.evaluation.measured:
        if not any(text.benchmark.partition("/")[0] == name for text in texts):
            messages.append(f"{name} is not measured: the tokenizer has no infilling ids")
    return messages


def _hole(tokenizer: Tokenizer, hole: Infilling, room: int) -> tuple[list[int], list[int]]:
    """The prompt of a hole, and what of it is kept. A suffix that is too long has at least a quarter of the room."""
    before = tokenizer.encode(hole.prefix)
    after = tokenizer.encode_continuation(hole.suffix)
    prompt = tokenizer.infilling_ids(before, after, hole.order).tolist()
    if len(prompt) <= room:
        return prompt, prompt
    texts = room - (len(prompt) - len(before) - len(after))  # without the ids around them
    kept_after = min(len(after), max(texts // 4, texts - len(before)))
    kept_before = min(len(before), texts - kept_after)
    kept = tokenizer.infilling_ids(before[len(before) - kept_before :], after[:kept_after], hole.order)
    return prompt, kept.tolist()
