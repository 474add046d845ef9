"""The order of a repository's files in one document."""

from tasks.curation.write.repositories import import_order


def test_files_come_after_those_that_they_import() -> None:
    texts = {
        "r/app/main.py": "import os\nfrom . import views, models\nimport r_tools.strings as s\n",
        "r/app/views.py": "from .models import (\n    Thing)\nfrom ..app import settings\n",
        "r/app/models.py": "from app.settings import *\n",
        "r/app/settings.py": "import sys\n",
        "r/r_tools/strings.py": "",
        "r/web/a.ts": "import { b } from './lib/b'\nconst c = require('./c.js')\n",
        "r/web/lib/b.ts": "export const b = 1\n",
        "r/web/c.js": "",
        "r/src/x.c": '#include "x.h"\n#include <stdio.h>\n#include "deep/y.h"\n',
        "r/src/x.h": "",
        "r/include/deep/y.h": "",
    }
    order = import_order(texts)
    assert sorted(order) == sorted(texts)
    position = {path.removeprefix("r/"): number for number, path in enumerate(order)}
    for before, after in [
        ("app/views.py", "app/main.py"),
        ("app/models.py", "app/views.py"),
        ("app/settings.py", "app/models.py"),
        ("app/settings.py", "app/views.py"),
        ("r_tools/strings.py", "app/main.py"),
        ("web/lib/b.ts", "web/a.ts"),
        ("web/c.js", "web/a.ts"),
        ("src/x.h", "src/x.c"),
        ("include/deep/y.h", "src/x.c"),
    ]:
        assert position[before] < position[after], (before, after)


def test_files_without_imports_are_ordered_by_path() -> None:
    assert import_order({"b.py": "", "a/z.py": "", "a.py": ""}) == ["a.py", "a/z.py", "b.py"]


def test_a_cycle_of_imports_is_broken_at_its_first_file() -> None:
    texts = {"a.py": "import b", "b.py": "import c", "c.py": "import a", "d.py": "import a"}
    assert import_order(texts) == ["a.py", "c.py", "b.py", "d.py"]
