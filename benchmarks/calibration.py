"""Compares the estimate of a train step's time with published, measured runs of MaxText. Needs no TPU.

    python3.12 -m venv ~/maxtext
    ~/maxtext/bin/pip install 'maxtext[tpu]==0.2.5' jax==0.12.0.1 libtpu==0.0.50.1
    python benchmarks/calibration.py --maxtext_python=$HOME/maxtext/bin/python [--dumps=FOLDER] [--out=FILE]

Each run is a dense Llama with its published settings and compiler flags. MaxText's train_compile compiles its step with
XLA's TPU compiler on this machine, and codellama_jax/planning/roofline.py estimates its time. Run this in an
environment with the packages of requirements-tpu.txt. A compilation takes minutes; --dumps keeps what the compiler
writes, and programs that are there already are only analysed again.
"""

import argparse
import dataclasses
import datetime
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from maxtext_compile import Step, compile_step, versions  # also makes codellama_jax importable
from result_file import paragraph

from codellama_jax.planning.chips import GiB, Topology, topology
from codellama_jax.planning.libtpu_flags import FLAGS

# Groups of compiler flags as in MaxText's benchmarks/xla_flags_library.py.
ON_CHIP_MEMORY = "xla_tpu_scoped_vmem_limit_kib"
SCOPED_MEMORY = (f"{ON_CHIP_MEMORY}=98304",)
ASYNC_ALL_GATHER = (
    "xla_tpu_enable_async_collective_fusion=true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
    "xla_tpu_enable_async_collective_fusion_multiple_steps=true",
    "xla_tpu_overlap_compute_collective_tc=true",
    "xla_enable_async_all_gather=true",
)
DATA_PARALLEL = (
    "xla_tpu_enable_data_parallel_all_reduce_opt=true",
    "xla_tpu_data_parallel_opt_different_sized_ops=true",
)
REDUCE_SCATTER_LAYOUT = (
    "xla_tpu_use_minor_sharding_for_major_trivial_input=true",
    "xla_tpu_relayout_group_size_threshold_for_reduce_scatter=1",
    "xla_tpu_assign_all_reduce_scatter_layout=true",
)
SPARSE_CORE_ALL_REDUCE = (
    "xla_tpu_enable_async_collective_fusion_fuse_all_reduce=false",
    "xla_tpu_enable_sparse_core_collective_offload_all_reduce=true",
    "xla_tpu_enable_all_reduce_offload_tracing=true",
    "xla_tpu_use_tc_device_shape_on_sc=true",
    "xla_sc_enable_instruction_fusion=false",
    "xla_sc_disjoint_spmem=false",
    "xla_sc_disable_megacore_partitioning=true",
    "2a886c8_chip_config_name=megachip_tccontrol",
)
HOST_OFFLOAD = (
    "xla_tpu_enable_all_experimental_scheduler_features=true",
    "xla_tpu_enable_scheduler_memory_pressure_tracking=true",
    "xla_tpu_host_transfer_overlap_limit=24",
    "xla_tpu_aggressive_opt_barrier_removal=ENABLED",
    "xla_lhs_prioritize_async_depth_over_stall=ENABLED",
    "xla_tpu_enable_ag_backward_pipelining=true",
    "xla_should_allow_loop_variant_parameter_in_chain=ENABLED",
    "xla_should_add_loop_invariant_op_in_chain=ENABLED",
    "xla_max_concurrent_host_send_recv=100",
    "xla_tpu_scheduler_percent_shared_memory_limit=100",
    "xla_latency_hiding_scheduler_rerun=2",
)
IRONWOOD = (
    f"{ON_CHIP_MEMORY}=61440",
    "xla_tpu_bf16_emission_mode=NATIVE_EMISSION",
    "xla_tpu_enable_sparse_core_collective_offload_all_reduce=true",
    "xla_tpu_use_single_sparse_core_for_all_gather_offload=true",
)

BLOCKS_2048 = tuple(
    f"sa_block_{name}=2048" for name in ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
)
QUERY_BLOCKS_2048 = ("sa_block_q=1024", "sa_block_q_dkv=2048", "sa_block_q_dq=2048")  # of 512 keys
FUSED = ("sa_use_fused_bwd_kernel=true",)
SYNTHETIC = (
    *("attention=flash", "use_iota_embed=true", "dataset_type=synthetic", "reuse_example_batch=1"),
    *("enable_checkpointing=false", "run_name=benchmark"),
)


def kept(where: str, *names: str) -> tuple[str, ...]:
    """The settings that keep the named activations on the device or offload them to the host."""
    return ("remat_policy=custom", *(f"{name}={where}" for name in names))


