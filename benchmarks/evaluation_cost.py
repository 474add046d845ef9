"""The cost of evaluations during training at the published sizes: writes benchmarks/evaluation_cost.md.

    PYTHONPATH=.:.venv/tpu_compiler python benchmarks/evaluation_cost.py     takes three minutes on two cores

The train step of every stage, and the forward pass over a batch of benchmarks, are compiled for the slice of the size
file by XLA's TPU compiler (codellama_jax/planning/evaluation_cost.py). Nothing is measured.
"""

import argparse
import datetime
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

from result_file import paragraph

from codellama_jax.config import gin_files
from codellama_jax.config.training import BENCHMARKS, DEFAULT_BENCHMARKS
from codellama_jax.planning.aot_compile import require_compiler
from codellama_jax.planning.chips import topology
from codellama_jax.planning.planner import plan
from codellama_jax.planning.progress import Progress
from codellama_jax.planning.step_config import shaping_config

SLICES = {"7b": "v5p:4x4x4", "13b": "v5p:4x4x4", "34b": "v5p:4x4x4", "70b": "v5p:4x8x8"}
STAGES = ("code", "lcft", "instruct")
SETS = {"default": DEFAULT_BENCHMARKS, "all six": BENCHMARKS}


def rows(progress: Progress) -> list[str]:
    lines = [
        "| size | stage | slice | steps between evaluations | their time | validation | benchmarks | tokens | seconds"
        " | evaluations, of the time | benchmarks, of the time |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for size, name in SLICES.items():
        for stage in STAGES:
            for label, benchmarks in SETS.items():
                settings = ["Evaluation.benchmark_data=DATA", f"Evaluation.benchmarks={list(benchmarks)}"]
                config = shaping_config(gin_files.load([f"gin/{stage}.gin", f"gin/models/{size}.gin"], settings))
                cost: dict[str, Any] = plan(config, topology(name), progress, estimate=False)["evaluation"]
                measured = cost["benchmarks"]
                lines.append(
                    f"| {size} | {stage} | {name} | {cost['every']:,} | {cost['interval_seconds'] / 3600:.2f} h"
                    f" | {cost['validation']['seconds']:.1f} s | {label} | {measured['tokens']:,}"
                    f" | {measured['seconds']:.2f} | {cost['share']:.2%} | {cost['benchmarks_share']:.3%} |"
                )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    require_compiler()
    table = rows(Progress())
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("jax", "libtpu"))
    text = f"""Compiled with {versions}, for slices that were not there: **nothing here is measured.** Times are bounds,
        of the step and of the benchmarks alike (docs/pods.md). The batches of benchmarks are compiled as they are, and
        a validation is counted as a third of as many steps. Tokens include padding. The default set is
        {", ".join(DEFAULT_BENCHMARKS)}; infilling is measured in both orders, where the model has infilling ids. A row
        is what plan prints with --no_estimate and --gin.Evaluation.benchmark_data=DIR."""
    lines = [
        f"# The cost of evaluations during training, {datetime.date.today().isoformat()}",
        "",
        "    PYTHONPATH=.:.venv/tpu_compiler python benchmarks/evaluation_cost.py",
        "",
        *paragraph(text),
        *table,
    ]
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    sys.exit(main())
