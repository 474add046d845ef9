"""Makes dialogues from questions, tests and solutions that models write, by running them.

    python -m tasks.self_instruct --questions=ENDPOINT|DIR|FILE --solutions=ENDPOINT|DIR --out=DIR
        [--against=PATH...] [--gin.NAME=VALUE...]

An endpoint is the URL of an OpenAI-compatible server; DIR is a checkpoint's folder; FILE has questions that no model
needs to write (tasks/synthesis/given.py). The same command resumes a run that was stopped. docs/self_instruct.md
describes output and settings.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codellama_jax.config import gin_files
from codellama_jax.config.curation import Build, Decontamination
from codellama_jax.config.evaluation import Endpoints
from codellama_jax.config.generation import Sampling
from codellama_jax.config.self_instruct import SelfInstruct
from codellama_jax.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USAGE, UserError
from codellama_jax.evaluation.client import Client, Request
from codellama_jax.evaluation.problem import Chat, Completion, Problem
from codellama_jax.runtime import cli, filesystem, lock
from codellama_jax.runtime.signals import StopSignals
from codellama_jax.sandbox.pool import Pool
from tasks.curation.decontaminate.index import Index
from tasks.curation.decontaminate.problems import read_problems
from tasks.synthesis import output, prompts, report
from tasks.synthesis.duplicates import Questions
from tasks.synthesis.feed import Model
from tasks.synthesis.given import EXERCISES, GivenQuestions, is_given
from tasks.synthesis.given import read as read_given
from tasks.synthesis.pipeline import Pipeline
from tasks.synthesis.progress import Progress
from tasks.synthesis.prompts import Answer, Prompt
from tasks.synthesis.records import Records

API_KEY = "CODELLAMA_JAX_API_KEY"  # environment variable


def main(argv: list[str] | None = None) -> int:
    """Makes dialogues; returns the exit code."""
    parser = cli.Parser(
        prog="python -m tasks.self_instruct",
        description="Makes dialogues from questions, tests and solutions that models write, by running them.",
        epilog="Settings are gin bindings, such as --gin.SelfInstruct.prompts=100 (docs/self_instruct.md).",
    )
    add = parser.add_argument_group(
        "models: the URL of an OpenAI-compatible server, or a checkpoint's folder"
    ).add_argument
    questions = f"writes the questions, or has them: .jsonl or {EXERCISES}"
    add("--questions", required=True, metavar="ENDPOINT|DIR|FILE", help=questions)
    add("--solutions", required=True, metavar="ENDPOINT|DIR", help="writes tests and solutions")
    add("--questions_model", metavar="NAME", help="name of the model at its endpoint (default: the first)")
    add("--solutions_model", metavar="NAME", help=f"the same. {API_KEY} in the environment has the key of both")
    add = parser.add_argument_group("input and output").add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="the folder of dialogues and records; resumed")
    add(
        "--against",
        action="append",
        metavar="PATH",
        help="evaluation problems that dialogues must not contain: a file, pattern or folder; repeatable",
    )
    add = parser.add_argument_group("a model in a checkpoint").add_argument
    add("--tokenizer", type=filesystem.to_path, metavar="FILE", help="a tokenizer.model (default: its own)")
    add("--dtype", choices=("float32", "bfloat16"), help="default: float32 on a CPU, otherwise bfloat16")
    add("--context", type=_positive, default=0, metavar="N", help="of prompt and answer (default: as in training)")
    add("--slots", type=_positive, default=0, metavar="N", help="answers that are generated at a time (default: 16)")
    add = parser.add_argument_group("the programs that models write").add_argument
    add("--workers", type=_positive, default=0, metavar="N", help="that run at a time (default: one a processor)")
    add("--allow_unsandboxed", action="store_true", help="run them WITHOUT a sandbox: they can do whatever you can")
    return cli.run(parser, argv, _self_instruct)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a number, at least 1")
    return int(text)


def _self_instruct(flags: gin_files.Flags, options: argparse.Namespace) -> int:
    bindings = gin_files.load(flags.gin_files, flags.bindings, default_size="local")
    config = bindings.resolve(SelfInstruct, Build, Decontamination, Endpoints)
    settings: SelfInstruct = config.self_instruct
    _check_flags(options)
    given = _given(options.questions, settings)
    problems = read_problems(options.against or ())
    index = Index(problems, config.decontamination) if problems else None
    if filesystem.is_remote(str(options.out)):
        raise UserError(f"--out={options.out} must be a local folder", EXIT_USAGE)
    with contextlib.ExitStack() as stack:
        stack.callback(_locked(options.out).release)
        if options.allow_unsandboxed:
            print("warning: --allow_unsandboxed: programs of the models can do whatever you can", file=sys.stderr)
        pool = stack.enter_context(Pool(options.workers, options.allow_unsandboxed))
        models = _models(options, config.endpoints, settings)
        source = _source(models, given, settings, config.build, config.decontamination, problems)
        output.check_same(options.out, source)
        records = Records(options.out)
        stack.callback(records.close)
        signals = stack.enter_context(StopSignals(lambda _: os._exit(EXIT_INTERRUPTED) if signals.count > 1 else None))
        progress = Progress(1 if given else settings.prompts)
        questions = Questions(config.build, index)
        listed, stopped = given.questions if given else (), lambda: signals.received
        pipeline = Pipeline(settings, *models, pool, records, questions, listed, stopped, progress.update)
        if not pipeline.run():
            print(f"stopped by {signals.name}; the same command resumes", file=sys.stderr)
            return EXIT_INTERRUPTED
        sandbox = "none (--allow_unsandboxed)" if options.allow_unsandboxed else "bubblewrap"
        without = [] if given is None else ["questions", "tests"] if given.tested else ["questions"]
        further = {"without_model": without, "sandbox": sandbox}
        manifest = output.write(options.out, records, settings, {**source, **further})
        page = report.write(options.out, records.questions.rows(), manifest)
    funnel = manifest["funnel"]
    print(" -> ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in funnel.items()))
    print(f"dialogues: {options.out / output.DIALOGUES}")
    print(f"report:    {page}")
    return EXIT_DONE


def _locked(out: Path) -> lock.Lock:
    """Locks the output folder, which is created."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        return lock.acquire(out)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{error.filename} is not a folder: choose another --out", EXIT_USAGE) from None
    except UserError as error:
        raise UserError(str(error).partition(":")[0] + ": wait for it, or choose another --out") from None
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}): choose another --out") from None


