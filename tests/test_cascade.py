"""The command that users run, on the embedded corpus: what it learns, which files it writes, and how it resumes.

Each run is a separate process, as for the user.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from runs import ROOT, TOY, Run, lines

from codellama_jax.runtime import checksums

# The smallest cascade: size local with half of its width, layers and lengths, and with fewer steps.
STEPS = 350
SMALLEST = ["--gin.Llama.dim=64", "--gin.Llama.layers=2", "--gin.Llama.ffn_dim=192", "--gin.CODE_LENGTH=128"]
SMALLEST += ["--gin.DOCUMENT_CHARACTERS=200", "--gin.LCFT_LENGTH=512"]
SMALLEST += [f"--gin.CODE_STEPS={STEPS}", "--gin.LCFT_STEPS=120", "--gin.Evaluation.every=1_000"]
SMALLEST += ["--gin.Exercises.problems=8", "--gin.Exercises.max_tokens=32"]
CODE = ["--gin_file=gin/code.gin", *TOY, "--gin.CODE_STEPS=40", "--gin.CODE_BATCH_TOKENS=256"]
# Without infilling samples, which are not compared: their programs take longest to compile. The cascade has some.
CODE += ["--gin.Checkpoints.every=10", "--gin.Evaluation.every=16", "--gin.Evaluation.samples=0"]


def command(run_dir: Path, *flags: str) -> list[str]:
    return [sys.executable, str(ROOT / "xm_launch.py"), f"--run_dir={run_dir}", *flags]


def launch(run_dir: Path, *flags: str, code: int = 0) -> str:
    """Runs the launcher until it ends, checks its exit code, and returns its output."""
    run = subprocess.run(command(run_dir, *flags), cwd=run_dir.parent, capture_output=True, text=True, timeout=400)
    assert run.returncode == code, run.stdout + run.stderr
    return run.stdout + run.stderr


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("cascade") / "runs"
    return run_dir, launch(run_dir, "--gin_file=gin/lcft.gin", *SMALLEST)


def test_one_command_runs_all_stages(cascade):
    run_dir, output = cascade
    assert "size local" in output and "code -> lcft" in output
    for stage in ("code", "lcft"):
        folder = run_dir / "local" / stage
        names = {path.name for path in folder.iterdir()}
        assert names >= {"config.gin", "metrics.jsonl", "tensorboard", "checkpoints", "report.html", "done.json"}
        assert any((folder / "tensorboard").glob("events.out.tfevents.*"))
    assert (run_dir / "local" / "report.html").stat().st_size > 10_000


def test_code_training_learns(cascade):
    done = json.loads((cascade[0] / "local/code/done.json").read_text())
    assert done["validation_loss_first"] - done["validation_loss_last"] >= 2
    assert f"{done['validation_loss_last']:.3f} nats" in cascade[1]


def test_long_context_fine_tuning_lowers_perplexity_at_four_times_the_length(cascade):
    folder = cascade[0] / "local" / "lcft"
    before, after = (
        next(line for line in lines(folder / "evaluations.jsonl") if line.get("when") == when)
        for when in ("before", "after")
    )
    assert (before["rope_theta"], after["rope_theta"]) == (1e4, 1e6)
    assert before["lengths"] == after["lengths"] and after["lengths"][-1] == 4 * before["trained_length"]
    assert after["perplexity"][-1] <= 0.8 * before["perplexity"][-1]
    assert f"-> {after['perplexity'][-1]:.1f}" in cascade[1]


def test_each_stage_ends_in_a_number(cascade):
    """pass@1 of held-out exercises, in the last lines and in the report; after so few steps it may be 0."""
    for stage in ("code", "lcft"):
        folder = cascade[0] / "local" / stage
        results = json.loads((folder / "evaluation/results.json").read_text())["exercises"]
        assert (results["tasks"], results["model"]) == (8, f"local-{stage}")
        line = f"{stage}: pass@1 of exercises {results['pass@1']:.1%} (95% interval "
        assert cascade[1].index(line) > cascade[1].index(f"{stage}: bits per byte of exercises ")
        assert f"{stage}: exercises" in (cascade[0] / "local/report.html").read_text()


def test_metrics_have_the_documented_keys(cascade):
    metrics = lines(cascade[0] / "local/code/metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, STEPS + 1))
    for line in metrics:
        assert line.keys() >= {"step", "loss", "learning_rate", "grad_norm", "tokens_per_second", "seconds"}
        streams = [name.removeprefix("tokens/") for name in line if name.startswith("tokens/")]
        assert all(f"loss/{name}" in line for name in streams)
        assert sum(line[f"tokens/{name}"] for name in streams) == 1024
    tokens = {name: sum(line.get(f"tokens/{name}", 0) for line in metrics) for name in ("code", "nl_code", "nl")}
    for name, share in {"code": 0.85, "nl_code": 0.08, "nl": 0.07}.items():
        assert abs(tokens[name] / (STEPS * 1024) - share) < 0.005
    assert sum(line["infilling_tokens"] for line in metrics) / (STEPS * 1024) > 0.1
    assert metrics[-1]["learning_rate"] == pytest.approx(3e-3 / 30, rel=1e-5)


def test_a_finished_stage_does_not_run_again(cascade):
    before = (cascade[0] / "local/lcft/metrics.jsonl").stat().st_mtime_ns
    output = launch(cascade[0], "--gin_file=gin/lcft.gin", *SMALLEST)
    assert "lcft is finished" in output
    assert (cascade[0] / "local/lcft/metrics.jsonl").stat().st_mtime_ns == before


def test_a_parent_with_another_configuration_is_refused(cascade):
    output = launch(cascade[0], "--gin_file=gin/instruct.gin", *SMALLEST, "--gin.LCFT_STEPS=9", code=1)
    assert "lcft was made with another configuration (" in output and "Stage.steps: 120 before, 9 now" in output


def test_a_finished_custom_stage_is_accepted_as_parent(tmp_path):
    """The launcher has no gin file for it, but does not have to run it."""
    folder = tmp_path / "runs" / "local" / "mine"
    (folder / "checkpoints" / "7").mkdir(parents=True)
    flags = ["--gin_file=gin/lcft.gin", "--gin.Stage.parent=mine", "--dry_run"]
    assert "mine, which is not finished" in launch(tmp_path / "runs", *flags, code=1)
    (folder / "done.json").write_text('{"step": 7}')
    assert launch(tmp_path / "runs", *flags).count("-m codellama_jax.train") == 1


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, processes_compile_fast):
    """A run to compare with. Only the cascade, which comes first, compiles as users do."""
    run = Run(tmp_path_factory.mktemp("uninterrupted") / "runs", CODE)
    run.finish()
    return run


def test_resumes_after_sigkill_with_the_same_losses(uninterrupted, tmp_path, monkeypatch):
    """SIGKILL to the training process: the same command resumes from a checkpoint, and every digit is equal.

    The killed run compiles its own programs, and the resumed run finds them in the cache.
    """
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    programs = tmp_path / "cache" / "codellama_jax" / "programs"
    run = Run(tmp_path / "runs", CODE)
    with run.start() as started:
        assert started.until_step(23), started.output()
        os.kill(started.training, signal.SIGKILL)
        assert started.wait(30) == [1] and "resumes from the last checkpoint" in started.output()
    compiled = {path.name for path in programs.glob("jit_train_step*")}
    assert len(compiled) == 1
    assert "resuming from step" in run.finish()
    assert {path.name for path in programs.glob("jit_train_step*")} == compiled
    assert run.trajectory() == uninterrupted.trajectory()
    evaluations = Path("code", "evaluations.jsonl")
    assert lines(run.folder / evaluations) == lines(uninterrupted.folder / evaluations)


def test_resumes_after_sigterm_with_the_same_losses(uninterrupted, tmp_path):
    """SIGTERM to the launcher: the stage saves and exits with 75, and the same command finishes the run."""
    run = Run(tmp_path / "runs", CODE)
    with run.start() as started:
        assert started.until_step(13), started.output()
        started.children[0].terminate()
        assert started.wait(60) == [75] and "saved at step" in started.output()
    run.finish()
    assert run.trajectory() == uninterrupted.trajectory()


# Names of settings -> those that earlier versions wrote into config.gin and into checkpoints.
OLD_NAMES = {
    "DataLoader.readers": "Stream.lanes",
    "DataLoader.": "Stream.",
    "LossSpikes.max_consecutive_skips": "BadSteps.in_a_row",
    "LossSpikes.threshold": "BadSteps.spike",
    "LossSpikes.window": "BadSteps.spike_window",
    "LossSpikes.max_rollbacks": "BadSteps.rollbacks",
    "# DataLoader": "# Stream",
    "# LossSpikes": "# BadSteps",
}


def test_resumes_a_run_of_an_earlier_version(uninterrupted, tmp_path):
    """Only the names of settings differ; the losses do not."""
    run = Run(tmp_path / "runs", CODE)
    shutil.copytree(uninterrupted.run_dir, run.run_dir)
    folder = run.folder / "code"
    (folder / "done.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "40")
    checkpoint = folder / "checkpoints" / "30"
    for path in (folder / "config.gin", checkpoint / "metadata" / "metadata"):
        text = path.read_text()
        assert all(name in text for name in OLD_NAMES)
        for name, old_name in OLD_NAMES.items():
            text = text.replace(name, old_name)
        path.write_text(text)
    checksums.write(checkpoint)
    assert "resuming from step 30" in run.finish()
    assert run.trajectory() == uninterrupted.trajectory()


def test_a_folder_in_use_is_refused(uninterrupted):
    folder = uninterrupted.folder / "code"
    with (folder / ".lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        (folder / "done.json").rename(folder / "done.kept")
        try:
            output = uninterrupted.finish(code=1)
        finally:
            (folder / "done.kept").rename(folder / "done.json")
    assert "is in use by process" in output


def test_a_folder_with_another_configuration_is_refused(uninterrupted):
    output = launch(uninterrupted.run_dir, *CODE, "--gin.CODE_LEARNING_RATE=1e-5", code=1)
    assert "AdamW.peak_learning_rate" in output and "another configuration" in output
    assert len([line for line in output.splitlines() if line.startswith("error")]) == 1


@pytest.mark.parametrize(
    "flags, code, words",
    [
        (["--gin_file=gin/lfct.gin"], 2, ["gin/lfct.gin does not exist", "gin/lcft.gin"]),
        (["--gin_file=gin/lcft.gin", "--gin.Stage.step=3"], 2, ["did you mean Stage.steps"]),
        (["--gin_file=gin/lcft.gin", "--gin.CODE_STEP=3"], 2, ["unknown macro CODE_STEP", "CODE_STEPS"]),
        (["--gin_file=gin/lcft.gin", "--gin_file=gin/models/70b.gin"], 1, ["size 70b needs at least", "this machine"]),
        ([], 2, ["no stage given", "gin/code.gin"]),
        (
            ["--gin_file=gin/code.gin", "--dry_run", "--gin.Evaluation.benchmark_data=/nowhere"],
            1,
            ["/nowhere/humaneval/HumanEval.jsonl.gz is missing", "Evaluation.benchmark_data"],
        ),
        (["--gin_file=gin/code.gin", "--gin.CODE_CORPUS=/nowhere"], 1, ["CODE_CORPUS=/nowhere", "no such file"]),
        (["--gin_file=gin/code.gin", "--gin.TOKENIZER={readme}"], 1, ["README.md", "not a SentencePiece model"]),
    ],
)
def test_bad_input_is_one_error_line_with_the_remedy(tmp_path, flags, code, words):
    flags = [flag.format(readme=ROOT / "README.md") for flag in flags]
    output = launch(tmp_path / "runs", *flags, code=code)
    errors = [line for line in output.splitlines() if "error" in line]
    assert len(errors) == 1 and "Traceback" not in output
    for word in words:
        assert word in errors[0]


def test_the_first_line_appears_within_two_seconds(tmp_path):
    started = time.monotonic()
    process = subprocess.Popen(
        command(tmp_path / "runs", "--gin_file=gin/lcft.gin", "--dry_run"), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline()
    assert time.monotonic() - started < 2
    rest = process.communicate()[0]
    assert rest.count("-m codellama_jax.train") == 2 and not (tmp_path / "runs").exists()
