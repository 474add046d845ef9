"""The report pages: complete, self-contained and well-formed, whichever files of a run are missing."""

import json
import math
import pathlib
import re

import pytest

from codellama_jax.report.training import write_run_report, write_stage_report
from tests.report.report_pages import Page

HOSTILE = "</pre><script>alert('x')</script> & \"quoted\" \x00\x1b[0m \ud800"


def make_stage(run: pathlib.Path, name: str, parent: str | None = None, **changes: object) -> pathlib.Path:
    """A stage folder with only its stage.json."""
    stage = {
        "stage": name,
        "size": "local",
        "parent": parent,
        "steps": 40,
        "batch_tokens": 1000,
        "sequence_length": 256,
        "parameters": 1265792,
        "vocab_size": 2064,
        "rope_theta": 1e4,
        "rope_scale": 1.0,
        "shares": {"code": 0.85, "nl_code": 0.08, "nl": 0.07},
        "devices": "2 x cpu",
        "peak_learning_rate": 1e-3,
        "started": "2026-11-21T10:00:00",
    }
    (run / name).mkdir(parents=True)
    (run / name / "stage.json").write_text(json.dumps(stage | changes))
    return run / name


def metrics(step: int, **changes: object) -> dict[str, object]:
    record = {"step": step, "loss": 7 - step / 40, "learning_rate": 1e-4, "grad_norm": 1.0, "tokens_per_second": 8000.0}
    record |= {"seconds": 0.5, "loss/code": 6.5, "tokens/code": 800, "loss/nl_code": 7.1, "tokens/nl_code": 150}
    return record | {"loss/nl": 7.4, "tokens/nl": 50, "infilling_tokens": 620} | changes


