"""What a run survives: kills, the loss of a host, damaged files, a full disk; and what saving costs it.

    python benchmarks/faults.py [--parts kills two damage saving] [--kills=30] [--folder=/tmp] [--out=FILE]

Every run is the real command in processes of its own, at toy size on this machine's CPU. Equal means: step, loss and
gradient norm of every line of metrics.jsonl, as text, and every bit of the final parameters and optimiser.
"""

import argparse
import dataclasses
import datetime
import hashlib
import importlib.metadata
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from machine import processor
from runs import TEMPORARY, TOY, Run, Started, lines

from codellama_jax import checksums, configuration, hosts
from codellama_jax.errors import UserError
from codellama_jax.run_folder import final_step, saved_steps

CASCADE = ["--gin_file=gin/lcft.gin", *TOY, "--gin.Evaluation.every=40", "--gin.Checkpoints.every=8"]
CASCADE += ["--gin.CODE_LENGTH=256", "--gin.CODE_BATCH_TOKENS=4_096", "--gin.CODE_STEPS={code}"]
CASCADE += ["--gin.LCFT_LENGTH=512", "--gin.LCFT_BATCH_TOKENS=4_096", "--gin.LCFT_STEPS={lcft}"]
CASCADE += ["--gin.Llama.dim=64", "--gin.Llama.ffn_dim=160", "--gin.Llama.layers=2"]  # some 40 ms a step
KILLS_OF_A_RUN = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=240, help="of code training; long context has half as many")
    parser.add_argument("--seed", type=int, default=0, help="of the random times and places")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to be used")
    parser.add_argument("--out", type=Path, help="where to write the result (default: the terminal)")
    options = parser.parse_args()
    text = ""
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="faults.") as folder:
        for line in result(options, Path(folder)):
            print(line, flush=True)
            text += line + "\n"
    if options.out:
        options.out.write_text(text)
    return 0


