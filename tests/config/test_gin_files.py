"""The gin files compose into the published recipe, and whatever a user can get wrong has an answer of one line."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from codellama_jax.config import gin_files
from codellama_jax.config.data import Chat, Corpus, Fim, Mixture, Tokenizer
from codellama_jax.config.gin_files import ROOT, load, split_flags
from codellama_jax.config.model import Llama
from codellama_jax.config.run import UNRESOLVED, operative_text
from codellama_jax.config.training import AdamW, Checkpoints, Stage
from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.sharding import axis_sizes

STAGES = ("code", "lcft", "instruct", "python_code", "python", "python_lcft")
SIZES = ("local", "7b", "13b", "34b", "70b")
COMBINATIONS = [(stage, size) for stage in STAGES for size in SIZES]

# What a published size leaves to the user, and the stages that read it.
REQUIRED = {
    "INITIAL_CHECKPOINT": ("code", "python_code"),
    "TOKENIZER": STAGES,
    "CODE_CORPUS": STAGES,
    "PYTHON_CORPUS": ("python", "python_lcft"),
    "NL_CODE_CORPUS": ("code", "lcft", "python_code", "python", "python_lcft"),
    "NL_CORPUS": STAGES,
    "INSTRUCT_CORPUS": ("instruct",),
}
GIVEN = [f"{name}=/data/{name}" for name in REQUIRED]
NOT_IN_THE_PAPER = {("python_code", "70b"): "PYTHON_CODE_STEPS", ("python_lcft", "70b"): "PYTHON_LCFT_STEPS"}


def files(stage, size):
    return [f"gin/{stage}.gin", f"gin/models/{size}.gin"]


def configure(stage, size, *bindings):
    extra = [f"{NOT_IN_THE_PAPER[stage, size]}=5"] if (stage, size) in NOT_IN_THE_PAPER else []
    return load(files(stage, size), [*(GIVEN if size != "local" else []), *extra, *bindings]).resolve()


def message(function, *arguments, **keywords):
    """The message of the UserError that function raises, checked for what all of them share."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **keywords)
    assert caught.value.exit_code == EXIT_USAGE
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refused(*bindings, stage="code"):
    """The message that these bindings lead to, in loading or in resolving."""

    def run():
        load([f"gin/{stage}.gin"], bindings, default_size="local").resolve()

    return message(run)


# ---------------------------------------------------------------- the recipe


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
        assert parent.llama.vocab_size <= config.llama.vocab_size, "a vocabulary grows, it never shrinks"
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
def test_published_numbers(stage, size):
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
def test_parameters(size, at_32000, at_32016):
    assert configure("code", size, "Llama.vocab_size=32000").llama.parameters == at_32000
    assert configure("code", size, "Llama.vocab_size=32016").llama.parameters == at_32016


def test_mixtures():
    code = {"code": 0.85, "nl_code": 0.08, "nl": 0.07}
    python = {"python": 0.75, "code": 0.10, "nl_code": 0.10, "nl": 0.05}
    instruct = {"instruct": 0.92, "code": 0.06, "nl": 0.02}
    expected = dict(zip(STAGES, (code, code, instruct, code, python, python), strict=True))
    assert {stage: configure(stage, "7b").mixture.shares for stage in STAGES} == expected


def test_long_documents_stay_whole_where_they_matter():
    whole = {stage: configure(stage, "local").corpus.document_characters is None for stage in STAGES}
    assert whole == {stage: "lcft" in stage for stage in STAGES}
    assert configure("code", "7b").corpus.document_characters is None


@pytest.mark.parametrize("path", sorted((ROOT / "gin").rglob("*.gin")), ids=lambda path: path.stem)
def test_a_gin_file_fits_a_screen(path):
    text = path.read_text()
    assert text.count("\n") <= 60
    assert max(map(len, text.splitlines())) <= 120
    if path.stem not in ("data", "published"):
        header = text.partition("\n\n")[0]
        for part in ("python xm_launch.py --gin_file=gin/", "Chips:", "REQUIRED", "Commonly overridden:"):
            assert part in header


