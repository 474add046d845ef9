"""The gin files compose into the published recipe."""

import re

import pytest

from codellama_jax.config import gin_files
from codellama_jax.config.data import Chat, Corpus, Fim, Mixture, Tokenizer
from codellama_jax.config.gin_files import ROOT, load
from codellama_jax.config.model import Llama
from codellama_jax.config.run import UNRESOLVED
from codellama_jax.config.training import Checkpoints, Stage
from codellama_jax.sharding import axis_sizes
from tests.config.recipe import (
    COMBINATIONS,
    NOT_IN_THE_PAPER,
    REQUIRED,
    STAGES,
    configure,
    files,
    message,
)


@pytest.mark.parametrize("stage, size", COMBINATIONS)
def test_every_stage_composes_with_every_size(stage, size):
    config = configure(stage, size)
    assert (config.stage.name, config.stage.size) == (stage, size)
    assert config.stage.batch_size % config.data_loader.readers == 0
    assert config.adamw.warmup_steps < config.stage.steps or (stage, size) in NOT_IN_THE_PAPER
    assert config.tokenizer.infilling or config.fim.rate == 0
    if size == "local":
        assert config.llama.vocab_size == 0, "as many rows as the tokenizer needs"
    else:
        assert config.llama.vocab_size == 32_000 + 16 * config.tokenizer.infilling
    if config.stage.parent is not None and (stage, size) not in NOT_IN_THE_PAPER:
        parent = configure(config.stage.parent, size)
        assert parent.stage.name == config.stage.parent
        assert parent.llama.vocab_size <= config.llama.vocab_size, "the vocabulary may only grow"
        assert parent.llama.rope_theta <= config.llama.rope_theta
        assert parent.adamw.final_ratio == 1 / 30


# Sections 2.1 to 2.6: steps, batch tokens, length, peak learning rate, theta, FIM rate, vocabulary, parent.
M4, M2, M1 = 4_194_304, 2_097_152, 1_048_576
PAPER = {
    ("code", "7b"): (119_209, M4, 4096, 3e-4, 1e4, 0.9, 32_016, None),
    ("code", "13b"): (119_209, M4, 4096, 3e-4, 1e4, 0.9, 32_016, None),
    ("code", "34b"): (119_209, M4, 4096, 1.5e-4, 1e4, 0.0, 32_000, None),
    ("code", "70b"): (238_419, M4, 4096, 1.5e-4, 1e4, 0.9, 32_016, None),
    ("lcft", "7b"): (3_000, M2, 16_384, 2e-5, 1e6, 0.9, 32_016, "code"),
    ("lcft", "13b"): (10_000, M2, 16_384, 2e-5, 1e6, 0.9, 32_016, "code"),
    ("lcft", "34b"): (11_000, M1, 16_384, 2e-5, 1e6, 0.0, 32_000, "code"),
    ("lcft", "70b"): (10_000, M1, 16_384, 2e-5, 1e6, 0.9, 32_016, "code"),
    ("instruct", "7b"): (9_537, 524_288, 4096, 2e-5, 1e6, 0.9, 32_016, "lcft"),
    ("instruct", "34b"): (9_537, 524_288, 4096, 2e-5, 1e6, 0.0, 32_000, "lcft"),
    ("instruct", "70b"): (9_537, 524_288, 4096, 2e-5, 1e4, 0.0, 32_016, "python"),
    ("python_code", "7b"): (119_209, M4, 4096, 3e-4, 1e4, 0.0, 32_000, None),
    ("python_code", "34b"): (119_209, M4, 4096, 1.5e-4, 1e4, 0.0, 32_000, None),
    ("python", "13b"): (23_842, M4, 4096, 1e-4, 1e4, 0.0, 32_000, "python_code"),
    ("python", "34b"): (23_842, M4, 4096, 1e-4, 1e4, 0.0, 32_000, "python_code"),
    ("python", "70b"): (23_842, M4, 4096, 1e-4, 1e4, 0.0, 32_016, "code"),
    ("python_lcft", "7b"): (10_000, M2, 16_384, 2e-5, 1e6, 0.0, 32_000, "python"),
    ("python_lcft", "34b"): (11_000, M1, 16_384, 2e-5, 1e6, 0.0, 32_000, "python"),
}


@pytest.mark.parametrize("stage, size", PAPER)
def test_hyperparameters_are_those_of_the_paper(stage, size):
    config = configure(stage, size)
    assert PAPER[stage, size] == (
        config.stage.steps,
        config.stage.batch_tokens,
        config.stage.sequence_length,
        config.adamw.peak_learning_rate,
        config.llama.rope_theta,
        config.fim.rate,
        config.llama.vocab_size,
        config.stage.parent,
    )
    assert (config.adamw.beta1, config.adamw.beta2, config.adamw.final_ratio) == (0.9, 0.95, 1 / 30)
    if stage in ("code", "python_code", "python"):
        assert config.adamw.warmup_steps == 1000
    assert config.fim.psm_share == 0.5
    assert config.chat.format == ("source" if (stage, size) == ("instruct", "70b") else "inst")


