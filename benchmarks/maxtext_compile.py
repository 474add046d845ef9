"""Compiles MaxText's train step for a slice on a machine without TPUs, and reads the program that the compiler dumps.

MaxText is not imported: it runs in its own environment.
"""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from codellama_jax.planning import roofline  # noqa: E402
from codellama_jax.planning.aot_compile import compiler_environment, heap_bytes  # noqa: E402
from codellama_jax.planning.chips import Topology  # noqa: E402
from codellama_jax.planning.collectives import Collectives  # noqa: E402
from codellama_jax.planning.hlo import Program  # noqa: E402

# Runs MaxText's train_compile, and writes the axes of its mesh and the coordinates of the devices in the mesh's order.
# The program numbers the devices in this order.
TRAIN_COMPILE = """
import json
from absl import app
from maxtext.trainers.pre_train import train_compile

def recorded(config, make_mesh=train_compile.get_topology_mesh):
    mesh = make_mesh(config)
    coordinates = [[getattr(device, "slice_index", 0), *device.coords] for device in mesh.devices.flat]
    with open("mesh.json", "w") as file:
        json.dump({"axes": dict(mesh.shape), "coordinates": coordinates}, file)
    return mesh

train_compile.get_topology_mesh = recorded
app.run(train_compile.main)
"""


@dataclasses.dataclass(frozen=True)
class Step:
    """MaxText's compiled train step.

    Attributes:
        program: the program after code generation, with the compiler's cycles.
        collectives, placement: its communication, and the devices in the order of MaxText's mesh.
        peak_bytes: size of the compiler's heap for all buffers, including arguments.
        config: the configuration that MaxText logs.
        seconds: duration of the compilation, including code generation.
    """

    program: Program
    collectives: Collectives
    placement: roofline.Placement
    peak_bytes: int
    config: dict[str, str]
    seconds: float

    def estimate(self) -> dict[str, float]:
        """The estimated seconds of a step and their parts; see roofline.estimate."""
        estimate = roofline.estimate(self.program, self.collectives, self.placement)
        assert estimate is not None
        return estimate


def compile_step(python: Path, slice_: Topology, settings: Sequence[str], folder: Path, flags: str = "") -> Step:
    """Compiles MaxText's train step, including code generation, unless `folder` has the dump of the same step.

    Args:
        python: the Python of MaxText's environment.
        slice_: what to compile for.
        settings: those that differ from MaxText's base.yml.
        folder: for the dump.
        flags: of the compiler (LIBTPU_INIT_ARGS).

    Raises:
        SystemExit: MaxText does not compile the step, or the runs of its loops cannot be counted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = {"slice": slice_.name, "settings": list(settings), "flags": flags}
    record = folder / "compiled.json"
    compiled = json.loads(record.read_text()) if record.exists() else {}
    if {name: compiled.get(name) for name in key} != key:
        compiled = {**key, "seconds": _compile(python, slice_, settings, folder, flags)}
        record.write_text(json.dumps(compiled))
    program = Program(_dumped(folder, "after_codegen.txt").read_text())
    peak = heap_bytes(folder, "jit_train_step")
    if not peak or program.unknown_loops:
        raise SystemExit(f"cannot analyse MaxText's program in {folder}: heap {peak}, loops {program.unknown_loops}")
    mesh = json.loads((folder / "mesh.json").read_text())
    return Step(
        program=program,
        collectives=Collectives(program, mesh["axes"], slice_.slices),
        placement=roofline.Placement(slice_, mesh["coordinates"]),
        peak_bytes=peak,
        config=dict(re.findall(r"Config param (\w+): (.*)", (folder / "log.txt").read_text(errors="replace"))),
        seconds=compiled["seconds"],
    )


def _compile(python: Path, slice_: Topology, settings: Sequence[str], folder: Path, flags: str) -> float:
    """Compiles a step, and returns the seconds that it takes."""
    for path in folder.glob("*jit_train_step*"):  # of another step
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    environment = {**compiler_environment(slice_, folder), "LIBTPU_INIT_ARGS": flags}
    environment.pop("PYTHONPATH", None)  # it contains this project
    origin = subprocess.run(
        [python, "-c", "import importlib.util; print(importlib.util.find_spec('maxtext').origin)"],
        **{"check": True, "capture_output": True, "text": True, "env": environment},
    ).stdout
    base = Path(origin.strip()).parent / "configs" / "base.yml"
    name = f"{slice_.chip.name}-{slice_.cloud_name.rpartition('-')[2]}"  # v5e-256: the cloud has v5litepod-256
    common = (f"base_output_directory={folder / 'output'}", f"compile_topology={name}")
    start = time.monotonic()
    with (folder / "log.txt").open("wb") as log:
        child = subprocess.run(
            [python, "-c", TRAIN_COMPILE, base, *common, "compile_topology_num_slices=1", *settings],
            **{"env": environment, "cwd": folder, "stdout": log, "stderr": subprocess.STDOUT},
        )
    if child.returncode or _dumped(folder, "after_codegen.txt") is None:
        text = (folder / "log.txt").read_text(errors="replace")
        raise SystemExit(f"MaxText does not compile the step:\n{text[-4000:]}")
    return time.monotonic() - start


def _dumped(folder: Path, name: str) -> Path | None:
    return next(folder.glob(f"*jit_train_step*.{name}"), None)


def versions(python: Path, *packages: str) -> str:
    """The versions of Python and of packages in an environment."""
    code = (
        "import importlib.metadata as m, platform, sys; print(platform.python_version(), *map(m.version, sys.argv[1:]))"
    )
    printed = subprocess.run([python, "-c", code, *packages], check=True, capture_output=True, text=True).stdout.split()
    return ", ".join(f"{name} {version}" for name, version in zip(("Python", *packages), printed, strict=True))
