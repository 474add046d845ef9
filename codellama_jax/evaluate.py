"""Evaluates a model on benchmarks, by running the programs that it writes in a sandbox.

    python -m codellama_jax.evaluate --checkpoint=DIR | --endpoint=URL... --benchmarks=NAME[,NAME...] --data=DIR
        --out=DIR [--limit=N] [--samples=N] [--shard=I/N] [--gin.NAME=VALUE...]
    python -m codellama_jax.evaluate --rescore | --canonical --benchmarks=NAME[,NAME...] --data=DIR --out=DIR
    python -m codellama_jax.evaluate --compare=OUT,OUT[,OUT...] --out=DIR [--benchmarks=NAME[,NAME...]]

A checkpoint is a stage's folder (runs/NAME/STAGE), a checkpoint in it, an import, or a folder of Hugging Face's,
Meta's or llama2.c's format. An endpoint speaks OpenAI's API; several share the work. The same command resumes an
evaluation that was interrupted. docs/evaluation.md describes benchmarks, settings and results.
"""

import argparse
import contextlib
import dataclasses
import difflib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codellama_jax.config import evaluation as settings_of
from codellama_jax.config import gin_files
from codellama_jax.config.bindings import Bindings
from codellama_jax.config.data import CHAT_FORMATS
from codellama_jax.config.run import PARTS
from codellama_jax.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USAGE, UserError, first_line
from codellama_jax.evaluation import comparison, environment
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.client import Client
from codellama_jax.evaluation.evaluation import Evaluation
from codellama_jax.evaluation.table import BENCHMARKS
from codellama_jax.report.evaluation import write_evaluation_report
from codellama_jax.report.evaluation_comparison import write_comparison
from codellama_jax.runtime import cli, filesystem
from codellama_jax.runtime.signals import StopSignals
from codellama_jax.sandbox.pool import Pool
from codellama_jax.tokenizer import Tokenizer, open_tokenizer

API_KEY = "CODELLAMA_JAX_API_KEY"  # environment variable


def main(argv: list[str] | None = None) -> int:
    """Evaluates; returns the exit code."""
    parser = cli.Parser(
        prog="python -m codellama_jax.evaluate",
        description="Evaluates a model on benchmarks.",
        epilog=f"Benchmarks: {', '.join(BENCHMARKS)}. Settings are gin bindings, such as --gin.HumanEval.samples=20.",
    )
    who = parser.add_argument_group("who answers (one of these)").add_mutually_exclusive_group(required=True)
    who.add_argument("--checkpoint", type=filesystem.to_path, metavar="DIR", help="a model's folder")
    who.add_argument("--endpoint", action="append", metavar="URL", help="an OpenAI-compatible server; may be repeated")
    who.add_argument("--rescore", action="store_true", help="nobody: judge the samples in --out again")
    who.add_argument("--canonical", action="store_true", help="the benchmarks' own solutions: checks the harness")
    who.add_argument("--compare", metavar="OUT,OUT[,OUT...]", help="nobody: compare evaluations with the first of them")
    add = parser.add_argument_group("what is evaluated").add_argument
    add("--benchmarks", metavar="NAME[,NAME...]", help="see below")
    add("--data", type=filesystem.to_path, metavar="DIR", help="the folder of the data files, if it has any")
    add("--out", type=_local, required=True, metavar="DIR", help="the folder of samples and results; resumed")
    add("--limit", type=_positive, default=0, metavar="N", help="only the first N tasks of each benchmark")
    add("--samples", type=_positive, default=0, metavar="N", help="answers to each task (default: its settings)")
    add("--shard", type=_shard, metavar="I/N", help="the I-th of N parts; without it, parts in --out are joined")
    add = parser.add_argument_group("the model in a checkpoint").add_argument
    add(
        "--tokenizer",
        type=filesystem.to_path,
        metavar="FILE",
        help="a tokenizer.model or tokenizer.json (default: its own)",
    )
    add("--dtype", choices=("float32", "bfloat16"), help="default: float32 on a CPU, otherwise bfloat16")
    add("--cache_dtype", choices=("float32", "bfloat16", "int8"), help="of keys and values (default: --dtype)")
    add("--tensor", type=_positive, default=0, metavar="N", help="devices that share the model (default: all that fit)")
    add("--context", type=_positive, default=0, metavar="N", help="of prompt and answer (default: as in training)")
    add("--slots", type=_positive, default=0, metavar="N", help="answers that are generated at a time (default: 16)")
    add("--chat_format", choices=CHAT_FORMATS, help="of dialogues (default: the checkpoint's)")
    add = parser.add_argument_group("the model of an endpoint").add_argument
    add("--model", metavar="NAME", help=f"its name (default: the first). {API_KEY} in the environment has the key")
    add = parser.add_argument_group("the programs that it writes").add_argument
    add("--workers", type=_positive, default=0, metavar="N", help="that run at a time (default: one a processor)")
    add(
        "--packages", type=_local, metavar="DIR", help="packages that Python programs may import, such as site-packages"
    )
    add("--allow_unsandboxed", action="store_true", help="run them WITHOUT a sandbox: they can do whatever you can")
    return cli.run(parser, argv, _evaluate, _explain)