@dataclasses.dataclass(frozen=True)
class Run:
    """A published run.

    Attributes:
        name: the model.
        slice: name of the slice in the cloud.
        windows, length: sequences per device and step, and their number of tokens.
        published: measured tokens/s/chip.
        settings: those that differ from MaxText's base.yml.
        flags: of the compiler, without the leading dashes.
        activations, attention: the settings in words, for the result.
        source: where the settings and the measurement are published, and the versions that were measured if known.
    """

    name: str
    slice: str
    windows: int
    length: int
    published: float
    settings: tuple[str, ...]
    flags: tuple[str, ...]
    activations: str
    attention: str
    source: str

    @property
    def topology(self) -> Topology:
        return topology(self.slice)

    @property
    def all_settings(self) -> tuple[str, ...]:
        return (*SYNTHETIC, f"per_device_batch_size={self.windows}", f"max_target_length={self.length}", *self.settings)

    @property
    def tokens_per_chip(self) -> int:
        return self.windows * self.length * self.topology.chip.devices

    def ratio(self, seconds: float) -> float:
        """Measured tokens/s/chip over those of a step that takes `seconds`."""
        return self.published * seconds / self.tokens_per_chip


# The 32B model of MaxText's base.yml with global_parameter_scale=32, for which TFLOP/s are published: 32 layers of
# 4 x 8192 x 8192 + 3 x 8192 x 28672 parameters and two tables of 32,000 x 8192. At that time MaxText counted 6 FLOPs
# per parameter, and causal attention: 6 x 32 layers x 64 heads x 128 channels x 2048 keys.
FLOPS_PER_TOKEN_32B = 6 * (32 * (4 * 8192**2 + 3 * 8192 * 28672) + 2 * 32_000 * 8192) + 6 * 32 * 64 * 128 * 2048

RUNS = (
    Run(
        name="Llama 2 70B",
        slice="v5p-512",
        windows=4,
        length=4096,
        published=692,
        settings=("model_name=llama2-70b", "ici_fsdp_parallelism=-1", "remat_policy=save_dot_except_mlpwi"),
        flags=(*DATA_PARALLEL, *ASYNC_ALL_GATHER),
        activations="q, k, v, o, down kept",
        attention="512, two backward kernels",
        source="maxtext: docs/reference/models/tiering.md (692 tokens/s/device; 512 in the slice's name) and"
        " benchmarks/maxtext_v5p_model_configs.py, llama2_70b_v5p_128; 2025",
    ),
    Run(
        name="Llama 3.1 405B",
        slice="v5p-1024",
        windows=2,
        length=8192,
        published=124.618,
        settings=(
            *("model_name=llama3.1-405b", "ici_fsdp_parallelism=-1", "num_vocab_tiling=4"),
            *(*kept("offload", "context", "mlpwo"), *BLOCKS_2048),
        ),
        flags=(*SCOPED_MEMORY, *ASYNC_ALL_GATHER, *HOST_OFFLOAD),
        activations="attention and down offloaded",
        attention="2048, two backward kernels",
        source="tpu-recipes: training/v5p/Llama3.1-405B-MaxText/README.md (log of step 10) and"
        " cluster_toolkit/run_recipe.sh; jax 0.7.0",
    ),
    Run(
        name="Llama 2 70B",
        slice="v6e-256",
        windows=3,
        length=4096,
        published=905.021,
        settings=(
            *("model_name=llama2-70b", "ici_fsdp_parallelism=1", "ici_fsdp_transpose_parallelism=-1"),
            *("remat_policy=qkv_proj_offloaded", *QUERY_BLOCKS_2048),
        ),
        flags=(*SCOPED_MEMORY, *ASYNC_ALL_GATHER, *SPARSE_CORE_ALL_REDUCE),
        activations="q, k, v offloaded",
        attention="1024 x 512 and 2048 x 512, two backward kernels",
        source="tpu-recipes: training/trillium/Llama2-70B-MaxText/README.md (log of step 16); jax 0.5.2",
    ),
    Run(
        name="Llama 3.1 8B",
        slice="v6e-256",
        windows=4,
        length=8192,
        published=7207.336,
        settings=(
            *("model_name=llama3.1-8b", "ici_fsdp_parallelism=-1"),
            *kept("offload", "decoder_layer_input", "out_proj", "query_proj", "key_proj", "value_proj"),
            *(*BLOCKS_2048, *FUSED),
        ),
        flags=(
            *(*SCOPED_MEMORY, *REDUCE_SCATTER_LAYOUT, *DATA_PARALLEL, *ASYNC_ALL_GATHER),
            *(*SPARSE_CORE_ALL_REDUCE, *HOST_OFFLOAD),
        ),
        activations="inputs, q, k, v, o offloaded",
        attention="2048, one backward kernel",
        source="tpu-recipes: training/trillium/Llama3.1-8B-MaxText/v6e-256/README.md (log of step 14); jax 0.6.1",
    ),
    Run(
        name="MaxText 32B",
        slice="v5e-256",
        windows=4,
        length=2048,
        published=132e12 / FLOPS_PER_TOKEN_32B,
        settings=("global_parameter_scale=32", "remat_policy=full"),
        flags=(*DATA_PARALLEL, *ASYNC_ALL_GATHER),
        activations="none kept",
        attention="512, two backward kernels",
        source="maxtext: configs/tpu/v5e/README.md (132 TFLOP/s/chip, 66.86%) and configs/tpu/v5e/32b.sh; 2023",
    ),
    Run(
        name="Llama 3.1 70B",
        slice="tpu7x-128",
        windows=2,
        length=8192,
        published=2686.98,
        settings=(
            *("model_name=llama3.1-70b", "ici_fsdp_parallelism=-1", "dtype=bfloat16", "mu_dtype=bfloat16"),
            *kept("device", "decoder_layer_input", "context", "query_proj", "key_proj", "value_proj", "qkv_proj"),
            *(*BLOCKS_2048, *FUSED, "use_tokamax_splash=false"),
        ),
        flags=IRONWOOD,
        activations="inputs, q, k, v, attention kept",
        attention="2048, one backward kernel",
        source="tpu-recipes: training/ironwood/README.md and"
        " training/ironwood/llama3.1-70b/8k-bf16-tpu7x-4x4x4/cluster_toolkit/run_recipe.sh; libtpu 0.0.47",
    ),
)

