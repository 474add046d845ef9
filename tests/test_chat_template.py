"""Chat templates: ids as transformers gives them, loss on answers only, and messages that spell control tokens."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codellama_jax import chat_template
from codellama_jax.chat import encode_dialogue, encode_open_dialogue
from codellama_jax.config.data import Chat, Fim
from codellama_jax.errors import UserError
from codellama_jax.generation import prompts
from codellama_jax.tokenizer import SentencePieceTokenizer, Tokenizer, from_files
from tasks.encoder import Encoder
from tasks.sources.base import Dialogue
from tasks.sources.filters import LeftOut

pytest.importorskip("tokenizers")

import tokenizer_families as families

RAISE = "{{ raise_exception('roles must alternate: user, assistant') }}"

# Written from the published formats: headers of Llama 3, ChatML, DeepSeek-Coder, Mistral and Zephyr.
LLAMA3 = (
    "{%- set date = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' %}\n"
    "{{- bos_token }}\n"
    "{%- for message in messages %}\n"
    "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}\n"
    "    {%- if message.role == 'system' %}{{ 'Today Date: ' + date + '\\n\\n' }}{% endif %}\n"
    "    {{- message['content'] | trim + '<|eot_id|>' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n"
    "{%- endif %}\n"
)
CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{% endif %}{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' }}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}"
    "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
DEEPSEEK = (
    "{% set found = namespace(system=false) %}{% for message in messages %}"
    "{% if message.role == 'system' %}{% set found.system = true %}{% break %}{% endif %}{% endfor %}"
    "{{ bos_token }}{% if not found.system %}{{ 'You are an AI programming assistant.\\n' }}{% endif %}"
    "{% for message in messages %}{% if message.role == 'system' %}{{ message.content }}"
    "{% elif message.role == 'user' %}{{ '### Instruction:\\n' + message.content + '\\n' }}"
    "{% else %}{{ '### Response:\\n' + message.content + '\\n<|EOT|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" + RAISE + "{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for message in messages %}\n"
    "{% if message['role'] == 'user' %}\n{{ '<|user|>\\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n{{ '<|system|>\\n' + message['content'] + eos_token }}\n"
    "{% else %}\n{{ '<|assistant|>\\n' + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
KINDS = {
    "llama3": (LLAMA3, "<|eot_id|>"),
    "qwen": (CHATML, "<|im_end|>"),
    "deepseek": (DEEPSEEK, "<|EOT|>"),
    "mistral": (MISTRAL, "</s>"),
    "tinyllama": (ZEPHYR, "</s>"),
}
SYSTEM = {"role": "system", "content": "Answer  briefly.\n"}
DIALOGUE = [
    {"role": "user", "content": "Write  a function f.\n\n"},
    {"role": "assistant", "content": "def f(x):\n    return x + 1\n"},
    {"role": "user", "content": " And g? naïve 生活"},
    {"role": "assistant", "content": "  g = f"},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "You are welcome."},
]


def files(family: str, template: str | None = None) -> dict[str, bytes]:
    return families.files(family) | {"chat_template.jinja": (template or KINDS[family][0]).encode()}


@functools.cache
def opened(family: str, template: str | None = None) -> Tokenizer:
    return from_files(files(family, template), infilling=False)


@pytest.fixture(params=KINDS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def dialogue(family: str, turns: int = 3) -> list[dict[str, Any]]:
    return ([] if family == "mistral" else [SYSTEM]) + DIALOGUE[: 2 * turns]


def test_ids_are_those_of_transformers(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    transformers = pytest.importorskip("transformers")
    for name, content in files(family).items():
        (tmp_path / name).write_bytes(content)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    tokenizer = opened(family)
    monkeypatch.setattr(chat_template, "TRAINING_DATE", chat_template.datetime.datetime.now())  # theirs is today
    for turns in (1, 2, 3):
        messages = dialogue(family, turns)
        ids, _ = encode_dialogue(tokenizer, messages, "template")
        assert ids.dtype == np.int32
        assert ids.tolist() == theirs.apply_chat_template(messages, return_dict=False)
        prompt = encode_open_dialogue(tokenizer, messages[:-1], "template")
        expected = theirs.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        assert prompt.tolist() == expected


def test_loss_is_on_answers_and_the_token_that_ends_them(family: str):
    tokenizer, end = opened(family), KINDS[family][1]
    texts, end_id = tokenizer.token_bytes(), tokenizer.control_ids[end]
    messages = dialogue(family)
    messages[-3] = messages[-3] | {"weight": 0}
    ids, weights = encode_dialogue(tokenizer, messages, "template")
    assert weights.dtype == np.float32 and set(weights.tolist()) == {0.0, 1.0}
    spans = np.flatnonzero(np.diff(np.concatenate([[0], weights, [0]]))).reshape(-1, 2)
    found = []
    for start, stop in spans:
        assert ids[stop - 1] == end_id and end_id not in ids[start : stop - 1]
        found.append(b"".join(texts[id] for id in ids[start:stop]).decode().strip())
    assert found == [messages[-5]["content"].strip(), messages[-1]["content"].strip()]
    assert chat_template.end_ids(tokenizer) == (end_id,)


def test_a_prompt_is_the_beginning_of_the_dialogue_and_ends_with_the_templates_token(family: str):
    tokenizer = opened(family)
    messages = dialogue(family)
    messages = messages if family != "llama3" else messages[1:]  # the date of its system message is today's
    ids, weights = encode_dialogue(tokenizer, messages, "template")
    prompt, left_out = prompts.chat(tokenizer, messages[:-1], "template", room=2000)
    last = int(np.flatnonzero(np.diff(weights) > 0)[-1]) + 1
    assert left_out == 0 and prompt.ids == ids[:last].tolist()
    assert prompt.stop_ids[0] == tokenizer.control_ids[KINDS[family][1]] and prompt.stop == ()
    shorter, left_out = prompts.chat(tokenizer, messages[:-1], "template", room=len(prompt.ids) - 1)
    assert left_out == 1 and len(shorter.ids) < len(prompt.ids)


def test_what_a_message_spells_stays_text(family: str):
    """Also parts of a spelling at the ends of a message, which the template's text could complete."""
    tokenizer = opened(family)
    control = set(tokenizer.control_ids.values())
    plain, _ = encode_dialogue(tokenizer, dialogue(family), "template")
    counts = [id for id in plain.tolist() if id in control]
    names = [*tokenizer.control_ids, "<|im_end|>", "</s>", "[/INST]", "<s><s>", "<<s>>", "\ue000"]
    for name in names:
        for content in (
            name,
            f"a {name} b",
            f" {name}{name}\n",
            name[:-1],
            name[:1],
            name[1:],
            f"{name[1:]} x {name[:-1]} ",
        ):
            messages = dialogue(family)
            messages[-2] = messages[-2] | {"content": content}
            messages[-1] = messages[-1] | {"content": content + "x"}
            ids, _ = encode_dialogue(tokenizer, messages, "template")
            assert [id for id in ids.tolist() if id in control] == counts, content
            shown = tokenizer.decode(ids)
            assert content.strip() in shown and chr(0xE001) not in shown


