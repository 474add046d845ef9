"""The report of an evaluation: complete, safe with hostile samples, and of bounded size."""

import json
import re
from pathlib import Path

import pytest

from codellama_jax.errors import UserError
from codellama_jax.evaluation import environment
from codellama_jax.evaluation.comparison import compare, read_runs
from codellama_jax.report import task_pages
from codellama_jax.report.evaluation import write_evaluation_report
from codellama_jax.report.evaluation_comparison import write_comparison
from codellama_jax.report.published import nearest, published
from tests.evaluation.evaluated_runs import sample, write_run
from tests.report.report_pages import Page

HOSTILE = (
    "</pre></details><script>alert('x')</script>",
    "\u202eabc\u202c \u2066x\u2069\u200b\ufeff\u2028\u061c",
    "\x00\x1b[31mred\x07\x85\x9b\r\r\n",
    "'" + "A" * 300_000 + "'",
    "\ud800 \udfff \uffff",
    "Z" + "\u0301\u0302" * 500,
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "<!-- ]]> &amp; &#0; \"'`",
)


def pages_of(out: Path) -> list[Page]:
    return [Page(path) for path in (write_evaluation_report(out), *sorted((out / "tasks").iterdir()))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """HumanEval with 12 samples of 3 tasks, and infilling in both orders."""
    passed_of = {0: 12, 2: 3, 10: 0}
    samples = [sample(f"HumanEval/{task}", i, i < passed) for task, passed in passed_of.items() for i in range(12)]
    write_run(tmp_path, "humaneval", samples, {"max_tokens": 64}, **{"pass@1": 5 / 12, "pass@1_interval": [0.1, 0.8]})
    orders = {"psm": [True, False, False, False], "spm": [True, True, True, False]}
    results = {order: {"pass@1": sum(passed) / 4, "tasks": 4, "samples": 4} for order, passed in orders.items()}
    holes = [
        sample(f"S/{task}", passed=passed[task], variant=order, input={"suffix": "after", "order": order})
        for order, passed in orders.items()
        for task in range(4)
    ]
    write_run(tmp_path, "infilling_single_line", holes, {}, **results["psm"], variants=results, model="mine-13b")
    environment.store(tmp_path, "humaneval", {"source": "checkpoint runs/x", "all_tasks": 164})
    return tmp_path


def test_the_report_shows_results_beside_the_papers(folder: Path):
    page = Page(write_evaluation_report(folder))
    text = " ".join(page.texts())
    assert "41.7%" in page.texts("strong") and "10.0 to 80.0" in page.texts("td")
    assert "Code Llama 7B, table 2" in text  # the smallest base model: the name says nothing
    assert "Code Llama 13B, table 14" in text and "85.6%" in text
    assert "humaneval: 3 of its 164 tasks: published results are of all of them." in text
    assert "max_tokens 64 (default 512)" in text
    assert "checkpoint runs/x" in text and "codellama_jax 0.1.0+" in text
    assert page.attributes("svg", "aria-label")[:2] == ["pass@1", "pass@k of humaneval"]
    # 2 / 6 with the standard error sqrt(3 - 4 / 6) / 6; p; both solve, only PSM, only SPM, neither
    row = page.texts("td").index("+50.0 (-16.6 to +83.2)")
    assert page.texts("td")[row : row + 6] == ["+50.0 (-16.6 to +83.2)", "0.5", "1", "0", "2", "1"]


def test_failures_are_counted_by_class(folder: Path):
    failed = [
        sample("a", passed=False),
        sample("b", passed=False, finish_reason="length"),
        sample("c", passed=False, status="error", reason="error: NameError: x"),
        sample("d"),
    ]
    page = Page(write_evaluation_report(write_run(folder, "humaneval", failed, **{"pass@1": 0.25})))
    cells = page.texts("td")
    names = page.texts("th")
    assert names.index("assertion") < names.index("NameError")
    assert cells[cells.index("50.0%") - 1 :][:3] == ["2", "50.0%", "1"]


def test_the_pages_show_prompt_output_verdict_and_where_the_record_is(folder: Path):
    raw = "<think>\n    return 1\ndef g(): pass"
    shown = sample(
        "t", raw=raw, completion="    return 1", passed=False, prompt="\n\ndef f():\r\n", stderr="Traceback: x"
    )
    write_run(folder, "humaneval", [shown, sample("u", raw="a", completion="not of it", passed=None)])
    page = Page(write_evaluation_report(folder).parent / "tasks" / "humaneval-1.html")
    assert "\n\ndef f():\n" in page.texts("span")  # exact, with the line feeds at its start
    assert "    return 1" in page.texts("mark")
    assert {"<think>\n", "\ndef g(): pass", "Traceback: x"} <= set(page.texts("span"))
    text = " ".join(page.texts())
    assert (
        "lines end in CRLF" in text and "line 1 of samples/humaneval.jsonl" in text and "failed: AssertionError" in text
    )
    assert "not of it" in page.texts("mark")
    index = Page(folder / "tasks" / "humaneval.html")
    assert [link for link in index.attributes("a", "href") if "#" in link] == [
        "humaneval-1.html#t1",
        "humaneval-1.html#t2",
    ]
    assert page.attributes("details", "id") == ["t1", "t2"]


def test_a_dialogue_is_shown_with_its_roles(folder: Path):
    messages = [{"role": "user", "content": "What?"}, "damaged"]
    write_run(folder, "humaneval", [sample("t", input={"messages": messages})])
    write_evaluation_report(folder)
    page = Page(folder / "tasks" / "humaneval-1.html")
    assert "user" in page.texts("bdi") and "What?" in page.texts("span")


def test_equal_samples_are_shown_once(folder: Path):
    same = [sample("t", i, False, raw="same", completion="same") for i in range(150)]
    other = [sample("t", i, False, raw=f"{i}", completion=f"{i}") for i in range(150, 200)]
    write_run(folder, "humaneval", same + other)
    write_evaluation_report(folder)
    text = " ".join(Page(folder / "tasks" / "humaneval-1.html").texts())
    assert "sample 0, 1, 2, 3, 4, … (150 of 200)" in text
    assert "21 different samples are not shown" in text


def hostile_run(folder: Path) -> Path:
    texts = []
    for text in HOSTILE:
        fields = {"raw": f"{text} rest", "completion": text, "prompt": text, "reason": text, "stderr": text}
        fields |= {"variant": text, "input": {"suffix": text, text: text}, "scores": {text: 1.0}, "status": "error"}
        texts.append(sample(f"t{text}", 0, False, **fields))
    variants = {HOSTILE[0]: {"pass@1": 0.0, HOSTILE[2]: 1.0}}
    results = {"pass@1": 0.0, "model": HOSTILE[0] + HOSTILE[1], "variants": variants}
    write_run(folder, "humaneval", texts, {"stop": list(HOSTILE), HOSTILE[0]: HOSTILE[3]}, **results)
    (folder / "environment.json").write_text(json.dumps({"humaneval": {"source": HOSTILE[0], "finished": HOSTILE[1]}}))
    return folder


def check_safe(page: Page) -> None:
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "base", "image", "use"}
    assert not [attrs for _, attrs in page.tags if any(name.startswith(("on", "src", "xlink")) for name in attrs)]
    assert "default-src 'none'" in page.source
    assert not re.search(r"url\(|@import", page.source)
    assert not re.search(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028\u202a-\u202e\u2066-\u2069\ufeff\uffff]", page.source
    )


