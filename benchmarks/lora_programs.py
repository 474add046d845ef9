"""The programs of benchmarks/lora.py: our train step, and that of transformers + peft. That program runs this one."""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from train_cpu import ATTENTION_BLOCK, CLIP, EPS, LEARNING_RATE, LOSS_CHUNK, NORM_EPS, ROPE_THETA, Shape, batch, weights

RANK, ALPHA = 16, 32.0
MATRICES = {"wq": "q_proj", "wk": "k_proj", "wv": "v_proj", "wo": "o_proj", "w1": "gate_proj", "w3": "up_proj"}
MATRICES |= {"w2": "down_proj"}


def factors(shape: Shape) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The initial factors of each matrix, [layers, in, rank] and [layers, rank, out]; the second ones are 0."""
    rng = np.random.default_rng(2)
    found = {}
    for name in MATRICES:
        layers, ins, outs = weights_shape(shape, name)
        bound = ins**-0.5
        a = rng.uniform(-bound, bound, (layers, ins, RANK)).astype(np.float32)
        found[name] = a, np.zeros((layers, RANK, outs), np.float32)
    return found


def weights_shape(shape: Shape, name: str) -> tuple[int, int, int]:
    """Layers, inputs and outputs of a matrix of the blocks."""
    D, F = shape.dim, shape.ffn_dim
    return (shape.layers, *{"w1": (D, F), "w3": (D, F), "w2": (F, D)}.get(name, (D, D)))


def peak_megabytes() -> float:
    """The peak of the resident set of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))


def serve(program: str, shape: Shape) -> None:
    """Trains for three steps and prints their losses and the memory. Then, for each input line, trains for one untimed
    step and for the number of steps in the line, and prints the wall-clock and CPU seconds of the latter."""
    make = make_peft_step if program == "peft" else make_our_step
    step, before = make(program, shape)
    losses = [step() for _ in range(3)]
    print(json.dumps({"losses": losses, "megabytes": peak_megabytes() - before}), flush=True)
    for line in sys.stdin:
        step()
        start, start_cpu = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - start, time.process_time() - start_cpu, flush=True)


