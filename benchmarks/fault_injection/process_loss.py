"""Runs of two processes: one of them is killed, stopped or signalled."""

import argparse
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from result_file import paragraph
from runs import Started, check, same

from codellama_jax.runtime import distributed
from fault_injection.kills import during_save, during_step
from fault_injection.workloads import two_processes


class Loss(NamedTuple):
    """The reaction of the other process: seconds until it ended, its exit code, its last line of output."""

    seconds: float
    code: int
    last_line: str


def lose(started: Started, victim: int, by: signal.Signals) -> Loss:
    """Sends a signal to one of two processes and waits for the other to end."""
    start = time.monotonic()
    started.children[victim].send_signal(by)
    code = started.children[1 - victim].wait(4 * distributed.HEARTBEAT_SECONDS)
    return Loss(time.monotonic() - start, code, started.output(1 - victim).rstrip().rpartition("\n")[2])


def section(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines of this part of the result file."""
    steps = options.steps // 3
    reference = two_processes(steps, folder / "reference")
    reference.finish()
    final = reference.final_arrays("code")
    rng = random.Random(options.seed)
    run = two_processes(steps, folder / "killed")
    yield "## Two processes with four devices each, over loopback"
    yield ""
    yield from paragraph(f"""
        A run of code training ({steps} steps, saving every 8). One of the processes is lost. When the other has ended,
        both are started again with the same command.
    """)
    yield "| lost | process | seconds until the other ended | its exit code | its last line |"
    yield "|---|---|---|---|---|"
    longest = 0.0
    for moment, wait, victim, by in (
        ("killed during a step", during_step, 0, signal.SIGKILL),
        ("killed during a step", during_step, 1, signal.SIGKILL),
        ("killed during a save", during_save, 0, signal.SIGKILL),
        ("killed during a save", during_save, 1, signal.SIGKILL),
        ("stopped (SIGSTOP)", during_step, 0, signal.SIGSTOP),
        ("stopped (SIGSTOP)", during_step, 1, signal.SIGSTOP),
    ):
        with run.start() as started:
            check(wait(started, rng), started.output())
            loss = lose(started, victim, by)
        check(
            loss.code == 75 and loss.last_line == f"error: {distributed.PEER_LOST}",
            f"{loss}\n{started.output(1 - victim)}",
        )
        check(not run.damaged(), f"{moment}: {run.damaged()}")
        longest = max(longest, loss.seconds)
        yield f"| {moment} | {victim} | {loss.seconds:.1f} | {loss.code} | `{loss.last_line[:60]}...` |"
    run.finish()
    check(run.trajectory() == reference.trajectory(), "different trajectory")
    check(same(run.final_arrays("code"), final), "different parameters")
    yield ""
    yield from paragraph(f"""
        The longest reaction took {longest:.1f} s (a process without a heartbeat for {distributed.HEARTBEAT_SECONDS} s
        counts as lost). The run was then resumed and finished; its result equals that of two processes without a loss.
    """)
    signalled = two_processes(steps, folder / "signalled")
    with signalled.start() as started:
        check(started.until_step(options.steps // 6), started.output())
        started.children[1].send_signal(signal.SIGTERM)
        codes = started.wait(120)
    check(codes == [75, 75], f"{codes}\n{started.output()}")
    saved = signalled.last_saved("code")
    check(saved == signalled.last_step("code"), f"saved at {saved}, logged {signalled.last_step('code')}")
    signalled.finish()
    check(signalled.trajectory() == reference.trajectory(), "different trajectory after SIGTERM")
    check(same(signalled.final_arrays("code"), final), "different parameters after SIGTERM")
    yield from paragraph(f"""
        SIGTERM to process 1 only: both processes saved at step {saved} and ended with exit code 75. After the run was
        started again, its result equals the same reference.
    """)
