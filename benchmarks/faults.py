"""What a run survives: kills, the loss of a host, damaged files, a full disk; and what saving costs it.

    python benchmarks/faults.py [--parts kills two damage saving] [--kills=30] [--folder=/tmp] [--out=FILE]

Every run is the real command in processes of its own, at toy size on this machine's CPU. Equal means: step, loss and
gradient norm of every line of metrics.jsonl, as text, and every bit of the final parameters and optimiser.
"""

import argparse
import contextlib
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
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from machine import processor
from runs import TOY, Run, Started, lines, same

from codellama_jax.config import gin_files
from codellama_jax.errors import UserError
from codellama_jax.runtime import checksums, distributed
from codellama_jax.runtime.run_dir import final_step, saved_steps

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
    parser.add_argument("--layers", type=int, default=12, help="of the model whose saves are timed")
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


def prose(text: str) -> Iterator[str]:
    """A paragraph, and the empty line after it."""
    yield from textwrap.wrap(" ".join(text.split()), 118, break_long_words=False, break_on_hyphens=False)
    yield ""


def spread(seconds: list[float]) -> str:
    """Cells of a table: the median, and the extremes."""
    return f"{statistics.median(seconds):.2f} | {min(seconds):.2f} .. {max(seconds):.2f} |"


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
    run = started.run
    left = {path.stat().st_ino for stage in ("code", "lcft") for path in run.half_written(stage)}
    reached = started.until(lambda: any(inode(path) not in left for path in run.half_written(current(run))))
    return reached and nap(rng.uniform(0, 0.02))


