"""Recall and precision of near-duplicate detection by language, and the speed of the tokenizer.

    python benchmarks/dedup_languages.py [--pairs=400] [--out=FILE]

The texts are random (training_set/languages.py), and each is compared with an edited copy of it. Tokens by script are
compared with runs of characters, where every character beyond ASCII is a letter, as in other programs whose token is
the pattern `\\w+`. Times are CPU times of the process, medians of 5 rounds.
"""

import argparse
import datetime
import hashlib
import os
import platform
import random
import re
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from result_file import paragraph, processor
from training_set import methods  # first: makes the project importable
from training_set.documents import documents
from training_set.languages import LANGUAGES, Writer, similarity

from codellama_jax.runtime.cli import code_version
from tasks.curation.dedup import minhash

_RUNS = re.compile("[0-9A-Za-z_\x80-\U0010ffff]+|[^\0- ]")
RATES = (0.003, 0.006, 0.01, 0.015, 0.02, 0.03, 0.045, 0.06, 0.1)
BANDS = ((0.95, 1.0), (0.9, 0.95), (0.85, 0.9), (0.8, 0.85), (0.5, 0.8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=400, help="texts, and edited copies, of each language")
    parser.add_argument("--roots", default="", help="folders of code for the speed, comma-separated")
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    options = parser.parse_args()
    text = "".join(line + "\n" for line in result(options))
    print(text)
    if options.out:
        options.out.write_text(text)


def result(options: argparse.Namespace) -> Iterator[str]:
    """The lines of the result file."""
    yield f"# Near-duplicates by language, {datetime.date.today()}"
    yield ""
    yield f"    python benchmarks/dedup_languages.py --pairs={options.pairs}"
    yield ""
    yield from paragraph(
        f"""{os.cpu_count()} cores of {processor()}, shared with other programs; Python {platform.python_version()},
        numpy {np.__version__}; {code_version()}. {options.pairs} texts of 10 to 80 sentences of each language, each
        with an edited copy in which {RATES[0]:.1%} to {RATES[-1]:.0%} of the words, and of the sentences, are replaced,
        left out or inserted. The similarity of a pair is that of the sets of 5-grams of its words, which are known
        since the texts are made of random words (training_set/languages.py). A pair is found if the build finds it
        directly, with its default settings (threshold 0.85, 13 bands of 19 rows); in brackets, with runs of characters
        as tokens."""
    )
    heads = [f"{low} to {high}" for low, high in BANDS]
    yield "| language | " + " | ".join(heads) + " | flagged | of them other texts |"
    yield "|---" * (len(BANDS) + 3) + "|"
    for name in LANGUAGES:
        yield row(name, options.pairs)
    yield ""
    yield from paragraph(
        """The first columns are the shares of pairs of that similarity which are found. Pairs below 0.85 are not
        near-duplicates of words; where a word has several tokens, they may be of tokens. Flagged pairs of other texts
        are false positives: texts which are not copies of each other."""
    )
    yield from speed(options)


def row(name: str, count: int) -> str:
    """The row of a language."""
    rng = random.Random(name)
    writer = Writer(LANGUAGES[name], rng)
    texts = [writer.text(rng.randrange(10, 80)) for _ in range(count)]
    copies = [writer.edited(text, RATES[index % len(RATES)]) for index, text in enumerate(texts)]
    similarities = [similarity(a, b) for a, b in zip(texts, copies, strict=True)]
    written = [writer.written(text) for text in [*texts, *copies]]
    by_script, by_runs = pairs(minhash.shingles_of(written)), pairs(map(shingles_of_runs, written))
    cells = []
    for low, high in BANDS:
        within = [index for index, value in enumerate(similarities) if low < value <= high]
        found, before = (sum((index, index + count) in flagged for index in within) for flagged in (by_script, by_runs))
        cells.append(f"{found / len(within):.2f} ({before / len(within):.2f}) of {len(within)}" if within else "-")
    wrong = sum(second - first != count for first, second in by_script)
    return f"| {name} | {' | '.join(cells)} | {len(by_script)} ({len(by_runs)}) | {wrong} |"


def pairs(sets: Iterator[np.ndarray] | map) -> set[methods.Pair]:
    sketch = minhash.MinHash(methods.PERMUTATIONS)
    return methods.buckets_to_pairs(np.stack([sketch.signature(shingles) for shingles in sets]))


def shingles_of_runs(text: str) -> np.ndarray:
    """Shingles of runs of characters."""
    words = _RUNS.findall(text)
    grams = {" ".join(words[start : start + 5]) for start in range(max(1, len(words) - 4))}
    digests = b"".join(hashlib.blake2b(gram.encode(), digest_size=8).digest() for gram in grams)
    return np.frombuffer(digests, np.uint64)


def speed(options: argparse.Namespace) -> Iterator[str]:
    """The speed of the shingles by kind of text."""
    import sysconfig

    roots = [sysconfig.get_paths()["stdlib"], *filter(None, options.roots.split(","))]
    code = [text for _, text in documents(roots)]
    rng = random.Random(0)
    kinds = {"code in ASCII": [text for text in code if text.isascii()][:6_000]}
    kinds["code with other characters"] = [text for text in code if not text.isascii()]
    for name in ("Russian", "Chinese", "Thai"):
        writer = Writer(LANGUAGES[name], rng)
        kinds[name] = [writer.written(writer.text(80)) for _ in range(400)]
    yield "| text | MB | shingles, MB per CPU-second |"
    yield "|---|---|---|"
    for kind, texts in kinds.items():
        size = sum(len(text.encode()) for text in texts) / 1e6
        seconds = statistics.median(timed(lambda texts=texts: list(minhash.shingles_of(texts))) for _ in range(5))
        yield f"| {kind} | {size:.1f} | {size / seconds:.0f} |"
    yield ""


def timed(function: Callable[[], object]) -> float:
    begin = time.process_time()
    function()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
