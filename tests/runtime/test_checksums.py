"""Checksums: every kind of damage is detected and named."""

import json

import pytest

from codellama_jax.errors import UserError
from codellama_jax.runtime import checksums


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "a").write_bytes(bytes(range(256)) * 9000)  # more than one block
    (tmp_path / "d" / "b").write_bytes(b"b")
    (tmp_path / "empty").touch()
    checksums.write(tmp_path)
    return tmp_path


def test_an_unchanged_folder_passes_and_has_a_digest(folder):
    checksums.verify(folder)
    assert checksums.digest(folder) == checksums.write(folder)
    (folder / "new").touch()
    assert checksums.digest(folder) != checksums.write(folder)


def test_a_folder_without_checksums_passes(tmp_path):
    checksums.verify(tmp_path)
    assert checksums.digest(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a", b"short", "a has 5 bytes instead of 2,304,000"),
        ("d/b", b"c", "d/b has changed"),
        ("empty", b"x", "empty has 1 bytes instead of 0"),
        ("d/b", None, "d/b is missing"),
        ("checksums.json", b"{", "checksums.json has changed"),
        ("checksums.json", b"\xff", "checksums.json has changed"),
        ("checksums.json", b"[1]", "checksums.json has changed"),
    ],
)
def test_damaged_files_are_named(folder, name, content, words):
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        checksums.verify(folder)


def test_a_changed_checksum_is_detected(folder):
    found = json.loads((folder / checksums.NAME).read_text())
    found["files"]["d/b"] = [1, "0" * 64]
    (folder / checksums.NAME).write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"checksums\.json has changed"):
        checksums.verify(folder)


def test_the_parts_together_verify_every_file(folder):
    (folder / "d" / "b").write_bytes(b"c")
    found = 0
    for part in range(3):
        try:
            checksums.verify(folder, part, 3)
        except UserError:
            found += 1
    assert found == 1
