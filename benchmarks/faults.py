"""Injects faults into runs: kills, the loss of a host, damaged files and a full disk. Also measures the cost of saves.

    python benchmarks/faults.py [--parts kills two damage saving] [--kills=30] [--folder=/tmp] [--out=FILE]

Every run is the real command in separate processes, at toy size on this machine's CPU. Two runs are equal if step, loss
and gradient norm of every line of metrics.jsonl are equal as text, and the final parameters and optimiser bit by bit.
"""

import argparse
import datetime
import importlib.metadata
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from fault_injection import damage, kills, process_loss, save_cost
from result_file import processor, write

PARTS: dict[str, Callable[[argparse.Namespace, Path], Iterator[str]]] = {
    "kills": kills.section,
    "two": process_loss.section,
    "damage": damage.section,
    "saving": save_cost.section,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=240, help="steps of code training; long context has half as many")
    parser.add_argument("--layers", type=int, default=12, help="layers of the model whose saves are timed")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random times and positions of faults")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="folder on the disk to use")
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="faults.") as folder:
        write(result(options, Path(folder)), options.out)
    return 0


def result(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines of the result file."""
    yield f"# Fault tolerance, {datetime.date.today()}"
    yield ""
    flags = [flag for flag in sys.argv[1:] if not flag.startswith("--folder")]
    yield f"    python benchmarks/faults.py {' '.join(flags)}".rstrip()
    yield ""
    packages = ("jax", "jaxlib", "numpy", "orbax-checkpoint", "tensorstore")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    yield f"{os.cpu_count()} cores of {processor()}, shared; Python {platform.python_version()}, {versions}."
    for part in options.parts:
        yield ""
        yield from PARTS[part](options, folder / part)


if __name__ == "__main__":
    sys.exit(main())
