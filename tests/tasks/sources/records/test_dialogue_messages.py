"""Messages of dialogues: roles, contents, losses, and what is left out or ignored."""

from typing import Any

import pytest

from tasks.sources.files import Found
from tasks.sources.filters import LeftOut
from tasks.sources.records.dialogue_messages import LOSS, read_message
from tasks.sources.records.record_file import Damaged, RecordLocation

LOCATION = RecordLocation(Found("a.jsonl", "a.jsonl", 1, ""), 1)
A = {"role": "assistant", "content": "a"}


def reason(message: Any) -> str:
    with pytest.raises(LeftOut) as error:
        read_message(message, LOCATION)
    return error.value.reason


@pytest.mark.parametrize(
    "names, role",
    [
        (("system", "System", "developer", "DEVELOPER"), "system"),
        (("user", "User", " user ", "human", "Human", "prompter"), "user"),
        (("assistant", "ASSISTANT", "gpt", "chatgpt", "bot", "model", "AI"), "assistant"),
    ],
)
def test_roles_have_several_names_in_any_case(names: tuple[str, ...], role: str):
    for name in names:
        for message in ({"role": name, "content": "a"}, {"from": name, "value": "a"}):
            assert read_message(message, LOCATION) == ({"role": role, "content": "a"}, [])


@pytest.mark.parametrize(
    "content, text",
    [
        ("a", "a"),
        (b"a", "a"),
        ("", ""),
        ([{"type": "text", "text": "a"}], "a"),
        ([{"type": "text", "text": "a\n"}, {"type": "text", "text": "b"}], "a\nb"),
        ([{"type": "output_text", "text": "a", "image_url": None}], "a"),
        (["a", "b"], "ab"),
        ([{"text": "a"}], "a"),
    ],
)
def test_a_content_is_text_or_parts_of_text(content: Any, text: str):
    assert read_message({"role": "user", "content": content}, LOCATION)[0]["content"] == text


@pytest.mark.parametrize("name", LOSS)
def test_an_answer_can_state_that_it_has_no_loss(name: str):
    for value in (0, 0.0, False, "0", "false"):
        assert read_message(A | {name: value}, LOCATION) == (A | {"weight": 0}, [])
        user = {"role": "user", "content": "q"}
        assert read_message(user | {name: value}, LOCATION) == (user, [])  # a question never has a loss
    for value in (1, 1.0, True, "1", "true", None):
        assert read_message(A | {name: value}, LOCATION) == (A, [])


@pytest.mark.parametrize(
    "message, expected",
    [
        ({"weight": 0.5}, "loss_weight"),
        ({"weight": 2}, "loss_weight"),
        ({"loss": "some"}, "loss_weight"),
        ({"mask": 1}, "loss_weight"),
        ({"mask": 0}, "loss_weight"),
        ({"train_detail": [{"begin_offset": 0}]}, "loss_weight"),
        ({"ignore_loss": 0}, "loss_weight"),
        ({"sample_weight": 1}, "loss_weight"),
        ({"is_masked": True}, "loss_weight"),
        ({"role": "user", "weight": 1}, "loss_weight"),
        ({"role": "system", "train": True}, "loss_weight"),
        ({"weight": 0, "train": True}, "contradiction"),
        ({"from": "user"}, "contradiction"),
        ({"value": "b"}, "contradiction"),
        ({"tool_calls": [{"id": "1"}]}, "tool_use"),
        ({"tool_calls": [{"id": "1"}], "content": None}, "tool_use"),
        ({"function_call": {"name": "f", "arguments": "{}"}}, "tool_use"),
        ({"tool_call_id": "1", "role": "user"}, "tool_use"),
        ({"role": "tool"}, "tool_use"),
        ({"role": "Function"}, "tool_use"),
        ({"role": "observation"}, "tool_use"),
        ({"refusal": "no"}, "refusal"),
        ({"content": [{"type": "refusal", "refusal": "no"}]}, "refusal"),
        ({"audio": {"id": "1"}}, "non_text"),
        ({"images": ["a.png"]}, "non_text"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}}]}, "non_text"),
        ({"content": [{"type": "input_audio"}]}, "non_text"),
        ({"content": [{"type": "tool_use", "name": "f"}]}, "tool_use"),
        ({"content": None}, "no_content"),
        ({"content": []}, "no_content"),
        ({"content": [{"type": "text", "text": None}]}, "no_content"),
        ({"content": b"\xff"}, "not_utf8"),
        ({"role": "critic"}, "roles"),
    ],
)
def test_what_cannot_be_honoured_leaves_the_dialogue_out(message: dict, expected: str):
    assert reason(A | message) == expected


def test_a_message_without_a_content_is_left_out():
    assert reason({"role": "user"}) == reason({"role": "user", "text": None}) == "no_content"
    assert reason({"role": "user", "content": None, "text": "a"}) == "no_content"


def test_text_is_the_content_if_there_is_no_other():
    assert read_message({"from": "gpt", "text": "a"}, LOCATION) == (A, [])
    assert read_message(A | {"text": "<p>a</p>"}, LOCATION) == (A, ["text"])


@pytest.mark.parametrize(
    "empty",
    [
        {"tool_calls": None, "function_call": None, "refusal": None, "audio": None, "weight": None, "name": None},
        {"tool_calls": [], "refusal": "", "images": []},
        *({"tool_calls": text, "tools": text.encode()} for text in ("[]", " [] ", "null", "{}")),
        {"function_call": {"name": None, "arguments": None}, "tool_calls": [{"id": None}]},
    ],
)
def test_empty_fields_state_nothing(empty: dict):
    assert read_message(A | empty, LOCATION) == (A, [])


def test_other_fields_are_ignored_and_named():
    parts = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]
    message = {"role": "assistant", "content": parts, "name": "Ann", "id": 7, "reasoning_content": "so"}
    assert read_message(message, LOCATION) == (A, ["content.cache_control", "id", "name", "reasoning_content"])


@pytest.mark.parametrize(
    "message",
    [
        *("a", 5, ["a"], {}, {"content": "a"}, {"role": 5, "content": "a"}),
        *(A | {"content": content} for content in (5, [5], [{"type": "text", "text": 5}])),
    ],
)
def test_what_is_not_a_message_is_damaged(message: Any):
    with pytest.raises(Damaged):
        read_message(message, LOCATION)