def test_hostile_samples_are_shown_as_text(tmp_path: Path):
    pages = pages_of(hostile_run(tmp_path))
    assert len(pages) == 3
    for page in pages:
        check_safe(page)
        assert len(page.source) < 300_000
    text = " ".join(pages[1].texts())
    assert "</pre></details><script>alert('x')</script>" in text
    assert "⟨U+202E⟩abc⟨U+202C⟩ ⟨U+2066⟩x⟨U+2069⟩⟨U+200B⟩⟨U+FEFF⟩" in text
    assert "296,002 characters are not shown" in text


def test_a_comparison_of_hostile_samples_is_shown_as_text(tmp_path: Path):
    first, second = (hostile_run(tmp_path / name) for name in ("a", "<b>\u202e"))
    file = second / "samples" / "humaneval.jsonl"
    file.write_text(file.read_text().replace('"passed": false', '"passed": true'))
    found = read_runs([first, second])
    page = Page(write_comparison(tmp_path, [(*found, compare(*found))]))
    check_safe(page)
    assert len(page.attributes("details", "class")) == len(HOSTILE)  # the changed tasks
    assert "0.0%" in page.texts("td") and "+100.0" in page.texts("strong")


@pytest.mark.parametrize("tasks, samples, variants", [(164, 40, ("",)), (2500, 1, ("psm", "spm"))])
def test_large_evaluations_have_pages_of_bounded_size(
    tmp_path: Path, tasks: int, samples: int, variants: tuple[str, ...]
):
    text = "    value = compute(value)\n" * 20
    rows = [
        sample(f"t/{task}", i, False, raw=f"{text}{i}", completion=f"{text}{i}", prompt=text, variant=variant)
        for variant in variants
        for task in range(tasks)
        for i in range(samples)
    ]
    write_run(tmp_path, "humaneval", rows, **{"pass@1": 0.0})
    report = write_evaluation_report(tmp_path)
    pages = [path.stat().st_size for path in (tmp_path / "tasks").iterdir()]
    assert report.stat().st_size < 200_000
    assert len(pages) > 2 and max(pages) < 1.2 * task_pages.PAGE_CHARACTERS + 20_000
    links = re.findall(r'href="(humaneval-\d+\.html)#t\d+"', (tmp_path / "tasks" / "humaneval.html").read_text())
    assert len(links) == tasks and set(links) == {path.name for path in (tmp_path / "tasks").glob("humaneval-*")}
    # pages of this report that a smaller one does not have are removed
    write_run(tmp_path, "humaneval", rows[:1])
    write_evaluation_report(tmp_path)
    assert sorted(path.name for path in (tmp_path / "tasks").iterdir()) == ["humaneval-1.html", "humaneval.html"]


