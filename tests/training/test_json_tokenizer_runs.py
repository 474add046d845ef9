"""A model with a tokenizer.json goes from an import through a stage to an export, and generates on the way."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tokenizer_families as families

from codellama_jax import convert, train
from codellama_jax.config.generation import Sampling, Serving
from codellama_jax.config.training import Checkpoints
from codellama_jax.conversion import tokenizer_agreement
from codellama_jax.conversion.generation_model import open_model
from codellama_jax.errors import UserError
from codellama_jax.generation import prompts
from codellama_jax.generation.engine import Engine
from codellama_jax.generation.stopping import TextStream, TokenTexts
from codellama_jax.tokenizer import Tokenizer, TokenNames, from_files, open_tokenizer
from codellama_jax.training import assets, inheritance
from tests.conversion.random_models import SIZES, Random

pytest.importorskip("tokenizers")

# A template whose names are those of the families: the first one that the tokenizer has.
TEMPLATE = (
    "{% set qwen = eos_token == '<|endoftext|>' %}{% for message in messages %}"
    "{{ '<|im_start|>' if qwen else '<|start_header_id|>' }}{{ message.role + '\n' + message.content }}"
    "{{ '<|im_end|>' if qwen else '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ ('<|im_start|>' if qwen else '<|start_header_id|>') + 'assistant\n' }}{% endif %}"
)
ROWS = 1_536  # more than the tokenizers have: the last rows are padding


@pytest.fixture(params=["qwen", "llama3"])
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of Hugging Face with random values and the files of a family's tokenizer."""
    from codellama_jax.conversion import hf

    folder = tmp_path / request.param
    folder.mkdir()
    hf.write(Random(dataclasses.replace(SIZES["7b"], vocab_size=ROWS), dtype="float32"), folder)
    files = families.files(request.param) | {"chat_template.jinja": TEMPLATE.encode()}
    assets.write(files, folder)
    config, ends = json.loads((folder / "config.json").read_text()), json.loads(files["generation_config.json"])
    del config["bos_token_id"]
    (folder / "config.json").write_text(json.dumps(config | ends))
    return folder


