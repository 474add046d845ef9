"""Training speed on a CPU: our train step compared with the same Llama in PyTorch, eager and compiled.

    python3.11 -m venv torchenv && torchenv/bin/pip install torch==2.13.0 numpy    # the CPU build
    python benchmarks/train_cpu.py --torch_python=torchenv/bin/python [--rounds=7] [--out=benchmarks/train_cpu.md]

A step is forward, backward, clipping and AdamW on one batch in memory. Ours is the step that train.py compiles:
training/step.py under jax.jit, over a mesh of one device, with donated state and unrolled layers. All programs start
from the same parameters and are trained on the same tokens. Each program is a separate process, which sleeps while
another one runs. Ours is compared with each of the others separately. A round runs both, in alternating order; results
are medians over rounds of the ratio within a round. Each turn starts with a step that is not timed, because the system
may have paged out the memory of a sleeping process. All programs use glibc with huge pages and without returning freed
memory, as the launcher does (ALLOCATOR of launch/local/executor.py): a step allocates gigabytes, and mapping and
clearing them each time takes up to a third of the step.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from by_turns import in_order, running
from result_file import processor, write

if TYPE_CHECKING:
    from codellama_jax.config.model import Llama
    from codellama_jax.config.training import AdamW, Stage

NORM_EPS, ROPE_THETA = 1e-5, 1e4
LEARNING_RATE, EPS, CLIP = 1e-3, 1e-5, 1.0
ATTENTION_BLOCK, LOSS_CHUNK = 128, 512  # of our program


@dataclasses.dataclass(frozen=True)
class Shape:
    """The shapes of a Llama model and of its batch."""

    dim: int
    layers: int
    heads: int
    ffn_dim: int
    length: int
    rows: int
    vocab_size: int = 32_000

    @property
    def tokens(self) -> int:
        return self.rows * self.length


SHAPES = {
    "15M": Shape(dim=288, layers=6, heads=6, ffn_dim=768, length=256, rows=16),
    "100M": Shape(dim=640, layers=12, heads=10, ffn_dim=1728, length=512, rows=4),
}


PROGRAMS = {
    "float32": {
        "ours": ["--program=float32"],
        "torch eager": ["--precision=float32"],
        "torch compiled": ["--precision=float32", "--compiled"],
    },
    "bfloat16": {
        "ours": ["--program=bfloat16"],
        "torch eager, autocast": ["--precision=autocast"],
        "torch compiled, autocast": ["--precision=autocast", "--compiled"],
        "torch compiled, bfloat16 with float32 master weights": ["--precision=masters", "--compiled"],
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch_python", default=sys.executable, help="a Python with torch (default: this one)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="steps per turn")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--dtypes", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    parser.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)  # run this program as a child process
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    if options.program:
        serve(make_step(SHAPES[options.shapes[0]], options.program))
        return
    write(result(options), options.out)


def result(options: argparse.Namespace) -> Iterator[str]:
    """The lines of the result file."""
    version = torch_version(options.torch_python)
    yield f"# Training on a CPU, {datetime.date.today()}"
    yield ""
    command = " ".join(sys.argv[1:]).replace(options.torch_python, "torchenv/bin/python")
    yield f"    python benchmarks/train_cpu.py {command}"
    yield ""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "optax", "numpy"))
    yield f"{os.cpu_count()} cores of {processor()}, shared; Python {platform.python_version()}, {versions};"
    yield f"torch {version}. Medians over {options.rounds} rounds of {options.steps} step(s); ratio:"
    yield "our speed divided by that of the other program within a round, by wall-clock and by CPU time."
    for shape_name in options.shapes:
        shape = SHAPES[shape_name]
        for dtype in options.dtypes:
            yield ""
            yield f"## {shape_name}, {dtype}"
            yield ""
            yield (
                f"dim {shape.dim}, {shape.layers} layers, {shape.heads} heads, feed-forward {shape.ffn_dim}, vocabulary"
                f" {shape.vocab_size:,}, length {shape.length}, batch {shape.rows}; {parameters(shape) / 1e6:.1f}M"
                " parameters, with separate embedding and head."
            )
            yield ""
            yield (
                "| program | ours, tokens/s | torch, tokens/s | ratio | min .. max | ratio of CPU time"
                " | losses of steps 1 to 3 |"
            )
            yield "|---|---|---|---|---|---|---|"
            yield from rows_of(shape_name, dtype, options)


def torch_version(python: str) -> str:
    """The version of torch in this Python; ends the program with a message if there is none."""
    command = [python, "-c", "import torch; print(torch.__version__)"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        sys.exit(f"error: {python} has no torch; set --torch_python=PATH to one that has it (see --help)")


def rows_of(shape_name: str, dtype: str, options: argparse.Namespace) -> Iterator[str]:
    """Runs the rounds of one shape and dtype; yields the rows of its table."""
    tokens = options.steps * SHAPES[shape_name].tokens
    for name, flags in PROGRAMS[dtype].items():
        if name == "ours":
            continue
        ours, theirs = measure_pair(shape_name, dtype, flags, options)
        walls = [b.wall / a.wall for a, b in zip(ours.turns, theirs.turns, strict=True)]
        cpu = statistics.median(b.cpu / a.cpu for a, b in zip(ours.turns, theirs.turns, strict=True))
        rates = [tokens / statistics.median(turn.wall for turn in program.turns) for program in (ours, theirs)]
        ratios = f"{statistics.median(walls):.2f} | {min(walls):.2f} .. {max(walls):.2f} | {cpu:.2f}"
        losses = " and ".join(", ".join(f"{loss:.4f}" for loss in program.losses) for program in (ours, theirs))
        yield f"| {name} | {rates[0]:,.0f} | {rates[1]:,.0f} | {ratios} | {losses} |"


class Turn(NamedTuple):
    """Wall-clock seconds of a turn, and CPU seconds of all its threads."""

    wall: float
    cpu: float


class Results(NamedTuple):
    losses: list[float]
    turns: list[Turn]


def measure_pair(shape_name: str, dtype: str, flags: list[str], options: argparse.Namespace) -> tuple[Results, Results]:
    """Runs our program and another one alternately. More than two at a time would distort the result: each keeps
    gigabytes allocated while it sleeps, and a lack of memory for huge pages slows down the one that allocates most."""
    here = Path(__file__).resolve()
    our_command = [sys.executable, str(here), f"--shapes={shape_name}", *PROGRAMS[dtype]["ours"]]
    their_command = [options.torch_python, str(here.with_name("train_cpu_torch.py")), f"--shape={shape_name}", *flags]
    with running(our_command) as ours, running(their_command) as theirs:
        programs = tuple(
            (program, Results([float(loss) for loss in program.first_line.split()], [])) for program in (ours, theirs)
        )
        for number in range(options.rounds):
            for program, results in in_order(programs, number):
                results.turns.append(Turn(*map(float, program.ask(str(options.steps)).split())))
    (_, our_results), (_, their_results) = programs
    return our_results, their_results


def parameters(shape: Shape) -> int:
    return sum(array.size for array in weights(shape).values()) + (2 * shape.layers + 1) * shape.dim


# ---------------------------------------------------------------- shared by all programs; NumPy only


def weights(shape: Shape) -> dict[str, np.ndarray]:
    """Initial matrices, [in, out] and stacked over layers; the weights of norms are 1."""
    rng = np.random.default_rng(0)
    D, F, N, V = shape.dim, shape.ffn_dim, shape.layers, shape.vocab_size
    square, small = (N, D, D), 0.02 / (2 * N) ** 0.5
    sizes = {
        "embedding": ((V, D), 0.02),
        "head": ((D, V), 0.02),
        "wq": (square, 0.02),
        "wk": (square, 0.02),
        "wv": (square, 0.02),
        "wo": (square, small),
        "w1": ((N, D, F), 0.02),
        "w3": ((N, D, F), 0.02),
        "w2": ((N, F, D), small),
    }
    return {name: std * rng.standard_normal(size, np.float32) for name, (size, std) in sizes.items()}


def batch(shape: Shape) -> dict[str, np.ndarray]:
    """Random tokens and targets."""
    ids = np.random.default_rng(1).integers(0, shape.vocab_size, (shape.rows, shape.length + 1), np.int32)
    return {"tokens": ids[:, :-1].copy(), "targets": ids[:, 1:].copy()}


def serve(step: Callable[[], float]) -> None:
    """Trains for three steps and prints their losses. Then, for each input line, trains for one untimed step and for
    the number of steps in the line, and prints the wall-clock and CPU seconds of the latter."""
    print(*(step() for _ in range(3)), flush=True)
    take_turns(step)


def take_turns(step: Callable[[], float]) -> None:
    """The second part of `serve`."""
    for line in sys.stdin:
        step()
        start, start_cpu = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - start, time.process_time() - start_cpu, flush=True)


# ---------------------------------------------------------------- our program


def our_model(shape: Shape, dtype: str) -> "Llama":
    """The shape as a model of this project."""
    from codellama_jax.config.model import Llama

    return Llama(
        dim=shape.dim,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.heads,
        ffn_dim=shape.ffn_dim,
        vocab_size=shape.vocab_size,
        norm_eps=NORM_EPS,
        rope_theta=ROPE_THETA,
        compute_dtype=dtype,
        remat="none",
        unroll=shape.layers,
        attention_block=ATTENTION_BLOCK,
        loss_chunk=LOSS_CHUNK,
    )


def our_stage(shape: Shape) -> "tuple[AdamW, Stage]":
    """The optimizer and the stage: one warm-up step and a cosine that does not decay, the constant rate of the other
    programs."""
    from codellama_jax.config.training import AdamW, Stage

    settings = AdamW(peak_learning_rate=LEARNING_RATE, warmup_steps=1, final_ratio=1.0, eps=EPS, clip_norm=CLIP)
    return settings, Stage("code", "local", None, 1_000_000, shape.tokens, shape.length)


def our_params(shape: Shape) -> dict[str, Any]:
    """The initial parameters in the structure of this project, as views of `weights`."""
    D, N, H = shape.dim, shape.layers, shape.heads
    initial = weights(shape)
    blocks = {name: initial[name] for name in ("w1", "w3", "w2")}
    blocks |= {name: initial[name].reshape(N, D, H, D // H) for name in ("wq", "wk", "wv")}
    blocks |= {"wo": initial["wo"].reshape(N, H, D // H, D)}
    blocks |= {name: np.ones((N, D), np.float32) for name in ("attention_norm", "ffn_norm")}
    return {
        "embedding": initial["embedding"],
        "head": initial["head"],
        "norm": np.ones(D, np.float32),
        "blocks": blocks,
    }


def our_batch(shape: Shape) -> dict[str, np.ndarray]:
    """The tokens and targets with what a window of this project has."""
    zeros = np.zeros((shape.rows, shape.length), np.int32)
    return batch(shape) | {
        "segment_ids": zeros,
        "stream_ids": zeros,
        "positions": zeros + np.arange(shape.length, dtype=np.int32),
        "loss_weights": np.ones_like(zeros, np.float32),
    }


def make_step(shape: Shape, dtype: str) -> Callable[[], float]:
    """Returns a function that trains for one step and returns the loss."""
    import jax
    import jax.numpy as jnp

    from codellama_jax.config.training import Mesh
    from codellama_jax.sharding import make_mesh, put_batch
    from codellama_jax.training.initialization import fresh_state
    from codellama_jax.training.optimizer import make_optimizer
    from codellama_jax.training.step import make_train_step, state_shardings

    llama, (settings, stage), mesh = our_model(shape, dtype), our_stage(shape), make_mesh(Mesh())
    with jax.set_mesh(mesh):
        state = fresh_state(llama, stage, settings, mesh, jax.tree.map(jnp.asarray, our_params(shape)))
        shardings = state_shardings(llama, make_optimizer(settings, stage.steps), mesh)
        train_step = jax.jit(
            make_train_step(llama, stage, settings, False, 1, mesh), donate_argnums=0, out_shardings=(shardings, None)
        )
        placed = put_batch(mesh, our_batch(shape))

    def step() -> float:
        nonlocal state
        with jax.set_mesh(mesh):
            state, metrics = train_step(state, placed)
        loss = float(metrics["loss"])
        jax.block_until_ready(state)
        return loss

    return step


if __name__ == "__main__":
    main()
