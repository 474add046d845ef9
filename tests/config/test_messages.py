"""Every mistake of a user is reported in one line with the remedy."""

import pytest

from codellama_jax.config.gin_files import load
from tests.config.recipe import message, refused


@pytest.mark.parametrize(
    "binding, expected",
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
        ("Fim.cut=word", "Fim.cut='word' must be 'character', 'line' or 'both'"),
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
        ("Llama.heads=3", "Llama.dim=128 must be an even multiple of Llama.heads=3"),
        ("Llama.heads=0", "Llama.heads=0 must be at least 1"),
        ("Llama.layers=0", "Llama.layers=0 must be at least 1"),
        ("Llama.ffn_dim=-1", "Llama.ffn_dim=-1 must be at least 1"),
        ("Llama.unroll=0", "and Llama.unroll=0 must be at least 1"),
        (
            "Llama.rope_scale=4",
            "must be above 0 and at most 1, because positions are multiplied by it: for 4 times the",
        ),
        ("Llama.rope_scale=0", "Llama.rope_scale=0.0 must be above 0"),
        ("Llama.rope_scale=-0.25", "Llama.rope_scale=-0.25 must be above 0"),
        ("Llama.padding_rows=-4", "Llama.padding_rows=-4 must not be negative"),
        ("Llama.rope_theta=0", "Llama.rope_theta=0.0 must be above 1; Llama 2 has 1e4"),
        ("Llama.rope_theta=-1e6", "Llama.rope_theta=-1000000.0 must be above 1"),
        ("Llama.norm_eps=0", "Llama.norm_eps=0.0 must be above 0 and below 1"),
        ("Llama.norm_eps=-1e-5", "Llama.norm_eps=-1e-05 must be above 0"),
        ("CODE_LEARNING_RATE=-3e-4", "AdamW.peak_learning_rate=-0.0003 must be above 0"),
        ("CODE_LEARNING_RATE=0", "AdamW.peak_learning_rate=0.0 must be above 0"),
        ("CODE_LEARNING_RATE=3e4", "AdamW.peak_learning_rate=30000.0 must be at most 1"),
        ("CODE_WARMUP=-1", "AdamW.warmup_steps=-1 must not be negative"),
        ("AdamW.clip_norm=0", "AdamW.clip_norm=0.0 must be above 0"),
        ("AdamW.eps=0", "AdamW.eps=0.0 must be above 0"),
        ("AdamW.beta2=1", "AdamW.beta2=1.0 must be at least 0 and below 1"),
        ("AdamW.weight_decay=-0.1", "AdamW.weight_decay=-0.1 must be at least 0"),
        ("AdamW.final_ratio=30", "AdamW.final_ratio=30.0 must be between 0 and 1"),
        ("CODE_STEPS=0", "Stage.steps=0 must be above 0"),
        ("Evaluation.samples=-1", "Evaluation.samples=-1 must not be negative"),
        ("Evaluation.benchmarks=mbpp", "Evaluation.benchmarks needs Evaluation.benchmark_data, the folder"),
        ("Evaluation.benchmarks=['exercises', 'mbpp']", "Evaluation.benchmarks needs Evaluation.benchmark_data"),
        ("Evaluation.final_benchmarks=['mbpp']", "Evaluation.final_benchmarks needs Evaluation.benchmark_data"),
        (
            "Evaluation.benchmarks=['mbp']",
            "Evaluation.benchmarks names 'mbp': those that can be measured during training are humaneval,",
        ),
        ("Evaluation.benchmark_data=s3://data", "Evaluation.benchmark_data=s3://data: the path must be local or"),
        ("INITIAL_CHECKPOINT=s3://bucket/a", "Checkpoints.initial=s3://bucket/a: the path must be local or start with"),
        ("INITIAL_CHECKPOINT=gs:/bucket/a", "a path in a bucket starts with gs://, with two slashes"),
        ("INITIAL_CHECKPOINT=s3:/bucket/a", "s3: is not the name of a folder; write ./s3:/bucket/a if it is"),
        ("INITIAL_CHECKPOINT=gs://", "gs:// has no bucket: write gs://BUCKET/FOLDER"),
        ("CODE_CORPUS=s3://bucket/a", "Corpus.code=s3://bucket/a: the path must be local or start with gs://"),
        ("NL_CORPUS=['/a', 'hdfs://h/a']", "Corpus.nl=hdfs://h/a: the path must be local or start with gs://"),
        ("TOKENIZER=https://host/tokenizer.model", "https://host/tokenizer.model: the path must be local or start"),
        ("Llama.remat=all", "'all' is unknown; it must be 'none', 'full' or names joined by '+', of input, q,"),
    ],
)
def test_an_invalid_flag_is_reported_with_the_remedy(binding, expected):
    assert expected in refused(binding)


@pytest.mark.parametrize(
    "text, expected",
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
def test_an_invalid_file_is_reported_with_its_line(tmp_path, text, expected):
    (tmp_path / "own.gin").write_text(text)

    def run():
        load(["gin/code.gin", str(tmp_path / "own.gin")], [], default_size="local").resolve()

    assert expected in message(run)


@pytest.mark.parametrize("name, near", [("gin/cod.gin", "code"), ("lcft", "lcft"), ("models/7b.gin", "models/7b")])
def test_a_missing_file_is_reported_with_the_most_similar_name(name, near):
    text = message(load, [name], [], default_size="local")
    assert text.startswith(f"--gin_file={name} does not exist: did you mean gin/{near}.gin?")
    assert "gin/python_lcft.gin" in text


def test_an_unreadable_file_is_named(tmp_path):
    (tmp_path / "own.gin").write_bytes(b"\xff\xfe")
    assert "own.gin" in message(load, [str(tmp_path / "own.gin")], [])
