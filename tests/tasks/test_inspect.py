"""The inspection CLI: its lists, the contract of --json, and what it says to wrong usage."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codellama_jax.tokenizer import Tokenizer
from tasks.config import STREAMS
from tasks.inspect import main

ROOT = Path(__file__).parents[2]
LENGTH = 600  # tokens of a window: some files fit, some do not
STAGES = ("code", "lcft", "instruct", "python_code", "python", "python_lcft")
Fuzz = Callable[[np.random.Generator, int], str]


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory, fuzzed: Fuzz, small_tokenizer: Tokenizer) -> list[str]:
    """A corpus of code, prose and dialogues, and a tokenizer, as gin flags."""
    root = tmp_path_factory.mktemp("inspected")
    rng = np.random.default_rng(31)
    for stream, extension in (("code", "c"), ("nl", "txt")):
        (root / stream).mkdir()
        for number in range(30):
            text = fuzzed(rng, int(rng.integers(1, 1500))).replace("\0", "")
            (root / stream / f"{number}.{extension}").write_bytes(text.encode())
    lines = []
    for number in range(20):
        contents = (f"question {number}\u2028\n", f" answer {number} <EOT>")
        messages = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), contents, strict=True)]
        lines.append(json.dumps({"messages": messages}) + "\n")
    (root / "talks.jsonl").write_text("".join(lines))
    (root / "a.model").write_bytes(small_tokenizer.model)
    return [
        f"--gin.CODE_CORPUS={root}/code",
        f"--gin.NL_CORPUS={root}/nl",
        f"--gin.NL_CODE_CORPUS={root}/nl",
        f"--gin.INSTRUCT_CORPUS={root}/talks.jsonl",
        f"--gin.TOKENIZER={root}/a.model",
    ]


@pytest.fixture
def inspect(flags: list[str], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What main prints for these arguments, the corpus and tokenizer given."""

    def inspect(*arguments: str) -> str:
        assert main([*arguments, *flags]) == 0
        return capsys.readouterr().out

    return inspect


def records(output: str) -> list[dict[str, Any]]:
    assert output.endswith("\n")
    return [json.loads(line) for line in output.split("\n")[:-1]]


def parts_of(ids: list[int], tokenizer: Tokenizer) -> list[list[int]]:
    """A, B and C of  BOS PRE A SUF B MID C EOT EOS."""
    suffix, middle = ids.index(tokenizer.suffix_id), ids.index(tokenizer.middle_id)
    assert ids[:2] == [1, tokenizer.prefix_id] and ids[-2:] == [tokenizer.eot_id, 2]
    return [ids[2:suffix], ids[suffix + 1 : middle], ids[middle + 1 : -2]]


def folder(flags: list[str], stream: str) -> Path:
    (flag,) = (flag for flag in flags if flag.startswith(f"--gin.{stream.upper()}_CORPUS="))
    return Path(flag.partition("=")[2])


# --- --list -----------------------------------------------------------------------------------------------------------


def test_list_names_every_task_and_each_stages_mixture_with_its_shares(capsys: pytest.CaptureFixture[str]):
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["tasks:", *STREAMS]
    shares = {line.split()[0]: re.findall(r"(\w+) (\d+)%", line) for line in lines[2:]}
    assert set(shares) == {f"{stage}_mixture" for stage in STAGES}
    assert dict(shares["code_mixture"]) == {"code": "85", "nl_code": "8", "nl": "7"}
    for mixture in shares.values():
        assert sum(int(share) for _, share in mixture) == 100
        assert {stream for stream, _ in mixture} <= set(STREAMS)


# --- --json -----------------------------------------------------------------------------------------------------------


