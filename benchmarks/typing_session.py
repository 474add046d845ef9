"""Infilling while a programmer types: tokens prefilled and time to the first token at each of 200 keystrokes.

    python benchmarks/typing_session.py --checkpoint=runs/local/code [--out=FILE.md] [--csv=FILE.csv]

The session types 200 keystrokes of a function into the middle of a file of 4,000 tokens, textwrap.py of Python's
standard library. Four of them are mistyped, and four delete those. After each keystroke, the text before and after the
cursor becomes an infilling prompt, as an editor sends it; at the end of a word the typist pauses and the answer of 32
tokens is generated completely, otherwise the next keystroke cancels it after its first tokens. The time to the first
token includes encoding the prompt. The session runs in both orders of the prompt, with and without the prefix cache, on
the checkpoint and on a model of stories15M's shape with random weights and 32,000 rows; both read the same prompts.
"""

import argparse
import csv
import dataclasses
import datetime
import gc
import importlib.metadata
import os
import platform
import statistics
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from result_file import paragraph, processor

from codellama_jax.config.generation import Sampling, Serving
from codellama_jax.config.model import Llama
from codellama_jax.conversion.generation_model import GenerationModel, open_model
from codellama_jax.generation import forward, prompts
from codellama_jax.generation.engine import Engine
from codellama_jax.generation.stopping import TokenTexts

KEYSTROKES, TOKENS, ANSWER = 200, 4000, 32
EVERY = 10  # without the cache, every tenth keystroke is measured
TYPED = "def _wrap_chunks"  # the function that is typed, in textwrap.py
MISTYPED, MISTYPED_AT = "slef", 77  # four keystrokes, and after how many
SHAPE_15M = Llama(
    dim=288, layers=6, heads=6, kv_heads=6, ffn_dim=768, vocab_size=32_000, norm_eps=1e-5, compute_dtype="float32"
)
MODES = [(order, cache) for order in ("spm", "psm") for cache in (True, False)]


class Keystroke(NamedTuple):
    """What one keystroke costs. `prompt`, `cached` and `prefilled` are tokens, `encoding` and `first` milliseconds."""

    prompt: int
    cached: int
    prefilled: int
    encoding: float
    first: float


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures infilling while a programmer types.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="a stage of size local")
    parser.add_argument("--keystrokes", type=int, default=KEYSTROKES, help="fewer for a trial")
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    parser.add_argument("--csv", type=Path, help="file for the figures of each keystroke")
    options = parser.parse_args()
    started = time.monotonic()
    local = open_model(options.checkpoint, None, "float32")
    models = {"local": local, "15M": dataclasses.replace(local, llama=SHAPE_15M, weights=random_weights(SHAPE_15M))}
    texts = TokenTexts(local.tokenizer)
    cursors = list(session(local))[: options.keystrokes]
    measured: dict[tuple[str, str, bool], list[Keystroke]] = {}
    for name, model in models.items():
        for order, cache in MODES:
            typed = cursors if cache else cursors[::EVERY]
            measured[name, order, cache] = keystrokes = type_session(model, texts, typed, order, cache)
            print(name, order, "cache" if cache else "no cache", summary(keystrokes), flush=True)
    text = "\n".join(report(models, measured, time.monotonic() - started))
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    if options.csv:
        write_csv(options.csv, measured)


def session(model: GenerationModel) -> Iterator[tuple[str, str, bool]]:
    """The text before and after the cursor after each keystroke, and whether the typist pauses then."""
    source = Path(textwrap.__file__).read_text(encoding="utf-8")
    start = source.index(TYPED)
    typed = source[start : start + KEYSTROKES - 2 * len(MISTYPED)]
    end = source.index("\n    def ", start)
    before, after = source[:start], source[end:]
    # Whole lines are cut from both ends, until TOKENS remain: three fifths before the cursor.
    while len(model.tokenizer.encode(before)) > TOKENS * 3 // 5:
        before = before.partition("\n")[2]
    while len(model.tokenizer.encode(before)) + len(model.tokenizer.encode(after)) > TOKENS:
        after = after.rpartition("\n")[0]
    for count in range(1, len(typed) + 1):
        yield before + typed[:count], after, not typed[count - 1].isalnum()
        if count == MISTYPED_AT:
            lengths = [*range(1, len(MISTYPED) + 1), *range(len(MISTYPED) - 1, -1, -1)]
            yield from ((before + typed[:count] + MISTYPED[:length], after, False) for length in lengths)


