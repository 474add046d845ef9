"""The TPU compiler, where `make test` has put it: beside the environment's packages, not among them, since JAX takes
longer to start, and looks for TPUs, wherever it can import it."""

import os
import sys
from collections.abc import Iterator

import pytest

from codellama_jax.config.gin_files import ROOT

FOLDER = ROOT / ".venv" / "tpu_compiler"


@pytest.fixture(autouse=True, scope="module")
def tpu_compiler() -> Iterator[None]:
    """Lets these tests, and the processes that they start, import libtpu; others that come after them must not."""
    with pytest.MonkeyPatch.context() as patch:
        if FOLDER.is_dir():
            patch.setattr(sys, "path", [*sys.path, str(FOLDER)])
            path = [os.environ.get("PYTHONPATH"), str(FOLDER)]
            patch.setenv("PYTHONPATH", os.pathsep.join(folder for folder in path if folder))
        yield