def test_shipped_stages():
    assert gin_files.shipped_stages() == {stage: ROOT / "gin" / f"{stage}.gin" for stage in sorted(STAGES)}


# ---------------------------------------------------------------- what is required


@pytest.mark.parametrize("stage, size", [(stage, size) for stage, size in COMBINATIONS if size != "local"])
def test_all_that_is_required_is_named_at_once(stage, size):
    loaded = load(files(stage, size), [])
    expected = {name for name, stages in REQUIRED.items() if stage in stages}
    expected |= {NOT_IN_THE_PAPER[stage, size]} if (stage, size) in NOT_IN_THE_PAPER else set()
    said = message(loaded.resolve)
    assert set(re.findall(r"--gin\.(\w+)=VALUE", said)) == expected
    assert "gin/published.gin" in said


def test_a_tool_is_stopped_only_by_what_it_needs():
    loaded = load(files("code", "7b"), ["CODE_CORPUS=/c", "NL_CODE_CORPUS=/n", "NL_CORPUS=/l"])
    config = loaded.resolve(Corpus, Stage)
    assert (config.corpus.code, config.stage.steps) == ("/c", 119_209)
    assert config.checkpoints is UNRESOLVED
    assert re.findall(r"--gin\.(\w+)=VALUE", message(loaded.resolve, Checkpoints, Tokenizer, Corpus)) == [
        "TOKENIZER",
        "INITIAL_CHECKPOINT",
    ]


def test_required_inside_a_dict_and_without_a_file(tmp_path):
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


# ---------------------------------------------------------------- order


@pytest.mark.parametrize("stage, size", [("code", "local"), ("instruct", "70b"), ("python_lcft", "34b")])
def test_a_size_knows_more_than_a_stage_whatever_the_order(stage, size):
    given = GIVEN if size != "local" else []
    forwards = load(files(stage, size), given).resolve()
    assert load(files(stage, size)[::-1], given).resolve() == forwards


def test_later_wins_and_flags_win_over_files(tmp_path):
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


def test_configurations_live_side_by_side():
    first = load(["gin/code.gin"], ["Stage.seed=7"], default_size="local")
    before = first.resolve()
    message(load, ["gin/code.gin"], ["Stage.sed=8"], default_size="local")
    second = load(["gin/lcft.gin"], ["LCFT_STEPS=3"], default_size="local")
    assert (second.resolve().stage.name, second.resolve().stage.seed) == ("lcft", 0)
    assert first.resolve() == before and before.stage.seed == 7, "loading another changes nothing"
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


def test_default_size():
    assert load(["gin/code.gin"], [], default_size="local").resolve(Stage).stage.size == "local"
    assert load(files("code", "7b"), [], default_size="local").resolve(Stage).stage.size == "7b"
    said = message(load, ["gin/code.gin"], [])
    assert all(f"--gin_file=gin/models/{size}.gin" in said for size in SIZES)


# ---------------------------------------------------------------- flags


def test_split_flags():
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
def test_values_of_flags(text, value):
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
def test_places_patterns_and_languages_may_be_several(binding, value, tmp_path):
    """They come as a tuple, whether a list or a tuple was written; and the operative configuration says the same."""
    config = load(["gin/code.gin"], [binding], default_size="local").resolve()
    setting = binding.partition("=")[0]
    given = config.corpus.code if setting == "CODE_CORPUS" else getattr(config.filters, setting.partition(".")[2])
    assert given == (value if value is None else tuple(value))
    (tmp_path / "config.gin").write_text(operative_text(config))
    assert load([str(tmp_path / "config.gin")], []).resolve() == config


def test_an_integer_serves_as_a_number():
    loaded = load(["gin/code.gin"], ["AdamW.clip_norm=1", "Mixture.shares={'code': 1}"], default_size="local")
    config = loaded.resolve(AdamW, Mixture)
    assert type(config.adamw.clip_norm) is float
    assert type(config.mixture.shares["code"]) is float


def test_unused_macros_of_other_stages_are_known():
    loaded = load(["gin/code.gin"], ["LCFT_STEPS=5", "CODE_STEPS=6"], default_size="local")
    assert loaded.unused == ("LCFT_STEPS",)


# ---------------------------------------------------------------- what set a value


