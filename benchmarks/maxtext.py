"""Compares the train step with MaxText's: memory, FLOPs, memory traffic and communication. Needs no TPU.

    python3.12 -m venv ~/maxtext
    ~/maxtext/bin/pip install 'maxtext[tpu]==0.2.5' jax==0.12.0.1 libtpu==0.0.50.1
    python benchmarks/maxtext.py --maxtext_python=$HOME/maxtext/bin/python [--out=benchmarks/maxtext.md]

Both compile Llama 2 7B for the same slice with XLA's TPU compiler on this machine: ours with codellama_jax.plan,
MaxText with its own train_compile and its base.yml, of which only the settings of the task are changed (MAXTEXT below).
Both compilations dump their programs, and codellama_jax/planning analyses both. Run this in an environment with the
packages of requirements-tpu.txt and the same jax and libtpu as in MaxText's environment; otherwise the compilers differ
as well (the result file lists the versions). MaxText is not imported: it runs in its own environment.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maxtext_compile import ROOT, compile_step, versions  # also makes codellama_jax importable

from codellama_jax.planning import roofline
from codellama_jax.planning.attention_kernels import attention_flops
from codellama_jax.planning.chips import GiB, Topology, topology
from codellama_jax.planning.memory_traffic import memory_bytes

SLICE = "v5p:4x4x4"
OURS = (
    *("--gin_file=gin/code.gin", "--gin_file=gin/models/7b.gin", f"--topology={SLICE}"),
    *("--gin.Llama.remat=full", "--gin.Stage.micro_batches=1"),  # as in MaxText; the size file has faster settings
    *("--gin.VOCAB_SIZE=32000", "--gin.INFILLING=False"),  # no rows for infilling ids, as in MaxText
    *("--gin.Llama.splash_block=512", "--gin.Llama.splash_block_backward=512"),  # MaxText's default
    "--libtpu_bundle=none",  # MaxText's base.yml sets no compiler flags either
)
MAXTEXT = (
    *("model_name=llama2-7b", "per_device_batch_size=16", "max_target_length=4096", "attention=flash"),
    *("dataset_type=synthetic", "enable_checkpointing=false", "run_name=benchmark"),
)
# Recomputed activations, the program, and its settings.
ROWS = (
    ("all", "MaxText", ("remat_policy=full",)),
    ("all", "MaxText, loss in 32 parts", ("remat_policy=full", "num_vocab_tiling=32")),
    ("all", "ours", ()),
    ("all", "ours, masked documents", ("--gin.Packing.mask_documents=True",)),
    ("all but q, k, v", "MaxText", ("remat_policy=save_qkv_proj",)),
    ("all but q, k, v", "MaxText, loss in 32 parts", ("remat_policy=save_qkv_proj", "num_vocab_tiling=32")),
    ("all but q, k, v", "ours", ("--gin.Llama.remat=q+k+v",)),
)
# Settings that MaxText must log. If any differs, the two programs do not perform the same task.
EXPECTED_CONFIG = {
    **{"global_batch_size_to_train_on": "1024", "max_target_length": "4096", "gradient_accumulation_steps": "1"},
    **{"base_emb_dim": "4096", "base_mlp_dim": "11008", "base_num_decoder_layers": "32", "vocab_size": "32000"},
    **{"base_num_query_heads": "32", "base_num_kv_heads": "32", "ici_data_parallelism": "1"},
    **{"dtype": "bfloat16", "weight_dtype": "float32", "mu_dtype": "float32", "grad_dtype": "float32"},
    **{"opt_type": "OptimizerType.ADAMW", "gradient_clipping_threshold": "1.0", "enable_dropout": "False"},
    **{"attention": "flash", "packing": "True", "scan_layers": "True", "ici_fsdp_parallelism": "-1"},
    **{"sa_block_q": "512", "sa_block_kv": "512", "sa_use_fused_bwd_kernel": "False"},
    **{"quantization": "QuantizationType.NONE"},
}
PACKAGES = ("jax", "jaxlib", "libtpu")

TASK = """\
Llama 2 7B, 32,000 pieces; 1,024 windows of 4,096 (4,194,304 tokens) per step, 16 per chip, without micro-batches;
parameters and AdamW's moments in float32, sharded over all 64 chips, products in bfloat16, layers in a scan, JAX's
splash kernel in blocks of 512 with two backward kernels, clipping, no dropout.

Peak: the size of the compiler's heap for all buffers, including arguments. FLOPs, of all chips: matrix products, times
the trip counts of loops, and attention kernels over the causal half. Traffic (to and from main memory) and sent bytes
(by all collectives) are per device. Step: its estimated seconds (codellama_jax/planning/roofline.py; calibration.md
compares this estimate with measured runs). Compilation: its seconds, including code generation. Ratios are relative to
the first row with the same recomputation.

"""
FAIRNESS = """\
## Remaining differences

- MaxText always masks documents: its splash kernel gets their segment ids. Ours masks them only in the row "masked
  documents".
- MaxText computes all logits at once unless its loss is split (num_vocab_tiling, 1 in its base.yml). With 32 parts each
  part has as many tokens as ours (Llama.loss_chunk); the output head is gathered, and its gradient reduced, for each
  part, and the logits are computed twice.
