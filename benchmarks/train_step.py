"""Measures a train step on one GPU: tokens per second, MFU and memory, compared with the same step in PyTorch.

    python benchmarks/train_step.py [--torch_python=/path/to/python] [--lengths=4096,16384] [--rounds=3]

Needs jax, flax and optax (`pip install "jax[cuda13]" flax optax`), and torch in the same environment or in that of
--torch_python. Each program reserves the GPU's memory, so each measurement is a separate process. A round measures each
program once; results are medians over rounds. The complete codellama_jax.training.step is measured: forward, backward,
clipping and AdamW, parameters and moments in float32, products in bfloat16, on random tokens.

A shape is measured with all its layers if they fit in the device's memory, otherwise with the largest number that fits
for both programs. Ours is compiled first, and the compiler reports the memory that it needs.
"""

import argparse
import dataclasses
import datetime
import importlib.util
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from codellama_jax.config.model import Llama
from codellama_jax.config.training import AdamW, Mesh, Stage

HERE = Path(__file__).resolve().parent
SHAPES = {
    "7b": Llama(dim=4096, layers=32, heads=32, kv_heads=32, ffn_dim=11008, vocab_size=32016),
    "34b": Llama(dim=8192, layers=48, heads=64, kv_heads=8, ffn_dim=22016, vocab_size=32000, rope_theta=1e6),
    "tiny": Llama(dim=64, layers=2, heads=4, kv_heads=2, ffn_dim=172, vocab_size=256),
}
# Dense bfloat16 FLOP/s from the vendor's data sheets; the first key that is contained in the device's name applies.
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989.5e12,
    "H200": 989.5e12,
    "A100": 312e12,
    "L40S": 362e12,
}
# Fraction of the device's memory for our program. Nothing else runs on it, and XLA's default is three quarters.
MEMORY_FRACTION = "0.95"
BYTES_PER_PARAMETER = 16  # the parameter, its gradient and two moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--layers", type=int, help="maximum number of layers (default: all of the shape)")
    parser.add_argument("--lengths", default="4096,16384", help="window lengths to measure, in tokens")
    parser.add_argument("--batch_tokens", type=int, default=16_384, help="tokens per step")
    parser.add_argument("--remat", default="full", help="Llama.remat, for our program")
    parser.add_argument("--attention", default="auto", help="Llama.attention, for our program")
    parser.add_argument("--loss_chunk", type=int, default=2_048, help="Llama.loss_chunk, for our program")
    parser.add_argument("--steps", type=int, default=10, help="steps per measurement, after --warmup_steps")
    parser.add_argument("--warmup_steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch_python", help="a Python with torch (default: this one, if it has torch)")
    parser.add_argument("--torch_remat", choices=["none", "selective", "full"], default="full")
    parser.add_argument("--no_torch", action="store_true", help="measure only our program")
    parser.add_argument("--no_torch_compile", action="store_true", help="do not use torch.compile")
    parser.add_argument("--peak_flops", type=float, help="peak FLOP/s of the device, for MFU (default: from a table)")
    parser.add_argument("--json", type=Path, help="file for all measurements")
    parser.add_argument(
        "--out", type=Path, help="file for the result (default: benchmarks/train_step.md with a GPU, otherwise none)"
    )
    parser.add_argument("--job", help=argparse.SUPPRESS)  # run this job in this process
    options = parser.parse_args()
    if options.job:
        print(json.dumps(measure(json.loads(options.job))))
        return
    if not options.torch_python and importlib.util.find_spec("torch"):
        options.torch_python = sys.executable
    for length in map(int, options.lengths.split(",")):
        if options.batch_tokens % length:
            parser.error(f"--batch_tokens={options.batch_tokens} must be a multiple of each of --lengths: {length}")
    results = [compare(options, int(length)) for length in options.lengths.split(",")]
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    text = "".join(line + "\n" for line in report(options, results))
    print(text)
    on_gpu = results[0]["platform"] == "gpu"
    if options.out or on_gpu:
        (options.out or HERE / "train_step.md").write_text(text)


