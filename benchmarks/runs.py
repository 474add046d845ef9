"""Starts the real command in separate processes, which can be killed at any time, and reads the files of its runs.

Used by benchmarks/faults.py and by tests. Only the functions that read arrays import JAX.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from codellama_jax.errors import UserError
from codellama_jax.runtime import checksums
from codellama_jax.runtime.run_dir import final_step, saved_steps

ROOT = Path(__file__).resolve().parent.parent
# A model that learns nothing but runs every part of a stage; callers add steps and saves.
TOY = [
    "--gin.Llama.dim=16",
    "--gin.Llama.heads=2",
    "--gin.Llama.kv_heads=1",
    "--gin.Llama.ffn_dim=16",
    "--gin.Llama.layers=1",
    "--gin.CODE_WARMUP=4",
    "--gin.CODE_LENGTH=64",
    "--gin.LCFT_LENGTH=128",
    "--gin.Evaluation.batches=1",
    "--gin.Evaluation.context_windows=2",
    "--gin.Evaluation.samples=1",
    "--gin.Evaluation.sample_tokens=4",
    "--gin.Evaluation.final_benchmarks=()",
]
TEMPORARY = ".orbax-checkpoint-tmp"  # part of the name of a folder that is being written


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run that can be started several times with the same command.

    Attributes:
        run_dir: its --run_dir.
        flags: gin files and bindings.
        processes: number of processes. A single one is started by the launcher; several are started directly, like
            the hosts of a pod, and connect over loopback.
        devices: devices per process.
    """

    run_dir: Path
    flags: Sequence[str]
    processes: int = 1
    devices: int = 1

    @property
    def folder(self) -> Path:
        return self.run_dir / "local"

    def start(self) -> "Started":
        """Starts the processes of the run without waiting for them."""
        self.run_dir.parent.mkdir(parents=True, exist_ok=True)
        program = [str(ROOT / "xm_launch.py")] if self.processes == 1 else ["-m", "codellama_jax.train"]
        command = [sys.executable, *program, f"--run_dir={self.run_dir}", *self.flags]
        children, files = [], []
        for environment in environments(self.processes, self.devices):
            files.append(tempfile.TemporaryFile())  # noqa: SIM115 (open as long as the processes run)
            children.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    cwd=self.run_dir.parent,
                    stdin=subprocess.DEVNULL,
                    stdout=files[-1],
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        return Started(self, children, files)

    def finish(self, code: int = 0, timeout: float = 400) -> str:
        """Starts the run, waits until it ends, and returns its output.

        Raises:
            AssertionError: the exit code is not `code`.
        """
        with self.start() as started:
            codes = started.wait(timeout)
            assert set(codes) == {code}, f"exit codes {codes}\n{started.output()}"
            return started.output()

    def trajectory(self, stage: str = "code") -> list[tuple[int, str, str]]:
        """Step, loss and gradient norm of every line, as text: identical for equal runs."""
        return [
            (line["step"], repr(line["loss"]), repr(line["grad_norm"]))
            for line in lines(self.folder / stage / "metrics.jsonl")
        ]

    def last_step(self, stage: str) -> int:
        """The last step in metrics.jsonl, or 0."""
        return max((line["step"] for line in lines(self.folder / stage / "metrics.jsonl")), default=0)

    def last_saved(self, stage: str) -> int:
        """The step of the newest checkpoint, or 0."""
        return max(saved_steps(self.folder / stage), default=0)

    def partial_saves(self, stage: str) -> list[Path]:
        """Folders of saves that are not complete."""
        return list((self.folder / stage / "checkpoints").glob(f"[0-9]*{TEMPORARY}*"))

    def final_arrays(self, stage: str = "code") -> dict[str, np.ndarray]:
        """The `arrays` of the last checkpoint of a finished stage."""
        return arrays(self.folder / stage / "checkpoints" / str(final_step(self.folder / stage)))

    def damaged(self) -> list[str]:
        """Descriptions of all damage to complete checkpoints; empty if there is none."""
        return [damage for stage in ("code", "lcft") for damage in _damages(self.folder / stage)]


