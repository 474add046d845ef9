"""Descriptions and licences of the distributions that this project requires."""

from pathlib import Path

import pytest
from written_folders import everything

from codellama_jax.config.data import SPLITS, Corpus, Filters
from tasks.sources.embedded import distributions
from tasks.sources.embedded.corpus import embedded_source
from tasks.sources.embedded.distributions import description, project_requirements, required_distributions

STORY = "Once upon a time there was a library.\n\nIt did what it said. " * 9
LICENCE = "Permission is granted to everybody.\n"


def install(folder: Path, contents: dict[str, str]) -> None:
    for path, text in contents.items():
        (folder / "purelib" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "purelib" / path).write_bytes(text.encode("latin-1"))


def natural_language() -> dict[str, str]:
    source = embedded_source("nl", "train", Corpus(validation_share=0.0), Filters())
    return {item.path: item.text for item in everything(source)}


@pytest.mark.usefixtures("other_python")
def test_natural_language_without_distributions():
    for split in SPLITS:
        assert everything(embedded_source("nl", split, Corpus(), Filters()))[0].text.strip()


def test_required_distributions_give_descriptions_and_licences(other_python: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distributions, "project_requirements", lambda: ["b>=1", "a"])
    install(
        other_python,
        {
            "b-1.0.dist-info/METADATA": f"Name: b\nSummary: none\n\n{STORY}",
            "b-1.0.dist-info/LICENSE": f"Copyright 2001 B\n{LICENCE}",
            "b-1.0.dist-info/RECORD": "METADATA,,\n",
            "A-2.0.dist-info/METADATA": "Name: A\r\n\r\nshort",
            "A-2.0.dist-info/licenses/LICENCE.txt": f"(c) Copyright 2025 A and others\n\n{LICENCE}",
            "A-2.0.dist-info/licenses/src/inner.md": "Another licence.\n",
            "A-2.0.dist-info/COPYING": "\xff",
        },
    )
    expected = {
        "A-2.0.dist-info/licenses/LICENCE.txt": f"(c) Copyright 2025 A and others\n\n{LICENCE}",
        "A-2.0.dist-info/licenses/src/inner.md": "Another licence.\n",
        "b-1.0.dist-info/METADATA": STORY.strip() + "\n",
    }
    assert natural_language() == expected
    assert description(other_python / "purelib/b-1.0.dist-info/METADATA") == STORY.strip() + "\n"
    # another installed package does not change the data
    install(other_python, {"other-1.0.dist-info/METADATA": f"Name: other\n\n{STORY} More."})
    assert natural_language() == expected


def test_requirements_are_followed_with_their_extras_and_markers(tmp_path: Path):
    requirements = {
        "a": ["b[fast]>=2; python_version>='3'", "absent"],
        "b": ["c ; extra == 'fast'", "d ; extra == 'slow'", "a"],
        "c": ["Dotted.Name_x"],
        "d": [],
        "dotted-name-x": ["e; sys_platform == 'nowhere'"],
        "e": [],
        "beside": ["d"],
    }
    installed = {}
    for name, lines in requirements.items():
        installed[name] = tmp_path / f"{name}-1.dist-info"
        installed[name].mkdir()
        header = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n"
        (installed[name] / "METADATA").write_text(header + "".join(f"Requires-Dist: {line}\n" for line in lines))
    required = required_distributions(["A"], installed)
    assert [path.name.partition("-1")[0] for path in required] == ["a", "b", "c", "dotted-name-x"]
    assert required_distributions([], installed) == []


def test_requirements_of_the_project_are_those_that_it_declares():
    names = {line.partition("=")[0].partition(">")[0].partition("<")[0] for line in project_requirements()}
    assert {"jax", "numpy", "seqio", "tensorflow"} <= names
    assert not {"pytest", "ruff", "apache-beam"} & names
    required = required_distributions(project_requirements(), distributions.installed_distributions())
    installed = {path.name.partition("-")[0] for path in required}
    assert {"numpy", "seqio"} <= installed and not {"pytest", "mypy"} & installed
