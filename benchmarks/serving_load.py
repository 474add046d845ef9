"""The server under load: 64 clients for two minutes, beside the same engine without HTTP, and with bad clients.

    python benchmarks/serving_load.py --checkpoint=runs/local/code [--out=FILE]

`python -m codellama_jax.serve` runs in a process of its own, and this program has the clients. A round has three turns,
in which the same random infilling requests are answered: by an engine with the same settings in this process, which is
given 64 requests at a time, with its prompts encoded and its tokens decoded to text; by the server, for 64 clients,
each of which sends its next request over the same connection when an answer is complete, and reads it as a stream; and
by the server while further clients die in the middle of an answer, read a byte every 50 ms, or send garbage. The
server's first start fills the cache of compiled programs, if it is empty; then it is started again several times.
"""

import argparse
import asyncio
import dataclasses
import datetime
import importlib.metadata
import itertools
import json
import os
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from load_client import Figures, cancel, load, misbehave
from result_file import paragraph, processor

from codellama_jax.config.generation import DRAFT_TOKENS, SERVER_BATCHES, Sampling, Serving
from codellama_jax.conversion.generation_model import open_model
from codellama_jax.generation import prompts
from codellama_jax.generation.engine import Engine, Request
from codellama_jax.generation.stopping import TextStream, TokenTexts

ROOT = Path(__file__).resolve().parent.parent
CLIENTS, SECONDS = 64, 120
CONTEXT, ANSWER = 512, 64  # tokens
PAGES = "codellama_jax_cache_pages_used"  # of /metrics
SOURCE = Path(textwrap.__file__).read_text(encoding="utf-8")


def body(number: int) -> dict[str, Any]:
    """The request with this number: infilling at a random place of a file, sampled with a seed."""
    rng = random.Random(number)
    place = rng.randrange(600, len(SOURCE) - 300)
    prompt = SOURCE[place - rng.randrange(100, 500) : place]
    suffix = SOURCE[place : place + rng.randrange(50, 200)]
    return {
        "prompt": f"# {number}\n{prompt}",  # no two prompts begin with the same tokens
        "suffix": suffix,
        "max_tokens": ANSWER,
        "temperature": 0.8,
        "seed": number,
    }


class Offline:
    """The engine without HTTP."""

    def __init__(self, checkpoint: Path, slots: int):
        model = open_model(checkpoint, None, "float32")
        self.tokenizer, self.texts = model.tokenizer, TokenTexts(model.tokenizer)
        serving = Serving(slots=slots, context=CONTEXT, batches=SERVER_BATCHES, draft_tokens=DRAFT_TOKENS)
        self.engine = Engine(model.weights, model.llama, serving, model.tokenizer.rows)
        self.engine.warm_up()

    def run(self, seconds: float, numbers: Iterator[int]) -> tuple[float, float]:
        """Tokens a second, and seconds of processor time a token."""
        start, own_start, tokens = time.perf_counter(), time.process_time(), 0
        answers: list[Answer] = []
        while time.perf_counter() - start < seconds:
            answers += [self._submit(next(numbers)) for _ in range(CLIENTS - len(answers))]
            self.engine.step()
            tokens += sum(answer.read() for answer in answers)
            answers = [answer for answer in answers if not answer.request.finished]
        elapsed, cpu = time.perf_counter() - start, time.process_time() - own_start
        for answer in answers:
            self.engine.finish(answer.request)
        return tokens / elapsed, cpu / tokens

    def _submit(self, number: int) -> "Answer":
        fields = body(number)
        prompt = prompts.infill(self.tokenizer, self.texts, fields["prompt"], fields["suffix"])
        sampling = Sampling(max_tokens=ANSWER, temperature=fields["temperature"], seed=number)
        request = self.engine.submit(prompt.ids, sampling, prompt.stop_ids, prompt.allowed)
        return Answer(request, TextStream(self.texts, (), prompt.skip))


class Answer:
    """A request of the engine, and its text."""

    def __init__(self, request: Request, stream: TextStream):
        self.request, self._stream, self._read = request, stream, 0

    def read(self) -> int:
        """Decodes new tokens to text; returns their number."""
        new = self.request.tokens[self._read :]
        self._read += len(new)
        self._stream.add(new)
        return len(new)