def result(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines of the result file."""
    yield f"# What a run survives, {datetime.date.today()}"
    yield ""
    flags = [flag for flag in sys.argv[1:] if not flag.startswith("--folder")]
    yield f"    python benchmarks/faults.py {' '.join(flags)}".rstrip()
    yield ""
    packages = ("jax", "jaxlib", "numpy", "orbax-checkpoint", "tensorstore")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    yield f"{os.cpu_count()} cores of {processor()}, shared; Python {platform.python_version()}, {versions}."
    for part in options.parts:
        yield ""
        yield from PARTS[part](options, folder / part)


def expect(condition: Any, message: str) -> None:
    """A fault that the program did not survive ends the benchmark.

    Raises:
        AssertionError: with this message, if the condition does not hold.
    """
    if not condition:
        raise AssertionError(message)


def cascade(options: argparse.Namespace, folder: Path) -> Run:
    """A run of code training and long-context fine-tuning."""
    return Run(folder, [flag.format(code=options.steps, lcft=options.steps // 2) for flag in CASCADE])


# ---------------------------------------------------------------- kills


class Kill(NamedTuple):
    """What was found where a run was killed.

    Attributes:
        moment: that was aimed at.
        stage: that was running.
        half_written: whether a save was cut off in the middle.
        lost: steps that are to be run again.
    """

    moment: str
    stage: str
    half_written: bool
    lost: int


def current(run: Run) -> str:
    return "lcft" if final_step(run.folder / "code") is not None else "code"


def in_a_step(started: Started, rng: random.Random) -> bool:
    before = {stage: started.run.last_step(stage) for stage in ("code", "lcft")}
    reached = started.until(lambda: any(started.run.last_step(stage) > before[stage] + 1 for stage in before))
    return reached and nap(rng.uniform(0, 1.0))


def in_a_save(started: Started, rng: random.Random) -> bool:
    return started.until(lambda: started.run.half_written(current(started.run))) and nap(rng.uniform(0, 0.02))


def after_the_rename(started: Started, rng: random.Random) -> bool:
    """Before, most often, the next line is logged, and the oldest checkpoint removed."""
    before = {stage: started.run.last_saved(stage) for stage in ("code", "lcft")}
    reached = started.until(lambda: any(started.run.last_saved(stage) > before[stage] for stage in before))
    return reached and nap(rng.uniform(0, 0.005))


def between_stages(started: Started, rng: random.Random) -> bool:
    run = started.run
    reached = started.until(lambda: final_step(run.folder / "code") is not None)
    return reached and not run.last_saved("lcft") and nap(rng.uniform(0, 9))


def in_starting(started: Started, rng: random.Random) -> bool:
    return nap(rng.uniform(0, 7))


def nap(seconds: float) -> bool:
    time.sleep(seconds)
    return True


# In the order in which a run comes by; the hand-over is once in a run, so more than one kill there is one after another.
MOMENTS: list[tuple[str, Callable[[Started, random.Random], bool]]] = [
    ("while starting", in_starting),
    ("in a step", in_a_step),
    ("in a save", in_a_save),
    ("after the rename of a save", after_the_rename),
    ("in a save", in_a_save),
    ("between two stages", between_stages),
    ("between two stages", between_stages),
    ("in a step", in_a_step),
    ("in a save", in_a_save),
    ("after the rename of a save", after_the_rename),
]


def kill_again_and_again(run: Run, moments: list[tuple[str, Callable]], rng: random.Random) -> Iterator[Kill]:
    """Starts a run, kills it, and looks at what is left; the same command each time.

    Raises:
        AssertionError: it did not come up, or a checkpoint that counts as whole is not.
    """
    for moment, wait in moments:
        with run.start() as started:
            reached = wait(started, rng)
            alive = not started.ended
            started.kill()
            expect(reached and alive, f"{moment}: ended before it could be killed\n{started.said()}")
        stage = current(run)
        expect(not list(run.damaged()), f"{moment}: {list(run.damaged())}")
        lost = max(0, run.last_step(stage) - run.last_saved(stage))
        yield Kill(moment, stage, bool(run.half_written(stage)), lost)


def final_arrays(run: Run, stage: str) -> str:
    """A digest of every array of a stage's last checkpoint."""
    program = (
        "import sys, hashlib, jax, numpy as np, orbax.checkpoint as ocp\n"
        "digest = hashlib.sha256()\n"
        "for item in ('params', 'optimizer'):\n"
        "    tree = ocp.PyTreeCheckpointer().restore(f'{sys.argv[1]}/{item}')\n"
        "    for path, array in jax.tree_util.tree_leaves_with_path(tree):\n"
        "        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(array).tobytes())\n"
        "print(digest.hexdigest())\n"
    )
    step = final_step(run.folder / stage)
    command = [sys.executable, "-c", program, str(run.folder / stage / "checkpoints" / str(step))]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    return done.stdout.strip()


def kills(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    reference = cascade(options, folder / "reference")
    began = time.monotonic()
    reference.finish()
    seconds = time.monotonic() - began
    rng = random.Random(options.seed)
    found: list[Kill] = []
    final = {stage: final_arrays(reference, stage) for stage in ("code", "lcft")}
    runs = 0
    while len(found) < options.kills:
        run = cascade(options, folder / f"killed{runs}")
        runs += 1
        number = min(KILLS_OF_A_RUN, options.kills - len(found))
        # fewer than all: spread over the whole of it
        moments = [MOMENTS[len(MOMENTS) * index // number] for index in range(number)]
        for kill in kill_again_and_again(run, moments, rng):
            found.append(kill)
            print(f"    {kill}", file=sys.stderr, flush=True)
        run.finish()
        for stage in final:
            expect(run.trajectory(stage) == reference.trajectory(stage), f"{stage}: another trajectory in {run}")
            expect(final_arrays(run, stage) == final[stage], f"{stage}: other parameters in {run}")
        expect(not list(run.damaged()), f"{list(run.damaged())}")
    steps = {stage: len(reference.trajectory(stage)) for stage in final}
    yield "## Kills"
    yield ""
    yield f"SIGKILL to launcher and training process, {len(found)} times in {runs} runs of code training ({steps['code']}"
    yield f"steps) and long-context fine-tuning ({steps['lcft']} steps), saving every 8 steps; {seconds:.0f} s without a kill. After each"
    yield "kill every checkpoint that counts as whole was compared with its checksums, and the same command was started again."
    yield ""
    yield "| killed | times | in code, lcft | a half-written save left | steps run again, median (most) |"
    yield "|---|---|---|---|---|"
    table: dict[str, list[Kill]] = defaultdict(list)
    for kill in found:
        table[kill.moment].append(kill)
    for moment, of in table.items():
        in_code = sum(kill.stage == "code" for kill in of)
        again = [kill.lost for kill in of]
        yield f"| {moment} | {len(of)} | {in_code}, {len(of) - in_code} | {sum(kill.half_written for kill in of)} | {statistics.median(again):g} ({max(again)}) |"
    yield ""
    yield f"{runs} of {runs} runs came to their end, with every step once, in order, and equal to those of the run that was not killed."
    yield "No checkpoint was unreadable."


PARTS: dict[str, Callable[[argparse.Namespace, Path], Iterator[str]]] = {"kills": kills}

if __name__ == "__main__":
    sys.exit(main())
