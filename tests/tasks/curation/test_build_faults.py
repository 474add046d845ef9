"""Faults during a build and afterwards: kills, a dead worker, a full disk, a missing source, damaged shards."""

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from planted import contents

from codellama_jax.config.data import Corpus, Filters
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from tasks import sources
from tasks.build import main
from tasks.sources.base import items
from tasks.sources.manifest import STARTED

Start = Callable[..., subprocess.Popen]


def wait_until(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 60) -> None:
    """Waits until the condition holds; fails if the process ends first."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """All descendants of a process."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            pids += [int(folder.name), *children(int(folder.name))]
    return pids


def command_line(pid: int) -> bytes:
    """The command line of a process; empty if it no longer exists."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_one_line(error: str) -> bool:
    return error.startswith("error: ") and error.count("\n") == 1


def test_a_killed_build_resumes_at_the_last_finished_step_to_the_same_bytes(
    command: Start, built: Path, inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    process = command(*inputs, f"--out={out}", "--workers=1")
    wait_until((out / ".steps/signatures/done.json").exists, process)
    process.kill()
    process.communicate()
    (out / "left-out").mkdir()
    for name in (".train-00000-of-00002.tfrecord.0a1b2c3d.part", "left-out/.unit-000003.parquet.0a1b2c3d.part"):
        (out / name).write_bytes(b"the process that wrote it was killed")
    assert not (out / "manifest.json").exists()
    with pytest.raises(UserError, match="contains an unfinished build"):
        sources.open(str(out), "code", "train", Corpus(), Filters())
    assert main([*inputs, f"--out={out}", "--workers=1"]) == 0
    output = capsys.readouterr().out
    assert "signatures: already finished" in output and "shards: already finished" not in output
    assert contents(out) == contents(built)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
def test_the_death_of_a_worker_process_is_reported_and_the_build_resumes(
    command: Start, built: Path, inputs: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "set"
    process = command(*inputs, f"--out={out}", "--workers=2")
    wait_until(lambda: list(out.glob(".steps/read/unit-*")), process)
    descendants = children(process.pid)
    (server,) = [pid for pid in descendants if b"tasks.curation.workers" in command_line(pid) and children(pid)]
    os.kill(children(server)[-1], signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and is_one_line(error) and "a worker process died" in error
    end = time.monotonic() + 10
    while any(map(command_line, descendants)):  # no process remains
        assert time.monotonic() < end
        time.sleep(0.05)
    assert main([*inputs, f"--out={out}", "--workers=1"]) == 0
    assert contents(out) == contents(built)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_exits_with_75(
    number: signal.Signals, command: Start, inputs: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "set"
    process = command(*inputs, f"--out={out}", "--workers=2")
    wait_until(lambda: list(out.glob(".steps/read/unit-*")), process)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75 and is_one_line(error) and "run the same command again to resume" in error


def test_a_full_disk_is_reported(command: Start, inputs: list[str], tmp_path: Path) -> None:
    """A limit of 100 kB on file sizes, which the shards exceed, simulates a full disk without root access."""
    out = tmp_path / "set"

    def limit_file_size() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    process = command(*inputs, f"--out={out}", "--workers=1", preexec_fn=limit_file_size)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and is_one_line(error) and "no space left for " in error
    assert not list(out.rglob("*.part")) and not (out / "manifest.json").exists()


def test_a_source_that_disappears_during_the_build_is_reported(
    built: Path,
    inputs: list[str],
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    away, out, count = tmp_path / "away", tmp_path / "set", 0
    open_binary = filesystem.open_input

    def disappearing(location: str) -> BinaryIO:
        nonlocal count
        count += 1
        if count == 100:
            corpus.rename(away)
        return open_binary(location)

    try:
        with monkeypatch.context() as patched:
            patched.setattr(filesystem, "open_input", disappearing)
            assert main([*inputs, f"--out={out}", "--workers=1"]) == 1
        error = capsys.readouterr().err
        assert is_one_line(error) and str(corpus) in error and "cannot be read" in error
        assert not (out / "manifest.json").exists()
    finally:
        away.rename(corpus)
    assert main([*inputs, f"--out={out}", "--workers=1"]) == 0
    assert contents(out) == contents(built)


def test_a_changed_source_needs_another_folder(
    inputs: list[str], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(corpus / "repo0", tmp_path / "source")
    arguments = [f"--source={tmp_path}/source", *inputs[1:], f"--out={tmp_path}/set", "--workers=1"]
    assert main(arguments) == 0
    (tmp_path / "source/new.py").write_text("def new():\n    return 'of another size'\n")
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert is_one_line(error) and "contains another build (source: " in error


def test_a_damaged_record_stops_the_build_unless_it_is_skipped(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"text": f"def number_{n}():\n    return {n} ** 2 + {n}\n"}) for n in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[:20], "{half", *lines[20:]]))
    arguments = [f"--source={tmp_path}/a.jsonl", *inputs[1:], f"--out={tmp_path}/set", "--workers=1"]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert is_one_line(error) and "a.jsonl:21 is damaged" in error and "Corpus.on_damage='skip'" in error
    # no step was finished, so another build may use the folder
    arguments.append("--gin.Corpus.on_damage=skip")
    assert main([*arguments, "--gin.Build.seed=3"]) == 0
    assert "1 damaged (Corpus.on_damage)" in capsys.readouterr().out
    assert main(arguments) == 1 and "Build.seed: 3 in the folder, 0 now" in capsys.readouterr().err


def test_two_builds_into_one_folder_exclude_each_other(command: Start, inputs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "set"
    first = command(*inputs, f"--out={out}", "--workers=1")
    wait_until((out / STARTED).exists, first)
    second = command(*inputs, f"--out={out}", "--workers=1")
    _, error = second.communicate(timeout=60)
    first.kill()
    first.communicate()
    assert second.returncode == 1 and is_one_line(error) and "another process is building" in error


# --- damaged builds as a source of the trainer ------------------------------------------------------------------------


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "elsewhere"))


def texts(path: Path, split: str = "train") -> list[str]:
    source = sources.open(str(path), "code", split, Corpus(), Filters())
    return [document.text for shard in range(len(source)) for document in items(source, shard)]


@pytest.mark.parametrize("position", [0.02, 0.5, 0.99])
def test_a_damaged_shard_is_named(position: float, copy: Path) -> None:
    shard = sorted(copy.glob("train-*"))[1]
    data = bytearray(shard.read_bytes())
    data[int(len(data) * position)] ^= 4
    shard.write_bytes(data)
    with pytest.raises(UserError, match=rf"the shard .*{shard.name} is damaged .*fetch it again"):
        texts(copy)
    assert texts(copy, "validation")


def test_a_truncated_or_missing_shard_is_named_when_the_source_is_opened(copy: Path) -> None:
    shard = sorted(copy.glob("train-*"))[-1]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{shard.name} is damaged"):
        sources.open(f"{copy}/manifest.json", "code", "train", Corpus(), Filters())
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name} cannot be read"):
        sources.open(f"{copy}/manifest.json", "code", "train", Corpus(), Filters())


@pytest.mark.parametrize("text", ["", '{"kind": "codellama_jax training set", "format": 1}', "[1]"])
def test_a_damaged_manifest_is_reported(text: str, copy: Path) -> None:
    (copy / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="manifest"):
        sources.open(f"{copy}/manifest.json", "code", "train", Corpus(), Filters())
