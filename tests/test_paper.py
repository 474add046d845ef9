"""benchmarks/paper.py: its steps are valid commands, the engine resumes, statistics, pages, and all of it in small."""

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from study import page, summary  # noqa: E402
from study.claim import PASS, Chart, Claim, Comparison, Estimate, Measure, Value, estimate, verdict  # noqa: E402
from study.claims import CLAIMS  # noqa: E402
from study.engine import Setup, available_cores, run, tasks_of  # noqa: E402
from study.step import Step, remaining_minutes, training, unique  # noqa: E402

from codellama_jax.config import gin_files  # noqa: E402
from codellama_jax.errors import UserError  # noqa: E402

STEPS = unique(step for claim in CLAIMS for step in claim.steps)
LOSS = Measure("loss", "nats", higher_is_better=False)


# ---------------------------------------------------------------- steps


@pytest.mark.parametrize("size", ["gin/models/study.gin", "gin/paper/slice.gin"])
def test_every_stage_of_the_experiment_has_valid_settings(tmp_path, size):
    stages = [task for task in tasks_of(STEPS, 1, Setup(tmp_path, size, 8)) if task.command[0] == "xm_launch.py"]
    assert len(stages) > 15
    for task in stages:
        flags = gin_files.split_flags(task.command[1:])
        config = gin_files.load(flags.gin_files, flags.bindings).resolve()
        assert config.stage.size == "study" and config.stage.parent is None and config.stage.seed == 0, task.name
        parents = [need for need in task.step.needs if f"/{need}/" in config.checkpoints.initial]
        assert (config.checkpoints.initial == "scratch") == (not parents), task.name


def test_seeds_differ_in_their_seed_only(tmp_path):
    first, second = tasks_of([training("one")], 2, Setup(tmp_path, "gin/models/study.gin", 8))
    other = [argument.replace("seed0", "seed1").replace("seed=0", "seed=1") for argument in first.command]
    assert other == second.command != first.command


def test_steps_of_one_name_must_be_equal_and_have_what_they_need():
    assert unique([Step("a", ("1",)), Step("b", (), ("a",)), Step("a", ("1",))]) == [
        Step("a", ("1",)),
        Step("b", (), ("a",)),
    ]
    with pytest.raises(ValueError, match="two steps are named a"):
        unique([Step("a", ("1",)), Step("a", ("2",))])
    with pytest.raises(ValueError, match="needs a, which no claim has"):
        unique([Step("b", (), ("a",))])


def test_chains_are_counted_to_their_end():
    steps = [Step("a", (), (), 1), Step("b", (), ("a",), 5), Step("c", (), ("a",), 2), Step("d", (), ("c",), 4)]
    assert remaining_minutes(steps) == {"a": 7, "b": 5, "c": 6, "d": 4}


# ---------------------------------------------------------------- the engine

# A command that adds a line to a file, so that the order and number of runs can be seen.
_APPEND = "import sys; open(sys.argv[1] + '/runs', 'a').write(sys.argv[2] + '\\n')"


def appends(name: str, *needs: str) -> Step:
    return Step(name, ("-c", _APPEND, "{out}", f"{name}{{seed}}"), needs)


def lines(folder: Path) -> list[str]:
    return (folder / "runs").read_text().split()


def test_steps_run_once_after_what_they_need_and_resume(tmp_path):
    steps = [appends("c", "b"), appends("b", "a"), appends("a"), Step("bad", ("-c", "exit('error: no luck')"), ("c",))]
    tasks = tasks_of(steps, 2, Setup(tmp_path, "s.gin", 8))
    called = []
    with pytest.raises(UserError, match=r"bad, seed . failed .*no luck"):
        run(tasks, available_cores(), lambda: called.append(1))
    assert 3 <= len(called) == len(lines(tmp_path)) <= 6
    good = [task for task in tasks if task.step.name != "bad"]
    assert not run(good, available_cores(), lambda: None)
    runs = lines(tmp_path)
    assert sorted(runs) == ["a0", "a1", "b0", "b1", "c0", "c1"]
    assert all(runs.index(f"a{seed}") < runs.index(f"b{seed}") < runs.index(f"c{seed}") for seed in (0, 1))
    assert not run(good, available_cores(), lambda: None) and lines(tmp_path) == runs
    changed = tasks_of([Step("a", ("-c", _APPEND, "{out}", "other"))], 1, Setup(tmp_path, "s.gin", 8))
    with pytest.raises(UserError, match="made by another command"):
        run(changed, available_cores(), lambda: None)
    assert lines(tmp_path) == runs


