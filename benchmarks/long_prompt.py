"""Memory of a prompt of 100,000 tokens: does the engine stay within the cache that was planned for it?

    python benchmarks/long_prompt.py --checkpoint=runs/local/code [--tokens=100000] [--out=FILE.md]

For each dtype of the cache, a process of its own opens the checkpoint, makes an engine whose cache has room for one
such prompt and its answer, compiles, and resets the peak of its resident memory (Linux). Then it processes the prompt
and generates some tokens. The planned bytes come from the shapes of the cache, without running anything.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from result_file import paragraph, processor

from codellama_jax.config.generation import Sampling, Serving
from codellama_jax.conversion.generation_model import open_model
from codellama_jax.generation import forward
from codellama_jax.generation.engine import Engine

TOKENS, ANSWER, EVERY = 100_000, 32, 64  # the processed tokens are printed after every so many steps
DTYPES = ("float32", "bfloat16", "int8")
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the memory of a long prompt.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="a stage of size local")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="length of the prompt")
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    parser.add_argument("--dtype", choices=DTYPES, help="measure one dtype in this process and print JSON")
    options = parser.parse_args()
    if options.dtype:
        print(json.dumps(measured(options.checkpoint, options.tokens, options.dtype)))
        return
    results = []
    for dtype in DTYPES:
        command = [sys.executable, __file__, f"--checkpoint={options.checkpoint}", f"--tokens={options.tokens}"]
        run = subprocess.run([*command, f"--dtype={dtype}"], stdout=subprocess.PIPE, check=True, text=True)
        results.append(json.loads(run.stdout.splitlines()[-1]))
    text = "\n".join(report(options.tokens, results))
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def measured(checkpoint: Path, tokens: int, dtype: str) -> dict[str, float | str]:
    """The figures of one dtype; memory in MiB."""
    model = open_model(checkpoint, None, "float32")
    serving = Serving(slots=1, context=tokens + ANSWER, chunks=(128,), cache_dtype=dtype)
    engine = Engine(model.weights, model.llama, serving, model.tokenizer.rows)
    # One more page than requests can have: inactive slots write to it.
    planned = jax.eval_shape(lambda: forward.new_cache(model.llama, engine.pool.count, serving.page, dtype))
    engine.warm_up()
    prompt = np.random.default_rng(0).integers(1, model.tokenizer.rows, tokens).tolist()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present value
    before = memory("VmRSS")
    start, pages, steps = time.perf_counter(), 0, 0
    request = engine.submit(prompt, Sampling(max_tokens=ANSWER, min_tokens=ANSWER))
    first = None
    while not request.finished:
        engine.step()
        pages = max(pages, engine.pool.used)
        if request.tokens and first is None:
            first = time.perf_counter() - start
        steps += 1
        if steps % EVERY == 0:
            print(f"{dtype}: {request.done:,} tokens", file=sys.stderr, flush=True)
    if len(request.tokens) != ANSWER or engine.pool.used:
        raise SystemExit(f"{len(request.tokens)} tokens of {ANSWER}, {engine.pool.used} pages in use")
    return {
        "dtype": dtype,
        "planned": sum(layer.size * layer.dtype.itemsize for layer in jax.tree.leaves(planned)) / MIB,
        "pages": pages,
        "planned_pages": engine.pool.count,
        "before": before,
        "peak": memory("VmHWM"),
        "seconds": first or 0,
        "shape": f"dim {model.llama.dim}, {model.llama.layers} layers, {model.llama.heads} heads,"
        f" {model.llama.kv_heads} of keys and values",
    }


def memory(name: str) -> float:
    """A figure of /proc/self/status in MiB."""
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def report(tokens: int, results: list[dict]) -> Iterator[str]:
    """The lines of the result file."""
    yield f"# A prompt of {tokens:,} tokens, {datetime.date.today()}"
    yield ""
    arguments = " ".join(argument for argument in sys.argv[1:] if not argument.startswith("--checkpoint"))
    yield f"    python benchmarks/long_prompt.py --checkpoint=runs/local/code {arguments}".rstrip()
    yield ""
    yield from paragraph(
        f"{os.cpu_count()} cores of {processor()}, shared; Python {platform.python_version()},"
        f" jax {importlib.metadata.version('jax')}. Size local ({results[0]['shape']}), weights float32, random tokens,"
        f" pages of 16 tokens, chunks of 128, {ANSWER} tokens generated after the prompt. The cache is allocated"
        " before; what is added while the prompt is processed is everything else: buffers of the programs, the"
        " prompt's ids and its hashes."
    )
    yield "| cache | planned, MiB | pages used, of planned | resident before, MiB | added by the prompt | prompt |"
    yield "|---|---|---|---|---|---|"
    for row in results:
        added = row["peak"] - row["before"]
        yield (
            f"| {row['dtype']} | {row['planned']:,.0f} | {row['pages']:,} of {row['planned_pages']:,} |"
            f" {row['before']:,.0f} | {added:,.0f} ({added / row['planned']:.1%} of the cache) |"
            f" {row['seconds']:,.0f} s |"
        )


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