def test_json_shows_whole_files_and_their_ids(
    inspect: Callable[..., str], flags: list[str], small_tokenizer: Tokenizer
):
    """Without a gin file: text is the file; tokens are the ids of its form, from which the text comes back."""
    shown = records(inspect("--task=code", "--json", "--num_examples=120", f"--sequence_length={LENGTH}"))
    assert len(shown) == 120
    for record in shown:
        assert set(record) == {"stream", "kind", "path", "text", "tokens"}
        assert record["stream"] == "code"
        text, ids, kind = record["text"], record["tokens"], record["kind"]
        assert text == (folder(flags, "code") / record["path"]).read_bytes().decode()
        if kind in ("plain", "cut"):
            assert ids == [1, *small_tokenizer.encode(text), 2]
            assert small_tokenizer.decode(ids) == text
        else:
            before, after, completion = parts_of(ids, small_tokenizer)
            assert kind == "psm" or not before
            head = small_tokenizer.decode(before) + small_tokenizer.decode_continuation(completion)
            head = head if kind == "psm" else small_tokenizer.decode(completion)
            assert head + small_tokenizer.decode_continuation(after) == text
            assert len(ids) <= LENGTH
    assert {record["kind"] for record in shown} == {"plain", "cut", "psm", "spm"}


def test_json_gives_training_files_in_train_and_others_in_validation(inspect: Callable[..., str]):
    paths = {
        split: {record["path"] for record in records(inspect("--task=nl", "--json", f"--split={split}"))}
        for split in ("train", "validation")
    }
    assert paths["train"] and paths["validation"] and not paths["train"] & paths["validation"]


def test_json_of_dialogues_shows_their_messages(inspect: Callable[..., str], small_tokenizer: Tokenizer):
    for record in records(inspect("--task=instruct", "--json", "--num_examples=5")):
        assert set(record) == {"stream", "kind", "path", "text", "messages", "tokens"}
        assert [message["role"] for message in record["messages"]] == ["user", "assistant"]
        question, answer = (message["content"] for message in record["messages"])
        assert record["text"] == f"{question}\n{answer}" and record["kind"] in ("plain", "cut")
        assert small_tokenizer.decode(record["tokens"]) == f"[INST] {question.strip()} [/INST] {answer.strip()} "


def test_a_mixture_shows_its_streams_as_its_stage_has_them(inspect: Callable[..., str]):
    """A stage's documents are as its gin file says: at size local cut into pieces that fit its windows."""
    shown = records(inspect("--task=code_mixture", "--json", "--num_examples=300"))
    assert {record["stream"] for record in shown} == {"code", "nl_code", "nl"}
    assert max(len(record["text"]) for record in shown) <= 400  # gin/models/local.gin
    tokens = {stream: sum(len(r["tokens"]) for r in shown if r["stream"] == stream) for stream in ("code", "nl")}
    assert tokens["code"] > 5 * tokens["nl"]


def test_the_seed_decides_what_is_shown(inspect: Callable[..., str]):
    usual = inspect("--task=code", "--json", "--num_examples=8")
    assert inspect("--task=code", "--json", "--num_examples=8", "--seed=0") == usual
    assert inspect("--task=code", "--json", "--num_examples=8", "--gin.Stream.seed=0") == usual
    other = inspect("--task=code", "--json", "--num_examples=8", "--seed=1")
    assert other != usual
    assert inspect("--task=code", "--json", "--num_examples=8", "--gin.Stream.seed=1") == other


def test_settings_of_the_stage_reach_the_documents(inspect: Callable[..., str]):
    asked = ("--task=code", "--json", "--num_examples=40", "--gin_file=gin/code.gin", f"--sequence_length={LENGTH}")
    kinds = {record["kind"] for record in records(inspect(*asked, "--gin.FIM_RATE=0"))}
    assert kinds == {"plain", "cut"}
    kinds = {record["kind"] for record in records(inspect(*asked, "--gin.Fim.rate=1", "--gin.Fim.psm_share=1"))}
    assert "psm" in kinds and "spm" not in kinds


# --- for people -------------------------------------------------------------------------------------------------------


