"""Makes the TPU compiler importable in these tests.

`make test` installs it outside the environment, because JAX starts more slowly and searches for TPUs if it can import
libtpu.
"""

import os
import sys
from collections.abc import Iterator

import pytest

from codellama_jax.config.gin_files import ROOT

FOLDER = ROOT / ".venv" / "tpu_compiler"


@pytest.fixture(autouse=True, scope="module")
def tpu_compiler() -> Iterator[None]:
    """Adds libtpu to the path of these tests and of their child processes, and removes it afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        if FOLDER.is_dir():
            patch.setattr(sys, "path", [*sys.path, str(FOLDER)])
            path = [os.environ.get("PYTHONPATH"), str(FOLDER)]
            patch.setenv("PYTHONPATH", os.pathsep.join(folder for folder in path if folder))
        yield
