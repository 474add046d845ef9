"""The train step of benchmarks/train_cpu.py in PyTorch. That program runs this one and reports its results.

The model as PyTorch users write it for speed: modules with nn.Linear, the fused attention, norm and cross-entropy of
torch.nn.functional, and the fused AdamW, run eagerly or with torch.compile. From this project it imports only
train_cpu.py, so it runs without JAX.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from train_cpu import CLIP, EPS, LEARNING_RATE, NORM_EPS, ROPE_THETA, SHAPES, Shape, batch, serve, weights

# bfloat16 is used in two ways: with autocast and float32 parameters, as PyTorch recommends, and with a bfloat16 model
# and float32 master weights, which the optimiser updates and which are cast once per step. (Casting within products is
# slower than both.)
PRECISIONS = ("float32", "autocast", "masters")


class Attention(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.heads = shape.heads
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(shape.dim, shape.dim, bias=False) for _ in range(4))

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        B, S, D = x.shape
        q, k, v = (w(x).view(B, S, self.heads, -1).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        a = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        return self.wo(a.transpose(1, 2).reshape(B, S, D))


class Block(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.dim, eps=NORM_EPS)
        self.attention = Attention(shape)
        self.ffn_norm = nn.RMSNorm(shape.dim, eps=NORM_EPS)
        self.w1 = nn.Linear(shape.dim, shape.ffn_dim, bias=False)
        self.w3 = nn.Linear(shape.dim, shape.ffn_dim, bias=False)
        self.w2 = nn.Linear(shape.ffn_dim, shape.dim, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        h = self.ffn_norm(x)
        return x + self.w2(F.silu(self.w1(h)) * self.w3(h))


class Decoder(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab_size, shape.dim)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.dim, eps=NORM_EPS)
        self.head = nn.Linear(shape.dim, shape.vocab_size, bias=False)
        half = torch.arange(0, shape.dim // shape.heads, 2).float() / (shape.dim // shape.heads)
        angles = torch.outer(torch.arange(shape.length).float(), ROPE_THETA**-half)
        self.register_buffer("cos", torch.cat([angles.cos()] * 2, -1), persistent=False)
        self.register_buffer("sin", torch.cat([angles.sin()] * 2, -1), persistent=False)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.view(-1))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return (x * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)


def load(model: Decoder, arrays: dict[str, np.ndarray]) -> None:
    """Loads the initial parameters of the benchmark: Linear stores transposed matrices, and layers are separate."""

    def fill(parameter: torch.Tensor, array: np.ndarray) -> None:
        parameter.data.copy_(torch.from_numpy(np.ascontiguousarray(array)))

    fill(model.embedding.weight, arrays["embedding"])
    fill(model.head.weight, arrays["head"].T)
    for i, block in enumerate(model.blocks):
        for name in ("wq", "wk", "wv", "wo"):
            fill(getattr(block.attention, name).weight, arrays[name][i].T)
        for name in ("w1", "w3", "w2"):
            fill(getattr(block, name).weight, arrays[name][i].T)


def make_step(shape: Shape, compiled: bool, precision: str) -> Callable[[], float]:
    """Returns a function that trains for one step and returns the loss."""
    model = Decoder(shape)
    load(model, weights(shape))
    parameters = list(model.parameters())
    masters = parameters
    if precision == "masters":
        masters = [p.detach().clone().requires_grad_() for p in parameters]
        model.to(torch.bfloat16)
    decayed, undecayed = ([p for p in masters if (p.ndim > 1) is matrix] for matrix in (True, False))
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": undecayed, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.95),
        eps=EPS,
        fused=True,
    )
    arrays = batch(shape)
    tokens, targets = (torch.from_numpy(arrays[name]).long() for name in ("tokens", "targets"))
    forward = torch.compile(model) if compiled else model

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            loss = forward(tokens, targets)
        loss.backward()
        if precision == "masters":
            for master, p in zip(masters, parameters, strict=True):
                master.grad, p.grad = p.grad.float(), None
        nn.utils.clip_grad_norm_(masters, CLIP, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if precision == "masters":
            with torch.no_grad():
                torch._foreach_copy_(parameters, masters)
        return loss.item()

    return step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--precision", choices=PRECISIONS)
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    serve(make_step(SHAPES[options.shape], options.compiled, options.precision))


if __name__ == "__main__":
    main()