def type_session(
    model: GenerationModel, texts: TokenTexts, cursors: list[tuple[str, str, bool]], order: str, cache: bool
) -> list[Keystroke]:
    """The figures of each keystroke of a session, in an engine of its own."""
    serving = Serving(slots=2, context=8192, prefix_cache=cache)
    engine = Engine(model.weights, model.llama, serving, model.tokenizer.rows)
    engine.warm_up()
    gc.collect()
    keystrokes = []
    for before, after, pause in cursors:
        start = time.perf_counter()
        prompt = prompts.infill(model.tokenizer, texts, before, after, order)  # type: ignore[arg-type]
        encoded = time.perf_counter()
        request = engine.submit(prompt.ids, Sampling(max_tokens=ANSWER), prompt.stop_ids, prompt.allowed)
        while not (request.tokens or request.finished):
            engine.step()
        first = time.perf_counter()
        keystrokes.append(
            Keystroke(
                len(prompt.ids), request.cached, request.prefilled, 1e3 * (encoded - start), 1e3 * (first - start)
            )
        )
        while pause and not request.finished:
            engine.step()
        engine.finish(request, "cancelled")
    return keystrokes


def random_weights(llama: Llama) -> forward.Weights:
    rng = np.random.default_rng(0)
    shapes = {
        "embedding": (llama.vocab_size, llama.dim),
        "head": (llama.dim, llama.vocab_size),
        "wq": (llama.dim, llama.heads * llama.head_dim),
        "wk": (llama.dim, llama.kv_heads * llama.head_dim),
        "wv": (llama.dim, llama.kv_heads * llama.head_dim),
        "wo": (llama.heads * llama.head_dim, llama.dim),
        "w1": (llama.dim, llama.ffn_dim),
        "w3": (llama.dim, llama.ffn_dim),
        "w2": (llama.ffn_dim, llama.dim),
    }

    def read(name: str, layer: int | None) -> np.ndarray:
        if name not in shapes:
            return np.ones(llama.dim, np.float32)
        return rng.normal(size=shapes[name]).astype(np.float32) * llama.dim**-0.5

    return forward.weights_of(read, llama)


def quantiles(values: list[float]) -> tuple[float, float, float]:
    """Median, 90th percentile and maximum."""
    return tuple(np.quantile(values, (0.5, 0.9, 1)))  # type: ignore[return-value]


def summary(keystrokes: list[Keystroke]) -> str:
    """Cells of a table: tokens prefilled and milliseconds, the first keystroke apart."""
    later = keystrokes[1:] or keystrokes
    prefilled = " | ".join(f"{value:,.0f}" for value in quantiles([key.prefilled for key in later]))
    first = " | ".join(f"{value:,.1f}" for value in quantiles([key.first for key in later]))
    return f"{prefilled} | {first} | {keystrokes[0].first:,.0f}"


def report(
    models: dict[str, GenerationModel], measured: dict[tuple[str, str, bool], list[Keystroke]], seconds: float
) -> Iterator[str]:
    """The lines of the result file."""
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--checkpoint")]
    keystrokes = measured["local", "spm", True]
    yield f"# A typing session, {datetime.date.today()}"
    yield ""
    yield f"    python benchmarks/typing_session.py --checkpoint=runs/local/code {' '.join(arguments)}".rstrip()
    yield ""
    prompt, encoding = [key.prompt for key in keystrokes], statistics.median(key.encoding for key in keystrokes)
    yield from paragraph(
        f"{os.cpu_count()} cores of {processor()}, shared; Python {platform.python_version()},"
        f" jax {importlib.metadata.version('jax')}; float32; {seconds:.0f} s in total. {len(keystrokes)} keystrokes"
        f" in a file of {min(prompt):,} to {max(prompt):,} tokens; pages of 16 tokens, chunks of 16 and 128,"
        " 4 decoded tokens in a dispatch. The first keystroke, which opens the file, is in the last column only. The"
        f" time to the first token includes encoding the prompt (median {encoding:.1f} ms)."
        f" Without the cache every prompt is processed completely; every {EVERY}th keystroke is measured."
    )
    yield (
        "| model | order | prefix cache | tokens prefilled: median | p90 | max | first token, ms: median | p90 | max |"
        + (" opening the file, ms |")
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for (name, order, cache), keys in measured.items():
        yield f"| {name} | {order.upper()} | {'yes' if cache else 'no'} | {summary(keys)} |"
    yield ""
    for name, model in models.items():
        llama = model.llama
        yield f"* {name}: dim {llama.dim}, {llama.layers} layers, {llama.heads} heads, {llama.vocab_size:,} rows"


def write_csv(path: Path, measured: dict[tuple[str, str, bool], list[Keystroke]]) -> None:
    """One line for each keystroke: tokens prefilled and milliseconds to the first token, with the prefix cache."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        sessions = {f"{name} {order}": keys for (name, order, cache), keys in measured.items() if cache}
        writer.writerow(["keystroke", *(f"{name} {figure}" for name in sessions for figure in ("tokens", "ms"))])
        for number, row in enumerate(zip(*sessions.values(), strict=True), start=1):
            writer.writerow([number, *(figure for key in row for figure in (key.prefilled, f"{key.first:.1f}"))])


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
