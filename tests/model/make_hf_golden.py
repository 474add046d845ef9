"""Makes hf_golden.npz: logits, losses and gradients of Hugging Face's LlamaForCausalLM, for test_hf.py.

PyTorch and Transformers are not dependencies of this project, so this program runs in a separate environment and its
results are committed. Weights are not stored: this program and the test generate them from their names.

    python3 -m venv /tmp/hf && /tmp/hf/bin/pip install torch transformers numpy
    /tmp/hf/bin/python tests/model/make_hf_golden.py

Everything is float32. A decoder written out in float64 below checks that Hugging Face's values are accurate enough to
compare with. Hugging Face's own model in float64 cannot do this, since it casts to float32 for norms, rotation and
softmax.
"""

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).with_name("hf_golden.npz")
EPS = 1e-5
TOKENS = 384  # length of the single sequence
IDS = 8  # ids per token whose logits are stored; the loss depends on all of them
MAX_STORED = 1024  # gradients up to this size are stored completely
SIDE = 12  # larger ones as SIDE x SIDE random projections


@dataclasses.dataclass(frozen=True)
class Case:
    """A published Llama with fewer layers and a smaller width; the head dimension is the published one, 128."""

    heads: int
    kv_heads: int
    rope_theta: float
    layers: int = 2
    vocab: int = 320

    @property
    def dim(self) -> int:
        return 128 * self.heads

    @property
    def ffn_dim(self) -> int:
        return self.dim * 11008 // 4096  # the ratio of 7B and 34B


# The 34B case has the RoPE base of long-context fine-tuning. Its effect on a head does not depend on other settings.
CASES = {
    "7b": Case(heads=4, kv_heads=4, rope_theta=1e4),
    "7b long context": Case(heads=4, kv_heads=4, rope_theta=1e6),
    "34b": Case(heads=16, kv_heads=2, rope_theta=1e6),
}


def random(name: str) -> np.random.RandomState:
    """A generator seeded with a name. NumPy guarantees that the sequence of RandomState never changes."""
    return np.random.RandomState(zlib.crc32(name.encode()))


def shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """Hugging Face's names and shapes of all parameters, [out, in]."""
    D, F, kv = case.dim, case.ffn_dim, 128 * case.kv_heads
    layer = {
        "input_layernorm": (D,),
        "self_attn.q_proj": (D, D),
        "self_attn.k_proj": (kv, D),
        "self_attn.v_proj": (kv, D),
        "self_attn.o_proj": (D, D),
        "post_attention_layernorm": (D,),
        "mlp.gate_proj": (F, D),
        "mlp.up_proj": (F, D),
        "mlp.down_proj": (D, F),
    }
    named = {f"model.layers.{n}.{part}.weight": shape for n in range(case.layers) for part, shape in layer.items()}
    rest = {
        "model.embed_tokens.weight": (case.vocab, D),
        "model.norm.weight": (D,),
        "lm_head.weight": (case.vocab, D),
    }
    return named | rest


def weights(case: Case) -> dict[str, np.ndarray]:
    """All parameters, float32. Matrices preserve the variance, so no softmax is nearly uniform; norms are near 1."""

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        uniform = random(name).uniform(-1, 1, shape)
        if len(shape) == 1:
            return (1 + 0.5 * uniform).astype(np.float32)
        fan_in = 1 if "embed" in name else shape[1]
        return (uniform * np.sqrt(3 / fan_in)).astype(np.float32)

    return {name: draw(name, shape) for name, shape in shapes(case).items()}


