"""The train step of benchmarks/train_step.py in PyTorch. That program runs this one.

The mathematics of codellama_jax, written for speed in PyTorch: queries, keys and values, and gate and up, are one
product each; each block is compiled with its checkpointing, so that all layers share one compilation; attention uses
the fused kernel that is fastest for these shapes; AdamW is fused. Parameters, gradients and moments are float32,
products bfloat16. Imports torch and numpy only.
"""

import functools
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

INIT_STD = 0.02


class Block(nn.Module):
    def __init__(self, shape: dict[str, Any], device: torch.device):
        super().__init__()
        dim, heads, kv_heads, ffn = (shape[name] for name in ("dim", "heads", "kv_heads", "ffn_dim"))
        self.head_dim, self.eps, self.grouped = dim // heads, shape["norm_eps"], kv_heads < heads
        self.parts = [heads, kv_heads, kv_heads]
        self.attention_norm = nn.Parameter(torch.ones(dim, device=device))
        self.wqkv = matrix(sum(self.parts) * self.head_dim, dim, device)
        self.wo = matrix(dim, dim, device)
        self.ffn_norm = nn.Parameter(torch.ones(dim, device=device))
        self.w13 = matrix(2 * ffn, dim, device)
        self.w2 = matrix(dim, ffn, device)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        dtype = x.dtype
        h = F.rms_norm(x, x.shape[-1:], self.attention_norm.to(dtype), self.eps)
        qkv = F.linear(h, self.wqkv.to(dtype)).unflatten(-1, (-1, self.head_dim))
        q, k, v = qkv.split(self.parts, dim=2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.grouped)
        x = x + F.linear(out.transpose(1, 2).flatten(2), self.wo.to(dtype))
        h = F.rms_norm(x, x.shape[-1:], self.ffn_norm.to(dtype), self.eps)
        gate, up = F.linear(h, self.w13.to(dtype)).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, self.w2.to(dtype))


def matrix(rows: int, columns: int, device: torch.device) -> nn.Parameter:
    return nn.Parameter(INIT_STD * torch.randn(rows, columns, device=device))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates channel i of a head with channel i + K/2, in float32."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class Rematerialised(nn.Module):
    """A block with activation checkpointing: "full", "selective" or "none".

    "selective" saves the outputs of matrix products and of attention.
    """

    def __init__(self, block: Block, remat: str):
        super().__init__()
        self.block, self.remat = block, remat

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if self.remat == "none":
            return self.block(x, cos, sin)
        if self.remat == "full":
            return checkpoint(self.block, x, cos, sin, use_reentrant=False)
        contexts = functools.partial(create_selective_checkpoint_contexts, save_products)
        return checkpoint(self.block, x, cos, sin, use_reentrant=False, context_fn=contexts)


aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default,
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
}


def save_products(_context: Any, op: Any, *_arguments: Any, **_named: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE


class Model(nn.Module):
    def __init__(self, shape: dict[str, Any], length: int, remat: str, device: torch.device):
        super().__init__()
        self.eps = shape["norm_eps"]
        self.dtype = getattr(torch, shape["compute_dtype"])
        self.embedding = matrix(shape["vocab_size"], shape["dim"], device)
        self.blocks = nn.ModuleList(Rematerialised(Block(shape, device), remat) for _ in range(shape["layers"]))
        self.norm = nn.Parameter(torch.ones(shape["dim"], device=device))
        self.head = matrix(shape["vocab_size"], shape["dim"], device)
        head_dim = shape["dim"] // shape["heads"]
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        angles = torch.arange(length, dtype=torch.float32)[:, None] * shape["rope_theta"] ** -exponents[None, :]
        self.cos, self.sin = (f(angles)[None, :, None, :].to(device) for f in (torch.cos, torch.sin))

    def forward(self, tokens: Tensor) -> Tensor:
        """Hidden states after the final norm."""
        x = F.embedding(tokens, self.embedding).to(self.dtype)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return F.rms_norm(x, x.shape[-1:], self.norm.to(self.dtype), self.eps)


def mean_loss(x: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(x, head.to(x.dtype)).float()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the steps of a job; see `measure` of train_step.py."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    with sdpa_kernel(fastest_attention(job, device)):
        model = Model(job["llama"], job["length"], job["torch_remat"], device)
        loss_of = mean_loss
        if job["torch_compile"]:
            for block in model.blocks:
                block.compile(fullgraph=True)
            loss_of = torch.compile(mean_loss, fullgraph=True)
        optimizer = make_optimizer(model, job["adamw"])
        rng = np.random.default_rng(0)
        shape = (job["batch_size"], job["length"] + 1)
        ids = torch.from_numpy(rng.integers(0, job["llama"]["vocab_size"], shape)).to(device)
        tokens, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

        def step() -> Tensor:
            loss = loss_of(model(tokens), model.head, targets)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), job["adamw"]["clip_norm"], foreach=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss.detach()

        seconds, losses = [], []
        for _ in range(job["warmup_steps"] + job["steps"]):
            start = time.perf_counter()
            loss = step()
            synchronise(device)
            seconds.append(time.perf_counter() - start)
            losses.append(float(loss))
    return {
        "fits": True,
        "device": device_name(device),
        "version": f"torch {torch.__version__}",
        "seconds": seconds[job["warmup_steps"] :],
        "losses": losses,
        "peak_memory": peak_memory(device),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def make_optimizer(model: Model, adamw: dict[str, Any]) -> torch.optim.Optimizer:
    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if "norm" not in name], "weight_decay": adamw["weight_decay"]},
        {"params": [p for name, p in named if "norm" in name], "weight_decay": 0.0},
    ]
    betas = (adamw["beta1"], adamw["beta2"])
    return torch.optim.AdamW(groups, lr=adamw["peak_learning_rate"], betas=betas, eps=adamw["eps"], fused=True)


def fastest_attention(job: dict[str, Any], device: torch.device) -> list[SDPBackend]:
    """Returns the fused kernel that is fastest for these shapes, forward and backward. Prints all times on stderr."""
    if device.type != "cuda":
        return [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    shape = job["llama"]
    head_dim = shape["dim"] // shape["heads"]
    q, k, v, seed = (
        torch.randn(job["batch_size"], heads, job["length"], head_dim, device=device, dtype=torch.bfloat16)
        for heads in (shape["heads"], shape["kv_heads"], shape["kv_heads"], shape["heads"])
    )
    inputs = [x.requires_grad_() for x in (q, k, v)]
    grouped = shape["kv_heads"] < shape["heads"]

    def forward_and_backward() -> None:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        torch.autograd.grad(out, inputs, seed)

    times: dict[SDPBackend, float] = {}
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        try:
            with sdpa_kernel(backend):
                times[backend] = timed(forward_and_backward, device)
        except RuntimeError as error:
            print(f"{backend.name}: {error}", file=sys.stderr)
    for backend, each in times.items():
        print(f"{backend.name}: {each * 1e3:.2f} ms forward and backward", file=sys.stderr)
    torch.cuda.empty_cache()
    return [min(times, key=lambda backend: times[backend])]


def timed(work: Callable[[], None], device: torch.device) -> float:
    """Median seconds of ten calls, after three that are not timed."""
    seconds = []
    for _ in range(13):
        start = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[3:])


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"


def peak_memory(device: torch.device) -> int:
    """Peak bytes allocated on the GPU; on a CPU the resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    try:
        result = measure(json.loads(sys.argv[1]))
    except RuntimeError as error:  # torch.OutOfMemoryError, and errors of libraries without such a class
        if "out of memory" not in str(error).lower():
            raise
        result = {"fits": False}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
