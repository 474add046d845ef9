"""Files and folders: the same operations locally and in a bucket, and files that are complete or absent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codellama_jax.errors import EXIT_INTERRUPTED, EXIT_USAGE, UserError
from codellama_jax.runtime import filesystem

CONTENTS = {"a.txt": b"a", "b/c.txt": b"content", "b/d/e.txt": b"", "b/d/f.bin": bytes(range(256))}


@pytest.fixture(params=["local", "remote"])
def root(request, tmp_path):
    """A folder with CONTENTS."""
    if request.param == "local":
        folder = tmp_path / "root"
    else:
        request.getfixturevalue("store")
        folder = filesystem.to_path(f"gs://bucket/{request.getfixturevalue('bucket_folder')}")
    for name, content in CONTENTS.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    filesystem.copy_tree(tmp_path / "source", folder)
    return folder


# ---------------------------------------------------------------- locations


def test_a_path_is_local_or_in_a_bucket(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert filesystem.to_path("~/runs") == tmp_path / "runs"
    remote = filesystem.to_path("gs://bucket/runs/")
    assert os.fspath(remote / "one") == "gs://bucket/runs/one"
    assert filesystem.split_url(remote) == ("bucket", "runs")
    assert filesystem.is_remote(remote) and not filesystem.is_remote(tmp_path)
    assert filesystem.absolute(remote) == remote
    assert filesystem.absolute(Path("runs")) == Path.cwd() / "runs"
    with pytest.raises(UserError, match="s3://bucket/runs: the path must be local or start with gs://") as error:
        filesystem.to_path("s3://bucket/runs")
    assert error.value.exit_code == EXIT_USAGE


def test_local_files_need_no_tensorflow(tmp_path):
    program = (
        "import sys\nfrom codellama_jax.runtime import filesystem\nroot = sys.argv[1]\n"
        "filesystem.write_atomically(root + '/a', 'text')\n"
        "assert filesystem.read_text(root + '/a') == 'text' and filesystem.list_folder(root) == ['a']\n"
        "assert list(filesystem.walk(root)) == [(root, [], ['a'])]\n"
        "assert not {'tensorflow', 'etils', 'google.cloud', 'apache_beam', 'jax'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True)


# ---------------------------------------------------------------- reading


def test_reads_files(root):
    path = f"{root}/b/c.txt"
    with filesystem.open_input(path) as file:
        file.seek(3)
        assert file.read() == b"tent"
    assert filesystem.read_bytes(path) == b"content"
    assert filesystem.read_text(path) == "content"
    assert filesystem.size(path) == 7


def test_a_missing_file_raises_oserror(root):
    for function in (filesystem.read_bytes, filesystem.size):
        with pytest.raises(OSError):
            function(f"{root}/missing")


def test_distinguishes_files_and_folders(root):
    for location, exists, is_folder in [("a.txt", True, False), ("b", True, True), ("missing", False, False)]:
        assert filesystem.exists(f"{root}/{location}") is exists
        assert filesystem.is_folder(f"{root}/{location}") is is_folder
    assert filesystem.is_folder(f"{root}/b/")


def test_lists_a_folder(root):
    assert filesystem.list_folder(root) == ["a.txt", "b"]
    assert filesystem.list_folder(f"{root}/b") == ["c.txt", "d"]
    assert filesystem.list_folder(f"{root}/missing") == []


def test_finds_files_by_pattern(root):
    assert filesystem.glob(f"{root}/b/*.txt") == [f"{root}/b/c.txt"]
    assert filesystem.glob(f"{root}/*/d/?.*") == [f"{root}/b/d/e.txt", f"{root}/b/d/f.bin"]
    assert filesystem.glob(f"{root}/none*") == []


def test_walks_folders_top_down(root):
    folders = [(folder, sorted(names), sorted(files)) for folder, names, files in filesystem.walk(str(root))]
    assert folders == [
        (f"{root}", ["b"], ["a.txt"]),
        (f"{root}/b", ["d"], ["c.txt"]),
        (f"{root}/b/d", [], ["e.txt", "f.bin"]),
    ]


def test_walk_does_not_enter_removed_subfolders(root):
    visited = []
    for folder, subfolders, _ in filesystem.walk(str(root)):
        visited.append(folder)
        subfolders[:] = [name for name in subfolders if name != "d"]
    assert visited == [f"{root}", f"{root}/b"]


def test_walk_enters_each_folder_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert [folder for folder, _, _ in filesystem.walk(str(tmp_path))] == [f"{tmp_path}", f"{tmp_path}/a"]


# ---------------------------------------------------------------- writing


def test_writes_files(root):
    filesystem.write_atomically(root / "new.txt", "text \ud800")
    assert filesystem.read_bytes(root / "new.txt") == b"text ?"
    filesystem.write_atomically(root / "new.txt", b"other", durable=True)
    assert filesystem.read_bytes(root / "new.txt") == b"other"


def test_a_file_appears_complete_or_not_at_all(root):
    for name, before in [("new.txt", None), ("a.txt", b"a")]:
        with pytest.raises(ValueError, match="failed"), filesystem.open_output(root / name) as file:
            file.write(b"half")
            raise ValueError("failed")
        assert (filesystem.read_bytes(root / name) if before else None) == before
        with filesystem.open_output(root / name) as file:
            file.write(b"half")
            assert filesystem.exists(root / name) is (before is not None)
        assert filesystem.read_bytes(root / name) == b"half"
    assert filesystem.list_folder(root) == ["a.txt", "b", "new.txt"]


def test_a_write_error_names_the_file(tmp_path):
    for error in (OSError(28, "No space left on device"), FileNotFoundError(2, "missing", "another")):
        with pytest.raises(OSError) as raised, filesystem.open_output(tmp_path / "file"):
            raise error
        assert raised.value.filename == (error.filename or str(tmp_path / "file"))
    with pytest.raises(FileNotFoundError) as missing, filesystem.open_output(tmp_path / "none" / "file"):
        pass
    assert missing.value.filename == str(tmp_path / "none" / "file")


def test_removes_folders(root):
    filesystem.remove_tree(root / "b")
    assert filesystem.list_folder(root) == ["a.txt"]
    filesystem.remove_tree(root / "b")


def test_a_folder_appears_complete_or_not_at_all(tmp_path):
    path = tmp_path / "parent" / "folder"
    with pytest.raises(ValueError, match="failed"), filesystem.new_folder(path, 0) as folder:
        (folder / "file").touch()
        raise ValueError("failed")
    assert list(path.parent.iterdir()) == []
    with filesystem.new_folder(path, 0) as folder:
        (folder / "file").touch()
        assert not path.exists()
    assert [entry.name for entry in path.parent.iterdir()] == ["folder"] and (path / "file").exists()
    with pytest.raises(UserError, match="exists: move it away"), filesystem.new_folder(path, 0):
        pass
    with pytest.raises(UserError, match="GB are needed"), filesystem.new_folder(tmp_path / "large", 1 << 60):
        pass


def test_files_staged_locally_are_copied_to_the_folder(root):
    with filesystem.staged_locally(root / "staged") as folder:
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "file").write_bytes(b"x")
    assert filesystem.read_bytes(root / "staged" / "sub" / "file") == b"x"


# ---------------------------------------------------------------- failures of a store


def test_a_failing_store_asks_for_a_restart(store, bucket_folder):
    path = filesystem.to_path(f"gs://bucket/{bucket_folder}/file")
    store.refuse(("POST|PUT", "file", 403))
    for write in (lambda: filesystem.write_atomically(path, b"x"), lambda: path.write_bytes(b"x")):
        with (
            pytest.raises(UserError, match=r"gs://bucket/runs: the bucket failed .* the same command resumes") as error,
            filesystem.store_failures_as_user_errors(filesystem.to_path("gs://bucket/runs")),
        ):
            write()
        assert error.value.exit_code == EXIT_INTERRUPTED


def test_other_errors_are_not_converted(tmp_path):
    with pytest.raises(FileNotFoundError), filesystem.store_failures_as_user_errors(tmp_path):
        filesystem.read_bytes(tmp_path / "missing")
