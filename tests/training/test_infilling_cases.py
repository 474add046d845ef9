"""Holes in held-out files: their kinds, and that they depend on the files alone."""

import json

import pytest

from codellama_jax.tokenizer import Tokenizer
from codellama_jax.training.infilling_cases import HELD_OUT, LINE, LINE_CHARACTERS, SPAN_CHARACTERS, encoded, make_cases

FILES = [
    ("decoder.py", open(json.decoder.__file__).read()),  # noqa: SIM115
    ("small.py", "import os\n\n\ndef listed(folder):\r\n    return os.listdir(folder)\n"),
    ("empty.py", ""),
    ("brackets.py", "}\n" * 30),
]


def test_a_hole_and_its_surroundings_are_the_file():
    texts = dict(FILES)
    cases = make_cases(FILES, HELD_OUT, 30)
    assert len(cases) == 60 and len({(c.kind, c.path, len(c.prefix), c.middle) for c in cases}) == 60
    for case in cases:
        assert case.prefix + case.middle + case.suffix == texts[case.path] and case.middle.strip()
        if case.kind == LINE:
            assert case.middle.splitlines(keepends=True) == [case.middle]
            assert not case.prefix or case.prefix.endswith(("\n", "\r"))
            assert LINE_CHARACTERS[0] <= len(case.middle.strip()) <= LINE_CHARACTERS[1]
        else:
            assert SPAN_CHARACTERS[0] <= len(case.middle) <= SPAN_CHARACTERS[1]


def test_each_file_gives_a_hole_before_any_gives_a_second():
    cases = [case for case in make_cases(FILES, HELD_OUT, 5) if case.kind == LINE]
    assert [case.path for case in cases] == ["decoder.py", "small.py", "decoder.py", "small.py", "decoder.py"]


def test_holes_depend_on_the_files_alone():
    assert make_cases(FILES, HELD_OUT, 9) == make_cases(FILES, HELD_OUT, 9)
    more, fewer = make_cases(FILES, HELD_OUT, 9), make_cases(FILES, HELD_OUT, 4)
    assert set(fewer) < set(more)
    alone = make_cases(FILES[:1], HELD_OUT, 4)
    of_file = [case for case in more if case.path == "decoder.py"]
    assert set(alone[:4]) <= set(of_file), "another file does not change them"
    assert make_cases([("empty.py", "")], HELD_OUT, 4) == []


@pytest.mark.parametrize("length", [48, 200, 5000])
def test_prompts_are_cut_around_the_hole(small_tokenizer: Tokenizer, length: int):
    cases = make_cases(FILES, HELD_OUT, 8)
    texts = encoded(cases, small_tokenizer, length)
    assert [text.benchmark for text in texts] == [str(index) for index in range(len(cases))]
    for case, text in zip(cases, texts, strict=True):
        assert text.nbytes == len(case.middle.encode())
        assert len(text.prompt) + len(text.gold) <= max(length + 1, length // 2 + len(text.gold))
        assert small_tokenizer.decode_continuation(text.gold) == case.middle
        shown = small_tokenizer.decode_continuation(text.prompt)
        assert len(shown) <= len(case.prefix) + len(case.suffix) + 1
    if length == 5000:
        case, text = cases[1], texts[1]
        assert case.path == "small.py"
        assert list(text.prompt) == small_tokenizer.infilling_prompt(case.prefix, case.suffix, "psm").tolist()
