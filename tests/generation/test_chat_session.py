"""The interactive session: history, commands, refused messages, interruption, and what a saved dialogue is good for."""

import dataclasses
import io
import json
import signal
import sys
from pathlib import Path

import pytest
from generation_models import SHAPES, random_params, weights_of, write_checkpoint

from codellama_jax import generate
from codellama_jax.config.data import Corpus, Filters
from codellama_jax.config.generation import Sampling, Serving
from codellama_jax.generation import chat_session, prompts
from codellama_jax.generation.answers import Answer
from codellama_jax.generation.chat_session import ChatModel, ChatSession
from codellama_jax.generation.engine import Engine
from codellama_jax.generation.stopping import TokenTexts
from codellama_jax.training import assets
from tasks import sources
from tasks.sources.base import items

SAMPLING = Sampling(max_tokens=6, temperature=1.0)


@pytest.fixture(scope="module")
def model(small_tokenizer) -> ChatModel:
    llama = dataclasses.replace(SHAPES["7b"], vocab_size=small_tokenizer.rows)
    weights = weights_of(random_params(llama), llama)
    engine = Engine(weights, llama, Serving(slots=1, context=160, chunks=(32,)), small_tokenizer.rows)
    texts = TokenTexts(small_tokenizer)

    def answer(prompt: prompts.Prompt, tries: int) -> Answer:
        return Answer(engine, texts, prompt, dataclasses.replace(SAMPLING, seed=tries))

    return ChatModel(small_tokenizer, "inst", 120, answer, greedy=False)


@pytest.fixture
def talk(model, capsys, monkeypatch):
    """Runs a session on lines of input; returns it, and what it printed."""

    def talk(*lines: str | bytes, **options) -> tuple[ChatSession, list[str], str]:
        data = b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        session = ChatSession(model, **options)
        session.run()
        output = capsys.readouterr()
        return session, output.out.splitlines(), output.err

    return talk


def records(lines: list[str]) -> list[dict]:
    return [json.loads(line) for line in lines]


def test_answers_see_the_dialogue_so_far(talk, model):
    session, lines, _ = talk("one", "two", system="be kind", as_json=True)
    first, second = records(lines)
    assert first.keys() == {"text", "tokens", "finish_reason", "turns_left_out"} and first["turns_left_out"] == 0
    assert [message["content"] for message in session.messages] == [
        "be kind",
        "one",
        first["text"],
        "two",
        second["text"],
    ]
    prompt, _ = prompts.chat(model.tokenizer, session.messages[:-1], "inst", 120)
    answer = model.answer(prompt, 0)
    assert "".join(answer) == second["text"] == second["text"].strip()
    _, plain, errors = talk("one", "two", system="be kind")
    assert "\n".join(plain) == f"{first['text']}\n{second['text']}" and errors == ""


def test_old_turns_are_left_out_and_counted(talk):
    questions = [f"a question of some length {number}" for number in range(5)]
    session, lines, errors = talk(*questions, as_json=True)
    left_out = [record["turns_left_out"] for record in records(lines)]
    assert left_out[0] == 0 and left_out[-1] > 0 and left_out == sorted(left_out)
    assert f"the oldest {left_out[-1]} turns were left out" in errors and len(session.messages) == 10