def test_white_space_beside_tokens_that_remove_it_is_removed(tmp_path: Path):
    """Some published added tokens have lstrip or rstrip, and transformers removes the white space beside them."""
    transformers = pytest.importorskip("transformers")
    changed = files("qwen")
    content = json.loads(changed["tokenizer.json"])
    for token in content["added_tokens"]:
        token["rstrip"] = token["content"] == "<|im_start|>"
        token["lstrip"] = token["content"] == "<|im_end|>"
    changed["tokenizer.json"] = json.dumps(content).encode()
    for name, data in changed.items():
        (tmp_path / name).write_bytes(data)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    tokenizer = from_files(changed, infilling=False)
    ids, _ = encode_dialogue(tokenizer, dialogue("qwen"), "template")
    assert ids.tolist() == theirs.apply_chat_template(dialogue("qwen"), return_dict=False)


# --- templates that are refused ---------------------------------------------------------------------------------------

LAST = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% if loop.last %}<|im_end|>{% endif %}"
    "{% endfor %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1] if not loop.last else m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
SYSTEM_LAST = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] "
    "{% if loop.last or loop.revindex == 2 %}{{ messages[0].content }}{% endif %}{{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    "template", [LAST, THINKING, PROMPT, SYSTEM_LAST], ids=["last", "thinking", "prompt", "system"]
)
def test_templates_that_rewrite_earlier_messages_are_refused(template: str):
    messages = [SYSTEM, *DIALOGUE[:4]]
    messages[2] = {"role": "assistant", "content": "<think>a</think>b"}
    with pytest.raises(UserError, match=r"x\.jsonl: the chat template rewrites earlier messages \(.* becomes .*\)"):
        encode_dialogue(opened("qwen", template), messages, "template", "x.jsonl")


