"""The matrix products of a training step on a CPU, alone: those of XLA, as our step has them, beside PyTorch's.

    python3.11 -m venv torchenv && torchenv/bin/pip install torch==2.13.0 numpy    # the CPU build
    python benchmarks/cpu_products.py --torch_python=torchenv/bin/python [--rounds=7] [--out=FILE]

A step cannot be faster than its products, so this explains the result of benchmarks/train_cpu.py. A weight has one
product in the forward pass and two in the backward pass, which give the gradients of its input and of itself. Ours are
those of kernels/cpu_products.py and of training/loss.py, which computes the head's in chunks and does not round its
logits; PyTorch's are those of nn.Linear, for all tokens. Products within attention are not included.

Both programs are separate processes, of which one sleeps while the other one runs. A round runs each product in both,
in alternating order. Results are medians over rounds.
"""

import argparse
import datetime
import importlib.metadata
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from by_turns import in_order, running
from result_file import processor, write
from train_cpu import LOSS_CHUNK, SHAPES, Shape, torch_version

DTYPES = ("float32", "bfloat16")
PASSES = ("output", "gradient of the input", "gradient of the weight")
REPEATS = 3  # runs of a product in a turn


class Product(NamedTuple):
    """A product [tokens, inputs] x [inputs, outputs], of which a step has `number`."""

    inputs: int
    outputs: int
    number: int


