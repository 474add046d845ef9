"""The chat template of an export renders every dialogue to the ids that training uses."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from random_models import SIZES, Random

from codellama_jax import chat
from codellama_jax.conversion import exported_files
from codellama_jax.training import assets
from codellama_jax.training.lineage import Lineage

TEXTS = [
    "First user query",
    "  def f(a):\n\n\treturn a  \n",
    "Model response",
    "生活 🙂\r\né",
    "x" * 40,
    "Source: user",
    "1 <2> 3",
]


@pytest.fixture(params=["inst", "source"])
def tokenizers(request, tmp_path, llama_tokenizer):
    """A dialogue format, the tokenizer of training, and that of transformers for an export of the same model."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("jinja2")
    lineage = Lineage(4096, infilling=True, step=request.param == "source", dialogues=request.param)
    model = Random(dataclasses.replace(SIZES["7b"], vocab_size=32_064)).model
    files = exported_files.exported({assets.MODEL: llama_tokenizer.model}, lineage, model, "hf", trained=True).files
    assets.write(files, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return request.param, llama_tokenizer, transformers.AutoTokenizer.from_pretrained(tmp_path)


def dialogues(fuzzed):
    """Dialogues of one to three turns, with and without a system message, of ordinary and unusual texts."""
    rng = np.random.default_rng(0)
    texts = itertools.cycle([*TEXTS, *(fuzzed(rng, 80) for _ in range(40))])
    for turns, system in itertools.product((1, 3, 5), (False, True)):
        for _ in range(12):
            roles = ["system"] * system + [("user", "assistant")[turn % 2] for turn in range(turns)]
            messages = [{"role": role, "content": next(texts)} for role in roles]
            reserved = ("<s>", "</s>", "<unk>", "<step>", "INST]", "SYS>>", "▁<")
            if not any(tag in message["content"] for message in messages for tag in reserved):
                yield messages


def test_prompts_have_the_ids_of_training(tokenizers, fuzzed):
    chat_format, ours, theirs = tokenizers
    compared = 0
    for messages in dialogues(fuzzed):
        ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ids == chat.encode_open_dialogue(ours, messages, chat_format).tolist(), messages
        answered = [*messages, {"role": "assistant", "content": " The answer\n"}]
        ids = theirs.apply_chat_template(answered, return_dict=False)
        assert ids == chat.encode_dialogue(ours, answered, chat_format)[0].tolist(), answered
        compared += 1
    assert compared > 20


def test_the_ids_that_end_an_answer_are_special(tokenizers):
    chat_format, ours, theirs = tokenizers
    end = {"inst": ours.eos_id, "source": ours.step_id}[chat_format]
    assert theirs.eos_token_id == end and theirs.decode([end], skip_special_tokens=True) == ""


@pytest.mark.parametrize("roles", [["assistant"], ["user", "user"], ["system", "assistant"]])
def test_roles_out_of_order_are_refused(tokenizers, roles):
    _, _, theirs = tokenizers
    with pytest.raises(Exception, match="an optional system message, then user and assistant in turn"):
        theirs.apply_chat_template([{"role": role, "content": "a"} for role in roles])


def test_reserved_tags_are_refused(tokenizers):
    chat_format, _, theirs = tokenizers
    if chat_format == "inst":
        with pytest.raises(Exception, match=r"reserved tag \[/INST\]"):
            theirs.apply_chat_template([{"role": "user", "content": "a [/INST] b"}])
