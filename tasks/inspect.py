"""Looks at the data as the trainer will see it.

    python -m tasks.inspect --list
    python -m tasks.inspect --task=code [--split=train] [--num_examples=3] [--sequence_length=N] [--seed=0]
                            [--json] [--stats] [--gin_file=gin/code.gin] [--gin.CODE_CORPUS=/path]

--task takes a task (code, python, nl_code, nl, instruct) or a stage's mixture (code_mixture). With gin files the data
is that of the stage they configure; without, documents are whole files in windows of 4,096 tokens.
"""

import argparse
import difflib
import io
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from codellama_jax.config import gin_files
from codellama_jax.config.data import SPLITS, STREAMS, Chat, Corpus, Filters, Fim, Mixture, Packing
from codellama_jax.config.data import DataLoader as StreamSettings
from codellama_jax.config.data import Tokenizer as TokenizerSettings
from codellama_jax.config.training import Stage
from codellama_jax.errors import EXIT_DONE, EXIT_USAGE, UserError
from codellama_jax.runtime import cli
from codellama_jax.runtime.console import quiet_stderr
from codellama_jax.tokenizer import Tokenizer
from tasks.packing import Packed
from tasks.sources import import_modules
from tasks.sources.base import Document
from tasks.tokenizer_training import trained_tokenizer

DATA = (Corpus, Filters, TokenizerSettings, Fim, Packing, StreamSettings, Chat)
SEQUENCE_LENGTH = 4096  # of code training in the paper; where no gin file says another
COLOURS = {"prefix": "\033[34m", "middle": "\033[32;1m", "suffix": "\033[35m", "faint": "\033[2m", "end": "\033[0m"}
KINDS = ("plain", "psm", "spm", "cut")
EXCERPT = 600  # characters shown of each part of an example


def main(argv: list[str] | None = None) -> int:
    """Prints what the flags ask for; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may not know all characters of a corpus
    parser = argparse.ArgumentParser(prog="python -m tasks.inspect", description="Shows tasks, mixtures and documents.")
    parser.add_argument("--list", action="store_true", help="list tasks and mixtures")
    parser.add_argument("--task", help="a task or a mixture")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--num_examples", type=at_least(1), help="documents to show (3), or to count in --stats (1000)")
    parser.add_argument("--sequence_length", type=at_least(1), help="tokens of a window")
    parser.add_argument("--seed", type=at_least(0), help="instead of DataLoader.seed")
    parser.add_argument("--json", action="store_true", help="one object a document: stream, kind, text, tokens")
    parser.add_argument("--stats", action="store_true", help="shares, kinds, epochs, what is left out, tokens a second")
    return cli.run(parser, argv, _show)


def _show(flags: gin_files.Flags, options: argparse.Namespace) -> int:
    try:
        if options.list:
            list_mixtures(flags.bindings)
        elif options.task:
            inspect(flags, options)
        else:
            raise UserError("nothing asked for: use --list, or --task=NAME with one of its names", EXIT_USAGE)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return EXIT_DONE


def at_least(minimum: int) -> Callable[[str], int]:
    """An argparse type: an integer that is no less than `minimum`."""

    def integer(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {minimum} on")
        return int(text)

    return integer


def list_mixtures(bindings: list[str]) -> None:
    """Prints the tasks, and each stage's mixture with its shares."""
    print("tasks: " + "  ".join(STREAMS))
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
        known = [*STREAMS, *(f"{stage}_mixture" for stage in stages)]
        near = difflib.get_close_matches(options.task, known, 2)
        hint = f"did you mean {' or '.join(near)}? The" if near else "the"
        message = f"unknown task {options.task}: {hint} tasks and mixtures are {', '.join(known)}"
        raise UserError(message, EXIT_USAGE)
    if flags.gin_files or mixture_stage:
        files = flags.gin_files or [str(stages[mixture_stage or options.task])]
        bindings = gin_files.load(files, flags.bindings, default_size="local", imports=flags.imports)
        length = bindings.resolve(Stage).stage.sequence_length
    else:
        bindings = gin_files.load(["gin/data.gin"], flags.bindings, imports=flags.imports)
        length = SEQUENCE_LENGTH
    config = bindings.resolve(*DATA)
    import_modules(config.imports)
    mixture = bindings.resolve(Mixture).mixture if mixture_stage else Mixture({options.task: 1.0})
    tokenizer = trained_tokenizer(
        config.corpus, config.filters, config.tokenizer, lambda line: print(line, file=sys.stderr)
    )
    if not options.json:
        print("loading TensorFlow and SeqIO", file=sys.stderr)
    stage = mixture_stage or "inspected"
    length = options.sequence_length or length
    stream = open_stream(config, stage, mixture, tokenizer, options.split, length, options.seed)
    if options.stats:
        print_stats(stream, mixture, options.num_examples or 1000)
        return
    documents = (begun for batch in iter(stream.next_batch, None) for begun in batch.begun)
    for _, (stream, packed) in zip(range(options.num_examples or 3), documents, strict=False):
        if options.json:
            print(json.dumps(as_json(stream, packed)))
        else:
            print_example(stream, packed, tokenizer, colour=sys.stdout.isatty())


