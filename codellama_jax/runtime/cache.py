"""A cache of reproducible files: below $XDG_CACHE_HOME, or ~/.cache."""

import logging
import os
import tempfile
import warnings
from pathlib import Path

from codellama_jax.runtime import filesystem

logger = logging.getLogger(__name__)


def directory(kind: str) -> Path | None:
    """The folder for one kind of file, which may not exist yet; None if there is no home directory."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the XDG specification: a relative path counts as unset
        try:
            base = os.path.join(Path.home(), ".cache")
        except RuntimeError:
            return None
    return Path(base, "codellama_jax", kind)


def store(path: Path, data: bytes) -> bool:
    """Writes a file atomically; several processes may do so at once. False if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        filesystem.write_atomically(path, data)
    except OSError:
        return False
    return True


def keep_programs() -> None:
    """Keeps the programs that JAX compiles, so that a second start is faster. Logs why they cannot be kept."""
    import jax

    folder = directory("programs")
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as error:
        logger.warning("compiled programs are not kept in %s (%s): every start compiles", folder, error.strerror)
        return
    # the disk may become full later; then a start is slow, which is no reason to write a warning for each program
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def keep_no_programs() -> None:
    """Compiles everything from now on, also where the user has set a cache for JAX."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX has decided already whether it uses one
