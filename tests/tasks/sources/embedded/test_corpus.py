"""The embedded corpus: the content of each stream, on this machine and on one without a library."""

import ast
import itertools
import random
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

import pytest
from written_folders import everything

from codellama_jax.config.data import SPLITS, STREAMS, Corpus, Filters
from codellama_jax.errors import UserError
from tasks.sources import base
from tasks.sources.base import Dialogue, Document
from tasks.sources.embedded.corpus import embedded_source
from tasks.sources.filters import TEXT_ONLY

USUAL = Filters()

TEXT_STREAMS = tuple(stream for stream in STREAMS if stream != "instruct")
STREAM_SPLITS = tuple(itertools.product(STREAMS, SPLITS))


@pytest.fixture(scope="module")
def items() -> dict[tuple[str, str], list]:
    """The content of the embedded corpus, read once."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the library's sources must not warn while they are parsed
        return {key: everything(embedded_source(*key, Corpus(), USUAL)) for key in STREAM_SPLITS}


def file_of(path: str) -> str:
    return path.partition("#")[0]


def test_every_stream_has_both_splits(items: dict):
    for key in STREAM_SPLITS:
        assert items[key], key
        kind = Dialogue if key[0] == "instruct" else Document
        assert all(isinstance(item, kind) for item in items[key])
        assert len({item.path for item in items[key]}) == len(items[key])


def test_streams_and_splits_are_disjoint_as_documents(items: dict):
    for one, other in itertools.combinations([key for key in STREAM_SPLITS if key[0] != "instruct"], 2):
        assert not {item.text for item in items[one]} & {item.text for item in items[other]}, (one, other)
        assert not {item.path for item in items[one]} & {item.path for item in items[other]}, (one, other)


def test_all_items_from_one_file_are_in_one_split(items: dict):
    """A file's code, docstrings and functions are all train or all validation."""
    paths = {split: {file_of(item.path) for stream in STREAMS for item in items[stream, split]} for split in SPLITS}
    assert not paths["train"] & paths["validation"]


def test_python_is_about_a_third_of_the_library(items: dict):
    python = [item.path for split in SPLITS for item in items["python", split]]
    code = [item.path for split in SPLITS for item in items["code", split]]
    assert all(path.endswith(".py") for path in python)
    assert 0.2 < len(python) / len([path for path in python + code if path.endswith(".py")]) < 0.45
    assert not any("/test/" in path or "site-packages" in path or "topics" in path for path in python + code)
    if (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        assert "include/Python.h" in code


def test_dialogues_ask_for_a_function_and_answer_with_it(items: dict):
    dialogues = items["instruct", "train"]
    assert len(dialogues) > 500
    for dialogue in random.Random(0).sample(dialogues, 200):
        request, answer = dialogue.messages
        assert (request["role"], answer["role"]) == ("user", "assistant")
        (function,) = ast.parse(answer["content"]).body
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        assert f"`{function.name}(" in request["content"]
        assert len(answer["content"]) <= 1500


def test_natural_language_has_each_licence_once(items: dict):
    texts = [" ".join(item.text.split()) for split in SPLITS for item in items["nl", split]]
    assert len(set(texts)) == len(texts)


def test_opening_is_fast():
    code = (
        "import time; start = time.perf_counter()\n"
        "from codellama_jax.config.data import SPLITS, STREAMS, Corpus, Filters\n"
        "from tasks import sources\n"
        "opened = [sources.open(None, stream, split, Corpus(), Filters()) for stream in STREAMS for split in SPLITS]\n"
        "[source.fingerprint() for source in opened]\n"
        "print(time.perf_counter() - start)"
    )
    root = Path(__file__).parents[4]
    seconds = float(subprocess.run([sys.executable, "-c", code], cwd=root, check=True, stdout=subprocess.PIPE).stdout)
    assert seconds < 1.5


def test_reading_is_repeatable_and_follows_the_settings():
    uncut, cut = (
        embedded_source("code", "validation", Corpus(document_characters=limit), USUAL) for limit in (None, 1000)
    )
    assert len(uncut) == len(cut) and uncut.fingerprint() != cut.fingerprint()
    for index in range(len(uncut)):
        parts = list(base.items(cut, index))
        assert parts == list(base.items(cut, index))
        text = "".join(document.text for document in base.items(uncut, index))
        assert "".join(part.text for part in parts) == text
        assert all(len(part.text) <= 1000 for part in parts)
    one, other = (embedded_source("code", "train", Corpus(), Filters()) for _ in range(2))
    assert one.fingerprint() == other.fingerprint()
    half = embedded_source("code", "validation", Corpus(validation_share=0.5), USUAL)
    assert len(half) > 5 * len(uncut)


def test_filters_apply_and_are_counted():
    """The library has generated files and long lines. The setting for repositories has no effect."""
    usual, unfiltered = (embedded_source("python", "train", Corpus(), settings) for settings in (USUAL, TEXT_ONLY))
    left_out = [pair for shard in range(len(usual)) for block in usual.read(shard) for pair in block.left_out]
    assert {"generated", "long_line"} & {reason for reason, _ in left_out}
    assert len(everything(usual)) + sum(reason != "blank" for reason, _ in left_out) == len(everything(unfiltered))
    grouped = embedded_source("python", "train", Corpus(group_by_repository=True), USUAL)
    assert len(grouped) == len(usual) and list(grouped.read(0)) == list(usual.read(0))


@pytest.mark.parametrize("stream", STREAMS)
def test_a_tiny_validation_share_gives_documents_or_an_error(stream: str):
    try:
        source = embedded_source(stream, "validation", Corpus(validation_share=1e-9), USUAL)
    except UserError as error:
        assert "Corpus.validation_share" in str(error)
    else:
        assert 1 <= len(source) <= 3


def test_unknown_streams_and_splits_are_rejected():
    with pytest.raises(ValueError, match="code, python, nl_code, nl, instruct"):
        embedded_source("prose", "train", Corpus(), USUAL)
    with pytest.raises(ValueError, match="train, validation"):
        embedded_source("code", "test", Corpus(), USUAL)


@pytest.mark.usefixtures("other_python")
def test_a_python_without_its_library_is_rejected():
    with pytest.raises(UserError, match=r"--gin.CODE_CORPUS=None.*name a folder"):
        embedded_source("code", "train", Corpus(), USUAL)
