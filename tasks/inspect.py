"""Shows the data as the trainer reads it.

    python -m tasks.inspect --list
    python -m tasks.inspect --task=code [--split=train] [--num_examples=3] [--sequence_length=N] [--seed=0]
                            [--json] [--stats] [--gin_file=gin/code.gin] [--gin.CODE_CORPUS=/path]

--task takes a task (code, python, nl_code, nl, instruct) or the mixture of a stage (code_mixture). Gin files set the
corpora, filters and lengths; of the required values, only those that the task or mixture reads are needed. Without a
stage file, a task's documents are complete files in windows of 4,096 tokens.
"""

import argparse
import dataclasses
import difflib
import io
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from codellama_jax.config import data, gin_files
from codellama_jax.config.bindings import Bindings
from codellama_jax.config.data import SPLITS, STREAMS, Mixture
from codellama_jax.config.run import Config
from codellama_jax.errors import EXIT_DONE, EXIT_USAGE, UserError
from codellama_jax.runtime import cli, console, filesystem
from codellama_jax.runtime.run_dir import newest_checkpoint, tokenizer_file
from codellama_jax.tokenizer import Tokenizer
from tasks.loader import DataLoader
from tasks.packing import PackedDocument
from tasks.sources import EMBEDDED_PLACES, import_modules
from tasks.sources.base import Document
from tasks.streams import StageStreams
from tasks.tokenizer_training import trained_tokenizer

DATA = (data.Corpus, data.Filters, data.Tokenizer, data.Fim, data.Packing, data.DataLoader, data.Chat)
SEQUENCE_LENGTH = 4096  # of code training in the paper; used without gin files
COLORS = {"prefix": "\033[34m", "middle": "\033[32;1m", "suffix": "\033[35m", "faint": "\033[2m", "end": "\033[0m"}
KINDS = ("plain", "psm", "spm", "cut", "last_turns")
EXCERPT = 600  # characters shown of each part of an example


