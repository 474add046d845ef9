"""System calls of Linux that Python does not offer, through ctypes: namespaces, mounts, capabilities."""

import ctypes
import os
import signal

NEWNS, NEWIPC, NEWUSER, NEWPID = 0x20000, 0x8000000, 0x10000000, 0x20000000
_READ_ONLY, _NO_SUID, _NO_DEVICES = 1, 2, 4
_DETACH = 2
_SET_DUMPABLE, _DROP_BOUNDING, _SET_NO_NEW_PRIVILEGES, _SET_SUBREAPER, _AMBIENT = 4, 24, 38, 36, 47
_CLEAR_ALL = 4
_CAPABILITIES = 64  # more than there are
_CAPSET_VERSION = 0x20080522
_CLONE = {"x86_64": 56, "aarch64": 220}

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def clone(namespaces: int) -> int:
    """os.fork into new namespaces."""
    number = _CLONE[os.uname().machine]
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = _libc.syscall(number, namespaces | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    return _checked(pid, "clone")


def enter_user_namespace(uid: int) -> None:
    """Gives this process a user namespace of its own, and a mount namespace, with all capabilities in them alone.

    Args:
        uid: the user and group that it has from now on, within.
    """
    outside = os.getuid(), os.getgid()
    prctl(_SET_DUMPABLE, 1)  # the maps belong to root otherwise
    _checked(_libc.unshare(NEWUSER | NEWNS), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {outside[0]} 1"),
        ("gid_map", f"{uid} {outside[1]} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def mount_tmpfs(path: str, size: int, files: int, read_only: bool = False) -> None:
    """Mounts an empty file system in memory."""
    flags = _NO_SUID | _NO_DEVICES | (_READ_ONLY if read_only else 0)
    options = f"size={size},nr_inodes={files},mode=755"
    _mount("tmpfs", path, "tmpfs", flags, options)


def mount_proc() -> None:
    """Mounts the /proc of this process's own namespace."""
    _mount("proc", "/proc", "proc", _NO_SUID | _NO_DEVICES | 8, "")


def uncover_proc() -> None:
    """Removes what bubblewrap has mounted over parts of /proc if its user is privileged.

    The kernel mounts no other /proc while a part is hidden. A user without privileges cannot write there anyway.
    """
    for name in ("sys", "sysrq-trigger", "irq", "bus"):
        _libc.umount2(f"/proc/{name}".encode(), _DETACH)


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    arguments = (text.encode() for text in (source, target, kind))
    _checked(_libc.mount(*arguments, flags, options.encode()), f"mount {kind} on {target}")


def prctl(option: int, *arguments: int) -> None:
    """The system call of this name."""
    values = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    _checked(_libc.prctl(option, *values), f"prctl {option}")


def become_subreaper() -> None:
    """Makes this process the parent of its descendants' orphans, as the first process of a namespace is."""
    prctl(_SET_SUBREAPER, 1)


def hide_memory() -> None:
    """Other processes of the user cannot read this one's memory or descriptors."""
    prctl(_SET_DUMPABLE, 0)


def forbid_new_privileges() -> None:
    """No program that this process starts has more rights than it."""
    prctl(_SET_NO_NEW_PRIVILEGES, 1)


def drop_bounds() -> None:
    """No program that this process or its children start can have capabilities; it keeps its own."""
    for capability in range(_CAPABILITIES):
        try:
            prctl(_DROP_BOUNDING, capability)
        except OSError:
            break  # the kernel has no such capability


def drop_capabilities() -> None:
    """Gives up all capabilities, for good."""
    prctl(_AMBIENT, _CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(_CAPSET_VERSION, 0)
    _checked(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
