"""The command: python -m codellama_jax.generate."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from generation_models import SHAPES

from codellama_jax import generate
from codellama_jax.conversion import native
from codellama_jax.conversion.canonical import Model, Tensor, dtype_of, shape, tensors
from codellama_jax.training import assets
from codellama_jax.training.lineage import Lineage


class RandomSource:
    """A Source of random values."""

    def __init__(self, llama):
        self.model = Model(llama, 256, {str(tensor): "float32" for tensor in tensors(llama)})
        rng = np.random.default_rng(0)
        self._arrays = {
            tensor: rng.normal(size=shape(llama, tensor.name)).astype(dtype_of(self.model, tensor)) * llama.dim**-0.5
            for tensor in tensors(llama)
        }

    def rows(self, tensor: Tensor, start: int, stop: int):
        return self._arrays[tensor][start:stop]

    def close(self):
        pass


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, small_tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "import"
    llama = dataclasses.replace(SHAPES["7b"], vocab_size=small_tokenizer.rows)
    files = {assets.MODEL: small_tokenizer.model}
    native.write(RandomSource(llama), folder, "random", files, Lineage.of({"sequence_length": 256}))
    return folder


@pytest.fixture
def run(capsys, checkpoint, monkeypatch):
    def command(*arguments: object, code: int = 0, folder: Path = checkpoint) -> str:
        try:
            found = generate.main([*map(str, arguments), f"--checkpoint={folder}"])
        except SystemExit as error:
            found = error.code
        output = capsys.readouterr()
        assert found == code, output
        if code:
            assert output.err.startswith(("error: ", "usage: ")) and "Traceback" not in output.err
        return output.err if code else output.out

    return command


def test_completion_is_repeatable_and_streams_the_text_of_json(run):
    arguments = ("complete", "--prompt=def f(", "--max_tokens=20", "--temperature=0.8", "--seed=3")
    answer = json.loads(run(*arguments, "--json"))
    assert len(answer["tokens"]) == 20 and answer["finish_reason"] == "length"
    assert run(*arguments) == answer["text"] + "\n"
    assert json.loads(run(*arguments[:-1], "--seed=4", "--json"))["tokens"] != answer["tokens"]


def test_a_stop_string_ends_the_text_before_it(run):
    arguments = ("complete", "--prompt=def f(", "--max_tokens=40", "--json")
    text = json.loads(run(*arguments))["text"]
    stop = text[len(text) // 2 :][:3]
    answer = json.loads(run(*arguments, f"--stop={stop}"))
    assert answer["text"] == text[: text.index(stop)] and answer["finish_reason"] == "stop"


@pytest.mark.parametrize("order", ["spm", "psm"])
def test_every_mark_of_a_file_is_filled_and_the_file_is_not_changed(run, tmp_path, order):
    file, text = tmp_path / "a.py", "def f():\r\n    <FILL_ME>\r\n\r\nx = <FILL_ME>\r\n"
    file.write_bytes(text.encode())
    arguments = ("infill", f"--file={file}", "--max_tokens=12", f"--order={order}")
    answer = json.loads(run(*arguments, "--json"))
    first, second = (hole["text"] for hole in answer["holes"])
    assert answer["text"] == f"def f():\r\n    {first}\r\n\r\nx = {second}\r\n"
    assert "\n" not in (first + second).replace("\r\n", "")
    assert file.read_bytes() == text.encode()
    diff = run(*arguments, "--diff")
    assert f"--- {file}" in diff and "-    <FILL_ME>" in diff
    run(*arguments, f"--out={tmp_path}/b.py")
    assert (tmp_path / "b.py").read_bytes() == answer["text"].encode()
    assert "exists: name a new file" in run(*arguments, f"--out={tmp_path}/b.py", code=2)


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["complete"], "one of the arguments --prompt --file is required", 2),
        (["complete", "--prompt=x", "--temperature=-1"], "error: --temperature=-1.0 must be between 0 and 1000", 2),
        (["complete", "--prompt=x", "--gin.Stage.steps=1"], "takes no gin files", 2),
        (["complete", "--file=/nowhere"], "No such file or directory: /nowhere", 1),
        (["infill", f"--file={__file__}.no"], "No such file", 1),
        (["complete", f"--prompt={'x = 1 ' * 300}"], "prompt and answer must fit 256: shorten it", 1),
    ],
)
def test_wrong_arguments_give_one_line(run, arguments, message, code):
    assert message in run(*arguments, code=code)


def test_a_file_without_a_mark_and_a_folder_without_a_model_are_refused(run, tmp_path):
    (tmp_path / "a.py").write_text("x\n")
    assert "has no mark <FILL_ME>" in run("infill", f"--file={tmp_path}/a.py", code=2)
    assert "not a checkpoint of a known format" in run("complete", "--prompt=x", code=1, folder=tmp_path)
    (tmp_path / "b.py").write_bytes(b"\xff<FILL_ME>")
    assert "is not UTF-8 text" in run("infill", f"--file={tmp_path}/b.py", code=1)