@pytest.mark.parametrize(
    "size, at_32000, at_32016",
    [
        ("7b", 6_738_415_616, 6_738_546_688),
        ("13b", 13_015_864_320, 13_016_028_160),
        ("34b", 33_743_970_304, 33_744_232_448),
        ("70b", 68_976_648_192, 68_976_910_336),
    ],
)
def test_numbers_of_parameters_are_those_of_llama_2(size, at_32000, at_32016):
    assert configure("code", size, "Llama.vocab_size=32000").llama.parameters == at_32000
    assert configure("code", size, "Llama.vocab_size=32016").llama.parameters == at_32016


def test_mixture_shares_are_those_of_the_paper():
    code = {"code": 0.85, "nl_code": 0.08, "nl": 0.07}
    python = {"python": 0.75, "code": 0.10, "nl_code": 0.10, "nl": 0.05}
    instruct = {"instruct": 0.92, "code": 0.06, "nl": 0.02}
    expected = dict(zip(STAGES, (code, code, instruct, code, python, python), strict=True))
    assert {stage: configure(stage, "7b").mixture.shares for stage in STAGES} == expected


def test_long_context_stages_do_not_cut_documents():
    not_cut = {stage: configure(stage, "local").corpus.document_characters is None for stage in STAGES}
    assert not_cut == {stage: "lcft" in stage for stage in STAGES}
    assert configure("code", "7b").corpus.document_characters is None


@pytest.mark.parametrize("path", sorted((ROOT / "gin").rglob("*.gin")), ids=lambda path: path.stem)
def test_gin_files_are_short_and_have_a_header(path):
    text = path.read_text()
    assert text.count("\n") <= 60
    assert max(map(len, text.splitlines())) <= 120
    if path.stem not in ("data", "published", "downloaded"):
        header = text.partition("\n\n")[0]
        for part in ("python xm_launch.py --gin_file=gin/", "Chips:", "REQUIRED", "Commonly overridden:"):
            assert part in header


def test_the_shipped_stages_are_those_of_the_recipe_and_adapt():
    expected = sorted((*STAGES, "adapt"))
    assert gin_files.shipped_stages() == {stage: ROOT / "gin" / f"{stage}.gin" for stage in expected}


# Chips of the slice that each size file states; a host has four.
STATED = {"7b": 64, "13b": 64, "34b": 64, "70b": 256}


@pytest.mark.parametrize("stage, size", [(stage, size) for stage, size in COMBINATIONS if size in STATED])
def test_batches_divide_among_the_chips_that_a_size_file_states(stage, size):
    """Readers divide among the hosts, and the windows of a micro-batch among the devices of the mesh."""
    config, chips = configure(stage, size), STATED[size]
    assert f"which is {chips} chips" in (ROOT / f"gin/models/{size}.gin").read_text()
    assert config.stage.batch_size % config.data_loader.readers == 0 and config.data_loader.readers % (chips // 4) == 0
    windows = config.stage.batch_size // config.stage.micro_batches
    data, fsdp, context, tensor = axis_sizes(config.mesh, chips, 1, windows)
    assert (data, tensor) == (1, 1) and windows % fsdp == 0 and fsdp * context == chips
    assert config.stage.sequence_length % (2 * 128 * context) == 0, "each device has complete blocks of a window"


# ---------------------------------------------------------------- what is required


@pytest.mark.parametrize("stage, size", [(stage, size) for stage, size in COMBINATIONS if size != "local"])
def test_one_message_names_all_required_values(stage, size):
    loaded = load(files(stage, size), [])
    expected = {name for name, stages in REQUIRED.items() if stage in stages}
    expected |= {NOT_IN_THE_PAPER[stage, size]} if (stage, size) in NOT_IN_THE_PAPER else set()
    text = message(loaded.resolve)
    assert set(re.findall(r"--gin\.(\w+)=VALUE", text)) == expected
    assert "gin/published.gin" in text


def test_only_the_values_of_requested_parts_are_required():
    loaded = load(files("code", "7b"), ["CODE_CORPUS=/c", "NL_CODE_CORPUS=/n", "NL_CORPUS=/l"])
    config = loaded.resolve(Corpus, Stage)
    assert (config.corpus.code, config.stage.steps) == ("/c", 119_209)
    assert config.checkpoints is UNRESOLVED
    assert re.findall(r"--gin\.(\w+)=VALUE", message(loaded.resolve, Checkpoints, Tokenizer, Corpus)) == [
        "TOKENIZER",
        "INITIAL_CHECKPOINT",
    ]


def test_missing_values_inside_dicts_and_missing_files_are_reported(tmp_path):
    own = tmp_path / "own.gin"
    own.write_text("SHARE = %gin.REQUIRED\nMixture.shares = {'code': %SHARE, 'nl': 0.5}\n")
    loaded = load(["gin/code.gin", str(own)], [], default_size="local")
    assert "--gin.SHARE=VALUE" in message(loaded.resolve)
    loaded = load(["gin/code.gin", str(own)], ["SHARE=0.5"], default_size="local")
    assert loaded.resolve(Mixture).mixture.shares == {"code": 0.5, "nl": 0.5}

    nothing = load([], [])
    assert nothing.resolve(Fim, Chat).fim == Fim()
    assert "--gin_file=gin/code.gin" in message(nothing.resolve, Stage)
    assert "--gin_file=gin/models/7b.gin" in message(nothing.resolve, Llama)
