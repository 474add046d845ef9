"""Random checkpoints in memory, and an independent reader of safetensors."""

import dataclasses
import json
import struct
from pathlib import Path

import numpy as np

from codellama_jax.config.model import Llama
from codellama_jax.conversion import canonical
from codellama_jax.conversion.canonical import DTYPES, Model, Tensor

# Head grouping as in 7B and 70B, all else tiny. The eight key-value heads of 70B can be split into eight parts.
SIZES = {
    "7b": Llama(dim=64, layers=3, heads=4, kv_heads=4, ffn_dim=256, vocab_size=320),
    "70b": Llama(dim=128, layers=2, heads=16, kv_heads=8, ffn_dim=512, vocab_size=336, rope_theta=1e6),
}


class Random:
    """A Source of random values, different in every layer; norms are close to one."""

    def __init__(self, llama: Llama, dtype: str = "bfloat16", tied: bool = False, norm_dtype: str | None = None):
        llama = dataclasses.replace(llama, tied=tied)
        names = list(canonical.tensors(llama))
        dtypes = {str(t): norm_dtype or dtype if t.name in canonical.NORMS else dtype for t in names}
        self.model = Model(llama, 512, dtypes)
        rng = np.random.default_rng(0)
        self.arrays: dict[Tensor, np.ndarray] = {}
        for tensor in names:
            noise = rng.normal(size=canonical.shape(llama, tensor.name)).astype(np.float32)
            scaled = 1 + 0.1 * noise if tensor.name in canonical.NORMS else noise * llama.dim**-0.5
            self.arrays[tensor] = scaled.astype(DTYPES[dtypes[str(tensor)]])

    def rows(self, tensor: Tensor, start: int, stop: int) -> np.ndarray:
        return self.arrays[tensor][start:stop]

    def close(self) -> None:
        pass


def safetensors_content(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """dtype, shape and bytes of every tensor in a folder."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        raw = path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        for name, entry in json.loads(raw[8 : 8 + length]).items():
            if name != "__metadata__":
                begin, end = (8 + length + offset for offset in entry["data_offsets"])
                assert name not in tensors
                tensors[name] = (entry["dtype"], tuple(entry["shape"]), raw[begin:end])
    return tensors
