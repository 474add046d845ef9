"""The processes of a job: their logs, and ending all of them after a failure."""

import os
import subprocess
import sys
import time
from pathlib import Path

from codellama_jax.runtime.distributed import PEER_LOST
from launch.local import processes
from tests.launch.toy_run import ROOT


def script(text: str) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-c", text], {}


def test_peer_loss_is_not_reported_as_the_cause(tmp_path, capsys):
    """The process that only lost its connection is not reported, even if it ends first."""
    outcome = processes.run_group(
        [
            (*script(f"print('error: {PEER_LOST}'); raise SystemExit(75)"), tmp_path / "0.log"),
            (
                *script("import time; time.sleep(0.2); print('error: no corpus'); raise SystemExit(2)"),
                tmp_path / "1.log",
            ),
            (*script("import time; time.sleep(60)"), tmp_path / "2.log"),
        ]
    )
    assert (outcome.code, outcome.process, outcome.last_lines) == (2, 1, ("error: no corpus",))
    assert "[1] error: no corpus" in capsys.readouterr().out
    assert (tmp_path / "1.log").read_text() == "error: no corpus\n"


LAUNCHER = """
import sys
from pathlib import Path
from launch.local import processes
program = "import sys; print('out', sys.stdout.isatty()); print('error: err', sys.stderr.isatty(), file=sys.stderr)"
command = [sys.executable, "-c", program + "; sys.exit(3)"]
outcome = processes.run_one(command, {"PYTHONUNBUFFERED": "1"}, Path(sys.argv[1]))
print("launcher", outcome.code, outcome.signalled)
"""


def launch(log: Path, **streams) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-u", "-c", LAUNCHER, log], cwd=ROOT, timeout=60, **streams)


def test_output_of_one_process_is_also_logged(tmp_path):
    """The launcher's own streams also get the output. Output to a terminal is not logged, because of progress bars."""
    log, terminal = tmp_path / "logs/code.log", os.openpty()
    separate = launch(log, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (separate.stdout, separate.stderr) == (b"out False\nlauncher 3 False\n", b"error: err False\n")
    assert sorted(log.read_text().splitlines()) == ["error: err False", "out False"]

    together = launch(log, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert together.stdout == b"out False\nerror: err False\nlauncher 3 False\n"
    assert log.read_text().endswith("out False\nerror: err False\n")

    before = log.read_text()
    bar = launch(log, stdout=subprocess.PIPE, stderr=terminal[1])
    assert bar.stdout == b"out False\nlauncher 3 False\n" and os.read(terminal[0], 100) == b"error: err True\r\n"
    assert log.read_text() == before + "out False\n"

    full = launch(Path("/dev/full"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.decode()
    assert "out False\n" in full and "launcher 3 False" in full and "No space left on device; the job continues" in full


def test_peer_loss_alone_is_reported_and_does_not_count_as_saved(tmp_path):
    """The other processes get EXIT_SECONDS, not SAVE_SECONDS."""
    unresponsive = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    lost = f"print('error: {PEER_LOST}'); raise SystemExit(75)"
    started = time.monotonic()
    outcome = processes.run_group([(*script(unresponsive), tmp_path / "0.log"), (*script(lost), tmp_path / "1.log")])
    assert (outcome.code, outcome.process, outcome.saved) == (75, 1, False)
    assert time.monotonic() - started < 3 * processes.EXIT_SECONDS + 2


def test_process_that_ignores_sigterm_is_killed(tmp_path):
    unresponsive = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    outcome = processes.run_group(
        [
            (*script(unresponsive), tmp_path / "0.log"),
            (*script("import time; time.sleep(1); raise SystemExit(3)"), tmp_path / "1.log"),
        ]
    )
    assert (outcome.code, outcome.process, outcome.signalled) == (3, 1, False)
