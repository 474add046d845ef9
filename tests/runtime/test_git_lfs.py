"""Pointers of Git LFS in the place of tokenizers and checkpoints."""

import re
from pathlib import Path

import pytest

from codellama_jax.conversion.tensor_file import InputFile
from codellama_jax.errors import UserError
from codellama_jax.runtime import git_lfs
from codellama_jax.tokenizer import SentencePieceTokenizer

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"


def test_only_small_files_that_begin_like_a_pointer_are_pointers(tmp_path: Path):
    assert git_lfs.is_pointer(POINTER.encode())
    for other in (b"", b"version 2\n", POINTER.encode() + bytes(1000), b" " + POINTER.encode()):
        assert not git_lfs.is_pointer(other)
        (tmp_path / "other").write_bytes(other)
        git_lfs.check(tmp_path / "other")
    git_lfs.check(tmp_path / "none")
    git_lfs.check(tmp_path)


@pytest.mark.parametrize(
    "name, read",
    [
        ("tokenizer.model", lambda path: SentencePieceTokenizer.from_file(path, infilling=True)),
        ("model.safetensors", InputFile),
        ("consolidated.00.pth", InputFile),
        ("pytorch_model.bin", InputFile),
    ],
)
def test_a_pointer_is_named_with_the_remedy(tmp_path: Path, name: str, read):
    (tmp_path / name).write_text(POINTER)
    expected = f"{tmp_path / name} is a Git LFS pointer, not the file itself: run `git lfs pull` in its clone"
    with pytest.raises(UserError, match=re.escape(expected)):
        read(tmp_path / name)
