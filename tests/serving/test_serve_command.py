"""The command `serve`: wrong flags and files give one line and exit code 2, before a model is opened."""

import socket

import pytest

from codellama_jax import serve
from codellama_jax.errors import EXIT_FAILED, EXIT_USAGE


def run(capsys, *flags: str) -> tuple[int, str]:
    code = serve.main(["--checkpoint=/nowhere", "--port=0", *flags])
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return code, error


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--host=0.0.0.0"], "--without_keys"),
        (["--host=203.0.113.7", "--without_keys"], "cannot listen on --host=203.0.113.7"),
        (["--port=70000"], "--port=70000 must be"),
        (["--timeout=nan"], "--timeout=nan must be"),
        (["--queue=0"], "--queue=0 must be at least 1"),
        (["--slots=0"], "--slots=0 must be at least 1"),
        (["--cache_tokens=-1"], "--cache_tokens=-1 must be"),
        (["--allowed_host=http://models.example"], "--allowed_host=http://models.example must be a name"),
        (["--allowed_origin=localhost:8888"], "http://localhost:8888"),
        (["--gin.X=1"], "no gin files"),
    ],
)
def test_wrong_flags(capsys, flags, words):
    code, error = run(capsys, *flags)
    assert code == EXIT_USAGE and words in error


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"\n # laptop\n", "has no keys"),
        (b"short\n", "fewer than 8"),
        (b"\xff\xfe", "is not text"),
    ],
)
def test_wrong_key_files(capsys, tmp_path, content, words):
    if content is not None:
        (tmp_path / "keys").write_bytes(content)
    code, error = run(capsys, f"--api_key_file={tmp_path / 'keys'}")
    assert code == EXIT_USAGE and words in error and "short" not in error


def test_a_port_in_use(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        code, error = run(capsys, f"--port={other.getsockname()[1]}")
    assert code == EXIT_USAGE and "in use" in error and "--port" in error


def test_a_checkpoint_that_is_not_there(capsys, monkeypatch):
    monkeypatch.setenv(serve.API_KEYS, "one-long-key, another-long-key")
    code, error = run(capsys, "--host=0.0.0.0")
    assert code == EXIT_FAILED and "/nowhere: there is no such file or folder" in error