# The runs without a flag for on-chip memory, with that of the bundle "fast" of planning/libtpu_flags.py. The compiler's
# default may have been another one when they were measured.
WITH_ON_CHIP_MEMORY = tuple(
    dataclasses.replace(run, name=f"{run.name}, on-chip memory", flags=(*run.flags, flag.removeprefix("--")))
    for run in RUNS
    if not any(flag.startswith(ON_CHIP_MEMORY) for flag in run.flags)
    for flag in FLAGS[run.topology.chip.name]
    if flag.startswith(f"--{ON_CHIP_MEMORY}")
)

# Flags that libtpu 0.0.50.1 does not accept, and what is passed instead.
RENAMED = {"2a886c8_chip_config_name=megachip_tccontrol": "deepsea_chip_config_name=megachip_tccontrol"}
ONLY_V5E = "xla_tpu_enable_async_collective_fusion_fuse_all_gather=true"

METHOD = """\
The ratio is measured over estimated tokens/s/chip: less than 1 if the estimate is too fast. Each program is MaxText's
own train step (its step function, model, optimizer and mesh), compiled with the run's published settings and compiler
flags, and the estimate is codellama_jax.planning.roofline.estimate of the compiled program. The devices are in the
order of MaxText's mesh. "Hidden": the ratio if all communication ran behind the computation.
"""
DIFFERENCES = (
    "MaxText, JAX and the compiler are those above, not those of the measurements.",
    f"The compiler refuses {ONLY_V5E} on all chips but v5e, and it is left out there. Then all-gathers are not"
    " asynchronous. In the measured runs they were; their ratio should be between the two columns.",
    f"{next(iter(RENAMED))} is no longer known; {next(iter(RENAMED.values()))} is passed instead.",
    "The measured run on tpu7x uses tokamax's splash kernel, with the sequence as last dim of queries and keys. Here"
    " JAX's splash kernel is compiled in the same blocks: the estimate has the cycles of this kernel only.",
    "Llama 2 70B on v5p: the published table has 512 chips. Its other row for v5p has 256 chips (8x4x4), so it counts"
    " cores, as the slice's name does. The recipe sets no blocks; those are MaxText's default.",
    "MaxText 32B on v5e: TFLOP/s are published, converted here with MaxText's count of that time. The shape is that of"
    " the current base.yml; in 2023 it may have had other heads.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maxtext_python", type=Path, required=True, help="the Python of MaxText's environment")
    parser.add_argument("--dumps", type=Path, help="folder for the compiler's dumps (default: they are deleted)")
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dumps = options.dumps or Path(folder)
        steps, others = (
            [compile_run(run, options.maxtext_python, dumps) for run in runs] for runs in (RUNS, WITH_ON_CHIP_MEMORY)
        )
    text = "".join(line + "\n" for line in result(steps, others, options.maxtext_python))
    print(text)
    if options.out:
        options.out.write_text(text)


