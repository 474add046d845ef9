"""Next-token cross-entropy with a custom gradient, without a [tokens, vocabulary] array.

By default JAX keeps the logits for the backward pass, or computes them twice. But the gradient of cross-entropy follows
directly from the logits. So the pass that computes the loss computes the gradients too, one chunk at a time; the
residuals of a chunk have the size of its hidden states. On a mesh, every device does this for its own tokens.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from codellama_jax.kernels.cpu_products import row_major
from codellama_jax.kernels.cpu_rounding import rounded
from codellama_jax.sharding import SHARDING_RULES, spec


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def weighted_loss(
    x_BSD: jax.Array,
    head_DV: jax.Array,
    targets_BS: jax.Array,
    weights_BS: jax.Array,
    chunk: int,
    mesh: Mesh | None = None,
    padding: int = 0,
    frozen_head: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Weighted sum of the targets' negative log-likelihoods, and each of them, in nats.

    The sum is differentiable with respect to x and head; the weights and the individual losses are constants.

    Args:
        x_BSD: hidden states after the final norm, sharded like activations.
        head_DV: output head, any float dtype; cast to x's for the products. Its gradient is accumulated in float32.
        targets_BS: token ids.
        weights_BS: float32.
        chunk: maximum number of a device's tokens whose logits (float32, for the device's shard of the vocabulary) are
            in memory at a time; the largest divisor of the device's number of tokens is used.
        mesh: mesh of the arrays; None: one device.
        padding: number of columns at the end of the head that have no token: their probability is 0, and so is their
            gradient.
        frozen_head: the head is a constant: its gradient is not computed.

    Returns:
        float32 [] and [B, S].
    """
    losses_BS, _, _ = _pass(x_BSD, head_DV, targets_BS, weights_BS, chunk, mesh, padding, gradients="")
    return jnp.sum(losses_BS * weights_BS), losses_BS


def _forward(
    x_BSD: Any,
    head_DV: Any,
    targets_BS: Any,
    weights_BS: Any,
    chunk: int,
    mesh: Mesh | None,
    padding: int,
    frozen_head: bool,
) -> Any:
    wanted = "x" if frozen_head else "x and head"
    losses_BS, *gradients = _pass(x_BSD, head_DV, targets_BS, weights_BS, chunk, mesh, padding, gradients=wanted)
    return (jnp.sum(losses_BS * weights_BS), losses_BS), (*gradients, None if frozen_head else head_DV)


def _backward(chunk: int, mesh: Mesh | None, padding: int, frozen_head: bool, residuals: Any, cotangents: Any) -> Any:
    dx_BSD, dhead_DV, head_DV = residuals
    dsum = cotangents[0]
    if frozen_head:
        return (dsum * dx_BSD).astype(dx_BSD.dtype), None, None, None
    return (dsum * dx_BSD).astype(dx_BSD.dtype), (dsum * dhead_DV).astype(head_DV.dtype), None, None


weighted_loss.defvjp(_forward, _backward)