def test_examples_show_the_parts_of_a_document_in_the_order_of_its_ids(inspect: Callable[..., str]):
    shown = records(inspect("--task=code", "--json", "--num_examples=20"))
    output = inspect("--task=code", "--num_examples=20")
    assert "\033" not in output  # colours are for terminals
    for record in shown:
        heading = f"code  {record['kind']}  {record['path']}  {len(record['tokens']):,} tokens"
        assert heading in output
        example = output.partition(heading)[2].partition("\nids 1 ")[0]
        order = {"psm": ["prefix", "suffix", "middle"], "spm": ["suffix", "prefix", "middle"]}.get(record["kind"], [])
        assert re.findall(r"^\[(prefix|middle|suffix)\] ", example, re.MULTILINE) == order
        if not order and len(record["text"]) <= 600:
            assert record["text"] in example


def test_stats_count_the_documents_and_tokens_of_each_kind_and_stream(inspect: Callable[..., str]):
    asked = ("--task=code_mixture", "--num_examples=200")
    shown = records(inspect(*asked, "--json"))
    output = inspect(*asked, "--stats")
    rows = {line.split()[0]: line.split()[1:] for line in output.splitlines()[:-1]}
    total = sum(len(record["tokens"]) for record in shown)
    for field in ("kind", "stream"):
        for key in {record[field] for record in shown}:
            of = [record for record in shown if record[field] == key]
            tokens = sum(len(record["tokens"]) for record in of)
            shares = f"{len(of) / len(shown):.1%}", f"{tokens / total:.1%}"
            assert rows[key] == [f"{len(of):,}", shares[0], f"{tokens:,}", shares[1], f"{tokens / len(of):,.0f}"]
    assert re.fullmatch(
        rf"{total / len(shown):,.0f} tokens a document, [\d,]+ tokens a second", output.splitlines()[-1]
    )


# --- wrong usage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task, near", [("codee", "code"), ("pyton", "python"), ("code_mixtur", "code_mixture"), ("zzz_mixture", "")]
)
def test_an_unknown_task_is_wrong_usage_and_names_the_nearest(capsys: pytest.CaptureFixture[str], task: str, near: str):
    assert main([f"--task={task}"]) == 2
    output, error = capsys.readouterr()
    assert output == "" and error.startswith(f"error: unknown task {task}: ") and error.count("\n") == 1
    assert f"did you mean {near}" in error
    assert all(name in error for name in (*STREAMS, *(f"{stage}_mixture" for stage in STAGES)))


def test_asking_for_nothing_is_wrong_usage(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 2
    assert "--list" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flag", ["--seed=-1", "--seed=x", "--sequence_length=0", "--sequence_length=-5", "--num_examples=0", "--split=test"]
)
def test_values_that_mean_nothing_are_wrong_usage(capsys: pytest.CaptureFixture[str], flag: str):
    with pytest.raises(SystemExit) as stopped:
        main(["--task=code", flag])
    assert stopped.value.code == 2
    assert flag.partition("=")[0] in capsys.readouterr().err


def test_a_missing_corpus_says_so_in_a_line(capsys: pytest.CaptureFixture[str], flags: list[str]):
    assert main(["--task=code", *flags, "--gin.CODE_CORPUS=/no/such/folder"]) == 1
    output, error = capsys.readouterr()
    last = error.splitlines()[-1]
    assert output == "" and "Traceback" not in error
    assert last.startswith("error: ") and "--gin.CODE_CORPUS=/no/such/folder" in last


def test_a_reader_that_has_seen_enough_is_no_error(flags: list[str], tmp_path: Path):
    """As `| head -1` does: reads a line and closes, long before everything is written."""
    command = [sys.executable, "-m", "tasks.inspect", "--task=instruct", "--json", "--num_examples=5000", *flags]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    with (tmp_path / "error").open("w+") as error:
        run = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=error, text=True)
        assert run.stdout is not None
        first = json.loads(run.stdout.readline())
        run.stdout.close()
        assert run.wait(60) == 0
        error.seek(0)
        assert error.read() == ""
    assert first["stream"] == "instruct"