class Server:
    """`python -m codellama_jax.serve` in a process of its own.

    Attributes:
        port: where it listens.
        ready: seconds from its start until it was ready.
    """

    def __init__(self, checkpoint: Path, slots: int):
        flags = [f"--checkpoint={checkpoint}", "--port=0", f"--slots={slots}", f"--context={CONTEXT}"]
        start = time.perf_counter()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed by __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", "codellama_jax.serve", *flags, "--dtype=float32"],
            cwd=ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self.port = 0
        while not self._is_ready():
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended: {self._written().decode()}")
            time.sleep(0.02)
        self.ready = time.perf_counter() - start

    def _written(self) -> bytes:
        """What the server has written."""
        return os.pread(self._log.fileno(), 2**20, 0)

    def _is_ready(self) -> bool:
        if not self.port:
            found = re.search(rb"http://127.0.0.1:(\d+)", self._written())
            self.port = int(found[1]) if found else 0
        if not self.port:
            return False
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz") as response:
                return response.status == 200
        except urllib.error.URLError:  # it does not listen yet, or it is loading
            return False

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def pages(self) -> int:
        """Pages of the cache that requests use."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as response:
            text = response.read().decode()
        return int(float(next(line.split()[-1] for line in text.splitlines() if line.startswith(PAGES + " "))))

    def memory(self) -> int:
        """Peak memory in bytes."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise RuntimeError("the server did not end within 30 s of a signal") from None
        finally:
            self._log.close()


@dataclasses.dataclass
class Turn:
    """One turn of the clients: what they saw, its seconds, and seconds of processor time of server and clients."""

    figures: Figures
    seconds: float
    server: float
    clients: float
    bad: int  # connections of bad clients

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.figures.tokens / self.seconds


Round = tuple[tuple[float, float], Turn, Turn]  # the first is what Offline.run returns


def turn(server: Server, seconds: float, numbers: Iterator[int], bad: bool) -> Turn:
    """Lets the clients work for some time."""
    start, server_start, own_start = time.perf_counter(), server.cpu(), time.process_time()

    def next_body() -> bytes | None:
        if time.perf_counter() - start > seconds:
            return None
        return encoded(next(numbers))

    async def run() -> tuple[Figures, int]:
        stop = asyncio.Event()
        others = asyncio.ensure_future(misbehave(server.port, stop, lambda: encoded(next(numbers)))) if bad else None
        figures = await load(server.port, CLIENTS, next_body)
        stop.set()
        return figures, await others if others else 0

    figures, connections = asyncio.run(run())
    elapsed = time.perf_counter() - start
    return Turn(figures, elapsed, server.cpu() - server_start, time.process_time() - own_start, connections)


def encoded(number: int) -> bytes:
    fields = body(number) | {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(fields).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the server under load.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="a stage of size local")
    parser.add_argument("--slots", type=int, default=16, help="of the server and of the engine without HTTP")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of load in each of the two conditions")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--cancelled", type=int, default=1000, help="requests that are cancelled at the end")
    parser.add_argument("--starts", type=int, default=3, help="counted starts of the server")
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    options = parser.parse_args()
    started = time.monotonic()
    starts = []
    for _ in range(options.starts + 1):
        with Server(options.checkpoint, options.slots) as server:
            starts.append(server.ready)
    del starts[0]  # it may have filled the cache of programs
    offline = Offline(options.checkpoint, options.slots)
    rounds: list[Round] = []
    seconds = options.seconds / options.rounds
    with Server(options.checkpoint, options.slots) as server:
        for number in range(options.rounds):
            first = number * 10**6
            alone = offline.run(seconds, itertools.count(first))
            good, bad = (turn(server, seconds, itertools.count(first + 10**5 * kind), kind == 2) for kind in (1, 2))
            rounds.append((alone, good, bad))
            speeds = f"{alone[0]:,.0f} tokens/s, server {good.rate:,.0f}, with bad clients {bad.rate:,.0f}"
            print(f"without HTTP {speeds}", flush=True)
        pages = asyncio.run(cancelled(server, options.cancelled))
        memory = server.memory()
    lines = report(options, starts, rounds, pages, memory, time.monotonic() - started)
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