def compare(options: argparse.Namespace, length: int) -> dict[str, Any]:
    """Runs all rounds at one length, with as many layers as fit for every program."""
    llama = dataclasses.replace(
        SHAPES[options.shape], remat=options.remat, attention=options.attention, loss_chunk=options.loss_chunk
    )
    all_layers = llama.layers
    llama = dataclasses.replace(llama, layers=min(options.layers or all_layers, all_layers))
    programs = ["jax", "torch"] if options.torch_python and not options.no_torch else ["jax"]
    with tempfile.TemporaryDirectory() as cache:
        while True:
            measured: dict[str, list[dict[str, Any]]] = {program: [] for program in programs}
            failed: dict[str, Any] | None = None
            for number, program in ((n, p) for n in range(options.rounds) for p in programs):
                report_progress(f"{length:,} tokens, {llama.layers} layers, round {number + 1}: {program}")
                record = run(program, options, llama, length, cache)
                if not record["fits"]:
                    failed = record
                    break
                measured[program].append(record)
            if failed is None:
                break
            programs.sort(key=lambda other: other != program)  # next time the program that did not fit runs first
            fewer = llama.layers - surplus_layers(llama, failed)
            if fewer < 1:
                sys.exit(f"error: {options.batch_tokens:,} tokens do not fit with one layer: lower --batch_tokens")
            llama = dataclasses.replace(llama, layers=fewer)
    measured = dict(sorted(measured.items()))
    ours = measured["jax"][0]
    peak = options.peak_flops or next((f for name, f in PEAK_FLOPS.items() if name in ours["device"]), None)
    return {
        "shape": options.shape,
        "length": length,
        "batch_tokens": options.batch_tokens,
        "layers": llama.layers,
        "all_layers": all_layers,
        "parameters": llama.parameters,
        "flops_per_token": llama.train_flops_per_token(length),
        "peak_flops": peak,
        "device": ours["device"],
        "platform": ours["platform"],
        "llama": dataclasses.asdict(llama),
        "programs": {
            program: summary(records, options.batch_tokens, llama.train_flops_per_token(length), peak)
            for program, records in measured.items()
        },
    }


