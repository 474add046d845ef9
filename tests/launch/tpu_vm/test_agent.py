"""The agent on two hosts: bash runs the launcher's remote commands on this machine."""

import os
import signal
import subprocess
import sys
import time

import pytest

from codellama_jax.runtime import console
from launch.source_archive import source
from launch.tpu_vm import agent
from tests.launch.fake_cloud import FakeCloud
from tests.launch.jobs import experiment, job
from tests.launch.tpu_vm.test_tpu_vm import executor

# The fake python3 of a host: it "installs" by copying itself, and as codellama_jax.train it records its arguments and
# waits.
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
    [ -e "$FAKE_CLOUD/endless" ] && { sleep 4 & wait $!; }
    exit 0;;
  *) exec PYTHON "$@";;
esac
"""


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    console.configure_logging()
    made = FakeCloud(tmp_path / "cloud", run=True)
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
    return executor().run(experiment(*jobs))


def run_when_files_exist(files, command):
    """Starts a process that runs the command as soon as the files exist."""
    exist = " -a ".join(f"-e {file}" for file in files)
    loop = f"for i in $(seq 100); do if [ {exist} ]; then {command}; exit; fi; sleep 0.1; done"
    return subprocess.Popen(["bash", "-c", loop])


def test_arguments_survive_two_shells(cloud, capfd):
    """Train gets its arguments unchanged through the shell of the launcher (for --dry_run) and that of the host."""
    assert run(job()) == 0
    for home in (cloud.folder / "host-0", cloud.folder / "host-1"):
        argv = (home / "argv").read_text().split("\0")[:-1]
        assert argv == ["-m", "codellama_jax.train", *job().shipped_arguments]
        environment = (home / "environment").read_text()
        assert "LIBTPU_INIT_ARGS=--xla_a=true --xla_b='x y'\n" in environment, "the launcher's environment wins"
        assert "JAX_PLATFORMS=tpu,cpu" in environment
        assert (home / "codellama_jax" / source().digest / "gin/lcft.gin").read_bytes()
    output = capfd.readouterr().out
    assert [line for line in output.splitlines() if " step " in line] == [
        f"{cloud.folder}/host-0 step {number}" for number in (1, 2, 3)
    ]


def test_ctrl_c_reaches_every_host(cloud, capfd):
    (cloud.folder / "endless").touch()
    trained = [cloud.folder / host / "training" for host in ("host-0", "host-1")]
    with run_when_files_exist(trained, f"kill -INT {os.getpid()}"):
        assert run(job()) == 75
    assert "saved at step 4" in capfd.readouterr().out
    for path in trained:
        assert not agent._is_alive(int(path.read_text()))


def test_killed_process_is_followed_by_a_new_slice(cloud):
    (cloud.folder / "endless").touch()
    trained = cloud.folder / "host-0" / "training"
    with run_when_files_exist([trained], f"rm {cloud.folder}/endless; kill -KILL $(cat {trained})"):
        assert run(job()) == 0
    assert cloud.calls().count("create") == 2


def test_process_that_has_a_device_open_is_ended(tmp_path):
    """A broken connection can leave a process behind that has the TPUs open."""
    device = tmp_path / "accel0"
    device.touch()
    holder = subprocess.Popen([sys.executable, "-c", f"f = open({str(device)!r}); import time; time.sleep(60)"])
    deadline = time.monotonic() + 10
    while not agent._device_holders({str(device)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    agent.end_device_holders([str(tmp_path / "accel*")])
    assert holder.wait(5) == -signal.SIGTERM
