"""Fixtures for tests that run the launcher as a program."""

import shutil

import pytest

from tests.launch.fake_cloud import FakeCloud


@pytest.fixture
def isolated_cloud(tmp_path):
    """A fake cloud whose folder `bin` also has the other programs that the launcher needs, to be used as PATH."""
    cloud = FakeCloud(tmp_path / "cloud")
    for program in ("git", "bash", "sh"):
        (cloud.bin / program).symlink_to(shutil.which(program))
    yield cloud
    assert not cloud.running
