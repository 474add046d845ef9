"""The tutorial docs/adapt.md: each of its commands runs on this machine, with a toy model and a small repository."""

import difflib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from runs import ROOT, TOY, lines

pytestmark = pytest.mark.usefixtures("processes_compile_fast")

FLAGS = [*TOY, "--gin.CODE_STEPS=4", "--gin.LCFT_STEPS=2"]
ADAPT = ["--gin.ADAPT_LENGTH=128", "--gin.ADAPT_BATCH_TOKENS=512", "--gin.ADAPT_EPOCHS=0.01"]
ADAPT += ["--gin.Stage.least_steps=12", "--gin.Evaluation.infilling_cases=2", "--gin.Evaluation.infilling_tokens=4"]


def commands() -> list[str]:
    """The commands of the tutorial that begin with python or curl, except that of a downloaded model."""
    text = (ROOT / "docs/adapt.md").read_text()
    found = re.findall(r"^    ((?:python|curl) .+)$", text, re.M)
    return [command for command in found if "/models/" not in command]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The folder of the tutorial: a repository of ten files with a history, a draft, and the runs."""
    folder = tmp_path_factory.mktemp("adapt")
    repository = folder / "repository"
    repository.mkdir()
    files = [
        json.decoder.__file__,
        json.encoder.__file__,
        difflib.__file__,
        shlex.__file__,
        textwrap_file(),
        re.__file__,
    ]
    environment = os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null"}

    def git(*arguments: str, day: int = 1) -> None:
        date = {f"GIT_{who}_DATE": f"{1_700_000_000 + 86_400 * day} +0000" for who in ("AUTHOR", "COMMITTER")}
        command = ["git", "-C", str(repository), "-c", "user.name=n", "-c", "user.email=e@e", *arguments]
        subprocess.run(command, check=True, capture_output=True, env=environment | date)

    git("init", "-q")
    for day, file in enumerate(files):
        shutil.copy(file, repository / f"{day}_{Path(file).name}")
        git("add", "-A")
        git("commit", "-q", "-m", str(day), day=day)
    (folder / "draft.py").write_text("import os\n\n\ndef listed(folder):\n    <FILL_ME>\n")
    return folder


def textwrap_file() -> str:
    import textwrap

    return textwrap.__file__


def run(place: Path, command: str, *flags: str, code: int = 0) -> str:
    words = shlex.split(command.replace("/my/repository", str(place / "repository")))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    script = [str(ROOT / words[1])] if words[1].endswith(".py") else words[1:2]
    done = subprocess.run(
        [sys.executable, *script, *words[2:], *flags],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def tutorial(place) -> dict[str, str]:
    """Command -> its output, of those before the server."""
    demo, inspect, adapt, infill, _, _ = commands()
    outputs = {demo: run(place, demo, *FLAGS)}
    outputs[inspect] = run(place, inspect, "--num_examples=20")
    outputs[adapt] = run(place, adapt, *TOY, *ADAPT)
    outputs[infill] = run(place, infill, "--max_tokens=4")
    return outputs


def test_the_commands_are_those_of_the_tutorial(tutorial):
    demo, inspect, adapt, infill, serve, curl = commands()
    assert "gin/lcft.gin" in demo and "--stats" in inspect and "gin/adapt.gin" in adapt and " infill " in infill
    assert "serve" in serve and curl.startswith("curl")
    assert "split by the last change in git: train 5, validation 1" in tutorial[inspect]
    assert "+++" in tutorial[infill] or tutorial[infill].strip() == ""


def test_the_run_ends_with_whether_it_helped(place, tutorial):
    output = tutorial[commands()[2]]
    stage = place / "runs/local/adapt"
    for corpus in ("held-out files", "general code"):
        assert f"adapt: {corpus}: lines filled exactly " in output
    result = json.loads((stage / "infilling.json").read_text())
    assert {(change["corpus"], change["kind"]) for change in result["changes"]} == {
        *(("held_out", "line"), ("held_out", "span"), ("general", "line"), ("general", "span"))
    }
    assert "adapt: infilling before and after" in (stage / "report.html").read_text()
    steps = json.loads((stage / "epochs.json").read_text())["steps"]
    assert steps == 12 and f"{steps} steps of 512 tokens" in output
    evaluations = [line for line in lines(stage / "evaluations.jsonl") if line["kind"] == "infilling"]
    assert evaluations[0]["step"] == 0 and len({line["loss"] for line in evaluations}) == len(evaluations)
    done = json.loads((stage / "done.json").read_text())
    best = min(evaluations[1:], key=lambda line: line["loss"])
    assert done["step"] == best["step"] and (stage / "checkpoints" / str(best["step"])).is_dir()
    trained = [record for record in lines(stage / "metrics.jsonl")]
    assert done["trained_steps"] == len(trained)
    batches = {path for record in trained for path in record if path.startswith("tokens/")}
    assert batches == {"tokens/code"}


def test_a_stopped_run_resumes_to_the_same_result(place, tutorial):
    command = commands()[2].replace("/my/repository", str(place / "repository"))
    argv = [sys.executable, str(ROOT / "xm_launch.py"), *shlex.split(command)[2:], *TOY, *ADAPT, "--name=again"]
    stage = place / "runs/again/adapt"
    started = subprocess.Popen(argv, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while started.poll() is None and not ((stage / "metrics.jsonl").exists() and lines(stage / "metrics.jsonl")):
        time.sleep(0.02)
    started.send_signal(signal.SIGTERM)
    assert started.wait(120) in (0, 75)
    run(place, commands()[2], *TOY, *ADAPT, "--name=again")
    expected = place / "runs/local/adapt"
    for name in ("evaluations.jsonl",):
        assert lines(stage / name) == lines(expected / name)
    losses, others = ([line["loss"] for line in lines(each / "metrics.jsonl")] for each in (stage, expected))
    assert losses == others
    assert json.loads((stage / "infilling.json").read_text()) == json.loads((expected / "infilling.json").read_text())


def test_the_server_answers_with_a_suggestion(place, tutorial):
    *_, serve, curl = commands()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [sys.executable, *shlex.split(serve)[1:], f"--port={port}"]
    server = subprocess.Popen(argv, cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    try:
        words = shlex.split(curl)
        address, body = words[2].replace(":8000", f":{port}"), words[words.index("-d") + 1].encode()
        deadline = time.monotonic() + 400
        while True:
            try:
                with urllib.request.urlopen(urllib.request.Request(address, body), timeout=100) as answer:
                    assert isinstance(json.loads(answer.read())["content"], str)
                break
            except OSError:
                assert time.monotonic() < deadline and server.poll() is None, server.stderr.read()
                time.sleep(0.5)
        with urllib.request.urlopen(address.replace("/infill", "/"), timeout=100) as page:
            assert b"<html" in page.read().lower()
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)


@pytest.mark.parametrize(
    "corpus, words",
    [
        ({}, "it is empty"),
        ({"a.txt": "text\n", "b.pdf": "x"}, "it holds 1 .pdf, 1 .txt"),
        (
            {"a.py": "x = 1\n" * 50},
            "no file is held out, since there is only one file: name a folder with more files of code",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(place, tutorial, tmp_path, corpus, words):
    for name, content in corpus.items():
        (tmp_path / name).write_text(content)
    command = commands()[2].replace("/my/repository", str(tmp_path))
    output = run(place, command, *TOY, *ADAPT, "--name=refused", code=1)
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert words in error
