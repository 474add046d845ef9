"""A run of a tiny model that takes seconds, for tests of the launcher."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests import fast_compilation

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--gin_file=gin/code.gin",
    *("--gin.Llama.dim=16", "--gin.Llama.heads=2", "--gin.Llama.kv_heads=1", "--gin.Llama.ffn_dim=16"),
    *("--gin.Llama.layers=1", "--gin.CODE_WARMUP=4", "--gin.CODE_LENGTH=64", "--gin.CODE_BATCH_TOKENS=512"),
    *("--gin.Checkpoints.every=10", "--gin.Evaluation.every=1_000", "--gin.Evaluation.batches=1"),
    *("--gin.Evaluation.context_windows=0", "--gin.Evaluation.samples=0", "--gin.Evaluation.final_benchmarks=()"),
]


def start(run_dir: Path, *flags: str) -> subprocess.Popen:
    """Starts the launcher on a toy run; its stderr is merged into stdout."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "xm_launch.py"), f"--run_dir={run_dir}", *FLAGS, *flags],
        cwd=run_dir.parent,
        env=os.environ | fast_compilation.ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen, file: Path, text: str, seconds: float = 90) -> None:
    """Returns when the file contains the text."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists() and text in file.read_text():
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"{text!r} did not appear in {file}: {process.communicate()[0]}")
