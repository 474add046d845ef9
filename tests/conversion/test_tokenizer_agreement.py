"""Files of an imported tokenizer that are damaged, or contradict each other or config.json."""

import dataclasses
import json

import pytest
from random_models import SIZES, Random

from codellama_jax.conversion import hf, tokenizer_files
from codellama_jax.tokenizer import SentencePieceTokenizer
from codellama_jax.training import assets


@pytest.fixture
def imported(tmp_path, small_tokenizer, run):
    """A function that imports a model with 514 rows and the given files, and returns the command's output."""

    def run_import(code=0, eos=2, **files):
        theirs = tmp_path / "theirs"
        theirs.mkdir()
        hf.write(Random(dataclasses.replace(SIZES["7b"], vocab_size=514)), theirs)
        config = json.loads((theirs / "config.json").read_text()) | {"eos_token_id": eos}
        (theirs / "config.json").write_text(json.dumps(config))
        content = {name.replace("__", "."): value for name, value in files.items()}
        encoded = {k: v if isinstance(v, bytes) else json.dumps(v).encode() for k, v in content.items()}
        assets.write({"tokenizer.model": small_tokenizer.model} | encoded, theirs)
        return run("import", "--from", theirs, "--to", tmp_path / "ours", code=code)

    return run_import


def decoder(**names):
    return {"added_tokens_decoder": {str(id): {"content": text} for text, id in names.items()}}


@pytest.mark.parametrize("name, content, words", [
    ("added_tokens.json", b"{", "added_tokens.json is damaged"),
    ("added_tokens.json", {"<a>": None}, "the tokenizer files of the checkpoint are damaged"),
    ("added_tokens.json", {"<a>": "first"}, "the tokenizer files of the checkpoint are damaged"),
    ("generation_config.json", b"[]", "generation_config.json is damaged (it is not a JSON object)"),
    ("generation_config.json", {"eos_token_id": "2"}, 'eos_token_id is "2", not the id of a token'),
    ("tokenizer_config.json", b'{"eos_token": "</s>", "eos_token": "<s>"}', 'the key "eos_token" occurs twice'),
    ("tokenizer_config.json", {"added_tokens_decoder": ["<a>"]}, "the tokenizer files of the checkpoint are damaged"),
    ("tokenizer_config.json", {"added_tokens_decoder": {"512": "<a>"}}, "tokenizer files of the checkpoint are d"),
    ("tokenizer.json", {"model": None}, "the tokenizer files of the checkpoint are damaged"),
    ("tokenizer.model", b"IQ== 0", "tokenizer.model of the checkpoint is not a SentencePiece model"),
])  # fmt: skip
def test_a_damaged_file_is_named(imported, name, content, words):
    assert words in imported(1, **{name.replace(".", "__"): content})


@pytest.mark.parametrize("files, words", [
    ({"added_tokens__json": {"<a>": 512}, "tokenizer_config__json": decoder(**{"<z>": 512})},
     "added_tokens.json names id 512 '<a>', but tokenizer_config.json (added_tokens_decoder) names it '<z>'"),
    ({"tokenizer__json": {"model": {"vocab": {"other": 300}}}}, "tokenizer.model names id 300 "),
    ({"tokenizer__json": {"added_tokens": [{"id": 2, "content": "<|im_end|>"}]}},
     "tokenizer.model names id 2 '</s>', but tokenizer.json (added_tokens) names it '<|im_end|>'"),
])  # fmt: skip
def test_two_names_of_one_id_are_refused(imported, files, words):
    assert words in imported(1, **files)


def test_files_that_agree_are_accepted(imported, small_tokenizer):
    """The infilling ids may have other names in tokenizer.model, as in some files of 70B."""
    files = tokenizer_files.generated(SentencePieceTokenizer(small_tokenizer.model, infilling=False))
    output = imported(**{name.replace(".", "__"): content for name, content in files.items()})
    assert "readers take" not in output and "different" not in output


@pytest.mark.parametrize("eos, files, words", [
    (2, {"generation_config__json": {"eos_token_id": [2, 7]}}, "is 2 in config.json, but [2, 7] in generation_config."),
    (2, {"tokenizer_config__json": {"eos_token": "<a>"} | decoder(**{"<a>": 512})}, "but 512 in tokenizer_config.json"),
    (2, {"special_tokens_map__json": {"eos_token": {"content": "<s>"}}}, "but 1 in special_tokens_map.json"),
    (2, {"tokenizer_config__json": {"chat_template": "1"}, "chat_template__jinja": b"2"}, "different chat templates"),
    ([2], {"generation_config__json": {"eos_token_id": 2}}, None),
    (2, {"generation_config__json": {}, "tokenizer_config__json": {"eos_token": "</s>"}}, None),
    (None, {"generation_config__json": {"eos_token_id": 7}}, None),
    (2, {"tokenizer_config__json": {"chat_template": "1"}, "chat_template__jinja": b"1"}, None),
])  # fmt: skip
def test_other_ends_of_a_text_are_reported(imported, eos, files, words):
    output = imported(eos=eos, LICENSE=b"free", **files)
    assert words in output if words else ("eos_token_id" not in output and "different" not in output)
    assert "not carried: LICENSE" in output
