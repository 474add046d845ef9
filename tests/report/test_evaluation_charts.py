"""Charts of evaluations: the heat map of key retrieval, and perplexity by context."""

import re
import xml.etree.ElementTree

import pytest

from codellama_jax.report.evaluation_charts import group_bars, key_retrieval_map, perplexity_chart
from codellama_jax.report.heat_map import heat_map
from codellama_jax.report.interval_chart import Interval, interval_chart


def svg(figure: str) -> xml.etree.ElementTree.Element:
    (found,) = re.findall("<svg.*</svg>", figure)
    return xml.etree.ElementTree.fromstring(found)


def test_the_heat_map_has_a_cell_for_each_length_and_position():
    accuracy = {"8000": {"0": 1.0, "0.2": 0.953125}, "16000": {"0": 0.5}}
    drawing = svg(key_retrieval_map({"accuracy": accuracy}))
    titles = [cell.findtext("title") for cell in drawing.iter("rect")]
    assert titles == ["at 0, 8,000: 100", "at 0, 16,000: 50", "at 0.2, 8,000: 95.31", "at 0.2, 16,000: –"]
    shades = [re.search(r"(\d+)%", cell.get("style"))[1] for cell in drawing.iter("rect")]
    assert shades == ["100", "50", "95", "0"]


def test_labels_are_escaped_and_an_empty_map_is_nothing():
    drawing = svg(heat_map("<a>", "&", ["<b>"], ["<c>"], [[0.5]]))
    assert {text.text for text in drawing.iter("text")} >= {"<b>", "<c>", "50"}
    assert key_retrieval_map({}) == heat_map("a", "", [], [], []) == ""


def test_the_perplexities_of_all_variants_are_in_one_chart():
    found = {"context_lengths": [100, 200, 300], "perplexity_by_context": [9.0, 7.0, 6.0]}
    other = {"context_lengths": [100, 200, 300], "perplexity_by_context": [9.0, 12.0, 40.0]}
    figure = perplexity_chart({**found, "variants": {"theta 1e+06, scale 1": found, "theta 10000, scale 1": other}})
    assert len(list(svg(figure).iter("polyline"))) == 2
    assert figure.count("<li") == 2 and "theta 10000, scale 1" in figure
    assert len(list(svg(perplexity_chart(found)).iter("polyline"))) == 1
    assert perplexity_chart({}) == ""


def test_groups_are_bars():
    shown = group_bars("bold", {"sentiment_of_groups": {"a <b>": 0.25, "c": -0.5}, "sentiment": 0.1, "x_of_groups": 3})
    assert "a &lt;b&gt;" in shown and "width:50.0%" in shown and shown.count("<tr>") == 2
    assert group_bars("gsm8k", {"pass@1": 0.5}) == ""


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_intervals_without_extent_are_drawn(value):
    figure = interval_chart("all alike", "", [Interval(name, value, value, value, "c1") for name in "ab"])
    assert figure.count("<circle") == 2 and "nan" not in figure