def _explain(error: BaseException) -> str | None:
    """One line for the user about an error; None for a bug."""
    if isinstance(error, MemoryError) or re.search("RESOURCE_EXHAUSTED|Out of memory", str(error)):
        return "out of memory: choose fewer --slots, a smaller --context, or --dtype=bfloat16"
    return cli.describe_os_error(error)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a number, at least 1")
    return int(text)


def _local(text: str) -> Path:
    if filesystem.is_remote(text):
        raise argparse.ArgumentTypeError(f"{text} must be a local folder")
    return Path(text).expanduser()


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text} must be I/N with I from 1 to N, such as 1/4")
    return int(match[1]), int(match[2])


def _evaluate(flags: gin_files.Flags, options: argparse.Namespace) -> int:
    if options.compare:
        return _compare(flags, options)
    if missing := [f"--{name}" for name in _missing(options)]:
        raise UserError(f"{' and '.join(missing)} must be given; --help lists the flags", EXIT_USAGE)
    bindings = gin_files.load(flags.gin_files, flags.bindings, default_size="local")
    kinds = _chosen(options.benchmarks)
    data = options.data or Path()  # without --data, no benchmark reads it
    settings = {name: _settings(bindings, kind, options.samples) for name, kind in kinds.items()}
    _check_flags(options)
    endpoints = bindings.resolve(settings_of.Endpoints).endpoints
    # Data that is missing, a sandbox that cannot start: reported before a model is opened, which takes long.
    early = {name: kind(settings[name]).problems(data) for name, kind in kinds.items() if not kind.needs_tokenizer}
    with contextlib.ExitStack() as stack:
        signals = StopSignals(lambda _: os._exit(EXIT_INTERRUPTED) if signals.count > 1 else None)
        pool = None
        if any(kind.needs_sandbox for kind in kinds.values()):
            if options.allow_unsandboxed:
                print("warning: --allow_unsandboxed: programs of the model can do whatever you can", file=sys.stderr)
            tools = [path for name, kind in kinds.items() for path in kind(settings[name]).tools()]
            pool = stack.enter_context(Pool(options.workers, options.allow_unsandboxed, options.packages, tools))
        evaluation = Evaluation(options.out, pool, options.shard, lambda: signals.received)
        stack.callback(evaluation.close)
        client_of, tokenizer = _clients(options, endpoints)
        stack.enter_context(signals)  # before this there is nothing to store, and a signal ends the command at once
        for name, kind in kinds.items():
            benchmark = kind(settings[name], tokenizer)
            problems = early[name] if name in early else benchmark.problems(data)
            if options.rescore:
                complete = evaluation.rescore(benchmark, problems, options.limit)
            else:
                complete = evaluation.run(benchmark, problems, client_of(benchmark), options.limit)
            if not complete:
                print(f"stopped by {signals.name}; the same command resumes", file=sys.stderr)
                return EXIT_INTERRUPTED
            _print_results(name, evaluation.results(options.rescore)[name])
            tasks = len({problem.task_id for problem in problems})
            source: dict[str, Any] = {"source": _source(options), "all_tasks": tasks}
            if kind.needs_sandbox and options.allow_unsandboxed:
                source["sandbox"] = "none (--allow_unsandboxed)"
            if kind.needs_sandbox and options.packages:
                source["packages"] = str(options.packages)
            environment.store(evaluation.results_path(options.rescore).parent, name, source)
        print(f"results: {evaluation.results_path(options.rescore)}")
        print(f"report:  {write_evaluation_report(evaluation.results_path(options.rescore).parent)}")
    return EXIT_DONE


