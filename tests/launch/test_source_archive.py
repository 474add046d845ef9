"""The archive of the source for other machines."""

import os
import re
import subprocess
import sys
import textwrap

import pytest

from codellama_jax.errors import UserError
from launch import source_archive
from launch.source_archive import source
from tests.launch.jobs import experiment, job


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    root = tmp_path / "checkout"
    files = ("codellama_jax/a.py", "gin/b.gin", "tests/c.py", "requirements-tpu.txt", "my_package/tasks.py", "mine.py")
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    monkeypatch.setattr(source_archive, "ROOT", root)
    yield root
    source.cache_clear()


def files_of(archive):
    listing = subprocess.run(["tar", "-tz"], input=archive.data, capture_output=True, check=True)
    return listing.stdout.decode().split()


def git(root, *arguments):
    subprocess.run(["git", "-C", str(root), *arguments], check=True)


def test_digest_depends_only_on_the_content(checkout):
    without_git = source(root=checkout)
    git(checkout, "init", "-q")
    source.cache_clear()
    os.utime(checkout / "gin/b.gin", (0, 0))
    assert source(root=checkout) == without_git, "neither git nor times matter"
    assert files_of(without_git) == ["codellama_jax/a.py", "gin/b.gin", "requirements-tpu.txt"]
    (checkout / ".gitignore").write_text("*.log")
    (checkout / "codellama_jax/x.log").write_text("")
    source.cache_clear()
    assert source(root=checkout).digest == without_git.digest
    (checkout / "codellama_jax/a.py").write_text("changed")
    source.cache_clear()
    changed = source(root=checkout)
    assert changed.digest != without_git.digest and changed.lock == without_git.lock


def test_archive_contains_the_users_modules_and_gin_files(checkout):
    assert source_archive.path_of_module("my_package.tasks") == "my_package"
    assert source_archive.path_of_module("mine") == "mine.py"
    assert source_archive.path_of_gin_file(str(checkout / "my.gin")) == "my.gin"
    git(checkout, "init", "-q")
    (checkout / "my.gin").write_text("")
    extra = {"my.gin", "my_package/tasks.py"}
    assert extra < set(files_of(source(("my.gin", "my_package"), checkout))), "what the jobs name"
    assert not extra & set(files_of(source(root=checkout))), "and nothing else"
    (checkout / ".gitignore").write_text("mine.py")
    with pytest.raises(UserError, match=r"mine\.py is ignored by git"):
        source(("mine.py",), checkout)


def test_module_or_gin_file_outside_the_checkout_is_refused(checkout):
    for name in ("missing", "my_package.missing"):
        with pytest.raises(UserError, match=f"--import={name}: other machines get a copy of"):
            source_archive.path_of_module(name)
    with pytest.raises(UserError, match=r"--gin_file=/elsewhere/my\.gin: other machines get a copy of"):
        source_archive.path_of_gin_file("/elsewhere/my.gin")


def test_remote_executors_need_a_checkout(checkout):
    (checkout / "requirements-tpu.txt").unlink()
    with pytest.raises(UserError, match=r"this is an installed package .* clone the repository and run"):
        experiment(job()).source()


def test_host_needs_only_the_archive_to_load_a_configuration(tmp_path):
    archive = source()
    subprocess.run(["tar", "-xz", "-C", str(tmp_path)], input=archive.data, check=True)
    program = textwrap.dedent("""
        from codellama_jax.config import gin_files
        config = gin_files.load(["gin/lcft.gin", "gin/models/local.gin"], []).resolve()
        print(config.stage.name, gin_files.__file__)
    """)
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert re.fullmatch(rf"lcft {tmp_path}/codellama_jax/config/gin_files.py\n", run.stdout)
    assert len(archive.data) < 900_000, "a ConfigMap holds at most one mebibyte"
