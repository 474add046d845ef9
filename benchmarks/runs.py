"""Runs of the real command, as processes that can be killed at a moment of one's choice; and what they leave behind.

benchmarks/faults.py and the tests start their runs with this. JAX is imported by what reads arrays alone.
"""

import contextlib
import dataclasses
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
# Not to learn anything, but to go through the motions; steps and saves are the caller's.
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
]
TEMPORARY = ".orbax-checkpoint-tmp"  # in the name of a folder that is being written


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, which has the same command however often it is started.

    Attributes:
        run_dir: its --run_dir.
        flags: gin files and bindings.
        processes: 1 is started by the launcher; more are started one by one, as hosts of a pod are, and meet over
            loopback.
        devices: of each process.
    """

    run_dir: Path
    flags: Sequence[str]
    processes: int = 1
    devices: int = 1

    @property
    def folder(self) -> Path:
        return self.run_dir / "local"

    def start(self) -> "Started":
        """Starts its processes, and returns at once."""
        self.run_dir.parent.mkdir(parents=True, exist_ok=True)
        program = [str(ROOT / "xm_launch.py")] if self.processes == 1 else ["-m", "codellama_jax.train"]
        command = [sys.executable, *program, f"--run_dir={self.run_dir}", *self.flags]
        children, outputs = [], []
        for environment in environments(self.processes, self.devices):
            outputs.append(tempfile.TemporaryFile())  # noqa: SIM115 (it lives as long as what is started)
            children.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    cwd=self.run_dir.parent,
                    stdin=subprocess.DEVNULL,
                    stdout=outputs[-1],
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        return Started(self, children, outputs)

    def finish(self, code: int = 0, timeout: float = 400) -> str:
        """Starts it, waits for its end with this exit code, and returns what the user saw.

        Raises:
            AssertionError: another exit code.
        """
        with self.start() as started:
            codes = started.wait(timeout)
            assert set(codes) == {code}, f"exit codes {codes}\n{started.said()}"
            return started.said()

    def trajectory(self, stage: str = "code") -> list[tuple[int, str, str]]:
        """What must be equal between equal runs, as text."""
        return [
            (line["step"], repr(line["loss"]), repr(line["grad_norm"]))
            for line in lines(self.folder / stage / "metrics.jsonl")
        ]

    def last_step(self, stage: str) -> int:
        """The last step in metrics.jsonl, 0 without one."""
        return max((line["step"] for line in lines(self.folder / stage / "metrics.jsonl")), default=0)

    def last_saved(self, stage: str) -> int:
        """The newest checkpoint, 0 without one."""
        return max(saved_steps(self.folder / stage), default=0)

    def half_written(self, stage: str) -> list[Path]:
        """Folders of saves that are not whole yet."""
        return list((self.folder / stage / "checkpoints").glob(f"[0-9]*{TEMPORARY}*"))

    def final_arrays(self, stage: str = "code") -> dict[str, np.ndarray]:
        """What `arrays` says of the checkpoint that a stage ended with."""
        return arrays(self.folder / stage / "checkpoints" / str(final_step(self.folder / stage)))

    def damaged(self) -> list[str]:
        """What is wrong with the checkpoints that count as whole; nothing must be."""
        return [why for stage in ("code", "lcft") for why in _damages(self.folder / stage)]


class Started:
    """The processes of a run that has been started; leaving the context kills what is left of them."""

    def __init__(self, run: Run, children: list[subprocess.Popen], outputs: list[IO[bytes]]):
        self.run, self.children, self._outputs = run, children, outputs

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *_: object) -> None:
        for index in range(len(self.children)):
            self.kill(index)

    def wait(self, timeout: float) -> list[int]:
        """The exit codes, once all have ended."""
        deadline = time.monotonic() + timeout
        return [child.wait(max(0.1, deadline - time.monotonic())) for child in self.children]

    @property
    def training(self) -> int:
        """Process id of the one that trains, which the launcher has started."""
        (number,) = _children_of(self.children[0].pid)
        return number

    @property
    def ended(self) -> bool:
        """Whether any has ended."""
        return any(child.poll() is not None for child in self.children)

    def said(self, index: int = 0) -> str:
        """What a process has written to its terminal."""
        file = self._outputs[index].fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")  # the place is shared: it must stay

    def kill(self, index: int = 0) -> None:
        """Sends SIGKILL to a process and to what it has started."""
        child = self.children[index]
        if child.poll() is None:
            for number in [*_children_of(child.pid), child.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            child.wait()

    def until(self, reached: Callable[[], Any], timeout: float = 120) -> bool:
        """Waits until something is so; False if a process has ended before."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if reached():
                return True
            if self.ended:
                return bool(reached())
            time.sleep(0.001)
        raise AssertionError(f"waited for {timeout:g} s in vain\n{self.said()}")

    def until_step(self, step: int, stage: str = "code") -> bool:
        """Waits until metrics.jsonl has this step."""
        return self.until(lambda: self.run.last_step(stage) >= step)


def environments(processes: int, devices: int) -> list[dict[str, str]]:
    """Of the processes of one run on this machine: where they meet, and how many devices each has."""
    common = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    common["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    if processes == 1:
        return [common]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{free.getsockname()[1]}"
    common["JAX_NUM_PROCESSES"] = str(processes)
    return [common | {"JAX_PROCESS_ID": str(index)} for index in range(processes)]


def outputs(program: Path, *arguments: str, processes: int, devices: int) -> list[str]:
    """What a Python program writes to its terminal, in each of so many processes (hosts.join) of so many devices.

    Raises:
        AssertionError: one has failed.
    """
    children = [
        subprocess.Popen(
            [sys.executable, program, *arguments], env=each, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for each in environments(processes, devices)
    ]
    try:
        said = [child.communicate(timeout=300) for child in children]
    finally:
        for child in children:
            child.kill()
    assert not any(child.returncode for child in children), "\n".join(errors[-2000:] for _, errors in said)
    return [output for output, _ in said]


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; without a last one that is still being written."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def arrays(checkpoint: Path) -> dict[str, np.ndarray]:
    """Parameters, optimiser and step of a checkpoint, wherever it was written."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import orbax.checkpoint as ocp

    found = {}
    for item in ("params", "optimizer"):
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            shapes = checkpointer.metadata(checkpoint / item).item_metadata.tree
            host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
            tree = checkpointer.restore(checkpoint / item, args=ocp.args.PyTreeRestore(restore_args=host))
        for path, array in jax.tree_util.tree_leaves_with_path(tree):
            found[item + jax.tree_util.keystr(path)] = np.asarray(array)
    return found


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Whether they have the same names, dtypes and bits."""
    return one.keys() == other.keys() and all(
        (x.dtype, x.shape, x.tobytes()) == (other[name].dtype, other[name].shape, other[name].tobytes())
        for name, x in one.items()
    )


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
