"""A build into an object store, through Beam's file systems. Like gs://, it has neither folders nor renaming."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from planted import contents

pytest.importorskip("apache_beam", reason="the extra `build` is not installed")

from apache_beam.io.filesystem import FileMetadata, FileSystem

from tasks import build
from tasks.build import main
from tasks.curation import storage

OBJECTS: dict[str, bytes] = {}


class _Object(io.BytesIO):
    """Appears in the store when it is closed."""

    def __init__(self, name: str):
        super().__init__()
        self._name = name

    def close(self) -> None:
        if not self.closed:
            OBJECTS[self._name] = self.getvalue()
        super().close()


class MemoryStore(FileSystem):
    """objects://NAME, in the memory of this process."""

    @classmethod
    def scheme(cls) -> str:
        return "objects"

    def has_dirs(self) -> bool:
        return False

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def mkdirs(self, path: str) -> None:
        pass

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        for name in sorted(OBJECTS):
            if name.startswith(dir_or_prefix):
                yield FileMetadata(name, len(OBJECTS[name]))

    def create(self, path: str, *_: Any, **__: Any) -> io.BytesIO:
        return _Object(path)

    def open(self, path: str, *_: Any, **__: Any) -> io.BytesIO:
        if path not in OBJECTS:
            raise FileNotFoundError(2, "no such object", path)
        return io.BytesIO(OBJECTS[path])

    def exists(self, path: str) -> bool:
        return path in OBJECTS

    def delete(self, paths: list[str]) -> None:
        for path in paths:
            for name in [n for n in OBJECTS if n == path or (path.endswith("/") and n.startswith(path))]:
                del OBJECTS[name]

    def copy(self, *_: Any) -> None:
        raise AssertionError("a build must not do this in a store")

    rename = size = last_updated = checksum = metadata = copy


@pytest.fixture(autouse=True)
def objects_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepts objects:// as a scheme of --out."""
    monkeypatch.setattr(build, "BUILD_SCHEMES", (*build.BUILD_SCHEMES, "objects://"))


def test_a_build_into_a_store_gives_the_same_bytes(built: Path, inputs: list[str]) -> None:
    out = "objects://bucket/sets/one"
    assert main([*inputs, f"--out={out}", "--workers=1"]) == 0
    objects = {name.removeprefix(f"{out}/"): data for name, data in OBJECTS.items()}
    assert {name: data for name, data in objects.items() if not name.startswith(".steps/")} == contents(built)
    assert [name for name in objects if name.startswith(".steps/")] == [".steps/build.json"]


def test_an_interrupted_write_leaves_no_object() -> None:
    path = "objects://bucket/half"
    with pytest.raises(ValueError, match="half way"), storage.open_output(path) as file:
        file.write(b"half")
        raise ValueError("half way")
    assert not storage.exists(path)


def test_a_store_folder_with_another_build_is_rejected(
    built: Path, inputs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = "objects://bucket/sets/two"
    record = json.loads((built / ".steps/build.json").read_text())
    storage.write(f"{out}/.steps/build.json", json.dumps(record | {"digest": "another"}).encode())
    storage.write(f"{out}/manifest.json", b"{}")
    assert main([*inputs, f"--out={out}", "--workers=1"]) == 1
    assert "contains another build" in capsys.readouterr().err
    storage.remove_tree(f"{out}/.steps")
    assert not storage.list_folder(f"{out}/.steps") and storage.read(f"{out}/.steps/build.json") is None