def test_explain_follows_macros_to_file_and_line():
    loaded = load(["gin/code.gin"], [], default_size="local")
    value, *lines = loaded.explain("Stage.steps").splitlines()
    assert value == "Stage.steps = 1500"
    assert [line.split() for line in lines] == [
        [f"gin/code.gin:{line_of('gin/code.gin', 'Stage.steps')}", *["Stage.steps", "=", "%CODE_STEPS"]],
        [f"gin/models/local.gin:{line_of('gin/models/local.gin', 'CODE_STEPS')}", *["CODE_STEPS", "=", "1500"]],
    ]


def test_explain_shows_flags_what_they_override_defaults_and_what_is_missing(tmp_path):
    own = tmp_path / "own.gin"
    own.write_text("CODE_STEPS = 7\n")
    lines = load(["gin/code.gin", str(own)], ["CODE_STEPS=9"], default_size="local").explain("CODE_STEPS").splitlines()
    assert lines[0] == "CODE_STEPS = 9" and lines[1].split()[0] == "--gin.CODE_STEPS=9"
    overridden = [line.split()[0] for line in lines if "(overridden)" in line]
    assert overridden[0] == f"{own}:1" and overridden[1].startswith("gin/models/local.gin:")

    loaded = load(files("code", "7b"), [])
    assert loaded.explain("AdamW.beta1").splitlines()[0] == "AdamW.beta1 = 0.9"
    assert "codellama_jax/config/training.py" in loaded.explain("AdamW.beta1")
    assert loaded.explain("Tokenizer.model").splitlines()[0] == "Tokenizer.model = required and not given"
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
    assert config.imports == ("my_package.tasks", "other", "third.tasks"), "none of which exists: nothing is imported"
    (tmp_path / "config.gin").write_text(operative_text(config))
    assert load([str(tmp_path / "config.gin")], []).resolve() == config
    assert "--import=my_package.tasks" in message(split_flags, ["--import"])
    assert "is no module" in message(split_flags, ["--import=a/b.py"])


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
def test_settings_are_read_under_the_names_they_had(text, now, tmp_path):
    part, field, value = now
    (tmp_path / "old.gin").write_text(text + "\n")
    config = load(["gin/code.gin", str(tmp_path / "old.gin")], [], default_size="local").resolve()
    assert getattr(getattr(config, part), field) == value
    saved = operative_text(config).replace("DataLoader.readers", "Stream.lanes").replace("DataLoader.", "Stream.")
    saved = saved.replace("LossSpikes.threshold", "BadSteps.spike").replace("LossSpikes.", "BadSteps.")
    assert gin_files.differences(saved, operative_text(config)) == []
    assert load(["gin/code.gin"], [text.replace(" ", "")], default_size="local").resolve() == config


# ---------------------------------------------------------------- what users get wrong


