"""The output of --dry_run and the example executor in docs/launching.md are correct."""

import re
import shlex
import subprocess
import sys
import textwrap

from launch.source_archive import source
from tests.launch.fake_cloud import ROOT

TEXT = (ROOT / "docs/launching.md").read_text()


def blocks() -> list[str]:
    return [textwrap.dedent(block).strip() for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", TEXT, re.M)]


def run(command: str, folder, *flags: str) -> str:
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["python", "xm_launch.py"]
    argv = [sys.executable, str(ROOT / "xm_launch.py"), *words[2:], *flags]
    environment = {"PATH": str(folder / "none"), "XDG_CACHE_HOME": str(folder), "PYTHONPATH": str(folder)}
    result = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_documented_dry_run_output_is_current(tmp_path):
    [typed] = [block for block in blocks() if "--name=lcft7b" in block and block.startswith("python xm_launch.py")]
    [shown] = [block for block in blocks() if block.startswith("# CACHE/")]
    printed = run(typed, tmp_path).partition("\n")[2].strip()
    printed = printed.replace(f"{tmp_path}/codellama_jax/sources", "CACHE")
    printed = re.sub("codellama_jax/[0-9a-f]{16}|codellama_jax-[0-9a-f]{16}", lambda m: m[0][:14] + "SOURCE", printed)
    assert printed.replace(f"packages-{source().lock}", "packages-LOCK") == shown


def test_example_executor_works(tmp_path):
    [program] = [block for block in blocks() if block.startswith("# mine.py")]
    program, _, typed = program.partition("\n\nPYTHONPATH=. ")
    (tmp_path / "mine.py").write_text(program)
    config = ["--gin_file=gin/models/local.gin", "--run_dir=gs://b/runs", "--chain"]
    output = run(typed.replace("...", ""), tmp_path, *config)
    assert output.count("qsub -sync y -q tpu -b y 'python -m codellama_jax.train --gin_file=gin/") == 2