def _missing(options: argparse.Namespace) -> list[str]:
    """The required flags that are not given. --data is required by benchmarks with data files."""
    names = [] if options.benchmarks else ["benchmarks"]
    reads = not options.benchmarks or any(kind.needs_data for kind in _chosen(options.benchmarks).values())
    return names if options.data or not reads else [*names, "data"]


def _source(options: argparse.Namespace) -> str:
    """Whose answers are evaluated."""
    if options.checkpoint:
        return f"checkpoint {options.checkpoint}"
    if options.endpoint:
        return f"endpoint {' and '.join(options.endpoint)}"
    return "the canonical solutions" if options.canonical else f"samples of {options.out}, judged again"


def _compare(flags: gin_files.Flags, options: argparse.Namespace) -> int:
    """Compares evaluations that are in folders."""
    ignored = ["data", "limit", "samples", "shard", "tokenizer", "dtype", "cache_dtype", "tensor", "context", "slots"]
    ignored += ["chat_format", "model", "workers", "packages", "allow_unsandboxed"]
    if named := [name for name in ignored if getattr(options, name)]:
        raise UserError(f"--compare reads what was evaluated before: leave out --{named[0]}", EXIT_USAGE)
    if flags.gin_files or flags.bindings:
        raise UserError("--compare reads the settings of the evaluations: leave out --gin flags", EXIT_USAGE)
    folders = [Path(name) for name in options.compare.split(",") if name]
    if len(folders) < 2:
        raise UserError("--compare names two or more --out folders, separated by commas", EXIT_USAGE)
    names = list(_chosen(options.benchmarks)) if options.benchmarks else []
    first, *others = comparison.read_runs(folders)
    pairs = [(first, other, comparison.compare(first, other, names)) for other in others]
    found = [comparison.as_json(*pair) for pair in pairs]
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "comparison.json"
    filesystem.write_atomically(path, json.dumps(found, indent=1) + "\n")
    for _, other, compared in pairs:
        print(f"{other.path} compared with {first.path}, the difference with its 95% interval:")
        for line in comparison.summary(compared):
            print(f"  {line}")
    print(f"comparison: {path}")
    print(f"report:     {write_comparison(options.out, pairs)}")
    return EXIT_DONE


def _chosen(names: str) -> dict[str, type[Benchmark[Any]]]:
    """The benchmarks of --benchmarks, in its order."""
    chosen = dict.fromkeys(name.strip() for name in names.split(",") if name.strip())
    if not chosen:
        raise UserError(f"--benchmarks names none; they are {', '.join(BENCHMARKS)}", EXIT_USAGE)
    for name in chosen:
        if name not in BENCHMARKS:
            near = difflib.get_close_matches(name.lower(), BENCHMARKS, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"there is no benchmark {name!r}: {hint}They are {', '.join(BENCHMARKS)}", EXIT_USAGE)
    return {name: BENCHMARKS[name] for name in chosen}


