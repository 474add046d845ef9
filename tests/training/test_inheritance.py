"""What a stage starts from is compared in meaning: RoPE, epsilon, positions and tokenizer."""

import dataclasses
import difflib
import json
import logging
import re
from pathlib import Path

import pytest

from codellama_jax import train
from codellama_jax.config import gin_files
from codellama_jax.config.rope import SCALING
from codellama_jax.config.run import operative_text
from codellama_jax.config.training import Checkpoints
from codellama_jax.errors import EXIT_DONE, EXIT_FAILED, UserError
from codellama_jax.runtime import console, run_dir
from codellama_jax.tokenizer import SentencePieceTokenizer
from codellama_jax.training import inheritance
from tasks.tokenizer_training import train as train_tokenizer

CORPORA = [f"{name}_CORPUS=x" for name in ("CODE", "PYTHON", "NL_CODE", "NL", "INSTRUCT")]
PUBLISHED = ["INITIAL_CHECKPOINT=x", "TOKENIZER=x", *CORPORA]


def config_of(stage: str, size: str = "local", *bindings: str):
    required = [] if size == "local" else PUBLISHED
    return gin_files.load([f"gin/{stage}.gin", f"gin/models/{size}.gin"], [*required, *bindings]).resolve()


def metadata_of(config, **changes) -> dict:
    """The metadata that a stage with this configuration saves, with other fields of Llama; None: not recorded."""
    recorded = dataclasses.asdict(config.llama) | changes
    return {
        "llama": {name: value for name, value in recorded.items() if value is not None},
        "sequence_length": config.stage.sequence_length,
    }


CODE = config_of("code")
ADAPT = ["INITIAL_CHECKPOINT=/m", "CODE_CORPUS=/c"]  # what its gin file requires
YARN = ["Llama.rope_type='yarn'", "Llama.rope_factor=4.0", "Llama.rope_original_positions=256"]


@pytest.mark.parametrize("size", ["local", "7b", "13b", "34b", "70b"])
def test_every_shipped_cascade_is_accepted(size):
    steps = ["PYTHON_CODE_STEPS=9", "PYTHON_LCFT_STEPS=9"] if size == "70b" else []
    for stage in gin_files.shipped_stages():
        given = ADAPT if stage == "adapt" else []
        config = config_of(stage, size, *steps, *given)
        if config.stage.parent:
            parent = config_of(config.stage.parent, size, *steps)
            notes = inheritance.check_model("parent", metadata_of(parent), config)
            base = ["the RoPE base changes from 10,000 to 1,000,000"] if "lcft" in stage else []
            assert notes == base, (stage, size)


@pytest.mark.parametrize("theirs", [1e4, 5e5, 2e6])
def test_a_stage_that_is_compared_with_its_model_keeps_the_rope_base(theirs):
    """Otherwise "before" would be the figures of a model with another base than it was trained with."""
    metadata = metadata_of(CODE, rope_theta=theirs)
    with pytest.raises(UserError, match=re.escape(f"--gin.Llama.rope_theta={theirs:g} keeps it")) as caught:
        inheritance.check_model("/data/llama", metadata, config_of("adapt", "local", *ADAPT))
    assert "but adapt has 1e+06" in str(caught.value)
    kept = config_of("adapt", "local", *ADAPT, f"Llama.rope_theta={theirs!r}")
    [note] = inheritance.check_model("/data/llama", metadata, kept)
    assert "windows of 1,024 tokens are longer than the parent's 256" in note, "and nothing of the base"


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"rope_theta": 1e6}, "Llama.rope_theta=1e+06, but code has 10000"),
        ({"rope_theta": 10001.0}, "Llama.rope_theta=10001, but code has 10000"),
        ({"rope_scale": 0.25}, "Llama.rope_scale=0.25, but code has 1"),
        ({"rope_scale": 0.5}, "Llama.rope_scale=0.5, but code has 1"),
        ({"norm_eps": 1e-6}, "Llama.norm_eps=1e-06, but code has 1e-05"),
        ({"norm_eps": 1e-4}, "Llama.norm_eps=0.0001, but code has 1e-05"),
    ],
)
def test_change_of_meaning_must_be_allowed_by_name(changes, setting):
    [field] = changes
    metadata = metadata_of(CODE, **changes)
    with pytest.raises(UserError, match=f"--gin.Checkpoints.allowed_changes={field}") as caught:
        inheritance.check_model("/data/llama", metadata, CODE)
    assert setting in str(caught.value) and "/data/llama" in str(caught.value) and "\n" not in str(caught.value)
    for names in (field, f"['{field}', 'tokenizer']"):
        allowed = config_of("code", "local", f"Checkpoints.allowed_changes={names}")
        [note] = inheritance.check_model("/data/llama", metadata, allowed)
        assert "changes from" in note
    kept = config_of("code", "local", f"Llama.{field}={changes[field]!r}")
    assert inheritance.check_model("/data/llama", metadata, kept) == [], "the other remedy"
    other = config_of("code", "local", "Checkpoints.allowed_changes=tokenizer")
    with pytest.raises(UserError):
        inheritance.check_model("/data/llama", metadata, other)