def _pass(
    x_BSD: jax.Array,
    head_DV: jax.Array,
    targets_BS: jax.Array,
    weights_BS: jax.Array,
    chunk: int,
    mesh: Mesh | None,
    padding: int,
    gradients: str,
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """Losses [B, S] and the gradients of their weighted sum for x [B, S, D] and head [D, V], those that `gradients`
    names: "", "x" or "x and head"."""
    if mesh is None or mesh.size == 1:  # XLA for CPUs copies the head and its gradient even for a gather on one device
        return _on_device(x_BSD, head_DV, targets_BS, weights_BS, chunk, None, padding, gradients)
    rows, head = spec(("batch", "sequence")), spec(("dim", "vocab"))
    x = spec(("batch", "sequence", None))
    return jax.shard_map(
        functools.partial(_on_device, chunk=chunk, mesh=mesh, padding=padding, gradients=gradients),
        mesh=mesh,
        in_specs=(x, head, rows, rows),
        out_specs=(rows, x if gradients else PartitionSpec(), head if "head" in gradients else PartitionSpec()),
        check_vma=False,
    )(x_BSD, head_DV, targets_BS, weights_BS)


def _on_device(
    x_BSD: jax.Array,
    head_DV: jax.Array,
    targets_BS: jax.Array,
    weights_BS: jax.Array,
    chunk: int,
    mesh: Mesh | None,
    padding: int,
    gradients: str,
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """_pass on one device: its B rows of S tokens, and its shard of the head, which has V columns."""
    B, S, D = x_BSD.shape
    V = head_DV.shape[1]
    T = B * S
    chunk = next(size for size in range(min(chunk, T), 0, -1) if T % size == 0)
    vocabulary_is_sharded = mesh is not None and mesh.shape["tensor"] > 1
    first = jax.lax.axis_index("tensor") * V if vocabulary_is_sharded else 0
    rows = V * (mesh.shape["tensor"] if mesh is not None else 1)  # of the complete vocabulary

    def over_vocabulary(reduce: Any, x: jax.Array) -> jax.Array:
        return reduce(x, "tensor") if vocabulary_is_sharded else x

    def target_logits(logits_CV: jax.Array, targets_C: jax.Array, is_target_CV: jax.Array) -> jax.Array:
        """The targets' logits; 0 for a target in the shard of another device. On CPUs a gather is 10% faster."""

        def by_sum(logits_CV: jax.Array, targets_C: jax.Array, is_target_CV: jax.Array) -> jax.Array:
            return jnp.sum(jnp.where(is_target_CV, logits_CV, 0.0), axis=-1)

        def by_gather(logits_CV: jax.Array, targets_C: jax.Array, is_target_CV: jax.Array) -> jax.Array:
            return jnp.take_along_axis(logits_CV, targets_C[:, None], axis=-1)[:, 0]

        cpu = by_sum if vocabulary_is_sharded else by_gather
        return jax.lax.platform_dependent(logits_CV, targets_C, is_target_CV, cpu=cpu, default=by_sum)

    def logit_gradients(
        logits_CV: jax.Array,
        normaliser_C: jax.Array,
        targets_C: jax.Array,
        is_target_CV: jax.Array,
        weights_C: jax.Array,
    ) -> jax.Array:
        """The gradients of the weighted losses for the logits, in x's dtype. On CPUs a select is faster than a
        difference of which one side is mostly 0, and in float32 an assignment faster than both."""
        dtype, softmax_CV = x_BSD.dtype, jnp.exp(logits_CV - normaliser_C[:, None])

        def by_difference(targets_C: jax.Array, is_target_CV: jax.Array) -> jax.Array:
            return ((softmax_CV - is_target_CV) * weights_C[:, None]).astype(dtype)

        def by_select(targets_C: jax.Array, is_target_CV: jax.Array) -> jax.Array:
            return rounded(jnp.where(is_target_CV, softmax_CV - 1, softmax_CV) * weights_C[:, None], dtype)

        def by_assignment(targets_C: jax.Array, is_target_CV: jax.Array) -> jax.Array:
            rows_C = jnp.arange(len(targets_C))
            of_targets_C = (softmax_CV[rows_C, targets_C] - 1) * weights_C
            return (softmax_CV * weights_C[:, None]).at[rows_C, targets_C].set(of_targets_C, unique_indices=True)

        cpu = by_assignment if dtype == jnp.float32 and not vocabulary_is_sharded else by_select
        return jax.lax.platform_dependent(targets_C, is_target_CV, cpu=cpu, default=by_difference)

    head = head_DV.astype(x_BSD.dtype)
    if mesh is not None:
        head = jax.lax.all_gather(head, SHARDING_RULES["dim"], axis=0, tiled=True)

    def one_chunk(dhead: Any, part: Any) -> Any:
        x_CD, targets_C, weights_C = part
        logits_CV = jnp.einsum("cd,dv->cv", x_CD, head, preferred_element_type=jnp.float32)
        if padding:  # -inf gives probability 0 and gradient 0
            logits_CV = jnp.where((jnp.arange(V) < rows - padding - first)[None, :], logits_CV, -jnp.inf)
        largest_C = over_vocabulary(jax.lax.pmax, jnp.max(logits_CV, axis=-1))
        sums_C = over_vocabulary(jax.lax.psum, jnp.sum(jnp.exp(logits_CV - largest_C[:, None]), axis=-1))
        normaliser_C = largest_C + jnp.log(sums_C)
        is_target_CV = jnp.arange(V)[None, :] == (targets_C - first)[:, None]
        losses_C = normaliser_C - over_vocabulary(jax.lax.psum, target_logits(logits_CV, targets_C, is_target_CV))
        if not gradients:
            return dhead, (losses_C, None)
        dlogits_CV = logit_gradients(logits_CV, normaliser_C, targets_C, is_target_CV, weights_C)
        if dhead is not None:
            dhead += jnp.einsum("dc,cv->dv", row_major(x_CD.T), dlogits_CV, preferred_element_type=jnp.float32)
        dx_CD = jnp.einsum("cv,dv->cd", dlogits_CV, head, preferred_element_type=jnp.float32)
        return dhead, (losses_C, over_vocabulary(jax.lax.psum, dx_CD.astype(x_CD.dtype)))

    parts = (x_BSD.reshape(-1, chunk, D), targets_BS.reshape(-1, chunk), weights_BS.reshape(-1, chunk))
    zeros = jnp.zeros((D, V), jnp.float32) if "head" in gradients else None
    dhead, (losses, dx) = jax.lax.scan(one_chunk, zeros, parts)
    if not gradients:
        return losses.reshape(B, S), None, None
    if mesh is not None and dhead is not None:
        dhead = jax.lax.psum_scatter(dhead, SHARDING_RULES["dim"], scatter_dimension=0, tiled=True)
        dhead = jax.lax.psum(dhead, "data")
    return losses.reshape(B, S), dx.reshape(B, S, D), dhead
