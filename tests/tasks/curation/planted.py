"""The problems and secrets planted in the corpus of these tests, and the files that a build writes."""

import re
import sysconfig
from pathlib import Path

PROBLEMS = [
    {
        "task_id": "Planted/0",
        "prompt": "def weave(threads, colours):\n    '''Lay the threads of a loom one after the other, each with the"
        " colour that stands at its place, and begin the colours again when they end.'''\n",
        "canonical_solution": "    loom = []\n    for place, thread in enumerate(threads):\n"
        "        shade = colours[place % len(colours)]\n        loom.append((thread, shade, place // len(colours)))\n"
        "    return sorted(loom, key=lambda knot: (knot[2], knot[1]))\n",
    },
    {
        "task_id": "Planted/1",
        "prompt": "def harvest(field, scythe):\n    '''Of a field of ripe ears cut those that are longer than the"
        " scythe, bind every seven of them into a sheaf and count what is left over on the ground.'''\n",
        "canonical_solution": "    ripe = [ear for ear in field if len(ear) > scythe]\n    sheaves, rest = [], 0\n"
        "    while len(ripe) >= 7:\n        sheaves.append(tuple(ripe[:7]))\n        ripe = ripe[7:]\n"
        "    rest = sum(len(ear) for ear in ripe)\n    return sheaves, rest\n",
    },
]
SECRETS = {
    "email": "anna.karenina@stpetersburg-post.ru",
    "key": "ghp_" + "q8Zr3LmXv0TbY6NdW2kJs9HcP5fGa1Ue7oRi",
}


def library(count: int) -> list[tuple[str, str]]:
    """(path, text) of `count` Python files of the standard library that pass the filters."""
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for path in sorted(root.rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        ordinary = 500 < len(text) < 40_000 and max(map(len, text.split("\n"))) < 300 and "enerated" not in text
        if ordinary and not re.search(r"site-packages|/test/|/encodings/|idle_test|lib2to3", str(path)):
            files.append((path.relative_to(root).as_posix(), text))
    return files[:: max(1, len(files) // count)][:count]


def contents(out: Path) -> dict[str, bytes]:
    """Name -> bytes of the files of a finished build, without those in .steps."""
    paths = [path for path in out.rglob("*") if path.is_file() and ".steps" not in path.parts]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}
