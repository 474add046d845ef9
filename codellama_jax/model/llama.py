"""A decoder of the Llama family. NNX modules hold the parameters; everything else is plain functions.

The model names logical dims only: parameters carry theirs as metadata (`parameter_dims`), activations pass through
`constrain` with theirs. codellama_jax/sharding.py maps dims to mesh axes.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from codellama_jax.config.model import Llama
from codellama_jax.config.rope import check_length
from codellama_jax.kernels import blocked
from codellama_jax.kernels.cpu_products import broadcast_rows, materialize
from codellama_jax.model import lora, rope

# constrain(x, dims) -> x with the sharding of its logical dims
Constrain = Callable[[jax.Array, tuple[str | None, ...]], jax.Array]
# attend(q_BSHK, k_BSGK, v_BSGK, segments_BS or None) -> [B, S, H, K], causal (kernels/)
Attend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]
# product(equation, x, weight) -> the result of jnp.einsum
Product = Callable[[str, jax.Array, jax.Array], jax.Array]
# rotate(x_BSHK, cos, sin) -> the result of rope.rotate
Rotate = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _unconstrained(x: jax.Array, dims: tuple[str | None, ...]) -> jax.Array:
    return x


class Block(nnx.Module):
    """The stacked parameters of all N decoder blocks: every array has a leading `layers` dim.

    Inside jax.lax.scan a module of this class is merged from one slice: a single block, without that dim.
    """

    def __init__(self, config: Llama, rngs: nnx.Rngs):
        sizes = _sizes(config)

        def weight(*dims: str, std: float = config.init_std) -> nnx.Param:
            dims = ("layers", *dims)
            shape = tuple(sizes[dim] for dim in dims)
            return nnx.Param(std * jax.random.normal(rngs.params(), shape), dims=dims)

        def bias(*dims: str) -> nnx.Param:
            return nnx.Param(jnp.zeros((config.layers, *(sizes[dim] for dim in dims))), dims=("layers", *dims))

        def norm() -> nnx.Param:
            return nnx.Param(jnp.ones((config.layers, config.dim)), dims=("layers", "dim"))

        # Each layer adds two terms to the residual stream; this scale keeps its variance independent of depth.
        residual_std = config.init_std / (2 * config.layers) ** 0.5
        self.attention_norm = norm()
        self.wq = weight("dim", "heads", "head_dim")
        self.wk = weight("dim", "kv_heads", "head_dim")
        self.wv = weight("dim", "kv_heads", "head_dim")
        if config.qkv_bias:
            self.bq = bias("heads", "head_dim")
            self.bk = bias("kv_heads", "head_dim")
            self.bv = bias("kv_heads", "head_dim")
        self.wo = weight("heads", "head_dim", "dim", std=residual_std)
        self.ffn_norm = norm()
        self.w1 = weight("dim", "ffn")
        self.w3 = weight("dim", "ffn")
        self.w2 = weight("ffn", "dim", std=residual_std)


class Decoder(nnx.Module):
    """The parameters of a Llama model: embedding [V, D], stacked blocks, final norm [D], output head [D, V]. All are
    float32. A tied model has no head of its own (`output_head`)."""

    def __init__(self, config: Llama, rngs: nnx.Rngs):
        shape, std = (config.vocab_size, config.dim), config.init_std
        self.embedding = nnx.Param(std * jax.random.normal(rngs.params(), shape), dims=("vocab", "dim"))
        self.blocks = Block(config, rngs)
        self.norm = nnx.Param(jnp.ones(config.dim), dims=("dim",))
        if not config.tied:
            self.head = nnx.Param(std * jax.random.normal(rngs.params(), shape[::-1]), dims=("dim", "vocab"))


def _sizes(config: Llama) -> dict[str, int]:
    return {
        "layers": config.layers,
        "dim": config.dim,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "ffn": config.ffn_dim,
        "vocab": config.vocab_size,
    }


def parameter_dims(state: nnx.State) -> dict[str, Any]:
    """The names of the logical dims of every parameter: nested dicts whose leaves are tuples of names."""
    return nnx.to_pure_dict(jax.tree.map(lambda p: p.replace(p.get_metadata("dims")), state, is_leaf=_is_param))


def _is_param(x: Any) -> bool:
    return isinstance(x, nnx.Variable)


def output_head(model: Decoder, config: Llama) -> jax.Array:
    """The output head [D, V]: a matrix of its own, or the embedding, whose gradient then has both uses."""
    return model.embedding[...].T if config.tied else model.head[...]


def rms_norm(x_BSD: jax.Array, scale_D: jax.Array, eps: float) -> jax.Array:
    """Root mean square normalisation as in Llama: computed in float32, cast to x's dtype, then scaled by the weight."""
    x32 = x_BSD.astype(jnp.float32)
    normalised = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    return normalised.astype(x_BSD.dtype) * broadcast_rows(scale_D.astype(x_BSD.dtype), x_BSD.shape)


