"""The command with a server whose answers are right, wrong, hanging, hostile and malformed in known numbers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codellama_jax.config.data import Corpus, Filters
from tasks import self_instruct, sources
from tasks.sources.base import items
from tests.tasks.synthesis import scripted_endpoint as scripted

ROOT = Path(__file__).parents[3]


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
    assert manifest["solutions"] == scripted.SOLUTIONS
    assert manifest["questions_left_out"] == {"too_short": 3}
    assert manifest["tests_left_out"] == {"statement": 1, "syntax": 1}
    assert len(rows(out / "dialogues.jsonl")) == scripted.FUNNEL["kept"]
    assert script.asked == dict.fromkeys(script.answers, 1)


FILES = ("dialogues.jsonl", "manifest.json", *(f"records/{name}.jsonl" for name in ("answers", "runs", "questions")))


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in FILES}


def test_a_killed_command_resumes_with_nothing_lost_or_done_twice(complete, problems, tmp_path):
    out, script = tmp_path / "out", scripted.Script(scripted.answers(), seconds=0.02)
    answers = out / "records" / "answers.jsonl"
    with scripted.serving(script) as url:
        command = [sys.executable, "-m", "tasks.self_instruct", *arguments(url, out, problems)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and not (answers.exists() and answers.read_bytes().count(b"\n") >= 25):
                time.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
        assert 25 <= answers.read_bytes().count(b"\n") < len(script.answers)
    done, script = {row["seed"] for row in rows(answers)}, scripted.Script(scripted.answers())
    with scripted.serving(script) as url:
        assert self_instruct.main(arguments(url, out, problems)) == 0
    assert script.asked == dict.fromkeys(script.answers.keys() - done, 1)
    assert contents(out) == contents(complete[0])


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_records_that_end_anywhere_are_completed_to_the_same_files(complete, problems, tmp_path, share):
    """Each file ends at a place of its own, within a line, as if the machine went down."""
    whole, out = contents(complete[0]), tmp_path / "out"
    (out / "records").mkdir(parents=True)
    (out / "self_instruct.json").write_bytes((complete[0] / "self_instruct.json").read_bytes())
    for name, content in whole.items():
        if name.startswith("records"):
            (out / name).write_bytes(content[: int(share * len(content))])
    kept = {row["seed"] for row in rows_before_the_cut(out / "records" / "answers.jsonl")}
    script = scripted.Script(scripted.answers())
    with scripted.serving(script) as url:
        assert self_instruct.main(arguments(url, out, problems)) == 0
    assert contents(out) == whole
    assert kept.isdisjoint(script.asked) and set(script.asked.values()) <= {1}


def rows_before_the_cut(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def test_two_models_of_dialogues_and_a_choice_by_agreement(problems, tmp_path):
    scripts = [scripted.Script(scripted.answers()) for _ in range(2)]
    with scripted.serving(scripts[0]) as first, scripted.serving(scripts[1]) as second:
        flags = [flag for flag in arguments(second, tmp_path, problems) if not flag.startswith("--questions")]
        flags += ["--gin.SelfInstruct.form=chat", "--gin.SelfInstruct.choice=agreement"]
        flags += ["--gin.SelfInstruct.least_agreeing=1", "--gin.SelfInstruct.answer=plain"]
        flags += ["--gin.SelfInstruct.prompts=1"]
        assert self_instruct.main([f"--questions={first}", *flags]) == 0
    funnel = {"questions": 5, "unique": 4, "with_tests": 3, "solved": 2, "kept": 2}
    assert json.loads((tmp_path / "manifest.json").read_text())["funnel"] == funnel
    assert len(scripts[0].bodies) == 1 and all(len(body["messages"]) == 1 for body in scripts[0].bodies)
    assert all([m["role"] for m in body["messages"]] == ["user", "assistant", "user"] for body in scripts[1].bodies)
    assert rows(tmp_path / "dialogues.jsonl")[0]["messages"][1]["content"] == "def alpha(n):\n    return n * 2 + 1"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--questions=nowhere", "--solutions=http://x"], "--questions=nowhere is neither a URL"),
        (["--questions=http://x", "--solutions=http://x", "--context=9"], "--context is of the model in a checkpoint"),
        (["--questions=http://x", "--solutions=http://x", "--slots=16"], "--slots is of the model in a checkpoint"),
        (["--questions=http://x", "--solutions=http://x", "--gin.SelfInstruct.choice=all"], "SelfInstruct.choice=all"),
    ],
)
def test_wrong_flags_are_refused_at_once(flags, message, tmp_path, capsys):
    assert self_instruct.main([*flags, f"--out={tmp_path / 'out'}"]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_folder_of_other_settings_is_refused(complete, problems, capsys):
    out, script = complete
    with scripted.serving(script) as url:
        assert self_instruct.main([*arguments(url, out, problems), "--gin.SelfInstruct.seed=1"]) == 2
    message = capsys.readouterr().err
    assert "SelfInstruct.seed was 0 and is now 1" in message and message.count("\n") == 1


def test_the_instruct_stage_reads_the_dialogues_as_they_are(complete):
    corpus = Corpus(validation_share=0.0)
    source = sources.open(str(complete[0] / "dialogues.jsonl"), "instruct", "train", corpus, Filters())
    read = [item for shard in range(len(source)) for item in items(source, shard)]
    assert len(read) == 4
    assert all("return n * 2 + 1" in item.messages[1]["content"] for item in read)


def test_the_report_has_the_funnel_and_the_reasons(complete):
    page = (complete[0] / "report.html").read_text()
    for text in (
        "<td>13</td>",
        "about 62,000",
        "accepts stub",
        "rejects nothing",
        "near duplicate",
        "return n * 2 + 1",
    ):
        assert text in page