def products(shape: Shape) -> list[Product]:
    """The products of the layers, and that of the head."""
    D, F, N = shape.dim, shape.ffn_dim, shape.layers
    return [Product(D, D, 4 * N), Product(D, F, 2 * N), Product(F, D, N), Product(D, shape.vocab_size, 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch_python", default=sys.executable, help="a Python with torch (default: this one)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    parser.add_argument("--program", choices=("ours", "torch"), help=argparse.SUPPRESS)  # of a child process
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    if options.program:
        make = our_products if options.program == "ours" else torch_products
        serve(make(SHAPES[options.shapes[0]], options.dtypes[0]))
        return
    write(result(options), options.out)


def result(options: argparse.Namespace) -> Iterator[str]:
    """The lines of the result."""
    versions = f"jax {importlib.metadata.version('jax')}; torch {torch_version(options.torch_python)}"
    yield f"# Products of a training step on a CPU, {datetime.date.today()}"
    yield ""
    command = " ".join(sys.argv[1:]).replace(options.torch_python, "torchenv/bin/python")
    yield f"    python benchmarks/cpu_products.py {command}"
    yield ""
    yield f"{os.cpu_count()} cores of {processor()}, shared; {versions}. Medians over {options.rounds} rounds."
    yield "For the gradients of weights, a step transposes the input of q, k and v once, and that of gate and up. Here"
    yield "each product has its own transposition, 1 to 2% of the sum."
    for shape_name in options.shapes:
        for dtype in options.dtypes:
            yield ""
            yield f"## {shape_name}, {dtype}, {SHAPES[shape_name].tokens:,} tokens"
            yield ""
            yield "| product | number in a step | result | XLA, GFLOP/s | PyTorch, GFLOP/s | XLA, ms a step | PyTorch |"
            yield "|---|---|---|---|---|---|---|"
            yield from rows_of(shape_name, dtype, options)


def rows_of(shape_name: str, dtype: str, options: argparse.Namespace) -> Iterator[str]:
    """Runs the rounds of one shape and dtype; yields the rows of its table."""
    shape, sums = SHAPES[shape_name], np.zeros(2)
    times = iter(measure(shape_name, dtype, options))
    for product in products(shape):
        operations = 2 * shape.tokens * product.inputs * product.outputs
        for name in PASSES:
            seconds = np.array(next(times))
            rates, spent = operations / seconds / 1e9, 1e3 * seconds * product.number
            sums += spent
            yield (
                f"| {product.inputs:,} to {product.outputs:,} | {product.number} | {name} | {rates[0]:,.0f}"
                f" | {rates[1]:,.0f} | {spent[0]:,.0f} | {spent[1]:,.0f} |"
            )
    yield f"| all | | | | | {sums[0]:,.0f} | {sums[1]:,.0f} |"


def measure(shape_name: str, dtype: str, options: argparse.Namespace) -> list[tuple[float, float]]:
    """Median seconds of each product and pass in our program and in PyTorch's."""
    command = [str(Path(__file__).resolve()), f"--shapes={shape_name}", f"--dtypes={dtype}"]
    number = len(PASSES) * len(products(SHAPES[shape_name]))
    with (
        running([sys.executable, *command, "--program=ours"]) as ours,
        running([options.torch_python, *command, "--program=torch"]) as theirs,
    ):
        programs = tuple((program, [list[float]() for _ in range(number)]) for program in (ours, theirs))
        for round_number in range(options.rounds):
            for index in range(number):
                for program, seconds in in_order(programs, round_number):
                    seconds[index].append(float(program.ask(str(index))))
    (_, our_seconds), (_, their_seconds) = programs
    return [
        (statistics.median(of_ours), statistics.median(of_theirs))
        for of_ours, of_theirs in zip(our_seconds, their_seconds, strict=True)
    ]


def serve(runs: list[Callable[[], object]]) -> None:
    """Runs each product once and prints a line. Then, for each input line with the number of a product, prints the
    median of its seconds."""
    for run in runs:
        run()
    print("ready", flush=True)
    for line in sys.stdin:
        run, seconds = runs[int(line)], []
        run()
        for _ in range(REPEATS):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        print(statistics.median(seconds), flush=True)


def arrays(shape: Shape, product: Product) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The input, the weight and the gradient of the output of a product."""
    rng = np.random.default_rng(0)
    sizes = (shape.tokens, product.inputs), (product.inputs, product.outputs), (shape.tokens, product.outputs)
    x, weight, d_out = (rng.standard_normal(size, np.float32) for size in sizes)
    return x, weight, d_out


def our_products(shape: Shape, dtype: str) -> list[Callable[[], object]]:
    """Functions that run each product and pass as our step does."""
    import jax
    import jax.numpy as jnp

    from codellama_jax.kernels.cpu_products import einsum, row_major

    def output(x: jax.Array, weight: jax.Array, d_out: jax.Array) -> jax.Array:
        return einsum("td,df->tf", x, weight)

    def d_input(x: jax.Array, weight: jax.Array, d_out: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: einsum("td,df->tf", x, weight), x)[1](d_out)[0]

    def d_weight(x: jax.Array, weight: jax.Array, d_out: jax.Array) -> jax.Array:
        return jax.vjp(lambda weight: einsum("td,df->tf", x, weight), weight)[1](d_out)[0]

    # those of training/loss.py, for a chunk of tokens
    def logits(x: jax.Array, weight: jax.Array, d_out: jax.Array) -> jax.Array:
        return jnp.einsum("cd,dv->cv", x, weight, preferred_element_type=jnp.float32)

    def d_hidden(x: jax.Array, weight: jax.Array, d_out: jax.Array) -> jax.Array:
        return jnp.einsum("cv,dv->cd", d_out, weight, preferred_element_type=jnp.float32)

    def d_head(x: jax.Array, weight: jax.Array, d_out: jax.Array) -> jax.Array:
        return jnp.einsum("dc,cv->dv", row_major(x.T), d_out, preferred_element_type=jnp.float32)

    def run(function: Callable, operands: tuple[jax.Array, ...], times: int) -> Callable[[], object]:
        compiled = jax.jit(function)

        def runs() -> None:
            for _ in range(times):
                jax.block_until_ready(compiled(*operands))

        return runs

    runs: list[Callable[[], object]] = []
    for product in products(shape):
        is_head = product.outputs == shape.vocab_size
        chunk = LOSS_CHUNK if is_head else shape.tokens
        x, weight, d_out = (jnp.asarray(array, dtype) for array in arrays(shape, product))
        operands = x[:chunk], weight, d_out[:chunk]
        functions = (logits, d_hidden, d_head) if is_head else (output, d_input, d_weight)
        runs += [run(function, operands, shape.tokens // chunk) for function in functions]
    return runs


def torch_products(shape: Shape, dtype: str) -> list[Callable[[], object]]:
    """Functions that run each product and pass as nn.Linear does, which keeps its weight transposed."""
    import torch

    runs: list[Callable[[], object]] = []
    for product in products(shape):
        x, weight, d_out = (torch.from_numpy(array).to(getattr(torch, dtype)) for array in arrays(shape, product))
        transposed = weight.T.contiguous()
        runs += [
            lambda x=x, w=transposed: x @ w.T,
            lambda d=d_out, w=transposed: d @ w,
            lambda d=d_out, x=x: d.T @ x,
        ]
    return runs


if __name__ == "__main__":
    main()
