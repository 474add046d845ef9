"""Measures the data pipeline: tokens per CPU-second, effect of the queue, state, time to the first batch, memory.

    python benchmarks/data.py --tokenizer=/path/to/llama2/tokenizer.model [--rounds=5] [--out=benchmarks/data.md]

The corpus is the standard library of the Python that runs this program, including its tests. The complete pipeline
runs in one process: files are read, filtered, shuffled, transformed for infilling, encoded, packed and stacked into
batches. For comparison, SentencePiece only encodes the same texts from memory. A round measures both; results are
medians over rounds. Times are CPU times of the process (time.process_time).
"""

import argparse
import dataclasses
import datetime
import gzip
import importlib.metadata
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sized
from pathlib import Path
from typing import Any

import numpy as np
from result_file import processor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from codellama_jax.config.data import Chat, Corpus, Filters, Fim
from codellama_jax.tokenizer import SentencePieceTokenizer, Tokenizer
from tasks import sources
from tasks.encoder import Encoder
from tasks.loader import DataLoader, LoaderState, StreamInput, stream_seed
from tasks.sources.base import Source, items
from tasks.sources.folder import SKIPPED_FOLDERS, Folder

LENGTHS = (4_096, 16_384)
QUEUES = (0, 4, 16, 64)
MANY_FILES = 100_000
SMALL, LARGE = 40, 400  # megabytes of the corpora for the measurement of memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=3_000_000, help="tokens per measurement")
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    parser.add_argument("--peak", help=argparse.SUPPRESS)  # a corpus: read it and print the peak memory of this process
    parser.add_argument("--first", help=argparse.SUPPRESS)  # a folder: print the seconds to the first batch
    options = parser.parse_args()
    tokenizer = SentencePieceTokenizer.from_file(options.tokenizer, infilling=True)
    if options.peak:
        print(peak_memory(tokenizer, options.peak))
    elif options.first:
        print(json.dumps(first_batch(tokenizer, options.first)))
    else:
        text = "".join(line + "\n" for line in result(tokenizer, options))
        print(text)
        if options.out:
            options.out.write_text(text)


def result(tokenizer: SentencePieceTokenizer, options: argparse.Namespace) -> Iterator[str]:
    """The lines of the result file."""
    source = library()
    texts = library_texts()
    whole = tokenizer._plain.encode  # SentencePiece itself, without conversion to arrays
    lengths = [len(tokenizer.encode(text)) + 2 for text in texts]
    yield f"# Data pipeline, {datetime.date.today()}"
    yield ""
    yield f"    python benchmarks/data.py {' '.join(sys.argv[1:])}".replace(str(options.tokenizer), "tokenizer.model")
    yield ""
    packages = ("numpy", "sentencepiece", "seqio", "tensorflow")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    yield f"{os.cpu_count()} cores of {processor()}, shared; Python {platform.python_version()}, {versions}."
    yield f"Corpus: {len(texts):,} files of the standard library, {sum(lengths):,} tokens of Llama 2's tokenizer."
    yield ""

    yield "## Tokens per CPU-second"
    yield ""
    yield f"Medians over {options.rounds} rounds; each measurement {options.tokens:,} tokens, infilling rate 0.9."
    yield "`tokens` and `documents`: the share of each with infilling. `limit`: the share of the corpus's tokens that"
    yield "are in documents that fit into a window, times the rate 0.9. No queue can exceed it."
    yield ""
    yield "| length | queue | tokens per CPU-second | relative to SentencePiece alone | tokens | documents | limit |"
    yield "|---|---|---|---|---|---|---|"
    for length in LENGTHS:
        limit = 0.9 * sum(n for n in lengths if n <= length) / sum(lengths)
        for queue in QUEUES:
            # one loader for all rounds, so that each round continues where the one before ended
            stream = code_stream(tokenizer, source, length, queue)
            seen = Seen(Counter(), Counter())
            encoding, pipeline = [], []
            for _ in range(options.rounds):
                encoding.append(cpu_rate(encode, whole, texts, options.tokens))
                pipeline.append(cpu_rate(draw, stream, options.tokens, seen))
            ratio = statistics.median(p / a for p, a in zip(pipeline, encoding, strict=True))
            rate = statistics.median(pipeline)
            shares = f"{infilling(seen.tokens):.1%} | {infilling(seen.documents):.1%}"
            yield f"| {length:,} | {queue} | {rate:,.0f} | {ratio:.2f} | {shares} | {limit:.1%} |"
    yield ""
    alone, parts = [], []
    for _ in range(2 * options.rounds):
        alone.append(cpu_rate(encode, whole, texts, options.tokens))
        parts.append(cpu_rate(encode, tokenizer.encode, texts, options.tokens))
    ratios = [b / a for a, b in zip(alone, parts, strict=True)]
    yield "SentencePiece encodes whole texts, the tokenizer cuts them into parts at ends of lines: in"
    yield f"{2 * options.rounds} rounds of the two without the pipeline, {statistics.median(alone):,.0f} and"
    yield f"{statistics.median(parts):,.0f} tokens per CPU-second, a ratio of {statistics.median(ratios):.2f}"
    yield f"({min(ratios):.2f} to {max(ratios):.2f})."
    yield ""

    yield "## State of 64 readers, 3 streams"
    yield ""
    yield "Save: time to write the state as JSON and sync it to disk. Resume: time from the state to the first batch"
    yield "of 64 windows of 4,096 tokens. Start: the same for a loader without a state."
    yield ""
    yield "| queue | integers | bytes | JSON bytes | save, ms | resume, s | start, s |"
    yield "|---|---|---|---|---|---|---|"
    for queue in QUEUES:
        yield state_row(tokenizer, queue, options.rounds)
    yield ""

    with tempfile.TemporaryDirectory() as folder:
        yield "## First batch"
        yield ""
        many = make_files(Path(folder, "many"))
        seconds = json.loads(run_with_flag(options.tokenizer, f"--first={many}"))
        yield f"{MANY_FILES:,} files in 2,000 folders, 64 readers, windows of 4,096: after the imports (TensorFlow and"
        yield f"SeqIO, {seconds['imports']:.1f} s) the source was listed and split in {seconds['listed']:.1f} s, the"
        yield f"first batch was ready {seconds['batch']:.1f} s after the imports."
        yield ""
        yield "## Memory"
        yield ""
        yield "Peak resident memory of a process that draws 2,000 windows of 4,096 tokens with 8 readers, including"
        yield "SentencePiece and NumPy. The list of a folder's files is in memory: see First batch."
        yield ""
        yield f"| corpus | {SMALL} MB | {LARGE} MB |"
        yield "|---|---|---|"
        for suffix in (".jsonl", ".jsonl.gz", ".parquet"):
            peaks = []
            for megabytes in (SMALL, LARGE):
                corpus = make_records(Path(folder, f"corpus-{megabytes}{suffix}"), megabytes)
                peaks.append(float(run_with_flag(options.tokenizer, f"--peak={corpus}")))
                corpus.unlink()
            yield f"| {suffix} | {peaks[0]:,.0f} MiB | {peaks[1]:,.0f} MiB |"


