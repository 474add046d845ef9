"""The command with a server whose answers are right, wrong, hanging, hostile and malformed in known numbers."""

import json
from pathlib import Path

import pytest

from tasks import self_instruct
from tests.tasks.synthesis import scripted_endpoint as scripted


@pytest.fixture(scope="module")
def problems(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("problems") / "problems.jsonl"
    path.write_text(json.dumps(scripted.PROBLEM) + "\n")
    return path


def arguments(url: str, out: Path, problems: Path) -> list[str]:
    settings = scripted.SETTINGS
    return [
        f"--questions={url}",
        f"--solutions={url}",
        f"--out={out}",
        f"--against={problems}",
        "--workers=2",
        "--gin.Endpoints.attempts=2",
        f"--gin.SelfInstruct.prompts={settings.prompts}",
        f"--gin.SelfInstruct.solutions={settings.solutions}",
        f"--gin.SelfInstruct.cpu_seconds={settings.cpu_seconds}",
    ]


@pytest.fixture(scope="module")
def complete(tmp_path_factory, problems):
    """The output of a run that nothing interrupted, and the script with what was asked."""
    out = tmp_path_factory.mktemp("complete") / "out"
    script = scripted.Script(scripted.answers())
    with scripted.serving(script) as url:
        assert self_instruct.main(arguments(url, out, problems)) == 0
    return out, script


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_funnel_comes_out_exactly(complete):
    out, script = complete
    manifest = json.loads((out / "manifest.json").read_text())
    dropped = {row["id"]: row["dropped"] for row in rows(out / "records" / "questions.jsonl")}
    expected = {
        f"{number}.{place}": asked.dropped
        for number, listed in enumerate(scripted.SCRIPT)
        for place, asked in enumerate(listed)
    }
    assert dropped == expected
    assert manifest["funnel"] == scripted.FUNNEL
    assert manifest["dropped"] == scripted.REASONS
    assert len(rows(out / "dialogues.jsonl")) == scripted.FUNNEL["kept"]
    assert script.asked == dict.fromkeys(script.answers, 1)
