"""How gin files and flags compose, how values are explained, and the operative configuration."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from codellama_jax.config import gin_files
from codellama_jax.config.data import Corpus, Mixture
from codellama_jax.config.gin_files import ROOT, load, split_flags
from codellama_jax.config.run import RENAMED_CLASSES, RENAMED_SETTINGS, operative_text
from codellama_jax.config.training import AdamW, Stage
from codellama_jax.errors import UserError
from tests.config.recipe import COMBINATIONS, GIVEN, SIZES, configure, files, message


# ---------------------------------------------------------------- order
@pytest.mark.parametrize("stage, size", [("code", "local"), ("instruct", "70b"), ("python_lcft", "34b")])
def test_a_size_file_overrides_a_stage_file_in_any_order(stage, size):
    required = GIVEN if size != "local" else []
    forwards = load(files(stage, size), required).resolve()
    assert load(files(stage, size)[::-1], required).resolve() == forwards


def test_later_files_override_earlier_ones_and_flags_override_files(tmp_path):
    one, two = tmp_path / "one.gin", tmp_path / "two.gin"
    one.write_text("CODE_STEPS = 11\nCODE_CORPUS = '/one'\nStage.seed = 1\n")
    two.write_text("CODE_STEPS = 22\n")
    code, size = files("code", "7b")
    for order in ([one, code, two, size], [code, size, one, two], [size, one, two, code]):
        loaded = load(list(map(str, order)), [])
        config = loaded.resolve(Stage)
        assert (config.stage.steps, config.stage.seed) == (22, 1)
        assert "--gin.CODE_CORPUS" not in message(loaded.resolve), "a size's REQUIRED must not undo the user's own file"
    assert load([code, size, str(two), str(one)], []).resolve(Stage).stage.steps == 11
    stage = load([code, size, str(two), str(one)], ["CODE_STEPS=33", "CODE_STEPS=44", "Stage.seed=5"]).resolve(Stage)
    assert (stage.stage.steps, stage.stage.seed) == (44, 5)


def test_loading_a_configuration_does_not_change_another():
    first = load(["gin/code.gin"], ["Stage.seed=7"], default_size="local")
    before = first.resolve()
    message(load, ["gin/code.gin"], ["Stage.sed=8"], default_size="local")
    second = load(["gin/lcft.gin"], ["LCFT_STEPS=3"], default_size="local")
    assert (second.resolve().stage.name, second.resolve().stage.seed) == ("lcft", 0)
    assert first.resolve() == before and before.stage.seed == 7
    assert load(["gin/code.gin"], [], default_size="local").resolve(Stage).stage.seed == 0


def test_files_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(["gin/python_lcft.gin"], [], default_size="local").resolve().stage.name == "python_lcft"
    (tmp_path / "part.gin").write_text("Stage.seed = 3\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "own.gin").write_text("include 'gin/code.gin'\ninclude 'beside.gin'\nStage.seed = 4\n")
    (tmp_path / "sub" / "beside.gin").write_text("include 'part.gin'\nStage.micro_batches = 2\n")
    stage = load(["sub/own.gin"], [], default_size="local").resolve(Stage).stage
    assert (stage.seed, stage.micro_batches) == (4, 2)
    assert gin_files.find("part.gin") == tmp_path / "part.gin"


def test_the_default_size_applies_only_if_no_file_sets_the_size():
    assert load(["gin/code.gin"], [], default_size="local").resolve(Stage).stage.size == "local"
    assert load(files("code", "7b"), [], default_size="local").resolve(Stage).stage.size == "7b"
    text = message(load, ["gin/code.gin"], [])
    assert all(f"--gin_file=gin/models/{size}.gin" in text for size in SIZES)


# ---------------------------------------------------------------- flags
def test_gin_flags_are_separated_from_the_other_arguments():
    flags = split_flags(
        ["--name=x", "--gin_file=a.gin", "--gin.A=1", "--gin_file", "b.gin", "--gin.Stage.seed=a=b", "c"]
    )
    assert flags.gin_files == ["a.gin", "b.gin"]
    assert flags.bindings == ["A=1", "Stage.seed=a=b"]
    assert flags.rest == ["--name=x", "c"]
    assert "--gin.Stage.steps=300" in message(split_flags, ["--gin.Stage.steps", "300"])
    assert "--gin.Stage.steps=VALUE" in message(split_flags, ["--gin.Stage.steps", "--name=x"])
    for argv in (["--gin_file"], ["--gin_file="], ["--gin_file", "--name=x"]):
        assert "--gin_file=gin/code.gin" in message(split_flags, argv)


@pytest.mark.parametrize(
    "text, value",
    [
        ("/data/x", "/data/x"),
        ("~/x", "~/x"),
        ("gs://b/x", "gs://b/x"),
        ("relative/dir", "relative/dir"),
        ("local", "local"),
        ("7b", "7b"),
        ("2024/code", "2024/code"),
        ("/data/a folder", "/data/a folder"),
        ("'/data/x'", "/data/x"),
        ('"/data/x (1)"', "/data/x (1)"),
        ("None", None),
        ("%NL_CORPUS", None),
    ],
)
def test_a_flag_value_is_a_gin_literal_or_an_unquoted_string(text, value):
    loaded = load(["gin/code.gin"], [f"CODE_CORPUS={text}"], default_size="local")
    assert loaded.resolve(Corpus).corpus.code == value


@pytest.mark.parametrize(
    "binding, value",
    [
        ("CODE_CORPUS=['/a', 'gs://b/c']", ["/a", "gs://b/c"]),
        ("CODE_CORPUS=('/a',)", ["/a"]),
        ("Filters.languages=['Python', 'C++']", ["Python", "C++"]),
        ("Filters.languages=None", None),
        ("Filters.ignore=[]", []),
        ("Filters.ignore=('*/tests/*',)", ["*/tests/*"]),
    ],
)
def test_lists_and_tuples_become_tuples(binding, value, tmp_path):
    """Also after a round trip through the operative configuration."""
    config = load(["gin/code.gin"], [binding], default_size="local").resolve()
    setting = binding.partition("=")[0]
    loaded = config.corpus.code if setting == "CODE_CORPUS" else getattr(config.filters, setting.partition(".")[2])
    assert loaded == (value if value is None else tuple(value))
    (tmp_path / "config.gin").write_text(operative_text(config))
    assert load([str(tmp_path / "config.gin")], []).resolve() == config


def test_an_integer_is_accepted_as_a_number():
    loaded = load(["gin/code.gin"], ["AdamW.clip_norm=1", "Mixture.shares={'code': 1}"], default_size="local")
    config = loaded.resolve(AdamW, Mixture)
    assert type(config.adamw.clip_norm) is float
    assert type(config.mixture.shares["code"]) is float


def test_macros_of_other_stages_are_reported_as_unused():
    loaded = load(["gin/code.gin"], ["LCFT_STEPS=5", "CODE_STEPS=6"], default_size="local")
    assert loaded.unused == ("LCFT_STEPS",)


# ---------------------------------------------------------------- explain
def test_explain_follows_macros_to_file_and_line():
    loaded = load(["gin/code.gin"], [], default_size="local")
    value, *lines = loaded.explain("Stage.steps").splitlines()
    assert value == "Stage.steps = 5500"
    assert [line.split() for line in lines] == [
        [f"gin/code.gin:{line_of('gin/code.gin', 'Stage.steps')}", *["Stage.steps", "=", "%CODE_STEPS"]],
        [f"gin/models/local.gin:{line_of('gin/models/local.gin', 'CODE_STEPS')}", *["CODE_STEPS", "=", "5500"]],
    ]


def test_explain_shows_flags_overridden_values_defaults_and_missing_values(tmp_path):
    own = tmp_path / "own.gin"
    own.write_text("CODE_STEPS = 7\n")
    lines = load(["gin/code.gin", str(own)], ["CODE_STEPS=9"], default_size="local").explain("CODE_STEPS").splitlines()
    assert lines[0] == "CODE_STEPS = 9" and lines[1].split()[0] == "--gin.CODE_STEPS=9"
    overridden = [line.split()[0] for line in lines if "(overridden)" in line]
    assert overridden[0] == f"{own}:1" and overridden[1].startswith("gin/models/local.gin:")

    loaded = load(files("code", "7b"), [])
    assert loaded.explain("AdamW.beta1").splitlines()[0] == "AdamW.beta1 = 0.9"
    assert "codellama_jax/config/training.py" in loaded.explain("AdamW.beta1")
    assert loaded.explain("Tokenizer.model").splitlines()[0] == "Tokenizer.model = required, not set"
    assert "did you mean Stage.steps?" in message(loaded.explain, "Stage.step")
    assert "unknown macro CODE_STEP: did you mean CODE_STEPS" in message(loaded.explain, "CODE_STEP")


def line_of(file: str, name: str) -> int:
    lines = (ROOT / file).read_text().splitlines()
    return 1 + next(number for number, line in enumerate(lines) if line.startswith(f"{name} ="))


# ---------------------------------------------------------------- imports
def test_imports_of_files_and_flags_reach_the_configuration(tmp_path):
    own = tmp_path / "own.gin"
    own.write_text("import my_package.tasks\nStage.seed = 2\n")
    flags = split_flags([f"--gin_file={own}", "--import=other", "--import", "third.tasks", "--gin_file=gin/code.gin"])
    loaded = load(flags.gin_files, flags.bindings, default_size="local", imports=flags.imports)
    config = loaded.resolve()
    assert config.imports == ("my_package.tasks", "other", "third.tasks"), "none of them exists: nothing is imported"
    (tmp_path / "config.gin").write_text(operative_text(config))
    assert load([str(tmp_path / "config.gin")], []).resolve() == config
    assert "--import=my_package.tasks" in message(split_flags, ["--import"])
    assert "is not a module name" in message(split_flags, ["--import=a/b.py"])


# ---------------------------------------------------------------- configurations of earlier versions
@pytest.mark.parametrize(
    "text, now",
    [
        ("Stream.lanes = 2", ("data_loader", "readers", 2)),
        ("Stream.seed = 9", ("data_loader", "seed", 9)),
        ("BadSteps.spike = 1.5", ("loss_spikes", "threshold", 1.5)),
        ("BadSteps.in_a_row = 7", ("loss_spikes", "max_consecutive_skips", 7)),
        ("LossSpikes.spike_window = 7", ("loss_spikes", "window", 7)),
        ("LossSpikes.rollbacks = 7", ("loss_spikes", "max_rollbacks", 7)),
    ],
)
def test_settings_of_earlier_versions_are_read(text, now, tmp_path):
    part, field, value = now
    (tmp_path / "old.gin").write_text(text + "\n")
    config = load(["gin/code.gin", str(tmp_path / "old.gin")], [], default_size="local").resolve()
    assert getattr(getattr(config, part), field) == value
    saved = operative_text(config).replace("DataLoader.readers", "Stream.lanes").replace("DataLoader.", "Stream.")
    saved = saved.replace("LossSpikes.threshold", "BadSteps.spike").replace("LossSpikes.", "BadSteps.")
    assert gin_files.differences(saved, operative_text(config)) == []
    assert load(["gin/code.gin"], [text.replace(" ", "")], default_size="local").resolve() == config


def test_the_changelog_lists_renamed_settings():
    text = (ROOT / "CHANGELOG.md").read_text()
    old_names = {new: old for old, new in RENAMED_CLASSES.items()}
    for old, new in RENAMED_SETTINGS.items():
        kind, _, field = old.rpartition(".")
        assert re.search(rf"`{old_names.get(kind, kind)}\.({field}|\*)` \| `{new}`", text), f"{old} -> {new}"
    for old, new in RENAMED_CLASSES.items():
        assert re.search(rf"`{old}\.[\w*]+` \| `{new}\.", text), f"{old} -> {new}"


# ---------------------------------------------------------------- the operative configuration
@pytest.mark.parametrize("stage, size", COMBINATIONS)
def test_the_operative_configuration_reproduces_itself(stage, size, tmp_path):
    config = configure(stage, size, "CODE_CORPUS='/it\\'s \"here\"'", "Stage.seed=3")
    text = operative_text(config)
    assert "%" not in text
    (tmp_path / "config.gin").write_text(text)
    again = load([str(tmp_path / "config.gin")], []).resolve()
    assert again == config
    assert operative_text(again) == text


def test_differences_are_those_of_settings_that_change_the_result():
    before = operative_text(configure("code", "local"))
    other = ["Checkpoints.every=7", "Checkpoints.keep=9", "Evaluation.every=3", "Mesh.fsdp=1", "Llama.remat='full'"]
    assert gin_files.differences(before, operative_text(configure("code", "local", *other))) == []
    assert gin_files.differences(before.replace("0.003", "3e-3"), before) == []
    after = operative_text(configure("code", "local", "CODE_LEARNING_RATE=1e-3", "Checkpoints.initial=/x"))
    assert gin_files.differences(before, after) == [
        "AdamW.peak_learning_rate: 0.003 before, 0.001 now",
        "Checkpoints.initial: 'scratch' before, '/x' now",
    ]
    assert gin_files.differences(before.replace("Stage.seed = 0\n", ""), before) == [
        "Stage.seed: not set before, 0 now"
    ]
    assert "the earlier configuration" in message(gin_files.differences, "Stage.seed = ", before)


def test_import_is_fast():
    """Importing gin_files loads no framework and is fast, also when it runs as __main__."""
    code = (
        "import runpy, sys, time, warnings; warnings.simplefilter('ignore')\n"
        "import codellama_jax.config.gin_files\n"
        "seconds = time.process_time()\n"
        "heavy = {'jax', 'flax', 'tensorflow', 'seqio', 'orbax', 'absl'} & set(sys.modules)\n"
        "runpy.run_module('codellama_jax.config.gin_files', run_name='__main__')\n"
        "loaded = codellama_jax.config.gin_files.load(['gin/code.gin'], [], default_size='local')\n"
        "print(sorted(heavy), seconds < 0.5, loaded.resolve().stage.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[] True code\n", done.stdout + done.stderr
    assert Path(gin_files.__file__).is_relative_to(ROOT)


def test_corpora_that_the_mixture_does_not_read_are_not_required():
    """Unless a tokenizer is trained on them."""
    given = ["INITIAL_CHECKPOINT=scratch", "TOKENIZER=t", "CODE_CORPUS=c"]

    def corpus(*bindings):
        return load(["gin/code.gin", "gin/models/7b.gin"], [*given, *bindings]).resolve().corpus

    with pytest.raises(UserError, match=r"NL_CODE_CORPUS=VALUE --gin\.NL_CORPUS=VALUE"):
        corpus()
    assert corpus("Mixture.shares={'code': 1.0}").nl is None
    assert corpus("Mixture.shares={'code': 1.0}", "NL_CORPUS=n").nl == "n"
    assert corpus("Mixture.seqio=mine").nl_code is None
    with pytest.raises(UserError, match=r"NL_CODE_CORPUS=VALUE --gin\.NL_CORPUS=VALUE"):
        corpus("Mixture.shares={'code': 1.0}", "TOKENIZER=None")
