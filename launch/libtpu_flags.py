"""LIBTPU_INIT_ARGS in named bundles for each generation of TPU, none of them the default.

Nothing here was measured by us, so nothing is set unless --libtpu_bundle asks for it, and LIBTPU_INIT_ARGS of the
launcher's environment wins over any bundle. What each flag is for is what those who publish it say. An unknown flag
aborts the process and a wrong combination does not compile: tests/launch/test_libtpu_flags.py compiles each bundle.
"""

import os

from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.planning.chips import CHIPS, Chip

NONE = "none"
# The sum of gradients between copies of the parameters runs beside the backward pass, in pieces of any size.
_DATA_PARALLEL = (
    "--xla_tpu_enable_data_parallel_all_reduce_opt=true",
    "--xla_tpu_data_parallel_opt_different_sized_ops=true",
)
# Parameters are gathered while the layer before is computed.
_GATHER = ("--xla_enable_async_all_gather=true", "--xla_tpu_overlap_compute_collective_tc=true")

# v5e's defaults do all of this; of tpu7x no set is known to us.
BUNDLES: dict[str, dict[str, tuple[str, ...]]] = {
    "v4": {"overlap": (*_DATA_PARALLEL, *_GATHER)},
    "v5e": {},
    "v5p": {
        "overlap": (
            *_DATA_PARALLEL,
            *_GATHER,
            "--xla_tpu_enable_ag_backward_pipelining=true",  # gathers of the backward pass begin a layer ahead
            "--xla_enable_async_collective_permute=true",
            "--xla_tpu_megacore_fusion_allow_ags=false",  # a gather fused into a product would not overlap
        )
    },
    "v6e": {
        # more of the scratch memory for fusions and kernels: its products are fast, and wait for memory
        "overlap": ("--xla_tpu_scoped_vmem_limit_kib=98304", *_GATHER)
    },
    "tpu7x": {},
}


def libtpu_init_args(chip: Chip, bundle: str = NONE) -> str:
    """What LIBTPU_INIT_ARGS is to be on hosts of such chips; "" leaves it unset.

    Raises:
        UserError: the generation has no such bundle.
    """
    if given := os.environ.get("LIBTPU_INIT_ARGS"):
        return given
    known = BUNDLES[chip.name] | {NONE: ()}
    if bundle not in known:
        where = ", ".join(name for name in CHIPS if bundle in BUNDLES[name]) or "no generation"
        raise UserError(
            f"--libtpu_bundle={bundle}: {chip.name} has {', '.join(sorted(known))} ({bundle} is of {where})", EXIT_USAGE
        )
    return " ".join(known[bundle])