def code_stream(tokenizer: Tokenizer, source: Source, length: int, queue: int) -> DataLoader:
    task = StreamInput("code", source, Encoder(tokenizer, Fim(), Chat(), stream_seed(0, "code/code")))
    return DataLoader(
        [task], {"code": 1.0}, seed=0, readers=4, batch_size=4, length=length, mask_documents=False, queue=queue
    )


@dataclasses.dataclass
class Seen:
    """Number of tokens and of documents by kind."""

    tokens: Counter[str]
    documents: Counter[str]


def infilling(kinds: Counter[str]) -> float:
    """The share of infilling forms."""
    return (kinds["psm"] + kinds["spm"]) / kinds.total()


def draw(stream: DataLoader, tokens: int, seen: Seen) -> int:
    """Draws batches until they have at least `tokens` tokens; returns their number."""
    drawn = 0
    while drawn < tokens:
        batch = stream.next_batch()
        drawn += batch.arrays["tokens"].size
        seen.tokens += batch.tokens["code"]
        seen.documents.update(packed.kind for _, packed in batch.started)
    return drawn


def encode(encoder: Callable[[str], Sized], texts: list[str], tokens: int) -> int:
    """Encodes texts, starting at a random one, until there are at least `tokens` tokens; returns their number."""
    encoded, index = 0, random.randrange(len(texts))
    while encoded < tokens:
        encoded += len(encoder(texts[index % len(texts)]))
        index += 1
    return encoded


def cpu_rate(work: Callable[..., int], *arguments: Any) -> float:
    """Calls `work`; returns its result per CPU-second."""
    start = time.process_time()
    return work(*arguments) / (time.process_time() - start)


