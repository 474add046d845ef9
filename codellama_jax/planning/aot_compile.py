"""A stage's train step, compiled for a slice that is not there.

XLA's TPU compiler, which comes as libtpu, runs on any Linux machine. It runs in a process of its own: its settings are
environment variables, it prints what it likes, and it can be stopped. In a second or two it has optimised the program
and laid out its memory; then it generates code, for minutes, and on the way works out the cycles of each instruction,
which only the estimate needs. Both leave texts in a folder, and the texts are what is read here.

    facts = Compiler(say).facts(config, topology("v5p:4x4x4"))
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codellama_jax.config import gin_files
from codellama_jax.config.data import STREAMS, Packing
from codellama_jax.config.model import Llama
from codellama_jax.config.run import PARTS, Config, operative_text
from codellama_jax.config.training import AdamW, Mesh, Stage
from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.planning import roofline
from codellama_jax.planning.chips import Topology, topology
from codellama_jax.planning.collectives import Collectives
from codellama_jax.planning.hlo import Program
from codellama_jax.planning.memory_traffic import memory_bytes
from codellama_jax.runtime import cache
from codellama_jax.runtime.cli import die_with_parent
from codellama_jax.runtime.filesystem import write_atomically

PACKAGE = Path(__file__).resolve().parents[1]
# What decides which program a configuration becomes, and what is read of it.
SOURCES = (
    *("model", "kernels", "sharding.py", "attention.py", "config/model.py", "config/training.py"),
    *(f"training/{name}.py" for name in ("loss", "optimizer", "step")),
    *(f"planning/{name}.py" for name in ("chips", "collectives", "aot_compile", "roofline", "hlo", "memory_traffic")),
)
NEEDED = (Stage, Llama, AdamW, Mesh, Packing)  # the parts of a configuration that shape a step


def require_compiler() -> None:
    """Raises UserError, with how to get it, if libtpu is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        wanted = [r.partition(";")[0] for r in importlib.metadata.requires("jax") or [] if r.startswith("libtpu")]
        package = wanted[0].strip() if wanted else "libtpu"
        raise UserError(f"planning needs the TPU compiler, which runs on any Linux machine: pip install '{package}'")


