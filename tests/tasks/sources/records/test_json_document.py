"""JSON that is not one object per line: arrays, pretty-printed objects and containers."""

import gzip
import io
import json
import random
from pathlib import Path

import pytest
from written_records import RECORDS, TEXTS, everything, left_out, one_line, opened, talks, write

from codellama_jax.errors import UserError
from tasks.sources.records import json_document

FORMS = {
    "an array": json.dumps(RECORDS),
    "an array, pretty-printed": json.dumps(RECORDS, indent=4),
    "an array of lines": "[\n" + ",\n".join(map(json.dumps, RECORDS)) + "\n]\n",
    "an array with a byte order mark": "\ufeff" + json.dumps(RECORDS),
    "objects over several lines": "\n".join(json.dumps(record, indent=1) for record in RECORDS),
    "a container": json.dumps({"data": RECORDS}),
    "a container with metadata": json.dumps({"version": "1.0", "data": RECORDS, "more": {"a": [1]}}, indent=1),
    "a container of rows, with CRLF": json.dumps({"rows": RECORDS}, indent=1).replace("\n", "\r\n"),
    "two arrays": json.dumps(RECORDS[:9], indent=1) + json.dumps(RECORDS[9:]),
    "one object per line": "\n".join(map(json.dumps, RECORDS)),
    "one object per line, ended by CR": "\r".join(map(json.dumps, RECORDS)) + "\r",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_json_gives_the_same_documents(tmp_path: Path, form: str):
    write(tmp_path / "a.json", FORMS[form].encode())
    write(tmp_path / "b.json.gz", gzip.compress(FORMS[form].encode()))
    for name in ("a.json", "b.json.gz"):
        source = opened(tmp_path / name, validation_share=0.0)
        assert [document.text for document in everything(source)] == TEXTS
        for shard in range(len(source)):
            blocks = list(source.read(shard))
            assert all(list(source.read(shard, skip)) == blocks[skip:] for skip in range(len(blocks) + 1))


def test_values_are_decoded_for_any_size_of_reads(monkeypatch):
    rng = random.Random(4)
    values = [
        {"é\u2028": "x\\" * rng.randrange(9), "n": [1e5, -12345, None, True, {"\ud83d\ude00": ""}]} for _ in range(9)
    ]
    for size in (1, 2, 3, 17, 1 << 20):
        monkeypatch.setattr(json_document, "BUFFER", size)
        for ascii_, indent in ((True, None), (False, 2)):
            data = json.dumps(values, ensure_ascii=ascii_, indent=indent).encode("utf-8", "surrogatepass")
            if not ascii_:
                data = data.replace(b"\xed\xa0\xbd\xed\xb8\x80", "\U0001f600".encode())
            parser = json_document._Parser(io.BufferedReader(io.BytesIO(data)))
            decoded = [value for value, _ in parser.values()]
            assert decoded == json.loads(data)


def test_memory_follows_the_longest_object(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(json_document, "BUFFER", 1000)
    longest = 0

    def decode(text, position):
        nonlocal longest
        longest = max(longest, len(text))
        return json.JSONDecoder().raw_decode(text, position)

    monkeypatch.setattr(json_document, "_DECODER", type("Decoder", (), {"raw_decode": staticmethod(decode)}))
    parser = json_document._Parser(io.BufferedReader(io.BytesIO(json.dumps(RECORDS * 50).encode())))
    assert len(list(parser.values())) == 2000
    assert longest < 3000 < len(json.dumps(RECORDS))


def test_one_object_is_one_record_and_a_list_of_messages_is_no_container(tmp_path: Path):
    write(tmp_path / "a.json", json.dumps(talks(1)[0], indent=2).encode())
    write(tmp_path / "b.json", json.dumps(talks(3), indent=2).encode())
    (one,) = everything(opened(tmp_path / "a.json", name="instruct", validation_share=0.0))
    assert one.messages == talks(1)[0]["messages"]
    assert len(everything(opened(tmp_path / "b.json", name="instruct", validation_share=0.0))) == 3


@pytest.mark.parametrize(
    "text, reason",
    [
        ('[{"text": "a"} {"text": "b"}]', "a.json#2 is damaged: not JSON .Expecting ','"),
        ('[{"text": "a"},]', "a.json#2 is damaged"),
        ('[{"text": "a"}', "a.json#2 is damaged: not JSON .the file is truncated"),
        ('{\n"text": "a",\n', "a.json#1 is damaged: not JSON .the file is truncated"),
        ('[\n"text"]', "a.json#1 is damaged: the record is not a JSON object"),
        ('{"train": [{"text": "a"}]}', "a.json:1 is damaged: it has none of content.*found: train"),
        ("[" * 10**5, "a.json#1 is damaged"),
        ('[{"text": "\xff"}]', "a.json#1 is damaged: it is not UTF-8"),
    ],
)
def test_damage_names_the_record(tmp_path: Path, text: str, reason: str):
    write(tmp_path / "a.json", text.encode("latin-1"))
    with pytest.raises(UserError, match=reason) as error:
        everything(opened(tmp_path / "a.json", validation_share=0.0))
    one_line(error)
    write(tmp_path / "b.jsonl", b'{"text": "b"}')
    assert left_out(opened(tmp_path / "[ab].json*", validation_share=0.0, on_damage="skip"))["damaged"] == 1
