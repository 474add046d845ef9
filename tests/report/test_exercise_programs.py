"""Right and wrong programs in the training reports, with the test that a wrong one fails."""

import json
import pathlib

import pytest

from codellama_jax.evaluation.sample import Sample
from codellama_jax.evaluation.sample_file import line_of
from codellama_jax.exercises import problems
from codellama_jax.report.exercise_programs import SHOWN
from codellama_jax.report.stage_summary import conclusion
from codellama_jax.report.training import write_run_report, write_stage_report
from tests.report.report_pages import Page
from tests.report.test_training import HOSTILE, finish, make_stage

COUNT = 24
TRACEBACK = 'Traceback (most recent call last):\n  File "<test>", line 4, in check\n'


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A stage that solved every second problem, and fails the second test of the others."""
    folder = finish(make_stage(tmp_path, "code"))
    samples = []
    for number, row in enumerate(problems.problems("test", COUNT)):
        passed = number % 2 == 0
        answer = row["canonical_solution"] if passed else f"    return {HOSTILE!r}\n"
        reason, stderr = ("", "") if passed else ("failed: AssertionError", f"{TRACEBACK}AssertionError\n")
        sample = Sample(row["task_id"], 0, 0, row["prompt"], answer, answer, passed, reason, stderr=stderr)
        samples.append(line_of(sample))
    results = {"pass@1": 0.5, "pass@1_interval": [0.31, 0.69], "tasks": COUNT, "samples": COUNT}
    (folder / "evaluation/samples").mkdir(parents=True)
    (folder / "evaluation/samples/exercises.jsonl").write_text("".join(samples))
    results["settings"] = {"problems": COUNT}
    (folder / "evaluation/results.json").write_text(json.dumps({"exercises": results}))
    return folder


def test_right_and_wrong_programs_are_shown_with_what_failed(folder: pathlib.Path) -> None:
    rows = problems.problems("test", COUNT)
    for path in (write_stage_report(folder), write_run_report(folder.parent)):
        page = Page(path)
        assert {"pass@1 of exercises", "50.0%", "31.0% to 69.0%"} <= set(page.texts())
        assert {"Right programs by code ", "Wrong programs by code "} <= set(page.texts("h2"))
        assert page.texts("small").count(f"{SHOWN} of {COUNT // 2}, chosen at random") == 2
        programs = {row["canonical_solution"].rstrip() for row in rows[::2]}
        assert sum(text in programs for text in page.texts("mark")) == SHOWN
        tests = [row["test"].splitlines()[2].replace("assert candidate", row["entry_point"]) for row in rows[1::2]]
        assert sum(text in map(str.strip, tests) for text in page.texts("pre")) == SHOWN
        answers = {row["canonical_solution"] for row in rows[1::2]}
        assert sum(text in answers for text in page.texts("ins")) == SHOWN
        families = {row["prompt"]: row["family"] for row in rows}
        shown = [families[text] for text in page.texts("span") if text in families]
        assert len(set(shown[:SHOWN])) == len(set(shown[SHOWN:])) == SHOWN, "each of another family"
        assert "script" not in {tag for tag, _ in page.tags}


def test_problems_of_another_version_are_shown_without_their_tests(folder: pathlib.Path) -> None:
    path = folder / "evaluation/samples/exercises.jsonl"
    path.write_text(path.read_text().replace('"prompt": "', '"prompt": "# other\\n'))
    page = Page(write_stage_report(folder))
    assert "failed: AssertionError" in page.texts("bdi") and "A right answer" not in page.texts()


def test_the_last_lines_have_the_score_with_its_interval(folder: pathlib.Path) -> None:
    done = json.loads((folder / "done.json").read_text()) | {"bits_per_byte": {}}
    results = json.loads((folder / "evaluation/results.json").read_text())
    expected = f"pass@1 of exercises 50.0% (95% interval 31.0% to 69.0%, {COUNT} problems)"
    assert conclusion(done, results)[-1] == expected
    results["exercises"]["variants"] = {order: dict(results["exercises"]) for order in ("psm", "spm")}
    assert len([line for line in conclusion(done, results) if line.startswith("pass@1 of exercises ")]) == 2
