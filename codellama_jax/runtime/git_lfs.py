"""Git LFS pointers: the small text files that a clone holds in place of large files that have not been downloaded."""

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem

REMEDY = "run `git lfs pull` in its clone"

# The versions of the format: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_BEGINS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
_LARGEST = 1024  # bytes; a pointer is smaller


def is_pointer(data: bytes) -> bool:
    """Whether this is the content of a Git LFS pointer."""
    return len(data) < _LARGEST and data.startswith(_BEGINS)


def may_be_pointer(size: int) -> bool:
    """Whether a file of `size` bytes may be a pointer; others need not be read to know."""
    return 0 < size < _LARGEST


def check(location: filesystem.Location) -> None:
    """Raises UserError if a file is a Git LFS pointer. Other files, and files that cannot be read, are accepted."""
    try:
        if not may_be_pointer(filesystem.size(location)) or not is_pointer(filesystem.read_bytes(location)):
            return
    except OSError:
        return
    raise UserError(f"{location} is a Git LFS pointer, not the file itself: {REMEDY}")
