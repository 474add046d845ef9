"""Flags of the TPU compiler, LIBTPU_INIT_ARGS, with which a train step is planned and launched.

The bundle "fast" has the flags that make the compiled step of some size faster by our estimate (docs/pods.md has what
each is worth). Nobody has measured them with this program on a TPU; `--libtpu_bundle=none` sets none, and
LIBTPU_INIT_ARGS in the environment overrides any bundle. An unknown flag aborts the process, and some combinations do
not compile: tests/planning/test_libtpu_flags.py compiles a program with each bundle.
"""

import argparse
import os

from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.planning.chips import Chip

NONE, FAST = "none", "fast"


def _scratch(kib: int) -> tuple[str, ...]:
    """On-chip memory for the tiles of a product and for the arrays of a kernel. By default, most products have small
    tiles and read their operands several times."""
    return (f"--xla_tpu_scoped_vmem_limit_kib={kib}",)


# Gathers and reductions over the interconnect run on the sparse cores while the other cores compute.
_SPARSE_CORES = (
    "--xla_tpu_enable_sparse_core_collective_offload_all_gather=true",
    "--xla_tpu_enable_sparse_core_collective_offload_2d_all_gather=true",
    "--xla_tpu_enable_sparse_core_collective_offload_3d_all_gather=true",
    "--xla_tpu_enable_sparse_core_collective_offload_reduce_scatter=true",
    "--xla_tpu_enable_sparse_core_collective_offload_all_reduce=true",
    "--xla_enable_async_all_gather=true",
    # each device has one group of sparse cores, and numbers devices as the other cores do
    "--xla_sc_disable_megacore_partitioning=true",
    "--xla_tpu_use_tc_device_shape_on_sc=true",
)

# Three quarters of the on-chip memory of a core (v5p and tpu7x 64 MiB, v5e and v6e 128 MiB); v4 has no more than the
# default. v5e has no sparse cores; v4's and tpu7x's programs do not change with the flags for them.
FLAGS: dict[str, tuple[str, ...]] = {
    "v4": (),
    "v5e": _scratch(98_304),
    "v5p": (*_SPARSE_CORES, *_scratch(49_152)),
    "v6e": (*_SPARSE_CORES, *_scratch(98_304)),
    "tpu7x": _scratch(49_152),
}


def add_flag(parser: argparse.ArgumentParser) -> None:
    """Adds --libtpu_bundle."""
    parser.add_argument("--libtpu_bundle", default=FAST, help=f"flags of the TPU compiler: {FAST} (default) or {NONE}")


def libtpu_init_args(chip: Chip, bundle: str = FAST) -> str:
    """The value of LIBTPU_INIT_ARGS for hosts with these chips; "" leaves it unset.

    Raises:
        UserError: there is no such bundle.
    """
    if override := os.environ.get("LIBTPU_INIT_ARGS"):
        return override
    bundles = {FAST: FLAGS[chip.name], NONE: ()}
    if bundle not in bundles:
        raise UserError(f"--libtpu_bundle={bundle}: {chip.name} has {', '.join(bundles)}", EXIT_USAGE)
    return " ".join(bundles[bundle])
