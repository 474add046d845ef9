"""The source as other machines get it: an archive that is named by its content."""

import dataclasses
import functools
import gzip
import hashlib
import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

from codellama_jax.runtime import cache
from launch.job import ROOT

# What a host runs, and what it installs.
PARTS = ("codellama_jax", "tasks", "launch", "gin", "pyproject.toml", "requirements-tpu.txt", "xm_launch.py")
LOCK = "requirements-tpu.txt"


@dataclasses.dataclass(frozen=True)
class Archive:
    """A .tar.gz of the source.

    Attributes:
        digest: of what it contains, whenever and wherever it was made.
        lock: digest of the packages it wants.
        data: its bytes.
    """

    digest: str
    lock: str
    data: bytes = dataclasses.field(repr=False)

    @property
    def name(self) -> str:
        return f"codellama_jax-{self.digest}.tar.gz"

    @property
    def path(self) -> Path:
        """Where write() puts it."""
        return (cache.directory("sources") or Path(tempfile.gettempdir())) / self.name

    def write(self) -> None:
        """Writes the file, if it is not there.

        Raises:
            OSError: it cannot be written.
        """
        if not self.path.exists() and not cache.store(self.path, self.data):
            raise OSError(f"{self.path} cannot be written")


@functools.cache
def source(root: Path = ROOT) -> Archive:
    """The source as it is now: what git has, what was changed, and new files that it does not ignore."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in _files(root):
            data = file.read_bytes()
            entry = tarfile.TarInfo(str(file.relative_to(root)))  # no owner, no time: equal sources, equal archives
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    digest = hashlib.sha256(tar.getvalue()).hexdigest()[:16]
    lock = hashlib.sha256((root / LOCK).read_bytes()).hexdigest()[:16]
    return Archive(digest, lock, gzip.compress(tar.getvalue(), mtime=0))


def _files(root: Path) -> list[Path]:
    """The files of PARTS; where there is no git, all that have a place in a package."""
    listing = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PARTS]
    try:
        found = subprocess.run(listing, capture_output=True, check=True).stdout.decode().split("\0")
        files = [root / name for name in found if name]
    except (OSError, subprocess.CalledProcessError):
        files = [file for part in PARTS for file in ([root / part] if "." in part else (root / part).rglob("*"))]
        files = [file for file in files if "__pycache__" not in file.parts]
    return sorted({file for file in files if file.is_file()})
