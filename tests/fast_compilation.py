"""Settings with which the code of small programs is generated in a third of the time.

Without the optimizations of LLVM and with XLA's older emitters. XLA's own passes, and so the operations of a program,
are the same; results may differ in rounding. Test files that compare bits across programs are marked as compares_bits:
with the older emitters a row of a product depends on the number of rows (generation/test_row_independence.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import pytest
from jax._src import compiler  # no public function sets options of XLA for all programs of a process that has started

# One part: the usual 32 parts of a program can be generated in parallel, but each has a cost of its own.
_XLA = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
# For the environment of other processes.
ENVIRONMENT = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": " ".join(f"--{name}={str(value).lower()}" for name, value in _XLA.items()),
}


@contextmanager
def in_this_process() -> Iterator[None]:
    """Sets the options of all programs that this process compiles meanwhile."""
    usual = compiler.get_compile_options

    def get_compile_options(*args: Any, **kwargs: Any) -> Any:
        options = usual(*args, **kwargs)
        options.env_option_overrides = [*options.env_option_overrides, *_XLA.items()]
        return options

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", get_compile_options)
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)
