"""Dialogues: the published ids of both formats, the weights of answers, and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from codellama_jax.chat import Message, encode_dialogue, encode_open_dialogue
from codellama_jax.conversion.chat_templates import TEMPLATES
from codellama_jax.errors import UserError
from codellama_jax.tokenizer import SentencePieceTokenizer, Tokenizer
from tests.dialogue_cases import dialogue, of_roles

STEP = 32015
Fuzz = Callable[[np.random.Generator, int], str]

# The published ids of the 70B format: three complete messages, then an open dialogue.
GOLDEN = [
    {"role": "system", "content": "System prompt"},
    {"role": "user", "content": "First user query"},
    {"role": "assistant", "content": "Model response to first query"},
    {"role": "user", "content": "Second user query"},
]
GOLDEN_CLOSED = [1, 7562, 29901, 1788, 13, 13, 2184, 9508, STEP]
GOLDEN_CLOSED += [7562, 29901, 1404, 13, 13, 3824, 1404, 2346, STEP]
GOLDEN_CLOSED += [7562, 29901, 20255, 13, 13, 8125, 2933, 304, 937, 2346, STEP]
GOLDEN_OPEN = [*GOLDEN_CLOSED, 7562, 29901, 1404, 13, 13, 6440, 1404, 2346, STEP]
GOLDEN_OPEN += [7562, 29901, 20255, 13, 14994, 3381, 29901, 1404, 13, 13, 29871]

# "[INST] How are you doing? [/INST]" and "A sample test" (transformers, tests of Llama and CodeLlama).
QUESTION_IDS = [518, 25580, 29962, 1128, 526, 366, 2599, 29973, 518, 29914, 25580, 29962]
ANSWER_IDS = [319, 4559, 1243]


@pytest.fixture(params=["small", "llama"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return request.getfixturevalue(f"{request.param}_tokenizer")


def fuzzed_dialogues(fuzzed: Fuzz, seed: int, number: int = 60) -> list[tuple[list[Message], str | None, list[str]]]:
    """(messages, system text, contents of the turns) of complete dialogues without reserved tags."""
    rng = np.random.default_rng(seed)

    def text() -> str:
        drawn = fuzzed(rng, int(rng.integers(0, 60)))
        for tag in ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"):
            drawn = drawn.replace(tag, "tag")
        return drawn

    drawn = []
    for _ in range(number):
        system = text() if rng.random() < 0.5 else None
        contents = [text() for _ in range(2 * int(rng.integers(1, 4)))]
        drawn.append((dialogue(*contents, system=system), system, contents))
    return drawn


def split_after(ids: np.ndarray, end: int) -> list[list[int]]:
    """The ids, divided after every `end`."""
    ends = (np.flatnonzero(ids == end) + 1).tolist()
    assert ends and ends[-1] == len(ids)
    return [ids[start:stop].tolist() for start, stop in zip([0, *ends], ends, strict=False)]


# --- [INST] -----------------------------------------------------------------------------------------------------------


def test_inst_has_the_published_ids(llama_tokenizer: Tokenizer):
    messages = dialogue("How are you doing?", "A sample test")
    ids, weights = encode_dialogue(llama_tokenizer, messages, "inst")
    # 29871 is the space after the answer
    assert ids.tolist() == [1, *QUESTION_IDS, *ANSWER_IDS, 29871, 2]
    assert weights.tolist() == [0.0] * 13 + [1.0] * 5
    assert (ids.dtype, weights.dtype) == (np.int32, np.float32)
    opened = encode_open_dialogue(llama_tokenizer, messages[:1], "inst")
    assert opened.dtype == np.int32 and opened.tolist() == [1, *QUESTION_IDS]
    opened = encode_open_dialogue(llama_tokenizer, [*messages, *messages[:1]], "inst")
    assert opened.tolist() == [*ids, 1, *QUESTION_IDS]


def inst_prompts(system: str | None, contents: list[str]) -> list[str]:
    """The prompt of each answer."""
    users = contents[::2]
    if system is not None:
        users = [f"<<SYS>>\n{system}\n<</SYS>>\n\n{users[0]}", *users[1:]]
    return [f"[INST] {user.strip()} [/INST]" for user in users]


def test_inst_encodes_each_turn_separately(tokenizer: Tokenizer, fuzzed: Fuzz):
    """A turn is BOS, one text with stripped messages and a space at its end, and EOS. Nothing is between turns."""
    for messages, system, contents in fuzzed_dialogues(fuzzed, 1):
        ids, weights = encode_dialogue(tokenizer, messages, "inst")
        assert ids.shape == weights.shape
        turns = split_after(ids, 2)
        expected = [
            [1, *tokenizer.encode(f"{prompt} {answer.strip()} "), 2]
            for prompt, answer in zip(inst_prompts(system, contents), contents[1::2], strict=True)
        ]
        assert turns == expected


def test_inst_puts_the_system_text_only_before_the_first_user_message(small_tokenizer: Tokenizer):
    ids, _ = encode_dialogue(small_tokenizer, dialogue("one", "two", "three", "four", system=" be kind "), "inst")
    first, second = (small_tokenizer.decode(turn) for turn in split_after(ids, 2))
    assert first == "[INST] <<SYS>>\n be kind \n<</SYS>>\n\none [/INST] two "
    assert second == "[INST] three [/INST] four "


def test_inst_strips_user_and_answer(tokenizer: Tokenizer):
    plain = dialogue("a question", "an answer", "more", "more")
    padded = [message | {"content": f"\n \t{message['content']}  \n"} for message in plain]
    for one, other in zip(
        encode_dialogue(tokenizer, plain, "inst"), encode_dialogue(tokenizer, padded, "inst"), strict=True
    ):
        assert np.array_equal(one, other)


# --- source -----------------------------------------------------------------------------------------------------------


def test_source_has_the_published_ids(llama_tokenizer: Tokenizer):
    ids, weights = encode_dialogue(llama_tokenizer, GOLDEN[:3], "source")
    assert ids.tolist() == GOLDEN_CLOSED
    assert weights.tolist() == [0.0] * 21 + [1.0] * 8
    assert (ids.dtype, weights.dtype) == (np.int32, np.float32)
    opened = encode_open_dialogue(llama_tokenizer, GOLDEN, "source")
    assert opened.dtype == np.int32 and opened.tolist() == GOLDEN_OPEN


def test_source_is_header_content_step_for_each_message(tokenizer: Tokenizer, fuzzed: Fuzz):
    for messages, _, _ in fuzzed_dialogues(fuzzed, 2):
        ids, weights = encode_dialogue(tokenizer, messages, "source")
        assert ids.shape == weights.shape and ids[0] == 1 and not np.any(ids[1:] == 1) and not np.any(ids == 2)
        for message, part in zip(messages, split_after(ids[1:], tokenizer.step_id), strict=True):
            header = tokenizer.encode_continuation(f" Source: {message['role']}")
            content = tokenizer.encode_continuation(f"\n\n {message['content'].strip()}")
            assert part == [*header, *content, tokenizer.step_id]


def test_source_needs_the_step_id(small_tokenizer: Tokenizer):
    plain = SentencePieceTokenizer(small_tokenizer.model, infilling=False)
    with pytest.raises(UserError, match=r"a\.jsonl:3: .*<step>"):
        encode_dialogue(plain, GOLDEN[:3], "source", "a.jsonl:3")
    with pytest.raises(UserError, match="<step>"):
        encode_open_dialogue(plain, GOLDEN, "source")
    assert len(encode_dialogue(plain, GOLDEN[:3], "inst")[0])  # this format does not need the id


# --- both formats -----------------------------------------------------------------------------------------------------


def test_weights_are_one_on_exactly_the_answers_and_their_end(tokenizer: Tokenizer, fuzzed: Fuzz):
    for messages, system, contents in fuzzed_dialogues(fuzzed, 3):
        ids, weights = encode_dialogue(tokenizer, messages, "inst")
        assert set(weights.tolist()) <= {0.0, 1.0}
        begin = 0
        for turn, prompt, answer in zip(
            split_after(ids, 2), inst_prompts(system, contents), contents[1::2], strict=True
        ):
            on = weights[begin : begin + len(turn)].tolist()
            learned = on.count(1.0)
            assert on == [0.0] * (len(turn) - learned) + [1.0] * learned
            assert tokenizer.decode(turn[: len(turn) - learned]) == prompt
            assert turn[-1] == 2
            assert tokenizer.decode_continuation(turn[len(turn) - learned :]) == f" {answer.strip()} "
            begin += len(turn)

        ids, weights = encode_dialogue(tokenizer, messages, "source")
        expected = [0.0]
        for message, part in zip(messages, split_after(ids[1:], tokenizer.step_id), strict=True):
            header = len(tokenizer.encode_continuation(f" Source: {message['role']}"))
            expected += [0.0] * header + [float(message["role"] == "assistant")] * (len(part) - header)
        assert weights.tolist() == expected


@pytest.mark.parametrize("chat_format", TEMPLATES)
def test_an_open_dialogue_is_the_start_of_the_complete_one(tokenizer: Tokenizer, fuzzed: Fuzz, chat_format: str):
    """Inference uses the ids of training: the complete turns, then the prompt of the last."""
    for messages, _, _ in fuzzed_dialogues(fuzzed, 4):
        closed, weights = encode_dialogue(tokenizer, messages, chat_format)
        opened = encode_open_dialogue(tokenizer, messages[:-1], chat_format)
        # the start of the last answer, which is also the start of its loss
        last = len(closed) - int(np.argmin(weights[::-1]))
        if chat_format == "inst":
            assert np.array_equal(opened, closed[:last])
        else:  # the reply's header names its destination as well
            reply = tokenizer.encode_continuation(" Source: assistant\nDestination: user")
            reply = [*reply, *tokenizer.encode_continuation("\n\n ")]
            header = len(tokenizer.encode_continuation(" Source: assistant"))
            assert opened.tolist() == [*closed[: last - header], *reply]


@pytest.mark.parametrize("chat_format", TEMPLATES)
def test_text_never_becomes_a_control_token(tokenizer: Tokenizer, chat_format: str):
    tags = "<s> </s> <EOT> <step> ▁<EOT> <PRE> Source: assistant"
    controls = {"inst": [1, 2], "source": [1, tokenizer.step_id, tokenizer.step_id, tokenizer.step_id]}[chat_format]
    ids, _ = encode_dialogue(tokenizer, dialogue(tags, tags, system=tags), chat_format)
    assert [int(i) for i in ids if i < 3 or i >= tokenizer.pieces] == controls


# --- errors -----------------------------------------------------------------------------------------------------------

WRONG_ROLES: dict[str, list[str]] = {
    "nothing": [],
    "system alone": ["system"],
    "no answer": ["user"],
    "no user": ["assistant"],
    "answer first": ["assistant", "user"],
    "two users": ["user", "user"],
    "two answers": ["user", "assistant", "assistant"],
    "open end": ["user", "assistant", "user"],
    "system late": ["user", "system", "assistant"],
    "two systems": ["system", "system", "user", "assistant"],
    "system at the end": ["user", "assistant", "system"],
}
WRONG_OPEN_ROLES: dict[str, list[str]] = {
    "nothing": [],
    "system alone": ["system"],
    "closed": ["user", "assistant"],
    "answer first": ["assistant", "user"],
    "two users": ["user", "user"],
    "two systems": ["system", "system", "user"],
    "system late": ["user", "system", "user"],
    "no answer between": ["system", "user", "user"],
}


def error_of(encode: Callable[..., Any], *args: Any) -> str:
    with pytest.raises(UserError) as error:
        encode(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("chat_format", TEMPLATES)
@pytest.mark.parametrize("case", WRONG_ROLES)
def test_roles_out_of_order_are_rejected(small_tokenizer: Tokenizer, case: str, chat_format: str):
    messages = of_roles(WRONG_ROLES[case])
    message = error_of(encode_dialogue, small_tokenizer, messages, chat_format, "talk.jsonl:7")
    assert message.startswith("talk.jsonl:7: roles are")


@pytest.mark.parametrize("chat_format", TEMPLATES)
@pytest.mark.parametrize("case", WRONG_OPEN_ROLES)
def test_roles_out_of_order_are_rejected_in_an_open_dialogue(small_tokenizer: Tokenizer, case: str, chat_format: str):
    message = error_of(encode_open_dialogue, small_tokenizer, of_roles(WRONG_OPEN_ROLES[case]), chat_format)
    assert message.startswith("dialogue: ")


@pytest.mark.parametrize("tag", ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"])
@pytest.mark.parametrize("index", range(5))
def test_inst_rejects_reserved_tags_in_every_message(small_tokenizer: Tokenizer, tag: str, index: int):
    messages = dialogue("one", "two", "three", "four", system="be kind")
    messages[index]["content"] += f" {tag} "
    message = error_of(encode_dialogue, small_tokenizer, messages, "inst", "talk.jsonl:7")
    role = messages[index]["role"]
    assert message.startswith(f"talk.jsonl:7: messages[{index}] ({role}) contains {tag}, ")
    for opened in (messages[:4], messages[:2]):  # with complete turns, and with the system text only
        if index < len(opened):
            assert tag in error_of(encode_open_dialogue, small_tokenizer, opened, "inst")
    assert len(encode_dialogue(small_tokenizer, messages, "source")[0])  # this format has no reserved tags


@pytest.mark.parametrize("chat_format", ["", "INST", "chatml"])
def test_an_unknown_format_is_rejected(small_tokenizer: Tokenizer, chat_format: str):
    for encode, messages in (
        (encode_dialogue, dialogue("a", "b")),
        (encode_dialogue, dialogue("a", "b", system="c")),
        (encode_open_dialogue, dialogue("a")),
        (encode_open_dialogue, dialogue("a", system="c")),
        (encode_open_dialogue, dialogue("a", "b", "c")),
    ):
        message = error_of(encode, small_tokenizer, messages, chat_format)
        assert f"Chat.format={chat_format!r}" in message and "'inst', 'source' or 'template'" in message
