"""Compares the loss curves of settings that save memory or time with those of the defaults, with several seeds.

    python benchmarks/loss_curves.py --run_dir=DIR [--size=100M] [--steps=1500] [--seeds=3] [--out=FILE]

Trains the code stage of a size with each setting and seed, and compares the validation losses at the same steps and
seeds: the same documents, in the same order, from the same initial parameters. A run that DIR has is not repeated.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from result_file import paragraph, processor
from study.claim import estimate

ROOT = Path(__file__).resolve().parent.parent

# name -> bindings. Both train on the embedded corpora with their tokenizer, so that almost all parameters are layers.
SIZES: dict[str, tuple[str, ...]] = {
    "local": (),
    "100M": (
        *("Llama.dim=768", "Llama.layers=14", "Llama.heads=12", "Llama.kv_heads=12", "Llama.ffn_dim=2048"),
        *("CODE_LEARNING_RATE=2e-4", "CODE_WARMUP=20", "Llama.unroll=1"),
    ),
}

# name -> (the setting that it is compared with, bindings)
SETTINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "AdamW": ("", ()),
    "moments in 8 bits": ("AdamW", ("AdamW.first_moment_dtype='int8'", "AdamW.second_moment_dtype='int8'")),
    "Muon": ("AdamW", ("AdamW.matrices='muon'",)),
    "bfloat16": ("", ("Llama.compute_dtype='bfloat16'",)),
    "int8 products": ("bfloat16", ("Llama.compute_dtype='bfloat16'", "Llama.product_dtype='int8'")),
    "float8 products": ("bfloat16", ("Llama.compute_dtype='bfloat16'", "Llama.product_dtype='float8'")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_dir", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--size", choices=SIZES, default="local", help="size of the model")
    parser.add_argument("--steps", type=int, default=1_500, help="steps of a run")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--settings", default=",".join(SETTINGS), help="names of settings, joined by commas")
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    options = parser.parse_args()
    names = options.settings.split(",")
    losses = {
        name: [validation_losses(options, name, seed) for seed in range(options.seeds)]
        for name in sorted(names, key=list(SETTINGS).index)
    }
    text = "\n".join(report(options, losses))
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def validation_losses(options: argparse.Namespace, name: str, seed: int) -> dict[int, float]:
    """Trains unless the folder has the run; the validation losses by step."""
    run = f"{options.size}-{name.replace(' ', '_')}-{options.steps}-{seed}"
    stage = options.run_dir.resolve() / run / "code"
    every = options.steps // 5
    if max(read(stage), default=0) < options.steps:
        bindings = (
            *(f"CODE_STEPS={options.steps}", f"Evaluation.every={every}", f"Checkpoints.every={options.steps}"),
            *(f"Stage.seed={seed}", f"DataLoader.seed={seed}", "Evaluation.final_benchmarks=()"),
            *SIZES[options.size],
            *SETTINGS[name][1],
        )
        command = [
            sys.executable,
            "-m",
            "codellama_jax.train",
            "--gin_file=gin/code.gin",
            "--gin_file=gin/models/local.gin",
        ]
        command += [f"--run_dir={options.run_dir.resolve()}", f"--name={run}", *(f"--gin.{b}" for b in bindings)]
        environment = os.environ | {"CODELLAMA_JAX_LAUNCHER": "1"}  # so that it ends with this process
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=environment)
    return read(stage)


def read(stage: Path) -> dict[int, float]:
    """The validation losses of a stage so far, by step."""
    file = stage / "evaluations.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "validation"}


def report(options: argparse.Namespace, losses: dict[str, list[dict[int, float]]]) -> Iterator[str]:
    """The lines of the result file."""
    yield f"# Loss curves, {datetime.date.today()}"
    yield ""
    flags = f"--run_dir=DIR --size={options.size} --steps={options.steps} --seeds={options.seeds}"
    flags += f" --settings='{options.settings}'"
    yield f"    python benchmarks/loss_curves.py {flags}"
    yield ""
    yield f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}."
    yield ""
    yield from paragraph(
        f"Code training of size {options.size}, {options.steps:,} steps of 1,024 tokens. Validation loss in nats per"
        " token, mean of the seeds. Difference: to the setting in the second column with the same seed, at the last"
        " step; mean and 95% interval (Student's t) over the seeds. A difference whose interval contains 0 is within"
        " noise. Spread: of the last losses of that setting over its seeds."
    )
    steps = sorted(next(iter(losses.values()))[0])
    columns = " | ".join(f"step {step:,}" for step in steps)
    yield f"| setting | compared with | {columns} | difference | spread over seeds |"
    yield f"|---|---|{'---|' * len(steps)}---|---|"
    for name, runs in losses.items():
        base = SETTINGS[name][0]
        means = " | ".join(f"{statistics.mean(run[step] for run in runs):.4f}" for step in steps)
        if base in losses:
            last = steps[-1]
            differences = [run[last] - other[last] for run, other in zip(runs, losses[base], strict=True)]
            mean = estimate(differences)
            finals = [run[last] for run in losses[base]]
            difference = f"{mean.mean:+.4f} ({mean.low:+.4f} to {mean.high:+.4f})"
            yield f"| {name} | {base} | {means} | {difference} | {max(finals) - min(finals):.4f} |"
        else:
            yield f"| {name} | | {means} | | |"


if __name__ == "__main__":
    main()