class Started:
    """The processes of a started run. Leaving the context kills those that are still running."""

    def __init__(self, run: Run, children: list[subprocess.Popen], files: list[IO[bytes]]):
        self.run, self.children, self._files = run, children, files

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *_: object) -> None:
        for index in range(len(self.children)):
            self.kill(index)

    def wait(self, timeout: float) -> list[int]:
        """Waits for all processes and returns their exit codes."""
        deadline = time.monotonic() + timeout
        return [child.wait(max(0.1, deadline - time.monotonic())) for child in self.children]

    @property
    def training(self) -> int:
        """The process id of the training process, which the launcher started."""
        (number,) = _children_of(self.children[0].pid)
        return number

    @property
    def ended(self) -> bool:
        """Whether any process has ended."""
        return any(child.poll() is not None for child in self.children)

    def output(self, index: int = 0) -> str:
        """The output of a process up to now."""
        file = self._files[index].fileno()
        # pread: the file offset is shared with the process and must not change
        return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")

    def kill(self, index: int = 0) -> None:
        """Sends SIGKILL to a process and its children."""
        child = self.children[index]
        if child.poll() is None:
            for number in [*_children_of(child.pid), child.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            child.wait()

    def until(self, reached: Callable[[], Any], timeout: float = 120) -> bool:
        """Waits until a condition holds. Returns False if a process ends first.

        Raises:
            AssertionError: neither happens within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if reached():
                return True
            if self.ended:
                return bool(reached())
            time.sleep(0.001)
        raise AssertionError(f"timed out after {timeout:g} s\n{self.output()}")

    def until_step(self, step: int, stage: str = "code") -> bool:
        """Waits until metrics.jsonl contains this step. Returns False if a process ends first."""
        return self.until(lambda: self.run.last_step(stage) >= step)


def environments(processes: int, devices: int) -> list[dict[str, str]]:
    """The environment variables of each process of a run on this machine: coordinator address, number of devices."""
    common = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    common["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    if processes == 1:
        return [common]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{free.getsockname()[1]}"
    common["JAX_NUM_PROCESSES"] = str(processes)
    return [common | {"JAX_PROCESS_ID": str(index)} for index in range(processes)]


def program_outputs(program: Path, *arguments: str, processes: int, devices: int) -> list[str]:
    """Runs a Python program in several connected processes (distributed.initialize) and returns their outputs.

    Raises:
        AssertionError: a process failed.
    """
    children = [
        subprocess.Popen(
            [sys.executable, program, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments(processes, devices)
    ]
    try:
        printed = [child.communicate(timeout=300) for child in children]
    finally:
        for child in children:
            child.kill()
    assert not any(child.returncode for child in children), "\n".join(errors[-2000:] for _, errors in printed)
    return [output for output, _ in printed]


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, without an incomplete last line."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def arrays(checkpoint: Path) -> dict[str, np.ndarray]:
    """Reads parameters, optimiser and step of a checkpoint as host arrays, regardless of its mesh."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import orbax.checkpoint as ocp

    loaded = {}
    for item in ("params", "optimizer"):
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            shapes = checkpointer.metadata(checkpoint / item).item_metadata.tree
            host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
            tree = checkpointer.restore(checkpoint / item, args=ocp.args.PyTreeRestore(restore_args=host))
        for path, array in jax.tree_util.tree_leaves_with_path(tree):
            loaded[item + jax.tree_util.keystr(path)] = np.asarray(array)
    return loaded


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Whether two dicts of arrays have the same names, dtypes, shapes and bits."""
    return one.keys() == other.keys() and all(
        (x.dtype, x.shape, x.tobytes()) == (other[name].dtype, other[name].shape, other[name].tobytes())
        for name, x in one.items()
    )


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def error_line(output: str) -> str:
    """The error line of a run's output, which must be the only one."""
    errors = [line for line in output.splitlines() if "error" in line.lower() or "Traceback" in line]
    check(len(errors) == 1 and errors[0].startswith("error: "), output)
    return errors[0]


def check(condition: Any, message: str) -> None:
    """Raises AssertionError with the message unless the condition holds (an assert that -O does not remove)."""
    if not condition:
        raise AssertionError(message)


def _damages(stage_dir: Path) -> Iterator[str]:
    for step in saved_steps(stage_dir):
        folder = stage_dir / "checkpoints" / str(step)
        if not (folder / checksums.NAME).exists():
            yield f"{folder} has no {checksums.NAME}"
            continue
        try:
            checksums.verify(folder)
        except UserError as error:
            yield str(error)


def _children_of(process: int) -> list[int]:
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []  # it has ended
    return [int(number) for number in text.split()]
