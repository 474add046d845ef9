"""The ledger of a build: its parameters and which of its steps are finished, so that a stopped build can resume.

    OUT/.steps/build.json              the parameters and their digest
    OUT/.steps/signatures/...          the output of a step
    OUT/.steps/signatures/done.json    exists when the step is finished: its counters

A step without done.json is run again from its start. The output of a step is a function of the parameters, so a resumed
build gives the same bytes as one that was not interrupted.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from codellama_jax.config.curation import Build, Decontamination
from codellama_jax.config.run import current_name
from codellama_jax.errors import UserError
from codellama_jax.runtime.filesystem import is_remote
from tasks.curation import storage
from tasks.curation.counters import Counters
from tasks.curation.engine import Engine
from tasks.curation.inputs import Inputs
from tasks.curation.units import Unit
from tasks.sources import manifest

STEPS, DONE = ".steps", "done.json"
FIRST_STEP = "read"
FORMAT = 2  # of the output of steps: a build of another format is not resumed

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class Ledger:
    """The state of a build, which is passed to its steps.

    Attributes:
        out: the output folder.
        inputs: the source of the documents.
        settings, decontamination: how the training set is built.
        parameters: everything that determines the result, as JSON values.
        engine: runs the pipelines.
        units: the units of the source.
        counters: the counters of the finished steps, by name of the step.
    """

    out: str
    inputs: Inputs
    settings: Build
    decontamination: Decontamination
    parameters: dict[str, Any]
    engine: Engine
    units: list[Unit]
    counters: dict[str, Counters] = dataclasses.field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of the parameters."""
        return hashlib.sha256(json.dumps(self.parameters, sort_keys=True).encode()).hexdigest()

    def folder(self, step: str) -> str:
        """The output folder of a step."""
        return storage.join(self.out, STEPS, step)

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Claims the output folder for this build. A local folder stays locked against other processes until the exit.

        Raises:
            UserError: the folder contains something else, or another process is building into it.
        """
        if is_remote(self.out):
            self._check_folder()
            yield
            return
        os.makedirs(self.folder(""), exist_ok=True)
        lock = os.open(self.folder("lock"), os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._check_folder()
            yield
        except BlockingIOError:
            raise UserError(f"another process is building into {self.out}: wait for it, or use another --out") from None
        finally:
            os.close(lock)

    def _check_folder(self) -> None:
        path = self.folder("build.json")
        if (data := storage.read(path)) is not None:
            record = json.loads(data)
            if record["digest"] == self.digest:
                return
            markers = storage.join(self.folder(FIRST_STEP), DONE), storage.join(self.out, manifest.NAME)
            if any(map(storage.exists, markers)):
                changed = ", ".join(_differences(record["parameters"], self.parameters))
                raise UserError(f"{self.out} contains another build ({changed}): use another --out, or remove it")
            storage.remove_tree(self.folder(FIRST_STEP))  # no step is finished: this build may take over the folder
        elif names := [name for name in storage.list_folder(self.out) if not name.startswith(".")]:
            raise UserError(f"{self.out} contains other files ({names[0]}): use another --out")
        record = {"digest": self.digest, "parameters": self.parameters}
        storage.write(path, json.dumps(record, indent=1, sort_keys=True).encode())

    def step(
        self, number: int, of: int, name: str, description: str, run: Callable[["Ledger", str], Counters]
    ) -> Counters:
        """Runs a step unless it is finished, logs a line, and returns the step's counters."""
        folder = self.folder(name)
        path = storage.join(folder, DONE)
        line = f"[{number}/{of}] {description}"
        if (data := storage.read(path)) is not None:
            record = json.loads(data)
            _log.info("%s: already finished", line)
        else:
            storage.remove_tree(folder)
            begin = time.monotonic()
            counters = run(self, folder)
            seconds = time.monotonic() - begin
            # the key in the folders of existing builds
            record = {"digest": self.digest, "seconds": seconds, "tally": counters.to_json()}  # codespell:ignore tally
            storage.write(path, json.dumps(record, indent=1).encode())
            _log.info("%s: %.1f s", line, record["seconds"])
        self.counters[name] = counters = Counters.from_json(record["tally"])  # codespell:ignore tally
        return counters

    def pass_folders(self, step: str) -> list[str]:
        """The folders of a step's passes."""
        folder = self.folder(step)
        return [storage.join(folder, name) for name in storage.list_folder(folder) if name.startswith("pass-")]


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """How two sets of parameters differ: "Build.seed: 0 in the folder, 1 now"."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{current_name(name)}: {old} in the folder, {new} now"