class Compiler:
    """Compiles steps, one at a time, and remembers what they were.

    Args:
        say: is told, in a few words, what is going on, several times a second; "" when it is over.
    """

    def __init__(self, say: Callable[[str], None] = lambda words: None):
        self._say = say

    def facts(
        self, config: Config, slice_: Topology, *, estimate: bool = True, forward: bool = False
    ) -> dict[str, Any]:
        """What the compiler makes of a stage's step on a slice; of one device where nothing else is said.

        With `forward` it is not the train step but what evaluation runs: the loss of every token, no gradients.

        `fits`, `hbm_bytes` and `peak_bytes` (what it needs, also if it does not fit) are always there. Then:
        argument_bytes (parameter_bytes + optimizer_bytes + batch_bytes), mesh, product_flops, attention_flops,
        memory_bytes, collective_bytes by kind and axes, bound (cost.bound), recomputed, unknown_loops, seconds; with
        `estimate` also estimate (cost.estimate) and program_bytes.

        Raises:
            UserError: the stage cannot be cut as the mesh says, or the compiler refuses the step for another reason
                than the memory it needs.
        """
        plans, pass_ = cache.directory("plans"), "forward" if forward else "train"
        cached = plans / f"{self._digest(config, slice_, pass_)}.json" if plans else None
        if cached and cached.exists():
            facts = json.loads(cached.read_text(encoding="utf-8"))
            if facts["estimate"] or not facts["fits"] or not estimate:
                return facts
        folder = Path(tempfile.mkdtemp(prefix="codellama_jax_plan_"))
        try:
            facts = self._compile(config, slice_, pass_, folder, estimate)
        finally:
            self._say("")
            shutil.rmtree(folder, ignore_errors=True)
        if cached:
            cache.store(cached, json.dumps(facts).encode())
        return facts

    @staticmethod
    def _digest(config: Config, slice_: Topology, pass_: str) -> str:
        digest = hashlib.sha256()
        paths = [PACKAGE / source for source in SOURCES]
        files = sorted(file for path in paths for file in (path.glob("*.py") if path.is_dir() else [path]))
        versions = [importlib.metadata.version(package) for package in ("jax", "jaxlib", "libtpu", "optax", "flax")]
        parts = {attribute: kind for attribute, kind in PARTS.items() if kind in NEEDED}
        shaping = Config(**{attribute: getattr(config, attribute) for attribute in parts})
        for text in (
            operative_text(shaping),
            slice_.name,
            pass_,
            os.environ.get("LIBTPU_INIT_ARGS", ""),
            *versions,
            *(file.read_text(encoding="utf-8") for file in files),
        ):
            digest.update(text.encode() + b"\0")
        return digest.hexdigest()[:32]

    def _compile(self, config: Config, slice_: Topology, pass_: str, folder: Path, estimate: bool) -> dict[str, Any]:
        (folder / "config.gin").write_text(operative_text(config), encoding="utf-8")
        begun = time.monotonic()
        with (folder / "log.txt").open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", __spec__.name, str(folder), slice_.slice_name, str(slice_.slices), pass_],
                env=compiler_environment(slice_, folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            laid_out = False
            while child.poll() is None:
                laid_out = laid_out or bool(list(folder.glob("*jit_planned*after_buffer_assignment.txt")))
                if laid_out and not estimate:
                    break
                doing = "generating code" if laid_out else "compiling" if _read(folder, "step") else "loading JAX"
                self._say(f"{doing}, {time.monotonic() - begun:.0f} s")
                time.sleep(0.2)
        finally:
            child.kill()
            child.wait()
        end = _read(folder, "end")
        if end.get("refused"):
            raise UserError(end["refused"], EXIT_USAGE)
        step = _read(folder, "step")
        facts = {**step, "estimate": None, "seconds": time.monotonic() - begun, **end}
        facts.pop("places", None)
        facts["peak_bytes"], facts["hbm_bytes"] = heap_bytes(folder, "jit_planned"), slice_.chip.hbm_bytes
        error = end.get("error", "")
        if "exceeds available HBM" in error or "Exceeded hbm capacity" in error:
            return {**facts, "fits": False, "peak_bytes": facts["peak_bytes"] or _asked(error)}
        text = next(folder.glob("*jit_planned*.after_codegen.txt"), None) if estimate else None
        text = text or next(folder.glob("*jit_planned*.after_optimizations.txt"), None)
        if error or text is None or not facts["peak_bytes"] or (estimate and not end):
            said = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            reason = (error or (said[-1] if said else "no word")).splitlines()[0][:500]
            raise UserError(f"the step does not compile for {slice_.name}: {reason}")
        try:
            return {**facts, "fits": True, **_analysis(text, slice_, step, estimate)}
        except (LookupError, ValueError, AssertionError) as error:
            version = importlib.metadata.version("libtpu")
            raise UserError(
                f"cannot read what libtpu {version} writes of a program ({type(error).__name__}: {error}): use that of"
                " requirements-tpu.txt, and please report it"
            ) from error


def _analysis(text: Path, slice_: Topology, step: dict[str, Any], estimate: bool) -> dict[str, Any]:
    program = Program(text.read_text(encoding="utf-8"))
    collectives = Collectives(program, step["mesh"], slice_.slices)
    where = roofline.Slice(slice_, step["places"])
    return {
        "product_flops": program.product_flops,
        "attention_flops": program.attention_flops,
        "memory_bytes": memory_bytes(program),
        "collective_bytes": roofline.sent(collectives),
        "bound": roofline.bound(program, collectives, where),
        "estimate": roofline.estimate(program, collectives, where) if estimate else None,
        "unknown_loops": program.unknown_loops,
        "recomputed": program.recomputed,
    }


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def compiler_environment(slice_: Topology, folder: Path) -> dict[str, str]:
    """The environment in which a process compiles for a slice that is not there, and leaves its texts in a folder."""
    path = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]  # the launcher may be called from anywhere
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "0",  # what comes out of it leaves no texts
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": slice_.cloud_name,
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "XLA_FLAGS": f"--xla_dump_to={folder}",
    }


def heap_bytes(folder: Path, program: str) -> int:
    """What the compiler compares with the memory there is: the size of the heap that it lays everything out in.

    Of its other figures, temp_size_in_bytes counts memory that is used twice twice (a step with 20 GiB of arguments and
    "temporaries" was accepted for 16), and peak_memory_in_bytes leaves out the gaps between what lives at a time.
    """
    for report in folder.glob(f"*{program}*memory-usage-report.txt"):
        found = re.search(r"default \(color=0\)\s+Total bytes: (\d+)", report.read_text(encoding="utf-8"))
        if found:
            return int(found[1])
    return 0


def _asked(error: str) -> int:
    """What a program that does not fit asked for, from the compiler's words."""
    sizes = re.findall(r"([\d.]+)([KMGT])", error)
    return int(max(float(size) * 1024 ** ("KMGT".index(unit) + 1) for size, unit in sizes)) if sizes else 0


