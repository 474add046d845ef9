"""The project's text is plain standard English: no retired word in a name, no retired phrase in prose.

Words in prose are checked by codespell (`make lint`) with the same list, .codespell/retired_words.txt.
"""

import io
import itertools
import keyword
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("codellama_jax", "tasks", "launch", "benchmarks", "tests", "docs", "gin")
PYTHON = sorted(itertools.chain(ROOT.glob("*.py"), *((ROOT / folder).rglob("*.py") for folder in FOLDERS)))
PROSE = sorted(
    itertools.chain(
        PYTHON,
        *((ROOT / folder).rglob(pattern) for folder in FOLDERS for pattern in ("*.md", "*.gin")),
        [path for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md"],
        [ROOT / "Makefile", ROOT / "pyproject.toml"],
    )
)

# Retired phrase, as a regular expression -> what to write instead.
PHRASES = {
    r"(go|goes|going|went|gone) on (from|with|at|to|where|anywhere|again|is|as)": "resumes, continues",
    r"(the same command|a run|it|run) goes on": "resumes, continues",
    r"lets? go of": "releases",
    r"let go": "released",
    r"(deal|deals|dealt) out": "assigns",
    r"innocent of": "not affected by",
    r"ours to mend": "a bug",
    r"whichever way": "however, in either case",
    r"for want of": "because there is no, without",
    r"of one's own": "custom, your own",
    r"(what|work|those|that) in hand": "current, pending",
    r"taken for dead": "considered dead",
    r"at the least": "at least",
    r"by itself whole": "complete",
    r"bears? (a|no) fork": "is fork-safe",
    r"and talks": "and logs",
    r"what speaks to": "the client of",
    r"as (it|they) (has|have) them": "as stored",
    r"who will have meant": "deliberately",
    r"and are none": "but are not",
    r"in its way": "on this path",
    r"not to be had": "not available",
    r"to be had": "available",
    r"so to speak": "(leave it out)",
    r"for whom": "for which",
}


def retired_words() -> dict[str, str]:
    """Word -> what to write instead."""
    lines = (ROOT / ".codespell" / "retired_words.txt").read_text().split("\n")
    return dict(line.split("->") for line in lines if line)


def words(name: str) -> list[str]:
    """The words of an identifier, in lower case: left_out, BadSteps and HTTPServer have two each."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


@pytest.mark.parametrize("name, expected", [("_left_out2", "left out"), ("BadSteps", "bad steps"), ("A_BC", "a bc")])
def test_words_of_a_name(name, expected):
    assert " ".join(words(name)) == expected


@pytest.mark.parametrize("folder", [".", *FOLDERS[:5]])
def test_no_retired_word_in_a_name(folder):
    retired = retired_words()
    found = {}
    for path in [path for path in PYTHON if path.relative_to(ROOT).parts[0] == folder or path.parent == ROOT / folder]:
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
                for word in set(words(token.string)) & retired.keys():
                    where = f"{path.relative_to(ROOT)}:{token.start[0]}: {token.string}"
                    found.setdefault(f"{word}->{retired[word]}", where)
    assert not found


@pytest.mark.parametrize("phrase", PHRASES)
def test_no_retired_phrase(phrase):
    found = []
    for path in PROSE:
        # a phrase may continue on the next line, after the sign of a comment or a quote
        text = path.read_text()
        if path.parent.name == "benchmarks" and path.suffix == ".md":
            text = re.sub(r"`error: [^`]*`", "", text)  # messages that were recorded when the benchmark was run
        text = re.sub(r"\s*\n[\s#>*|\"'f(]*", " ", text)
        text = text.replace("_", " ") if path.suffix == ".py" else text  # names are prose too
        if path != Path(__file__):
            found += [f"{path.relative_to(ROOT)}: {match[0]!r}" for match in re.finditer(rf"\b{phrase}\b", text, re.I)]
    assert not found, f"write: {PHRASES[phrase]}"
