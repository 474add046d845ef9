"""Several processes on this machine: the same code path as a pod, its output, its ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codellama_jax.errors import EXIT_USAGE
from codellama_jax.runtime.distributed import PEER_LOST
from launch.local import processes
from tests.launch import toy

TWO = ["--processes=2", "--devices_per_process=4"]


def processes_of(run_dir: Path) -> dict[int, int]:
    """Process ids of the training processes by their number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"--run_dir={run_dir}".encode() not in (folder / "cmdline").read_bytes().split(b"\0"):
                continue
            environment = dict(
                entry.partition(b"=")[::2] for entry in (folder / "environ").read_bytes().split(b"\0") if entry
            )
        except OSError:
            continue
        if number := environment.get(b"JAX_PROCESS_ID"):
            found[int(number)] = int(folder.name)
    return found


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path):
    """The terminal's Ctrl-C goes to the launcher's group: each process hears of it once, and the run is saved."""
    run_dir, stage = tmp_path / "runs", tmp_path / "runs/local/code"
    process = toy.start(run_dir, *TWO, "--gin.CODE_STEPS=1_000_000")
    toy.wait_for(process, stage / "metrics.jsonl", '"step": 4,')
    second = toy.start(run_dir, *TWO, "--gin.CODE_STEPS=1_000_000")
    refused = second.communicate(timeout=60)[0]
    [holder] = re.findall(r"in use by process (\d+) on (\S+):", refused)
    assert second.returncode == 1 and holder == (str(processes_of(run_dir)[0]), socket.gethostname())
    assert len([line for line in refused.splitlines() if "error" in line]) == 1

    os.killpg(process.pid, signal.SIGINT)
    seen = process.communicate(timeout=60)[0]
    assert process.returncode == 75 and "saved at step" in seen, seen
    for number in (0, 1):
        kept = (run_dir / "local/logs" / f"code.{number}.log").read_text()
        assert kept.count("SIGINT: finishing this step") == 1 and "[0]" not in kept
        assert f"[{number}] SIGINT: finishing" in seen
    assert not processes_of(run_dir)

    assert json.loads((stage / "stage.json").read_text())["devices"].startswith("8 x")
    saved = max(int(path.name) for path in (stage / "checkpoints").iterdir())
    assert f"saved at step {saved} of" in seen
    process = toy.start(run_dir, *TWO, "--gin.CODE_STEPS=1_000_000")
    toy.wait_for(process, run_dir / "local/logs/code.0.log", f"going on from step {saved}")
    toy.wait_for(process, stage / "metrics.jsonl", f'"step": {saved + 1},')
    process.terminate()
    assert process.wait(60) == 75


