"""Programs that attack the sandbox: none passes, none escapes, none harms the machine or the next program."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hostile_channel
import hostile_escapes
import hostile_forging
import hostile_resources
import pytest
from hostile_programs import ESCAPED, FORGING, Hostile, Target

from codellama_jax.sandbox.jobs import MIB, Commands, Job, Limits, Outcome, PythonTest, Step
from codellama_jax.sandbox.pool import Pool

PROGRAMS = [
    *hostile_forging.PROGRAMS,
    *hostile_channel.PROGRAMS,
    *hostile_resources.PROGRAMS,
    *hostile_escapes.PROGRAMS,
]
LIMITS = Limits(cpu_seconds=0.3, memory=192 * MIB, processes=12, scratch=4 * MIB, open_files=64, output=65536)
NEXT = PythonTest("def f(x):\n    return x + 1", "assert f(1) == 2")
SECRET = "a secret of the host"
WORKERS = 2
DAEMON = 1.5  # seconds after which a program's daemon writes


def job(hostile: Hostile, target: Target) -> Job:
    source = hostile.aimed(target)
    if hostile.language == "python":
        return PythonTest(source, hostile.test, LIMITS)
    steps = (Step(("gcc", "-w", "a.c", "-o", "a"), limits=Limits()), Step(("./a",)))
    return Commands({"a.c": source}, steps, LIMITS)


def descendants(root: int) -> set[int]:
    """The processes that a process has started, and those that they have."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                parents[int(name)] = int(Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    while new := {pid for pid, parent in parents.items() if (parent in found or parent == root) and pid not in found}:
        found |= new
    return found


def settled(root: int, expected: set[int], seconds: float = 2.0) -> set[int]:
    """The descendants of a process, once they are as expected, or after some seconds."""
    end = time.monotonic() + seconds
    while (found := descendants(root)) != expected and time.monotonic() < end:
        time.sleep(0.01)
    return found


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("host")
    folder.chmod(0o777)
    secret = folder / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o666)
    name = f"host {os.getpid()}"
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket(1) as unix:
        tcp.bind(("127.0.0.1", 0))
        port = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
        unix.bind("\0" + name)
        tcp.listen()
        unix.listen()
        os.environ["HOSTILE"] = "a variable of the host"
        yield Target(str(folder), str(secret), os.environ.pop("HOSTILE"), os.getpid(), port, name)
        for listener in (tcp, udp, unix):
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.recv(1) if listener is udp else listener.accept()


@pytest.fixture(scope="module")
def outcomes(target: Target) -> dict[str, tuple[Outcome, Outcome, bool]]:
    """Of each program: its outcome, that of the next in the same worker, and whether no process was left."""

    def all_of(index: int) -> dict[str, tuple[Outcome, Outcome, bool]]:
        found = {}
        with Pool(workers=1) as pool:
            (worker,) = pool._workers
            assert worker._process is not None
            root = worker._process.pid
            pool.submit(NEXT).result()
            usual = settled(root, set(), 0.3)  # of the sandbox itself
            for hostile in PROGRAMS[index::WORKERS]:
                outcome = pool.submit(job(hostile, target)).result()
                after = pool.submit(NEXT).result()
                found[hostile.name] = outcome, after, worker._process.pid == root and settled(root, usual) == usual
        assert not settled(root, set())
        return found

    with ThreadPoolExecutor(WORKERS) as threads:
        halves = list(threads.map(all_of, range(WORKERS)))
    return {name: found for half in halves for name, found in half.items()}


def test_the_programs_are_many_and_of_every_class():
    assert len(PROGRAMS) == len({hostile.name for hostile in PROGRAMS}) >= 50
    assert len({hostile.kind for hostile in PROGRAMS}) == 6


@pytest.mark.parametrize("hostile", PROGRAMS, ids=lambda hostile: hostile.name)
def test_a_hostile_program_fails_and_harms_nothing(hostile, outcomes):
    if hostile.x86 and os.uname().machine != "x86_64":
        pytest.skip("its system calls are those of x86_64")
    outcome, after, alone = outcomes[hostile.name]
    assert not outcome.passed
    assert ESCAPED not in outcome.stdout + outcome.stderr
    assert "the sandbox ended" not in outcome.message
    assert outcome.message.isprintable()
    assert len(outcome.stdout) <= LIMITS.output and outcome.cpu_seconds < LIMITS.cpu_seconds + 1
    assert (outcome.stdout + outcome.stderr + outcome.message).encode()
    assert after.passed
    assert alone
    if hostile.kind != FORGING and hostile.language == "python":
        assert outcome.status != "no_test"


def test_the_host_is_unharmed(target, outcomes):
    time.sleep(max(0.0, DAEMON - 1))
    folder = Path(target.folder)
    assert [path.name for path in folder.iterdir()] == ["secret"]
    assert (folder / "secret").read_text() == SECRET
    assert oct((folder / "secret").stat().st_mode) == oct(0o100666)
