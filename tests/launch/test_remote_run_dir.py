"""The folder of all runs: which paths it takes."""

import os

import pytest

from codellama_jax.errors import EXIT_USAGE, UserError
from launch.remote_run_dir import RunDir


@pytest.mark.parametrize("path", ["s3://bucket/runs", "hdfs://host/runs", "GS://bucket/runs", "file:///runs"])
def test_schemes_other_than_gs_are_refused(path):
    with pytest.raises(UserError, match=f"--run_dir={path}: the folder must be local or start with gs://") as refused:
        RunDir(path)
    assert refused.value.exit_code == EXIT_USAGE


def test_local_paths_are_absolute_with_the_home_folder_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunDir("~/runs").path == str(tmp_path / "runs")
    assert RunDir("runs").path == os.path.abspath("runs") and not RunDir("runs").is_bucket
    assert RunDir("gs://bucket/runs/").path == "gs://bucket/runs" and RunDir("gs://bucket/runs").is_bucket
