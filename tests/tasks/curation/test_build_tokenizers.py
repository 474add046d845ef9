"""A build counts the tokens of a tokenizer.json as those of a SentencePiece model."""

import json
from pathlib import Path

import pytest
import tokenizer_families as families

from codellama_jax.tokenizer import open_tokenizer

pytest.importorskip("apache_beam", reason="the extra `build` is not installed")
pytest.importorskip("tokenizers")


def test_tokens_are_those_of_the_tokenizer(tmp_path: Path):
    from tasks.build import main

    folder, sources = tmp_path / "model", tmp_path / "sources"
    folder.mkdir()
    sources.mkdir()
    for name, content in families.files("qwen").items():
        (folder / name).write_bytes(content)
    texts = [f"def f{number}(x):\n    return x + {number}  # <|fim_prefix|> naïve\n" * 3 for number in range(12)]
    for number, text in enumerate(texts):
        (sources / f"{number}.py").write_text(text)
    out = tmp_path / "set"
    assert main([f"--source={sources}", f"--tokenizer={folder}", f"--out={out}", "--workers=1"]) == 0
    tokenizer = open_tokenizer(folder, infilling=False)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["parameters"]["tokenizer"] == tokenizer.fingerprint
    assert sum(shard["tokens"] for shard in manifest["shards"]) == sum(len(tokenizer.encode(text)) for text in texts)
