"""The whole build: its steps in order, then the manifest and the report."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Sequence
from typing import Any

from codellama_jax.config.curation import Build, Decontamination, Quality
from codellama_jax.config.data import Corpus, Filters
from codellama_jax.errors import UserError
from codellama_jax.runtime import cli
from codellama_jax.tokenizer import Tokenizer
from tasks.curation import report, storage
from tasks.curation.clean import read
from tasks.curation.counters import Counters
from tasks.curation.decontaminate import step
from tasks.curation.decontaminate.problems import Problem, problems
from tasks.curation.dedup import components, exact, lsh_buckets, near, signatures, similar_pairs
from tasks.curation.dedup.keep_rule import Removals
from tasks.curation.engine import Engine
from tasks.curation.ledger import FORMAT, STEPS, Inputs, Ledger, units
from tasks.curation.summary import Summary
from tasks.curation.write import shards, shuffle_split
from tasks.sources import manifest
from tasks.sources.files import is_remote

LOG = "workers.log"  # beside the steps: what worker processes write to standard error
Step = Callable[[Ledger, str], Counters]
# What does not shape a build's result.
_NO_MATTER = ("memory",)
# Steps that give the documents to leave out, in the order in which they do; by the name of why.
_REMOVING = {exact.REASON: exact.NAME, near.REASON: near.NAME, step.REASON: step.NAME}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a build is made by.

    Attributes:
        stream: whose kind the documents are: code, python, nl_code or nl.
        corpus, filters, quality, build, evidence: what is read, what is left out, and how it is built.
        against: files of problems that the documents must not contain.
        imports: modules that register SeqIO tasks.
    """

    stream: str
    corpus: Corpus
    filters: Filters
    quality: Quality
    build: Build
    decontamination: Decontamination
    against: Sequence[str]
    imports: tuple[str, ...] = ()


def build(
    settings: Settings,
    out: str,
    tokenizer: Tokenizer,
    *,
    workers: int,
    arguments: Sequence[str],
    keep_steps: bool,
    say: Callable[[str], None],
) -> None:
    """Builds into a folder, or goes on with what a killed build left there.

    Args:
        settings: of the build.
        out: the folder, local or in a store.
        tokenizer: that counts tokens.
        workers: processes on this machine.
        arguments: flags of Beam.
        keep_steps: whether what the steps wrote stays.
        say: takes a line for the user.

    Raises:
        UserError: the source, the folder, a flag or a file cannot be used.
    """
    log = None if is_remote(out) else storage.join(out, STEPS, LOG)
    engine = Engine(workers, arguments, settings.build.memory, log)
    against = problems(settings.against)
    inputs = Inputs(settings.stream, settings.corpus, settings.filters, imports=settings.imports)
    source = inputs.open()
    inputs = dataclasses.replace(inputs, fingerprint=source.fingerprint())
    parameters = _parameters(settings, inputs, tokenizer, against)
    job = Ledger(out, inputs, settings.build, settings.decontamination, parameters, engine, units(len(source)), say)
    with contextlib.closing(engine), job.claimed():
        if storage.exists(storage.join(out, manifest.NAME)):
            say(f"{out} holds this build, finished")
            return
        rules = read.Rules(inputs, settings.quality, tuple(settings.build.redact), tokenizer.model)
        _run(job, rules, against, keep_steps)


def _run(job: Ledger, rules: read.Rules, against: Sequence[Problem], keep_steps: bool) -> None:
    """Runs the steps that are left, and writes what tells of them."""
    steps = _steps(job, rules, against)
    for number, (name, what, run) in enumerate(steps, 1):
        job.step(number, len(steps), name, what, run)
        if not (summary := Summary.of(job.tallies)).documents:
            reasons = summary.told_left_out() or "it is empty"
            raise UserError(
                f"nothing is left of {job.inputs.place}: {reasons}; change what is bound, and name a new --out"
            )
    parts = {
        "stream": job.inputs.stream,
        "digest": job.digest,
        "parameters": job.parameters,
        "versions": _versions(),
        "shards": summary.shards,
        "steps": summary.steps(),
    }
    page = report.page(job, summary)
    storage.write(storage.join(job.out, report.NAME), page.encode("utf-8", "replace"))
    storage.write(storage.join(job.out, manifest.NAME), manifest.to_bytes(parts))  # last: it says that all is there
    with contextlib.suppress(FileNotFoundError):
        os.unlink(storage.join(job.out, STEPS, LOG))
    if not keep_steps:
        for name, _, _ in steps:
            storage.remove(job.folder(name))
    for line in summary.lines(job.out):
        job.say(line)


def _steps(job: Ledger, rules: read.Rules, against: Sequence[Problem]) -> list[tuple[str, str, Step]]:
    """(name, what is said of it, how it runs) of the steps, in order."""
    steps: list[tuple[str, str, Step]] = [
        (read.NAME, "read and filtered", lambda job, folder: read.run(job, folder, rules)),
        (exact.NAME, "exact duplicates", exact.run),
    ]
    if job.settings.near:
        steps += [
            (signatures.NAME, "near-duplicates: signatures", signatures.run),
            (lsh_buckets.NAME, "near-duplicates: buckets", lsh_buckets.run),
            (similar_pairs.NAME, "near-duplicates: comparison", similar_pairs.run),
            (components.NAME, "near-duplicates: connected components", components.run),
            (near.NAME, "near-duplicates: choice", near.run),
        ]
    if against:
        look: Step = lambda job, folder: step.run(job, folder, _removals(job), against)  # noqa: E731
        steps.append((step.NAME, f"{len(against):,} evaluation problems", look))
    steps += [
        (shuffle_split.NAME, "split and shuffled", lambda job, folder: shuffle_split.run(job, folder, _removals(job))),
        (shards.NAME, "shards", shards.run),
    ]
    return steps


def _removals(job: Ledger) -> Removals:
    """Of the steps that are finished."""
    return {reason: tuple(job.passes(step)) for reason, step in _REMOVING.items() if step in job.tallies}


def _parameters(settings: Settings, inputs: Inputs, tokenizer: Tokenizer, against: Sequence[Problem]) -> dict[str, Any]:
    """All that shapes the result. Corpus.on_damage is none of it: a source that stops at damage is not read to its end,
    and may be read on with "skip"."""
    digest = hashlib.sha256()
    for problem in against:
        digest.update(repr((problem.name, sorted(problem.texts.items()))).encode("utf-8", "replace"))
    shaping = {name: value for name, value in dataclasses.asdict(settings.build).items() if name not in _NO_MATTER}
    parameters = {
        "format": FORMAT,
        "source": inputs.fingerprint,
        "stream": settings.stream,
        "tokenizer": tokenizer.fingerprint,
        "problems": digest.hexdigest() if against else None,
        "Build": shaping,
        "Filters": dataclasses.asdict(settings.filters),
        "Quality": dataclasses.asdict(settings.quality),
        "Decontamination": dataclasses.asdict(settings.decontamination),
    }
    return json.loads(json.dumps(parameters))  # as they are read again


def _versions() -> dict[str, str]:
    """Of what the result may depend on."""
    packages = ("apache-beam", "numpy", "pyarrow", "sentencepiece")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"codellama_jax": cli.code_version(), "python": platform.python_version(), **versions}
