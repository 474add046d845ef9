"""Training of adapters on a CPU, beside full fine-tuning and beside transformers + peft; merge and export.

    python benchmarks/lora.py --packages=.venv/oracles [--rounds=7] [--steps=2] [--out=benchmarks/lora.md]

The folders of --packages (joined by ':') have torch, transformers and peft (requirements-oracles.txt). A step is
forward, backward, clipping and AdamW on one batch in memory. All programs start from the same float32 parameters and
are trained on the same tokens; the two that train adapters have the same factors, rank and scale, on all seven matrices
of a block, without dropout. As in train_cpu.py, each program is a process of its own, our step with adapters is
compared with one other program at a time, and a round runs both, in alternating order; ratios are taken within a round.
Memory is the peak of the resident set over the compilation and the first steps, less that before the model was made.

The second part exports a model of 1.1 billion random parameters in bfloat16 with adapters of rank 16: merged in the
format of Hugging Face, and the adapters alone, beside transformers + peft, which load both, merge and save.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from by_turns import in_order, running
from lora_programs import ALPHA, RANK, factors, serve
from result_file import paragraph, processor, write
from train_cpu import SHAPES, parameters

PROGRAMS = {
    "peft": "transformers + peft",
    "full": "ours, all parameters",
    "bfloat16": "ours, adapters, frozen bfloat16",
    "int8": "ours, adapters, frozen int8",
}
LARGE = {"dim": 2048, "layers": 22, "heads": 32, "kv_heads": 4, "ffn_dim": 5632, "vocab_size": 32_000}  # TinyLlama's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", default=".venv/oracles", help="folders with torch, transformers and peft")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="steps per turn")
    parser.add_argument("--shape", choices=SHAPES, default="100M")
    parser.add_argument("--folder", type=Path, default=tempfile.gettempdir(), help="a disk with 15 GB (default: /tmp)")
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), help="to compare with")
    parser.add_argument(
        "--program", choices=[*PROGRAMS, "adapters"], help=argparse.SUPPRESS
    )  # run this program as a child process
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    if options.program:
        serve(options.program, SHAPES[options.shape])
        return
    write(result(options), options.out)


def result(options: argparse.Namespace) -> Iterator[str]:
    """The lines of the result file."""
    shape = SHAPES[options.shape]
    yield f"# Adapters on a CPU, {datetime.date.today()}"
    yield ""
    names = " ".join(options.programs)
    yield (
        f"    python benchmarks/lora.py --rounds={options.rounds} --steps={options.steps} --shape={options.shape}"
        f" --programs {names}"
    )
    yield ""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "optax", "numpy")]
    theirs = importlib.metadata.distributions(path=options.packages.split(":"))
    versions += sorted(f"{d.name} {d.version}" for d in theirs if d.name in ("torch", "transformers", "peft"))
    yield from paragraph(
        f"{os.cpu_count()} cores of {processor()}, shared; Python {platform.python_version()}, {', '.join(versions)}."
        f" Medians over {options.rounds} rounds of {options.steps} step(s); the ratio is our speed with adapters"
        " divided by that of the program within a round, by wall-clock and by CPU time."
    )
    yield f"## A step, {options.shape}, float32"
    yield ""
    adapters = sum(a.size + b.size for a, b in factors(shape).values())
    yield from paragraph(
        f"dim {shape.dim}, {shape.layers} layers, {shape.heads} heads, feed-forward {shape.ffn_dim}, vocabulary"
        f" {shape.vocab_size:,}, length {shape.length}, batch {shape.rows}; {parameters(shape) / 1e6:.1f}M parameters,"
        f" {adapters / 1e6:.2f}M in adapters of rank {RANK}."
    )
    yield (
        "| program | adapters, tokens/s | program, tokens/s | ratio | min .. max | ratio of CPU time"
        " | peak memory of both, MB | losses of steps 1 to 3 of both |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for name in PROGRAMS:
        if name not in options.programs:
            continue
        ours, found = measure_pair(options, name)
        speeds = [options.steps * shape.tokens / statistics.median(program.seconds) for program in (ours, found)]
        ratios = [theirs / own for own, theirs in zip(ours.seconds, found.seconds, strict=True)]
        cpu = statistics.median(theirs / own for own, theirs in zip(ours.cpu, found.cpu, strict=True))
        losses = " and ".join(", ".join(f"{loss:.4f}" for loss in program.losses) for program in (ours, found))
        yield (
            f"| {PROGRAMS[name]} | {speeds[0]:,.0f} | {speeds[1]:,.0f} | {statistics.median(ratios):.2f} |"
            f" {min(ratios):.2f} .. {max(ratios):.2f} | {cpu:.2f} | {ours.megabytes:,.0f} and"
            f" {found.megabytes:,.0f} | {losses} |"
        )
    yield ""
    yield from exports(options)


@dataclasses.dataclass
class Measured:
    """What a program has reported: losses of its first steps, its peak memory, and the seconds of each turn, by
    wall-clock and of all its threads."""

    losses: list[float]
    megabytes: float
    seconds: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)


def measure_pair(options: argparse.Namespace, other: str) -> tuple[Measured, Measured]:
    """Runs our step with adapters and another program alternately. Each compiles while the other one does not run, and
    no third program takes memory."""
    command = [sys.executable, str(Path(__file__).resolve()), f"--shape={options.shape}"]
    packages = {"PYTHONPATH": options.packages} if other == "peft" else {}
    with (
        running([*command, "--program=adapters"]) as ours,
        running([*command, f"--program={other}"], packages) as theirs,
    ):
        programs = tuple((program, Measured(**json.loads(program.first_line))) for program in (ours, theirs))
        for number in range(options.rounds):
            for program, measured in in_order(programs, number):
                wall, cpu = map(float, program.ask(str(options.steps)).split())
                measured.seconds.append(wall)
                measured.cpu.append(cpu)
    (_, our_measured), (_, their_measured) = programs
    return our_measured, their_measured


# ---------------------------------------------------------------- merge and export

PEAK = """
import json, sys, time
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))
"""
OURS = """
from codellama_jax import convert
from codellama_jax.conversion import adapters, formats, hf, peft
import jax
before, start = peak(), time.perf_counter()
assert convert.main(sys.argv[1:]) == 0
print(json.dumps({"seconds": time.perf_counter() - start, "before": before, "peak": peak()}))
"""
THEIRS = """
import peft, torch, transformers
before, start = peak(), time.perf_counter()
model = transformers.LlamaForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
merged = peft.PeftModel.from_pretrained(model, sys.argv[2]).merge_and_unload()
merged.save_pretrained(sys.argv[3])
print(json.dumps({"seconds": time.perf_counter() - start, "before": before, "peak": peak()}))
"""


def exports(options: argparse.Namespace) -> Iterator[str]:
    """The second part of the result."""
    from convert import RandomModel

    from codellama_jax.config.lora import Lora
    from codellama_jax.config.model import Llama
    from codellama_jax.conversion import adapters, formats, hf

    llama, lora = Llama(**LARGE), Lora(rank=RANK, alpha=ALPHA)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="lora_benchmark_") as temporary:
        folder = Path(temporary)
        (folder / "theirs").mkdir()
        hf.write(RandomModel(llama), folder / "theirs")
        run(OURS, options, "import", f"--from={folder / 'theirs'}", f"--to={folder / 'base'}")
        found = {}
        for name in lora.names:
            ins, outs = llama.matrices[name]
            shapes = (llama.layers, ins, RANK), (llama.layers, RANK, outs)
            found[name] = adapters.Factors(*(0.02 * rng.standard_normal(shape, np.float32) for shape in shapes))
        base = formats.open_base(folder / "base")
        adapters.write(folder / "adapters", lora, found, base, folder / "base", "random")
        base.source.close()
        megabytes = {
            name: sum(file.stat().st_size for file in (folder / name).rglob("*") if file.is_file()) / 1e6
            for name in ("base", "adapters")
        }
        yield f"## Merge and export, {llama.parameters / 1e9:.2f} billion parameters in bfloat16"
        yield ""
        yield from paragraph(
            f"dim {llama.dim}, {llama.layers} layers, feed-forward {llama.ffn_dim}; the model takes"
            f" {megabytes['base']:,.0f} MB, the checkpoint of the adapters (rank {RANK}, seven matrices, float32)"
            f" {megabytes['adapters']:,.0f} MB."
            " Memory is the peak of the resident set; that before the work, with all imports, in parentheses."
        )
        yield "| command | seconds | peak memory, MB |"
        yield "|---|---|---|"
        here = f"--from={folder / 'adapters'}"
        for format in ("peft", "hf"):
            figures = run(OURS, options, "export", here, f"--to={folder / format}", f"--format={format}")
            yield f"| ours: export --format={format} | {cells(figures)} |"
        arguments = [str(folder / name) for name in ("theirs", "peft", "merged")]
        yield f"| transformers + peft: load, merge, save | {cells(run(THEIRS, options, *arguments))} |"
        yield ""
        yield "Each export was run once. Ours also verifies the checksums of the model and of the adapters."


def run(program: str, options: argparse.Namespace, *argv: str) -> dict[str, float]:
    """Runs a program of this file in a process, and returns its figures."""
    root = str(Path(__file__).resolve().parent.parent)
    path = root if program is OURS else options.packages
    done = subprocess.run(
        [sys.executable, "-c", PEAK + program, *argv],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def cells(figures: dict[str, float]) -> str:
    return f"{figures['seconds']:.1f} | {figures['peak']:,.0f} ({figures['before']:,.0f})"


if __name__ == "__main__":
    main()