def state_row(tokenizer: Tokenizer, queue: int, rounds: int) -> str:
    shares = {"code": 0.85, "nl_code": 0.08, "nl": 0.07}
    tasks = [
        StreamInput(
            name,
            sources.open(None, name, "train", Corpus(), Filters()),
            Encoder(tokenizer, Fim(), Chat(), stream_seed(0, f"code/{name}")),
        )
        for name in shares
    ]

    def stream(state: LoaderState | None = None) -> DataLoader:
        return DataLoader(
            tasks,
            shares,
            seed=0,
            readers=64,
            batch_size=64,
            length=4_096,
            mask_documents=False,
            queue=queue,
            state=state,
        )

    def seconds(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    loader = stream()
    first = seconds(loader.next_batch)
    for _ in range(3):
        state = loader.next_batch().state
    positions, text = state.positions, ""
    saves = []
    with tempfile.NamedTemporaryFile("w") as file:
        for _ in range(rounds):
            start = time.perf_counter()
            state = loader.state()
            text = json.dumps({"batch": state.batch, "positions": state.positions.tolist()})
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            saves.append(time.perf_counter() - start)
    saved = json.loads(text)
    restored = LoaderState(saved["batch"], np.array(saved["positions"], np.int64))
    resume = seconds(lambda: stream(restored).next_batch())
    size = f"{positions.size:,} | {positions.nbytes:,} | {len(text):,}"
    return f"| {queue} | {size} | {statistics.median(saves) * 1e3:.0f} | {resume:.1f} | {first:.1f} |"


def library() -> Folder:
    """The complete standard library."""
    skip = SKIPPED_FOLDERS | {"site-packages", "dist-packages"}
    return Folder(sysconfig.get_path("stdlib"), "train", corpus=Corpus(validation_share=0), skip=skip)


def library_texts() -> list[str]:
    source = library()
    return [item.text for shard in range(len(source)) for item in items(source, shard)]


def make_files(root: Path) -> Path:
    """A folder of MANY_FILES short Python files."""
    lines = [line for text in library_texts()[:200] for line in text.split("\n")]
    rng = random.Random(0)
    for number in range(MANY_FILES):
        folder = root / f"repository{number // 1000}" / f"folder{number // 50 % 20}"
        if number % 50 == 0:
            folder.mkdir(parents=True)
        start = rng.randrange(len(lines) - 40)
        (folder / f"file{number}.py").write_text("\n".join(lines[start : start + 40]) + "\n")
    return root


def make_records(path: Path, megabytes: int) -> Path:
    """A file of records with random texts of the standard library; the size is that of the uncompressed text."""
    texts, rng, written = library_texts(), random.Random(0), 0
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        schema = pyarrow.schema([("content", pyarrow.string())])
        with pyarrow.parquet.ParquetWriter(path, schema) as writer:
            while written < megabytes * 10**6:
                rows = [rng.choice(texts) for _ in range(1_000)]
                writer.write_table(pyarrow.table({"content": rows}, schema), row_group_size=1_000)
                written += sum(map(len, rows))
        return path
    with gzip.open(path, "wt", compresslevel=1) if path.suffix == ".gz" else path.open("w") as file:
        while written < megabytes * 10**6:
            written += file.write(json.dumps({"content": rng.choice(texts)}) + "\n")
    return path


def run_with_flag(tokenizer: Path, flag: str) -> str:
    """Runs this program with the flag in a separate process; returns its output."""
    command = [sys.executable, __file__, f"--tokenizer={tokenizer}", flag]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def peak_memory(tokenizer: Tokenizer, corpus: str) -> float:
    """Peak resident memory of this process after reading 250 batches, MiB."""
    import resource

    source = sources.open(corpus, "code", "train", Corpus(), Filters())
    task = StreamInput("code", source, Encoder(tokenizer, Fim(), Chat(), (0, 1)))
    stream = DataLoader([task], {"code": 1.0}, seed=0, readers=8, batch_size=8, length=4_096, mask_documents=False)
    for _ in range(250):
        stream.next_batch()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def first_batch(tokenizer: Tokenizer, folder: str) -> dict[str, float]:
    """Seconds of the imports, from their end to the listing of the source, and from their end to the first batch."""
    from codellama_jax.runtime.console import quiet_stderr

    start = time.perf_counter()
    with quiet_stderr():
        from tasks import mixtures  # noqa: F401 - what a SeqIO consumer imports
    from codellama_jax.config.data import DataLoader as LoaderSettings
    from codellama_jax.config.data import Mixture, Packing
    from codellama_jax.config.run import Config
    from tasks.streams import StageStreams

    imported = time.perf_counter()
    config = Config(
        mixture=Mixture({"code": 1.0}),
        corpus=Corpus(code=folder),
        filters=Filters(),
        fim=Fim(),
        chat=Chat(),
        data_loader=LoaderSettings(seed=0),
        packing=Packing(),
    )
    streams = StageStreams(config, tokenizer, "code").inputs("train")
    listed = time.perf_counter()
    stream = DataLoader(streams, {"code": 1.0}, seed=0, readers=64, batch_size=64, length=4_096, mask_documents=False)
    stream.next_batch()
    done = time.perf_counter()
    return {"imports": imported - start, "listed": listed - imported, "batch": done - imported}


if __name__ == "__main__":
    main()
