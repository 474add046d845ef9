"""Recall of evaluation problems inserted into documents, and false positives in documents without any."""

import ast
import collections
import itertools
import pickle
import re
import statistics
from collections.abc import Iterator

from codellama_jax.config.curation import Decontamination
from tasks.curation.decontaminate.index import Index
from tasks.curation.decontaminate.problems import Problem
from training_set.speed import timed

BEFORE = "import os\n\n\ndef listed(path):\n    for entry in os.listdir(path):\n        print(entry)\n\n\n"
AFTER = "\n\n\nif __name__ == '__main__':\n    listed('.')\n"


def renamed(code: str) -> str:
    """Renames the parameters, variables and functions of a Python text, also in docstrings and comments."""
    names: dict[str, str] = {}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.arg):
            names.setdefault(node.arg, "")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.setdefault(node.id, "")
        elif isinstance(node, ast.FunctionDef):
            names.setdefault(node.name, "")
    names = {name: f"{'abcdefgh'[number % 8]}_name{number}" for number, name in enumerate(sorted(names))}
    return re.sub(r"\b[A-Za-z_]\w*\b", lambda match: names.get(match[0], match[0]), code)


def reindented(code: str) -> str:
    lines = code.expandtabs(4).splitlines()
    return "".join(" " * (8 + 2 * (len(line) - len(line.lstrip()))) + line.strip() + "\r\n" for line in lines)


def variants(problem: Problem) -> Iterator[tuple[str, str]]:
    texts = problem.texts
    prompt, solution = texts.get("prompt", ""), texts.get("canonical_solution") or texts.get("code", "")
    complete = prompt + solution if prompt else f"# {texts['text']}\n{solution}\n"
    other = renamed(prompt + solution).splitlines(keepends=True)
    body = "".join(other[len(prompt.splitlines()) :])
    yield "complete problem, verbatim", complete
    yield "complete problem, re-indented", reindented(complete)
    yield "solution only, verbatim", solution
    yield "solution only, re-indented", reindented(solution)
    yield "complete problem, renamed", "".join(other) if prompt else f"# {texts['text']}\n{body}"
    yield "solution only, renamed", body


def section(problems: list[Problem], library: list[str], all_files: list[str]) -> Iterator[str]:
    """The lines of this part of the result file."""
    index, seconds = timed(lambda: Index(problems))
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    totals: collections.Counter[tuple[str, str]] = collections.Counter()
    for problem in problems:
        for kind, text in variants(problem):
            key = (kind, problem.name.partition(":")[0])
            totals[key] += 1
            found[key] += bool(index.hits(BEFORE + text + AFTER))
    sets = sorted({name for _, name in totals}, key=str.lower)
    yield "## Evaluation problems"
    yield ""
    yield (
        f"{len(problems):,} problems, {len(index):,} token windows, indexed in {seconds:.1f} s,"
        f" {len(pickle.dumps(index)) / 1e6:.1f} MB pickled; each problem is inserted into the code of another file."
    )
    yield ""
    yield f"| inserted | {' | '.join(f'{name} found' for name in sets)} |"
    yield "|---|" + "---|" * len(sets)
    for kind in dict.fromkeys(kind for kind, _ in totals):
        yield f"| {kind} | {' | '.join(f'{found[kind, name]:,} of {totals[kind, name]:,}' for name in sets)} |"
    yield ""
    sizes = itertools.accumulate(len(text.encode()) for text in library)
    sample = [text for text, size in zip(library, sizes, strict=True) if size <= 20e6]
    without = Index(problems, Decontamination(structure=0))
    for texts, name in ((library, "the standard library"), (all_files, "all files")):
        all_hits = [index.hits(text) for text in texts]
        words = sum(any(not hit.renamed for hit in hits) for hits in all_hits)
        structure = sum(any(hit.renamed for hit in hits) for hits in all_hits)
        yield f"Documents with hits in {name} ({len(texts):,}): {words:,} by words, {structure:,} by structure."
    size = sum(len(text.encode()) for text in sample) / 1e6
    rates = [size / timed(lambda: [index.hits(text) for text in sample])[1] for _ in range(3)]
    words_only = [size / timed(lambda: [without.hits(text) for text in sample])[1] for _ in range(3)]
    yield (
        f"Speed on {size:.0f} MB of the standard library: {statistics.median(rates):,.0f} MB per CPU-second,"
        f" {statistics.median(words_only):,.0f} by words only."
    )
    yield ""