def _settings(bindings: Bindings, kind: type[Benchmark[Any]], samples: int) -> Any:
    """The settings of a benchmark, with --samples."""
    attribute = next(name for name, part in PARTS.items() if part is kind.settings_class)
    found = getattr(bindings.resolve(kind.settings_class), attribute)
    try:
        return dataclasses.replace(found, samples=samples) if samples else found
    except ValueError as error:
        raise UserError(first_line(error), EXIT_USAGE) from None


def _check_flags(options: argparse.Namespace) -> None:
    """Refuses flags that would be ignored."""
    if options.model and not options.endpoint:
        raise UserError("--model is the name of an endpoint's model: it needs --endpoint", EXIT_USAGE)
    for url in options.endpoint or ():
        if not re.match(r"https?://\S", url):
            raise UserError(f"--endpoint={url} must begin with http:// or https://", EXIT_USAGE)
    if options.endpoint and not re.fullmatch(r"[!-~]*", os.environ.get(API_KEY, "").strip()):
        raise UserError(f"{API_KEY} has characters that no key can have, such as line ends", EXIT_USAGE)
    if not options.checkpoint:
        for name in ("dtype", "cache_dtype", "tensor", "context", "slots", "chat_format"):
            if getattr(options, name):
                raise UserError(f"--{name} is of the model in a checkpoint: it needs --checkpoint", EXIT_USAGE)
    if options.rescore and options.shard:
        raise UserError(
            "--rescore judges all samples of --out: leave out --shard, or name a shard's folder", EXIT_USAGE
        )


def _clients(
    options: argparse.Namespace, endpoints: settings_of.Endpoints
) -> tuple[Callable[[Benchmark[Any]], Client], Tokenizer | None]:
    """The client for each benchmark, and the model's tokenizer if it is known."""
    if options.checkpoint:
        model, own = _local_model(options)
        return lambda benchmark: model, own
    tokenizer = open_tokenizer(options.tokenizer, infilling=False) if options.tokenizer else None
    if options.endpoint:
        from codellama_jax.evaluation.clients.endpoints import EndpointClient

        client = EndpointClient(options.endpoint, options.model, os.environ.get(API_KEY, "").strip(), endpoints)
        return lambda benchmark: client, tokenizer
    from codellama_jax.evaluation.clients.canonical import Canonical

    return Canonical, tokenizer


def _local_model(options: argparse.Namespace) -> tuple[Client, Tokenizer]:
    """Opens a checkpoint."""
    # Imported here: JAX takes seconds to import, and a wrong flag should be reported at once.
    from codellama_jax.conversion.local_client import Opening, open_local_model

    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(Opening)}
    client = open_local_model(options.checkpoint, Opening(**fields))
    return client, client.tokenizer


def _print_results(name: str, results: dict[str, Any]) -> None:
    """Prints the results of a benchmark."""
    for variant, found in results.get("variants", {"": results}).items():
        low, high = found.get("pass@1_interval", (None, None))
        scores = [
            f"{metric} {100 * value:.1f}%" + (f" ({100 * low:.1f} to {100 * high:.1f})" if metric == "pass@1" else "")
            if metric.startswith("pass@")
            else f"{metric} {value:.4g}"
            for metric, value in found.items()
            if isinstance(value, float)
        ]
        counts = f"{found['tasks']:,} tasks, {found['samples']:,} samples"
        print(f"{name}{f' {variant}' if variant else ''}: {', '.join(scores) or 'no scores'} ({counts})", flush=True)
    if averaged := results.get("averaged"):
        means = [f"{metric} {100 * value:.1f}%" for metric, value in results.items() if isinstance(value, float)]
        print(f"{name}: {', '.join(means)}, the average of {', '.join(averaged)}")
    for variant, reason in results.get("skipped", {}).items():
        print(f"{name} {variant}: skipped: {reason}")


if __name__ == "__main__":
    sys.exit(main())
