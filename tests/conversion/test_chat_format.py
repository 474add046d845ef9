"""The dialogue format and the name of a model, from what its checkpoint carries."""

import json
from pathlib import Path

import pytest

from codellama_jax.conversion import chat_format
from codellama_jax.conversion.chat_format import ChatFormat
from codellama_jax.conversion.chat_templates import TEMPLATES
from codellama_jax.conversion.generation_model import model_name
from codellama_jax.training.lineage import Lineage

CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
MISTRAL = "{{ bos_token }}{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}"
LLAMA_2 = "{{ bos_token + '[INST] ' + '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + content + ' [/INST]' }}"
META_70B = "{{ '<s>' }}{{ 'Source: ' + message['role'] + '\\n\\n ' + content + ' <step> ' }}"


def config(template: object) -> dict[str, bytes]:
    return {"tokenizer_config.json": json.dumps({"chat_template": template}).encode()}


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (TEMPLATES["inst"], "inst"),
        (TEMPLATES["source"], "source"),
        (LLAMA_2, "inst"),
        (META_70B, "source"),
        (CHATML, "template"),
        (MISTRAL, "template"),
        ([{"name": "tools", "template": CHATML}, {"name": "default", "template": LLAMA_2}], "inst"),
    ],
)
def test_a_chat_template_states_the_format(template: object, name: str):
    assert chat_format.of_checkpoint(config(template), Lineage(256), 512) == ChatFormat(name, stated=True)


def test_a_template_in_a_file_of_its_own_comes_first():
    files = config(TEMPLATES["inst"]) | {"chat_template.jinja": CHATML.encode()}
    assert chat_format.of_checkpoint(files, Lineage(256), 512).name == "template"
    files = config(CHATML) | {"chat_template.json": json.dumps({"chat_template": META_70B}).encode()}
    assert chat_format.of_checkpoint(files, Lineage(256), 512).name == "source"


def test_a_stage_with_dialogues_comes_before_the_template_of_its_import():
    lineage = Lineage(256, dialogues="source")
    assert chat_format.of_checkpoint(config(CHATML), lineage, 512) == ChatFormat("source", stated=True)


def test_without_a_template_step_decides():
    assert chat_format.of_checkpoint({}, Lineage(256), 512) == ChatFormat("inst", stated=False)
    assert chat_format.of_checkpoint({}, Lineage(256, step=True), 512) == ChatFormat("source", stated=False)
    named = {"added_tokens.json": json.dumps({"<step>": 527}).encode()}
    assert chat_format.of_checkpoint(named, Lineage(256), 512).name == "source"


def test_the_name_of_a_model_is_that_of_its_run_and_stage_or_of_its_folder(tmp_path: Path, monkeypatch):
    stage = tmp_path / "local" / "code"
    (stage / "checkpoints" / "100").mkdir(parents=True)
    assert model_name(stage) == model_name(stage / "checkpoints" / "100") == "local-code"
    monkeypatch.chdir(stage)
    assert model_name(Path()) == model_name(Path("../code")) == "local-code"
    (tmp_path / "CodeLlama-7b-hf").mkdir()
    assert model_name(tmp_path / "CodeLlama-7b-hf") == "CodeLlama-7b-hf"
    (tmp_path / "stories260K.bin").write_bytes(b"")
    assert model_name(tmp_path / "stories260K.bin") == "stories260K"