def main(argv: list[str] | None = None) -> int:
    """Prints a list, examples or statistics; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may not support all characters of a corpus
    parser = cli.Parser(prog="python -m tasks.inspect", description="Shows tasks, mixtures and documents.")
    parser.add_argument("--list", action="store_true", help="list tasks and mixtures")
    parser.add_argument("--task", help="a task or a mixture")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument(
        "--num_examples",
        type=at_least(1),
        help="documents to show (default: 3), or to read with --stats (default: 1000)",
    )
    parser.add_argument("--sequence_length", type=at_least(1), help="number of tokens in a window")
    parser.add_argument("--seed", type=at_least(0), help="replaces DataLoader.seed")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object per document: stream, kind, text, tokens"
    )
    parser.add_argument(
        "--stats",
        action="store_true",
        help="print shares, kinds, epochs, removed documents, tokens per second, and what is read of each place",
    )
    return cli.run(parser, argv, _show)


def _show(flags: gin_files.Flags, options: argparse.Namespace) -> int:
    with console.stdout_may_close():
        if options.list:
            list_mixtures(flags.bindings)
        elif options.task:
            inspect(flags, options)
        else:
            raise UserError("nothing to show: use --list, or --task=NAME with a name from that list", EXIT_USAGE)
    return EXIT_DONE


def at_least(minimum: int) -> Callable[[str], int]:
    """An argparse type: an integer of at least `minimum`."""

    def integer(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {minimum}")
        return int(text)

    return integer


def list_mixtures(bindings: list[str]) -> None:
    """Prints the tasks, and the mixture of each stage with its shares."""
    print("tasks: " + "  ".join(STREAMS))
    print("corpora that need no data: " + "  ".join(EMBEDDED_PLACES))
    print("mixtures (shares of tokens):")
    for stage, file in gin_files.shipped_stages().items():
        mixture = gin_files.load([str(file)], bindings, default_size="local").resolve(Mixture).mixture
        shares = mixture.shares
        print(f"  {stage + '_mixture':20s}" + "  ".join(f"{name} {share:.0%}" for name, share in shares.items()))


def inspect(flags: gin_files.Flags, options: argparse.Namespace) -> None:
    """Prints examples or statistics of a task or mixture."""
    stages = gin_files.shipped_stages()
    mixture_stage = options.task.removesuffix("_mixture") if options.task.endswith("_mixture") else None
    if options.task not in STREAMS and mixture_stage not in stages:
        raise _unknown_task(options.task, [*STREAMS, *(f"{stage}_mixture" for stage in stages)])
    # A task needs no stage: without one, only the settings of the data are loaded.
    files = list(flags.gin_files)
    if not any(map(gin_files.is_stage_file, files)):
        files.insert(0, str(stages[mixture_stage]) if mixture_stage else "gin/data.gin")
    size = "local" if any(map(gin_files.is_stage_file, files)) else None
    bindings = gin_files.load(files, flags.bindings, default_size=size, imports=flags.imports)
    own, macro, bound = f"Corpus.{options.task}", f"{options.task.upper()}_CORPUS", bindings.effective
    if own in bound and macro in bound and bound[own].value is None:
        # a stage that does not read this task sets its corpus to None; the corpus that the user names still applies
        bindings = gin_files.load(files, [f"{own}=%{macro}", *flags.bindings], default_size=size, imports=flags.imports)
    length = bindings.setting("Stage.sequence_length", SEQUENCE_LENGTH)
    mixture = bindings.resolve(Mixture).mixture if mixture_stage else Mixture({options.task: 1.0})
    read = None if mixture_stage else [options.task]
    config = dataclasses.replace(bindings.resolve(*DATA, streams=read), mixture=mixture)
    import_modules(config.imports)
    if options.seed is not None:
        config = dataclasses.replace(config, data_loader=dataclasses.replace(config.data_loader, seed=options.seed))
    tokenizer = trained_tokenizer(
        config.corpus, config.filters, _tokenizer_settings(bindings, config), lambda line: print(line, file=sys.stderr)
    )
    streams = StageStreams(config, tokenizer, mixture_stage or "inspected")
    loader = open_loader(config, streams, options.split, options.sequence_length or length)
    if options.stats:
        print_stats(loader, streams, options.split, options.num_examples or 1000)
        return
    documents = (started for batch in iter(loader.next_batch, None) for started in batch.started)
    for _, (stream, packed) in zip(range(options.num_examples or 3), documents, strict=False):
        if options.json:
            print(json.dumps(as_json(stream, packed)))
        else:
            print_example(stream, packed, tokenizer, color=sys.stdout.isatty())


def _tokenizer_settings(bindings: Bindings, config: Config) -> data.Tokenizer:
    """The settings of the tokenizer; without a model, with that of the checkpoint that the stage starts from."""
    if config.tokenizer.model is not None:
        return config.tokenizer
    if (initial := bindings.setting("Checkpoints.initial", "scratch")) == "scratch":
        return config.tokenizer
    path = filesystem.to_path(initial)
    file = tokenizer_file(newest_checkpoint(path) or path)
    return dataclasses.replace(config.tokenizer, model=str(file) if file else None)


def _unknown_task(task: str, known: list[str]) -> UserError:
    near = difflib.get_close_matches(task, known, 2)
    hint = f"did you mean {' or '.join(near)}? The" if near else "the"
    return UserError(f"unknown task {task}: {hint} tasks and mixtures are {', '.join(known)}", EXIT_USAGE)


def open_loader(config: Config, streams: StageStreams, split: str, length: int) -> DataLoader:
    """The loader of a mixture that returns one window at a time."""
    return DataLoader(
        streams.inputs(split),
        streams.shares,
        seed=config.data_loader.seed,
        readers=1,
        batch_size=1,
        length=length,
        mask_documents=config.packing.mask_documents,
        queue=config.packing.queue,
        names=streams.names,
    )


def as_json(stream: str, packed: PackedDocument) -> dict[str, Any]:
    """The object that --json prints.

    Its keys are stream, kind, path, text (of the untransformed document) and tokens (ids with BOS and EOS); messages
    for a dialogue; and language, repository and licence if they are known.
    """
    document = packed.document
    record: dict[str, Any] = {"stream": stream, "kind": packed.kind, "path": document.path}
    if isinstance(document, Document):
        record["text"] = document.text
        known = {"language": document.language, "repository": document.repository, "licence": document.licence}
        record |= {name: value for name, value in known.items() if value}
    else:
        record["text"] = "\n".join(message["content"] for message in document.messages)
        record["messages"] = document.messages
    return record | {"tokens": packed.tokens.tolist()}


def print_stats(loader: DataLoader, streams: StageStreams, split: str, count: int) -> None:
    """Reads until `count` documents have started, and prints what was read.

    Prints streams, kinds, the inventory of the corpora, removed documents, and tokens per second.
    """
    shares = streams.shares
    documents: dict[str, Counter[str]] = {name: Counter() for name in shares}
    tokens: dict[str, Counter[str]] = {name: Counter() for name in shares}
    start, batch, padding = 0.0, None, 0
    while sum(map(Counter.total, documents.values())) < count:
        batch = loader.next_batch()
        start = start or time.perf_counter()  # the first batch includes opening the sources
        padding += int((batch.arrays["segment_ids"] == 0).sum())
        for name, packed in batch.started:
            documents[name][packed.kind] += 1
        for name, counts in batch.tokens.items():
            tokens[name] += counts
    seconds = time.perf_counter() - start
    total = sum(map(Counter.total, tokens.values()))
    size = total + padding
    epochs = loader.epochs(batch.state) if batch else {}

    width = max(10, *(len(name) + 2 for name in shares))
    print(f"{'stream':{width}s}{'planned':>9s}{'seen':>9s}{'tokens':>15s}{'documents':>12s}{'epochs':>9s}")
    for name, share in shares.items():
        number, started = tokens[name].total(), documents[name].total()
        print(f"{name:{width}s}{share:9.1%}{number / total:9.1%}{number:15,d}{started:12,d}{epochs[name]:9.3f}")
    print()
    all_documents, all_tokens = (sum(counts.values(), Counter[str]()) for counts in (documents, tokens))
    print(f"{'kind':10s}{'documents':>12s}{'share':>9s}{'tokens':>15s}{'share':>9s}")
    for kind in KINDS:
        started, number = all_documents[kind], all_tokens[kind]
        if kind == "last_turns" and not number:
            continue
        print(
            f"{kind:10s}{started:12,d}{started / max(all_documents.total(), 1):9.1%}{number:15,d}{number / size:9.1%}"
        )
    if padding:  # after dialogues, which are not cut
        print(f"{'padding':10s}{'':21s}{padding:15,d}{padding / size:9.1%}")
    print()
    inventory = streams.inventory(split)
    for line in dataclasses.replace(inventory, places=tuple(loader.with_counts(inventory.places))).lines():
        print(line)
    print()
    for line in loader.left_out_lines():
        print(line)
    timed = size - loader.length  # without the first window
    speed = f", {timed / seconds:,.0f} tokens per second" if timed else ""
    print(f"{size:,} tokens in windows of {loader.length:,}{speed}")


def print_example(stream: str, packed: PackedDocument, tokenizer: Tokenizer, color: bool) -> None:
    """Prints one document: a heading, its text with prefix, middle and suffix marked, and its first ids."""
    paint = COLORS if color else dict.fromkeys(COLORS, "")
    width = min(shutil.get_terminal_size().columns, 120)
    heading = f"{stream}  {packed.kind}  {packed.document.path}  {len(packed.tokens):,} tokens"
    print(f"{paint['faint']}{'─' * width}{paint['end']}\n{heading}")
    for part, text in parts(packed, tokenizer):
        label = f"[{part}] " if part != "text" else ""
        shown = text if len(text) <= EXCERPT else f"{text[: EXCERPT // 2]} … {text[-EXCERPT // 2 :]}"
        print(f"{paint['faint']}{label}{paint['end']}{paint.get(part, '')}{shown}{paint['end']}")
    ids = " ".join(map(str, packed.tokens[:24]))
    print(f"{paint['faint']}ids {ids}{' …' if len(packed.tokens) > 24 else ''}{paint['end']}")


def parts(packed: PackedDocument, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """(name, text) of the document's parts, in the order of its ids."""
    if packed.split is None or not isinstance(packed.document, Document):
        return [("text", tokenizer.decode(packed.tokens))]
    prefix, middle, suffix = packed.split.parts(packed.document.text)
    if packed.kind == "psm":
        return [("prefix", prefix), ("suffix", suffix), ("middle", middle)]
    return [("suffix", suffix), ("prefix", prefix), ("middle", middle)]


if __name__ == "__main__":
    sys.exit(main())
