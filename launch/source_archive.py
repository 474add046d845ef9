"""The source code for other machines: an archive of the checkout, named by a digest of its content."""

import dataclasses
import functools
import gzip
import hashlib
import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.runtime import cache

ROOT = Path(__file__).resolve().parent.parent
LOCK = "requirements-tpu.txt"
# The files and folders of the checkout that every host needs.
PARTS = ("codellama_jax", "tasks", "launch", "gin", "pyproject.toml", LOCK, "xm_launch.py")


@dataclasses.dataclass(frozen=True)
class Archive:
    """A .tar.gz file of the source.

    Attributes:
        digest: of the content; independent of where and when the archive is made.
        lock: digest of the list of packages that the hosts install.
        data: the bytes of the file.
    """

    digest: str
    lock: str
    data: bytes = dataclasses.field(repr=False)

    @property
    def name(self) -> str:
        return f"codellama_jax-{self.digest}.tar.gz"

    @property
    def path(self) -> Path:
        """Where `write` stores the archive."""
        return (cache.directory("sources") or Path(tempfile.gettempdir())) / self.name

    def write(self) -> None:
        """Writes the file unless it exists.

        Raises:
            OSError: the file cannot be written.
        """
        if not self.path.exists() and not cache.store(self.path, self.data):
            raise OSError(f"{self.path} cannot be written")


def is_checkout() -> bool:
    """Whether this package runs from a checkout of the project, not from an installed wheel."""
    return (ROOT / LOCK).is_file()


def check_is_checkout() -> None:
    """Raises UserError if this package does not run from a checkout."""
    if not is_checkout():
        raise UserError(
            f"other machines get a copy of the project's checkout, and this is an installed package ({ROOT}): clone the"
            " repository and run python xm_launch.py there",
            EXIT_USAGE,
        )


def path_of_gin_file(file: str) -> str:
    """The path of a gin file relative to the checkout.

    Raises:
        UserError: the file is outside the checkout, so the archive cannot contain it.
    """
    check_is_checkout()
    if not Path(file).is_relative_to(ROOT):
        raise UserError(
            f"--gin_file={file}: other machines get a copy of {ROOT} and no other files: move it there", EXIT_USAGE
        )
    return str(Path(file).relative_to(ROOT))


def path_of_module(name: str) -> str:
    """The path, relative to the checkout, of the top-level package or module that contains the module `name`.

    Raises:
        UserError: the module is not in the checkout, so the archive cannot contain it.
    """
    check_is_checkout()
    path = ROOT.joinpath(*name.split("."))
    if not path.with_name(path.name + ".py").is_file() and not path.is_dir():
        raise UserError(
            f"--import={name}: other machines get a copy of {ROOT} and no other modules: move it there", EXIT_USAGE
        )
    top = name.partition(".")[0]
    return top if (ROOT / top).is_dir() else f"{top}.py"


@functools.cache
def source(extra: tuple[str, ...] = (), root: Path = ROOT) -> Archive:
    """Archives the source in its current state: PARTS and `extra`, with uncommitted changes and untracked files, but
    without files that git ignores.

    Args:
        extra: more files and folders, relative to the checkout.
        root: the checkout.

    Raises:
        UserError: one of `extra` is ignored by git, or contains no file.
    """
    files = _files(root, (*PARTS, *extra))
    for part in extra:
        if not any(file.is_relative_to(root / part) for file in files):
            raise UserError(f"{root / part} is ignored by git, so other machines would not get it: see .gitignore")
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in files:
            data = file.read_bytes()
            # without owner and time, so that equal sources give equal archives
            entry = tarfile.TarInfo(str(file.relative_to(root)))
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    digest = hashlib.sha256(tar.getvalue()).hexdigest()[:16]
    lock = hashlib.sha256((root / LOCK).read_bytes()).hexdigest()[:16]
    return Archive(digest, lock, gzip.compress(tar.getvalue(), mtime=0))


def _files(root: Path, parts: tuple[str, ...]) -> list[Path]:
    """The files of `parts`, sorted. Without git: all of them except compiled Python."""
    listing = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *parts]
    try:
        output = subprocess.run(listing, capture_output=True, check=True).stdout.decode()
        files = [root / name for name in output.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        paths = [root / part for part in parts]
        files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
        files = [file for file in files if "__pycache__" not in file.parts]
    return sorted({file for file in files if file.is_file()})
