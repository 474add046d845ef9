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

from codellama_jax.errors import UserError
from tasks import local_corpus
from tasks.config import SPLITS, STREAMS, Corpus
from tasks.local_corpus import description, docstrings, embedded, exercises, stream_source
from tasks.sources import Dialogue, Document, File

TEXT_STREAMS = tuple(stream for stream in STREAMS if stream != "instruct")
SIDES = tuple(itertools.product(STREAMS, SPLITS))


@pytest.fixture(scope="module")
def items() -> dict[tuple[str, str], list]:
    """All that the embedded corpus holds, read once."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the library's sources must not warn while they are parsed
        sources = {side: embedded(*side, Corpus()) for side in SIDES}
        return {
            side: [item for index in range(len(source)) for item in source.read(index)]
            for side, source in sources.items()
        }


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
        "from tasks.config import SPLITS, STREAMS, Corpus\n"
        "from tasks.local_corpus import embedded\n"
        "sources = [embedded(stream, split, Corpus()) for stream in STREAMS for split in SPLITS]\n"
        "[source.fingerprint() for source in sources]\n"
        "print(time.perf_counter() - begin)"
    )
    root = Path(__file__).parents[2]
    seconds = float(subprocess.run([sys.executable, "-c", code], cwd=root, check=True, stdout=subprocess.PIPE).stdout)
    assert seconds < 1.5


def test_reading_is_repeatable_and_settings_are_obeyed():
    whole, cut = (embedded("code", "validation", Corpus(document_characters=limit)) for limit in (None, 1000))
    assert len(whole) == len(cut) and whole.fingerprint() != cut.fingerprint()
    for index in range(len(whole)):
        pieces = cut.read(index)
        assert pieces == cut.read(index)
        assert "".join(piece.text for piece in pieces) == "".join(document.text for document in whole.read(index))
        assert all(len(piece.text) <= 1000 for piece in pieces)
    assert embedded("code", "train", Corpus()).fingerprint() == embedded("code", "train", Corpus()).fingerprint()
    half = embedded("code", "validation", Corpus(validation_share=0.5))
    assert len(half) > 5 * len(whole)


@pytest.mark.parametrize("stream", STREAMS)
def test_a_tiny_validation_share_leaves_something_or_says_so(stream: str):
    try:
        source = embedded(stream, "validation", Corpus(validation_share=1e-9))
    except UserError as refusal:
        assert "Corpus.validation_share" in str(refusal)
    else:
        assert 1 <= len(source) <= 3


def test_unknown_streams_and_splits():
    with pytest.raises(ValueError, match="code, python, nl_code, nl, instruct"):
        embedded("prose", "train", Corpus())
    with pytest.raises(ValueError, match="train, validation"):
        embedded("code", "test", Corpus())


def test_a_named_folder_replaces_the_embedded_stream(tmp_path: Path):
    (tmp_path / "a.md").write_text("# A\n")
    (tmp_path / "b.jsonl").write_text('{"messages": [{"role": "user", "content": "hello"}]}\n')
    corpus = Corpus(nl=str(tmp_path), instruct=str(tmp_path), validation_share=0.0)
    assert stream_source("nl", "train", corpus).read(0) == [Document("# A\n", "a.md")]
    assert stream_source("instruct", "train", corpus).read(0)[0].path == "b.jsonl:1"
    assert len(stream_source("code", "train", corpus)) > 100
    with pytest.raises(UserError, match=r"--gin.PYTHON_CORPUS=.*no such folder"):
        stream_source("python", "train", Corpus(python=str(tmp_path / "none")))


# --- other machines ---------------------------------------------------------------------------------------------------


def paths_elsewhere(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As if this interpreter's folders lay below `folder`; forgets what was listed, before and after."""
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(folder / name))
    monkeypatch.setattr("site.getsitepackages", lambda: [str(folder / "purelib")])
    for listed in (local_corpus._library, local_corpus._prose):
        monkeypatch.setattr(local_corpus, listed.__name__, listed.__wrapped__)


def test_natural_language_without_distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths_elsewhere(monkeypatch, tmp_path)
    for split in SPLITS:
        assert embedded("nl", split, Corpus()).read(0)[0].text.strip()


def test_a_python_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths_elsewhere(monkeypatch, tmp_path)
    with pytest.raises(UserError, match=r"--gin.CODE_CORPUS=None.*name a folder"):
        embedded("code", "train", Corpus())


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
    source = embedded("nl", "train", Corpus(validation_share=0))
    found = {document.path: document.text for index in range(len(source)) for document in source.read(index)}
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
