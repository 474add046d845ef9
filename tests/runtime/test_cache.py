"""The cache of reproducible files."""

from pathlib import Path

from codellama_jax.runtime import cache


def test_the_folder_follows_the_xdg_specification(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache.directory("plans") == tmp_path / "cache/codellama_jax/plans"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache.directory("plans") == tmp_path / "home/.cache/codellama_jax/plans"


def test_without_a_home_directory_there_is_no_cache(monkeypatch):
    def no_home():
        raise RuntimeError("no home directory")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert cache.directory("plans") is None


def test_a_stored_file_is_complete_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "codellama_jax" / "plans" / "one"
    assert cache.store(path, b"first") and cache.store(path, b"second")
    assert path.read_bytes() == b"second" and [entry.name for entry in path.parent.iterdir()] == ["one"]


def test_a_file_in_place_of_the_folder_is_not_an_error(tmp_path):
    (tmp_path / "codellama_jax").touch()
    assert not cache.store(tmp_path / "codellama_jax" / "one", b"")
