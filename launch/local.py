"""Runs a job on this machine, as a process of its own."""

import os
import signal
import subprocess
import sys
from types import FrameType

from launch.job import ROOT, Job


def command(job: Job) -> list[str]:
    """The command line of the job's process."""
    return [sys.executable, "-m", "codellama_jax.train", *job.arguments]


def run(job: Job) -> tuple[int, bool]:
    """Runs the job to its end; returns its exit code, and whether a signal asked to stop meanwhile.

    Signals that ask this process to stop are handed to the job, each once, and it ends as it sees fit: by saving.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"CODELLAMA_JAX_LAUNCHER": str(os.getpid()), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    environment["PYTHONSAFEPATH"] = "1"  # a folder named tasks where the user stands is not ours
    asked = False
    # A session of its own: a Ctrl-C on the terminal would otherwise reach the job twice, which means "at once".
    process = subprocess.Popen(command(job), env=environment, start_new_session=True)

    def forward(number: int, _: FrameType | None) -> None:
        nonlocal asked
        asked = True
        process.send_signal(number)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, forward) for number in signals}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return (code if code >= 0 else 128 - code), asked  # killed by a signal: as a shell reports it
