"""The embedded corpus: what each stream holds on this machine, and what it is made of on stranger ones."""

import ast
import itertools
import random
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

import pytest

from codellama_jax.config.data import SPLITS, STREAMS, Corpus, Filters
from codellama_jax.errors import UserError
from tasks.sources import embedded as embedded_module
from tasks.sources import folder
from tasks.sources.base import ConcatenatedSource, Dialogue, Document, Source
from tasks.sources.distributions import description
from tasks.sources.docstrings import docstrings, exercises
from tasks.sources.embedded import embedded_source, stream_source
from tasks.sources.filters import TEXT_ONLY
from tasks.sources.folder import File, Folder

TEXT_STREAMS = tuple(stream for stream in STREAMS if stream != "instruct")
SIDES = tuple(itertools.product(STREAMS, SPLITS))
USUAL = Filters()


def everything(source: Source) -> list:
    return [item for piece in range(len(source)) for item in folder.items(source, piece)]


@pytest.fixture(scope="module")
def items() -> dict[tuple[str, str], list]:
    """All that the embedded corpus holds, read once."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the library's sources must not warn while they are parsed
        return {side: everything(embedded_source(*side, Corpus(), USUAL)) for side in SIDES}


def file_of(path: str) -> str:
    return path.partition("#")[0]


# --- this machine -----------------------------------------------------------------------------------------------------


def test_every_stream_has_both_splits(items: dict):
    for side in SIDES:
        assert items[side], side
        kind = Dialogue if side[0] == "instruct" else Document
        assert all(isinstance(item, kind) for item in items[side])
        assert len({item.path for item in items[side]}) == len(items[side])


def test_streams_and_splits_are_disjoint_as_documents(items: dict):
    for one, other in itertools.combinations([side for side in SIDES if side[0] != "instruct"], 2):
        assert not {item.text for item in items[one]} & {item.text for item in items[other]}, (one, other)
        assert not {item.path for item in items[one]} & {item.path for item in items[other]}, (one, other)


def test_what_comes_from_a_file_is_on_one_side(items: dict):
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


def test_dialogues_are_exercises(items: dict):
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


def test_listing_is_fast_and_reads_nearly_nothing():
    code = (
        "import time; begin = time.perf_counter()\n"
        "from codellama_jax.config.data import SPLITS, STREAMS, Corpus, Filters\n"
        "from tasks.sources.embedded import embedded\n"
        "sources = [embedded(stream, split, Corpus(), Filters()) for stream in STREAMS for split in SPLITS]\n"
        "[source.fingerprint() for source in sources]\n"
        "print(time.perf_counter() - begin)"
    )
    root = Path(__file__).parents[2]
    seconds = float(subprocess.run([sys.executable, "-c", code], cwd=root, check=True, stdout=subprocess.PIPE).stdout)
    assert seconds < 1.5


def test_reading_is_repeatable_and_settings_are_obeyed():
    whole, cut = (
        embedded_source("code", "validation", Corpus(document_characters=limit), USUAL) for limit in (None, 1000)
    )
    assert len(whole) == len(cut) and whole.fingerprint() != cut.fingerprint()
    for index in range(len(whole)):
        pieces = list(folder.items(cut, index))
        assert pieces == list(folder.items(cut, index))
        text = "".join(document.text for document in folder.items(whole, index))
        assert "".join(piece.text for piece in pieces) == text
        assert all(len(piece.text) <= 1000 for piece in pieces)
    one, other = (embedded_source("code", "train", Corpus(), Filters()) for _ in range(2))
    assert one.fingerprint() == other.fingerprint()
    half = embedded_source("code", "validation", Corpus(validation_share=0.5), USUAL)
    assert len(half) > 5 * len(whole)


def test_filters_apply_and_say_what_they_left_out():
    """The library has generated files and long lines; a setting for repositories means nothing here."""
    usual, any_ = (embedded_source("python", "train", Corpus(), settings) for settings in (USUAL, TEXT_ONLY))
    left_out = [pair for piece in range(len(usual)) for block in usual.read(piece) for pair in block.left_out]
    assert {"generated", "long_line"} & {reason for reason, _ in left_out}
    assert len(everything(usual)) + sum(reason != "blank" for reason, _ in left_out) == len(everything(any_))
    together = embedded_source("python", "train", Corpus(group_by_repository=True), USUAL)
    assert len(together) == len(usual) and list(together.read(0)) == list(usual.read(0))


@pytest.mark.parametrize("stream", STREAMS)
def test_a_tiny_validation_share_leaves_something_or_says_so(stream: str):
    try:
        source = embedded_source(stream, "validation", Corpus(validation_share=1e-9), USUAL)
    except UserError as refusal:
        assert "Corpus.validation_share" in str(refusal)
    else:
        assert 1 <= len(source) <= 3


def test_unknown_streams_and_splits():
    with pytest.raises(ValueError, match="code, python, nl_code, nl, instruct"):
        embedded_source("prose", "train", Corpus(), USUAL)
    with pytest.raises(ValueError, match="train, validation"):
        embedded_source("code", "test", Corpus(), USUAL)


def test_a_named_folder_replaces_the_embedded_stream(tmp_path: Path):
    (tmp_path / "a.md").write_text("# A\n" * 30)
    (tmp_path / "b.jsonl").write_text('{"messages": [{"role": "user", "content": "hello"}]}\n')
    corpus = Corpus(nl=str(tmp_path), instruct=str(tmp_path), validation_share=0.0)
    assert everything(stream_source("nl", "train", corpus, USUAL)) == [Document("# A\n" * 30, "a.md")]
    (dialogue,) = everything(stream_source("instruct", "train", corpus, USUAL))
    assert dialogue.messages == [{"role": "user", "content": "hello"}]
    assert len(stream_source("code", "train", corpus, USUAL)) > 100
    with pytest.raises(UserError, match=r"--gin.PYTHON_CORPUS=.*no such f"):
        stream_source("python", "train", Corpus(python=str(tmp_path / "none")), USUAL)


def test_a_list_may_have_places_without_anything_for_a_split(tmp_path: Path):
    for name, documents in (("one", 1), ("many", 40)):
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"text": "{name} {i}"}}\n' for i in range(documents)))
    places = [str(tmp_path / f"{name}.jsonl") for name in ("one", "many")]
    with pytest.raises(UserError, match="only one file or record"):
        stream_source("nl", "validation", Corpus(nl=places[0]), USUAL)
    validation = everything(stream_source("nl", "validation", Corpus(nl=places), USUAL))
    train = everything(stream_source("nl", "train", Corpus(nl=places), USUAL))
    assert validation and len(train) + len(validation) == 41
    with pytest.raises(UserError, match="only one file or record"):
        stream_source("nl", "validation", Corpus(nl=places[:1] * 2), USUAL)


def test_a_folder_is_read_as_source_files_or_else_as_records(tmp_path: Path):
    """Whichever has more bytes; a data set's README.md does not hide its data."""
    for path, text in (
        ("mixed/a.c", "int a = 1000000;\n"),
        ("mixed/b.jsonl", '{"text": "b"}\n'),
        ("c/c.jsonl", '{"text": "c"}\n'),
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)

    def texts(stream: str, *places: str) -> list[str]:
        corpus = Corpus(**{stream: [str(tmp_path / place) for place in places]}, validation_share=0.0)
        return [document.text for document in everything(stream_source(stream, "train", corpus, USUAL))]

    assert texts("code", "mixed") == ["int a = 1000000;\n"]
    assert texts("nl", "mixed") == ["b"] and texts("code", "c") == ["c"]
    (tmp_path / "mixed/README.md").write_text("#\n")
    (tmp_path / "mixed/package.json").write_text("{}")
    assert texts("nl", "mixed") == ["b"]
    assert texts("code", "c", "mixed") == ["c", "int a = 1000000;\n"]  # one after the other
    with pytest.raises(UserError, match="no usable file"):
        (tmp_path / "empty").mkdir()
        texts("code", "empty")


