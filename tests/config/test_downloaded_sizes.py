"""The sizes of published models have the shapes of their config.json: their parameters are counted."""

import pytest

from codellama_jax.config.gin_files import ROOT, load
from tests.config.recipe import GIVEN, files, message

# Number of parameters, base of RoPE, type and factor of its scaling, vocabulary: of the published models.
SIZES = {
    "llama3.2-1b": (1_235_814_400, 5e5, "llama3", 32.0, 128_256),
    "llama3.1-8b": (8_030_261_248, 5e5, "llama3", 8.0, 128_256),
    "deepseek-coder-1.3b": (1_346_471_936, 1e5, "linear", 4.0, 32_256),
    "deepseek-coder-6.7b": (6_740_512_768, 1e5, "linear", 4.0, 32_256),
    "qwen2.5-coder-0.5b": (494_032_768, 1e6, "default", 1.0, 151_936),
    "qwen2.5-coder-1.5b": (1_543_714_304, 1e6, "default", 1.0, 151_936),
    "qwen2.5-coder-7b": (7_615_616_512, 1e6, "default", 1.0, 152_064),
    "tinyllama": (1_100_048_384, 1e4, "default", 1.0, 32_000),
}
TRAINING = {
    "code": ["CODE_STEPS=2000", "CODE_LEARNING_RATE=1e-5"],
    "lcft": ["LCFT_STEPS=2000", "LCFT_BATCH_TOKENS=524288"],
    "instruct": [],
    "python": [],
}


@pytest.mark.parametrize("size", SIZES)
def test_every_stage_keeps_the_published_model(size):
    parameters, theta, kind, factor, vocabulary = SIZES[size]
    for stage, bindings in TRAINING.items():
        llama = load(files(stage, size), [*GIVEN, *bindings]).resolve().llama
        assert (llama.parameters, llama.rope_theta, llama.vocab_size) == (parameters, theta, vocabulary)
        scaling = ("linear", 1 / llama.rope_scale) if llama.rope_scale != 1 else (llama.rope_type, llama.rope_factor)
        assert scaling == (kind, factor)
        assert (llama.tied, llama.qkv_bias) == ("1b" in size or "0.5b" in size or "1.5b" in size, "qwen" in size)
        assert llama.norm_eps == (1e-6 if "qwen" in size or "deepseek" in size else 1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_the_header_states_the_number_of_parameters(size):
    text = (ROOT / f"gin/models/{size}.gin").read_text()
    assert f"{SIZES[size][0]:,} parameters" in text.partition("\n")[0]
    assert f"gin/models/{size}.gin" in text


def test_what_depends_on_the_corpora_is_required():
    text = message(load(files("code", "llama3.2-1b"), GIVEN).resolve)
    assert "--gin.CODE_STEPS=VALUE" in text and "--gin.CODE_LEARNING_RATE=VALUE" in text
