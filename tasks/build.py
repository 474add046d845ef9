"""Builds a training set: python -m tasks.build --source=PATH --out=FOLDER --tokenizer=tokenizer.model"""

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
from codellama_jax.runtime import cli, filesystem
from codellama_jax.tokenizer import open_tokenizer
from tasks.sources.base import binding

DESCRIPTION = """\
Builds a training set from source code: filters documents, removes duplicates and evaluation problems, redacts secrets,
shuffles, and writes shards with a manifest that the trainer reads (--gin.CODE_CORPUS=FOLDER).
If a build was stopped, run the same command again: it resumes at the last finished step."""

EPILOG = """\
examples:
  python -m tasks.build --source=~/checkouts --out=/data/set --tokenizer=tokenizer.model --workers=8
  python -m tasks.build --source='/data/the-stack/*.parquet' --out=/data/set --tokenizer=tokenizer.model
      --against=humaneval.jsonl --against=mbpp.jsonl --gin.Build.threshold=0.8 --gin.Filters.longest_line=500
Beam's own flags follow --, such as -- --runner=DaskRunner --dask_client_address=tcp://HOST:8786
Settings for --gin, and what Dask, Spark, Dataflow and Flink need: docs/dataset.md"""

STREAMS = ("code", "python", "nl_code", "nl")
DEFAULT_TASK = "code"
BUILD_SCHEMES = ("gs://", "s3://", "hdfs://")  # of --out: stores that Beam can write to


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    argv = sys.argv[1:] if argv is None else argv
    split = argv.index("--") if "--" in argv else len(argv)

    def body(flags: gin_files.Flags, options: argparse.Namespace) -> int:
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return _build(flags, options, beam_flags=argv[split + 1 :])
        except UserError as error:
            if not options.source:
                raise
            # sources name the setting of the stream, which this flag replaces
            message = str(error).replace(binding(options.task or DEFAULT_TASK), "--source")
            raise UserError(message, error.exit_code) from error
        except KeyboardInterrupt:
            message = "interrupted: run the same command again to resume at the last finished step"
            raise UserError(message, EXIT_INTERRUPTED) from None
        finally:
            signal.signal(signal.SIGTERM, previous)

    return cli.run(_parser(), argv[:split], body)


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(
        prog="python -m tasks.build",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage="python -m tasks.build --source=PATH --out=FOLDER --tokenizer=MODEL [options] [-- Beam's flags]",
    )
    parser.add_argument(
        "--source", metavar="PATH", action="append", help="folder, record files or a pattern to read; repeatable"
    )
    parser.add_argument(
        "--task", choices=STREAMS, help="kind of documents (default: code); without --source, read this stream's corpus"
    )
    parser.add_argument("--out", metavar="FOLDER", help="output folder: a new one, or one in which to resume a build")
    parser.add_argument("--tokenizer", metavar="MODEL", help="tokenizer.model or tokenizer.json that counts the tokens")
    parser.add_argument(
        "--against",
        metavar="PATH",
        action="append",
        help="evaluation problems that documents must not contain: a file (JSON, Parquet, ...), pattern or folder;"
        " repeatable",
    )
    parser.add_argument("--workers", metavar="N", type=int, help="processes on this machine (default: one per core)")
    parser.add_argument(
        "--keep_steps", action="store_true", help="keep the intermediate files, about half as large as the text"
    )
    return parser


def _build(flags: gin_files.Flags, options: argparse.Namespace, beam_flags: list[str]) -> int:
    for name, needed in (("out", "an output folder: --out=FOLDER"), ("tokenizer", "--tokenizer=tokenizer.model")):
        if not getattr(options, name):
            raise UserError(f"the build needs {needed}", EXIT_USAGE)
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers={options.workers} must be at least 1", EXIT_USAGE)
    task = options.task or DEFAULT_TASK
    bindings = gin_files.load(["gin/data.gin", *flags.gin_files], flags.bindings, imports=flags.imports)
    config = bindings.resolve(Corpus, Filters, Quality, Build, Decontamination)
    corpus = config.corpus
    if options.source:
        for source in options.source:
            filesystem.check_scheme(source)
        paths: dict[str, Any] = {task: tuple(options.source)}
        corpus = dataclasses.replace(corpus, **paths)
    elif not options.task and getattr(corpus, task) is None:
        message = "nothing to read: give --source=PATH, or --task=code for the embedded corpus"
        raise UserError(message, EXIT_USAGE)
    tokenizer = open_tokenizer(options.tokenizer, infilling=False)
    _import_beam()
    from tasks.curation.pipeline import Settings, build

    against = tuple(options.against or ())
    out = os.path.expanduser(options.out).rstrip("/")
    filesystem.check_scheme(out, BUILD_SCHEMES)
    runner_given = any(flag.startswith("--runner") for flag in beam_flags)
    summary = build(
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
        out,
        tokenizer,
        workers=options.workers or (1 if runner_given else os.cpu_count() or 1),
        beam_flags=beam_flags,
        keep_steps=options.keep_steps,
    )
    if summary is not None:
        for line in summary.lines(out):
            print(line)
    return EXIT_DONE


def _import_beam() -> None:
    """Imports Apache Beam without the warnings of optional packages for cloud services.

    Raises:
        UserError: Apache Beam is not installed.
    """
    logging.disable(logging.WARNING)
    try:
        import apache_beam  # noqa: F401
    except ImportError:
        fix = "pip install -r requirements-build.txt, or pip install 'codellama_jax[build]'"
        raise UserError(f"apache-beam is not installed: {fix}") from None
    finally:
        logging.disable(logging.NOTSET)


if __name__ == "__main__":
    sys.exit(main())