@pytest.mark.parametrize(
    "binding, said",
    [
        ("Stage.step=3", "unknown setting Stage.step: did you mean Stage.steps?"),
        ("stage.steps=3", "unknown setting stage.steps: did you mean Stage.steps?"),
        ("scope/Stage.steps=3", "unknown setting scope/Stage.steps: did you mean Stage.steps?"),
        ("Optimus.rate=3", "unknown setting Optimus.rate: "),
        ("CODE_STEP=3", "unknown macro CODE_STEP: did you mean CODE_STEPS"),
        ("steps=3", "unknown macro steps: did you mean Stage.steps"),
        ("QQ=3", "unknown macro QQ: "),
        ("CODE_STEPS=%LCFT_STEP", "CODE_STEPS is %LCFT_STEP, which has no value: did you mean %LCFT_STEPS?"),
        ("CODE_STEPS=%gin.REQUIRD", "%gin.REQUIRD, which has no value"),
        ("CODE_STEPS=%CODE_STEPS", "the macro CODE_STEPS refers to itself"),
        ("CODE_STEPS=abc", "Stage.steps = 'abc' (--gin.CODE_STEPS=abc): expected an integer"),
        ("CODE_STEPS=True", "Stage.steps = True (--gin.CODE_STEPS=True): expected an integer"),
        ("CODE_STEPS=1e3", "Stage.steps = 1000.0 (--gin.CODE_STEPS=1e3): expected an integer"),
        ("CODE_STEPS=None", "Stage.steps = None (--gin.CODE_STEPS=None): expected an integer"),
        ("CODE_LEARNING_RATE=1/30", "AdamW.peak_learning_rate = '1/30' (--gin.CODE_LEARNING_RATE=1/30): expected"),
        ("CODE_LEARNING_RATE=True", "expected a number"),
        ("Packing.mask_documents=true", "expected True or False"),
        ("CODE_CORPUS=3", "Corpus.code = 3 (--gin.CODE_CORPUS=3): expected a string"),
        ("CODE_CORPUS=@Stage", "cannot read the value of --gin.CODE_CORPUS=@Stage"),
        ("CODE_CORPUS=['/a', 3]", "Corpus.code = ['/a', 3] (--gin.CODE_CORPUS=['/a', 3]): expected a string"),
        ("Filters.languages=Python", "Filters.languages = 'Python' (--gin.Filters.languages=Python): expected"),
        ("Filters.ignore=None", "Filters.ignore = None (--gin.Filters.ignore=None): expected"),
        ("Filters.longest_line=many", "Filters.longest_line = 'many' (--gin.Filters.longest_line=many): expected"),
        ("Filters.longest_lines=3", "unknown setting Filters.longest_lines: did you mean Filters.longest_line?"),
        ("Corpus.on_damage=ignore", "Corpus.on_damage='ignore' must be 'stop' or 'skip'"),
        ("Corpus.shuffle_bytes=0", "Corpus.shuffle_bytes=0 must be at least 1"),
        ("Packing.queue=-1", "Packing.queue=-1 must be at least 0"),
        ("Fim.cut=word", "Fim.cut='word' must be 'character' or 'line'"),
        ("Stage.size=7", "Stage.size = 7 (--gin.Stage.size=7): expected a string"),
        ("Mixture.shares={'code': 'all'}", "expected a dict of strings and numbers"),
        ("Mixture.shares=code", "expected a dict of strings and numbers"),
        ("Mixture.shares={'code': 0.5}", "shares that add up to 1"),
        ("Mixture.shares={'cod': 1.0}", "the streams are code, python"),
        ("Mixture.shares={'code': 1.0", "cannot read the value of --gin.Mixture.shares={'code': 1.0"),
        ("CODE_CORPUS='/data", "cannot read the value of --gin.CODE_CORPUS='/data"),
        ("CODE_CORPUS=@Foo()", "cannot read the value of --gin.CODE_CORPUS=@Foo()"),
        ("CODE_CORPUS=", "--gin.CODE_CORPUS= is not of the form --gin.NAME=VALUE"),
        ("=3", "--gin.=3 is not of the form --gin.NAME=VALUE"),
        ("Stage.batch_tokens=100", "must be a multiple of Stage.sequence_length=256"),
        ("Llama.heads=3", "Llama.dim=160 must be an even multiple of Llama.heads=3"),
        ("Llama.heads=0", "is 0"),
        ("Llama.remat=all", "'all' is unknown; it must be 'none', 'full' or names joined by '+', of input, q,"),
    ],
)
def test_wrong_flags(binding, said):
    assert said in refused(binding)


