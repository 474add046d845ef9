"""The system-call filter of programs: a list of calls that fail (seccomp(2), classic BPF)."""

import ctypes
import errno
import os
import struct

from codellama_jax.sandbox.inside import system

# name: (x86_64, aarch64); None: the processor has no such call. What a program that computes never needs, and what
# has led out of containers before: debugging other processes, kernel interfaces with a history of faults, mounts,
# namespaces, the clock, modules; and memory that no limit counts (System V, memfd, pages given to a pipe, events).
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18),
    "personality": (135, 92),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "vmsplice": (278, 75),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "io_setup": (206, 0),
    "open_tree_attr": (467, 467),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
}
_CLONE, _CLONE3, _SOCKETS, _MMAP = (56, 220), (435, 435), ((41, 198), (53, 199)), (9, 222)
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000  # the other calling convention of x86_64, with numbers of its own
_NAMESPACES = 0x7E020080  # the flags CLONE_NEW*
_AF_UNIX = 1
_SHARED_MEMORY = 0x21  # MAP_SHARED and MAP_ANONYMOUS: when a part is unmapped, it stays, and no limit counts it

# operations of the filter's machine
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENT, _FOURTH = 0, 4, 16, 40  # offsets in struct seccomp_data
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000

_SET_SECCOMP, _MODE_FILTER = 22, 2


def supported() -> bool:
    """Whether the numbers of this processor's system calls are known."""
    return os.uname().machine in _AUDIT


def filter_program(machine: str) -> bytes:
    """The filter for a processor, as the kernel's array of struct sock_filter."""
    column = list(_AUDIT).index(machine)
    fail = _ERROR | errno.EPERM
    program = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, _AUDIT[machine]), (_RETURN, 0, 0, _KILL)]
    program.append((_LOAD, 0, 0, _NUMBER))
    if machine == "x86_64":
        program += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, fail)]
    # glibc falls back to clone, whose flags a filter can read; those of clone3 are in memory
    program += [(_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _ERROR | errno.ENOSYS)]
    for numbers in _DENIED.values():
        number = numbers[column]
        if number is not None:
            program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, fail)]
    program += [(_EQUAL, 0, 4, _CLONE[column]), (_LOAD, 0, 0, _ARGUMENT)]
    program += [(_ANY_BIT, 0, 1, _NAMESPACES), (_RETURN, 0, 0, fail), (_RETURN, 0, 0, _ALLOW)]
    program += [(_EQUAL, 0, 5, _MMAP[column]), (_LOAD, 0, 0, _FOURTH), (_AND, 0, 0, _SHARED_MEMORY)]
    program += [(_EQUAL, 0, 1, _SHARED_MEMORY), (_RETURN, 0, 0, fail), (_RETURN, 0, 0, _ALLOW)]
    for numbers in _SOCKETS:
        program += [(_EQUAL, 0, 4, numbers[column]), (_LOAD, 0, 0, _ARGUMENT)]
        program += [(_EQUAL, 1, 0, _AF_UNIX), (_RETURN, 0, 0, _ERROR | errno.EAFNOSUPPORT), (_RETURN, 0, 0, _ALLOW)]
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


class Filter:
    """A filter program in memory, as the kernel reads it."""

    def __init__(self, program: bytes):
        self._instructions = ctypes.create_string_buffer(program, len(program))
        header = struct.pack("@HP", len(program) // 8, ctypes.addressof(self._instructions))
        self._header = ctypes.create_string_buffer(header, len(header))
        self._address = ctypes.addressof(self._header)

    def apply(self) -> None:
        """Filters the calls of this process and of those that it starts, for good."""
        system.prctl(_SET_SECCOMP, _MODE_FILTER, self._address)
