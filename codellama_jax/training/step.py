"""The optimizer step and the loss as plain functions, to be compiled by the caller."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from codellama_jax.attention import make_attend
from codellama_jax.config.lora import OFF, Lora
from codellama_jax.config.model import Llama
from codellama_jax.config.training import AdamW, Stage
from codellama_jax.kernels import cpu_products, quantized_products
from codellama_jax.model import lora as adapters
from codellama_jax.model import rope
from codellama_jax.model.llama import Decoder, Product, hidden_states, output_head, parameter_dims
from codellama_jax.sharding import constrain, tree_shardings
from codellama_jax.training.loss import weighted_loss
from codellama_jax.training.optimizer import learning_rate, make_optimizer

Params = dict[str, Any]  # nested, in the structure of the modules
VOCABULARY_AXES = {"embedding": 0, "head": 1}  # the axis of the vocabulary; a tied model has no head
Batch = dict[str, jax.Array]  # tokens, targets, segment_ids, positions, loss_weights, stream_ids: each [B, S]


class TrainState(NamedTuple):
    """The training state: everything that an optimizer step changes."""

    params: Params  # float32: of the model, or of its adapters if the stage trains adapters
    opt_state: optax.OptState
    step: jax.Array  # int32 [], number of optimizer steps done


def init_params(config: Llama, seed: int, lora: Lora = OFF) -> Params:
    """The parameters of a stage that starts, as nested dicts of arrays: random ones, or adapters."""
    if lora.rank:
        return adapters.init_adapters(abstract_params(config)["blocks"], lora, seed)
    return nnx.to_pure_dict(nnx.state(Decoder(config, nnx.Rngs(params=seed))))


def abstract_params(config: Llama, lora: Lora = OFF) -> Params:
    """Shapes and dtypes of the parameters, without creating them."""
    return jax.eval_shape(lambda: init_params(config, 0, lora))


def param_shardings(config: Llama, mesh: jax.sharding.Mesh, lora: Lora = OFF) -> Params:
    """The sharding of each parameter, in the structure of `init_params`."""
    return tree_shardings(mesh, adapters.adapter_dims(lora) if lora.rank else param_dims(config))


def param_dims(config: Llama) -> Params:
    """The logical dims of each parameter of the model."""
    return parameter_dims(nnx.state(_abstract_decoder(config)))


def state_shardings(
    config: Llama, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh, lora: Lora = OFF
) -> TrainState:
    """Shardings of the training state: moments are sharded like their parameters, counters are replicated."""
    params = param_shardings(config, mesh, lora)
    replicated = NamedSharding(mesh, PartitionSpec())

    def sharding_of(moment: Any, sharding: NamedSharding) -> Any:
        if isinstance(moment, optax.MaskedNode):  # a parameter that another part of the optimizer updates
            return moment
        try:
            sharding.shard_shape(moment.shape)
        except ValueError:  # scales of a moment in 8 bits, of which the last axis has too few: they are small
            return NamedSharding(mesh, PartitionSpec(*sharding.spec[: moment.ndim - 1]))
        return sharding

    opt_state = optax.tree.map_params(
        optimizer,
        sharding_of,
        jax.eval_shape(optimizer.init, abstract_params(config, lora)),
        params,
        transform_non_params=lambda _: replicated,
        is_leaf=lambda x: isinstance(x, optax.MaskedNode),
    )
    return TrainState(params, opt_state, replicated)  # type: ignore[arg-type]  # shardings in place of arrays


def _abstract_decoder(config: Llama) -> Decoder:
    return nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(params=0)))


def merged(config: Llama, params: Params) -> Decoder:
    """The module with these parameters."""
    graph, state = nnx.split(_abstract_decoder(config))
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)


def make_loss(
    config: Llama, mask_documents: bool, mesh: jax.sharding.Mesh | None = None
) -> Callable[[Params, Batch], tuple[jax.Array, jax.Array]]:
    """A function (params, batch) -> (weighted sum of the tokens' losses, loss of every token [B, S]).

    Both are float32, in nats. The sum is differentiable with respect to params; the individual losses are not. With
    params from model.lora.combine, it is differentiable with respect to their adapters only.

    With mask_documents, tokens attend only to their own document of the window (equal segment_ids). The mesh determines
    the attention kernel; without a mesh, it is the portable kernel on one device.
    """
    attend = make_attend(config, mesh) if mesh else None
    if mesh and mesh.shape["tensor"] > 1:
        config = dataclasses.replace(config, ffn_parts=1)  # a part would be on only some of the devices of the axis
    platform = mesh.devices.flat[0].platform if mesh else ""
    product: Product = cpu_products.einsum if mesh and mesh.size == 1 and platform == "cpu" else jnp.einsum
    if config.product_dtype:
        product = quantized_products.make_einsum(config.product_dtype, product, native=platform == "tpu")
    product = adapters.make_product(product, constrain if mesh else None)
    rotate = rope.rotate_by_product if platform == "tpu" else rope.rotate

    def loss(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        model = merged(config, params)
        segments = batch["segment_ids"] if mask_documents else None
        x_BSD = hidden_states(
            model, config, batch["tokens"], batch["positions"], segments, constrain, attend, product, rotate
        )
        targets, weights = batch["targets"], batch["loss_weights"]
        head, frozen = output_head(model, config), adapters.is_adapted(params)
        return weighted_loss(x_BSD, head, targets, weights, config.loss_chunk, mesh, config.padding_rows, frozen)

    return loss


def stream_sums(values_BS: jax.Array, stream_ids_BS: jax.Array, streams: int) -> jax.Array:
    """Sum of the values of each stream's tokens, [streams]."""
    return jax.ops.segment_sum(values_BS.ravel(), stream_ids_BS.ravel(), streams)


def without_padding(updates: Params, rows: int) -> Params:
    """Updates of the parameters without those of the vocabulary rows from `rows` on.

    Their gradients are 0, but weight decay would shrink them.
    """

    def masked(x: jax.Array, axis: int) -> jax.Array:
        return jnp.where(jax.lax.broadcasted_iota(jnp.int32, x.shape, axis) < rows, x, 0)

    return updates | {name: masked(updates[name], axis) for name, axis in VOCABULARY_AXES.items() if name in updates}


def bitwise_select(condition: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """jnp.where(condition, new, old), bit for bit, for a scalar condition and arrays of equal shape and dtype.

    It uses masks: with a select, XLA for TPUs chooses a row-major layout for the embedding's gradient, and its 64
    columns (7B over 64 chips) are sent to the other slices padded to 128.
    """
    bits = f"uint{8 * new.dtype.itemsize}"
    mask = -condition.astype(bits)  # all ones or all zeros
    return ((new.view(bits) & mask) | (old.view(bits) & ~mask)).view(new.dtype)


def make_train_step(
    config: Llama,
    stage: Stage,
    settings: AdamW,
    mask_documents: bool,
    streams: int,
    mesh: jax.sharding.Mesh | None = None,
    lora: Lora = OFF,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """A function (state, batch) -> (state, metrics): forward, backward, AdamW.

    If the stage trains adapters, the function is (state, batch, base) -> (state, metrics), and `base` is the frozen
    model (training/frozen_base.py). The dropout of a row of the batch depends on the stage's seed, the step and the
    row.

    The gradient is that of the weighted mean over ALL tokens of the global batch, independently of the number of
    micro-batches and the weights in each, so accumulation is exact. If the loss or the gradient's norm is not finite,
    parameters and moments do not change; the step is counted nevertheless, also by the learning rate.

    The batch may also have "stop" [devices], flags by which hosts agree on stopping (signals.StopSignals).

    Metrics: loss, grad_norm (before clipping), learning_rate, skipped (whether the update was skipped), stop (the
    maximum of the flags, if there are any); and sums over each stream's tokens, [streams]: stream_losses,
    stream_weights (of the targets) and stream_tokens.
    """
    optimizer = make_optimizer(settings, stage.steps)
    loss_fn = make_loss(config, mask_documents, mesh)

    def weighted(
        params: Params, batch: Batch, total: jax.Array, base: Params | None, key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        weights_BS = batch["loss_weights"]
        if base is not None:
            params = adapters.combine(base, params, lora, key, batch["rows"][:, 0] if key is not None else None)
        summed, losses_BS = loss_fn(params, {name: value for name, value in batch.items() if name != "rows"})
        values = {
            "stream_losses": losses_BS * weights_BS,
            "stream_weights": weights_BS,
            "stream_tokens": jnp.ones_like(weights_BS),
        }
        sums = {name: stream_sums(value, batch["stream_ids"], streams) for name, value in values.items()}
        return summed / total, sums

    value_and_grad = jax.value_and_grad(weighted, has_aux=True)

    def train_step(
        state: TrainState, batch: Batch, base: Params | None = None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        flags = {name: jnp.max(value) for name, value in batch.items() if name == "stop"}
        batch = {name: value for name, value in batch.items() if name != "stop"}
        # the gradient of a batch without targets (prompts only) is 0, not 0/0
        total = jnp.maximum(jnp.sum(batch["loss_weights"]), 1.0)
        key = None
        if base is not None and lora.dropout:
            key = jax.random.fold_in(jax.random.key(stage.seed), state.step)
            batch["rows"] = jax.lax.broadcasted_iota(jnp.int32, batch["tokens"].shape, 0)
        if stage.micro_batches == 1:
            (loss, sums), grads = value_and_grad(state.params, batch, total, base, key)
        else:

            def accumulate(carry: Any, micro_batch: Batch) -> tuple[Any, None]:
                found = value_and_grad(state.params, micro_batch, total, base, key)
                return jax.tree.map(jnp.add, carry, found), None

            # Rows are assigned in turn, so each micro-batch has rows of every device.
            parts = jax.tree.map(lambda x: x.reshape(-1, stage.micro_batches, *x.shape[1:]).swapaxes(0, 1), batch)
            parts = jax.tree.map(lambda x: constrain(x, (None, "batch", "sequence")), parts)
            zeros = jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype),
                jax.eval_shape(value_and_grad, state.params, jax.tree.map(lambda x: x[0], parts), total, base, key),
            )
            ((loss, sums), grads), _ = jax.lax.scan(accumulate, zeros, parts)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        if config.padding_rows and not lora.rank:
            updates = without_padding(updates, config.vocab_size - config.padding_rows)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        def select(new: Any, old: Any) -> Any:
            if isinstance(new, optax.ScaleByScheduleState):
                return new  # the learning-rate curve counts skipped steps
            return jax.tree.map(lambda new, old: bitwise_select(finite, new, old), new, old)

        params = select(optax.apply_updates(state.params, updates), state.params)
        opt_state = jax.tree.map(
            select, opt_state, state.opt_state, is_leaf=lambda part: isinstance(part, optax.ScaleByScheduleState)
        )
        step = state.step + 1
        metrics = {
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": learning_rate(settings, stage.steps, step),
            "skipped": ~finite,
            **flags,
            **sums,
        }
        return TrainState(params, opt_state, step), metrics

    return train_step
