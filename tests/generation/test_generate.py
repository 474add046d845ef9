"""The command: python -m codellama_jax.generate."""

import io
import json
import os
import sys
from pathlib import Path

import pytest
from generation_models import write_checkpoint
from sentencepiece import sentencepiece_model_pb2

from codellama_jax import generate
from codellama_jax.runtime import cache, console
from codellama_jax.training import assets


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, small_tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "import"
    write_checkpoint(folder, small_tokenizer.rows, 256, {assets.MODEL: small_tokenizer.model})
    return folder


@pytest.fixture
def run(capsys, checkpoint, monkeypatch):
    def command(*arguments: object, code: int = 0, folder: Path = checkpoint) -> str:
        found = generate.main([*map(str, arguments), f"--checkpoint={folder}"])
        output = capsys.readouterr()
        assert found == code, output
        if code:
            assert output.err.startswith("error: ") and "Traceback" not in output.err
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
        (["complete", f"--prompt={'x = 1 ' * 300}"], "must fit 256: shorten it, or use a larger context", 1),
        (["complete", "--prompt=\udcff"], "error: --prompt is not UTF-8 text", 2),
        (["complete", "--prompt=x", "--context=1"], "error: --context=1 must be at least 2", 2),
        (["complete", "--prompt=x", "--tokenizer=/nowhere"], "No such file or directory: /nowhere", 1),
        (["complete", "--file=/"], "Is a directory: /", 1),
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


def test_a_folder_of_a_run_names_the_checkpoints_near_it(run, checkpoint, tmp_path):
    stage = tmp_path / "local" / "code"
    (stage / "checkpoints").mkdir(parents=True)
    arguments = ("complete", "--prompt=x")
    assert "has not saved a checkpoint yet: train it first" in run(*arguments, code=1, folder=stage)
    (stage / "checkpoints" / "3").symlink_to(checkpoint)
    for folder in (stage / "checkpoints", tmp_path / "local"):
        assert f"is not a checkpoint; there are checkpoints in {stage}\n" in run(*arguments, code=1, folder=folder)


def test_a_diff_can_be_applied_whatever_ends_the_lines(run, tmp_path):
    file = tmp_path / "a.py"
    file.write_bytes("a\f# \u2028b\n<FILL_ME>".encode())
    lines = run("infill", f"--file={file}", "--diff", "--max_tokens=3").split("\n")
    assert lines[3] == " a\f# \u2028b"
    assert lines[4:6] == ["-<FILL_ME>", "\\ No newline at end of file"]


def test_a_tokenizer_of_another_model_is_refused(run, tmp_path, small_tokenizer):
    proto = sentencepiece_model_pb2.ModelProto.FromString(small_tokenizer.model)
    proto.pieces[-1].piece = "\u20ac"
    (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
    arguments = ("complete", "--prompt=x", f"--tokenizer={tmp_path}/tokenizer.model")
    assert "tokenizer.model has other pieces than" in run(*arguments, code=1)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_is_utf8_and_a_full_disk_is_reported(capsys, checkpoint, monkeypatch, tmp_path):
    arguments = ["infill", f"--file={tmp_path}/a.py", "--max_tokens=2", f"--checkpoint={checkpoint}"]
    (tmp_path / "a.py").write_text("\u20ac <FILL_ME>", encoding="utf-8")
    with open(tmp_path / "out", "w", encoding="latin-1") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert generate.main(arguments) == 0
    assert (tmp_path / "out").read_text(encoding="utf-8").startswith("\u20ac ")
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    full = open("/dev/full", "w")  # noqa: SIM115  # closing it raises
    monkeypatch.setattr(sys, "stdout", full)
    assert generate.main(arguments) == 1
    assert capsys.readouterr().err == "error: standard output cannot be written: No space left on device\n"
    with pytest.raises(OSError, match="No space left"):
        full.close()


def test_a_file_that_cannot_be_written_is_refused_before_the_model_is_opened(run, tmp_path):
    (tmp_path / "a.py").write_text("x = <FILL_ME>\n")
    arguments = ("infill", f"--file={tmp_path}/a.py", f"--out={tmp_path}/no/b.py")
    assert "b.py cannot be written: No such file or directory" in run(*arguments, code=2, folder=tmp_path / "none")
    run("infill", f"--file={tmp_path}/a.py", f"--out={tmp_path}/b.py", code=1, folder=tmp_path / "none")
    assert not (tmp_path / "b.py").exists()  # it was created, and then the model was not found


def test_a_checkpoint_without_tokenizer_or_infilling_ids_says_what_to_use(run, tmp_path, small_tokenizer):
    (tmp_path / "a.py").write_text("<FILL_ME>")
    (tmp_path / "tokenizer.model").write_bytes(small_tokenizer.model)
    write_checkpoint(tmp_path / "model", small_tokenizer.pieces, 64, {})
    arguments = ("infill", f"--file={tmp_path}/a.py")
    assert "has no tokenizer.model and no tokenizer.json: --tokenizer=PATH names one" in run(
        *arguments, code=1, folder=tmp_path / "model"
    )
    arguments = (*arguments, f"--tokenizer={tmp_path}/tokenizer.model")
    assert "no infilling ids (34B and Python" in run(*arguments, code=1, folder=tmp_path / "model")


def test_unusual_prompts_have_an_answer(run, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\0b\0")
    for prompt in ("--prompt=", "--prompt=   ", f"--file={tmp_path}/a.txt"):
        assert len(json.loads(run("complete", prompt, "--max_tokens=3", "--json"))["tokens"]) <= 3


def test_an_answer_that_fills_the_context_and_a_long_context_are_reported(capsys, checkpoint):
    arguments = ["complete", "--prompt=x = 1", "--json", f"--checkpoint={checkpoint}"]
    assert generate.main([*arguments, "--context=20"]) == 0
    output = capsys.readouterr()
    tokens = len(json.loads(output.out)["tokens"])
    assert f"the text ends after {tokens} tokens: with the prompt, they fill the context of 20" in output.err
    assert generate.main([*arguments, f"--context={10**17}"]) == 1
    warning, error = capsys.readouterr().err.splitlines()
    assert f"--context={10**17} is longer than the 256 positions of the model's training" in warning
    assert error.startswith("error: out of memory: choose a smaller --context")


def test_a_closed_pipe_ends_the_command_quietly(checkpoint, monkeypatch):
    moved = []
    monkeypatch.setattr(os, "dup2", lambda *descriptors: moved.append(descriptors[1]))

    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    assert generate.main(["complete", "--prompt=x", "--max_tokens=2", f"--checkpoint={checkpoint}"]) == 0
    assert moved == [1]


def test_a_cache_for_programs_that_cannot_be_written_is_reported_once(capsys, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    console.configure_logging()
    cache.keep_programs()
    assert capsys.readouterr().err.count("compiled programs are not kept") == 1