# ---------------------------------------------------------------- the process that compiles


def _main(folder: Path, slice_: Topology, pass_: str) -> None:
    """Compiles what folder/config.gin says for the slice; leaves step.json before, end.json after."""
    die_with_parent(signal.SIGKILL)
    import resource

    import jax

    from codellama_jax.errors import UserError

    def leave(what: str, content: dict[str, Any]) -> None:
        write_atomically(folder / f"{what}.json", json.dumps(content))

    config = gin_files.load([str(folder / "config.gin")], []).resolve(*NEEDED)
    try:
        lowered, described = _lowered(config, slice_, pass_)
    except UserError as error:
        leave("end", {"refused": str(error)})
        return
    leave("step", described)
    try:
        memory = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        leave("end", {"error": str(error)})
        return
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    leave("end", {"program_bytes": memory.generated_code_size_in_bytes, "compiler_memory": rss})


def _lowered(config: Config, slice_: Topology, pass_: str) -> tuple[Any, dict[str, Any]]:
    """The step of codellama_jax/train.py, or its evaluation's, for arguments that are nowhere, and what is known of it
    before compiling."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies
    from jax.sharding import NamedSharding

    from codellama_jax.sharding import check_divides, make_mesh, spec
    from codellama_jax.training.optimizer import make_optimizer
    from codellama_jax.training.step import (
        TrainState,
        abstract_params,
        make_loss,
        make_train_step,
        param_shardings,
        state_shardings,
    )

    stage, llama, masked = config.stage, config.llama, config.packing.mask_documents
    try:
        described = topologies.get_topology_desc(slice_.slice_name, "tpu", num_slices=slice_.slices, **slice_.options)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--topology={slice_.slice_name}: the compiler knows no such slice ({error})") from error
    windows = stage.batch_size // stage.micro_batches
    mesh = make_mesh(config.mesh, windows, described.devices)
    check_divides(mesh, windows, stage.sequence_length, llama)
    params, opt_state = abstract_params(llama), ()
    # shardings before the mesh is set: arrays made under it would lie on it
    if pass_ == "train":
        optimizer = make_optimizer(config.adamw, stage.steps)
        opt_state = jax.eval_shape(optimizer.init, params)
        shardings: Any = state_shardings(llama, optimizer, mesh)
        results: Any = (shardings, None)
        step: Any = make_train_step(llama, stage, config.adamw, masked, len(STREAMS), mesh)
    else:
        everywhere = NamedSharding(mesh, spec(()))
        shardings = TrainState(param_shardings(llama, mesh), (), everywhere)  # type: ignore[arg-type]
        results = everywhere
        loss = make_loss(llama, masked, mesh)

        def step(state: TrainState, batch: dict[str, jax.Array]) -> jax.Array:
            return loss(state.params, batch)[1]

    state = TrainState(params, opt_state, jax.ShapeDtypeStruct((), jnp.int32))  # type: ignore[arg-type]
    placed = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)
    rows = NamedSharding(mesh, spec(("batch", "sequence")))
    shape = (stage.batch_size, stage.sequence_length)
    integers = ("tokens", "targets", "segment_ids", "positions", "stream_ids")
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows) for name in integers}
    batch["loss_weights"] = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=rows)

    def planned(state: TrainState, batch: dict[str, jax.Array]) -> Any:
        return step(state, batch)

    with jax.set_mesh(mesh):
        donated = 0 if pass_ == "train" else ()
        lowered = jax.jit(planned, donate_argnums=donated, out_shardings=results).lower(placed, batch)

    def on_a_device(tree: Any) -> int:
        shards = [(x.sharding.shard_shape(x.shape), x.dtype.itemsize) for x in jax.tree.leaves(tree)]
        return sum(width * math.prod(shape) for shape, width in shards)

    parameters, moments, rows_bytes = on_a_device(placed.params), on_a_device(placed.opt_state), on_a_device(batch)
    return lowered, {
        "mesh": dict(mesh.shape),
        "places": [[getattr(device, "slice_index", 0), *device.coords] for device in mesh.devices.flat],
        "parameter_bytes": parameters,
        "optimizer_bytes": moments,
        "batch_bytes": rows_bytes,
        "argument_bytes": parameters + moments + rows_bytes,
    }


if __name__ == "__main__":
    _main(Path(sys.argv[1]), topology(sys.argv[2], int(sys.argv[3])), sys.argv[4])
