"""Serving of every size on TPU slices: writes the section "Serving" of docs/pods.md.

    python -m benchmarks.serving_pods [--out=docs/pods.md]     takes ten minutes on two cores; programs are cached

Every row is from the real programs of the engine, compiled for the slice by XLA's TPU compiler
(codellama_jax/planning/serving.py). Nothing is measured.
"""

import argparse
import datetime
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

from codellama_jax.config import gin_files
from codellama_jax.errors import UserError
from codellama_jax.planning.aot_compile import Compiler, require_compiler
from codellama_jax.planning.chips import GiB, topology
from codellama_jax.planning.progress import Progress
from codellama_jax.planning.serving import BATCHES, CONTEXTS, plan_serving
from codellama_jax.planning.step_config import shaping_config

HEADING = "## Serving"
SIZES = ("7b", "13b", "34b", "70b")
SLICES = ("v5e:2x4", "v6e:2x4", "v5p:2x2x2")
INT8 = "v5e:2x4"  # the slice on which a cache of 8-bit integers is planned too

TEXT = """{heading}

Written by `python -m benchmarks.serving_pods` on {date} (jax {jax}, libtpu {libtpu}); do not edit. Weights in bfloat16,
cut over all eight chips. The programs of the engine, decoding with 1 and 256 slots and a chunk of 512 tokens of a
prompt, are compiled with the largest cache with which they fit. **Nothing here is measured.** The bound counts bytes of
memory, products and bytes between chips, not the latency of communication, which matters at small batches.

"Moved" is the largest ratio, over all batches and contexts of the second table, of the bytes that a step of decoding
moves to those of weights and live cache, and where it is. On v5p the compiler keeps most activations of 256 requests in
main memory, on v5e and v6e on the chip. To reproduce a row:

    python -m codellama_jax.plan --serve --gin_file=gin/models/SIZE.gin --topology=SLICE [--cache_dtype=int8]

{summary}

Bound of the tokens/s of all requests together, by batch x context (- : the cache cannot hold it), bfloat16 cache:

{decode}
"""


def plans(progress: Progress, compiler: Compiler) -> list[dict[str, Any]]:
    found = []
    for size in SIZES:
        config = shaping_config(gin_files.load(["gin/code.gin", f"gin/models/{size}.gin"], ()))
        for name in SLICES:
            for cache in (None, "int8") if name == INT8 else (None,):
                progress.title = f"{size} on {name}, cache {cache or 'bfloat16'}"
                try:
                    found.append(plan_serving(config, topology(name), compiler, cache))
                except UserError as error:
                    sizes = {"size": size, "topology": name, "cache_dtype": cache}
                    found.append({**sizes, "refused": str(error), "fits": False})
    return found


def summary(found: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| size | slice | cache | fits | GiB of weights per chip | cache tokens | moved | prompts, tokens/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for plan in found:
        start = f"| {plan['size']} | {plan['topology']} | {plan['cache_dtype']} "
        if "refused" in plan:
            lines.append(start + f"| **no** | | | | {plan['refused']} |")
            continue
        weights = f"{plan['weight_bytes'] / GiB:.2f} of {plan['hbm_bytes'] / GiB:.2f}"
        if not plan["fits"]:
            lines.append(start + f"| **no** | {weights} | | | |")
            continue
        most = max(plan["decode"], key=lambda row: row["moved_ratio"])
        moved = f"{most['moved_ratio']:.3f}, {most['batch']} x {most['context']:,}"
        speed = plan["prefill"]["bound_tokens_per_second"]
        lines.append(start + f"| yes | {weights} | {plan['cache_tokens']:,} | {moved} | {speed:,.0f} |")
    return lines


def decoding(found: list[dict[str, Any]]) -> list[str]:
    points = [(batch, context) for batch in BATCHES for context in CONTEXTS]
    fitting = [plan for plan in found if plan["fits"] and plan["cache_dtype"] == "bfloat16"]
    names = [f"{plan['size']} {plan['topology']}" for plan in fitting]
    lines = [f"| batch x context | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    speeds = [
        {(row["batch"], row["context"]): f"{row['bound_tokens_per_second']:,.0f}" for row in plan["decode"]}
        for plan in fitting
    ]
    for point in points:
        cells = [each.get(point, "-") for each in speeds]
        if set(cells) != {"-"}:
            lines.append(f"| {point[0]} x {point[1]:,} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=gin_files.ROOT / "docs" / "pods.md")
    options = parser.parse_args()
    require_compiler()
    progress = Progress()

    found = plans(progress, Compiler(progress))
    section = TEXT.format(
        heading=HEADING,
        date=datetime.date.today().isoformat(),
        jax=importlib.metadata.version("jax"),
        libtpu=importlib.metadata.version("libtpu"),
        summary="\n".join(summary(found)),
        decode="\n".join(decoding(found)),
    )
    page = options.out.read_text(encoding="utf-8").partition(f"\n{HEADING}\n")[0]
    options.out.write_text(f"{page.rstrip()}\n\n{section}", encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    sys.exit(main())
