"""The structure of the project: sizes of files, imports, collected tests, and the contents of a wheel."""

import ast
import itertools
import os
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("codellama_jax", "tasks", "launch")
SKIPPED_BY_TOOLS = {"build", "dist", "out", "env", "venv", "node_modules"}


def source_files(*folders: str) -> list[Path]:
    """The Python files below these folders of the checkout."""
    return sorted(itertools.chain.from_iterable((ROOT / folder).rglob("*.py") for folder in folders))


SOURCE = [*source_files(*PACKAGES), ROOT / "xm_launch.py"]


# ---------------------------------------------------------------- files and folders


def test_source_files_are_short():
    lines = {path: path.read_text().count("\n") for path in [*SOURCE, *source_files("benchmarks")]}
    long = {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > 400}
    assert not long, f"over 400 lines; split these files by concept: {long}"
    assert statistics.median(count for count in lines.values() if count > 1) <= 150


def test_no_folder_has_a_name_that_tools_skip():
    """pytest, linters and packagers silently ignore folders of these names."""
    folders = {path.parent for path in source_files(*PACKAGES, "tests", "benchmarks")}
    assert not [str(folder) for folder in folders if SKIPPED_BY_TOOLS & set(folder.relative_to(ROOT).parts)]


def test_every_folder_of_source_is_a_package():
    missing = {str(path.parent.relative_to(ROOT)) for path in source_files(*PACKAGES)} - {
        str(path.parent.relative_to(ROOT)) for path in SOURCE if path.name == "__init__.py"
    }
    assert not missing, f"no __init__.py, so packagers and import-linter do not see it: {missing}"


_LIST_COLLECTED = """
import sys, pytest

class Empty(pytest.File):
    def collect(self):
        return []

class Record:
    def pytest_pycollect_makemodule(self, module_path, parent):
        print("collected:", module_path)
        return Empty.from_parent(parent, path=module_path)

sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider"], plugins=[Record()]))
"""


