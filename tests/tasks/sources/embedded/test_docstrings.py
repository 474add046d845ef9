"""Documents and dialogues made of the docstrings of a Python file."""

import pytest

from codellama_jax.config.data import Filters
from tasks.sources.embedded.docstrings import docstrings, function_dialogues
from tasks.sources.folder import File

USUAL = Filters()

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
def test_files_without_docstrings_have_no_document(text: str | None):
    assert docstrings(File("lib/a.py", 1, lambda: text)) is None


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_dialogues_are_short_documented_functions(line_end: str):
    dialogues = {
        dialogue.path: dialogue.messages for dialogue in function_dialogues(MODULE.replace("\n", line_end), "lib/a.py")
    }
    assert list(dialogues) == ["lib/a.py#L10", "lib/a.py#L19"]
    request, answer = dialogues["lib/a.py#L10"]
    assert "method `top(self)` of the class `Stack`" in request["content"]
    assert "The element that was pushed last, \\udc80 or \\0 as it may be." in request["content"]
    assert "More words" not in request["content"]
    assert answer["content"].startswith("@property\ndef top(self):\n") and "\r" not in answer["content"]
    assert dialogues["lib/a.py#L19"][1]["content"].startswith("async def wait(")
    assert function_dialogues("def f(:", "lib/a.py") == []
