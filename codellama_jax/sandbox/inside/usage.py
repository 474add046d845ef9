"""What running processes use, from /proc."""

import contextlib
import os
from collections.abc import Sequence

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def descendants(roots: Sequence[int]) -> list[tuple[float, int]]:
    """For each process: seconds of processor time and bytes of resident memory of it and its descendants.

    The time of descendants that have ended is in that of those that have waited for them; the first process of a
    namespace waits for every orphan.
    """
    found = _processes()
    totals = []
    for root in roots:
        members = [found[pid] for pid in _tree(root, found)]
        totals.append((sum(cpu for _, cpu, _ in members), sum(memory for _, _, memory in members)))
    return totals


def tree(root: int) -> list[int]:
    """A process and its descendants."""
    return _tree(root, _processes())


def _processes() -> dict[int, tuple[int, float, int]]:
    """Parent, seconds and bytes of each process that is visible."""
    found: dict[int, tuple[int, float, int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # it may have just ended
                # the field after the name is the third of proc(5)
                fields = file.read().rpartition(b")")[2].split()
                seconds = sum(int(field) for field in fields[11:15]) * _TICK
                found[int(name)] = int(fields[1]), seconds, int(fields[21]) * _PAGE
    return found


def _tree(root: int, found: dict[int, tuple[int, float, int]]) -> list[int]:
    children: dict[int, list[int]] = {}
    for pid, (parent, _, _) in found.items():
        children.setdefault(parent, []).append(pid)
    members = [root] if root in found else []
    for pid in members:  # it grows
        members += children.get(pid, [])
    return members