def write_lines(path: pathlib.Path, records: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def finish(folder: pathlib.Path, context: bool = True, steps: int = 40) -> pathlib.Path:
    """Gives a stage folder all files of a finished stage."""
    write_lines(folder / "metrics.jsonl", [metrics(step) for step in range(1, steps + 1)])
    evaluations: list[dict[str, object]] = [
        {"kind": "validation", "step": step, "loss": loss, "loss/code": loss - 0.2, "loss/nl": loss + 0.3}
        for step, loss in ((0, 7.63), (steps, 4.25))
    ]
    for when, length, values in (("before", 256, [90.0, 310.2]), ("after", 1024, [91.0, 88.1])) if context else ():
        record = {"kind": "context", "when": when, "stage": "code" if when == "before" else folder.name}
        evaluations.append(
            record | {"rope_theta": 1e4, "trained_length": length, "lengths": [256, 1024], "perplexity": values}
        )
    write_lines(folder / "evaluations.jsonl", evaluations)
    sample = {"stream": "python", "order": "psm", "prefix": HOSTILE, "suffix": HOSTILE}
    sample |= {"middle": "x", "generated": HOSTILE}
    (folder / "samples.json").write_text(json.dumps([sample, sample | {"order": "spm", "generated": "wrote this"}]))
    (folder / "config.gin").write_text("AdamW.peak_learning_rate = 0.001  # <b>\n")
    place = {"stream": "code", "place": "/data", "lines": [f"code: /data: text files; 3 files {HOSTILE}", "  not read"]}
    (folder / "inventory.json").write_text(json.dumps({"places": [place], "remarks": ["code and nl both read 1 file"]}))
    done: dict[str, object] = {"step": steps, "seconds": 95.1, "tokens": steps * 1000, "tokens_per_second": 5167.0}
    done |= {"validation_loss_first": 7.63, "validation_loss_last": 4.25, "context_length": 1024 if context else None}
    done |= {"perplexity_before": 310.2 if context else None, "perplexity_after": 88.1 if context else None}
    (folder / "done.json").write_text(json.dumps(done))
    return folder


def test_a_finished_stage_shows_all_sections(tmp_path: pathlib.Path) -> None:
    folder = finish(make_stage(tmp_path, "lcft", "code"))
    path = write_stage_report(folder)
    assert path == folder / "report.html"
    page = Page(path)
    everything = " ".join(page.texts())
    for text in ("finished", "1.266M", "40k", "8,000", "7.63 → 4.25", "perplexity at 1,024", "310.2 → 88.1", "0:01:35"):
        assert text in everything
    assert page.attributes("svg", "aria-label") == [
        "Loss",
        "Perplexity against context length",
        "Learning rate",
        "Speed",
    ]
    assert {"code", "nl_code", "nl", "all", "validation"} <= set(page.texts("li"))
    assert "code trained on 256" in page.texts("text")
    assert "At positions 257 to 1,024 the perplexity is 310.2 before lcft and 88.1 after lcft." in everything
    # Planned and seen shares of each stream; then the share under infilling.
    assert page.texts("td")[2:] == ["85.0%", "80.0%", "8.0%", "15.0%", "7.0%", "5.0%", "–", "62.0%"]
    assert "wrote this" in page.texts("mark") and "x" in page.texts("ins")
    assert "AdamW.peak_learning_rate = 0.001  # <b>\n" in page.texts("pre")
    (corpora,) = (text for text in page.texts("pre") if "text files" in text)
    assert corpora.startswith("code: /data: text files; 3 files") and corpora.endswith("\ncode and nl both read 1 file")


@pytest.mark.parametrize(
    "parent, recorded, stated",
    [
        ("code", {"initial_checkpoint": "scratch"}, "from code ·"),
        (None, {"initial_checkpoint": "/models/<7b>"}, "from /models/<7b> ·"),
        (None, {"initial_checkpoint": "scratch"}, "from scratch ·"),
        (None, {}, "no parent ·"),  # earlier versions do not record it
    ],
)
def test_a_page_says_what_the_stage_started_from(tmp_path: pathlib.Path, parent, recorded, stated) -> None:
    page = Page(write_stage_report(make_stage(tmp_path, "adapt", parent, **recorded)))
    assert any(text.startswith(stated) for text in page.texts("p"))


def test_bits_per_byte_are_drawn_with_the_number_of_prompts_that_were_cut(tmp_path: pathlib.Path) -> None:
    for name, parent in (("code", None), ("lcft", "code")):
        folder = finish(make_stage(tmp_path, name, parent))
        records: list[dict[str, object]] = [json.loads(line) for line in (folder / "evaluations.jsonl").open()]
        for step, bits in ((0, 1.5), (40, 0.75)):
            record = {"kind": "benchmarks", "step": step, "shortened/mbpp": 480}
            records.append(record | {f"bits_per_byte/{curve}": bits for curve in ("mbpp", "infilling_single_line/psm")})
        write_lines(folder / "evaluations.jsonl", records)
    title, note = "Bits per byte of right answers", "Prompts that were cut to the window: 480 of mbpp."
    for path in (write_stage_report(tmp_path / "code"), write_run_report(tmp_path)):
        page = Page(path)
        assert title in page.attributes("svg", "aria-label") and note in page.texts("p")
        assert {"mbpp", "infilling_single_line/psm"} <= set(page.texts("li"))
        assert any(text.startswith("infilling_single_line/psm at 0: 1.5") for text in page.texts("title"))


def test_benchmarks_at_the_end_are_listed_with_what_was_not_measured(tmp_path: pathlib.Path) -> None:
    folder = finish(make_stage(tmp_path, "code"))
    humaneval = {"pass@1": 0.335, "pass@1_interval": [0.27, 0.41], "tasks": 164, "samples": 164}
    infilling = {**humaneval, "variants": {"psm": humaneval, "spm": humaneval | {"pass@1": 0.5}}}
    (folder / "evaluation").mkdir()
    (folder / "evaluation/results.json").write_text(
        json.dumps({"humaneval": humaneval, "infilling_single_line": infilling})
    )
    done = json.loads((folder / "done.json").read_text())
    (folder / "done.json").write_text(json.dumps(done | {"not_measured": {"mbpp": "no sandbox <here>"}}))
    for page in (Page(write_stage_report(folder)), Page(write_run_report(tmp_path))):
        names = [text for text in page.texts("th") if text.startswith("code: ")]
        infilled = [f"code: infilling_single_line {order}" for order in ("psm", "spm")]
        assert names == ["code: humaneval", *infilled, "code: mbpp"]
        assert {"33.5%", "50.0%", "27.0% to 41.0%", "not measured: no sandbox <here>"} <= set(page.texts("td"))


def test_pages_load_no_resources_and_run_no_scripts(tmp_path: pathlib.Path) -> None:
    pages = [Page(write_stage_report(finish(make_stage(tmp_path, "code")))), Page(write_run_report(tmp_path))]
    for page in pages:
        assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "base", "image", "use"}
        assert not [attrs for _, attrs in page.tags if any(name.startswith(("on", "src", "xlink")) for name in attrs)]
        assert not re.search(r"https?:|//\w|url\(|@import", page.source)
        assert "default-src 'none'" in page.source


