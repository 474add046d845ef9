"""Folders of text files for tests, and functions that read them."""

from pathlib import Path

from codellama_jax.config.data import Corpus, Filters
from tasks.sources.base import Source, items
from tasks.sources.folder import Folder

ALL = Corpus(validation_share=0.0)
USUAL = Filters()
TOGETHER = Corpus(validation_share=0.0, group_by_repository=True)


def write(root: Path, contents: dict[str, str | bytes]) -> Path:
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def everything(source: Source) -> list:
    return [item for shard in range(len(source)) for item in items(source, shard)]


def paths(source: Source) -> list[str]:
    return [item.path for item in everything(source)]


def folder(root: Path | str, split: str = "train", name: str = "code", corpus: Corpus = ALL, **settings) -> Folder:
    return Folder(root, split, name=name, corpus=corpus, settings=Filters(**settings))


def many(root: Path, number: int = 200) -> Path:
    return write(root, {f"pkg{i % 7}/m{i}.py": f"x = {i}\n" for i in range(number)})


REPOSITORIES = {
    "one/b.py": "b = 1\n",
    "one/a.py": "a = 1",
    "one/sub/c.c": "int c;\r\n",
    "two/.git/config": "",
    "two/d.py": "d\n",
    "two/inner/.git": "gitdir: elsewhere\n",  # a submodule
    "two/inner/e.py": "e\n",
    "two/inner/deep/f.py": "f\n",
    "org/three/.git/config": "",
    "org/three/g.c": "g\n",
    "org/three/h.c": "h\n",
    "org/i.c": "i\n",
    "root.py": "r\n",
    "also.py": "s\n",
}
GROUPS = {
    "one": ["one/a.py", "one/b.py", "one/sub/c.c"],
    "two": ["two/d.py"],
    "two/inner": ["two/inner/deep/f.py", "two/inner/e.py"],
    "org/three": ["org/three/g.c", "org/three/h.c"],
    "org": ["org/i.c"],
}
