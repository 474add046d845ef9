"""What runs on a host, run here: the launcher's remote commands go through bash, one home for each of two hosts."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from launch import source_archive
from launch.job import Experiment
from launch.source_archive import Archive, source
from launch.tpu_vm import agent
from tests.launch.stand_in import Cloud
from tests.launch.tpu_vm.test_tpu_vm import executor, job

# python3 of a host: installs by making an interpreter that does the same; train notes its argv and waits for its end.
PYTHON3 = """\
#!/bin/bash
case "$*" in
  *"uv --quiet venv"*) mkdir -p "${!#}/bin" && cp "$0" "${!#}/bin/python";;
  *"pip install"*) ;;
  *"codellama_jax.train"*)
    [ "$2" = launch.tpu_vm.agent ] && exec PYTHON "$@"
    env | grep -E "^(JAX|LIBTPU)" > "$HOME/environment"; printf '%s\\0' "$@" > "$HOME/argv"
    trap 'echo saved at step 4; exit 75' TERM
    for i in 1 2 3; do echo "$HOME step $i"; sleep 0.05; done
    echo $$ > "$HOME/training"
    [ -e "$STAND_IN/endless" ] && { sleep 4 & wait $!; }
    exit 0;;
  *) exec PYTHON "$@";;
esac
"""


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    made = Cloud(tmp_path / "cloud", run=True)
    monkeypatch.setenv("PATH", f"{made.bin}:/usr/local/bin:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_a=true --xla_b='x y'")
    (made.folder / "host_bin").mkdir()
    python = made.folder / "host_bin" / "python3"
    python.write_text(PYTHON3.replace("PYTHON", sys.executable))
    python.chmod(0o755)
    yield made
    assert not made.running


def run(*jobs):
    return executor().run(Experiment("seven", "gs://b/runs", jobs))


def when(files, command):
    """A process that runs the command once the files are there, or never."""
    there = " -a ".join(f"-e {file}" for file in files)
    loop = f"for i in $(seq 100); do if [ {there} ]; then {command}; exit; fi; sleep 0.1; done"
    return subprocess.Popen(["bash", "-c", loop])


def test_commands_survive_two_shells(cloud, capfd):
    """The launcher's, that prints or runs gcloud, and the host's: train gets the argv that was meant."""
    assert run(job()) == 0
    for home in (cloud.folder / "host-0", cloud.folder / "host-1"):
        argv = (home / "argv").read_text().split("\0")[:-1]
        assert argv == ["-m", "codellama_jax.train", *job().shipped_arguments]
        environment = (home / "environment").read_text()
        assert "LIBTPU_INIT_ARGS=--xla_a=true --xla_b='x y'\n" in environment, "the launcher's environment wins"
        assert "JAX_PLATFORMS=tpu,cpu" in environment
        assert (home / "codellama_jax" / source().digest / "gin/lcft.gin").read_bytes()
    seen = capfd.readouterr().out
    assert [line for line in seen.splitlines() if " step " in line] == [
        f"{cloud.folder}/host-0 step {number}" for number in (1, 2, 3)
    ]


def test_ctrl_c_reaches_every_host(cloud, capfd):
    (cloud.folder / "endless").touch()
    trained = [cloud.folder / host / "training" for host in ("host-0", "host-1")]
    with when(trained, f"kill -INT {os.getpid()}"):
        assert run(job()) == 75
    assert "saved at step 4" in capfd.readouterr().out
    for path in trained:
        assert not agent._alive(int(path.read_text()))


def test_a_host_process_that_is_killed_is_seen(cloud):
    """Another slice is made; there it ends."""
    (cloud.folder / "endless").touch()
    trained = cloud.folder / "host-0" / "training"
    with when([trained], f"rm {cloud.folder}/endless; kill -KILL $(cat {trained})"):
        assert run(job()) == 0
    assert cloud.calls().count("create") == 2


def test_what_holds_a_device_is_ended(tmp_path):
    """A connection that was cut leaves its process behind, with the chips."""
    device = tmp_path / "accel0"
    device.touch()
    holder = subprocess.Popen([sys.executable, "-c", f"f = open({str(device)!r}); import time; time.sleep(60)"])
    deadline = time.monotonic() + 10
    while not agent._holders({str(device)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    agent.end_holders([str(tmp_path / "accel*")])
    assert holder.wait(5) == -signal.SIGTERM


def test_an_archive_is_named_by_its_content(tmp_path):
    root = tmp_path / "checkout"
    for name in ("codellama_jax/a.py", "gin/b.gin", "tests/c.py", "requirements-tpu.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    without_git = source_archive.source(root)
    git = ["git", "-C", str(root), "-c", "user.name=x", "-c", "user.email=x@y"]
    subprocess.run([*git, "init", "-q"], check=True)
    source_archive.source.cache_clear()
    os.utime(root / "gin/b.gin", (0, 0))
    assert source_archive.source(root) == without_git, "neither git nor times matter"
    listed = subprocess.run(["tar", "-tz"], input=without_git.data, capture_output=True, check=True).stdout.decode()
    assert listed.split() == ["codellama_jax/a.py", "gin/b.gin", "requirements-tpu.txt"]
    (root / ".gitignore").write_text("*.log")
    (root / "codellama_jax/x.log").write_text("")
    source_archive.source.cache_clear()
    assert source_archive.source(root).digest == without_git.digest
    (root / "codellama_jax/a.py").write_text("changed")
    source_archive.source.cache_clear()
    changed = source_archive.source(root)
    assert changed.digest != without_git.digest and changed.lock == without_git.lock


def test_the_archive_has_what_a_host_runs(tmp_path):
    made: Archive = source()
    subprocess.run(["tar", "-xz", "-C", str(tmp_path)], input=made.data, check=True)
    program = textwrap.dedent("""
        import codellama_jax.config.gin_files as c
        c.load(["gin/lcft.gin", "gin/models/local.gin"], [])
        print(c.resolve().stage.name, c.__file__)
    """)
    seen = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert re.fullmatch(rf"lcft {tmp_path}/codellama_jax/configuration.py\n", seen.stdout)
    assert len(made.data) < 900_000, "a ConfigMap holds a mebibyte"
