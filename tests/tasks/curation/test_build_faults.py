"""What a build survives, and what it says: kills, a dead worker, a full disk, a lost source, damaged shards."""

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
from tasks import sources
from tasks.build import main
from tasks.sources import files
from tasks.sources.base import items
from tasks.sources.manifest import STARTED

Start = Callable[..., subprocess.Popen]


def waited(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 60) -> None:
    """Until the condition holds; fails where the process ends before."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """All processes below a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found += [int(folder.name), *children(int(folder.name))]
    return found


def command_line(pid: int) -> bytes:
    """Empty where there is no such process any more."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def one_line(error: str) -> bool:
    return error.startswith("error: ") and error.count("\n") == 1


def test_killed_it_goes_on_at_the_last_finished_step_to_the_same_bytes(
    command: Start, built: Path, inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    process = command(*inputs, f"--out={out}", "--workers=1")
    waited((out / ".steps/signatures/done.json").exists, process)
    process.kill()
    process.communicate()
    assert not (out / "manifest.json").exists()
    with pytest.raises(UserError, match="a build that is not finished"):
        sources.open(str(out), "code", "train", Corpus(), Filters())
    assert main([*inputs, f"--out={out}", "--workers=1"]) == 0
    said = capsys.readouterr().out
    assert "signatures: finished before" in said and "shards: finished before" not in said
    assert contents(out) == contents(built)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
def test_a_worker_process_dies(command: Start, built: Path, inputs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "set"
    process = command(*inputs, f"--out={out}", "--workers=2")
    waited(lambda: list(out.glob(".steps/read/unit-*")), process)
    below = children(process.pid)
    (server,) = [pid for pid in below if b"tasks.curation.workers" in command_line(pid) and children(pid)]
    os.kill(children(server)[-1], signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and one_line(error) and "a worker process died" in error
    end = time.monotonic() + 10
    while any(map(command_line, below)):  # nothing is left behind
        assert time.monotonic() < end
        time.sleep(0.05)
    assert main([*inputs, f"--out={out}", "--workers=1"]) == 0
    assert contents(out) == contents(built)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(number: signal.Signals, command: Start, inputs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "set"
    process = command(*inputs, f"--out={out}", "--workers=2")
    waited(lambda: list(out.glob(".steps/read/unit-*")), process)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75 and one_line(error) and "the same command goes on" in error


def test_a_full_disk(command: Start, inputs: list[str], tmp_path: Path) -> None:
    """Files may not grow beyond 100 kB, which the shards do: the system's way of being full that needs no root."""
    out = tmp_path / "set"

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    process = command(*inputs, f"--out={out}", "--workers=1", preexec_fn=small)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and one_line(error) and "no space left for " in error
    assert not list(out.rglob("*.part")) and not (out / "manifest.json").exists()


def test_a_source_that_vanishes_half_way(
    built: Path,
    inputs: list[str],
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    away, out, count = tmp_path / "away", tmp_path / "set", 0
    opened = files.open_binary

    def vanishing(location: str) -> BinaryIO:
        nonlocal count
        count += 1
        if count == 100:
            corpus.rename(away)
        return opened(location)

    try:
        with monkeypatch.context() as patched:
            patched.setattr(files, "open_binary", vanishing)
            assert main([*inputs, f"--out={out}", "--workers=1"]) == 1
        error = capsys.readouterr().err
        assert one_line(error) and str(corpus) in error and "cannot be read" in error
        assert not (out / "manifest.json").exists()
    finally:
        away.rename(corpus)
    assert main([*inputs, f"--out={out}", "--workers=1"]) == 0
    assert contents(out) == contents(built)


def test_a_source_that_changed_is_another_build(
    inputs: list[str], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(corpus / "repo0", tmp_path / "source")
    arguments = [f"--source={tmp_path}/source", *inputs[1:], f"--out={tmp_path}/set", "--workers=1"]
    assert main(arguments) == 0
    (tmp_path / "source/new.py").write_text("def new():\n    return 'of another size'\n")
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert one_line(error) and "holds another build (source: " in error


def test_a_damaged_record_stops_it_until_it_is_to_be_skipped(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"text": f"def number_{n}():\n    return {n} ** 2 + {n}\n"}) for n in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[:20], "{half", *lines[20:]]))
    arguments = [f"--source={tmp_path}/a.jsonl", *inputs[1:], f"--out={tmp_path}/set", "--workers=1"]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert one_line(error) and "a.jsonl:21 is damaged" in error and "Corpus.on_damage='skip'" in error
    # nothing was finished, so that another build may have the folder as well
    arguments.append("--gin.Corpus.on_damage=skip")
    assert main([*arguments, "--gin.Build.seed=3"]) == 0
    assert "1 damaged (Corpus.on_damage)" in capsys.readouterr().out
    assert main(arguments) == 1 and "Build.seed: 3 there, 0 here" in capsys.readouterr().err


def test_two_at_once_in_one_folder(command: Start, inputs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "set"
    first = command(*inputs, f"--out={out}", "--workers=1")
    waited((out / STARTED).exists, first)
    second = command(*inputs, f"--out={out}", "--workers=1")
    _, error = second.communicate(timeout=60)
    first.kill()
    first.communicate()
    assert second.returncode == 1 and one_line(error) and "another process builds" in error


# --- what the trainer's source makes of damage -----------------------------------------------------------------------


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "elsewhere"))


def all_of(place: Path, split: str = "train") -> list[str]:
    source = sources.open(str(place), "code", split, Corpus(), Filters())
    return [document.text for piece in range(len(source)) for document in items(source, piece)]


@pytest.mark.parametrize("position", [0.02, 0.5, 0.99])
def test_a_damaged_shard_is_named(position: float, copy: Path) -> None:
    shard = sorted(copy.glob("train-*"))[1]
    data = bytearray(shard.read_bytes())
    data[int(len(data) * position)] ^= 4
    shard.write_bytes(data)
    with pytest.raises(UserError, match=rf"the shard .*{shard.name} is damaged .*fetch it again"):
        all_of(copy)
    assert all_of(copy, "validation")


def test_a_shard_cut_short_or_missing_is_named_at_once(copy: Path) -> None:
    shard = sorted(copy.glob("train-*"))[-1]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{shard.name} is damaged"):
        sources.open(f"{copy}/manifest.json", "code", "train", Corpus(), Filters())
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name} cannot be read"):
        sources.open(f"{copy}/manifest.json", "code", "train", Corpus(), Filters())


@pytest.mark.parametrize("text", ["", '{"kind": "codellama_jax training set", "format": 1}', "[1]"])
def test_a_damaged_manifest(text: str, copy: Path) -> None:
    (copy / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="manifest"):
        sources.open(f"{copy}/manifest.json", "code", "train", Corpus(), Filters())