def test_a_killed_process_stops_the_others(tmp_path):
    """The log folder of one of them is full meanwhile, which ends its log and nothing else."""
    run_dir = tmp_path / "runs"
    logs = run_dir / "local" / "logs"
    logs.mkdir(parents=True)
    (logs / "code.0.log").symlink_to("/dev/full")
    process = toy.start(run_dir, *TWO, "--gin.CODE_STEPS=1_000_000")
    toy.wait_for(process, run_dir / "local/code/metrics.jsonl", '"step": 4,')
    os.kill(processes_of(run_dir)[1], signal.SIGKILL)
    seen = process.communicate(timeout=30)[0]
    assert process.returncode == 1 and not processes_of(run_dir)
    errors = [line for line in seen.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "it was killed" in errors[0] and "goes on from the last checkpoint" in errors[0]
    assert "process 1 of 2 ended with code 137, its last lines" in seen
    assert "cannot write" in seen and "No space left on device" in seen and "[0] code: step" in seen


def script(text: str) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-c", text], {}


def test_the_one_to_blame_is_not_the_one_that_lost_it(tmp_path, capsys):
    """Whoever ends first: a process that only says that another is gone has not failed."""
    ended = processes.run(
        [
            (*script(f"print('error: {PEER_LOST}'); raise SystemExit(75)"), tmp_path / "0.log"),
            (
                *script("import time; time.sleep(0.2); print('error: no corpus'); raise SystemExit(2)"),
                tmp_path / "1.log",
            ),
            (*script("import time; time.sleep(60)"), tmp_path / "2.log"),
        ]
    )
    assert (ended.code, ended.process, ended.last_lines) == (2, 1, ("error: no corpus",))
    assert "[1] error: no corpus" in capsys.readouterr().out
    assert (tmp_path / "1.log").read_text() == "error: no corpus\n"


ALONE = """
import sys
from pathlib import Path
from launch import processes
said = "import sys; print('out', sys.stdout.isatty()); print('error: err', sys.stderr.isatty(), file=sys.stderr)"
log = Path(sys.argv[1])
print("launcher", *processes.run_alone([sys.executable, "-c", said + "; sys.exit(3)"], {"PYTHONUNBUFFERED": "1"}, log))
"""


def alone(log: Path, **streams) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-u", "-c", ALONE, log], cwd=toy.ROOT, timeout=60, **streams)


def test_what_one_process_says_is_kept(tmp_path):
    """Where it goes stays as it was; on a terminal it is left alone, which a progress bar needs."""
    log, terminal = tmp_path / "logs/code.log", os.openpty()
    apart = alone(log, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (apart.stdout, apart.stderr) == (b"out False\nlauncher 3 False\n", b"error: err False\n")
    assert sorted(log.read_text().splitlines()) == ["error: err False", "out False"]

    together = alone(log, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert together.stdout == b"out False\nerror: err False\nlauncher 3 False\n"
    assert log.read_text().endswith("out False\nerror: err False\n")

    kept = log.read_text()
    bar = alone(log, stdout=subprocess.PIPE, stderr=terminal[1])
    assert bar.stdout == b"out False\nlauncher 3 False\n" and os.read(terminal[0], 100) == b"error: err True\r\n"
    assert log.read_text() == kept + "out False\n"

    full = alone(Path("/dev/full"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.decode()
    assert "out False\n" in full and "launcher 3 False" in full and "No space left on device; the job goes on" in full


def test_they_lost_each_other(tmp_path):
    """Then there is nobody else to blame: it is no save, the others are not waited for as for one."""
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    lost = f"print('error: {PEER_LOST}'); raise SystemExit(75)"
    started = time.monotonic()
    ended = processes.run([(*script(text), tmp_path / f"{n}.log") for n, text in enumerate((deaf, lost))])
    assert (ended.code, ended.process, ended.saved) == (75, 1, False)
    assert time.monotonic() - started < 3 * processes.ALONE_SECONDS + 2


def test_one_that_does_not_listen_is_killed(tmp_path):
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    ended = processes.run(
        [
            (*script(deaf), tmp_path / "0.log"),
            (*script("import time; time.sleep(1); raise SystemExit(3)"), tmp_path / "1.log"),
        ]
    )
    assert (ended.code, ended.process, ended.asked) == (3, 1, False)


def run(tmp_path: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(toy.ROOT / "xm_launch.py"), "--gin_file=gin/code.gin", *flags]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)


def test_a_dry_run_shows_each_process(tmp_path):
    """The same lines each time, and nothing is touched."""
    seen = [run(tmp_path, "--dry_run", *TWO).stdout for _ in range(2)]
    assert seen[0] == seen[1] and not list(tmp_path.iterdir())
    lines = [line for line in seen[0].splitlines() if "codellama_jax.train" in line]
    assert len(lines) == 2
    for number, line in enumerate(lines):
        assert line.startswith("env JAX_PLATFORMS=") and f"JAX_PROCESS_ID={number} " in line
        assert "JAX_NUM_CPU_DEVICES=4 JAX_COORDINATOR_ADDRESS=127.0.0.1:" in line and "JAX_NUM_PROCESSES=2" in line


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--processes=0"], "--processes=0 must be at least 1"),
        (["--topology=v5p:4x4x4"], "add --executor=tpu_vm"),
        (["--executor=tpuvm"], "did you mean tpu_vm"),
        (["--executor=nowhere:Class"], "No module named 'nowhere'"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, flags, says):
    ended = run(tmp_path, *flags)
    assert ended.returncode == EXIT_USAGE and ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1
    assert says in ended.stderr
