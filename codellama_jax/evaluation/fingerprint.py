"""What the samples of an evaluation depend on, so that different ones are never mixed."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.problem import Problem
from codellama_jax.runtime import filesystem

FILE = "evaluation.json"


def fingerprint(benchmark: Benchmark[Any], problems: Sequence[Problem], identity: Mapping[str, str]) -> dict[str, Any]:
    """Everything that a sample depends on, besides its task and index.

    The number of samples is not part of it: more can be added. The temperature that follows from it is.

    Args:
        benchmark: with its settings.
        problems: all of them, also those that a limit leaves out.
        identity: the client's.
    """
    settings = dataclasses.asdict(benchmark.settings)
    settings["temperature"] = benchmark.settings.applied_temperature
    del settings["samples"]
    found = {"problems": digest(problems), "settings": settings, **identity}
    plain: dict[str, Any] = json.loads(json.dumps(found))  # tuples become lists, as in the file
    return plain


def digest(problems: Sequence[Problem]) -> str:
    """A digest of all that problems contain."""
    content = hashlib.sha256()
    for problem in problems:
        content.update(json.dumps(dataclasses.asdict(problem), sort_keys=True, default=str).encode() + b"\n")
    return content.hexdigest()


def stored(folder: Path) -> dict[str, dict[str, Any]]:
    """Name of a benchmark -> the fingerprint of the samples in a folder.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / FILE
    if not filesystem.exists(path):
        return {}
    try:
        found = json.loads(filesystem.read_text(path))
        if not isinstance(found, dict) or not all(isinstance(value, dict) for value in found.values()):
            raise ValueError("it is not an object of objects")
        if not all(isinstance(value.get("settings", {}), dict) for value in found.values()):
            raise ValueError("settings are not an object")
        return found
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): choose another --out, or remove {folder}") from None


def store(folder: Path, name: str, current: Mapping[str, Any]) -> None:
    """Stores the fingerprint of a benchmark."""
    text = json.dumps(stored(folder) | {name: current}, indent=1) + "\n"
    filesystem.write_atomically(folder / FILE, text, durable=True)


def check_same(folder: Path, name: str, current: Mapping[str, Any], samples: int) -> None:
    """Raises UserError if a folder has samples of another fingerprint, with the first differences."""
    before = stored(folder).get(name)
    if not samples or before == current:
        return
    if before is None:
        reason = f"{FILE} does not say what they are of"
    else:
        reason = differences(before, current, "was {} and is now {}")
    path = folder / "samples" / f"{name}.jsonl"
    raise UserError(
        f"{path} has samples of another evaluation: {reason}. Choose another --out, or remove the file to start again",
        EXIT_USAGE,
    )


def differences(old: Mapping[str, Any], new: Mapping[str, Any], verb: str) -> str:
    """The first differences of two fingerprints, those of settings first; "" if there are none.

    Args:
        verb: how both values are named, such as "was {} and is now {}".
    """
    changed = [
        f"{key} {verb.format(_shown(before.get(key)), _shown(after.get(key)))}"
        for before, after in ((old.get("settings") or {}, new.get("settings") or {}), (old, new))
        for key in dict.fromkeys((*before, *after))
        if key != "settings" and before.get(key) != after.get(key)
    ]
    return "; ".join(changed[:3])


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
