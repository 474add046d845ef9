"""Memory use of a conversion does not depend on the size of the model: peaks measured in separate processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from codellama_jax.config.model import Llama
from codellama_jax.conversion import canonical, formats, hf, verify
from codellama_jax.conversion.canonical import DTYPES, Model, Tensor

ROOT = Path(__file__).resolve().parents[2]
# 40 layers of 11 MB in bfloat16, 0.5 GB; the largest tensors are embedding and head with 39 MB
LARGE = Llama(dim=1024, layers=40, heads=16, kv_heads=4, ffn_dim=1024, vocab_size=19_200)
PARTS = 2
# For the current blocks, their transposes and TensorStore's buffers; does not depend on the model.
CONSTANT = 200e6

# The VmHWM at the start includes the memory of the libraries.
MEASURED = """
import json, sys
from codellama_jax import convert
import numpy, orbax.checkpoint, tensorstore, jax
from codellama_jax.conversion import formats, native

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

before = peak()
code = convert.main(sys.argv[1:])
print(json.dumps({"code": code, "growth": peak() - before}))
"""


class Generated:
    """A Source whose values are generated when they are read."""

    def __init__(self, llama: Llama):
        self.model = Model(llama, 512, {str(tensor): "bfloat16" for tensor in canonical.tensors(llama)})
        self._line = np.random.default_rng(0).normal(size=1 << 20).astype(DTYPES["bfloat16"])

    def rows(self, tensor: Tensor, start: int, stop: int) -> np.ndarray:
        shape = (stop - start, *canonical.shape(self.model.llama, tensor.name)[1:])
        first = hash((tensor.name, tensor.layer or 0, start)) % 4096
        return np.resize(self._line[first:], shape)

    def close(self) -> None:
        pass


def peak_growth(*argv: object) -> float:
    """The increase of the peak memory by a conversion, in bytes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", MEASURED, *map(str, argv)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["code"] == 0, done.stderr
    return result["growth"]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large") / "theirs"
    folder.mkdir()
    hf.write(Generated(LARGE), folder, 200_000_000)
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_peak_memory_is_bounded_by_the_largest_tensor(theirs):
    source = formats.open_checkpoint(theirs).source
    largest = max(formats.size(source.model, tensor) for tensor in canonical.tensors(LARGE))
    assert formats.nbytes(source.model) > 4e8 and formats.nbytes(source.model) > 2 * (1.3 * largest + CONSTANT)
    folder = theirs.parent
    for argv in (
        ("import", "--from", theirs, "--to", folder / "ours"),
        ("export", "--from", folder / "ours", "--to", folder / "hf", "--format=hf"),
        ("export", "--from", folder / "ours", "--to", folder / "meta", "--format=meta", f"--shards={PARTS}"),
        ("import", "--from", folder / "meta", "--to", folder / "again", "--vocab_size=19_216"),
    ):
        growth = peak_growth(*argv)
        assert growth <= 1.3 * largest + CONSTANT, (argv[0], growth / 1e6)
    # the results are complete
    for name in ("ours", "hf", "meta"):
        result = verify.tensors(source, formats.open_checkpoint(folder / name).source)
        assert not result["unlike"] and result["max_tensor_difference"] == 0


def test_arrays_are_written_in_chunks_of_one_layer_and_part_of_the_width(theirs, tmp_path):
    """A device reads complete chunks: each has one layer, and a sixteenth of the model width."""
    from codellama_jax.conversion.orbax_stream import StreamedArray

    llama = Llama(dim=8192, layers=80, heads=64, kv_heads=8, ffn_dim=28_672, vocab_size=32_016)
    source = Generated(llama)
    for parameter in dict.fromkeys(tensor.parameter for tensor in canonical.tensors(llama)):
        array = StreamedArray(source, parameter)
        assert np.prod(array.chunk, dtype=np.int64) * 2 <= 64 << 20
        if parameter.startswith("blocks."):
            assert array.chunk[0] == 1
        if "norm" not in parameter:
            assert 512 in array.chunk[-2:] or array.chunk[1] == 512