def compile_run(run: Run, python: Path, dumps: Path) -> Step:
    print(f"compiling: {run.name}, {run.slice}", file=sys.stderr)
    folder = dumps / f"{run.name} {run.slice}".replace(" ", "_").lower()
    flags = [RENAMED.get(flag, flag) for flag in run.flags if flag != ONLY_V5E or run.topology.chip.name == "v5e"]
    return compile_step(python, run.topology, run.all_settings, folder, " ".join(f"--{flag}" for flag in flags))


def result(steps: list[Step], others: list[Step], python: Path) -> Iterator[str]:
    """The lines of the result file."""
    rows = [(run, step, step.estimate()) for run, step in zip(RUNS, steps, strict=True)]
    ratios = [run.ratio(estimate["total"]) for run, _, estimate in rows]
    hidden = [run.ratio(estimate["total"] - estimate["collectives"]) for run, _, estimate in rows]
    yield f"# Estimated and measured seconds of a step, {datetime.date.today()}"
    yield ""
    command = " ".join(sys.argv[1:]).replace(str(python), "$HOME/maxtext/bin/python")
    yield f"    python benchmarks/calibration.py {command}"
    yield ""
    yield f"{versions(python, 'jax', 'jaxlib', 'libtpu', 'maxtext')}."
    yield f"Compiled on {os.cpu_count()} shared cores; nothing was run on a TPU."
    yield ""
    yield from METHOD.splitlines()
    yield ""
    yield "| run | slice | windows/device | activations | attention blocks | measured | estimated | ratio | hidden |"
    yield "|---" * 9 + "|"
    for (run, _, estimate), ratio, without_collectives in zip(rows, ratios, hidden, strict=True):
        yield (
            f"| {run.name} | {run.slice} | {run.windows} of {run.length} | {run.activations} | {run.attention} |"
            f" {run.published:,.0f} | {run.tokens_per_chip / estimate['total']:,.0f} | {ratio:.3f} |"
            f" {without_collectives:.3f} |"
        )
    yield ""
    for name, values in (("Ratio", ratios), ("Hidden", hidden)):
        yield (
            f"{name}: mean {statistics.mean(values):.3f}, standard deviation {statistics.stdev(values):.3f}, from"
            f" {min(values):.3f} to {max(values):.3f}."
        )
    yield ""
    yield from paragraph(
        "The first and the fifth run set no flag for on-chip memory, and the default of the compiler that was measured"
        " is not known. Compiled with that of the bundle `fast` (codellama_jax/planning/libtpu_flags.py), their ratios"
        " are:"
    )
    for run, step in zip(WITH_ON_CHIP_MEMORY, others, strict=True):
        seconds = step.estimate()["total"]
        speed = run.tokens_per_chip / seconds
        yield f"- {run.name}, {run.slice}: estimated {speed:,.0f}, ratio {run.ratio(seconds):.3f}"
    yield ""
    yield "By chip:"
    yield ""
    for chip in dict.fromkeys(run.topology.chip.name for run in RUNS):
        of_chip = [ratio for run, ratio in zip(RUNS, ratios, strict=True) if run.topology.chip.name == chip]
        runs = ", ".join(f"{ratio:.3f}" for ratio in of_chip)
        yield f"- {chip}: mean {statistics.mean(of_chip):.3f} ({runs})"
    yield ""
    yield "Seconds of a step, and the parts of the estimate; GiB of the compiler's heap, and seconds of compilation:"
    yield ""
    parts = [part for part in rows[0][2] if part != "total"]
    yield f"| run | slice | measured | estimated | {' | '.join(parts)} | GiB | compilation |"
    yield "|---" * (len(parts) + 6) + "|"
    for run, step, estimate in rows:
        yield (
            f"| {run.name} | {run.slice} | {run.tokens_per_chip / run.published:.2f} | {estimate['total']:.2f} |"
            f" {' | '.join(f'{estimate[part]:.2f}' for part in parts)} | {step.peak_bytes / GiB:.1f} |"
            f" {step.seconds:.0f} |"
        )
    yield ""
    yield "## Sources"
    yield ""
    yield "Of the repositories AI-Hypercomputer/maxtext and AI-Hypercomputer/tpu-recipes."
    yield ""
    for run in RUNS:
        yield f"- {run.name} on {run.slice}: {run.source}."
    yield ""
    yield "## Differences from the measured programs"
    yield ""
    for difference in DIFFERENCES:
        first, *rest = list(paragraph(difference))[:-1]
        yield f"- {first}"
        yield from (f"  {line}" for line in rest)


if __name__ == "__main__":
    main()