def _check_flags(options: argparse.Namespace) -> None:
    """Refuses flags that would be ignored, and places that are neither an endpoint nor a folder."""
    places = {name: getattr(options, name) for name in ("questions", "solutions")}
    if is_given(places["questions"]):
        del places["questions"]
        if options.questions_model:
            raise UserError("--questions_model is the name of an endpoint's model: leave it out", EXIT_USAGE)
    for name, place in places.items():
        if not _is_endpoint(place) and not filesystem.exists(place):
            raise UserError(
                f"--{name}={place} is neither a URL that begins with http:// or https://, nor a folder", EXIT_USAGE
            )
        if getattr(options, f"{name}_model") and not _is_endpoint(place):
            raise UserError(f"--{name}_model is the name of an endpoint's model: leave it out", EXIT_USAGE)
    if all(map(_is_endpoint, places.values())):
        for name in ("tokenizer", "dtype", "context", "slots"):
            if getattr(options, name):
                raise UserError(f"--{name} is of the model in a checkpoint: leave it out", EXIT_USAGE)
    if not re.fullmatch(r"[!-~]*", os.environ.get(API_KEY, "").strip()):
        raise UserError(f"{API_KEY} has characters that no key can have, such as line ends", EXIT_USAGE)


def _is_endpoint(place: str) -> bool:
    return re.match(r"https?://\S", place) is not None


