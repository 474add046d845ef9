"""One sandbox: a first process that does nothing but wait, and a program as its child, in namespaces of their own.

When the first process is killed, the kernel ends every process of its namespace, so nothing outlives a job.
"""

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from codellama_jax.sandbox.inside import system, usage

SCRATCH = "/tmp"
_FILES = 4096  # in the scratch folder
_SHARED = 2**20  # bytes of /dev/shm
_STACK = 64 * 2**20
_PYTHON_OVERHEAD = 128 * 2**20  # address space that Python has before a program starts
_DESCRIPTORS = 1024  # more than the supervisor has
_OTHERS = 8  # processes of the user beside a program's own
_ENVIRONMENT = {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
_PATH = "/usr/local/bin:/usr/bin:/bin"

Role = Callable[[], int]


class Box:
    """A running sandbox.

    Attributes:
        pid: the first process.
        steps: descriptor from which a JSON line about each ended step comes; the caller closes it.
    """

    def __init__(self, roles: Sequence[tuple[Role, dict[str, Any]]], descriptors: Sequence[int], options: dict):
        """Starts it.

        Args:
            roles: what the child does, one after another until one does not return 0, and the limits of each (the
                fields of jobs.Limits); each in a process of its own.
            descriptors: standard input, output and error of the child, and others that it keeps open.
            options: "alone": whether the role runs in the first process, which then starts no others; "isolated": in
                namespaces; "scratch": the folder, if not isolated; "size": bytes of scratch files; "files": the content
                of files by name, written first; "command": whether other programs are started; "filter": of system
                calls; "path": PATH, if not isolated.
        """
        self.steps, write = os.pipe()
        self._isolated = options["isolated"]
        self.pid = system.clone(system.NEWPID | system.NEWNS | system.NEWIPC) if self._isolated else os.fork()
        if self.pid:
            os.close(write)
            return
        try:
            _first_process(roles, descriptors, options, write)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.write(write, json.dumps({"broken": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        finally:
            os._exit(0)

    def kill(self) -> float:
        """Ends it, with every process in it. Returns the processor time that was used, in seconds."""
        if not self._isolated:
            self._kill_descendants()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        _, _, used = os.wait4(self.pid, 0)
        return used.ru_utime + used.ru_stime

    def _kill_descendants(self) -> None:
        """Without a namespace they are found one by one, until there are none: they may start others meanwhile."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)  # it is the parent of orphans
        while pids := usage.alive(self.pid):
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)


def _first_process(roles: Sequence, descriptors: Sequence[int], options: dict, report: int) -> None:
    # A first process of a namespace gets no signals but those that it handles.
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    _close_all_but([report, *descriptors])
    os.setsid()
    system.hide_memory()
    if options["isolated"]:
        system.mount_tmpfs(SCRATCH, options["size"], _FILES)
        system.mount_tmpfs("/dev/shm", _SHARED, 64)
        _mount_proc(options["command"])
    else:
        system.become_subreaper()
    folder = options["scratch"] or SCRATCH
    os.chdir(folder)
    _write_files(options["files"])
    if options["alone"]:
        role, limits = roles[0]
        _become(role, limits, descriptors, folder, options)
    for index, (role, limits) in enumerate(roles):
        child = os.fork()
        if not child:
            os.close(report)
            _become(role, limits, descriptors, folder, options)
        code = _wait(child)
        line = json.dumps({"step": index, "code": code})
        os.write(report, line.encode() + b"\n")
        if code:
            break
    os.close(report)
    if not options["isolated"]:  # it stays the parent of orphans until all are killed
        os.closerange(0, _DESCRIPTORS)
        while True:
            signal.pause()


def _close_all_but(kept: Sequence[int]) -> None:
    """Closes other descriptors but the standard ones: those of other boxes, whose ends would not be noticed."""
    start = 3
    for number in sorted({number for number in kept if number >= start}):
        os.closerange(start, number)
        start = number + 1
    os.closerange(start, _DESCRIPTORS)


def _mount_proc(wanted: bool) -> None:
    """The processes of this namespace alone, or none at all."""
    if wanted:
        with contextlib.suppress(OSError):  # a container may forbid it
            system.mount_proc()
            return
    system.mount_tmpfs("/proc", 4096, 2, read_only=True)


def _write_files(files: dict[str, str]) -> None:
    for name, content in files.items():
        if folder := os.path.dirname(name):
            os.makedirs(folder, exist_ok=True)
        with open(name, "x", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(content)


def _wait(child: int) -> int:
    """The exit code of a process, with every other process reaped that ends before it."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def _become(role: Role, limits: dict[str, Any], descriptors: Sequence[int], folder: str, options: dict) -> None:
    """Gives up every right, and runs a role; does not return."""
    code = 127
    try:
        if not options["alone"]:
            os.setsid()
        _place(descriptors)
        if not options["isolated"]:
            set_environment(folder, options["path"])
        for name, value in _resources(limits, options["command"]):
            _, hard = resource.getrlimit(name)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(name, (value, value))
        if options["isolated"]:
            system.drop_capabilities()
        system.forbid_new_privileges()
        if options["filter"]:
            options["filter"].apply()
        code = role()
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(2, f"{type(error).__name__}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(code)


def set_environment(folder: str = SCRATCH, path: str | None = None) -> None:
    """Gives this process the environment of programs, and none of its own."""
    os.environ.clear()
    os.environ.update(_ENVIRONMENT, HOME=folder, TMPDIR=folder, PATH=path or _PATH)


def _place(descriptors: Sequence[int]) -> None:
    """Makes the descriptors 0, 1, 2, ... and closes all others."""
    high = [os.dup2(number, _DESCRIPTORS // 2 + index) for index, number in enumerate(descriptors)]
    for index, number in enumerate(high):
        os.dup2(number, index, inheritable=index < 3)
    os.closerange(len(high), _DESCRIPTORS)
    for index, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        setattr(sys, name, os.fdopen(index, mode, encoding="utf-8", errors="surrogateescape", closefd=False))


def _resources(limits: dict[str, Any], command: bool) -> Iterator[tuple[int, int]]:
    """The limits of a process. Those of all processes together are watched by the supervisor."""
    yield resource.RLIMIT_CORE, 0
    yield resource.RLIMIT_CPU, int(limits["cpu_seconds"]) + 2
    yield resource.RLIMIT_FSIZE, max(limits["scratch"], limits["output"]) + 1
    yield resource.RLIMIT_NOFILE, limits["open_files"]
    yield resource.RLIMIT_NPROC, limits["processes"] + _OTHERS
    yield resource.RLIMIT_STACK, _STACK
    yield resource.RLIMIT_MEMLOCK, 0
    # The runtimes of some languages reserve much more address space than they use.
    kind = resource.RLIMIT_DATA if command else resource.RLIMIT_AS
    yield kind, limits["memory"] + _PYTHON_OVERHEAD
