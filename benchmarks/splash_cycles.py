"""Counts the cycles of the splash kernels on every TPU generation: writes codellama_jax/kernels/splash_cycles.json.

    python benchmarks/splash_cycles.py         takes five minutes on two cores; needs libtpu (requirements-tpu.txt)

Nothing is measured. XLA's TPU compiler compiles the kernels on this machine and dumps the instruction bundles that it
generates; a core issues one bundle per cycle. A kernel is a loop over blocks of queries and keys, with three parts that
run on a condition: the start of a row of blocks, the products of a block, and the end of a row. The bundles of each are
counted. The matrix units may take longer for the products of a block than the bundles, so a block has at least the
cycles of its products at the peak of a core. Waiting for memory is not counted. Block sizes that need more scratch
memory than the compiler gives a kernel by default are left out.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from codellama_jax.kernels import splash_cycles  # noqa: E402
from codellama_jax.planning.aot_compile import compiler_environment, require_compiler  # noqa: E402
from codellama_jax.planning.attention_kernels import PRODUCTS  # noqa: E402
from codellama_jax.planning.chips import Topology, topology  # noqa: E402

SLICES = ("v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1")
BLOCKS = (256, 512, 1024, 2048)
BATCH, HEADS, LENGTH, HEAD_DIM = 2, 4, 4096, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(splash_cycles.__file__).with_suffix(".json"))
    parser.add_argument("--compile", nargs=3, metavar=("SLICE", "BLOCK", "MASKED"), help="(internal) compile a kernel")
    options = parser.parse_args()
    if options.compile:
        compile_kernels(options.compile[0], int(options.compile[1]), options.compile[2] == "True")
        return
    require_compiler()
    table: dict[str, dict[str, dict[str, dict[str, int]]]] = {}
    for name, masked, block in itertools.product(SLICES, (False, True), BLOCKS):
        slice_ = topology(name)
        for phase, counted in count(slice_, block, masked).items():
            phases = table.setdefault(slice_.chip.name, {})
            phases.setdefault(phase + "_masked" * masked, {})[str(block)] = counted
            print(slice_.chip.name, phase, "masked" if masked else "", block, counted, flush=True)
    options.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def count(slice_: Topology, block: int, masked: bool) -> dict[str, dict[str, int]]:
    """The cycles of each phase; {} if the compiler refuses the block size."""
    with tempfile.TemporaryDirectory() as folder:
        dumps = ("--xla_jf_dump_to=" + folder, "--xla_jf_dump_llo_text=true")
        flags = (*dumps, "--xla_jf_dump_llo_pass_label_regex=^final_bundles")
        environment = compiler_environment(slice_, Path(folder)) | {"LIBTPU_INIT_ARGS": " ".join(flags)}
        command = [sys.executable, __file__, "--compile", slice_.slice_name, str(block), str(masked)]
        child = subprocess.run(command, env=environment, capture_output=True, text=True)
        if child.returncode:
            if "vmem" not in child.stderr:
                raise SystemExit(child.stderr[-2000:])
            return {}
        texts = {
            phase: path.read_text(encoding="utf-8")
            for phase in PRODUCTS
            for path in Path(folder).glob(f"*splash_mha_{phase}*final_bundles.txt")
            if "schedule-analysis" not in path.name
        }
    chip = slice_.chip
    peak = slice_.flops / chip.clock / chip.cores  # FLOPs per cycle of a core
    counted = {}
    for phase, text in sorted(texts.items()):
        cycles = parse(text)
        products = PRODUCTS[phase] * 2 * block**2 * HEAD_DIM
        counted[phase] = cycles | {"block": max(cycles["block"], round(products / peak))}
    return counted


def parse(text: str) -> dict[str, int]:
    """Bundles of a step of the kernel's loop, of the products of a block, and of the start and end of a row.

    A part that runs on a condition is a branch to a later region. The products are the longest such part without
    another in it; the start and the end of a row are the parts before and after it.
    """
    start, branches, regions = None, [], {}
    for line in text.splitlines():
        address = re.match(r"\s*(0x[0-9a-f]+|0)\s", line)
        if not address:
            continue
        number = int(address[1], 16)
        if start is None and re.match(r"\s*0x[0-9a-f]+ LB", line):
            start = number
        branches += [
            (number, int(region)) for region in re.findall(r"sbr\.rel \(!?%\w+\) target = \$region(\d+)", line)
        ]
        regions |= {int(region): number for region in re.findall(r"Start/End empty region (\d+)", line)}
    assert start is not None, "no loop"
    ends = [address for address, region in branches if regions.get(region, 0) <= address]
    parts = [(address, regions[region]) for address, region in branches if regions.get(region, 0) > address > start]
    parts = sorted(part for part in parts if not any(_contains(part, other) for other in parts))
    sizes = [after - before for before, after in parts]
    longest = sizes.index(max(sizes))
    row = sum(sizes[max(longest - 1, 0) : longest + 2]) - sizes[longest]
    return {"step": max(ends) - start - sizes[longest] - row, "block": sizes[longest], "row": row}


def _contains(part: tuple[int, int], other: tuple[int, int]) -> bool:
    return part != other and part[0] <= other[0] and other[1] <= part[1]


def compile_kernels(slice_name: str, block: int, masked: bool) -> None:
    """Compiles the forward and backward kernels for one chip of a slice."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from codellama_jax.kernels import splash

    slice_ = topology(slice_name)
    devices = topologies.get_topology_desc(slice_.slice_name, "tpu", **slice_.options).devices
    sharding = NamedSharding(Mesh(devices[:1], ("device",)), PartitionSpec())
    kernel = splash.kernel(HEADS, LENGTH, block, block, 1, interpret=False)

    def with_gradients(q, k, v, d, segments):
        ids = (segments, segments) if masked else None
        out, gradients = jax.vjp(lambda q, k, v: splash.attention(q, k, v, ids, kernel), q, k, v)
        return out, gradients(d)

    x = jax.ShapeDtypeStruct((BATCH, LENGTH, HEADS, HEAD_DIM), jnp.bfloat16, sharding=sharding)
    segments = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32, sharding=sharding)
    jax.jit(with_gradients).lower(x, x, x, x, segments).compile()


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
