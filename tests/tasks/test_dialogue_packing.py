"""Packing of dialogues: they are complete or keep their last turns, and no answer has lost its question."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_source import global_batches, same_arrays, through_json
from packing_cases import QUEUES, Files, Fuzz, ListReader, encoder, same_window, windows_of

from codellama_jax.chat import encode_dialogue
from codellama_jax.config.data import LAST_TURNS, LEAVE_OUT, Chat, Corpus, Filters, Fim, Packing
from codellama_jax.errors import UserError
from codellama_jax.tokenizer import Tokenizer
from tasks import sources
from tasks.dialogue_packing import DialoguePacker
from tasks.dialogues import encode_in_window
from tasks.encoder import Encoder
from tasks.loader import DataLoader, LoaderState, StreamInput
from tasks.packing import PackerState
from tasks.sources.base import Dialogue
from tasks.sources.filters import LeftOut

LENGTH = 128


def turns(*texts: str, system: str | None = None) -> list[dict]:
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


@pytest.fixture(scope="module")
def talks(fuzzed: Fuzz) -> Files:
    """Files of dialogues of one to four turns. Some are longer than a window, and so are some of their turns."""
    rng = np.random.default_rng(3)
    files: list[list[Dialogue]] = []
    for number in range(60):
        file = []
        for index in range(rng.integers(0, 4)):
            texts = [
                fuzzed(rng, int(rng.integers(1, 50) if rng.random() < 0.95 else 600)) + "."
                for _ in range(2 * int(rng.integers(1, 5)))
            ]
            texts = [text.replace("[", "").replace("<", "") for text in texts]
            file.append(Dialogue(turns(*texts, system="be kind" if rng.random() < 0.3 else None), f"{number}/{index}"))
        files.append(file)
    return files


def packer(
    files: Files,
    tokenizer: Tokenizer,
    queue: int = 4,
    long_dialogues: str = LAST_TURNS,
    state: PackerState | None = None,
    reader: ListReader | None = None,
) -> DialoguePacker:
    encode = Encoder(tokenizer, Fim(), Chat(), (0, 7), long_dialogues)
    return DialoguePacker(reader or ListReader(files), encode, LENGTH, False, queue, state)


@pytest.mark.parametrize("long_dialogues", [LAST_TURNS, LEAVE_OUT])
@pytest.mark.parametrize("queue", QUEUES)
def test_every_dialogue_is_complete_or_keeps_its_last_turns(
    small_tokenizer: Tokenizer, talks: Files, queue: int, long_dialogues: str
):
    """Each occurs once. Those that cannot be brought into a window are left out and reported."""
    reader = ListReader(talks)
    windows = windows_of(packer(talks, small_tokenizer, queue, long_dialogues, reader=reader))
    expected, shortened = {}, 0
    for file in talks:
        for dialogue in file:
            try:
                ids, weights, short = encode_in_window(
                    small_tokenizer, dialogue.messages, "inst", LENGTH, long_dialogues == LAST_TURNS
                )
            except LeftOut:
                continue
            expected[dialogue.path] = ids.tolist(), weights.tolist()
            shortened += short
    assert (shortened > 5) == (long_dialogues == LAST_TURNS)
    assert {reason for _, reason in reader.left_out} == {"too_long"}
    assert len(reader.left_out) + len(expected) == sum(map(len, talks))
    seen = []
    for window in windows:
        segments = window.arrays["segment_ids"]
        filled = int((segments > 0).sum())
        assert segments[:filled].all() and len(window.started) == len(window.documents) == segments.max()
        assert all(not values[filled:].any() for values in window.arrays.values())
        assert window.tokens.total() == filled
        for number, packed in enumerate(window.started, 1):
            seen.append(packed.document.path)
            ids, weights = expected[packed.document.path]
            inside = segments == number
            assert window.arrays["tokens"][inside].tolist() == packed.tokens.tolist() == ids
            assert window.arrays["targets"][inside].tolist() == [*ids[1:], 0]
            assert window.arrays["loss_weights"][inside].tolist() == [*weights[1:], 0.0]
            complete = len(ids) == len(encode_dialogue(small_tokenizer, packed.document.messages, "inst")[0])
            assert packed.kind == ("plain" if complete else "last_turns")
    assert sorted(seen) == sorted(expected)


def test_no_answer_with_a_loss_has_lost_its_question(small_tokenizer: Tokenizer, talks: Files):
    """Every target with a loss follows the BOS of its turn in the same window."""
    for window in windows_of(packer(talks, small_tokenizer)):
        tokens, loss = window.arrays["tokens"], window.arrays["loss_weights"] > 0
        opened = False
        for token, has_loss in zip(tokens.tolist(), loss.tolist(), strict=True):
            opened = opened or token == small_tokenizer.bos_id
            assert opened or not has_loss
            opened = opened and token != small_tokenizer.eos_id


def test_a_queue_reduces_padding(small_tokenizer: Tokenizer):
    digits = np.random.default_rng(5).integers(5, LENGTH - 30, 600)
    files = [[Dialogue(turns("q", "7" * int(count)), str(index))] for index, count in enumerate(digits)]
    padding = [
        float(np.mean([window.arrays["segment_ids"] == 0 for window in windows_of(packer(files, small_tokenizer, q))]))
        for q in QUEUES
    ]
    assert padding == sorted(padding, reverse=True) and padding[0] > 0.2 and padding[-1] < 0.12


@pytest.mark.parametrize("queue", QUEUES)
def test_no_dialogue_waits_longer_than_the_queue_is(small_tokenizer: Tokenizer, talks: Files, queue: int):
    windows, waits = packer(talks, small_tokenizer, queue), {}
    while windows.next_window() is not None:
        pending = windows.state.pending
        assert len(pending) <= max(queue, 1) and not any(used for _, used in pending)
        waits = {cursor: waits.get(cursor, 0) + 1 for cursor, _ in pending}
        assert all(count <= max(queue, 1) for count in waits.values())


@pytest.mark.parametrize("queue", QUEUES)
def test_resumes_exactly_after_any_window(small_tokenizer: Tokenizer, talks: Files, queue: int):
    original = packer(talks, small_tokenizer, queue)
    windows, states = [], [original.state]
    while (window := original.next_window()) is not None:
        windows.append(window)
        states.append(original.state)
    for begin, state in list(enumerate(states))[::5]:
        saved = PackerState.of_row(np.array(json.loads(json.dumps(state.row(queue).tolist())), np.int64))
        resumed = packer(talks, small_tokenizer, queue, state=saved)
        for index in range(begin, min(begin + 3, len(windows))):
            assert same_window(resumed.next_window(), windows[index])
            assert resumed.state == states[index + 1]


# --- long dialogues ---------------------------------------------------------------------------------------------------


def in_window(tokenizer: Tokenizer, messages: list[dict], length: int, chat_format: str = "inst") -> str:
    ids, weights, shortened = encode_in_window(tokenizer, messages, chat_format, length, last_turns=True)
    assert len(ids) <= length and shortened and weights.any()
    return tokenizer.decode(ids)


@pytest.mark.parametrize("chat_format", ["inst", "source"])
def test_a_long_dialogue_keeps_as_many_last_turns_as_fit(small_tokenizer: Tokenizer, chat_format: str):
    messages = turns(*(f"{i}" * 6 for i in range(1, 9)))
    for kept in range(1, 4):
        expected, weights = encode_dialogue(small_tokenizer, messages[-2 * kept :], chat_format)
        more = len(encode_dialogue(small_tokenizer, messages[-2 * kept - 2 :], chat_format)[0])
        for length in (len(expected), more - 1):
            ids, loss, short = encode_in_window(small_tokenizer, messages, chat_format, length, last_turns=True)
            assert short and np.array_equal(ids, expected) and np.array_equal(loss, weights)
    with pytest.raises(LeftOut, match="too_long"):
        encode_in_window(small_tokenizer, messages, chat_format, 10, last_turns=True)
    with pytest.raises(LeftOut, match="too_long"):
        encode_in_window(small_tokenizer, messages, chat_format, more - 1, last_turns=False)


def test_the_system_message_is_kept_if_it_fits(small_tokenizer: Tokenizer):
    messages = turns("1111", "2222", "3333", "4444", system="be kind")
    with_system = len(encode_dialogue(small_tokenizer, [messages[0], *messages[-2:]], "inst")[0])
    assert "be kind" in in_window(small_tokenizer, messages, with_system)
    assert "1111" not in in_window(small_tokenizer, messages, with_system)
    without = in_window(small_tokenizer, messages, with_system - 1)
    assert "be kind" not in without and "4444" in without


def test_a_system_message_that_is_the_first_question_is_not_removed_from_it(small_tokenizer: Tokenizer):
    messages = turns("", "2222", system="say it " * 5)
    length = len(encode_dialogue(small_tokenizer, messages, "inst")[0])
    with pytest.raises(LeftOut, match="too_long"):
        encode_in_window(small_tokenizer, messages, "inst", length - 1, last_turns=True)
    assert "2222" not in in_window(small_tokenizer, [*messages, *turns("3333", "4444")], length - 1)


def test_turns_that_have_no_loss_are_left_out(small_tokenizer: Tokenizer):
    messages = turns("1111", "2222", "3333", "4444")
    messages[-1]["weight"] = 0
    ids, weights = encode_dialogue(small_tokenizer, messages, "inst")
    (end, _) = np.flatnonzero(ids == small_tokenizer.eos_id)
    assert weights[: end + 1].any() and not weights[end + 1 :].any()
    with pytest.raises(LeftOut, match="no_loss"):
        encode_in_window(small_tokenizer, messages, "inst", len(ids) - 1, last_turns=True)
    messages[1]["weight"] = 0
    with pytest.raises(LeftOut, match="no_loss"):
        encoder(small_tokenizer).validate(Dialogue(messages, "a"))


def test_long_dialogues_must_be_a_known_value():
    with pytest.raises(ValueError, match=r"Packing.long_dialogues='cut' must be 'last_turns' or 'leave_out'"):
        Packing(long_dialogues="cut")


# --- the loader -------------------------------------------------------------------------------------------------------


def loader(
    path: Path, tokenizer: Tokenizer, length: int = LENGTH, long_dialogues: str = LAST_TURNS, **options: Any
) -> DataLoader:
    corpus = Corpus(instruct=str(path), validation_share=0.0)
    encode = Encoder(tokenizer, Fim(), Chat(), (0, 7), long_dialogues)
    stream = StreamInput("instruct", sources.open(str(path), "instruct", "train", corpus, Filters()), encode)
    settings = {"seed": 0, "readers": 2, "batch_size": 2, "length": length, "mask_documents": False, "queue": 3}
    return DataLoader([stream], {"instruct": 1.0}, **settings, **options)  # type: ignore[arg-type]


@pytest.fixture
def talks_file(tmp_path: Path) -> Path:
    """Short dialogues, three that are too long, and two that have fields that are ignored."""
    records = [{"messages": turns(f"q{i}", f"answer {i}")} for i in range(20)]
    records += [{"messages": turns("q", "7" * 500)} for _ in range(3)]
    for record in records[4:6]:
        record["messages"][0]["name"] = "Ann"
    (tmp_path / "talks.jsonl").write_text("\n".join(map(json.dumps, records)))
    return tmp_path / "talks.jsonl"


@pytest.mark.parametrize("hosts", [1, 2])
def test_a_loader_of_dialogues_resumes_exactly_on_any_number_of_hosts(
    talks_file: Path, small_tokenizer: Tokenizer, hosts: int
):
    batches = global_batches([loader(talks_file, small_tokenizer)])
    expected = [next(batches) for _ in range(12)]
    for begin in (1, 4, 7):
        state = through_json(expected[begin - 1][1])
        shares = np.split(state.positions, hosts)
        resumed = global_batches(
            [
                loader(talks_file, small_tokenizer, host=host, hosts=hosts, state=LoaderState(state.batch, share))
                for host, share in enumerate(shares)
            ]
        )
        for arrays, after in expected[begin:]:
            resumed_arrays, resumed_after = next(resumed)
            assert same_arrays(resumed_arrays, arrays) and np.array_equal(resumed_after.positions, after.positions)


def test_the_loader_counts_what_it_leaves_out_and_ignores_once(talks_file: Path, small_tokenizer: Tokenizer):
    batches = loader(talks_file, small_tokenizer)
    for _ in range(30):
        batches.next_batch()  # several epochs
    assert batches.left_out() == {"instruct": {"too_long": 3}}
    too_long, ignored = batches.left_out_lines()
    first = r"left out of instruct: 3 too_long (Packing.long_dialogues), the first talks.jsonl:"
    assert too_long.startswith(first) and int(too_long.removeprefix(first)) in (21, 22, 23)
    assert ignored in [f"ignored in instruct: the field name of 2 messages, the first talks.jsonl:{n}" for n in (5, 6)]


def test_a_corpus_of_dialogues_that_are_too_long_ends_the_run(talks_file: Path, small_tokenizer: Tokenizer):
    with pytest.raises(UserError, match=r"INSTRUCT_CORPUS: .* no usable .*too_long \(Packing.long_dialogues\)"):
        loader(talks_file, small_tokenizer, length=8).next_batch()


def test_the_fingerprint_covers_what_is_done_with_long_dialogues(talks_file: Path, small_tokenizer: Tokenizer):
    one, other = (
        loader(talks_file, small_tokenizer, long_dialogues=value).fingerprint() for value in (LAST_TURNS, LEAVE_OUT)
    )
    assert one != other