def test_hostile_text_is_shown_as_text(tmp_path: pathlib.Path) -> None:
    folder = finish(make_stage(tmp_path, "code", size=HOSTILE, devices=HOSTILE, shares={HOSTILE: 1.0}))
    for page in (Page(write_stage_report(folder)), Page(write_run_report(tmp_path))):
        assert "</pre><script>alert('x')</script> & \"quoted\" ␀␛[0m ?" in page.texts("mark")
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", page.source)


def test_a_stage_without_steps_has_a_page(tmp_path: pathlib.Path) -> None:
    folder = make_stage(tmp_path, "code")
    for name in ("metrics.jsonl", "samples.json", "done.json"):  # empty files are treated like missing ones
        (folder / name).touch()
    for page in (Page(write_stage_report(folder)), Page(write_run_report(tmp_path))):
        assert not page.attributes("svg", "viewBox")
        assert {"no steps yet", "No steps yet."} <= set(page.texts())
        assert "85.0%" in page.texts("td")
        assert not {"mark", "details"} & {tag for tag, _ in page.tags}


def test_a_run_without_stages_has_a_page(tmp_path: pathlib.Path) -> None:
    assert "0 of 0 stages finished" in Page(write_run_report(tmp_path)).texts()


def test_nan_and_a_truncated_line_are_omitted(tmp_path: pathlib.Path) -> None:
    folder = make_stage(tmp_path, "code")
    records = [metrics(1), metrics(2, loss=math.nan, grad_norm=math.inf), metrics(3, **{"loss/nl": math.nan})]
    write_lines(folder / "metrics.jsonl", records)
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "lo')
    page = Page(write_stage_report(folder))
    assert "at step 3 of 40" in page.texts()
    assert "3k" in page.texts("dd")  # tokens
    lines = page.attributes("polyline", "points")
    assert [len(line.split()) for line in lines] == [3, 3, 2, 2, 3, 3]  # code, nl_code, nl, all; rate, speed
    assert not re.search(r"\bnan\b|\binf\b", page.source)


def test_steps_that_ran_again_replace_the_earlier_ones(tmp_path: pathlib.Path) -> None:
    folder = make_stage(tmp_path, "code")
    first, second = [metrics(step) for step in range(1, 21)], [metrics(step) for step in range(11, 15)]
    write_lines(folder / "metrics.jsonl", first + second)
    page = Page(write_stage_report(folder))
    assert "at step 14 of 40" in page.texts()
    assert {len(line.split()) for line in page.attributes("polyline", "points")} == {14}


