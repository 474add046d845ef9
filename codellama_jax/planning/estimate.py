"""What a train step needs and costs on a slice by arithmetic alone, where there is no compiler to ask.

Of the 110 rows of docs/pods.md, which the compiler made, memory is between 5% under and 12% over
(tests/planning/test_estimate.py). It counts what is there for certain: the state, the gradient, what is kept of every
block, and of what exists for a while the largest.
"""

from codellama_jax.config.run import Config
from codellama_jax.planning.chips import Topology
from codellama_jax.sharding import axis_sizes

MFU = 0.5  # where no published run says (assumption)


def peak_bytes(config: Config, slice_: Topology) -> int:
    """Bytes of a device at the peak of a step.

    Raises:
        UserError: the stage cannot be cut for the slice as its mesh says.
    """
    stage, llama, adamw = config.stage, config.llama, config.adamw
    windows = stage.batch_size // stage.micro_batches
    data, fsdp, context, tensor = axis_sizes(config.mesh, slice_.devices, slice_.slices, windows)
    width = {"bfloat16": 2, "float32": 4}
    moments = width[adamw.first_moment_dtype] + width[adamw.second_moment_dtype]
    parameters = llama.parameters / (fsdp * context * tensor)
    state = parameters * (4 + moments)
    gradient = parameters * 4 * (2 if stage.micro_batches > 1 else 1)  # of the whole, and of this part of the batch

    tokens = stage.batch_tokens / stage.micro_batches / (data * fsdp * context)
    compute = width[llama.compute_dtype]
    dims: dict[str, float] = {
        "q": llama.dim,
        "k": llama.kv_heads * llama.head_dim,
        "v": llama.kv_heads * llama.head_dim,
    }
    dims |= {"attention": llama.dim, "gate": llama.ffn_dim, "up": llama.ffn_dim}
    dims = {name: size / tensor for name, size in dims.items()}
    dims |= {"input": llama.dim, "middle": llama.dim}
    kept = ({"input"} | llama.kept if llama.remat != "none" else set(dims)) - llama.offloaded
    activations = tokens * llama.layers * compute * sum(dims[name] for name in kept)

    block = (llama.parameters - 2 * llama.vocab_size * llama.dim) / llama.layers / tensor
    gathered = 2 * block * compute  # of one block, and of the next one meanwhile
    head = llama.vocab_size / tensor * llama.dim * (compute + 4)  # gathered, and its gradient before it is cut
    loss = 2 * min(llama.loss_chunk, tokens) * llama.vocab_size / tensor * 4
    backward = tokens * compute * (4 * llama.dim + 3 * llama.ffn_dim / tensor)
    return int(state + gradient + activations + max(gathered + backward, head + loss))


def fits(config: Config, slice_: Topology) -> bool:
    """Whether a step fits. Raises UserError as peak_bytes."""
    return peak_bytes(config, slice_) <= slice_.chip.hbm_bytes


def chip_hours(config: Config, slice_: Topology) -> float:
    """Hours times chips that the stage takes at the MFU that published runs reach on such chips, or at MFU."""
    stage = config.stage
    flops = config.llama.train_flops_per_token(stage.sequence_length) * stage.batch_tokens * stage.steps
    reached = slice_.chip.published_mfu or (MFU, MFU)
    return flops / (slice_.chip.flops * sum(reached) / 2) / 3600
