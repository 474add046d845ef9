"""Fixtures that more than one file of tests uses."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the project's test data; tests that want it are skipped where it is absent."""
    folder = Path(os.environ.get("CODELLAMA_JAX_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder} (CODELLAMA_JAX_TEST_DATA names the folder)")
    return folder
