"""A build: what goes in, its parameters, and the ledger of its steps, by which a killed build goes on.

    OUT/.steps/build.json             the parameters and their digest
    OUT/.steps/signatures/...      what a step writes
    OUT/.steps/signatures/done.json    there when the step is finished: its counts

A step without done.json is begun anew. What a step writes is a function of the parameters, so nothing tells afterwards
that a build was killed.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from codellama_jax.config.curation import Build, Decontamination
from codellama_jax.config.data import Corpus, Filters
from codellama_jax.errors import UserError
from tasks import sources
from tasks.curation import storage
from tasks.curation.counters import Counters
from tasks.curation.engine import Engine
from tasks.sources import manifest
from tasks.sources.base import Source
from tasks.sources.files import is_remote
from tasks.sources.record_formats import is_record_file

STEPS, DONE = ".steps", "done.json"
FIRST = "read"  # step
FORMAT = 1  # of what steps write: a build of another one is not gone on with
# A unit of the input is read by one worker: so many of them at least, where there are as many pieces, and of no more
# pieces than this.
UNITS, PIECES = 64, 256


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What documents are read from; travels to workers, which open it themselves.

    Attributes:
        stream: whose kind the documents are: code, python, nl_code or nl.
        fingerprint: of the source as it was when the build began.
        imports: modules that register SeqIO tasks; worker processes import them too.
    """

    stream: str
    corpus: Corpus
    filters: Filters
    fingerprint: str = ""
    imports: tuple[str, ...] = ()

    def open(self) -> Source:
        """All documents, of both splits.

        Raises:
            UserError: it cannot be read, or is no longer what it was.
        """
        whole = dataclasses.replace(
            self.corpus, validation_share=0.0, document_characters=None, group_by_repository=False
        )
        sources.import_modules(self.imports)
        source = sources.open(whole.paths(self.stream), self.stream, "train", whole, self.filters)
        if self.fingerprint and source.fingerprint() != self.fingerprint:
            raise UserError(f"{self.place} has changed since the build began: build into a new --out")
        return source

    @property
    def folders(self) -> tuple[str, ...]:
        """The places of the source, those that may be folders of files."""
        places = getattr(self.corpus, self.stream) or ()
        found = (places,) if isinstance(places, str) else tuple(places)
        return tuple(
            place for place in found if not is_record_file(place) and not place.startswith(("tfds:", "seqio:"))
        )

    @property
    def place(self) -> str:
        """How a person names the source."""
        places = getattr(self.corpus, self.stream)
        return "the embedded corpus" if places is None else places if isinstance(places, str) else ", ".join(places)


@dataclasses.dataclass(frozen=True)
class Unit:
    """Consecutive pieces of the source; what one is read from, and where its documents are in every step."""

    number: int
    begin: int
    end: int

    @property
    def file(self) -> str:
        """Name of its file in a step's folder."""
        return f"unit-{self.number:06d}.parquet"


def units(pieces: int) -> list[Unit]:
    """The units of a source of so many pieces."""
    count = min(pieces, max(UNITS, -(-pieces // PIECES)))
    return [Unit(n, pieces * n // count, pieces * (n + 1) // count) for n in range(count)]


@dataclasses.dataclass
class Ledger:
    """Attributes:
    out: the build's folder.
    inputs: what it is made of.
    settings, evidence: how.
    parameters: all that shapes the result, as JSON has it.
    engine: runs the pipelines.
    units: of the source.
    say: takes a line for the user.
    """

    out: str
    inputs: Inputs
    settings: Build
    decontamination: Decontamination
    parameters: dict[str, Any]
    engine: Engine
    units: list[Unit]
    say: Callable[[str], None]
    tallies: dict[str, Counters] = dataclasses.field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of the parameters."""
        return hashlib.sha256(json.dumps(self.parameters, sort_keys=True).encode()).hexdigest()

    def folder(self, step: str) -> str:
        """Where a step writes."""
        return storage.join(self.out, STEPS, step)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Makes the folder this build's, and keeps other processes of this machine out.

        Raises:
            UserError: it holds something else, or another process builds into it.
        """
        if is_remote(self.out):
            self._claim()
            yield
            return
        os.makedirs(self.folder(""), exist_ok=True)
        lock = os.open(self.folder("lock"), os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._claim()
            yield
        except BlockingIOError:
            raise UserError(f"another process builds into {self.out}: wait for it, or name another --out") from None
        finally:
            os.close(lock)

    def _claim(self) -> None:
        path = self.folder("build.json")
        if (data := storage.read(path)) is not None:
            there = json.loads(data)
            if there["digest"] == self.digest:
                return
            finished = storage.join(self.folder(FIRST), DONE), storage.join(self.out, manifest.NAME)
            if any(map(storage.exists, finished)):
                changed = ", ".join(_differences(there["parameters"], self.parameters))
                raise UserError(f"{self.out} holds another build ({changed}): name another --out, or remove it")
            storage.remove(self.folder(FIRST))  # begun, and nothing of it is finished: this one may have the folder
        elif found := [name for name in storage.names(self.out) if not name.startswith(".")]:
            raise UserError(f"{self.out} holds other files ({found[0]}): name another --out")
        record = {"digest": self.digest, "parameters": self.parameters}
        storage.write(path, json.dumps(record, indent=1, sort_keys=True).encode())

    def step(self, number: int, of: int, name: str, what: str, run: Callable[["Ledger", str], Counters]) -> Counters:
        """Runs a step, unless it is finished; says so in a line."""
        folder = self.folder(name)
        path = storage.join(folder, DONE)
        line = f"[{number}/{of}] {what}"
        if (data := storage.read(path)) is not None:
            record = json.loads(data)
            self.say(f"{line}: finished before")
        else:
            storage.remove(folder)
            begin = time.monotonic()
            tally = run(self, folder)
            record = {"digest": self.digest, "seconds": time.monotonic() - begin, "tally": tally.as_json()}
            storage.write(path, json.dumps(record, indent=1).encode())
            self.say(f"{line}: {record['seconds']:.1f} s")
        self.tallies[name] = tally = Counters.of_json(record["tally"])
        return tally

    def passes(self, step: str) -> list[str]:
        """The folders of a step's passes."""
        folder = self.folder(step)
        return [storage.join(folder, name) for name in storage.names(folder) if name.startswith("pass-")]


def _differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """Where two parameters differ: "Build.seed: 0 there, 1 here"."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            yield from _differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        yield f"{name}: {there} there, {here} here"