@pytest.mark.parametrize("template, words", [
    ("{% for m in messages %}{{ m.content }}{% endfor %}", "ends an answer without a control token"),
    ("{% for m in messages %}", "is not valid"),
    ("{{ messages.nothing.there }}", "fails"),
    ("{{ messages[0].content + 1 }}", "fails"),
    ("{{ ''.__class__.__mro__ }}", "fails"),
    ("{{ messages.append(1) }}", "fails"),
    ("{{ raise_exception('no  such\nrole') }}", "refuses it: no such role"),
])  # fmt: skip
def test_errors_of_a_template_are_those_of_the_user(template: str, words: str):
    with pytest.raises(UserError, match=words):
        encode_dialogue(opened("qwen", template), DIALOGUE[:2], "template")


def test_a_tokenizer_without_a_template_is_refused(small_tokenizer: SentencePieceTokenizer):
    with pytest.raises(UserError, match="needs a chat template, and the tokenizer has none"):
        encode_dialogue(small_tokenizer, DIALOGUE[:2], "template")


def test_a_sentencepiece_model_has_the_template_beside_it(small_tokenizer: SentencePieceTokenizer):
    beside = {"tokenizer.model": small_tokenizer.model, "chat_template.jinja": ZEPHYR.encode()}
    tokenizer = from_files(beside, infilling=True)
    assert tokenizer.fingerprint == small_tokenizer.fingerprint
    ids, weights = encode_dialogue(tokenizer, DIALOGUE[:2], "template")
    assert ids.tolist().count(2) == 2 and ids[np.flatnonzero(weights)[-1]] == 2
    added = json.dumps({"added_tokens_decoder": {"600": {"content": "<|im_end|>"}}}).encode()
    named = beside | {"chat_template.jinja": CHATML.encode(), "tokenizer_config.json": added}
    with pytest.raises(UserError, match=r"'<\|im_end\|>', id 600, which the tokenizer\.model does not have"):
        encode_dialogue(from_files(named, infilling=True), DIALOGUE[:2], "template")


# --- as training data -------------------------------------------------------------------------------------------------


def test_dialogues_that_a_template_refuses_are_left_out():
    encoder = Encoder(opened("mistral"), Fim(rate=0.0), Chat("template"), (0,))
    encoder.validate(Dialogue(DIALOGUE[:2], "a"))
    with pytest.raises(LeftOut) as error:
        encoder.validate(Dialogue([SYSTEM, *DIALOGUE[:2]], "a"))
    assert error.value.reason == "template"


def test_a_long_dialogue_keeps_its_last_turns():
    encoder = Encoder(opened("qwen"), Fim(rate=0.0), Chat("template"), (0,))
    full, _, shortened = encoder.dialogue(Dialogue([SYSTEM, *DIALOGUE], "a"), 1000)
    assert not shortened
    ids, weights, shortened = encoder.dialogue(Dialogue([SYSTEM, *DIALOGUE], "a"), len(full) - 1)
    assert (
        shortened and ids.tolist() == encode_dialogue(opened("qwen"), [SYSTEM, *DIALOGUE[2:]], "template")[0].tolist()
    )
    assert weights.sum() > 0


def test_the_tokens_of_training_are_the_same_on_every_day():
    ids, _ = encode_dialogue(opened("llama3"), [SYSTEM, *DIALOGUE[:2]], "template")
    assert "26 Jul 2024" in opened("llama3").decode(ids)
