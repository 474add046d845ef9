"""Appending to a local file, and to one in a bucket, which is rewritten at intervals."""

import time

import pytest

from codellama_jax.runtime import append_file, filesystem
from codellama_jax.runtime.append_file import AppendFile
from codellama_jax.training.metrics.json_lines import JsonLines


@pytest.fixture
def path(store, bucket_folder):
    return filesystem.to_path(f"gs://bucket/{bucket_folder}/lines.txt")


def test_a_local_file_is_written_at_once(tmp_path):
    (tmp_path / "lines.txt").write_text("old\n")
    file = AppendFile(tmp_path / "lines.txt")
    file.write("1\n")
    assert (tmp_path / "lines.txt").read_text() == "old\n1\n"
    file.sync()
    file.close()
    AppendFile(tmp_path / "lines.txt", "new\n").close()
    assert (tmp_path / "lines.txt").read_text() == "new\n"


def test_a_remote_file_is_written_by_sync(store, path, bucket_folder):
    store.put(f"{bucket_folder}/lines.txt", b"old\n")
    file = AppendFile(path)
    file.write("1\n")
    file.write("2\n")
    assert store.text(f"{bucket_folder}/lines.txt") == "old\n"
    file.sync()
    assert store.text(f"{bucket_folder}/lines.txt") == "old\n1\n2\n"
    file.close()


def test_a_remote_file_is_rewritten_at_intervals(store, path, monkeypatch, bucket_folder):
    monkeypatch.setattr(append_file, "UPLOAD_SECONDS", 0.0)
    file = AppendFile(path, "")
    file.write("1\n")
    deadline = time.monotonic() + 10
    while store.text(f"{bucket_folder}/lines.txt") != "1\n" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert store.text(f"{bucket_folder}/lines.txt") == "1\n"
    file.close()


def test_metrics_in_a_bucket_resume_after_the_last_step(store, path, bucket_folder):
    log = JsonLines(path, -1)
    for step in range(1, 6):
        log.write({"step": step})
    assert store.text(f"{bucket_folder}/lines.txt") == ""
    log.sync()
    assert len(store.text(f"{bucket_folder}/lines.txt").splitlines()) == 5
    resumed = JsonLines(path, 4)
    assert [line["step"] for line in resumed.lines] == [1, 2, 3, 4] and resumed.dropped == [{"step": 5}]
    assert len(store.text(f"{bucket_folder}/lines.txt").splitlines()) == 4