def test_larger_base_and_longer_windows_are_reported():
    lcft = config_of("lcft")
    assert inheritance.check_model("p", metadata_of(CODE), lcft) == ["the RoPE base changes from 10,000 to 1,000,000"]
    kept = config_of("lcft", "local", "LCFT_ROPE_THETA=1e4")
    [note] = inheritance.check_model("p", metadata_of(CODE), kept)
    assert note == "windows of 1,024 tokens are longer than the parent's 256, with the same RoPE base and scale"
    assert inheritance.check_model("p", metadata_of(lcft), config_of("instruct")) == [], "shorter windows"


def test_numbers_that_other_formats_have_rounded_are_equal():
    rounded = metadata_of(CODE, norm_eps=9.999999747378752e-06, rope_theta=10000)
    assert inheritance.check_model("p", rounded, CODE) == []


@pytest.mark.parametrize(
    "missing", [("norm_eps",), ("rope_scale", "norm_eps"), ("rope_theta", "rope_scale", "norm_eps")]
)
def test_facts_that_are_not_recorded_are_named_once(missing):
    [note] = inheritance.check_model("/old", metadata_of(CODE, **dict.fromkeys(missing)), CODE)
    assert note == f"{', '.join(f'Llama.{field}' for field in missing)} not recorded in /old: not compared"


def test_unknown_names_are_refused_and_the_setting_does_not_change_a_run():
    with pytest.raises(ValueError, match="names 'rope': the changes that can be allowed are rope_theta, rope_scale"):
        Checkpoints(allowed_changes=["rope"])
    allowed = config_of("code", "local", "Checkpoints.allowed_changes=['norm_eps']")
    before, after = operative_text(CODE), operative_text(allowed)
    assert not gin_files.differences(before, after)
    earlier = "".join(line for line in before.splitlines(True) if "allowed_changes" not in line)
    assert not gin_files.differences(earlier, before)


# ---------------------------------------------------------------- tokenizer


def test_another_tokenizer_must_be_allowed_by_name(tmp_path, small_tokenizer):
    other = SentencePieceTokenizer(
        train_tokenizer([Path(difflib.__file__).read_text(encoding="utf-8")], 512), infilling=True
    )
    imported, trained = tmp_path / "imported", tmp_path / "runs/x/code/checkpoints/9"
    for folder, file in ((imported, imported), (trained, tmp_path / "runs/x")):
        folder.mkdir(parents=True)
        assert inheritance.check_tokenizer(folder, small_tokenizer, Checkpoints(), "code") == [], "not recorded"
        (file / "tokenizer.model").write_bytes(small_tokenizer.model)
        assert inheritance.check_tokenizer(folder, small_tokenizer, Checkpoints(), "code") == []
        with pytest.raises(UserError, match=f"differs from {file}/tokenizer.model.* from id [0-9]+ on"):
            inheritance.check_tokenizer(folder, other, Checkpoints(), "code")
        allowed = Checkpoints(allowed_changes="tokenizer")
        [note] = inheritance.check_tokenizer(folder, other, allowed, "code")
        assert "the tokenizer differs" in note
    (imported / "tokenizer.model").write_bytes(b"no model")
    [note] = inheritance.check_tokenizer(imported, small_tokenizer, Checkpoints(), "code")
    assert "is not compared" in note


def test_tokenizer_beside_other_folders_is_not_taken_for_the_parents(tmp_path, small_tokenizer):
    checkpoint = tmp_path / "a/b/c/llama"
    checkpoint.mkdir(parents=True)
    (tmp_path / "a/tokenizer.model").write_bytes(b"")
    assert run_dir.tokenizer_file(checkpoint) is None


# ---------------------------------------------------------------- the commands


@pytest.fixture
def other_eps(tmp_path):
    """A checkpoint with another epsilon, of which only the metadata exists."""
    folder = tmp_path / "llama"
    (folder / "metadata").mkdir(parents=True)
    (folder / "metadata/metadata").write_text(json.dumps(metadata_of(CODE, norm_eps=1e-6)))
    return folder


