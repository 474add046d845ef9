"""The user's modules that a configuration imports."""

import subprocess
import sys
from pathlib import Path

import pytest

from codellama_jax.errors import UserError
from tasks.sources import import_modules

ROOT = Path(__file__).parents[3]


def test_a_module_in_the_current_directory_is_imported(tmp_path: Path):
    """Even if Python does not search that directory, as with an installed command."""
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tasks.py").write_text("import sibling\nprint('imported', __name__)\n")
    (tmp_path / "sibling.py").write_text("")
    program = "import sys; sys.path.remove('')\nfrom tasks import sources\nsources.import_modules(['my_package.tasks'])"
    command = [sys.executable, "-c", program]
    environment = {"PYTHONPATH": str(ROOT)}
    finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout) == (0, "imported my_package.tasks\n"), finished.stderr


@pytest.mark.parametrize(
    "text, message",
    [
        (None, r"the module broken, .* \(ModuleNotFoundError: .*\): install it, or put its folder on PYTHONPATH$"),
        (
            "import absent_package.part",
            r"\(ModuleNotFoundError: No module named 'absent_package'\): install absent_pac",
        ),
        ("import os\nos.none", r"\(AttributeError: .*\): correct the module"),
        ("def f(:", r"\(SyntaxError: .*\): correct the module"),
        ("raise ValueError('one\\ntwo')", r"\(ValueError: one two\): correct the module"),
    ],
)
def test_a_module_that_cannot_be_imported_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, message: str
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    if text is not None:
        (tmp_path / "broken.py").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        import_modules(["os.path", "broken"])
    assert "\n" not in str(error.value)


def test_a_missing_package_is_named_with_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"the module absent\.tasks, .*: install it, or put its folder on PYTHONPATH$"):
        import_modules(["absent.tasks"])