async def cancelled(server: Server, count: int) -> int:
    """Cancels requests; returns the pages in use when the server has noticed."""
    numbers = itertools.count(10**9)
    await cancel(server.port, count, lambda: encoded(next(numbers)))
    for _ in range(100):
        if not (pages := server.pages()):
            break
        await asyncio.sleep(0.1)
    return pages


def report(
    options: argparse.Namespace,
    starts: list[float],
    rounds: list[Round],
    pages: int,
    memory: int,
    seconds: float,
) -> Iterator[str]:
    """The lines of the result file."""
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--checkpoint")]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "starlette", "uvicorn"))
    yield f"# The server under load, {datetime.date.today()}"
    yield ""
    yield f"    python benchmarks/serving_load.py --checkpoint=runs/local/code {' '.join(arguments)}".rstrip()
    yield ""
    yield from paragraph(
        f"{os.cpu_count()} cores of {processor()}, shared; Python {platform.python_version()}, {versions}; float32."
        f" {CLIENTS} clients, {options.slots} slots, context {CONTEXT}, answers of at most {ANSWER} tokens, read as"
        f" streams; {options.rounds} rounds of {options.seconds / options.rounds:.0f} s a turn; {seconds:.0f} s in"
        " total. Server and clients share the cores."
    )
    yield "| | tokens/s | of those without HTTP | CPU, ms a token | errors |" + (
        " first token, ms: p50 | p99 | pause between parts, ms: p50 | p99 | each further token, ms: p50 | p99 |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    speeds = statistics.median(alone for (alone, _), *_ in rounds)
    yield (
        f"| engine without HTTP | {speeds:,.0f} | 1 | {1e3 * statistics.median(cpu for (_, cpu), *_ in rounds):.2f} |"
        + (" | | | | | | |")
    )
    for name, kind in (("server", 1), ("server, with bad clients", 2)):
        turns: list[Turn] = [measured[kind] for measured in rounds]  # type: ignore[misc]
        ratios = [each.rate / measured[0][0] for each, measured in zip(turns, rounds, strict=True)]
        figures = [each.figures for each in turns]
        yield (
            f"| {name} | {statistics.median(each.rate for each in turns):,.0f} | {statistics.median(ratios):.2f}"
            f" ({min(ratios):.2f} .. {max(ratios):.2f}) |"
            f" {1e3 * statistics.median(each.server / each.figures.tokens for each in turns):.2f} |"
            f" {sum(len(each.errors) for each in figures)} |"
            f" {two([value for each in figures for value in each.first])} |"
            f" {two([value for each in figures for value in each.pauses])} |"
            f" {two([value for each in figures for value in each.per_token])} |"
        )
    yield ""
    for error in {error for _, *turns in rounds for each in turns for error in each.figures.errors}:
        yield f"* {error!r}"
    good, bad = ([measured[kind] for measured in rounds] for kind in (1, 2))
    shares = [
        100 * sum(part) / sum(each.seconds for each in good)
        for part in zip(*((each.server, each.clients) for each in good), strict=True)
    ]
    yield from paragraph(
        f"{sum(len(each.figures.first) for each in good):,} requests, and"
        f" {sum(len(each.figures.first) for each in bad):,} beside {sum(each.bad for each in bad):,} connections of bad"
        " clients (two each of those that die in an answer, read a byte every 50 ms, and send garbage). The requests of"
        " the first two kinds take slots until they go away, and are not counted in the tokens. Without bad clients"
        f" the server used {shares[0]:.0f}% of a core and the clients {shares[1]:.0f}%. A part of an"
        " answer has up to four tokens. The first token includes waiting for a slot."
    )
    yield from paragraph(
        f"After {options.cancelled:,} further requests that were cancelled by closing the connection, requests used"
        f" {pages} pages of the cache. The server's memory had a peak of {memory / 2**20:,.0f} MiB. From the start of"
        f" the process to readiness, with compiled programs in the cache: {statistics.median(starts):.1f} s (median of"
        f" {len(starts)}; {min(starts):.1f} .. {max(starts):.1f})."
    )


def two(seconds: list[float]) -> str:
    """Two cells: median and 99th percentile, in milliseconds."""
    return " | ".join(f"{1e3 * value:,.1f}" for value in np.quantile(seconds, (0.5, 0.99)))


if __name__ == "__main__":
    main()