def test_training_is_refused_before_a_folder_is_made(tmp_path, other_eps, capsys):
    flags = ["--gin_file=gin/code.gin", "--gin_file=gin/models/local.gin", f"--run_dir={tmp_path}/runs"]
    code = train.main([*flags, f"--gin.INITIAL_CHECKPOINT={other_eps}"])
    assert code == EXIT_FAILED and "norm_eps=1e-06, but code has 1e-05" in capsys.readouterr().err
    assert not (tmp_path / "runs/local/code").exists()


def test_dry_run_compares_the_checkpoint_and_the_stages_of_a_chain(tmp_path, other_eps, caplog, capsys):
    import xm_launch

    console.configure_logging()
    initial = f"--gin.INITIAL_CHECKPOINT={other_eps}"
    flags = ["--gin_file=gin/instruct.gin", f"--run_dir={tmp_path}/runs", "--dry_run"]
    assert xm_launch.main([*flags, initial]) == EXIT_FAILED
    assert "norm_eps=1e-06, but code has 1e-05" in capsys.readouterr().err
    with caplog.at_level(logging.INFO):
        assert xm_launch.main([*flags, initial, "--gin.Llama.norm_eps=1e-6"]) == EXIT_DONE
        assert "lcft: the RoPE base changes from 10,000 to 1,000,000" in caplog.text
        assert xm_launch.main([*flags, "--gin.INSTRUCT_ROPE_THETA=1e4"]) == EXIT_FAILED
    assert "lcft was trained with Llama.rope_theta=1e+06, but instruct has 10000" in capsys.readouterr().err
    assert xm_launch.main([*flags, "--gin.LCFT_ROPE_SCALE=0.25"]) == EXIT_FAILED
    assert "rope_scale" in capsys.readouterr().err


def test_dry_run_reads_a_finished_parent_of_the_run(tmp_path, capsys):
    """And does not compare a stage that resumes from its own checkpoint."""
    import xm_launch

    flags = ["--gin_file=gin/lcft.gin", f"--run_dir={tmp_path}/runs", "--dry_run"]
    stage, save = tmp_path / "runs/local/code", tmp_path / "runs/local/code/checkpoints/1500/metadata"
    save.mkdir(parents=True)
    (stage / "config.gin").write_text(operative_text(CODE))
    (stage / "done.json").write_text('{"step": 1500}')
    (save / "metadata").write_text(json.dumps(metadata_of(CODE, rope_theta=5e6)))
    assert xm_launch.main(flags) == EXIT_FAILED
    assert "checkpoints/1500 was trained with Llama.rope_theta=5e+06, but lcft has 1e+06" in capsys.readouterr().err
    own = tmp_path / "runs/local/lcft"
    (own / "checkpoints/100").mkdir(parents=True)
    (own / "config.gin").write_text(operative_text(config_of("lcft")))
    assert xm_launch.main(flags) == EXIT_DONE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tied": True}, "Llama.tied=True, but this stage has False"),
        ({"qkv_bias": True}, "Llama.qkv_bias=True, but this stage has False"),
        ({"head_width": 64}, "Llama.head_width=64, but this stage has 32"),
    ],
)
def test_another_architecture_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        inheritance.check_model("parent", metadata_of(CODE, **changes), CODE)


def test_the_width_that_follows_from_the_heads_may_be_stated_or_not():
    assert inheritance.check_model("parent", metadata_of(CODE, head_width=32), CODE) == []
    stated = config_of("code", "local", "Llama.head_width=32")
    assert inheritance.check_model("parent", metadata_of(CODE), stated) == []


def test_what_earlier_versions_did_not_have_is_llama_2():
    added = dict.fromkeys(("head_width", "qkv_bias", "tied", *SCALING))
    metadata = metadata_of(CODE, **added)
    assert not metadata["llama"].keys() & added.keys()
    assert inheritance.check_model("parent", metadata, CODE) == []
    assert inheritance.recorded_model("parent", metadata) == CODE.llama
    with pytest.raises(UserError, match=r"Llama\.rope_type='default', but code has 'yarn'"):
        inheritance.check_model("parent", metadata, config_of("code", "local", *YARN))


def test_another_type_of_scaling_is_allowed_by_name():
    allowed = config_of("code", "local", *YARN, "Checkpoints.allowed_changes=rope_type")
    notes = inheritance.check_model("parent", metadata_of(CODE), allowed)
    assert notes == [
        "Llama.rope_type changes from 'default' to 'yarn'",
        "Llama.rope_factor changes from 1.0 to 4.0",
        "Llama.rope_original_positions changes from 0 to 256",
    ]
    parent = config_of("code", "local", *YARN)
    with pytest.raises(UserError, match=r"--gin\.Llama\.rope_factor=2\.0 keeps it"):
        inheritance.check_model("parent", metadata_of(parent, rope_factor=2.0), parent)
