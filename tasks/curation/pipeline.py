"""The complete build: its steps in order, then the report and the manifest."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
from collections.abc import Callable, Sequence
from typing import Any

from codellama_jax.config.curation import Build, Decontamination, Quality
from codellama_jax.config.data import Corpus, Filters
from codellama_jax.errors import UserError
from codellama_jax.runtime import cli
from codellama_jax.runtime.filesystem import is_remote
from codellama_jax.tokenizer import Tokenizer
from tasks.curation import report, storage
from tasks.curation.clean import read
from tasks.curation.counters import Counters
from tasks.curation.decontaminate import step as decontamination
from tasks.curation.decontaminate.problems import Problem, read_problems
from tasks.curation.dedup import components, lsh_buckets, remove_exact, remove_near, signatures, similar_pairs
from tasks.curation.engine import Engine
from tasks.curation.inputs import Inputs
from tasks.curation.ledger import FORMAT, STEPS, Ledger
from tasks.curation.removals import Removals
from tasks.curation.summary import Summary
from tasks.curation.units import split_into_units
from tasks.curation.write import shards, shuffle_split
from tasks.sources import inventory, manifest

WORKER_LOG = "workers.log"  # in the folder of the steps: standard error of worker processes
RESULT_NEUTRAL = ("memory",)  # fields of Build that do not affect the result
# Reason -> step, for the steps that remove documents, in order.
_REMOVING = {
    remove_exact.REASON: remove_exact.NAME,
    remove_near.REASON: remove_near.NAME,
    decontamination.REASON: decontamination.NAME,
}

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a build.

    Attributes:
        stream: kind of the documents: code, python, nl_code or nl.
        corpus, filters, quality, build, decontamination: the settings that gin binds.
        against: files of evaluation problems that documents must not contain.
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


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of a build: its name, its description for the user, and the function that runs it in a folder."""

    name: str
    description: str
    run: Callable[[Ledger, str], Counters]


def build(
    settings: Settings, out: str, tokenizer: Tokenizer, *, workers: int, beam_flags: Sequence[str], keep_steps: bool
) -> Summary | None:
    """Builds a training set, or resumes a build that was stopped.

    Args:
        settings: settings of the build.
        out: output folder, local or in a store.
        tokenizer: counts the tokens.
        workers: number of processes on this machine.
        beam_flags: Beam's flags.
        keep_steps: whether to keep the intermediate files of the steps.

    Returns:
        The summary; None if the build was already finished.

    Raises:
        UserError: the source, the folder, a flag or a file cannot be used.
    """
    log = None if is_remote(out) else storage.join(out, STEPS, WORKER_LOG)
    engine = Engine(workers, beam_flags, settings.build.memory, log, preload=[__name__])
    problems = read_problems(settings.against)
    inputs = Inputs(settings.stream, settings.corpus, settings.filters, imports=settings.imports)
    if not engine.embedded:  # the workers may run in other folders
        inputs, out = inputs.absolute(), out if is_remote(out) else os.path.abspath(out)
    source = inputs.open()
    inputs = dataclasses.replace(inputs, fingerprint=source.fingerprint())
    parameters = _parameters(settings, inputs, tokenizer, problems)
    units = split_into_units(len(source))
    ledger = Ledger(out, inputs, settings.build, settings.decontamination, parameters, engine, units)
    with contextlib.closing(engine), ledger.claim():
        if storage.exists(storage.join(out, manifest.NAME)):
            _log.info("%s already contains this finished build", out)
            return None
        for place in source.inventory():
            for line in inventory.lines(place):
                _log.info("%s", line)
            if place.splits.get("validation"):
                _log.info("  the files for validation are not read; Corpus.splits='hash' reads all files")
        files = tuple(sorted(tokenizer.files.items()))
        rules = read.Rules(inputs, settings.quality, tuple(settings.build.redact), files)
        return _run(ledger, rules, problems, keep_steps)