def test_several_places_are_joined_and_none_is_refused(tmp_path: Path):
    for place in "ab":
        (tmp_path / place).mkdir()
        (tmp_path / place / f"{place}.py").write_text(f"{place}\n")
    places = tuple(str(tmp_path / place) for place in "ab")
    corpus = Corpus(code=places, validation_share=0.0)
    joined = stream_source("code", "train", corpus, USUAL)
    assert isinstance(joined, ConcatenatedSource) and [document.path for document in everything(joined)] == [
        "a.py",
        "b.py",
    ]
    alone = stream_source("code", "train", Corpus(code=places[:1], validation_share=0.0), USUAL)
    assert isinstance(alone, Folder)
    with pytest.raises(UserError, match=r"--gin.CODE_CORPUS=\(\) names no place"):
        stream_source("code", "train", Corpus(code=()), USUAL)


# --- other machines ---------------------------------------------------------------------------------------------------


def paths_elsewhere(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As if this interpreter's folders lay below `folder`; forgets what was listed, before and after."""
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(folder / name))
    monkeypatch.setattr("site.getsitepackages", lambda: [str(folder / "purelib")])
    for listed in (embedded_module._library, embedded_module._prose):
        monkeypatch.setattr(embedded_source, listed.__name__, listed.__wrapped__)