@pytest.mark.slow
def test_import_train_export_and_generate(theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ours, out, corpus = tmp_path / "ours", tmp_path / "out", tmp_path / "corpus"
    corpus.mkdir()
    for number in range(40):
        (corpus / f"{number}.py").write_text(f"def f{number}(x):\n    return x + {number}  # <|fim_prefix|></s>\n" * 4)
    messages = [{"role": "user", "content": "Hi <|im_end|>"}, {"role": "assistant", "content": "x = 1"}]
    (corpus.parent / "chat.jsonl").write_text((json.dumps({"messages": messages}) + "\n") * 9)
    assert convert.main(["import", f"--from={theirs}", f"--to={ours}"]) == 0
    stored = assets.find(theirs)
    assert assets.read(ours) == stored
    tokenizer = open_tokenizer(theirs, infilling=True)
    sizes = ("dim=64", "layers=3", "heads=4", "kv_heads=4", "ffn_dim=256")
    flags = [
        "--gin_file=gin/code.gin",
        "--gin_file=gin/models/local.gin",
        f"--run_dir={tmp_path}/runs",
        "--name=x",
        f"--gin.INITIAL_CHECKPOINT={ours}",
        f"--gin.TOKENIZER={theirs}",
        f"--gin.CODE_CORPUS={corpus}",
        f"--gin.INSTRUCT_CORPUS={corpus.parent / 'chat.jsonl'}",
        "--gin.Corpus.instruct=%INSTRUCT_CORPUS",
        "--gin.Mixture.shares={'code': 0.5, 'instruct': 0.5}",
        "--gin.Chat.format=template",
        "--gin.CODE_STEPS=2",
        "--gin.FIM_RATE=0.9",
        "--gin.Evaluation.final_benchmarks=[]",
        "--gin.Evaluation.samples=2",
        *(f"--gin.Llama.{size}" for size in sizes),
    ]
    assert train.main(flags) == 0, capsys.readouterr().err
    stage = tmp_path / "runs/x/code"
    carried = assets.read(stage / "checkpoints/2")
    if tokenizer.files == stored:
        assert carried == stored  # byte for byte
    else:  # new rows of infilling, which tokenizer.json names
        assert carried == stored | {"tokenizer.json": tokenizer.files["tokenizer.json"]}
    assert convert.main(["export", f"--from={stage}", f"--to={out}", "--format=hf"]) == 0
    config = json.loads((out / "config.json").read_text())
    ends = {"qwen": "<|im_end|>", "llama3": "<|eot_id|>"}[theirs.name]
    before = tokenizer_agreement.as_list(json.loads(stored["generation_config.json"])["eos_token_id"])
    after = list(dict.fromkeys([*before, tokenizer.control_ids[ends]]))  # an answer ends with the template's token
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == after == config["eos_token_id"]
    changed = {"generation_config.json"} if after != before else set()
    assert {name: data for name, data in assets.find(out).items() if name not in changed} == {
        name: data for name, data in carried.items() if name not in changed
    }
    assert config["vocab_size"] == ROWS
    assert config["bos_token_id"] == tokenizer.bos_id

    model = open_model(out, None, "float32")
    assert model.tokenizer.fingerprint == tokenizer.fingerprint and model.tokenizer.infilling
    assert (model.chat_format, model.dialogues) == ("template", True)
    prompt, _ = prompts.chat(model.tokenizer, messages[:1], model.dialogue_format(), room=200)
    serving = Serving(slots=1, context=256, chunks=(64,))
    engine = Engine(model.weights, model.llama, serving, model.tokenizer.rows)
    asked = engine.submit(prompt.ids, Sampling(max_tokens=8), prompt.stop_ids)
    while not asked.finished:
        engine.step()
    assert len(asked.tokens) <= 8 and tokenizer.control_ids[ends] in prompt.stop_ids
    before = open_model(theirs, None, "float32")
    assert before.tokenizer.infilling == families.FAMILIES[theirs.name]


def test_another_tokenizer_is_found_from_its_first_id_on(tmp_path: Path):
    folder = tmp_path / "imported"
    (folder / "assets").mkdir(parents=True)
    assets.write(families.files("llama3"), folder / "assets")
    same = from_files(families.files("llama3"), infilling=True)  # with four more rows than the parent
    assert inheritance.check_tokenizer(folder, same, Checkpoints(), "code") == []
    other = from_files(families.files("qwen"), infilling=True)
    with pytest.raises(UserError, match=r"differs from .*assets/tokenizer.json.* from id [0-9]+ on"):
        inheritance.check_tokenizer(folder, other, Checkpoints(), "code")


# --- prompts ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=families.FAMILIES)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return from_files(families.files(request.param), infilling=True)


def test_the_last_token_of_a_prompt_is_healed(tokenizer: Tokenizer):
    """The tokens that may come first start with the text of the token that is generated again."""
    texts = TokenTexts(tokenizer)
    prompt = prompts.complete(tokenizer, texts, "def f(self):\n    retu")
    assert prompt.allowed is not None and prompt.skip
    written = tokenizer.encode("def f(self):\n    return x").tolist()
    assert prompt.ids[: len(tokenizer.start_ids)] == tokenizer.start_ids
    for id in np.flatnonzero(prompt.allowed):
        assert texts(int(id)).startswith(prompt.skip)
    assert not {id for id in tokenizer.control_ids.values() if not texts(id)} & set(np.flatnonzero(prompt.allowed))
    stream = TextStream(texts, (), prompt.skip)
    rest = written[len(prompt.ids) - len(tokenizer.start_ids) :]
    if b"".join(map(texts, rest)).startswith(prompt.skip):
        assert "def f(self):\n    retu" + stream.add(rest) + stream.finish() == "def f(self):\n    return x"


def test_prompts_of_holes_have_the_order_that_the_family_prefers(tokenizer: Tokenizer):
    texts = TokenTexts(tokenizer)
    prompt = prompts.infill(tokenizer, texts, "def f(", "\n", healing=False)
    assert prompt.ids == tokenizer.infilling_prompt("def f(", "\n", tokenizer.orders[0]).tolist()
    assert prompt.stop_ids[0] == tokenizer.eot_id and tokenizer.eos_id in prompt.stop_ids
    assert prompts.complete(tokenizer, texts, "").ids == (tokenizer.start_ids or [tokenizer.eos_id])


def test_reserved_tokens_are_recorded_in_the_files(tmp_path: Path):
    names = TokenNames(infilling=tuple(f"<|reserved_special_token_{number}|>" for number in range(4)))
    bound = from_files(families.files("llama3"), True, names=names)
    again = from_files(bound.files, infilling=True)
    assert again.prefix_id == bound.control_ids["<|reserved_special_token_0|>"]