def test_every_test_file_is_collected():
    """`pytest` without arguments collects every test file that exists. No test file is imported here."""
    done = subprocess.run([sys.executable, "-c", _LIST_COLLECTED], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout + done.stderr
    found = {Path(line.partition(": ")[2]) for line in done.stdout.splitlines() if line.startswith("collected: ")}
    files = [path for path in source_files("tests") if path.name.startswith("test_")]
    assert found == set(files)
    # pytest imports test files by their base names: of two with one name, the second is an error, or not run
    names = [path.name for path in files]
    assert not {name for name in names if names.count(name) > 1}


def test_the_lists_of_slow_test_files_are_current():
    folder = ROOT / "tests"
    files = [line.split()[1] for line in (folder / "durations.txt").read_text().splitlines()]
    for node in ast.parse((folder / "conftest.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CHECKED":
            files += ast.literal_eval(node.value)
    assert files and not [file for file in files if not (folder / file).is_file()]


# ---------------------------------------------------------------- documentation


PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_paths_in_the_documentation_exist(page):
    """Checks links to files and paths of source files."""
    text = page.read_text()
    links = {page.parent / link for link in re.findall(r"\]\(([^)#:]+)\)", text)}
    folders = "|".join((*PACKAGES, "tests", "benchmarks", "docs", "gin"))
    paths = {ROOT / path for path in re.findall(rf"(?<![\w/.-])((?:{folders})/[\w/.-]*\.(?:py|md|gin))\b", text)}
    written = [path for path in links | paths if not path.stem.isupper()]  # STAGE.gin is a placeholder
    assert not [str(path) for path in sorted(written) if not path.exists()]


def test_the_training_core_is_as_long_as_the_documentation_says():
    section = (ROOT / "docs" / "code.md").read_text().partition("## The training core")[2].partition("## ")[0]
    stated = int(re.search(r"about ([\d,]+) lines", section)[1].replace(",", ""))
    files = [line.split()[0] for line in section.splitlines() if line.startswith("    ")]
    assert len(files) > 10
    assert sum((ROOT / file).read_text().count("\n") for file in files) == pytest.approx(stated, rel=0.1)


# ---------------------------------------------------------------- imports


def module_name(path: Path) -> str:
    """The name under which a source file is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, modules: dict[str, Path]) -> Iterator[Path]:
    """The files of `modules` that a file imports, at top level or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            qualified = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else str(node.module) for name in qualified]
        yield from (modules[name] for name in names if name in modules)


def find_cycle(graph: dict[Path, set[Path]]) -> list[Path]:
    """The nodes of a cycle, the first of them repeated at the end; empty if there is none."""
    done: set[Path] = set()

    def visit(node: Path, trail: list[Path]) -> list[Path]:
        if node in trail:
            return [*trail[trail.index(node) :], node]
        if node in done:
            return []
        for following in sorted(graph[node]):
            if cycle := visit(following, [*trail, node]):
                return cycle
        done.add(node)
        return []

    return next((cycle for node in sorted(graph) if (cycle := visit(node, []))), [])


def test_imports_have_no_cycle():
    modules = {module_name(path): path for path in SOURCE}
    graph = {path: set(imports(path, modules)) - {path} for path in SOURCE}
    assert sum(map(len, graph.values())) > 2 * len(SOURCE), "imports() finds most imports"
    cycle = " -> ".join(str(path.relative_to(ROOT)) for path in find_cycle(graph))
    assert not cycle, f"files import each other: {cycle}"


def test_find_cycle_returns_a_cycle_or_nothing():
    a, b, c, d = map(Path, "abcd")
    assert find_cycle({a: {b}, b: {c, d}, c: {d}, d: set()}) == []
    assert find_cycle({a: {b}, b: {c, d}, c: {b}, d: set()}) == [b, c, b]


def test_layers_name_every_part():
    """Every package and module of codellama_jax is in a layer in pyproject.toml, so that the contracts cover it."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (contract["layers"] for contract in linter["contracts"] if contract["type"] == "layers")
    named = {name.strip() for layer in layers for name in layer.replace(":", "|").split("|")}
    parts = {
        module_name(path).split(".")[1] for path in source_files("codellama_jax") if module_name(path) != PACKAGES[0]
    }
    assert {f"codellama_jax.{part}" for part in parts - {"__main__"}} == named - {"tasks", "launch"}


def test_the_model_loads_no_data_or_checkpoint_library():
    code = (
        "import sys, codellama_jax.model, codellama_jax.model.llama, codellama_jax.attention\n"
        "print(sorted({'tensorflow', 'gin', 'seqio', 'orbax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr


# ---------------------------------------------------------------- the installed package


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel, built without network access from a copy of the source, because the build writes next to the source."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    for name in (*PACKAGES, "gin"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "xm_launch.py"):
        shutil.copy(ROOT / name, copy / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(copy)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_has_every_source_gin_web_and_table_file(wheel):
    expected = {str(path.relative_to(ROOT)) for path in SOURCE}
    expected |= {f"codellama_jax/{path.relative_to(ROOT)}" for path in (ROOT / "gin").rglob("*.gin")}
    expected |= {str(path.relative_to(ROOT)) for path in (ROOT / "codellama_jax/serving/web").iterdir()}
    expected |= {str(path.relative_to(ROOT)) for path in (ROOT / "codellama_jax/kernels").glob("*.json")}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected


def test_an_installed_wheel_plans_a_run_in_an_empty_folder(wheel, tmp_path):
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        installed,
        wheel,
    ]
    subprocess.run(install, check=True)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(installed), "HOME": str(tmp_path)}

    def codellama_jax(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, installed / "bin" / "codellama-jax", *arguments]
        return subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)

    done = codellama_jax("launch", "--gin_file=gin/lcft.gin", "--dry_run")
    assert done.returncode == 0, done.stderr
    stages = [line for line in done.stdout.splitlines() if "-m codellama_jax.train" in line]
    shipped = installed / "codellama_jax" / "gin"
    assert all(f"--gin_file={shipped / name}.gin" in line for name, line in zip(("code", "lcft"), stages, strict=True))
    assert not list(empty.iterdir()), "a dry run writes nothing"

    usage = codellama_jax("--help")
    assert usage.returncode == 0
    names = ("launch", "train", "plan", "convert", "generate", "inspect", "build")
    assert all(f"\n  {name} " in usage.stdout for name in names)
    wrong = codellama_jax("lunch")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: unknown command lunch: did you mean launch?")
