"""The whole build: its steps in order, then the manifest and the report."""

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Callable, Sequence
from typing import Any

from codellama_jax import program
from codellama_jax.tokenizer import Tokenizer
from tasks.build import manifest, storage
from tasks.build.config import Build
from tasks.build.engine import Engine
from tasks.build.job import FORMAT, Inputs, Job, units
from tasks.build.steps import arrange, buckets, components, edges, exact, near, read, shards, signatures
from tasks.build.tally import Tally
from tasks.config import Corpus, Filters

Step = Callable[[Job, str], Tally]
# What does not shape a build's result.
_NO_MATTER = ("memory",)


def build(
    stream: str,
    *,
    out: str,
    corpus: Corpus,
    filters: Filters,
    build: Build,
    tokenizer: Tokenizer,
    against: Sequence[str],
    workers: int,
    arguments: Sequence[str],
    keep_steps: bool,
    say: Callable[[str], None],
) -> None:
    """Builds into a folder, or goes on with what a killed build left there.

    Args:
        stream: whose kind the documents are.
        out: the folder, local or in a store.
        corpus, filters, build: what is read, left out, and how it is built.
        tokenizer: that counts tokens.
        against: files of problems that the documents must not contain.
        workers: processes on this machine.
        arguments: flags of Beam.
        keep_steps: whether what the steps wrote stays.
        say: takes a line for the user.

    Raises:
        UserError: the source, the folder, a flag or a file cannot be used.
    """
    engine = Engine(workers, arguments, build.memory)
    inputs = Inputs(stream, corpus, filters)
    source = inputs.open()
    inputs = dataclasses.replace(inputs, fingerprint=source.fingerprint())
    parameters: dict[str, Any] = {
        "format": FORMAT,
        "source": inputs.fingerprint,
        "stream": stream,
        "tokenizer": tokenizer.fingerprint,
        "Build": {name: value for name, value in dataclasses.asdict(build).items() if name not in _NO_MATTER},
    }
    job = Job(out, inputs, build, parameters, engine, units(len(source)), say)
    job.claim()
    steps: list[tuple[str, str, Step]] = [
        ("read", "read and filtered", lambda job, folder: read.run(job, folder, tokenizer.model)),
        ("exact", "exact duplicates", exact.run),
    ]
    removals = {"exact_duplicate": exact.NAME}
    if build.near:
        steps += [
            ("signatures", "near-duplicates: signatures", signatures.run),
            ("buckets", "near-duplicates: buckets", buckets.run),
            ("edges", "near-duplicates: comparison", edges.run),
            ("components", "near-duplicates: connected components", components.run),
            ("near", "near-duplicates: choice", near.run),
        ]
        removals[near.REASON] = near.NAME
    steps += [
        ("arrange", "split and shuffled", lambda job, folder: arrange.run(job, folder, removals)),
        ("shards", "shards", shards.run),
    ]
    for number, (name, what, run) in enumerate(steps, 1):
        job.step(number, len(steps), name, what, run)
    entries = [entry for _, entry in job.tallies["shards"].rows.get("shards", [])]
    parts = {
        "stream": stream,
        "digest": job.digest,
        "parameters": parameters,
        "versions": _versions(),
        "shards": entries,
        "steps": {name: {"counts": dict(tally.counts)} for name, tally in job.tallies.items()},
    }
    storage.write(storage.join(out, manifest.NAME), manifest.written(parts))
    say(json.dumps(entries[:2]))


def _versions() -> dict[str, str]:
    """Of what the result may depend on."""
    packages = ("apache-beam", "numpy", "pyarrow", "sentencepiece")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"codellama_jax": program.code_version(), "python": platform.python_version(), **versions}
