"""The command: python -m tasks.build --source=PLACE --out=FOLDER --tokenizer=tokenizer.model"""

import argparse
import dataclasses
import io
import logging
import os
import signal
import sys
from typing import Any

from codellama_jax.config import gin_files
from codellama_jax.config.curation import Build, Decontamination, Quality
from codellama_jax.config.data import Corpus, Filters
from codellama_jax.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USAGE, UserError
from codellama_jax.runtime import cli
from codellama_jax.tokenizer import Tokenizer

DESCRIPTION = """\
Builds a training set from code: filters, removes duplicates and what evaluations contain, replaces secrets,
shuffles, and writes shards with a manifest that the trainer reads (--gin.CODE_CORPUS=FOLDER).
A build that was stopped goes on when the same command is given again."""

EPILOG = """\
examples:
  python -m tasks.build --source=~/checkouts --out=/data/set --tokenizer=tokenizer.model --workers=8
  python -m tasks.build --source='/data/the-stack/*.parquet' --out=/data/set --tokenizer=tokenizer.model
      --against=humaneval.jsonl --against=mbpp.jsonl --gin.Build.threshold=0.8 --gin.Filters.longest_line=500
Flags of Beam stand after --, such as -- --runner=DataflowRunner --project=P --region=R --temp_location=gs://B/tmp
What can be set with --gin, and what Dataflow, Flink and Spark need: docs/dataset.md"""

STREAMS = ("code", "python", "nl_code", "nl")


def main(argv: list[str] | None = None) -> int:
    """Builds; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    argv = sys.argv[1:] if argv is None else argv
    split = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        prog="python -m tasks.build",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage="python -m tasks.build --source=PLACE --out=FOLDER --tokenizer=MODEL [options] [-- flags of Beam]",
    )
    parser.add_argument("--source", metavar="PLACE", action="append", help="a folder, files of records; repeatable")
    parser.add_argument("--task", choices=STREAMS, help="kind of the documents (code); alone: its corpus from gin")
    parser.add_argument(
        "--out", metavar="FOLDER", help="where the shards and the manifest go: new, or to be gone on with"
    )
    parser.add_argument("--tokenizer", metavar="MODEL", help="a SentencePiece model, for the counts of tokens")
    parser.add_argument("--against", metavar="JSONL", action="append", help="problems to remove; repeatable")
    parser.add_argument("--workers", metavar="N", type=int, help="processes on this machine (all cores)")
    parser.add_argument("--keep_steps", action="store_true", help="keep what the steps wrote, as large as the source")

    def body(flags: gin_files.Flags, options: argparse.Namespace) -> int:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return _build(flags, options, argv[split + 1 :])
        except KeyboardInterrupt:
            raise UserError("interrupted: the same command goes on where it stopped", EXIT_INTERRUPTED) from None
        finally:
            signal.signal(signal.SIGTERM, before)

    return cli.run(parser, argv[:split], body)


def _build(flags: gin_files.Flags, options: argparse.Namespace, arguments: list[str]) -> int:
    for name, what in (("out", "a folder: --out=FOLDER"), ("tokenizer", "a tokenizer: --tokenizer=tokenizer.model")):
        if not getattr(options, name):
            raise UserError(f"the build needs {what}", EXIT_USAGE)
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers={options.workers} must be at least 1", EXIT_USAGE)
    task = options.task or "code"
    bindings = gin_files.load(["gin/data.gin", *flags.gin_files], flags.bindings, imports=flags.imports)
    config = bindings.resolve(Corpus, Filters, Quality, Build, Decontamination)
    corpus = config.corpus
    if options.source:
        places: dict[str, Any] = {task: tuple(options.source)}
        corpus = dataclasses.replace(corpus, **places)
    elif not options.task and getattr(corpus, task) is None:
        raise UserError("nothing to read: give --source=PLACE, or --task=code for its embedded corpus", EXIT_USAGE)
    tokenizer = Tokenizer.from_file(options.tokenizer, infilling=False)
    logging.disable(logging.WARNING)  # of packages for clouds that nobody asked for
    try:
        import apache_beam  # noqa: F401
    except ImportError:
        cure = "pip install -r requirements-build.txt, or pip install 'codellama_jax[build]'"
        raise UserError(f"apache-beam is not installed: {cure}") from None
    finally:
        logging.disable(logging.NOTSET)
    from tasks.curation.pipeline import Settings, build

    against = tuple(options.against or ())
    build(
        Settings(
            task,
            corpus,
            config.filters,
            config.quality,
            config.build,
            config.decontamination,
            against,
            config.imports,
        ),
        os.path.expanduser(options.out).rstrip("/"),
        tokenizer,
        workers=options.workers or (1 if _runner(arguments) else os.cpu_count() or 1),
        arguments=arguments,
        keep_steps=options.keep_steps,
        say=print,
    )
    return EXIT_DONE


def _runner(arguments: list[str]) -> bool:
    return any(argument.startswith("--runner") for argument in arguments)


if __name__ == "__main__":
    sys.exit(main())
