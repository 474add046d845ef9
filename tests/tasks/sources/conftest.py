"""Fixtures for the tests of sources."""

import sysconfig
from pathlib import Path

import pytest

from codellama_jax.config import locations
from tasks.sources.embedded import corpus, distributions
from tasks.sources.records import record_source


@pytest.fixture(autouse=True)
def ram_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepts ram://, TensorFlow's file system in memory, which stands for a bucket in these tests."""
    monkeypatch.setattr(locations, "SCHEMES", (locations.GCS_SCHEME, "ram://"))


@pytest.fixture
def other_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replaces this interpreter's library and packages by an empty folder, and disables the caches."""
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
    monkeypatch.setattr("site.getsitepackages", lambda: [str(tmp_path / "purelib")])
    monkeypatch.setattr(corpus, "_library", corpus._library.__wrapped__)
    monkeypatch.setattr(distributions, "distribution_files", distributions.distribution_files.__wrapped__)
    return tmp_path


@pytest.fixture(scope="session")
def corpora(tmp_path_factory) -> dict[str, str]:
    """Format -> path of the same records."""
    from written_records import FORMATS, codes, written  # imports TensorFlow, which most tests here do not need

    return {form: written(form, tmp_path_factory.mktemp("corpus") / form, codes()) for form in FORMATS}


@pytest.fixture(params=["small", "large"])
def size(request, monkeypatch) -> None:
    """Corpora that are read completely when they are opened, and larger ones that are not."""
    if request.param == "large":
        monkeypatch.setattr(record_source, "SMALL", -1)
