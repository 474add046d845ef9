"""Measures prompt lookup: decoding with and without guesses, on text that repeats itself and on text that does not.

    python benchmarks/prompt_lookup.py [--draft_tokens=8] [--rounds=5] [--tokenizer=FILE] [--out=FILE]

The model has the shape of stories15M and random weights, so that it needs no download; a frequency penalty of -2, which
makes each token more likely the more often it came, gives an answer that repeats itself. Every answer is compared with
the one without guesses. How many guesses are right in code that is edited depends on the model; the second table
replays the guesses on edits of this project's own files, as if the model wrote exactly the edited file.
"""

import argparse
import datetime
import os
import platform
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from result_file import paragraph, processor

from codellama_jax.config.generation import Sampling, Serving
from codellama_jax.config.model import Llama
from codellama_jax.conversion import canonical
from codellama_jax.generation import forward
from codellama_jax.generation.engine import Engine
from codellama_jax.generation.speculation import PromptLookup
from codellama_jax.tokenizer import SentencePieceTokenizer

ROOT = Path(__file__).resolve().parent.parent
FILES = (
    "generation/kv_cache.py",
    "generation/forward.py",
    "tokenizer/sentencepiece_tokenizer.py",
    "training/loss.py",
    "model/llama.py",
)
TOKENS = 200  # of an answer
COUNTS = ("drafted", "accepted")
TEXTS = {"repeats": {"frequency_penalty": -2.0}, "does not repeat": {"temperature": 1.0}}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures decoding with and without prompt lookup.")
    parser.add_argument("--draft_tokens", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.model for the replay (default: no replay)")
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    options = parser.parse_args()
    llama = Llama(dim=288, layers=6, heads=6, kv_heads=6, ffn_dim=768, vocab_size=32_000, compute_dtype="float32")
    rng = np.random.default_rng(0)

    def read(name: str, _: int | None) -> np.ndarray:
        values = rng.normal(size=canonical.shape(llama, name)) * llama.dim**-0.5
        return canonical.to_native(llama, name, values.astype(np.float32))

    weights = forward.weights_of(read, llama)
    rows = [row for slots in (1, 16) for row in measured(weights, llama, slots, options)]
    replays = replay(options.tokenizer, options.draft_tokens) if options.tokenizer else []
    text = "\n".join(report(rows, replays, options))
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def measured(weights: forward.Weights, llama: Llama, slots: int, options: argparse.Namespace) -> list[str]:
    """A line of the table for each text."""
    engines = [
        Engine(weights, llama, Serving(slots=slots, context=512, draft_tokens=count), llama.vocab_size)
        for count in (0, options.draft_tokens)
    ]
    for engine in engines:
        engine.warm_up()
    lines = []
    for name, settings in TEXTS.items():
        ratios, seconds = [], [list[float](), list[float]()]
        for number in range(options.rounds + 1):
            answers, requests = [], []
            for engine, times in list(zip(engines, seconds, strict=True))[:: 1 if number % 2 else -1]:
                prompts = np.random.default_rng(number).integers(3, llama.vocab_size, (slots, 40)).tolist()
                start = time.perf_counter()
                requests.append(
                    [
                        engine.submit(prompt, Sampling(max_tokens=TOKENS, seed=seed, **settings))
                        for seed, prompt in enumerate(prompts)
                    ]
                )
                while engine.busy:
                    engine.step()
                times.append(time.perf_counter() - start)
                answers.append([request.tokens for request in requests[-1]])
            assert answers[0] == answers[1], "guesses changed the answer"
            drafted, accepted = (max(sum(getattr(one, key) for one in each) for each in requests) for key in COUNTS)
            if number:
                ratios.append(seconds[0][-1] / seconds[1][-1])
        rates = [slots * TOKENS / statistics.median(times[1:]) for times in seconds]
        lines.append(
            f"| {slots} | {name} | {rates[0]:,.0f} | {rates[1]:,.0f} | **{statistics.median(ratios):.2f}**"
            f" ({min(ratios):.2f} .. {max(ratios):.2f}) | {accepted / (slots * TOKENS):.0%}"
            f" | {drafted:,} | {engines[1].programs.verify_cost[slots]:.1f} |"
        )
        print(lines[-1], flush=True)
    return lines


def replay(tokenizer: Path, count: int) -> list[str]:
    """A line of the second table for each way in which a file is written."""
    encode = SentencePieceTokenizer(tokenizer.read_bytes(), infilling=False).encode
    found: dict[str, list[tuple[int, int]]] = {"an edit of one line in seven": [], "the rest of a file": []}
    rng = random.Random(0)
    for file in FILES:
        text = (ROOT / "codellama_jax" / file).read_text()
        lines = text.splitlines(keepends=True)
        changed = [line.replace("self", "this").replace("token", "id") for line in lines]
        edited = "".join(map(rng.choice, zip(changed, *[lines] * 6, strict=True)))
        half = len("".join(lines[: len(lines) // 2]))
        for results, prompt, answer in zip(found.values(), (text, text[:half]), (edited, text[half:]), strict=True):
            results.append(passes(encode(prompt).tolist(), encode(answer).tolist(), count))
    return [f"| {name} | {sum(t for t, _ in each) / sum(n for _, n in each):.1f} |" for name, each in found.items()]


def passes(prompt: list[int], answer: list[int], count: int) -> tuple[int, int]:
    """The tokens of an answer, and the number of verifications in which it is generated."""
    lookup, done, number = PromptLookup(prompt), 0, 0
    while done < len(answer):
        guess = lookup.guess(count)
        right = next((n for n in range(count) if guess[n : n + 1] != answer[done + n : done + n + 1]), count)
        new = answer[done : done + right + 1]
        lookup.add(new)
        done, number = done + len(new), number + 1
    return len(answer), number


def search_seconds() -> float:
    """The least time of a search for a guess, a token of a random text of 10,000 tokens."""
    text = np.random.default_rng(0).integers(0, 32_000, 10_000).tolist()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        passes([], text, 8)
        times.append((time.perf_counter() - start) / len(text))
    return min(times)


def report(rows: list[str], replays: list[str], options: argparse.Namespace) -> Iterator[str]:
    """The lines of the result file."""
    yield f"# Prompt lookup, {datetime.date.today()}\n"
    flags = f"--draft_tokens={options.draft_tokens} --rounds={options.rounds} --tokenizer=FILE"
    yield f"    python benchmarks/prompt_lookup.py {flags}\n"
    yield from paragraph(
        f"{os.cpu_count()} cores of {processor()}, shared; Python {platform.python_version()}, jax {jax.__version__},"
        f" float32. A model of the shape of stories15M (288 wide, 6 layers, 32,000 ids) with random weights;"
        f" {TOKENS} tokens of each answer, prompts of 40 tokens, which are included in the times. Alternated,"
        f" {options.rounds} rounds after one that is not counted; medians, and the extremes of the ratio. All answers"
        " were equal with and without guesses. 'Cost' is that of a verification in steps of decoding, as warm_up"
        " measured it. Where no guess was verified, both sides ran the same programs: what differs is the search for"
        f" guesses, {search_seconds() * 1e6:.0f} microseconds a token, and the noise of the machine."
    )
    yield "| requests | text | tokens/s without | with | ratio | tokens guessed right | guesses verified | cost |"
    yield "|---|---|---|---|---|---|---|---|"
    yield from rows
    if replays:
        yield ""
        yield from paragraph(
            "Tokens a verification if a model wrote these texts exactly, over five files of this project and the"
            " tokenizer of Code Llama:"
        )
        yield "| text | tokens a verification |\n|---|---|"
        yield from replays


if __name__ == "__main__":
    main()