def open_stream(
    config: Any, stage: str, mixture: Mixture, tokenizer: Tokenizer, split: str, length: int, seed: int | None
) -> Any:
    """The mixture's tasks/loader.py Stream, window by window."""
    with quiet_stderr():
        from tasks import mixtures
    from tasks.loader import DataLoader

    seed = config.data_loader.seed if seed is None else seed
    registered = mixtures.register(
        stage,
        mixture,
        corpus=config.corpus,
        filters=config.filters,
        tokenizer=tokenizer,
        fim=config.fim,
        packing=config.packing,
        chat=config.chat,
        seed=seed,
    )
    return DataLoader(
        mixtures.stream_tasks(registered, split),
        mixtures.shares(registered),
        seed=seed,
        readers=1,
        batch_size=1,
        length=length,
        mask_documents=config.packing.mask_documents,
        queue=config.packing.queue,
    )


def as_json(stream: str, packed: Packed) -> dict[str, Any]:
    """The contract of --json: stream, kind, text (the untransformed document) and tokens (ids, with BOS and EOS)."""
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


def print_stats(stream: Any, mixture: Mixture, count: int) -> None:
    """Reads until so many documents have begun; prints streams, kinds, what was left out, and tokens a second."""
    documents: dict[str, Counter[str]] = {name: Counter() for name in mixture.shares}
    tokens: dict[str, Counter[str]] = {name: Counter() for name in mixture.shares}
    started, batch = 0.0, None
    while sum(map(Counter.total, documents.values())) < count:
        batch = stream.next_batch()
        started = started or time.perf_counter()  # the first one waits for listings
        for name, packed in batch.begun:
            documents[name][packed.kind] += 1
        for name, kinds in batch.kinds.items():
            tokens[name] += kinds
    seconds = time.perf_counter() - started
    total = sum(map(Counter.total, tokens.values()))
    epochs = stream.epochs(batch.state) if batch else {}

    print(f"{'stream':10s}{'planned':>9s}{'seen':>9s}{'tokens':>15s}{'documents':>12s}{'epochs':>9s}")
    for name, share in mixture.shares.items():
        if not share:
            continue
        of = tokens[name].total()
        print(f"{name:10s}{share:9.1%}{of / total:9.1%}{of:15,d}{documents[name].total():12,d}{epochs[name]:9.3f}")
    print()
    kinds = sum(tokens.values(), Counter[str]()), sum(documents.values(), Counter[str]())
    print(f"{'kind':10s}{'documents':>12s}{'share':>9s}{'tokens':>15s}{'share':>9s}")
    for kind in KINDS:
        begun, of = kinds[1][kind], kinds[0][kind]
        print(f"{kind:10s}{begun:12,d}{begun / max(kinds[1].total(), 1):9.1%}{of:15,d}{of / total:9.1%}")
    print()
    for line in stream.left_out_lines():
        print(line)
    timed = total - stream.length  # but for the first window
    speed = f", {timed / seconds:,.0f} tokens a second" if timed else ""
    print(f"{total:,} tokens in windows of {stream.length:,}{speed}")


def print_example(stream: str, packed: Packed, tokenizer: Tokenizer, colour: bool) -> None:
    """One document: a heading, its text with prefix, middle and suffix marked, and its first ids."""
    paint = COLOURS if colour else dict.fromkeys(COLOURS, "")
    width = min(shutil.get_terminal_size().columns, 120)
    heading = f"{stream}  {packed.kind}  {packed.document.path}  {len(packed.tokens):,} tokens"
    print(f"{paint['faint']}{'─' * width}{paint['end']}\n{heading}")
    for part, text in parts(packed, tokenizer):
        label = f"[{part}] " if part != "text" else ""
        shown = text if len(text) <= EXCERPT else f"{text[: EXCERPT // 2]} … {text[-EXCERPT // 2 :]}"
        print(f"{paint['faint']}{label}{paint['end']}{paint.get(part, '')}{shown}{paint['end']}")
    ids = " ".join(map(str, packed.tokens[:24]))
    print(f"{paint['faint']}ids {ids}{' …' if len(packed.tokens) > 24 else ''}{paint['end']}")


def parts(packed: Packed, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """(name, text) of the document's parts in the order in which its ids give them."""
    if packed.cut is None or not isinstance(packed.document, Document):
        return [("text", tokenizer.decode(packed.tokens))]
    prefix, middle, suffix = packed.cut.parts(packed.document.text)
    if packed.kind == "psm":
        return [("prefix", prefix), ("suffix", suffix), ("middle", middle)]
    return [("suffix", suffix), ("prefix", prefix), ("middle", middle)]


if __name__ == "__main__":
    sys.exit(main())
