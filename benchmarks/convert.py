"""Measures throughput and peak memory of conversion, compared with transformers on the same files.

    python benchmarks/convert.py --hf_python=PYTHON [--rounds=3] [--layers=22] [--folder=/tmp] [--out=FILE]

PYTHON must have torch, transformers and safetensors. The checkpoint is random, bfloat16, with TinyLlama's shape: 1.1
billion parameters. Each measurement is a separate process; a round runs each kind once, so that the files are in the
page cache for all of them. No other program does exactly the same work: transformers' load reads the files and writes
nothing, its load and save reads them and writes the same format. Exports are compared bit by bit with the imported
files.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from result_file import processor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from codellama_jax.config.model import Llama
from codellama_jax.conversion import canonical, formats, hf, meta
from codellama_jax.conversion.canonical import DTYPES, Model, Tensor

PEAK = """
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
"""
OURS = (
    PEAK
    + """
import json, sys, time
from codellama_jax import convert
from codellama_jax.conversion import formats, hf, meta, native, tokenizer_files
import jax
before, start = peak(), time.perf_counter()
assert convert.main(sys.argv[1:]) == 0
print(json.dumps({"seconds": time.perf_counter() - start, "before": before, "peak": peak()}))
"""
)
COPY = (
    PEAK
    + """
import json, os, shutil, sys, time
before, start = peak(), time.perf_counter()
shutil.copytree(sys.argv[1], sys.argv[2])
for name in os.listdir(sys.argv[2]):
    os.fsync(os.open(os.path.join(sys.argv[2], name), os.O_RDONLY))
print(json.dumps({"seconds": time.perf_counter() - start, "before": before, "peak": peak()}))
"""
)
THEIRS = (
    PEAK
    + """
import json, sys, time
import torch, transformers
from transformers import LlamaForCausalLM
before, start = peak(), time.perf_counter()
model = LlamaForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
if len(sys.argv) > 2:
    model.save_pretrained(sys.argv[2])
else:
    total = sum(float(p.flatten()[::2048].float().sum()) for p in model.parameters())  # touches every page
versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
result = {"seconds": time.perf_counter() - start, "before": before, "peak": peak(), "versions": versions}
print(json.dumps(result))
"""
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hf_python", required=True, help="a Python with torch and transformers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=22, help="number of layers; fewer for a smaller model")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="a folder with 11 GB free")
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="convert-") as folder:
        text = "".join(line + "\n" for line in result(options, Path(folder)))
    print(text)
    if options.out:
        options.out.write_text(text)


class RandomModel:
    """A Source of random bfloat16 tensors, generated deterministically when they are read."""

    def __init__(self, llama: Llama):
        self.model = Model(llama, 2048, {str(tensor): "bfloat16" for tensor in canonical.tensors(llama)})
        self._numbers = {str(tensor): number for number, tensor in enumerate(canonical.tensors(llama))}

    def rows(self, tensor: Tensor, start: int, stop: int) -> np.ndarray:
        """See Source.rows."""
        rng = np.random.default_rng([self._numbers[str(tensor)], start])
        values = rng.standard_normal((stop - start, *canonical.shape(self.model.llama, tensor.name)[1:]), np.float32)
        return (0.02 * values).astype(DTYPES["bfloat16"])

    def close(self) -> None:
        """See Source.close."""


def measure(python: str, program: str, *argv: object) -> dict[str, Any]:
    """Runs a process that prints its measurements as JSON; adds the seconds of the complete process."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        "JAX_PLATFORMS": "cpu",
        "HF_HUB_OFFLINE": "1",
    }
    start = time.perf_counter()
    command = [python, "-c", program, *map(str, argv)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return {**json.loads(done.stdout.splitlines()[-1]), "process": time.perf_counter() - start}


def result(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines of the result file."""
    llama = Llama(dim=2048, layers=options.layers, heads=32, kv_heads=4, ffn_dim=5632, vocab_size=32_000)
    source = RandomModel(llama)
    nbytes = formats.nbytes(source.model)
    for name, write in (("hf", hf.write), ("meta", meta.write)):
        (folder / name).mkdir()
        write(source, folder / name)
    ours, out = folder / "ours", folder / "out"
    kinds = {
        "import from Hugging Face": (OURS, "import", "--from", folder / "hf", "--to", ours),
        "import from Meta": (OURS, "import", "--from", folder / "meta", "--to", out),
        "export to Hugging Face": (OURS, "export", "--from", ours, "--to", out, "--format=hf"),
        "export to Meta": (OURS, "export", "--from", ours, "--to", out, "--format=meta"),
        "plain copy of the files": (COPY, folder / "hf", out),
        "transformers: load": (THEIRS, folder / "hf"),
        "transformers: load and save": (THEIRS, folder / "hf", out),
    }
    measurements: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for _ in range(options.rounds):
        shutil.rmtree(ours, ignore_errors=True)
        for kind, (program, *argv) in kinds.items():
            shutil.rmtree(out, ignore_errors=True)
            os.sync()  # so that a measurement does not wait for writes of the previous one
            python = options.hf_python if program is THEIRS else sys.executable
            measurements[kind].append(measure(python, program, *argv))
            if kind.startswith("export"):
                original = folder / ("hf" if kind.endswith("Face") else "meta")
                names = [path.name for path in original.iterdir() if path.suffix in (".safetensors", ".pth")]
                same = all((original / name).read_bytes() == (out / name).read_bytes() for name in names)
                assert same, "export of import is the identity"
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    yield f"# Converting, {datetime.date.today()}"
    yield ""
    yield f"    python benchmarks/convert.py {' '.join(sys.argv[1:])}".replace(options.hf_python, "hfenv/bin/python")
    yield ""
    yield f"{os.cpu_count()} cores of {processor()}, shared; Python {platform.python_version()}, {versions};"
    torch = measurements["transformers: load"][0]["versions"]
    yield f"{torch}. Medians over {options.rounds} rounds, with the extremes."
    yield f"{llama.parameters:,} random parameters in bfloat16, {nbytes / 1e6:,.0f} MB;"
    yield f"the size of the largest tensor is {_largest(source) / 1e6:,.0f} MB."
    yield ""
    yield "MB/s: the model's bytes over the time after libraries are imported. An import waits until all bytes are on"
    yield "disk (fsync) and reads them again for checksums; an export verifies the checksums first and also waits for"
    yield "the disk, like the plain copy. transformers' load maps the file, and its save does not wait for the disk."
    yield "Process: seconds of the complete process, imports included. Peak: its peak resident memory (VmHWM). Added:"
    yield "the part of it beyond the peak after imports. All exports were identical to the imported files, bit for bit."
    yield ""
    yield "| | MB/s | min .. max | seconds | process, s | peak, MB | added, MB |"
    yield "|---|---|---|---|---|---|---|"
    for kind, runs in measurements.items():
        speeds = [nbytes / 1e6 / run["seconds"] for run in runs]
        added = statistics.median(run["peak"] - run["before"] for run in runs)
        yield (
            f"| {kind} | {statistics.median(speeds):,.0f} | {min(speeds):,.0f} .. {max(speeds):,.0f}"
            f" | {statistics.median(run['seconds'] for run in runs):.1f}"
            f" | {statistics.median(run['process'] for run in runs):.1f}"
            f" | {statistics.median(run['peak'] for run in runs) / 1e6:,.0f} | {added / 1e6:,.0f} |"
        )


_PACKAGES = ("jax", "numpy", "orbax-checkpoint", "tensorstore")


def _largest(source: RandomModel) -> int:
    return max(formats.size(source.model, tensor) for tensor in canonical.tensors(source.model.llama))


if __name__ == "__main__":
    main()