def _run(ledger: Ledger, rules: read.Rules, problems: Sequence[Problem], keep_steps: bool) -> Summary:
    """Runs the steps that are not finished, then writes the report and the manifest."""
    steps = _steps(ledger, rules, problems)
    for number, step in enumerate(steps, 1):
        ledger.step(number, len(steps), step.name, step.description, step.run)
        if not (summary := Summary.of(ledger.counters)).documents:
            reasons = summary.removal_reasons() or "it is empty"
            raise UserError(
                f"no document of {ledger.inputs.description} is left: {reasons}; change these settings and use a new"
                " --out"
            )
    entries = {
        "stream": ledger.inputs.stream,
        "digest": ledger.digest,
        "parameters": ledger.parameters,
        "versions": _versions(),
        "shards": summary.shards,
        "steps": summary.steps(),
    }
    for folder in (ledger.out, storage.join(ledger.out, shuffle_split.LEFT_OUT)):
        storage.remove_unfinished(folder)
    page = report.page(ledger, summary)
    storage.write(storage.join(ledger.out, report.NAME), page.encode("utf-8", "replace"))
    # last: a folder with a manifest is complete
    storage.write(storage.join(ledger.out, manifest.NAME), manifest.to_bytes(entries))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(storage.join(ledger.out, STEPS, WORKER_LOG))
    if not keep_steps:
        for step in steps:
            storage.remove_tree(ledger.folder(step.name))
    return summary


def _steps(ledger: Ledger, rules: read.Rules, problems: Sequence[Problem]) -> list[Step]:
    """The steps of a build, in order."""
    steps = [
        Step(read.NAME, "read and filter", functools.partial(read.run, rules=rules)),
        Step(remove_exact.NAME, "exact duplicates", remove_exact.run),
    ]
    if ledger.settings.near:
        steps += [
            Step(signatures.NAME, "near-duplicates: signatures", signatures.run),
            Step(lsh_buckets.NAME, "near-duplicates: buckets", lsh_buckets.run),
            Step(similar_pairs.NAME, "near-duplicates: comparison", similar_pairs.run),
            Step(components.NAME, "near-duplicates: connected components", components.run),
            Step(remove_near.NAME, "near-duplicates: selection", remove_near.run),
        ]
    if problems:
        description = f"{len(problems):,} evaluation problems"
        steps.append(
            Step(
                decontamination.NAME,
                description,
                lambda ledger, folder: decontamination.run(ledger, folder, _removals(ledger), problems),
            )
        )
    steps += [
        Step(
            shuffle_split.NAME,
            "split and shuffle",
            lambda ledger, folder: shuffle_split.run(ledger, folder, _removals(ledger)),
        ),
        Step(shards.NAME, "shards", shards.run),
    ]
    return steps


def _removals(ledger: Ledger) -> Removals:
    """The tables of the documents that the finished steps remove."""
    return {reason: tuple(ledger.pass_folders(step)) for reason, step in _REMOVING.items() if step in ledger.counters}


def _parameters(
    settings: Settings, inputs: Inputs, tokenizer: Tokenizer, problems: Sequence[Problem]
) -> dict[str, Any]:
    """Everything that determines the result, as JSON values.

    Corpus.on_damage is not included: with "stop", a damaged source is not read to its end, so the build may be resumed
    with "skip".
    """
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(repr((problem.name, sorted(problem.texts.items()))).encode("utf-8", "replace"))
    build = {name: value for name, value in dataclasses.asdict(settings.build).items() if name not in RESULT_NEUTRAL}
    parameters = {
        "format": FORMAT,
        "source": inputs.fingerprint,
        "stream": settings.stream,
        "tokenizer": tokenizer.fingerprint,
        "problems": digest.hexdigest() if problems else None,
        "Build": build,
        "Filters": dataclasses.asdict(settings.filters),
        "Quality": dataclasses.asdict(settings.quality),
        "Evidence": dataclasses.asdict(settings.decontamination),  # the key in manifests of format 1
    }
    return json.loads(json.dumps(parameters))  # with the types that they have when read from a file


def _versions() -> dict[str, str]:
    """The versions of the code that may affect the result."""
    packages = ("apache-beam", "numpy", "pyarrow", "sentencepiece")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"codellama_jax": cli.code_version(), "python": platform.python_version(), **versions}