def test_natural_language_without_distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths_elsewhere(monkeypatch, tmp_path)
    for split in SPLITS:
        assert everything(embedded_source("nl", split, Corpus(), USUAL))[0].text.strip()


def test_a_python_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths_elsewhere(monkeypatch, tmp_path)
    with pytest.raises(UserError, match=r"--gin.CODE_CORPUS=None.*name a folder"):
        embedded_source("code", "train", Corpus(), USUAL)


def test_distributions_give_descriptions_and_licences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths_elsewhere(monkeypatch, tmp_path)
    story = "Once upon a time there was a library.\n\nIt did what it said. " * 9
    licence = "Permission is granted to everybody.\n"
    for path, text in {
        "b-1.0.dist-info/METADATA": f"Name: b\nSummary: none\n\n{story}",
        "b-1.0.dist-info/LICENSE": f"Copyright 2001 B\n{licence}",
        "b-1.0.dist-info/RECORD": "METADATA,,\n",
        "A-2.0.dist-info/METADATA": "Name: A\r\n\r\nshort",
        "A-2.0.dist-info/licenses/LICENCE.txt": f"(c) Copyright 2025 A and others\n\n{licence}",
        "A-2.0.dist-info/licenses/src/inner.md": "Another licence.\n",
        "A-2.0.dist-info/COPYING": "\xff",
    }.items():
        (tmp_path / "purelib" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "purelib" / path).write_bytes(text.encode("latin-1"))
    found = {
        item.path: item.text for item in everything(embedded_source("nl", "train", Corpus(validation_share=0.0), USUAL))
    }
    assert found == {
        "A-2.0.dist-info/licenses/LICENCE.txt": f"(c) Copyright 2025 A and others\n\n{licence}",
        "A-2.0.dist-info/licenses/src/inner.md": "Another licence.\n",
        "b-1.0.dist-info/METADATA": story.strip() + "\n",
    }
    assert description(tmp_path / "purelib/b-1.0.dist-info/METADATA") == story.strip() + "\n"


# --- what is made of a file -------------------------------------------------------------------------------------------

MODULE = '''"""What a module is for, said at such length that its docstrings are worth a document of their own."""

class Stack(list):
    """A stack."""

    class Error(Exception):
        pass

    @property
    def top(self):
        r"""The element that was pushed last, \\udc80 or \\0 as
        it may be.

        More words on it.
        """
        return self[-1]


async def wait(seconds: float = 1, *, loop=None) -> None:
    """Wait for some seconds, and then for some more."""
    text = """
no indentation
"""
    await sleep(seconds)

def undocumented():
    return 1

def short():
    """Too short"""
    return 1

def documented_only():
    """This function does nothing at all, and says so."""
''' + "\n".join(["", "def long():", '    """This function is too long to be an answer."""', *["    x = 1"] * 200, ""])


def test_docstrings_in_order_with_their_names():
    text = docstrings(File("lib/pkg/__init__.py", 1, lambda: MODULE))
    assert text is not None
    titles = [
        "module pkg\n\nWhat",
        "class Stack\n\nA stack.",
        "Stack.top(self)\n\nThe element",
        "wait(seconds: float=1, *, loop=None)",
    ]
    assert [text.index(title) for title in titles] == sorted(text.index(title) for title in titles)
    assert "Error" not in text and "undocumented" not in text


@pytest.mark.parametrize(
    "text", [None, "", "def f(:\n", "int main(void) { }", '"""Short."""\n', '"""\\udc80' + "x" * 300 + '"""']
)
def test_files_without_docstrings_are_left_out(text: str | None):
    assert docstrings(File("lib/a.py", 1, lambda: text)) is None


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_exercises_are_short_documented_functions(line_end: str):
    found = {dialogue.path: dialogue.messages for dialogue in exercises(MODULE.replace("\n", line_end), "lib/a.py")}
    assert list(found) == ["lib/a.py#L10", "lib/a.py#L19"]
    request, answer = found["lib/a.py#L10"]
    assert "method `top(self)` of the class `Stack`" in request["content"]
    assert "The element that was pushed last, \\udc80 or \\0 as it may be." in request["content"]
    assert "More words" not in request["content"]
    assert answer["content"].startswith("@property\ndef top(self):\n") and "\r" not in answer["content"]
    assert found["lib/a.py#L19"][1]["content"].startswith("async def wait(")
    assert exercises("def f(:", "lib/a.py") == []
