"""The programs of benchmarks/lora.py: our train step, and that of transformers + peft. That program runs this one."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from train_cpu import (
    CLIP,
    EPS,
    LEARNING_RATE,
    NORM_EPS,
    ROPE_THETA,
    Shape,
    batch,
    our_batch,
    our_model,
    our_params,
    our_stage,
    take_turns,
    weights,
)

RANK, ALPHA = 16, 32.0
MATRICES = {"wq": "q_proj", "wk": "k_proj", "wv": "v_proj", "wo": "o_proj", "w1": "gate_proj", "w3": "up_proj"}
MATRICES |= {"w2": "down_proj"}


def factors(shape: Shape) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The initial factors of each matrix, [layers, in, rank] and [layers, rank, out]; the second ones are 0."""
    rng = np.random.default_rng(2)
    found = {}
    matrices = our_model(shape, "float32").matrices
    for name in MATRICES:
        ins, outs = matrices[name]
        bound = ins**-0.5
        a = rng.uniform(-bound, bound, (shape.layers, ins, RANK)).astype(np.float32)
        found[name] = a, np.zeros((shape.layers, RANK, outs), np.float32)
    return found


def peak_megabytes() -> float:
    """The peak of the resident set of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))


def serve(program: str, shape: Shape) -> None:
    """As train_cpu.serve, but the first line has the memory too."""
    make = make_peft_step if program == "peft" else make_our_step
    step, before = make(program, shape)
    losses = [step() for _ in range(3)]
    print(json.dumps({"losses": losses, "megabytes": peak_megabytes() - before}), flush=True)
    take_turns(step)


def make_our_step(program: str, shape: Shape) -> tuple[Callable[[], float], float]:
    """A function that trains for one step and returns the loss, and the memory before the model was made."""
    import jax
    import jax.numpy as jnp

    from codellama_jax.config.lora import OFF, Lora
    from codellama_jax.config.training import Mesh
    from codellama_jax.model.lora import freeze
    from codellama_jax.sharding import make_mesh, put_batch
    from codellama_jax.training.initialization import fresh_state
    from codellama_jax.training.optimizer import make_optimizer
    from codellama_jax.training.step import make_train_step, state_shardings

    llama, (settings, stage), mesh = our_model(shape, "float32"), our_stage(shape), make_mesh(Mesh())
    base_dtype = program if program in ("bfloat16", "int8") else "float32"
    lora = OFF if program == "full" else Lora(rank=RANK, alpha=ALPHA, base_dtype=base_dtype)
    jnp.zeros(1).block_until_ready()  # starts the backend
    before = peak_megabytes()
    with jax.set_mesh(mesh):
        params: Any = our_params(shape)
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
        placed = put_batch(mesh, our_batch(shape))

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
