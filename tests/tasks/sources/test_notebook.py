"""Notebooks as documents."""

import json
from pathlib import Path

import pytest
from written_folders import everything, folder, write

from codellama_jax.errors import UserError


def notebook(*cells: dict, **metadata) -> str:
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}, indent=1)


def cell(kind: str, source: str | list[str], **more) -> dict:
    return {"cell_type": kind, "metadata": {}, "source": source, **more}


CELLS = (
    cell("markdown", ["# Title\n", "\n", "Some *text*."]),
    cell(
        "code", ["%matplotlib inline\n", "!pip install x\n", "x = 1"], outputs=[{"text": "secret"}], execution_count=1
    ),
    cell("raw", "not read"),
    cell("code", ""),
    cell("code", "y = [\n    2,\n]\n"),
)
PYTHON = "# # Title\n#\n# Some *text*.\n\n%matplotlib inline\n!pip install x\nx = 1\n\ny = [\n    2,\n]\n"


@pytest.mark.parametrize("stream", ["code", "python"])
def test_code_and_text_cells_become_a_document_of_python(tmp_path: Path, stream: str):
    old = {
        "worksheets": [
            {
                "cells": [
                    {"cell_type": "heading", "level": 2, "source": ["Title"]},
                    {"cell_type": "code", "language": "python", "input": ["x = 1\n", "x"], "outputs": []},
                    {"cell_type": "markdown", "source": "text"},
                ]
            }
        ],
        "metadata": {"name": ""},
        "nbformat": 3,
    }
    write(tmp_path, {"a.ipynb": notebook(*CELLS), "b.IPYNB": "\ufeff" + json.dumps(old)})
    one, two = everything(folder(tmp_path, name=stream))
    assert (one.path, one.text, one.language) == ("a.ipynb", PYTHON, "Python")
    assert (two.text, two.language) == ("# ## Title\n\nx = 1\nx\n\n# text\n", "Python")


@pytest.mark.parametrize(
    "metadata, language, comment",
    [
        ({"kernelspec": {"language": "python", "name": "python3"}}, "Python", "# text"),
        ({"kernelspec": {"name": "ir", "language": "R"}}, "R", "# text"),
        ({"language_info": {"name": "julia"}}, "Julia", "# text"),
        ({"language_info": {"name": "scala"}}, "Scala", "// text"),
        ({"language_info": {"name": "haskell"}}, "Haskell", "-- text"),
        ({"language_info": {"name": "unheard-of"}, "kernelspec": None}, "unheard-of", "# text"),
        ({"language_info": "julia", "kernelspec": ["R"], "language": 5}, "Python", "# text"),
    ],
)
def test_the_kernel_decides_the_language(tmp_path: Path, metadata: dict, language: str, comment: str):
    write(tmp_path, {"a.ipynb": notebook(cell("markdown", "text"), cell("code", "x"), **metadata), "b.py": "y\n"})
    document, _ = everything(folder(tmp_path))
    assert (document.text, document.language) == (f"{comment}\n\nx\n", language)
    assert len(everything(folder(tmp_path, name="python"))) == 1 + (language == "Python")


def test_the_size_of_outputs_does_not_count(tmp_path: Path):
    output = [{"data": {"image/png": "x" * 5000}}]
    write(
        tmp_path,
        {"a.ipynb": notebook(cell("code", "x = 1", outputs=output)), "b.ipynb": notebook(cell("code", "y" * 900))},
    )
    assert [document.path for document in everything(folder(tmp_path, longest_bytes=500))] == ["a.ipynb"]


@pytest.mark.parametrize(
    "text, reason",
    [
        ("{", "damaged"),
        ("[1]", "damaged"),
        ('{"cells": [5]}', "damaged"),
        ('{"cells": [{"cell_type": "code", "source": 5}]}', "damaged"),
        ('{"cells": [{"cell_type": "code", "source": {"a": 1}}]}', "damaged"),
        ('{"nbformat": 4}', "damaged"),
        ("[" * 10**5, "damaged"),
        (notebook(), "blank"),
        (notebook(cell("code", " ")), "blank"),
        ('{"cells": [{"cell_type": "code", "source": null}]}', "blank"),
        ("{\n<<<<<<< HEAD\n=======\n>>>>>>> b\n}", "merge_conflict"),
    ],
)
def test_files_that_are_no_notebook_are_left_out(tmp_path: Path, text: str, reason: str):
    write(tmp_path, {"a.ipynb": text})
    with pytest.raises(UserError, match=f"no usable file.*; left out: 1 {reason}"):
        folder(tmp_path)
