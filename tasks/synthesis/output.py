"""The output of self-instruct: a folder with dialogues, a manifest, the records and a report.

OUT/dialogues.jsonl       {"id", "messages"}: what the instruct stage reads
OUT/programs.jsonl        {"id", "text"} of the same programs, with SelfInstruct.form="completion": for a stream of code
OUT/manifest.json         the funnel, and what it came from; written last: a folder that has it is complete
OUT/report.html           the same for readers
OUT/records/              see records.py
OUT/self_instruct.json    what the records depend on
"""

import contextlib
import hashlib
import json
import platform
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codellama_jax.config.self_instruct import SelfInstruct
from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.runtime import cli, filesystem
from tasks.synthesis import parsing, prompts
from tasks.synthesis.dialogues import dialogue
from tasks.synthesis.records import Records

DIALOGUES, PROGRAMS, MANIFEST, FINGERPRINT = "dialogues.jsonl", "programs.jsonl", "manifest.json", "self_instruct.json"
FUNNEL = ("questions", "unique", "with_tests", "solved", "kept")
PAPER = dict(zip(FUNNEL, (62_000, 52_000, None, 14_000, 14_000), strict=True))  # arXiv 2308.12950, section 2.5


def check_same(out: Path, current: Mapping[str, Any]) -> None:
    """Stores what the records of a folder depend on. Raises UserError if it has records of something else."""
    path = out / FINGERPRINT
    plain = json.loads(json.dumps(current))  # tuples become lists, as in the file
    if not filesystem.exists(path):
        filesystem.write_atomically(path, json.dumps(plain, indent=1) + "\n", durable=True)
        return
    try:
        before = json.loads(filesystem.read_text(path))
        changed = [key for key in dict.fromkeys((*before, *plain)) if before.get(key) != plain.get(key)]
    except (ValueError, RecursionError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): choose another --out, or remove {out}") from None
    if changed:
        shown = "; ".join(_difference(key, before.get(key), plain.get(key)) for key in changed[:3])
        raise UserError(f"{out} has records of another run: {shown}. Choose another --out, or remove it", EXIT_USAGE)


def _difference(key: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        inner = next(name for name in dict.fromkeys((*before, *now)) if before.get(name) != now.get(name))
        return _difference(f"{key}.{inner}", before.get(inner), now.get(inner))
    texts = [text if len(text := json.dumps(value)) <= 60 else text[:57] + "..." for value in (before, now)]
    return f"{key} was {texts[0]} and is now {texts[1]}"


def write(out: Path, records: Records, settings: SelfInstruct, source: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the dialogues and the manifest of complete records; returns the manifest.

    Args:
        source: what the records depend on, and further entries of the manifest.
    """
    records.sort()
    counts, reasons, left_out, statuses = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    written = [out / DIALOGUES, *([out / PROGRAMS] if settings.form == "completion" else [])]
    dialogues = 0
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(filesystem.open_output(path, durable=True)) for path in written]
        for row in records.questions.rows():
            counts.update(_reached(row))
            reasons.update([row["dropped"]] if row["dropped"] else [])
            left_out.update(row.get("tests_left_out", {}))
            statuses.update(
                found["status"] if "status" in found else f"malformed_{found['malformed']}"
                for found in row.get("solutions", ())
            )
            if not row["dropped"] and dialogues != settings.most_dialogues:
                dialogues += 1
                program = next(entry["program"] for entry in row["solutions"] if entry["index"] == row["chosen"])
                tests = [row["tests"][index] for index in row["kept_tests"]]
                messages = dialogue(row["question"], tests, program, settings)
                for file, content in zip(files, ({"messages": messages}, {"text": program}), strict=False):
                    file.write(json.dumps({"id": row["id"], **content}).encode() + b"\n")
    lists = Counter[str]()
    for index in range(settings.prompts):
        if (answer := records.answer("questions", "", index)) is not None:
            lists.update(parsing.questions(answer)[1])
    manifest = {
        "funnel": {name: counts[name] for name in FUNNEL},
        "dialogues": dialogues,
        "dropped": dict(sorted(reasons.items())),
        "questions_left_out": dict(sorted(lists.items())),
        "tests_left_out": dict(sorted(left_out.items())),
        "solutions": dict(sorted(statuses.items())),
        **source,
        "versions": {"codellama_jax": cli.code_version(), "python": platform.python_version()},
        "prompts": {name: {"text": text, "sha256": _sha256(text.encode())} for name, text in prompts.ALL.items()},
        "digests": {
            str(path.relative_to(out)): _sha256(filesystem.read_bytes(path))
            for path in (*written, records.answers.path, records.runs.path, records.questions.path)
        },
    }
    filesystem.write_atomically(out / MANIFEST, json.dumps(manifest, indent=1) + "\n", durable=True)
    return manifest


def _reached(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts of the funnel that a question has reached."""
    return FUNNEL[: FUNNEL.index(row["dropped_before"])] if row["dropped"] else FUNNEL


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
