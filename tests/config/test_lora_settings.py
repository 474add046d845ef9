"""Settings of adapters: what is refused, how gin binds them, and that earlier configurations mean none."""

import dataclasses

import pytest

from codellama_jax.config import gin_files
from codellama_jax.config.lora import OFF, TARGETS, Lora
from codellama_jax.config.model import Llama
from codellama_jax.config.run import Config, operative_text
from codellama_jax.errors import UserError
from codellama_jax.planning import estimate
from codellama_jax.planning.chips import GiB, topology
from codellama_jax.planning.step_config import shaping_config

ONE_CHIP = ["CODE_BATCH_TOKENS=16_384", "Mesh.data=4", "Mesh.fsdp=1"]  # four copies
LLAMA = Llama(dim=4096, layers=32, heads=32, kv_heads=32, ffn_dim=11008, vocab_size=32016)


@pytest.mark.parametrize("values, message", [
    ({"rank": -1}, "Lora.rank=-1 must be at least 1, or 0"),
    ({"alpha": 0.0}, "Lora.alpha=0.0 must be above 0"),
    ({"alpha": float("nan")}, "Lora.alpha=nan must be above 0"),
    ({"dropout": 1.0}, "Lora.dropout=1.0 must be at least 0 and below 1"),
    ({"targets": "wq+q_proj"}, "'q_proj' is unknown; it must be names joined by '+', of wq, wk"),
    ({"targets": ""}, "'' is unknown"),
    ({"targets": "wq+wq"}, "names a matrix twice"),
    ({"base_dtype": "int4"}, "Lora.base_dtype='int4' must be 'float32', 'bfloat16' or 'int8'"),
])  # fmt: skip
def test_values_that_cannot_be_meant_are_refused(values, message):
    with pytest.raises(ValueError) as error:
        Lora(**{"rank": 4} | values)
    assert message in str(error.value)


def test_names_are_in_the_order_of_the_targets():
    assert Lora(rank=1, targets="w2+wq").names == ("wq", "w2")
    assert Lora(rank=1).names == TARGETS and OFF.names == ()


def test_gin_binds_them():
    bindings = gin_files.load([], ["Lora.rank=16", "Lora.targets=wq+wv", "Lora.alpha=32", "Lora.rslora=True"])
    assert bindings.resolve(Lora).lora == Lora(16, 32.0, targets="wq+wv", rslora=True)


def test_a_setting_without_rank_is_refused_and_rank_0_switches_off():
    with pytest.raises(UserError, match=r"--gin.Lora.alpha=32: Lora.alpha has no effect without Lora.rank"):
        gin_files.load([], ["Lora.alpha=32"]).resolve(Lora)
    assert gin_files.load([], ["Lora.alpha=32", "Lora.rank=0"]).resolve(Lora).lora.names == ()


def test_a_configuration_of_an_earlier_version_has_none():
    text = operative_text(Config(llama=LLAMA))
    start, end = text.index("\n# Lora"), text.index("\n# Lora") + text[text.index("\n# Lora") + 1 :].find("\n\n")
    earlier = text[:start] + (text[end + 1 :] if end > start else "")
    assert "Lora." not in earlier
    assert gin_files.differences(earlier, text) == []
    adapted = operative_text(Config(llama=LLAMA, lora=Lora(rank=8)))
    assert gin_files.differences(earlier, adapted) == ["Lora.rank: 0 before, 8 now"]


def test_parameters_and_flops():
    lora = Lora(rank=16)
    assert lora.parameters(LLAMA) == 39_976_960
    assert Lora(rank=8, targets="wq+wv").parameters(LLAMA) == 4_194_304
    full, adapted = (each.train_flops_per_token(LLAMA, 4096) for each in (OFF, lora))
    assert full == LLAMA.train_flops_per_token(4096) and 0.67 < adapted / full < 0.72


def test_attention_of_wide_heads_counts_completely():
    """Without adapters' own products, what a frozen model saves does not depend on the length or the width of heads."""
    wide = dataclasses.replace(LLAMA, head_width=2 * LLAMA.head_dim)
    for length in (64, 4096):
        saved = wide.train_flops_per_token(length) - Lora(rank=1).train_flops_per_token(wide, length)
        assert saved == 2 * wide.matmul_parameters - 6 * Lora(rank=1).parameters(wide)


@pytest.mark.parametrize("base_dtype, expected", [("float32", 4.0), ("bfloat16", 2.0), ("int8", 1.0)])
def test_bytes_of_the_frozen_model(base_dtype, expected):
    vocabulary = 2 * LLAMA.vocab_size * LLAMA.dim if base_dtype == "int8" else 0  # its embedding and head are bfloat16
    frozen = Lora(rank=16, base_dtype=base_dtype).frozen_bytes(LLAMA)
    assert frozen == expected * LLAMA.parameters + vocabulary


@pytest.mark.parametrize("base_dtype, topology_, flags, compiled", [
    ("bfloat16", "v5e:2x4", ["CODE_BATCH_TOKENS=32_768"], 14.05),
    ("int8", "v5e:2x4", ["CODE_BATCH_TOKENS=32_768"], 13.32),
    ("int8", "v6e:2x2", [*ONE_CHIP, "Llama.remat=full"], 10.89),
    ("int8", "v6e:2x2", [*ONE_CHIP, "Llama.remat=q+k+v+attention"], 14.81),
])  # fmt: skip
def test_the_estimate_is_close_to_the_compiled_memory(base_dtype, topology_, flags, compiled):
    """The compiled figures are those of docs/stages.md."""
    flags = [*flags, "Lora.rank=16", f"Lora.base_dtype={base_dtype}", "CODE_LENGTH=4096", "CODE_MICRO_BATCHES=1"]
    bindings = gin_files.load(["gin/code.gin", "gin/models/7b.gin"], [*flags, "VOCAB_SIZE=32016"])
    estimated = estimate.peak_bytes(shaping_config(bindings), topology(topology_)) / GiB
    assert 0.9 < estimated / compiled < 1.15, f"{estimated:.2f} GiB"