def test_long_lines_are_thinned_and_keep_their_spikes(tmp_path: pathlib.Path) -> None:
    records = [metrics(step) for step in range(1, 5001)]
    records[3210]["tokens_per_second"] = 0.0
    folder = make_stage(tmp_path, "code", steps=5000)
    write_lines(folder / "metrics.jsonl", records)
    lines = [
        [tuple(map(float, point.split(","))) for point in line.split()]
        for line in Page(write_stage_report(folder)).attributes("polyline", "points")
    ]
    assert all(2 <= len(line) <= 600 for line in lines)
    assert all(line == sorted(line, key=lambda point: point[0]) for line in lines)
    speed = lines[-1]
    assert speed[0][0] == 46 and speed[-1][0] == 498  # from the first step to the last
    assert sum(y == 266 for _, y in speed) == 1  # the stall, at the bottom


@pytest.mark.parametrize(("low", "high"), [(88.0, 88.0), (88.0, 93.0), (60.0, 310.0), (5.0, 400.0), (2.0, 90000.0)])
def test_log_axes_have_readable_ticks(tmp_path: pathlib.Path, low: float, high: float) -> None:
    folder = finish(make_stage(tmp_path, "lcft", "code"))
    record = {"kind": "context", "when": "after", "stage": "lcft", "rope_theta": 1e6, "trained_length": 1024}
    lengths = [2**i for i in range(5, 18)]
    values = [high] * 12 + [low]
    write_lines(folder / "evaluations.jsonl", [record | {"lengths": lengths, "perplexity": values}])
    svg = write_stage_report(folder).read_text().split("Perplexity against context length</b>")[1].split("</svg>")[0]
    assert len(re.findall(r'text-anchor="middle"', svg)) == len(lengths)
    assert ">64K<" in svg and ">512<" in svg
    assert 3 <= len(re.findall(r'<text x="40.0"', svg)) <= 10
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', svg)]
    assert all(23 <= y <= 266 for y in heights)


def test_run_page_has_parents_first_and_links_existing_reports(tmp_path: pathlib.Path) -> None:
    parents = {"instruct": "lcft", "lcft": "code", "python": "code", "code": None, "odd name?": "elsewhere"}
    for name, parent in parents.items():
        make_stage(tmp_path, name, parent)
    (tmp_path / "no stage").mkdir()
    for name in ("code", "lcft", "odd name?"):
        finish(tmp_path / name, context=name == "lcft")
        write_stage_report(tmp_path / name)
    page = Page(write_run_report(tmp_path))
    links = page.attributes("a", "href")
    assert links == ["code/report.html", "lcft/report.html", "odd%20name%3F/report.html"]
    order = [text for text in page.texts("h2", "a") if text in parents]
    assert order == ["code", "lcft", "instruct", "python", "odd name?"]
    assert page.texts("li").count("→") == 2  # code to lcft to instruct; python is a branch, labelled with its parent
    assert "from code" in page.texts("p")
    # in each of the three charts with the stages in sequence: loss, learning rate, speed
    assert [text for text in page.texts("text") if text in parents] == 3 * ["code", "lcft", "odd name?"]
    charts = ["Loss", "Perplexity against context length", "Learning rate", "Speed"]
    assert page.attributes("svg", "aria-label") == charts
    assert [text for text in page.texts("b") if "Mixture" in text] == [f"Mixture of {name}" for name in order]
    assert "Infilling by odd name?" in page.texts("h2")
    assert "3 of 5 stages finished" in page.texts()


def test_stages_that_are_each_others_parents_are_shown_once(tmp_path: pathlib.Path) -> None:
    make_stage(tmp_path, "a", "b")
    make_stage(tmp_path, "b", "a")
    make_stage(tmp_path, "c", "c")
    assert Page(write_run_report(tmp_path)).texts("h2") == ["a", "b", "c"]


def test_a_report_is_replaced_atomically(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finish(make_stage(tmp_path, "code"))
    before = write_stage_report(folder).read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_stage_report(folder)
    assert (folder / "report.html").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir() if "report" in path.name) == ["report.html"]