def test_a_signal_ends_the_steps_and_the_rest_is_done_later(tmp_path):
    program = tmp_path / "experiment.py"
    program.write_text(f"""
import sys; sys.path[:0] = {[str(ROOT), str(ROOT / "benchmarks")]}
from pathlib import Path
from study.engine import Setup, available_cores, run, tasks_of
from study.step import Step
slow = "import sys, time; open(sys.argv[1] + '/started', 'w'); time.sleep(60)"
steps = [Step("slow", ("-c", slow, "{{out}}")), Step("after", ("-c", ""), ("slow",))]
print(run(tasks_of(steps, 1, Setup(Path({str(tmp_path)!r}), "s.gin", 8)), available_cores(), lambda: None))
""")
    process = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert output == "True\n" and not list(tmp_path.rglob("done.json"))


def test_the_time_of_interrupted_commands_counts(tmp_path):
    task, other = tasks_of([appends("a"), appends("b")], 1, Setup(tmp_path, "s.gin", 8))
    task.record(2.0, succeeded=False)
    task.record(0.5, succeeded=False)
    assert not task.done and task.seconds == 0
    task.record(3.0, succeeded=True)
    assert task.done and task.seconds == 5.5 and not other.done


# ---------------------------------------------------------------- statistics


def test_interval_is_students():
    stats = pytest.importorskip("scipy.stats")
    for values in ([1.0, 2.0], [0.1, 0.5, 0.2], [3.0, 1.0, 4.0, 1.0, 5.0], list(map(float, range(10)))):
        found = estimate(values)
        error = statistics.stdev(values) / math.sqrt(len(values))
        expected = stats.t.interval(0.95, len(values) - 1, statistics.fmean(values), error)
        assert (found.low, found.high) == pytest.approx(expected, rel=1e-3)
    assert estimate([0.25]) == Estimate(0.25, math.inf, (0.25,))


@pytest.mark.parametrize("measure, better", [(PASS, 1), (LOSS, -1)])
def test_verdicts(measure, better):
    def of(expected, mean, half):
        return verdict(Comparison("", measure, "a", "b", expected, 0.1), Estimate(better * mean, half, ()))

    assert of("better", 0.3, 0.2) == of("worse", -0.3, 0.2) == of("equal", 0.02, 0.05) == "shown"
    assert of("better", 0.3, 0.4) == of("worse", -0.3, 0.4) == of("equal", 0.02, 0.2) == "not shown"
    assert of("better", -0.3, 0.2) == of("worse", 0.3, 0.2) == of("equal", -0.3, 0.05) == "the opposite"
    assert of("better", 0.3, math.inf) == "not shown"


# ---------------------------------------------------------------- pages


def test_pages_show_seeds_that_have_all_steps_only(tmp_path):
    def measure(folder: Path):
        value = float((folder / "one" / "value").read_text())
        yield Value("a <b>", PASS, value)
        yield Value("c", PASS, value + 0.1)
        yield from (Value("a <b>", LOSS, value, x) for x in (1.0, 2.0))

    step = Step(
        "one", ("-c", "import os; os.mkdir('{folder}/one'); open('{folder}/one/value', 'w').write('0.{seed}5')")
    )
    comparison = Comparison("c against a", PASS, "a <b>", "c", "better")
    claim = Claim("key", "A claim", "table 1", "How.", (step,), measure, (comparison,), (Chart(LOSS, "tokens"),))
    tasks = tasks_of([step], 3, Setup(tmp_path, "s.gin", 8))
    empty = summary.read([claim], tasks)
    assert "Not measured" in summary.result_file(empty) and "Not measured" in page.write(tmp_path, empty).read_text()
    assert not run(tasks[:2], available_cores(), lambda: None)
    found = summary.read([claim], tasks)
    text, html = " ".join(summary.docs_page(found).split()), page.write(tmp_path, found).read_text()
    assert found.results[0].seeds == (0, 1) and "2 of 3 steps" in text and "2 of 3 steps" in html
    assert "| a <b> | 10.0% (-53.5% to 73.5%) |" in text
    assert "| c against a | pass@1 of exercises | +10.0% (+10.0% to +10.0%) | better | shown |" in text
    assert "| loss, by tokens | 1 | 2 |" in text and "a &lt;b&gt;" in html and "<b>)" not in html


# ---------------------------------------------------------------- the real thing


@pytest.mark.slow
@pytest.mark.usefixtures("processes_compile_fast")
def test_experiment_in_small(tmp_path):
    """Two claims with their real commands and far too few steps; killed on the way, and finished."""
    flags = [f"--out={tmp_path / 'out'}", "--size=gin/paper/slice.gin", "--seeds=1", "--problems=4", "--claims"]
    command = [sys.executable, ROOT / "benchmarks" / "paper.py", *flags, "general", "rope"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True)
    while not (line := process.stdout.readline()).startswith("1/10"):
        assert line
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "10/10" in ended.stdout and "1/10" not in ended.stdout
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count("<svg") >= 4 and "Not measured" not in html
    done = json.loads((tmp_path / "out" / "seed0" / "rope_million" / "done.json").read_text())
    assert "gin/paper/long_context.gin" in " ".join(done["command"])