def hidden_states(
    model: Decoder,
    config: Llama,
    tokens_BS: jax.Array,
    positions_BS: jax.Array,
    segments_BS: jax.Array | None = None,
    constrain: Constrain = _unconstrained,
    attend: Attend | None = None,
    product: Product = jnp.einsum,
    rotate: Rotate = rope.rotate,
) -> jax.Array:
    """Runs the decoder up to the final norm. Logits are the result times `output_head`.

    Args:
        model: the parameters.
        config: shapes and numerics.
        tokens_BS: token ids.
        positions_BS: positions for the rotary embedding.
        segments_BS: a token attends only to tokens with the same segment id; None: to all earlier tokens.
        constrain: applies the sharding of an activation, given the names of its dims.
        attend: the attention function; None selects the portable one.
        product: multiplies activations and weights (kernels/cpu_products.py has a variant for one CPU).
        rotate: applies the rotary embedding (rope.rotate_by_product is faster on TPUs).

    Returns:
        [B, S, D] in the compute dtype.

    Raises:
        UserError: the rotary embedding is not defined for this length (config.rope.check_length).
    """
    check_length(config, tokens_BS.shape[1])
    dtype = jnp.dtype(config.compute_dtype)
    attend = attend or functools.partial(blocked.self_attention, block=config.attention_block)
    angles = rope.tables(positions_BS, config)
    cos, sin = materialize(angles[0]), materialize(angles[1])
    activation = ("batch", "sequence", None)
    heads = ("batch", "sequence", "heads", None)
    kv_heads = ("batch", "sequence", "kv_heads", None)
    ffn = ("batch", "sequence", "ffn")

    def feed_forward(h_BSD: jax.Array, w1_DF: jax.Array, w3_DF: jax.Array, w2_FD: jax.Array) -> jax.Array:
        gate_BSF = checkpoint_name(constrain(product("bsd,df->bsf", h_BSD, w1_DF), ffn), "gate")
        up_BSF = checkpoint_name(constrain(product("bsd,df->bsf", h_BSD, w3_DF), ffn), "up")
        return product("bsf,fd->bsd", jax.nn.silu(gate_BSF) * up_BSF, w2_FD)

    # Saved gate or up activations are not recomputed, so splitting the recomputation would save no memory.
    parts = config.ffn_parts if config.remat != "none" and not {"gate", "up"} & (config.saved | config.offloaded) else 1
    parts = max(number for number in range(1, parts + 1) if config.ffn_dim % number == 0)
    if parts > 1:
        feed_forward = jax.checkpoint(feed_forward, prevent_cse=False)

    def block(x_BSD: jax.Array, graph_and_state: Any) -> tuple[jax.Array, None]:
        p = nnx.merge(graph, graph_and_state)
        x_BSD = checkpoint_name(x_BSD, "input")

        def weight(param: nnx.Param) -> jax.Array:
            return param[...].astype(dtype)

        # --- attention
        h_BSD = rms_norm(x_BSD, p.attention_norm[...], config.norm_eps)
        q_BSHK = constrain(product("bsd,dhk->bshk", h_BSD, weight(p.wq)), heads)
        k_BSGK = constrain(product("bsd,dgk->bsgk", h_BSD, weight(p.wk)), kv_heads)
        v_BSGK = constrain(product("bsd,dgk->bsgk", h_BSD, weight(p.wv)), kv_heads)
        if config.qkv_bias:
            q_BSHK, k_BSGK, v_BSGK = (_plus(x, weight(b)) for x, b in ((q_BSHK, p.bq), (k_BSGK, p.bk), (v_BSGK, p.bv)))
        q_BSHK = checkpoint_name(rotate(q_BSHK, cos, sin), "q")
        k_BSGK = checkpoint_name(rotate(k_BSGK, cos, sin), "k")
        v_BSGK = checkpoint_name(v_BSGK, "v")
        a_BSHK = attend(q_BSHK, k_BSGK, v_BSGK, segments_BS)
        x_BSD = constrain(x_BSD + product("bshk,hkd->bsd", a_BSHK, weight(p.wo)), activation)
        x_BSD = checkpoint_name(x_BSD, "middle")

        # --- feed-forward: w2(silu(w1 h) * w3 h)
        h_BSD = rms_norm(x_BSD, p.ffn_norm[...], config.norm_eps)
        split_weights = (lora.split(weight(w), parts, axis) for w, axis in ((p.w1, 1), (p.w3, 1), (p.w2, 0)))
        for w1, w3, w2 in zip(*split_weights, strict=True):
            if parts > 1:
                # the backward pass computes the gradients of one part's weights before it starts the next part
                h_BSD, x_BSD, w1, w3, w2 = jax.lax.optimization_barrier((h_BSD, x_BSD, w1, w3, w2))
            x_BSD = x_BSD + feed_forward(h_BSD, w1, w3, w2)
        return constrain(x_BSD, activation), None

    graph, stacked = nnx.split(model.blocks)
    # The lookup precedes the cast: the gradient of the embedding sums over tokens, which needs float32.
    x_BSD = constrain(model.embedding[...][tokens_BS].astype(dtype), activation)
    x_BSD, _ = jax.lax.scan(_with_remat(block, config), x_BSD, stacked, unroll=config.unroll)
    return rms_norm(x_BSD, model.norm[...], config.norm_eps)


def _plus(x_BSHK: jax.Array, bias_HK: jax.Array) -> jax.Array:
    """Adds a bias to every token."""
    return x_BSHK + broadcast_rows(bias_HK.reshape(-1), (*x_BSHK.shape[:2], bias_HK.size)).reshape(x_BSHK.shape)


def _with_remat(block: Callable, config: Llama) -> Callable:
    if config.remat == "none":
        return block
    policies = jax.checkpoint_policies
    if config.offloaded:
        policy = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=sorted(config.saved),
            names_which_can_be_offloaded=sorted(config.offloaded),
            offload_src="device",
            offload_dst="pinned_host",
        )
    else:
        policy = policies.save_only_these_names(*sorted(config.saved))
    return jax.checkpoint(block, policy=policy, prevent_cse=False)  # a scan already prevents CSE across the passes