@pytest.mark.parametrize(
    "text, said",
    [
        ("Stage.seed = 1\nStage.sed = 2\n", "own.gin:2: unknown setting Stage.sed: did you mean Stage.seed?"),
        ("CODE_STEP = 2\n", "own.gin:1: unknown macro CODE_STEP: did you mean CODE_STEPS"),
        ("Stage:\n  seed = 1\n  sed = 2\n", "own.gin:3: unknown setting Stage.sed"),
        ("Stage.seed = %SEED\n", "own.gin:1: Stage.seed is %SEED, which has no value"),
        ("Stage.seed = 'one'\n", "own.gin:1): expected an integer"),
        ("\nCODE_CORPUS = /data/x\n", "own.gin:2: cannot read 'CODE_CORPUS = /data/x': write NAME = VALUE"),
        ("Stage.seed = 1 2\n", "own.gin:1: cannot read 'Stage.seed = 1 2'"),
        ("Mixture.shares = {'code': 1.0\n", "own.gin"),
        ("Stage.seed = @Foo()\n", "own.gin"),
        ("import os as x\n", "own.gin:1: write import PACKAGE.MODULE, without from and as"),
        ("from os import path\n", "own.gin:1: write import PACKAGE.MODULE, without from and as"),
        ("include 'gin/dat.gin'\n", "own.gin includes gin/dat.gin, which does not exist: did you mean gin/data.gin?"),
        ("include 'own.gin'\n", "own.gin includes itself"),
    ],
)
def test_wrong_files(tmp_path, text, said):
    (tmp_path / "own.gin").write_text(text)

    def run():
        load(["gin/code.gin", str(tmp_path / "own.gin")], [], default_size="local").resolve()

    assert said in message(run)


@pytest.mark.parametrize("name, near", [("gin/cod.gin", "code"), ("lcft", "lcft"), ("models/7b.gin", "models/7b")])
def test_no_such_file(name, near):
    said = message(load, [name], [], default_size="local")
    assert said.startswith(f"--gin_file={name} does not exist: did you mean gin/{near}.gin?")
    assert "gin/python_lcft.gin" in said


def test_unreadable_file(tmp_path):
    (tmp_path / "own.gin").write_bytes(b"\xff\xfe")
    assert "own.gin" in message(load, [str(tmp_path / "own.gin")], [])


# ---------------------------------------------------------------- the operative configuration


@pytest.mark.parametrize("stage, size", COMBINATIONS)
def test_operative_configuration_reproduces_itself(stage, size, tmp_path):
    config = configure(stage, size, "CODE_CORPUS='/it\\'s \"here\"'", "Stage.seed=3")
    text = operative_text(config)
    assert "%" not in text
    (tmp_path / "config.gin").write_text(text)
    again = load([str(tmp_path / "config.gin")], []).resolve()
    assert again == config
    assert operative_text(again) == text


def test_differences():
    before = operative_text(configure("code", "local"))
    other = ["Checkpoints.every=7", "Checkpoints.keep=9", "Evaluation.every=3", "Mesh.fsdp=1", "Llama.remat='full'"]
    assert gin_files.differences(before, operative_text(configure("code", "local", *other))) == []
    assert gin_files.differences(before.replace("0.002", "2e-3"), before) == []
    after = operative_text(configure("code", "local", "CODE_LEARNING_RATE=1e-3", "Checkpoints.initial=/x"))
    assert gin_files.differences(before, after) == [
        "AdamW.peak_learning_rate: 0.002 there, 0.001 here",
        "Checkpoints.initial: 'scratch' there, '/x' here",
    ]
    assert gin_files.differences(before.replace("Stage.seed = 0\n", ""), before) == [
        "Stage.seed: nothing there, 0 here"
    ]
    assert "the configuration there" in message(gin_files.differences, "Stage.seed = ", before)


def test_import_is_light():
    """No framework and no waiting, also when the module is run as __main__."""
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


# Hosts and chips of the slice that each size file states, four chips a host.
STATED = {"7b": 64, "13b": 64, "34b": 64, "70b": 256}


@pytest.mark.parametrize("stage, size", [(stage, size) for stage, size in COMBINATIONS if size in STATED])
def test_batches_fit_the_chips_that_a_size_file_states(stage, size):
    """Lanes divide over the hosts, and the windows of a micro-batch over the mesh that is chosen for them."""
    config, chips = configure(stage, size), STATED[size]
    assert f"which is {chips} chips" in (ROOT / f"gin/models/{size}.gin").read_text()
    assert config.stage.batch_size % config.data_loader.readers == 0 and config.data_loader.readers % (chips // 4) == 0
    windows = config.stage.batch_size // config.stage.micro_batches
    data, fsdp, context, tensor = axis_sizes(config.mesh, chips, 1, windows)
    assert (data, tensor) == (1, 1) and windows % fsdp == 0 and fsdp * context == chips
    assert config.stage.sequence_length % (2 * 128 * context) == 0, "a device has whole blocks of a window"
