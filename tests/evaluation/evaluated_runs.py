"""Folders of evaluations, written without running one."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from codellama_jax.evaluation.sample import Sample
from codellama_jax.evaluation.sample_file import line_of


def sample(task: str, index: int = 0, passed: bool | None = True, **fields: Any) -> Sample:
    """A sample of HumanEval's form."""
    text = f"    return {index}\n"
    failed = {} if passed is not False else {"status": "failed", "reason": "failed: AssertionError"}
    values: dict[str, Any] = {"prompt": f"def f{task}():\n", "raw": text, "completion": text, "reason": "", **failed}
    return Sample(task_id=task, sample=index, seed=index, passed=passed, **(values | fields))


def write_run(
    out: Path, name: str, records: Iterable[Sample], settings: dict[str, Any] | None = None, **results: Any
) -> Path:
    """Adds a benchmark to a folder of an evaluation, and returns the folder."""
    samples = list(records)
    file = out / "samples" / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(map(line_of, samples)))
    path = out / "results.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    counts = {"tasks": len({sample.task_id for sample in samples}), "samples": len(samples)}
    entry = {**counts, "problems": "a", "settings": settings or {"max_tokens": 512}, "model": "m", **results}
    path.write_text(json.dumps({**before, name: entry}))
    return out
