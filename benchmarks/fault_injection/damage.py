"""Damages checkpoints: checks that the damage is detected, and that a run resumes from the previous checkpoint."""

import argparse
import dataclasses
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from result_file import paragraph
from runs import check, error_line, file_digests

from codellama_jax.config import gin_files
from codellama_jax.errors import UserError
from codellama_jax.runtime import checksums
from codellama_jax.runtime.run_dir import saved_steps
from fault_injection import full_disk
from fault_injection.workloads import code_training


def flip_bit(file: Path, rng: random.Random) -> str:
    content = bytearray(file.read_bytes())
    position, bit = rng.randrange(len(content)), rng.randrange(8)
    content[position] ^= 1 << bit
    file.write_bytes(content)
    return f"bit {bit} of byte {position:,}"


def truncate(file: Path, rng: random.Random) -> str:
    size = rng.randrange(file.stat().st_size)
    os.truncate(file, size)
    return f"truncated to {size:,} bytes"


def remove(file: Path, rng: random.Random) -> str:
    file.unlink()
    return "removed"


DAMAGES: list[tuple[Callable[[Path, random.Random], str], str, int]] = [
    (flip_bit, "flipped bit", 20),
    (truncate, "truncated", 5),
    (remove, "missing", 5),
]


def random_file(checkpoint: Path, rng: random.Random) -> Path:
    """A file of the checkpoint, with probability proportional to its size."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.stat().st_size)
    return rng.choices(files, [file.stat().st_size for file in files])[0]


def restore_error(stage_dir: Path) -> str | None:
    """Restores the newest checkpoint as train.py does. Returns the error message, or None if there is no error."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from codellama_jax.config.model import Llama
    from codellama_jax.sharding import make_mesh
    from codellama_jax.training.checkpoints import StageCheckpoints, read_metadata
    from codellama_jax.training.initialization import restored_state

    config = gin_files.load([str(stage_dir / "config.gin")], []).resolve()
    saves = StageCheckpoints(stage_dir, config.checkpoints)
    step = saves.latest()
    check(step is not None, f"no checkpoint in {stage_dir}")
    try:
        undamaged = saved_steps(stage_dir)[0]  # the shape is read from an undamaged checkpoint
        llama = Llama(**read_metadata(saves.directory / str(undamaged))["llama"])
        restored_state(saves, step, llama, config.stage, config.adamw, make_mesh(config.mesh))
    except UserError as error:
        return str(error)
    finally:
        saves.close()
    return None


def section(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines of this part of the result file."""
    rng = random.Random(options.seed)
    reference, original = (code_training(options.steps // 3, folder / name) for name in ("reference", "original"))
    reference.finish()
    with original.start() as started:
        check(started.until_step(options.steps // 6), started.output())
        started.children[0].terminate()
        check(started.wait(60) == [75], started.output())
    steps = saved_steps(original.folder / "code")
    newest, before = steps[-1], steps[-2]

    def named(file: Path, error: str) -> bool:
        """Whether the error names the damaged file and the previous step, and states how to resume from that step."""
        return str(file) in error and f"step {before} is" in error and f"move {newest} away and run the same" in error

    check(restore_error(original.folder / "code") is None, "the undamaged copy")
    yield "## Damage"
    yield ""
    yield from paragraph(f"""
        Each row damages copies of a run that was stopped at step {newest}, in files drawn with probability proportional
        to their size. Detected and named: the error names the file, and states that step {before} is complete and how
        to resume from it. Nothing was written to any copy.
    """)
    yield "| damage to the newest checkpoint | times | detected and named |"
    yield "|---|---|---|"
    for inject, name, times in DAMAGES:
        for _ in range(times):
            copy = folder / "copy"
            shutil.copytree(original.folder / "code", copy)
            checkpoint = copy / "checkpoints" / str(newest)
            file = random_file(checkpoint, rng)
            change = inject(file, rng)
            if file.name == checksums.NAME and not file.exists():
                shutil.rmtree(copy)
                continue  # without checksums it counts as a checkpoint of an older version
            damaged = file_digests(copy)
            error = restore_error(copy) or ""
            check(named(file.relative_to(checkpoint), error), f"{file}, {change}: {error or 'not detected'}")
            check(file_digests(copy) == damaged, f"{file}, {change}: something was written")
            shutil.rmtree(copy)
        yield f"| {name} | {times} | {times} |"
    yield ""
    yield from paragraph("""
        The same with the train command: each run ended with exit code 1 and one error line. After the folder was moved
        away, as the error advises, the run finished with the result of the undamaged run:
    """)
    for number, (inject, name, _) in enumerate(DAMAGES):
        run = dataclasses.replace(original, run_dir=folder / f"damaged{number}")
        shutil.copytree(original.run_dir, run.run_dir)
        checkpoint = run.folder / "code" / "checkpoints" / str(newest)
        file = random_file(checkpoint, rng)
        inject(file, rng)
        error = error_line(run.finish(code=1))
        check(named(file.relative_to(checkpoint), error), error)
        checkpoint.rename(run.run_dir / "moved")
        run.finish()
        check(run.trajectory() == reference.trajectory(), f"{name}: different trajectory")
        yield f"- {name}: `{error.replace(str(folder), '')}`"
    yield ""
    yield from full_disk.section(options.steps // 3, folder, reference)