def _given(place: str, settings: SelfInstruct) -> GivenQuestions | None:
    """The questions of --questions, unless it is a model."""
    if is_given(place):
        return read_given(place, settings.form == "completion", settings.most_questions)
    if settings.form == "completion":
        raise UserError(
            "SelfInstruct.form=completion continues the prompts of given questions: --questions must be a file of them,"
            f" or {EXERCISES}",
            EXIT_USAGE,
        )
    return None


def _models(options: argparse.Namespace, endpoints: Endpoints, settings: SelfInstruct) -> tuple[Model | None, Model]:
    """The models of --questions, None if these are given, and --solutions: one object if they are the same."""
    opened = dict[tuple[str, str | None], Model]()
    names = ("solutions",) if is_given(options.questions) else ("questions", "solutions")
    for name in names:
        place, model = getattr(options, name), getattr(options, f"{name}_model")
        if (place, model) not in opened:
            opened[place, model] = ClientModel(_client(place, model, options, endpoints), settings)
    asked, *others = [opened[getattr(options, name), getattr(options, f"{name}_model")] for name in names]
    return (asked, others[0]) if others else (None, asked)


def _client(place: str, model: str | None, options: argparse.Namespace, endpoints: Endpoints) -> Client:
    if _is_endpoint(place):
        from codellama_jax.evaluation.clients.endpoints import EndpointClient

        return EndpointClient([place], model, os.environ.get(API_KEY, "").strip(), endpoints)
    # Imported here: JAX takes seconds to import, and endpoints do not need it.
    from codellama_jax.conversion.local_client import Opening, open_local_model

    opening = Opening(options.tokenizer, options.dtype, context=options.context, slots=options.slots)
    return open_local_model(filesystem.to_path(place), opening)


class ClientModel(Model):
    """A client of evaluations as a model that writes questions, tests and solutions."""

    def __init__(self, client: Client, settings: SelfInstruct):
        self.name, self.identity = client.name, client.identity
        self._client, self._settings = client, settings

    def answers(self, prompts: Iterator[Prompt], stop: threading.Event) -> Iterator[tuple[Prompt, Answer]]:
        requests = (self._request(prompt) for prompt in prompts)
        for request, answer in self._client.answers(requests, stop):
            yield request.problem.data, Answer(answer.text, answer.finish_reason, answer.refusal)

    def _request(self, prompt: Prompt) -> Request:
        settings, kind = self._settings, prompt.kind.removesuffix("s")
        temperature = getattr(settings, f"{kind}_temperature")
        sampling = Sampling(
            max_tokens=getattr(settings, f"{kind}_tokens"),
            temperature=temperature,
            top_p=settings.top_p if temperature else 1.0,
            stop=prompts.stop(prompt.kind, settings),
            seed=prompt.seed,
        )
        asked = Chat(tuple(prompts.messages(prompt.text))) if settings.form == "chat" else Completion(prompt.text)
        return Request(Problem(prompt.id, asked, prompt), prompt.index, sampling)


def _source(
    models: tuple[Model | None, Model],
    given: GivenQuestions | None,
    settings: SelfInstruct,
    build: Build,
    decontamination: Decontamination,
    problems: list[Any],
) -> dict[str, Any]:
    """Everything that the output depends on, as JSON values."""
    digest = hashlib.sha256(json.dumps([[problem.name, problem.texts] for problem in problems]).encode())
    near = {name: getattr(build, name) for name in ("near", "threshold", "permutations", "ngram", "seed")}
    return {
        "models": {
            name: dict(model.identity)
            for name, model in zip(("questions", "solutions"), models, strict=True)
            if model is not None
        },
        **({"given": dict(given.identity)} if given else {}),
        "SelfInstruct": dataclasses.asdict(settings),
        "Build": near,
        "Decontamination": dataclasses.asdict(decontamination),
        "problems": digest.hexdigest() if problems else None,
        "prompts_sha256": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in prompts.ALL.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
