"""The shapes of dialogues in records: which fields become which turns, and which records are left out."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from written_records import everything, left_out, one_line, opened, packed, write

from codellama_jax.config.data import Corpus
from codellama_jax.errors import UserError
from tasks.sources.files import Found
from tasks.sources.filters import LeftOut
from tasks.sources.records.dialogue_shapes import LISTS, PAIRS, columns, turns
from tasks.sources.records.record_file import Damaged, RecordLocation

LOCATION = RecordLocation(Found("a.jsonl", "a.jsonl", 1, ""), 1)
Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
S = {"role": "system", "content": "s"}
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


def read(record: dict[str, Any], bound: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
    return turns(record, bound, LOCATION).messages


def reason(record: dict[str, Any], bound: tuple[str, ...] | None = None) -> str:
    with pytest.raises(LeftOut) as error:
        turns(record, bound, LOCATION)
    return error.value.reason


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("messages", [[Q, A], SHAREGPT], ids=["OpenAI", "ShareGPT"])
def test_a_list_of_messages(name: str, messages: list):
    assert read({name: messages}) == [Q, A]
    assert read({name: json.dumps(messages)}) == [Q, A]
    assert read({name: json.dumps(messages).encode()}) == [Q, A]
    columns_of_messages = {key: [message[key] for message in messages] for key in messages[0]}
    assert read({name: columns_of_messages}) == [Q, A]  # a sequence of `datasets`
    assert read({name: [list(message.items()) for message in messages]}) == [Q, A]  # a map of Arrow


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_a_pair_of_texts(pair: tuple[str, str]):
    first, last = pair
    assert read({first: "q", last: "a", "id": 7}) == [Q, A]
    assert read({first: b"q", last: b"a"}) == [Q, A]
    for system in ("system", "system_prompt", "system_message"):
        assert read({first: "q", last: "a", system: "s"}) == [S, Q, A]
        assert read({first: "q", last: "a", system: None}) == read({first: "q", last: "a", system: " "}) == [Q, A]
    assert reason({first: "q", last: None}) == "no_content"


@pytest.mark.parametrize(
    "record, user",
    [
        ({"instruction": "q", "input": "i", "output": "a"}, "q\n\ni"),
        ({"instruction": "q", "input": "", "output": "a"}, "q"),
        ({"instruction": "q", "input": None, "output": "a"}, "q"),
        ({"instruction": "", "input": "i", "output": "a"}, "i"),
        ({"instruction": "q", "context": "i", "response": "a"}, "q\n\ni"),
        ({"instruction": "q", "input": "i", "output": "a", "prompt": "Below is an instruction: q"}, "q\n\ni"),
    ],
)
def test_an_instruction_is_followed_by_its_input(record: dict, user: str):
    assert read(record) == [{"role": "user", "content": user}, A]


def test_prompt_and_completion_may_be_messages():
    """An answer in the prompt is not trained on: the pair says that the completion is."""
    earlier = [Q, A, {"role": "user", "content": "q2"}]
    expected = [Q, A | {"weight": 0}, {"role": "user", "content": "q2"}, A]
    assert read({"prompt": earlier, "completion": [A]}) == expected
    assert read({"prompt": [S, Q], "completion": "a"}) == [S, Q, A]
    assert read({"prompt": "q", "completion": [A]}) == read({"prompt": "q", "completion": [Q, A]}) == [Q, A]
    assert read({"prompt": json.dumps([Q]), "completion": json.dumps([A])}) == [Q, A]
    assert read({"prompt": "[1, {}]", "completion": "a"})[0]["content"] == "[1, {}]"


def test_texts_in_a_list_are_those_of_the_user_and_the_assistant_in_turn():
    """As in LIMA, and in UltraChat, whose field `data` a setting names."""
    assert read({"conversations": ["q", "a", "q", "a"]}) == read({"messages": ["q", b"a"]}) * 2 == [Q, A, Q, A]
    assert read({"data": ["q", "a"]}, ("data",)) == [Q, A]
    with pytest.raises(Damaged, match="its messages are texts with JSON"):
        read({"messages": [json.dumps(Q), json.dumps(A)]})


@pytest.mark.parametrize(
    "messages, found",
    [
        ([{"input": "q", "output": "a"}], "a message has no role .found: input, output"),
        ([Q, {"type": "text", "text": "a"}], "a message has no role .found: type, text"),
        ([None, Q, A], "a message is of type NoneType"),
        ([Q, "a"], "a message is of type str"),
    ],
)
def test_what_is_not_a_message_is_described(messages: list, found: str):
    with pytest.raises(Damaged, match=found):
        read({"messages": messages})


def test_earlier_pairs_of_a_history_come_first():
    record = {"instruction": "q", "input": "", "output": "a", "history": [["q0", "a0"]]}
    assert [message["content"] for message in read(record)] == ["q0", "a0", "q", "a"]
    assert read(record | {"history": []}) == [Q, A]
    assert reason(record | {"history": "q0"}) == "history"


def test_a_system_field_precedes_any_shape():
    for record in ({"messages": [Q, A]}, {"conversations": SHAREGPT}, {"problem": "q", "solution": "a"}):
        assert read(record | {"system": "s"}) == [S, Q, A]
    assert read({"messages": [S, Q, A], "system": "s"}) == [S, Q, A]
    assert reason({"messages": [S, Q, A], "system": "other"}) == "contradiction"
    assert reason({"messages": [Q, A], "system": "s", "system_prompt": "other"}) == "contradiction"
    for parts in (["s"], [{"type": "text", "text": "s"}]):
        assert read({"messages": [Q, A], "system": parts}) == [S, Q, A]
    for empty in (None, "", [], " "):
        assert read({"messages": [Q, A], "system": empty}) == [Q, A]
    for wrong in (5, {"text": "s"}):
        with pytest.raises(Damaged, match="its system text is of type"):
            read({"messages": [Q, A], "system": wrong})


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [Q, A], "prompt": "q", "completion": "other"},
        {"messages": [Q, A], "conversations": [SHAREGPT[0], {"from": "gpt", "value": "other"}]},
        {"question": "q", "answer": "4", "response": "it is 4"},
        {"problem": "q", "solution": "other", "messages": [Q, A]},
    ],
)
def test_shapes_that_differ_are_a_contradiction_that_a_setting_resolves(record: dict):
    assert reason(record) == "contradiction"
    first = next(iter(record))
    bound = (first,) if first in LISTS else tuple(record)[:2]
    assert read(record, bound)[0] == Q


def test_shapes_that_agree_are_read_once():
    assert read({"messages": [S, Q, A], "problem": " q", "solution": "a\n"}) == [S, Q, A]
    assert read({"messages": None, "prompt": "q", "completion": "a"}) == [Q, A]
    assert read({"messages": [], "prompt": "q", "completion": "a"}) == [Q, A]
    assert read({"messages": [Q, A], "prompt": "q", "completion": None}) == [Q, A]


def test_the_fields_can_be_named():
    assert read({"soru": "q", "cevap": "a", "prompt": "x", "completion": "y"}, ("soru", "cevap")) == [Q, A]
    assert read({"a": "q", "b": "i", "c": "a"}, ("a", "b", "c"))[0]["content"] == "q\n\ni"
    assert read({"a": "q", "c": "a"}, ("a", "b", "c")) == [Q, A]
    assert read({"talk": SHAREGPT}, ("talk",)) == [Q, A]
    assert read({"prompt": "q", "chosen": [Q, A], "rejected": [Q]}, ("prompt", "chosen")) == [Q, A]
    with pytest.raises(Damaged, match=r"it has no soru or no cevap .Corpus.dialogue_fields; found: prompt"):
        read({"prompt": "x", "completion": "y"}, ("soru", "cevap"))
    for wrong in ("messages", (), ("a", 1)):
        with pytest.raises(ValueError, match=r"Corpus.dialogue_fields="):
            Corpus(dialogue_fields=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "field, value, expected",
    [
        ("weight", 0, "loss_weight"),
        ("weight", 0.5, "loss_weight"),
        ("train", False, "loss_weight"),
        ("mask", "assistant", "loss_weight"),
        ("tools", [{"type": "function"}], "tool_use"),
        ("functions", '[{"name": "f"}]', "tool_use"),
        ("image", "a.png", "non_text"),
        ("images", ["a.png"], "non_text"),
        ("label", False, "rejected"),
        ("label", "false", "rejected"),
        ("weights", [0, 1], "loss_weight"),
        ("loss_scale", 0.5, "loss_weight"),
    ],
)
def test_a_field_of_the_record_that_changes_the_meaning_leaves_it_out(field: str, value: Any, expected: str):
    for record in ({"messages": [Q, A]}, {"prompt": "q", "completion": "a"}):
        assert reason(record | {field: value}) == expected
        for harmless in (None, [], "") if field != "label" else (None, True):
            assert read(record | {field: harmless}) == [Q, A]
    assert field in columns(["messages", field], None, LOCATION)  # also where columns are selected


def test_the_label_zero_of_a_completion_rejects_it():
    """Elsewhere a number may be that of a class."""
    assert reason({"prompt": "q", "completion": "a", "label": 0}) == "rejected"
    for accepted in (1, True, "math", None):
        assert read({"prompt": "q", "completion": "a", "label": accepted}) == [Q, A]
    assert read({"question": "q", "answer": "a", "label": 0}) == [Q, A]


def test_an_empty_list_of_messages_is_left_out():
    assert reason({"messages": []}) == reason({"messages": "[]"}) == "no_content"


def test_weights_and_masks_that_agree_with_the_loss_are_accepted():
    for field, value in (("weight", 1), ("weight", 1.0), ("train", True), ("mask", "User"), ("tools", "[]")):
        assert read({"messages": [Q, A], field: value}) == [Q, A]


def test_preference_data_is_refused_with_a_remedy(tmp_path: Path):
    write(tmp_path / "a.jsonl", packed("jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}] * 3))
    with pytest.raises(UserError, match=r"preference data .* Corpus.dialogue_fields=\('prompt', 'chosen'\)") as error:
        opened(tmp_path, name="instruct", validation_share=0.0)
    one_line(error)
    with pytest.raises(Damaged, match=r"Corpus.dialogue_fields=\('chosen',\)"):
        read({"chosen": [Q, A], "rejected": [Q, A]})
    source = opened(tmp_path, name="instruct", validation_share=0.0, dialogue_fields=("prompt", "chosen"))
    assert [dialogue.messages for dialogue in everything(source)] == [[Q, A]] * 3


# --- files ------------------------------------------------------------------------------------------------------------


RECORDS = [
    {"messages": [Q, A | {"weight": 1.0, "tool_calls": None}]},
    {"messages": [Q, A | {"weight": 0.0}, Q, A]},
    {"messages": [Q, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
    {"messages": [Q, {"role": "assistant", "content": None}]},
]
PARTS = [{"role": m["role"], "content": [{"type": "text", "text": m["content"], "image_url": None}]} for m in (Q, A)]


@pytest.mark.parametrize("form", ["jsonl", "parquet", "JSON in parquet", "tfrecord"])
def test_every_form_of_file_gives_the_same_dialogues(tmp_path: Path, form: str):
    records: list[dict] = RECORDS
    if form == "JSON in parquet":
        records = [{"messages": json.dumps(record["messages"])} for record in RECORDS]
    extension = form.rpartition(" ")[2]
    write(tmp_path / f"a.{extension}", packed(extension, records))
    source = opened(tmp_path, name="instruct", validation_share=0.0)
    assert [d.messages for d in everything(source)] == [[Q, A], [Q, A | {"weight": 0}, Q, A]]
    assert left_out(source) == {"tool_use": 1, "no_content": 1}


def test_columns_of_parquet(tmp_path: Path):
    """Structs of which every message has all fields, lists of parts, pairs with a system column, and ShareGPT."""
    tables = {
        "parts": pa.Table.from_pylist([{"messages": PARTS, "weight": None, "source": "x"}]),
        "sharegpt": pa.Table.from_pylist([{"conversations": SHAREGPT, "system": "s"}]),
        "pair": pa.Table.from_pylist([{"system_prompt": "s", "question": "q", "response": "a", "score": 0.5}]),
        "prompt": pa.Table.from_pylist([{"prompt": [Q], "completion": [A]}]),
    }
    for name, table in tables.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
        (dialogue,) = everything(opened(tmp_path / f"{name}.parquet", name="instruct", validation_share=0.0))
        assert dialogue.messages == [S] * (name in ("sharegpt", "pair")) + [Q, A], name


def test_a_corpus_of_contradictions_names_the_setting(tmp_path: Path):
    write(tmp_path / "a.jsonl", packed("jsonl", [{"question": "q", "answer": "4", "response": "a"}] * 3))
    with pytest.raises(UserError, match=r"no usable dialogue .*3 contradiction \(Corpus.dialogue_fields\)") as error:
        opened(tmp_path, name="instruct", validation_share=0.0)
    one_line(error)
    bound = {"validation_share": 0.0, "dialogue_fields": ("question", "response")}
    source = opened(tmp_path, name="instruct", **bound)
    assert [dialogue.messages for dialogue in everything(source)] == [[Q, A]] * 3
    other = opened(tmp_path, name="instruct", **bound | {"dialogue_fields": ("question", "answer")})
    assert source.fingerprint() != other.fingerprint()