def inode(path: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_ino
    return None


def after_the_rename(started: Started, rng: random.Random) -> bool:
    """Before, most often, the next line is logged, and the oldest checkpoint removed."""
    before = {stage: started.run.last_saved(stage) for stage in ("code", "lcft")}
    reached = started.until(lambda: any(started.run.last_saved(stage) > before[stage] for stage in before))
    return reached and nap(rng.uniform(0, 0.005))


def between_stages(started: Started, rng: random.Random) -> bool:
    run = started.run
    reached = started.until(lambda: final_step(run.folder / "code") is not None)
    latest = time.monotonic() + rng.uniform(0, 9)
    started.until(lambda: time.monotonic() > latest or run.last_step("lcft"))
    return reached and not run.last_saved("lcft")


def in_starting(started: Started, rng: random.Random) -> bool:
    return nap(rng.uniform(0, 7))


def nap(seconds: float) -> bool:
    time.sleep(seconds)
    return True


# In the order in which a run comes by; the hand-over comes once in a run, so kills there follow one another.
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
        expect(not run.damaged(), f"{moment}: {run.damaged()}")
        lost = max(0, run.last_step(stage) - run.last_saved(stage))
        yield Kill(moment, stage, bool(run.half_written(stage)), lost)


def kills(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    reference = cascade(options, folder / "reference")
    began = time.monotonic()
    reference.finish()
    seconds = time.monotonic() - began
    rng = random.Random(options.seed)
    found: list[Kill] = []
    final = {stage: reference.final_arrays(stage) for stage in ("code", "lcft")}
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
            expect(same(run.final_arrays(stage), final[stage]), f"{stage}: other parameters in {run}")
        expect(not run.damaged(), f"{run.damaged()}")
    steps = {stage: len(reference.trajectory(stage)) for stage in final}
    yield "## Kills"
    yield ""
    yield from prose(f"""
        SIGKILL to launcher and training process, {len(found)} times in {runs} runs of code training ({steps["code"]}
        steps) and long-context fine-tuning ({steps["lcft"]} steps), saving every 8 steps; {seconds:.0f} s without a
        kill. After each kill every checkpoint that counts as whole was compared with its checksums, and the same
        command was started again.
    """)
    yield "| killed | times | in code, lcft | a half-written save left | steps run again, median (most) |"
    yield "|---|---|---|---|---|"
    table: dict[str, list[Kill]] = defaultdict(list)
    for kill in found:
        table[kill.moment].append(kill)
    for moment, of in table.items():
        in_code = sum(kill.stage == "code" for kill in of)
        again = [kill.lost for kill in of]
        half = sum(kill.half_written for kill in of)
        steps_again = f"{statistics.median(again):g} ({max(again)})"
        yield f"| {moment} | {len(of)} | {in_code}, {len(of) - in_code} | {half} | {steps_again} |"
    yield ""
    yield from prose(f"""
        All {runs} runs came to their end, with every step once, in order, and equal to the run that was not killed. No
        checkpoint was unreadable.
    """)


# ---------------------------------------------------------------- two processes


TWO = ["--gin_file=gin/code.gin", "--gin_file=gin/models/local.gin", *TOY, "--gin.CODE_BATCH_TOKENS=512"]
TWO += [
    "--gin.DataLoader.readers=4",
    "--gin.CODE_STEPS={steps}",
    "--gin.Checkpoints.every=8",
    "--gin.Evaluation.every=40",
]
TWO += ["--gin.Evaluation.context_windows=0", "--gin.Evaluation.samples=0"]


def two_processes(options: argparse.Namespace, folder: Path) -> Run:
    """A run of two processes, which meet over loopback, with four devices each."""
    return Run(folder, [flag.format(steps=options.steps // 3) for flag in TWO], processes=2, devices=4)


class Loss(NamedTuple):
    """What the other process made of it: when it ended, its exit code, and its last line."""

    seconds: float
    code: int
    last_line: str


def lose(started: Started, victim: int, by: signal.Signals) -> Loss:
    """Kills a process of two, or makes it stand still, and waits for the end of the other."""
    began = time.monotonic()
    started.children[victim].send_signal(by)
    code = started.children[1 - victim].wait(4 * distributed.HEARTBEAT_SECONDS)
    return Loss(time.monotonic() - began, code, started.said(1 - victim).rstrip().rpartition("\n")[2])


def two(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    reference = two_processes(options, folder / "reference")
    reference.finish()
    final = reference.final_arrays("code")
    rng = random.Random(options.seed)
    run = two_processes(options, folder / "killed")
    yield "## Two processes of four devices each, over loopback"
    yield ""
    yield from prose(f"""
        A run of code training ({options.steps // 3} steps, saving every 8). One of the processes is lost; when the
        other has ended, both are started again with the same command.
    """)
    yield "| lost | process | seconds until the other ended | its exit code | its last line |"
    yield "|---|---|---|---|---|"
    longest = 0.0
    for moment, wait, victim, by in (
        ("killed in a step", in_a_step, 0, signal.SIGKILL),
        ("killed in a step", in_a_step, 1, signal.SIGKILL),
        ("killed in a save", in_a_save, 0, signal.SIGKILL),
        ("killed in a save", in_a_save, 1, signal.SIGKILL),
        ("stands still (SIGSTOP)", in_a_step, 0, signal.SIGSTOP),
        ("stands still (SIGSTOP)", in_a_step, 1, signal.SIGSTOP),
    ):
        with run.start() as started:
            expect(wait(started, rng), started.said())
            loss = lose(started, victim, by)
        expect(
            loss.code == 75 and loss.last_line == f"error: {distributed.PEER_LOST}",
            f"{loss}\n{started.said(1 - victim)}",
        )
        expect(not run.damaged(), f"{moment}: {run.damaged()}")
        longest = max(longest, loss.seconds)
        yield f"| {moment} | {victim} | {loss.seconds:.1f} | {loss.code} | `{loss.last_line[:60]}...` |"
    run.finish()
    expect(run.trajectory() == reference.trajectory(), "another trajectory")
    expect(same(run.final_arrays("code"), final), "other parameters")
    yield ""
    yield from prose(f"""
        The longest took {longest:.1f} s (a process without a sign of life for {distributed.HEARTBEAT_SECONDS} s is
        taken for dead). The run was then finished, and equals that of two processes of which none was lost.
    """)
    signalled = two_processes(options, folder / "signalled")
    with signalled.start() as started:
        expect(started.until_step(options.steps // 6), started.said())
        started.children[1].send_signal(signal.SIGTERM)
        codes = started.wait(120)
    expect(codes == [75, 75], f"{codes}\n{started.said()}")
    saved = signalled.last_saved("code")
    expect(saved == signalled.last_step("code"), f"saved at {saved}, logged {signalled.last_step('code')}")
    signalled.finish()
    expect(signalled.trajectory() == reference.trajectory(), "another trajectory after SIGTERM")
    expect(same(signalled.final_arrays("code"), final), "other parameters after SIGTERM")
    yield from prose(f"""
        SIGTERM to process 1 alone: both saved at step {saved}, and ended with exit code 75. Started again, the run
        equals the same reference.
    """)


# ---------------------------------------------------------------- damage


CODE = ["--gin_file=gin/code.gin", *CASCADE[1:]]


def code_run(options: argparse.Namespace, folder: Path) -> Run:
    """A run of code training alone, a third as long."""
    return Run(folder, [flag.format(code=options.steps // 3, lcft=1) for flag in CODE])


def flipped(file: Path, rng: random.Random) -> str:
    content = bytearray(file.read_bytes())
    at, bit = rng.randrange(len(content)), rng.randrange(8)
    content[at] ^= 1 << bit
    file.write_bytes(content)
    return f"bit {bit} of byte {at:,}"


def cut_short(file: Path, rng: random.Random) -> str:
    kept = rng.randrange(file.stat().st_size)
    os.truncate(file, kept)
    return f"the first {kept:,} bytes left"


def taken_away(file: Path, rng: random.Random) -> str:
    file.unlink()
    return "gone"


DAMAGES: list[tuple[Callable[[Path, random.Random], str], str, int]] = [
    (flipped, "a bit flipped", 20),
    (cut_short, "cut short", 5),
    (taken_away, "missing", 5),
]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def some_file(checkpoint: Path, rng: random.Random) -> Path:
    """One of its files, in proportion to their sizes."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.stat().st_size)
    return rng.choices(files, [file.stat().st_size for file in files])[0]


def restored(stage_dir: Path) -> str | None:
    """Reads the newest checkpoint as train.py does; returns the error line, None if there is nothing wrong."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from codellama_jax.config.model import Llama
    from codellama_jax.sharding import make_mesh
    from codellama_jax.training.checkpoints import StageCheckpoints, read_metadata
    from codellama_jax.training.initialization import restored_state

    config = gin_files.load([str(stage_dir / "config.gin")], []).resolve()
    saves = StageCheckpoints(stage_dir, config.checkpoints)
    step = saves.latest()
    expect(step is not None, f"no checkpoint in {stage_dir}")
    try:
        whole = saved_steps(stage_dir)[0]  # the shape, from a checkpoint that nobody has touched
        llama = Llama(**read_metadata(saves.directory / str(whole))["llama"])
        restored_state(saves, step, llama, config.stage, config.adamw, make_mesh(config.mesh))
    except UserError as error:
        return str(error)
    finally:
        saves.close()
    return None


def error_line(seen: str) -> str:
    """The one line that says what is wrong."""
    errors = [line for line in seen.splitlines() if "error" in line.lower() or "Traceback" in line]
    expect(len(errors) == 1 and errors[0].startswith("error: "), seen)
    return errors[0]


def damage(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    rng = random.Random(options.seed)
    reference, original = (code_run(options, folder / name) for name in ("reference", "original"))
    reference.finish()
    with original.start() as started:
        expect(started.until_step(options.steps // 6), started.said())
        started.children[0].terminate()
        expect(started.wait(60) == [75], started.said())
    steps = saved_steps(original.folder / "code")
    newest, before = steps[-1], steps[-2]
    offer = f"step {before} is intact: move {newest} away and run the same command again to resume from it"
    expect(restored(original.folder / "code") is None, "the copy that nobody has touched")
    yield "## Damage"
    yield ""
    yield from prose(f"""
        Copies of a run that was stopped at step {newest}; files are drawn in proportion to their sizes. Named: the
        error has the file's name, and says that step {before} is intact and how to resume from it. Nothing was written
        in any copy.
    """)
    yield "| damage to the newest checkpoint | times | found and named |"
    yield "|---|---|---|"
    for damage_it, name, times in DAMAGES:
        for _ in range(times):
            copy = folder / "copy"
            shutil.copytree(original.folder / "code", copy)
            checkpoint = copy / "checkpoints" / str(newest)
            file = some_file(checkpoint, rng)
            what = damage_it(file, rng)
            if file.name == checksums.NAME and not file.exists():
                shutil.rmtree(copy)
                continue  # then it counts as a checkpoint of a time when there were none
            left = digests(copy)
            error = restored(copy) or ""
            named = str(file.relative_to(checkpoint)) in error and offer in error
            expect(named, f"{file}, {what}: {error or 'nothing was found'}")
            expect(digests(copy) == left, f"{file}, {what}: something was written")
            shutil.rmtree(copy)
        yield f"| {name} | {times} | {times} |"
    yield ""
    yield from prose("""
        With the command itself (each ended with exit code 1 and one error line; then the offer was followed, the folder
        moved away, and the run finished as the one that nobody had touched):
    """)
    for number, (damage_it, name, _) in enumerate(DAMAGES):
        run = dataclasses.replace(original, run_dir=folder / f"damaged{number}")
        shutil.copytree(original.run_dir, run.run_dir)
        checkpoint = run.folder / "code" / "checkpoints" / str(newest)
        file = some_file(checkpoint, rng)
        damage_it(file, rng)
        error = error_line(run.finish(code=1))
        expect(str(file.relative_to(checkpoint)) in error and offer in error, error)
        checkpoint.rename(run.run_dir / "moved")
        run.finish()
        expect(run.trajectory() == reference.trajectory(), f"{name}: another trajectory")
        yield f"- {name}: `{error.replace(str(folder), '')}`"
    yield ""
    yield from disks(options, folder, reference)


def disks(options: argparse.Namespace, folder: Path, reference: Run) -> Iterator[str]:
    """A disk of memory, that can be full and read-only for root as well."""
    yield "### Disks"
    yield ""
    disk = folder / "disk"
    disk.mkdir(parents=True)
    size = sum(file.stat().st_size for file in newest_checkpoint(reference).rglob("*") if file.is_file())
    small, large = 5 * size // 2, 100 * size
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={small}", "tmpfs", disk], capture_output=True).returncode:
        yield "Left out: mounting a disk is not permitted here."
        return
    yield from prose(f"""
        A tmpfs with room for two and a half checkpoints of {size / 1e6:.1f} MB. Each time: exit code 1, one error line,
        every checkpoint that counts as whole is; then the cause was removed, and the same command went on. At the end
        the run equals the reference.
    """)
    run = code_run(options, disk / "runs")
    mounted = [disk]
    try:
        # full: with its own saves
        errors = {"full, of saves": run.finish(code=1)}
        expect(run.last_saved("code") and not run.damaged(), f"{run.damaged()}")
        remount(disk, f"size={large}")
        expect(stopped_further_on(run), "did not go on")

        # full: not a byte left for a line of metrics
        filler, step = disk / "filler", run.last_step("code")
        with run.start() as started:
            expect(started.until_step(step + 2), started.said())
            fill(filler)
            expect(started.wait(60) == [1], started.said())
            errors["full, of others' files"] = started.said()
        expect(not run.damaged(), f"{run.damaged()}")
        expect(run.finish(code=1) and not run.damaged(), f"{run.damaged()}")  # and it stays so
        filler.unlink()

        # read-only from the start
        remount(disk, "ro")
        left = digests(run.folder)
        errors["read-only"] = Run(run.run_dir, run.flags).finish(code=1)
        expect(digests(run.folder) == left, "something was written")
        remount(disk, "rw")

        # read-only from some moment on: mounted over, for what is open keeps a disk from being made so
        saves, step = run.folder / "code" / "checkpoints", run.last_step("code")
        with run.start() as started:
            expect(started.until_step(step + 2), started.said())
            subprocess.run(["mount", "--bind", saves, saves], check=True)
            mounted.append(saves)
            remount(saves, "ro,bind")
            expect(started.wait(60) == [1], started.said())
            errors["read-only from a step on"] = started.said()
        expect(not run.damaged(), f"{run.damaged()}")
        subprocess.run(["umount", mounted.pop()], check=True)
        run.finish()
        expect(run.trajectory() == reference.trajectory(), "another trajectory")
    finally:
        for path in reversed(mounted):
            subprocess.run(["umount", "--lazy", path], check=True)
    for name, seen in errors.items():
        yield f"- {name}: `{error_line(seen).replace(str(disk), '')}`"


def newest_checkpoint(run: Run) -> Path:
    return run.folder / "code" / "checkpoints" / str(run.last_saved("code"))


def remount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", path], check=True)


def stopped_further_on(run: Run) -> bool:
    """Starts the run, and stops it when it has gone on from where it was."""
    step = run.last_step("code")
    with run.start() as started:
        started.until_step(step + 2)
        started.children[0].terminate()
        return started.wait(60) == [75]


def fill(file: Path) -> None:
    with contextlib.suppress(OSError), file.open("wb") as out:
        while True:
            out.write(bytes(1 << 12))
            out.flush()


# ---------------------------------------------------------------- saving


LARGE = ["--gin_file=gin/code.gin", "--gin.Llama.dim=640", "--gin.Llama.heads=10", "--gin.Llama.kv_heads=10"]
LARGE += ["--gin.Llama.ffn_dim=1728", "--gin.Llama.layers={layers}", "--gin.CODE_STEPS={steps}"]
LARGE += ["--gin.CODE_LENGTH=256", "--gin.CODE_BATCH_TOKENS=1_024", "--gin.Checkpoints.every={every}"]
LARGE += ["--gin.Checkpoints.keep=1", "--gin.Checkpoints.keep_best=False", "--gin.Evaluation.every=1_000"]
LARGE += ["--gin.Evaluation.batches=1", "--gin.Evaluation.context_windows=0", "--gin.Evaluation.samples=0"]
EVERY, SAVES = 6, 5


def saving(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    values = {"layers": options.layers, "steps": EVERY * SAVES, "every": EVERY}
    run = Run(folder / "runs", [flag.format(**values) for flag in LARGE])
    run.finish(timeout=1800)
    of_run = {line["step"]: line for line in lines(run.folder / "code" / "metrics.jsonl")}
    state = run.final_arrays()
    size = sum(array.nbytes for array in state.values())
    copies = copy_seconds(state)
    copy = statistics.median(copies)
    # by steps since the save: 0 is the one that starts it; the first steps compile, and the last save is waited for
    seconds = {
        since: [of_run[step]["seconds"] for step in range(EVERY + since, EVERY * SAVES, EVERY)]
        for since in range(EVERY)
    }
    kept = [of_run[step + 1]["save_seconds"] for step in range(EVERY, EVERY * SAVES, EVERY)]
    starts = [step + save for step, save in zip(seconds[0], kept, strict=True)]
    before = seconds[EVERY - 1]
    bound = 1.3 * statistics.median(before) + copy
    yield "## Saving"
    yield ""
    parameters = sum(array.size for name, array in state.items() if name.startswith("params"))
    yield from prose(f"""
        {parameters / 1e6:.0f} million parameters; a save is {size / 1e6:,.0f} MB, every {EVERY} steps of 1,024 tokens;
        {len(kept)} saves. A copy of the state's arrays takes {copy:.2f} s on this machine at rest (median of
        {len(copies)}, {size / copy / 1e9:.1f} GB/s).
    """)
    yield "| step | median seconds | least .. most |"
    yield "|---|---|---|"
    yield f"| ordinary: the one before the next save | {spread(before)}"
    yield f"| that starts a save, the save included | {spread(starts)}"
    yield f"| - of it, the loop kept by the save | {spread(kept)}"
    for since in range(1, EVERY - 1):
        yield f"| {since} after it | {spread(seconds[since])}"
    yield ""
    met = "met" if statistics.median(starts) <= bound else "NOT met"
    yield from prose(f"""
        Bound: 1.3 ordinary steps and the copy, {bound:.2f} s: {met} ({statistics.median(starts):.2f} s).
    """)


def copy_seconds(state: dict[str, np.ndarray]) -> list[float]:
    """What it takes to copy these arrays from a device, five times."""
    import jax

    placed = jax.block_until_ready(jax.device_put(state))
    found = []
    for _ in range(5):
        began = time.perf_counter()
        kept = [np.array(array, copy=True) for array in placed.values()]
        found.append(time.perf_counter() - began)
        del kept
    return found


PARTS: dict[str, Callable[[argparse.Namespace, Path], Iterator[str]]] = {
    "kills": kills,
    "two": two,
    "damage": damage,
    "saving": saving,
}

if __name__ == "__main__":
    sys.exit(main())