def surplus_layers(llama: Llama, record: dict[str, Any]) -> int:
    """The number of layers to remove: computed from the size that the compiler reports, or else an eighth."""
    if "needed" not in record:
        return max(1, llama.layers // 8)
    one_less = dataclasses.replace(llama, layers=llama.layers - 1) if llama.layers > 1 else llama
    layer = BYTES_PER_PARAMETER * (llama.parameters - one_less.parameters) or record["needed"]
    return max(1, math.ceil((record["needed"] - record["limit"]) / layer))


def summary(records: list[dict[str, Any]], tokens: int, flops_per_token: float, peak: float | None) -> dict[str, Any]:
    """The medians over the rounds of a program, and the records of the rounds."""
    rates = [tokens / statistics.median(record["seconds"]) for record in records]
    rate = statistics.median(rates)
    return {
        "tokens_per_second": rate,
        "mfu": rate * flops_per_token / peak if peak else None,
        "peak_memory": max(record["peak_memory"] for record in records),
        "version": records[0]["version"],
        "tokens_per_second_of_rounds": rates,
        "rounds": records,
    }


def run(program: str, options: argparse.Namespace, llama: Llama, length: int, cache: str) -> dict[str, Any]:
    """Runs one measurement of a program in a separate process."""
    job = {
        "llama": dataclasses.asdict(llama),
        "adamw": dataclasses.asdict(AdamW(peak_learning_rate=3e-4, warmup_steps=0)),
        "batch_size": options.batch_tokens // length,
        "length": length,
        "steps": options.steps,
        "warmup_steps": options.warmup_steps,
        "torch_remat": options.torch_remat,
        "torch_compile": not options.no_torch_compile,
    }
    if program == "jax":
        command = [sys.executable, str(Path(__file__).resolve()), f"--job={json.dumps(job)}"]
    else:
        command = [options.torch_python, str(HERE / "train_step_torch.py"), json.dumps(job)]
    # later rounds reuse the compilations of the first round; variables set by the user take precedence
    settings = {
        "JAX_COMPILATION_CACHE_DIR": f"{cache}/jax",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": MEMORY_FRACTION,
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/torch",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    done = subprocess.run(command, env=settings | os.environ, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"error: {program} ended with exit code {done.returncode}, see above")
    return json.loads(done.stdout.splitlines()[-1])


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the steps of a job with our program.

    Returns:
        Seconds of each step after the warm-up, the loss of every step, and peak memory in bytes; or "fits": False, with
        the bytes needed if the compiler reports them.
    """
    import flax
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from codellama_jax.sharding import make_mesh, put_batch
    from codellama_jax.training.optimizer import make_optimizer
    from codellama_jax.training.step import TrainState, init_params, make_train_step, state_shardings

    llama, adamw = Llama(**job["llama"]), AdamW(**job["adamw"])
    batch_size, length = job["batch_size"], job["length"]
    steps = job["warmup_steps"] + job["steps"]
    # a long stage, so that the learning rate stays near its peak as in the PyTorch program
    stage = Stage("benchmark", "benchmark", None, 1000 * steps, batch_size * length, length)
    mesh = make_mesh(Mesh(), devices=jax.devices()[:1])
    device = mesh.devices.flat[0]
    shape = (batch_size, length)
    ids = np.random.default_rng(0).integers(0, llama.vocab_size, (batch_size, length + 1)).astype(np.int32)
    arrays = {
        "tokens": ids[:, :-1],
        "targets": ids[:, 1:],
        "segment_ids": np.ones(shape, np.int32),
        "positions": np.broadcast_to(np.arange(length, dtype=np.int32), shape).copy(),
        "loss_weights": np.ones(shape, np.float32),
        "stream_ids": np.zeros(shape, np.int32),
    }
    optimizer = make_optimizer(adamw, stage.steps)
    shardings = state_shardings(llama, optimizer, mesh)

    def start() -> TrainState:
        params = init_params(llama, 0)
        return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))

    result = {
        "device": device.device_kind,
        "platform": device.platform,
        "version": f"jax {jax.__version__}, flax {flax.__version__}, optax {optax.__version__}",
    }
    try:
        with jax.set_mesh(mesh):
            batch = put_batch(mesh, arrays)
            step = jax.jit(
                make_train_step(llama, stage, adamw, mask_documents=False, streams=1, mesh=mesh),
                donate_argnums=0,
                out_shardings=(shardings, None),
            )
            abstract = jax.tree.map(
                lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
                jax.eval_shape(start),
                shardings,
            )
            # compiled before the state is made, since autotuning of kernels needs memory too
            compiled = step.lower(abstract, batch).compile()
            limit = (device.memory_stats() or {}).get("bytes_limit")
            needed = bytes_needed(compiled.memory_analysis())
            if limit and needed and needed > limit:
                return result | {"fits": False, "needed": needed, "limit": limit}
            state = jax.jit(start, out_shardings=shardings)()
            jax.block_until_ready(state)
            seconds, losses = [], []
            for _ in range(steps):
                start_time = time.perf_counter()
                state, metrics = compiled(state, batch)
                jax.block_until_ready((state, metrics))
                seconds.append(time.perf_counter() - start_time)
                losses.append(float(metrics["loss"]))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return result | {"fits": False}
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return result | {
        "fits": True,
        "seconds": seconds[job["warmup_steps"] :],
        "losses": losses,
        "peak_memory": peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "needed": needed,
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
    }


def bytes_needed(analysis: Any) -> int | None:
    """Device memory of a compiled program: arguments, results that are not aliased, and temporaries."""
    if analysis is None:
        return None
    results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return analysis.argument_size_in_bytes + results + analysis.temp_size_in_bytes


def report(options: argparse.Namespace, results: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of the result file."""
    first = results[0]
    yield f"# Train step, {datetime.date.today()}"
    yield ""
    yield f"    python benchmarks/train_step.py {' '.join(shown(argument) for argument in sys.argv[1:])}".rstrip()
    yield ""
    versions = "; ".join(program["version"] for program in first["programs"].values())
    yield f"{first['device']}; {versions}."
    if flags := os.environ.get("XLA_FLAGS"):
        yield f"XLA_FLAGS={flags}"
    remat = f"rematerialisation {options.remat} (ours)"
    remat += f" and {options.torch_remat} (PyTorch)" if "torch" in first["programs"] else ""
    yield f"{options.shape.upper()}, {options.batch_tokens:,} tokens per step, products in bfloat16, {remat}."
    if first["peak_flops"]:
        yield f"MFU is relative to {first['peak_flops'] / 1e12:,.1f} TFLOP/s and counts the causal half of attention."
    yield f"Medians over {options.rounds} rounds of the median of {options.steps} steps."
    for result in results:
        if result["layers"] < result["all_layers"]:
            reason = "as requested" if result["layers"] == options.layers else "as many as fit in the device's memory"
            yield f"At {result['length']:,}: {result['layers']} of {result['all_layers']} layers, {reason}."
    yield ""
    yield "| length | layers | program | tokens/s | MFU | step, s | peak memory, GiB | loss, first and last step |"
    yield "|---|---|---|---|---|---|---|---|"
    for result in results:
        for name, program in result["programs"].items():
            rate, losses = program["tokens_per_second"], program["rounds"][0]["losses"]
            cells = [
                f"{result['length']:,}",
                f"{result['layers']}",
                {"jax": "codellama_jax", "torch": "PyTorch"}[name],
                f"{rate:,.0f}",
                "-" if program["mfu"] is None else f"{program['mfu']:.1%}",
                f"{result['batch_tokens'] / rate:.3f}",
                f"{program['peak_memory'] / 2**30:.1f}",
                f"{losses[0]:.2f}, {losses[-1]:.2f}",
            ]
            yield f"| {' | '.join(cells)} |"
    for result in results:
        if "torch" in result["programs"]:
            ours, theirs = (result["programs"][name]["tokens_per_second_of_rounds"] for name in ("jax", "torch"))
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            yield ""
            yield (
                f"At {result['length']:,}: {statistics.median(ratios):.2f} times PyTorch's tokens per second (rounds"
                f" {min(ratios):.2f} to {max(ratios):.2f})."
            )


def shown(argument: str) -> str:
    """A flag for the result file, without the folders of this machine."""
    name, equals, value = argument.partition("=")
    return f"{name}={Path(value).name}" if equals and "/" in value else argument


def report_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
