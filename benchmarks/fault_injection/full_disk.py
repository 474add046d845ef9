"""A disk that becomes full or read-only during a run. It is a tmpfs, which can be both even for root."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from result_file import paragraph
from runs import Run, check, error_line, file_digests

from fault_injection.workloads import code_training


def section(steps: int, folder: Path, reference: Run) -> Iterator[str]:
    """The lines of this part of the result file."""
    yield "### Disks"
    yield ""
    disk = folder / "disk"
    disk.mkdir(parents=True)
    size = sum(file.stat().st_size for file in _newest_checkpoint(reference).rglob("*") if file.is_file())
    small, large = 5 * size // 2, 100 * size
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={small}", "tmpfs", disk], capture_output=True).returncode:
        yield "Skipped: mounting a disk is not permitted here."
        return
    yield from paragraph(f"""
        A tmpfs with room for two and a half checkpoints of {size / 1e6:.1f} MB. Each time the run ended with exit code
        1 and one error line, and all complete checkpoints were undamaged. After the cause was removed, the same command
        resumed the run. The final result equals that of the reference.
    """)
    run = code_training(steps, disk / "runs")
    mounted = [disk]
    try:
        # full because of the run's own saves
        errors = {"full because of saves": run.finish(code=1)}
        check(run.last_saved("code") and not run.damaged(), f"{run.damaged()}")
        _remount(disk, f"size={large}")
        check(_resumes(run), "did not resume")

        # full because of other files: there is no space for a line of metrics
        filler, step = disk / "filler", run.last_step("code")
        with run.start() as started:
            check(started.until_step(step + 2), started.output())
            _fill(filler)
            check(started.wait(60) == [1], started.output())
            errors["full because of other files"] = started.output()
        check(not run.damaged(), f"{run.damaged()}")
        check(run.finish(code=1) and not run.damaged(), f"{run.damaged()}")  # again, while the disk is full
        filler.unlink()

        # read-only from the start
        _remount(disk, "ro")
        before = file_digests(run.folder)
        errors["read-only"] = Run(run.run_dir, run.flags).finish(code=1)
        check(file_digests(run.folder) == before, "something was written")
        _remount(disk, "rw")

        # read-only after a step, by a bind mount: a disk with files open for writing cannot be remounted read-only
        saves, step = run.folder / "code" / "checkpoints", run.last_step("code")
        with run.start() as started:
            check(started.until_step(step + 2), started.output())
            subprocess.run(["mount", "--bind", saves, saves], check=True)
            mounted.append(saves)
            _remount(saves, "ro,bind")
            check(started.wait(60) == [1], started.output())
            errors["read-only after a step"] = started.output()
        check(not run.damaged(), f"{run.damaged()}")
        subprocess.run(["umount", mounted.pop()], check=True)
        run.finish()
        check(run.trajectory() == reference.trajectory(), "different trajectory")
    finally:
        for path in reversed(mounted):
            subprocess.run(["umount", "--lazy", path], check=True)
    for name, output in errors.items():
        yield f"- {name}: `{error_line(output).replace(str(disk), '')}`"


def _newest_checkpoint(run: Run) -> Path:
    return run.folder / "code" / "checkpoints" / str(run.last_saved("code"))


def _remount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", path], check=True)


def _resumes(run: Run) -> bool:
    """Starts the run and stops it two steps later; returns whether it ended with exit code 75."""
    step = run.last_step("code")
    with run.start() as started:
        started.until_step(step + 2)
        started.children[0].terminate()
        return started.wait(60) == [75]


def _fill(file: Path) -> None:
    with contextlib.suppress(OSError), file.open("wb") as out:
        while True:
            out.write(bytes(1 << 12))
            out.flush()