- MaxText's recipe for this model on v5p (configs/tpu/v5p/llama2_7b.sh) has 4 windows per chip and saves more
  (remat_policy=minimal); here the batch has the size of the stage's batch.
- MaxText stacks parameters with layers as the second dim, ours as the first; its metrics are different.
- Its train_compile sets xla_tpu_spmd_rng_bit_generator_unsafe, which has no effect without dropout. All other compiler
  flags in the dumps are equal.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maxtext_python", type=Path, required=True, help="the Python of MaxText's environment")
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    options = parser.parse_args()
    text = "".join(line + "\n" for line in result(options))
    print(text)
    if options.out:
        options.out.write_text(text)


def result(options: argparse.Namespace) -> Iterator[str]:
    """The lines of the result file."""
    slice_ = topology(SLICE)
    results = []
    for recomputed, program, settings in ROWS:
        print(f"compiling: {recomputed}, {program}", file=sys.stderr)
        row = maxtext(options.maxtext_python, slice_, settings) if program.startswith("MaxText") else ours(settings)
        results.append((recomputed, program, row))
    yield f"# Comparison with MaxText, {datetime.date.today()}"
    yield ""
    command = " ".join(sys.argv[1:]).replace(str(options.maxtext_python), "$HOME/maxtext/bin/python")
    yield f"    python benchmarks/maxtext.py {command}"
    yield ""
    yield f"Ours: {versions(Path(sys.executable), *PACKAGES)}."
    yield f"MaxText's: {versions(options.maxtext_python, *PACKAGES, 'maxtext')}."
    yield f"Compiled on {os.cpu_count()} shared cores for {SLICE} ({slice_.cloud_name}); nothing was run on a TPU."
    yield ""
    yield from TASK.splitlines()
    yield (
        "| recomputed | program | peak, GiB | ratio | FLOPs | ratio | traffic, TB | sent, GB | step, s | ratio |"
        " compilation, s |"
    )
    yield "|---" * 11 + "|"
    first: dict[str, dict[str, Any]] = {}
    for recomputed, program, row in results:
        baseline = first.setdefault(recomputed, row)
        peak, flops, seconds = row["peak_bytes"], row["compiled_flops"], row["estimated_seconds"]
        sent = sum(size for parts in row["collective_bytes"].values() for size in parts.values())
        yield (
            f"| {recomputed} | {program} | {peak / GiB:.2f} | {peak / baseline['peak_bytes']:.3f} | {flops:.4e} |"
            f" {flops / baseline['compiled_flops']:.3f} | {row['memory_bytes'] / 1e12:.2f} | {sent / 1e9:.1f} |"
            f" {seconds:.2f} | {seconds / baseline['estimated_seconds']:.3f} | {row['compile_seconds']:.0f} |"
        )
    yield ""
    yield "Sent by kind, GB:"
    yield ""
    for recomputed, program, row in results:
        kinds = {kind: sum(parts.values()) for kind, parts in row["collective_bytes"].items()}
        named = ", ".join(f"{kind} {size / 1e9:.1f}" for kind, size in sorted(kinds.items()) if size > 1e7)
        yield f"- {program}, recomputed {recomputed}: {named}"
    yield ""
    yield from FAIRNESS.splitlines()


def ours(settings: tuple[str, ...]) -> dict[str, Any]:
    """Our plan, compiled without a cache."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        command = [sys.executable, "-m", "codellama_jax.plan", *OURS, *settings, "--json"]
        child = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    plan = json.loads(child.stdout)
    if not plan["fits"] or plan["unknown_loops"] or plan["recomputed_by_the_compiler"]:
        raise SystemExit(f"ours does not fit, or its loops or products cannot be counted: {plan}")
    return plan


def maxtext(python: Path, slice_: Topology, settings: tuple[str, ...]) -> dict[str, Any]:
    """The same figures for MaxText's step."""
    with tempfile.TemporaryDirectory() as folder:
        step = compile_step(python, slice_, (*MAXTEXT, *settings), Path(folder))
    check_config(step.config)
    if step.program.recomputed:
        raise SystemExit(f"the compiler recomputes {step.program.recomputed} instructions of MaxText's step")
    return {
        "peak_bytes": step.peak_bytes,
        "compiled_flops": (step.program.product_flops + attention_flops(step.program)) * slice_.devices,
        "memory_bytes": memory_bytes(step.program),
        "collective_bytes": roofline.bytes_sent(step.collectives),
        "estimated_seconds": step.estimate()["total"],
        "compile_seconds": step.seconds,
    }


def check_config(logged: dict[str, str]) -> None:
    """Raises SystemExit if the configuration that MaxText logs is not EXPECTED_CONFIG."""
    different = {
        key: logged.get(key) for key, value in EXPECTED_CONFIG.items() if (logged.get(key) or "").strip() != value
    }
    if different:
        raise SystemExit(f"MaxText has a different task: {different}; expected {EXPECTED_CONFIG}")


if __name__ == "__main__":
    main()
