"""Tokens a second in training on a CPU: our train step beside the same Llama in PyTorch, eager and compiled.

    python3.11 -m venv torchenv && torchenv/bin/pip install torch==2.13.0 numpy    # the CPU build; no dependency of ours
    python benchmarks/train_cpu.py --torch_python=torchenv/bin/python [--rounds=7] [--out=benchmarks/train_cpu.md]

A step is forward, backward, clipping and AdamW on one batch in memory; nothing else. Ours is the one that train.py
compiles: training/step.py under jax.jit, over a mesh of one device, its state donated. Every contestant starts from the
same parameters, sees the same tokens, and is a process of its own, asleep while it is not its turn. A round is one turn
of each, in rotating order; what is given is the median over rounds of the ratio within the round.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

NORM_EPS, ROPE_THETA = 1e-5, 1e4
LEARNING_RATE, EPS, CLIP = 1e-3, 1e-5, 1.0
TURN_SECONDS = 4.0  # of a contestant in a round, at least
ATTENTION_BLOCK, LOSS_CHUNK = int(os.environ.get("AB","128")), int(os.environ.get("LC","64"))


@dataclasses.dataclass(frozen=True)
class Shape:
    """A Llama and its batch."""

    dim: int
    layers: int
    heads: int
    ffn_dim: int
    length: int
    rows: int
    vocab_size: int = 32_000

    @property
    def tokens(self) -> int:
        return self.rows * self.length


SHAPES = {
    "15M": Shape(dim=288, layers=6, heads=6, ffn_dim=768, length=256, rows=16),
    "100M": Shape(dim=640, layers=12, heads=10, ffn_dim=1728, length=512, rows=4),
}


# ---------------------------------------------------------------- what all contestants share; NumPy alone


def weights(shape: Shape) -> dict[str, np.ndarray]:
    """Initial matrices, [in, out] and stacked over layers; the norms' weights are 1."""
    rng = np.random.default_rng(0)
    D, F, N, V = shape.dim, shape.ffn_dim, shape.layers, shape.vocab_size
    square, small = (N, D, D), 0.02 / (2 * N) ** 0.5
    sizes = {
        "embedding": ((V, D), 0.02),
        "head": ((D, V), 0.02),
        "wq": (square, 0.02),
        "wk": (square, 0.02),
        "wv": (square, 0.02),
        "wo": (square, small),
        "w1": ((N, D, F), 0.02),
        "w3": ((N, D, F), 0.02),
        "w2": ((N, F, D), small),
    }
    return {name: std * rng.standard_normal(size, np.float32) for name, (size, std) in sizes.items()}


def batch(shape: Shape) -> dict[str, np.ndarray]:
    """Random tokens, and those that follow."""
    ids = np.random.default_rng(1).integers(0, shape.vocab_size, (shape.rows, shape.length + 1), np.int32)
    return {"tokens": ids[:, :-1].copy(), "targets": ids[:, 1:].copy()}


def serve(step: Callable[[], float]) -> None:
    """Trains for three steps, says their losses; then for as many as each line asks for, and says how long it took."""
    print(*(step() for _ in range(3)), flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - begin, flush=True)


# ---------------------------------------------------------------- our contestant


def make_step(shape: Shape, dtype: str) -> Callable[[], float]:
    """A function that trains for one step and returns the loss."""
    import jax
    import jax.numpy as jnp

    from codellama_jax.model.config import Llama
    from codellama_jax.sharding import make_mesh, put_batch
    from codellama_jax.training.config import AdamW, Mesh, Stage
    from codellama_jax.training.optimizer import make_optimizer
    from codellama_jax.training.start import fresh_state
    from codellama_jax.training.step import make_train_step, state_shardings

    D, N, H = shape.dim, shape.layers, shape.heads
    llama = Llama(
        dim=D,
        layers=N,
        heads=H,
        kv_heads=H,
        ffn_dim=shape.ffn_dim,
        vocab_size=shape.vocab_size,
        norm_eps=NORM_EPS,
        rope_theta=ROPE_THETA,
        compute_dtype=dtype,
        remat="none",
        attention_block=ATTENTION_BLOCK,
        loss_chunk=LOSS_CHUNK,
    )
    # warm-up of one step and a cosine without a fall: the constant rate of the others
    settings = AdamW(peak_learning_rate=LEARNING_RATE, warmup_steps=1, final_ratio=1.0, eps=EPS, clip_norm=CLIP)
    stage = Stage("code", "local", None, 1_000_000, shape.tokens, shape.length)
    mesh = make_mesh(Mesh())
    made = weights(shape)
    blocks = {name: made[name] for name in ("w1", "w3", "w2")}
    blocks |= {name: made[name].reshape(N, D, H, D // H) for name in ("wq", "wk", "wv")}
    blocks |= {"wo": made["wo"].reshape(N, H, D // H, D)}
    blocks |= {name: np.ones((N, D), np.float32) for name in ("attention_norm", "ffn_norm")}
    params = {"embedding": made["embedding"], "head": made["head"], "norm": np.ones(D, np.float32), "blocks": blocks}
    zeros = np.zeros((shape.rows, shape.length), np.int32)
    arrays = batch(shape) | {
        "segment_ids": zeros,
        "stream_ids": zeros,
        "positions": zeros + np.arange(shape.length, dtype=np.int32),
        "loss_weights": np.ones_like(zeros, np.float32),
    }
    with jax.set_mesh(mesh):
        state = fresh_state(llama, stage, settings, mesh, jax.tree.map(jnp.asarray, params))
        shardings = state_shardings(llama, make_optimizer(settings, stage.steps), mesh)
        train_step = jax.jit(
            make_train_step(llama, stage, settings, False, 1, mesh), donate_argnums=0, out_shardings=(shardings, None)
        )
        placed = put_batch(mesh, arrays)

    def step() -> float:
        nonlocal state
        with jax.set_mesh(mesh):
            state, metrics = train_step(state, placed)
        loss = float(metrics["loss"])
        jax.block_until_ready(state)
        return loss

    return step
