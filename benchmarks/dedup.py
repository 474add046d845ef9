"""Accuracy and cost of building a training set: near duplicates, evaluation problems, secrets, quality.

    python benchmarks/dedup.py [--problems=/path/to/HumanEval.jsonl.gz,/path/to/mbpp.jsonl] [--rounds=3] [--out=FILE]

Needs datasketch and xxhash in addition to the project's environment, and uses rensa and detect-secrets if they are
installed. The documents are the source files of the standard library and site-packages of the Python that runs this
program: each distinct text once, ordered by a hash of their paths.

The methods are run alternately on the same texts, which are in memory; a round runs each once, and the results are
medians over rounds. Times are CPU times of the process (time.process_time).
"""

import argparse
import datetime
import importlib.metadata
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from result_file import processor
from training_set import contamination, recall, secrets_and_quality, speed  # first: makes the project importable
from training_set.documents import documents

from tasks.curation.decontaminate.problems import read_problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", default="", help="files of evaluation problems, comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=20_000, help="number of documents for the measurement of speed")
    parser.add_argument(
        "--compared", type=int, default=5_000, help="number of documents of which all pairs are compared exactly"
    )
    parser.add_argument("--roots", default="", help="more folders of code, comma-separated")
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    options = parser.parse_args()
    text = "".join(line + "\n" for line in result(options))
    print(text)
    if options.out:
        options.out.write_text(text)


def result(options: argparse.Namespace) -> Iterator[str]:
    """The lines of the result file."""
    library, packages = sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]
    files = list(documents([library, packages, *filter(None, options.roots.split(","))]))
    names = ("numpy", "datasketch", "xxhash", "rensa", "detect-secrets")
    versions = ", ".join(f"{name} {version}" for name in names if (version := version_of(name)))
    yield f"# Deduplication, decontamination and filters, {datetime.date.today()}"
    yield ""
    arguments = re.sub(r"[^\s,=]*/([^\s,/]+)", r"\1", " ".join(sys.argv[1:]))
    yield f"    python benchmarks/dedup.py {arguments}"
    yield ""
    yield f"{os.cpu_count()} cores of {processor()}, shared; Python {platform.python_version()}, {versions}."
    yield f"{len(files):,} distinct source files: the standard library and site-packages."
    yield ""
    yield from recall.section([text for _, text in files[: options.compared * 4 // 5]], options.compared)
    yield from speed.section([text for _, text in files[: options.files]], options.rounds)
    if options.problems:
        plain = [text for path, text in files if path.startswith(library) and "site-packages" not in path]
        yield from contamination.section(read_problems(options.problems.split(",")), plain, [text for _, text in files])
    yield from secrets_and_quality.section(files)


def version_of(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