def text(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and their targets, int64 [TOKENS]."""
    ids = random("text").randint(0, case.vocab, TOKENS + 1)
    return ids[:-1], ids[1:]


def selected_logits(logits_SV: np.ndarray) -> np.ndarray:
    """The logits stored in the golden file, [S, IDS]: different ids for every token, so that all ids occur."""
    S, V = logits_SV.shape
    ids = (np.arange(S)[:, None] + np.arange(IDS)[None, :] * (V // IDS)) % V
    return np.take_along_axis(logits_SV, ids, axis=1)


def digest(gradient: np.ndarray) -> np.ndarray:
    """Returns the gradient itself if it is small, otherwise projections l g r with vectors l and r of random signs.

    The expected squared norm of the digest of a difference is the squared norm of the difference, so an error anywhere
    in the gradient appears in its size.
    """
    gradient = np.asarray(gradient, np.float64)
    if gradient.size <= MAX_STORED:
        return gradient
    matrix = gradient.reshape(-1, 64) if gradient.ndim == 1 else gradient
    rng = random("signs")
    left, right = (rng.randint(0, 2, (SIDE, size)) * 2.0 - 1 for size in matrix.shape)
    return left @ matrix @ right.T / SIDE


def hugging_face(case: Case, attention: str = "eager") -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Logits [S, V], losses [S], and the gradients of the mean loss by parameter name: LlamaForCausalLM in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=case.dim,
        intermediate_size=case.ffn_dim,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        num_key_value_heads=case.kv_heads,
        vocab_size=case.vocab,
        max_position_embeddings=4096,
        rms_norm_eps=EPS,
        rope_parameters={"rope_type": "default", "rope_theta": case.rope_theta},
        tie_word_embeddings=False,
        attn_implementation=attention,
        dtype="float32",
    )
    with torch.device("meta"):  # skips the initialisation
        model = LlamaForCausalLM(config)
    model.to_empty(device="cpu")
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its frequencies are not parameters
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights(case).items()}, strict=True)
    tokens, targets = map(torch.from_numpy, text(case))
    logits = model(input_ids=tokens[None], use_cache=False).logits[0]
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    losses.mean().backward()
    return (
        logits.detach().numpy(),
        losses.detach().numpy(),
        {name: parameter.grad.numpy() for name, parameter in model.named_parameters()},
    )


def in_float64(case: Case) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """The same values from the formulas in float64."""
    import torch

    p = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in weights(case).items()}
    tokens, targets = map(torch.from_numpy, text(case))
    angles = torch.arange(TOKENS, dtype=torch.float64)[:, None] * case.rope_theta ** (
        -torch.arange(64, dtype=torch.float64) / 64
    )
    rotation = torch.polar(torch.ones_like(angles), angles)[:, None]  # [S, 1, K/2]

    def norm(x: Any, name: str) -> Any:
        return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * p[name]

    def rotate(x: Any) -> Any:
        rotated = torch.complex(x[..., :64], x[..., 64:]) * rotation
        return torch.cat([rotated.real, rotated.imag], -1)

    x = p["model.embed_tokens.weight"][tokens]
    for n in range(case.layers):
        layer = f"model.layers.{n}."
        h = norm(x, layer + "input_layernorm.weight")
        q, k, v = ((h @ p[f"{layer}self_attn.{w}_proj.weight"].T).unflatten(-1, (-1, 128)) for w in "qkv")
        q, k = rotate(q), rotate(k)
        heads = []
        for head in range(case.heads):
            shared = head * case.kv_heads // case.heads
            scores = q[:, head] @ k[:, shared].T / 128**0.5
            future = torch.ones_like(scores, dtype=torch.bool).triu(1)
            heads.append(scores.masked_fill(future, -torch.inf).softmax(-1) @ v[:, shared])
        x = x + torch.cat(heads, -1) @ p[f"{layer}self_attn.o_proj.weight"].T
        h = norm(x, layer + "post_attention_layernorm.weight")
        gate = h @ p[f"{layer}mlp.gate_proj.weight"].T
        gate = gate * gate.sigmoid() * (h @ p[f"{layer}mlp.up_proj.weight"].T)
        x = x + gate @ p[f"{layer}mlp.down_proj.weight"].T
    logits = norm(x, "model.norm.weight") @ p["lm_head.weight"].T
    losses = -logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    losses.mean().backward()
    return (
        logits.detach().numpy(),
        losses.detach().numpy(),
        {name: value.grad.numpy() for name, value in p.items()},
    )


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The norm of the difference divided by the norm of `theirs`."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def main() -> None:
    import torch
    import transformers

    golden = {"made with": np.array(f"torch {torch.__version__}, transformers {transformers.__version__}")}
    for key, case in CASES.items():
        logits, losses, gradients = hugging_face(case)
        exact_logits, exact_losses, exact_gradients = in_float64(case)
        assert gradients.keys() == exact_gradients.keys()
        logits_error, losses_error = np.abs(logits - exact_logits).max(), np.abs(losses - exact_losses).max()
        gradient_errors = {name: relative(gradients[name], exact_gradients[name]) for name in gradients}
        worst = max(gradient_errors, key=lambda name: gradient_errors[name])
        print(
            f"{key}: logits up to {np.abs(logits).max():.1f}; Hugging Face differs from float64 by {logits_error:.1e}, "
            f"losses by {losses_error:.1e}, gradients relatively by {gradient_errors[worst]:.1e} ({worst})"
        )
        # half of the tolerance of the test
        assert logits_error < 1e-5 and losses_error < 1e-5 and gradient_errors[worst] < 5e-5
        golden[f"{key}/logits"] = selected_logits(logits)
        golden[f"{key}/losses"] = losses
        for name, gradient in gradients.items():
            golden[f"{key}/{name}"] = digest(gradient).astype(np.float32)
            golden[f"{key}/{name}/norm"] = np.float32(np.linalg.norm(gradient))
    np.savez_compressed(GOLDEN, **golden)
    print(f"{GOLDEN}: {GOLDEN.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