def make_our_step(program: str, shape: Shape) -> tuple[Callable[[], float], float]:
    """A function that trains for one step and returns the loss, and the memory before the model was made."""
    import jax
    import jax.numpy as jnp

    from codellama_jax.config.lora import OFF, Lora
    from codellama_jax.config.model import Llama
    from codellama_jax.config.training import AdamW, Mesh, Stage
    from codellama_jax.model.lora import freeze
    from codellama_jax.sharding import make_mesh, put_batch
    from codellama_jax.training.initialization import fresh_state
    from codellama_jax.training.optimizer import make_optimizer
    from codellama_jax.training.step import make_train_step, state_shardings

    D, N, H, F = shape.dim, shape.layers, shape.heads, shape.ffn_dim
    sizes = {"dim": D, "layers": N, "heads": H, "kv_heads": H, "ffn_dim": F, "vocab_size": shape.vocab_size}
    blocks_of = {"attention_block": ATTENTION_BLOCK, "loss_chunk": LOSS_CHUNK}
    llama = Llama(
        **sizes,
        norm_eps=NORM_EPS,
        rope_theta=ROPE_THETA,
        compute_dtype="float32",
        remat="none",
        unroll=N,
        **blocks_of,
    )
    base_dtype = program if program in ("bfloat16", "int8") else "float32"
    lora = OFF if program == "full" else Lora(rank=RANK, alpha=ALPHA, base_dtype=base_dtype)
    settings = AdamW(peak_learning_rate=LEARNING_RATE, warmup_steps=1, final_ratio=1.0, eps=EPS, clip_norm=CLIP)
    stage = Stage("code", "local", None, 1_000_000, shape.tokens, shape.length)
    mesh = make_mesh(Mesh())
    zeros = np.zeros((shape.rows, shape.length), np.int32)
    arrays = batch(shape) | {
        "segment_ids": zeros,
        "stream_ids": zeros,
        "positions": zeros + np.arange(shape.length, dtype=np.int32),
        "loss_weights": np.ones_like(zeros, np.float32),
    }
    jnp.zeros(1).block_until_ready()  # starts the backend
    before = peak_megabytes()
    with jax.set_mesh(mesh):
        initial = weights(shape)
        blocks = {name: initial.pop(name) for name in ("w1", "w3", "w2")}
        blocks |= {name: initial.pop(name).reshape(N, D, H, D // H) for name in ("wq", "wk", "wv")}
        blocks |= {"wo": initial.pop("wo").reshape(N, H, D // H, D)}
        blocks |= {name: np.ones((N, D), np.float32) for name in ("attention_norm", "ffn_norm")}
        params: Any = initial | {"norm": np.ones(D, np.float32), "blocks": blocks}
        del initial, blocks
        base: tuple[Any, ...] = ()
        if lora.rank:
            frozen = {
                name: freeze(name, jnp.asarray(params[name]), base_dtype) for name in ("embedding", "head", "norm")
            }
            frozen["blocks"] = {}
            while params["blocks"]:
                name, array = params["blocks"].popitem()
                frozen["blocks"][name] = freeze(name, jnp.asarray(array), base_dtype)
            base, params = (frozen,), None
        else:
            params = jax.tree.map(jnp.asarray, params)
        state = fresh_state(llama, stage, settings, mesh, params, lora)
        del params
        if lora.rank:
            given = {}
            for name, (a, b) in factors(shape).items():
                found = state.params["blocks"]
                given[f"{name}_a"] = jnp.asarray(a.reshape(found[f"{name}_a"].shape))
                given[f"{name}_b"] = jnp.asarray(b.reshape(found[f"{name}_b"].shape))
            state = state._replace(params={"blocks": given})
        shardings = state_shardings(llama, make_optimizer(settings, stage.steps), mesh, lora)
        train_step = jax.jit(
            make_train_step(llama, stage, settings, False, 1, mesh, lora),
            donate_argnums=0,
            out_shardings=(shardings, None),
        )
        placed = put_batch(mesh, arrays)

    def step() -> float:
        nonlocal state
        with jax.set_mesh(mesh):
            state, metrics = train_step(state, placed, *base)
        loss = float(metrics["loss"])
        jax.block_until_ready(state)
        return loss

    return step, before


def make_peft_step(program: str, shape: Shape) -> tuple[Callable[[], float], float]:
    """As make_our_step, with transformers' Llama and peft as their documentation uses them."""
    import peft
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.dim,
        intermediate_size=shape.ffn_dim,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.length,
        rms_norm_eps=NORM_EPS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        use_cache=False,
    )
    before = peak_megabytes()
    model = transformers.LlamaForCausalLM(config)
    initial = weights(shape)

    def fill(parameter: Any, array: np.ndarray) -> None:
        parameter.data.copy_(torch.from_numpy(np.ascontiguousarray(array)))

    fill(model.model.embed_tokens.weight, initial["embedding"])
    fill(model.lm_head.weight, initial["head"].T)
    for name, module in MATRICES.items():
        for layer, block in enumerate(model.model.layers):
            part = block.mlp if hasattr(block.mlp, module) else block.self_attn
            fill(getattr(part, module).weight, initial[name][layer].T)
    del initial
    settings = peft.LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=list(MATRICES.values()))
    adapted = peft.get_peft_model(model, dataclasses.replace(settings, task_type="CAUSAL_LM"))
    for name, (a, _) in factors(shape).items():
        for layer, block in enumerate(model.model.layers):
            part = block.mlp if hasattr(block.mlp, MATRICES[name]) else block.self_attn
            fill(getattr(part, MATRICES[name]).lora_A["default"].weight, a[layer].T)
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE, betas=(0.9, 0.95), eps=EPS, weight_decay=0.1, fused=True)
    tokens, targets = (torch.from_numpy(batch(shape)[name]).long() for name in ("tokens", "targets"))
    adapted.train()

    def step() -> float:
        logits = adapted(input_ids=tokens).logits
        loss = torch.nn.functional.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step, before