def test_samples_that_the_results_do_not_have_are_reported(folder: Path):
    write_run(folder, "humaneval", [sample("a"), sample("b")], samples=1)
    text = " ".join(Page(write_evaluation_report(folder)).texts())
    assert "the results are of 1 samples, and the figures and tasks below of all 2 in its file" in text


def test_an_average_over_variants_is_compared_with_the_published_one(tmp_path: Path):
    variants = {name: {"pass@1": passed, "tasks": 4, "samples": 4} for name, passed in (("cpp", 0.25), ("sh", 0.75))}
    rows = [sample(str(i), variant=variant) for variant in variants for i in range(4)]
    results = {"pass@1": 0.5, "variants": variants, "averaged": [*variants], "skipped": {"cs": "no compiler"}}
    page = Page(write_evaluation_report(write_run(tmp_path, "humaneval", rows, **results)))
    assert page.texts("strong") == ["50.0%", "25.0%", "75.0%"]
    assert page.texts("span").count("Code Llama 7B, table 2") == 1
    text = " ".join(page.texts())
    assert "cs was skipped: no compiler" in text and "(average)" in text and "of all 8 in its file" not in text


def test_results_whose_samples_were_removed_are_shown(folder: Path):
    (folder / "samples" / "humaneval.jsonl").unlink()
    page = Page(write_evaluation_report(folder))
    assert "41.7%" in page.texts("strong")
    assert "the figures and tasks below of all 0 in its file" in " ".join(page.texts())


def test_missing_results_are_reported(tmp_path: Path):
    with pytest.raises(UserError, match="there are no results to report"):
        write_evaluation_report(tmp_path)


def test_the_nearest_published_model():
    models = list(published("humaneval", "x").models)
    names = {
        "local-code": "Code Llama 7B",
        "runs-34b-code": "Code Llama 34B",
        "CodeLlama-13b-Instruct-hf": "Code Llama - Instruct 13B",
        "python_lcft 70B": "Code Llama - Python 70B",
        "mine-30B": "Code Llama 34B",
        "0.26b": "Code Llama 7B",
    }
    assert {name: nearest(name, models) for name in names} == names
    assert nearest("instruct-7b", ["Code Llama 7B", "Code Llama 13B"]) == "Code Llama 7B"
    assert published("toxigen", "x").model == ""


def test_the_environment_is_of_the_last_sample(folder: Path):
    before = environment.stored(folder)["humaneval"]
    environment.store(folder, "humaneval", {"source": "another"})
    assert environment.stored(folder)["humaneval"] == before
    write_run(folder, "humaneval", [sample("a")])
    environment.store(folder, "humaneval", {"source": "another"})
    assert environment.stored(folder)["humaneval"]["source"] == "another"
    (folder / environment.FILE).write_text("damaged")
    assert environment.stored(folder) == {}
