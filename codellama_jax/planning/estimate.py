"""Estimates memory and cost of a train step on a slice from formulas, for machines without the TPU compiler.

Compared with the 110 compiled rows of docs/pods.md, memory is between 5% too low and 12% too high
(tests/planning/test_estimate.py). The estimate adds up the state, the gradient, the saved activations of every block,
and the largest of the temporary allocations.
"""

from codellama_jax.config.run import Config
from codellama_jax.config.training import MOMENT_BYTES
from codellama_jax.planning.chips import Topology
from codellama_jax.sharding import axis_sizes

DEFAULT_MFU = 0.5  # for chips without a published MFU (assumption)


def peak_bytes(config: Config, slice_: Topology) -> int:
    """Peak memory of a step, bytes per device.

    Raises:
        UserError: the mesh does not divide the stage on this slice.
    """
    stage, llama, adamw, lora = config.stage, config.llama, config.adamw, config.lora
    windows = stage.batch_size // stage.micro_batches
    data, fsdp, context, tensor = axis_sizes(config.mesh, slice_.devices, slice_.slices, windows)
    width = {"bfloat16": 2, "float32": 4}
    shards, frozen = fsdp * context * tensor, 0.0
    parameters = llama.parameters / shards
    state = parameters * (4 + MOMENT_BYTES[adamw.first_moment_dtype] + MOMENT_BYTES[adamw.second_moment_dtype])
    if adamw.matrices == "muon":  # which has one moment
        matrices = llama.matmul_parameters - llama.vocab_size * llama.dim
        state -= matrices / shards * MOMENT_BYTES[adamw.second_moment_dtype]
    if lora.rank:
        frozen = lora.frozen_bytes(llama) / shards
        state *= lora.parameters(llama) / llama.parameters
        parameters = lora.parameters(llama) / shards
    gradient = parameters * 4 * (2 if stage.micro_batches > 1 else 1)  # accumulated, and of the current micro-batch

    tokens = stage.batch_tokens / stage.micro_batches / (data * fsdp * context)
    compute = width[llama.compute_dtype]
    dims: dict[str, float] = {
        "q": llama.heads * llama.head_dim,
        "k": llama.kv_heads * llama.head_dim,
        "v": llama.kv_heads * llama.head_dim,
    }
    dims |= {"attention": llama.heads * llama.head_dim, "gate": llama.ffn_dim, "up": llama.ffn_dim}
    dims = {name: size / tensor for name, size in dims.items()}
    dims |= {"input": llama.dim, "middle": llama.dim}
    saved = ({"input"} | llama.saved if llama.remat != "none" else set(dims)) - llama.offloaded
    activations = tokens * llama.layers * compute * sum(dims[name] for name in saved)

    block = (llama.matmul_parameters - llama.vocab_size * llama.dim) / llama.layers / tensor
    gathered = 2 * block * compute  # of the current block, and of the next one, which is being prefetched
    if lora.rank and lora.base_dtype == "int8" and shards == 1:
        gathered *= 2  # nothing is gathered, but compiled programs hold the converted blocks of both passes
    # gathered, and its gradient before the reduce-scatter
    head = llama.vocab_size / tensor * llama.dim * (compute + (0 if lora.rank else 4))
    loss = 2 * min(llama.loss_chunk, tokens) * llama.vocab_size / tensor * 4
    backward = tokens * compute * (4 * llama.dim + 3 * llama.ffn_dim / tensor)
    return int(frozen + state + gradient + activations + max(gathered + backward, head + loss))


def fits(config: Config, slice_: Topology) -> bool:
    """Whether a step fits in the memory of a device. Raises UserError as peak_bytes does."""
    return peak_bytes(config, slice_) <= slice_.chip.hbm_bytes


def chip_hours(config: Config, slice_: Topology) -> float:
    """Chip-hours of the complete stage at the mean published MFU of such chips, or else at DEFAULT_MFU."""
    stage = config.stage
    flops = config.lora.train_flops_per_token(config.llama, stage.sequence_length) * stage.batch_tokens * stage.steps
    mfu = slice_.chip.published_mfu or (DEFAULT_MFU, DEFAULT_MFU)
    return flops / (slice_.chip.flops * sum(mfu) / 2) / 3600
