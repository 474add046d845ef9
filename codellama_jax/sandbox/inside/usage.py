"""What running processes use, from /proc."""

import contextlib
import os

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SOCKET = 2 * 208 * 1024  # bytes that the kernel holds for a socket whose buffer is full, by its usual settings
_WIDE = 2**33  # bytes of address space from which on its page tables count

_Process = tuple[int, bytes, float, float, int, bytes]


class Meter:
    """Adds up what processes and their descendants use.

    Attributes:
        seconds: of processor time of each.
        memory: bytes of memory of each now, with the kernel's for sockets and page tables.
    """

    def __init__(self) -> None:
        self._roots: list[int] = []
        self._own: list[dict[tuple[int, bytes], float]] = []  # seconds of each process that was ever seen
        self.seconds: list[float] = []
        self.memory: list[int] = []

    def add(self, root: int) -> None:
        """Adds a process."""
        self._roots.append(root)
        self._own.append({})
        self.seconds.append(0.0)
        self.memory.append(0)

    def look(self) -> None:
        """Updates the figures.

        The time of a process that has ended is in that of the one that has waited for it; the first process of a
        namespace waits for every orphan. Of processes that nobody waits for (SIGCHLD is ignored) counts what was seen.
        """
        found = _processes()
        sockets = _sockets() * _SOCKET
        for index, root in enumerate(self._roots):
            own, waited, memory = self._own[index], 0.0, sockets
            for pid in _tree(root, found):
                _, start, seconds, ended, resident, _ = found[pid]
                own[pid, start] = seconds
                waited += seconds + ended
                memory += resident
            self.seconds[index] = max(self.seconds[index], waited, sum(own.values()))
            self.memory[index] = memory


def alive(root: int) -> list[int]:
    """The descendants of a process that have not ended."""
    found = _processes()
    return [pid for pid in _tree(root, found) if pid != root and found[pid][5] not in (b"Z", b"X")]


def _processes() -> dict[int, _Process]:
    """Parent, time of start, seconds of itself and of ended children, bytes and state of each visible process."""
    found: dict[int, _Process] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # it may have just ended
                # the field after the name is the third of proc(5)
                fields = file.read().rpartition(b")")[2].split()
                own, ended = (_TICK * (int(fields[index]) + int(fields[index + 1])) for index in (11, 13))
                resident = int(fields[21]) * _PAGE
                if int(fields[20]) > _WIDE:
                    resident += _page_tables(name)
                found[int(name)] = int(fields[1]), fields[19], own, ended, resident, fields[0]
    return found


def _page_tables(pid: str) -> int:
    with open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmPTE:"):
                return int(line.split()[1]) * 1024
    return 0


def _sockets() -> int:
    """The number of Unix sockets of this network namespace, which programs share, beside those of a test's channel."""
    with contextlib.suppress(OSError), open("/proc/net/unix", "rb") as file:
        return max(0, sum(1 for _ in file) - 3)
    return 0


def _tree(root: int, found: dict[int, _Process]) -> list[int]:
    children: dict[int, list[int]] = {}
    for pid, process in found.items():
        children.setdefault(process[0], []).append(pid)
    members = [root] if root in found else []
    for pid in members:  # it grows
        members += children.get(pid, [])
    return members
