"""Matrix products whose rows have the same bits in a program of any number of rows, on a CPU.

XLA has several kernels for a product on a CPU and chooses by the number of rows: a loop for one row, Eigen, YNNPACK.
They sum in different orders. Eigen cuts the contracted dim into parts by the size of the L1 cache, and distributes it
over threads if there are few rows or many threads; YNNPACK cuts it by all three dims, and its reductions depend on the
number of rows too.

Here the contracted dim is cut into blocks that no kernel cuts further. Within a block, every kernel adds the products
one after the other with fused multiply-adds; the sums of the blocks are added in order. The blocks of a matrix are
arrays of their own, since XLA copies a slice before it multiplies. YNNPACK is switched off (compiler_options).
"""

from typing import Any

import jax
import jax.numpy as jnp

# Measured with jaxlib 0.10.2 and 2 to 64 threads: blocks of 256 are cut with 8 threads, and blocks of 128 with fewer
# than 8 rows, unless there is one.
BLOCK = 128
MIN_ROWS = 8

Matrix = jax.Array | tuple[jax.Array, ...]  # [D, F], or blocks of its rows


def compiler_options() -> dict[str, Any] | None:
    """The options of jax.jit for programs whose rows have to be independent of each other; None: XLA's defaults."""
    return {"xla_cpu_experimental_ynn_fusion_type": ""} if jax.default_backend() == "cpu" else None


def matrix(weight: jax.Array) -> Matrix:
    """A matrix in the form for `product`: on a CPU, blocks of its rows."""
    if jax.default_backend() != "cpu":
        return weight
    return tuple(weight[start : start + BLOCK] for start in range(0, len(weight), BLOCK))


def product(x_TD: jax.Array, weight: Matrix) -> jax.Array:
    """x times a matrix, [T, F], accumulated in float32.

    If the matrix is in blocks and the program is compiled with compiler_options, the bits of a row depend only on that
    row of x and on the matrix.
    """
    blocks = weight if isinstance(weight, tuple) else (weight,)
    rows = len(x_TD)
    if isinstance(weight, tuple) and 1 < rows < MIN_ROWS:
        x_TD = jnp.pad(x_TD, ((0, MIN_ROWS - rows), (0, 0)))
    total, start = None, 0
    for block in blocks:
        part_TD = x_TD[:, start : start + len(block)]
        part_TF = jnp.einsum("td,df->tf", part_TD, block, preferred_element_type=jnp.float32)
        total = part_TF if total is None else total + part_TF
        start += len(block)
    assert total is not None
    return total[:rows]
