"""Named bundles of LIBTPU_INIT_ARGS for each TPU generation. By default, none is used.

We have not measured the effect of these flags, so none is set unless --libtpu_bundle names a bundle. LIBTPU_INIT_ARGS
in the launcher's environment overrides any bundle. The comments repeat the descriptions by the publishers of the flags.
An unknown flag aborts the process, and some combinations do not compile: tests/launch/test_libtpu_flags.py compiles a
program with each bundle.
"""

import os

from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.planning.chips import CHIPS, Chip

NONE = "none"
# Sums gradients over data-parallel replicas during the backward pass, with operands of different sizes.
_DATA_PARALLEL = (
    "--xla_tpu_enable_data_parallel_all_reduce_opt=true",
    "--xla_tpu_data_parallel_opt_different_sized_ops=true",
)
# Gathers parameters while the previous layer is computed.
_GATHER = ("--xla_enable_async_all_gather=true", "--xla_tpu_overlap_compute_collective_tc=true")

# The defaults of v5e include all of these; we know of no published set for tpu7x.
BUNDLES: dict[str, dict[str, tuple[str, ...]]] = {
    "v4": {"overlap": (*_DATA_PARALLEL, *_GATHER)},
    "v5e": {},
    "v5p": {
        "overlap": (
            *_DATA_PARALLEL,
            *_GATHER,
            "--xla_tpu_enable_ag_backward_pipelining=true",  # starts gathers of the backward pass one layer ahead
            "--xla_enable_async_collective_permute=true",
            "--xla_tpu_megacore_fusion_allow_ags=false",  # a gather fused into a matrix product does not overlap
        )
    },
    "v6e": {
        # more scratch memory for fusions and kernels: matrix products are limited by memory bandwidth
        "overlap": ("--xla_tpu_scoped_vmem_limit_kib=98304", *_GATHER)
    },
    "tpu7x": {},
}


def libtpu_init_args(chip: Chip, bundle: str = NONE) -> str:
    """The value of LIBTPU_INIT_ARGS for hosts with these chips; "" leaves it unset.

    Raises:
        UserError: the generation has no such bundle.
    """
    if override := os.environ.get("LIBTPU_INIT_ARGS"):
        return override
    bundles = BUNDLES[chip.name] | {NONE: ()}
    if bundle not in bundles:
        others = ", ".join(name for name in CHIPS if bundle in BUNDLES[name]) or "no generation"
        raise UserError(
            f"--libtpu_bundle={bundle}: {chip.name} has {', '.join(sorted(bundles))} ({bundle} exists for {others})",
            EXIT_USAGE,
        )
    return " ".join(bundles[bundle])