def test_commands_change_the_dialogue(talk):
    session, lines, errors = talk("one", "/undo", "/system be kind", "two", "/regenerate", "/help", as_json=True)
    _, two, again = records(lines)
    assert two["text"] != again["text"]  # another seed
    assert session.messages == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": again["text"]},
    ]
    assert "removed: one" in errors and "/paste" in errors
    session, _, _ = talk("one", "/system be kind", "/system", "/reset")
    assert session.messages == []
    session, lines, _ = talk("/paste", "def f():", "", "    pass", "/end", "//x", "", "/quit", "three", as_json=True)
    assert [message["content"] for message in session.messages[::2]] == ["def f():\n\n    pass", "/x"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a [INST] b", "dialogue: messages[2] (user) contains [INST], a tag"),
        ("/system <<SYS>>", "dialogue: messages[0] (system) contains <<SYS>>, a tag"),
        ("word " * 200, "dialogue: the last question has "),
        (b"\xff", "the message is not UTF-8 text"),
        ("/unknown", "there is no command /unknown: /help lists them"),
        ("/save a.txt", "/save FILE takes a new file FILE.json"),
        ("/save /nowhere/a.json", "/nowhere/a.json cannot be written: No such file or directory"),
    ],
)
def test_a_refused_message_does_not_end_the_session(talk, line: str | bytes, message: str):
    session, lines, _ = talk("one", line, "two", as_json=True)
    assert len(session.messages) == 4
    assert [list(record) == ["error"] for record in records(lines)] == [False, True, False]
    assert records(lines)[1]["error"].startswith(message)
    assert f"error: {message}" in talk("one", line)[2]


def test_commands_without_a_turn_are_refused(talk):
    assert talk("/undo", "/regenerate", "/save a.json")[2] == "error: there is no question yet\n" * 3


def test_a_saved_dialogue_is_one_that_the_instruct_stage_reads(talk, tmp_path: Path):
    file = tmp_path / "talk.jsonl"
    session, _, errors = talk("one", "é", f"/save {file}", f"/save {file}", system="be kind")
    assert f"wrote {file}" in errors and f"{file} exists: name a new file" in errors
    source = sources.open(str(tmp_path), "instruct", "train", Corpus(), Filters())
    dialogues = [dialogue for shard in range(len(source)) for dialogue in items(source, shard)]
    assert [dialogue.messages for dialogue in dialogues] == [session.messages]


def test_an_interrupted_answer_is_kept(talk, model, monkeypatch):
    """Ctrl-C during an answer: what there is of it stays in the dialogue, and the session continues."""
    printed = []

    def interrupt(text="", **options):
        printed.append(text)
        if len(printed) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(chat_session, "print", interrupt, raising=False)
    session, _, _ = talk("one", "two")
    assert len(session.messages) == 4 and len(printed) > 4
    assert session.messages[1]["content"] == printed[0] + printed[1] + printed[2]


def test_ctrl_c_twice_at_the_prompt_ends_a_session_on_a_terminal(model, capsys, monkeypatch):
    lines = iter([KeyboardInterrupt, "one", KeyboardInterrupt, KeyboardInterrupt, "two"])

    def read(prompt: str) -> str:
        assert prompt == ">>> "
        if isinstance(line := next(lines), str):
            return line
        raise line

    session = ChatSession(model)
    session.interactive = True
    monkeypatch.setattr("builtins.input", read)
    session.run()
    assert len(session.messages) == 2 and next(lines) == "two"
    assert capsys.readouterr().err.count("Ctrl-C again") == 2


CHATML = b"{% for message in messages %}<|im_start|>{{ message.role }} {{ message.content }}<|im_end|>{% endfor %}"


@pytest.mark.parametrize("template", ["inst", "chatml"])
def test_the_command_uses_the_format_of_the_checkpoint(template, small_tokenizer, tmp_path, capsys, monkeypatch):
    files = {assets.MODEL: small_tokenizer.model}
    files |= {"chat_template.jinja": CHATML} if template == "chatml" else {}
    write_checkpoint(tmp_path / "model", small_tokenizer.rows, 256, files)
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n[INST]\n"))
    arguments = ["chat", f"--checkpoint={tmp_path}/model", "--max_tokens=3", "--json"]
    code = generate.main(arguments)
    output = capsys.readouterr()
    if template == "chatml":
        assert code == 0 and len(output.out.splitlines()) == 2  # its own template
        monkeypatch.setattr(sys, "stdin", io.StringIO("one\n[INST]\n"))
        assert generate.main([*arguments, "--chat_format=source"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 2  # without reserved tags
    else:
        assert code == 0 and "model does not state that it was trained on dialogues" in output.err
        assert ["error" in record for record in records(output.out.splitlines())] == [False, True]
