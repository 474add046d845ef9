"""Ahead-of-time compilation of a stage's train step for a TPU slice, on a machine without TPUs.

XLA's TPU compiler (libtpu) runs on any Linux machine. It runs in a separate process, because it is configured through
environment variables, writes to the terminal, and is killed early if no estimate is needed. It optimises the program
and assigns memory in a second or two. Code generation then takes minutes; it yields the cycles of each instruction,
which only the estimate needs. Both phases dump their programs as text into a folder, and this module reads the dumps.

    analysis = Compiler(on_progress).analyze(config, topology("v5p:4x4x4"))
"""

import hashlib
import importlib.metadata
import importlib.util
import json
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
from codellama_jax.config.data import STREAMS
from codellama_jax.config.run import PARTS, Config, operative_text
from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.planning import attention_kernels, libtpu_flags, roofline
from codellama_jax.planning.chips import Topology, topology
from codellama_jax.planning.collectives import Collectives
from codellama_jax.planning.hlo import Program
from codellama_jax.planning.memory_traffic import memory_bytes
from codellama_jax.planning.serving_config import ServingProgram
from codellama_jax.planning.step_config import STEP_PARTS
from codellama_jax.runtime import cache
from codellama_jax.runtime.cli import die_with_parent
from codellama_jax.runtime.filesystem import write_atomically

PACKAGE = Path(__file__).resolve().parents[1]
# Source files that determine the compiled program of a configuration and its analysis. Their contents are part of the
# key of a cached analysis.
SOURCES = (
    *("model", "kernels", "sharding.py", "attention.py"),
    *(f"config/{name}.py" for name in ("lora", "model", "training")),
    *(f"training/{name}.py" for name in ("frozen_base", "loss", "moments", "optimizer", "step")),
    *(f"planning/{name}.py" for name in ("chips", "hlo", "collectives", "memory_traffic", "attention_kernels")),
    *("planning/aot_compile.py", "planning/roofline.py"),
)
SERVING_SOURCES = ("generation", "config/generation.py", "planning/serving_programs.py")


def require_compiler() -> None:
    """Raises UserError with the command that installs libtpu if it is missing."""
    if importlib.util.find_spec("libtpu") is None:
        required = [r.partition(";")[0] for r in importlib.metadata.requires("jax") or [] if r.startswith("libtpu")]
        package = required[0].strip() if required else "libtpu"
        raise UserError(f"planning needs the TPU compiler, which runs on any Linux machine: pip install '{package}'")


class Compiler:
    """Compiles steps, one at a time, and caches their analyses (runtime/cache.py).

    Args:
        on_progress: called several times a second with a short message; with "" at the end of a compilation.
        libtpu_bundle: flags of the compiler for steps (libtpu_flags.py); programs that generate have none.
    """

    def __init__(
        self, on_progress: Callable[[str], None] = lambda message: None, libtpu_bundle: str = libtpu_flags.FAST
    ):
        self._on_progress, self._libtpu_bundle = on_progress, libtpu_bundle

    def analyze(
        self,
        config: Config,
        slice_: Topology,
        *,
        estimate: bool = True,
        forward: bool = False,
        serving: ServingProgram | None = None,
    ) -> dict[str, Any]:
        """Compiles the train step of a stage for a slice and analyses the program.

        With `forward`, an evaluation step is compiled instead: the loss of every token, without gradients. With
        `serving`, it is a program of the generation engine, and the sizes are those of serving_programs.lower.

        Returns:
            Always: fits, hbm_bytes, peak_bytes (also if it does not fit), mesh, seconds (of compilation),
            argument_bytes = parameter_bytes + optimizer_bytes + batch_bytes + base_bytes. If it fits: product_flops,
            attention_flops, attention_blocks (the kernels' block sizes, by phase), memory_bytes, collective_bytes (by
            kind and axes), bound (roofline.bound), recomputed, unknown_loops. With `estimate`: estimate
            (roofline.estimate), program_bytes. All figures are per device.

        Raises:
            UserError: the mesh does not divide the stage, or the step fails to compile for a reason other than memory.
        """
        plans = cache.directory("plans")
        pass_ = serving.text if serving else "forward" if forward else "train"
        flags = libtpu_flags.libtpu_init_args(slice_.chip, libtpu_flags.NONE if serving else self._libtpu_bundle)
        cached = plans / f"{self._digest(config, slice_, pass_, flags)}.json" if plans else None
        if cached and cached.exists():
            analysis = json.loads(cached.read_text(encoding="utf-8"))
            if analysis["estimate"] or not analysis["fits"] or not estimate:
                return analysis
        folder = Path(tempfile.mkdtemp(prefix="codellama_jax_plan_"))
        try:
            analysis = self._compile(config, slice_, pass_, folder, estimate, flags)
        finally:
            self._on_progress("")
            shutil.rmtree(folder, ignore_errors=True)
        if cached:
            cache.store(cached, json.dumps(analysis).encode())
        return analysis

    @staticmethod
    def _digest(config: Config, slice_: Topology, pass_: str, flags: str) -> str:
        digest = hashlib.sha256()
        paths = [PACKAGE / source for source in SOURCES + SERVING_SOURCES * pass_.startswith("{")]
        files = sorted(file for path in paths for file in (_sources(path) if path.is_dir() else [path]))
        versions = [importlib.metadata.version(package) for package in ("jax", "jaxlib", "libtpu", "optax", "flax")]
        parts = {attribute: kind for attribute, kind in PARTS.items() if kind in STEP_PARTS}
        shaping = Config(**{attribute: getattr(config, attribute) for attribute in parts})
        for text in (
            operative_text(shaping),
            slice_.name,
            pass_,
            flags,
            *versions,
            *(file.read_text(encoding="utf-8") for file in files),
        ):
            digest.update(text.encode() + b"\0")
        return digest.hexdigest()[:32]

    def _compile(
        self, config: Config, slice_: Topology, pass_: str, folder: Path, estimate: bool, flags: str
    ) -> dict[str, Any]:
        (folder / "config.gin").write_text(operative_text(config), encoding="utf-8")
        started = time.monotonic()
        with (folder / "log.txt").open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", __spec__.name, str(folder), slice_.slice_name, str(slice_.slices), pass_],
                env=compiler_environment(slice_, folder) | {"LIBTPU_INIT_ARGS": flags},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            peak = 0
            while child.poll() is None:
                before, peak = peak, heap_bytes(folder, "jit_planned")
                # twice the same: the report is complete. A program that does not fit is refused at once
                if not estimate and 0 < peak == before <= slice_.chip.hbm_bytes:
                    break
                lowered = bool(_read(folder, "step"))
                phase = "generating code" if peak else "compiling" if lowered else "loading JAX"
                self._on_progress(f"{phase}, {time.monotonic() - started:.0f} s")
                time.sleep(0.2)
        finally:
            child.kill()
            child.wait()
        end = _read(folder, "end")
        if end.get("refused"):
            raise UserError(end["refused"], EXIT_USAGE)
        step = _read(folder, "step")
        analysis = {**step, "estimate": None, "seconds": time.monotonic() - started, **end}
        analysis.pop("coordinates", None)
        analysis["peak_bytes"], analysis["hbm_bytes"] = heap_bytes(folder, "jit_planned"), slice_.chip.hbm_bytes
        error = end.get("error", "")
        if "exceeds available HBM" in error or "Exceeded hbm capacity" in error:
            return {**analysis, "fits": False, "peak_bytes": analysis["peak_bytes"] or _requested_bytes(error)}
        text = next(folder.glob("*jit_planned*.after_codegen.txt"), None) if estimate else None
        text = text or next(folder.glob("*jit_planned*.after_optimizations.txt"), None)
        if error or text is None or not analysis["peak_bytes"] or (estimate and not end):
            log_lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            reason = (error or (log_lines[-1] if log_lines else "no output")).splitlines()[0][:500]
            raise UserError(f"the step does not compile for {slice_.name}: {reason}")
        try:
            return {**analysis, "fits": True, **_analyze(text, slice_, step, estimate)}
        except (LookupError, ValueError, AssertionError) as error:
            version = importlib.metadata.version("libtpu")
            raise UserError(
                f"cannot parse the program that libtpu {version} dumped ({type(error).__name__}: {error}): install the"
                " version of requirements-tpu.txt, and please report this"
            ) from error


def _sources(folder: Path) -> list[Path]:
    """The Python files of a folder, and the tables beside them."""
    return [path for path in folder.iterdir() if path.suffix in (".py", ".json")]


def _analyze(text: Path, slice_: Topology, step: dict[str, Any], estimate: bool) -> dict[str, Any]:
    program = Program(text.read_text(encoding="utf-8"))
    collectives = Collectives(program, step["mesh"], slice_.slices)
    placement = roofline.Placement(slice_, step["coordinates"])
    return {
        "product_flops": program.product_flops,
        "attention_flops": attention_kernels.attention_flops(program),
        "attention_blocks": {kernel.phase: kernel.block for _, kernel in attention_kernels.kernels(program)},
        "memory_bytes": memory_bytes(program),
        "collective_bytes": roofline.bytes_sent(collectives),
        "bound": roofline.bound(program, collectives, placement),
        "estimate": roofline.estimate(program, collectives, placement) if estimate else None,
        "unknown_loops": program.unknown_loops,
        "recomputed": program.recomputed,
    }


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def compiler_environment(slice_: Topology, folder: Path) -> dict[str, str]:
    """The environment of a process that compiles for a slice without TPUs and dumps its programs into a folder."""
    path = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]  # the launcher may run in any working directory
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "0",  # a cached program would not be dumped
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": slice_.cloud_name,
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "XLA_FLAGS": f"--xla_dump_to={folder}",
    }


def heap_bytes(folder: Path, program: str) -> int:
    """The size of the heap that holds all buffers, from the compiler's memory report; 0 if there is no report.

    The compiler compares this size with the available memory. Its other figures are not usable: temp_size_in_bytes
    counts memory that is used twice as two allocations (a step with 20 GiB of arguments and "temporaries" compiled for
    a device with 16 GiB), and peak_memory_in_bytes omits the gaps between buffers.
    """
    for report in folder.glob(f"*{program}*memory-usage-report.txt"):
        match = re.search(r"default \(color=0\)\s+Total bytes: (\d+)", report.read_text(encoding="utf-8"))
        if match:
            return int(match[1])
    return 0


def _requested_bytes(error: str) -> int:
    """The size of a program that does not fit, from the compiler's message."""
    sizes = re.findall(r"([\d.]+)([KMGT])", error)
    return int(max(float(size) * 1024 ** ("KMGT".index(unit) + 1) for size, unit in sizes)) if sizes else 0


# ---------------------------------------------------------------- the compiler process


def _main(folder: Path, slice_: Topology, pass_: str) -> None:
    """Compiles the configuration in folder/config.gin for the slice. Writes step.json before compiling and end.json
    after it."""
    die_with_parent(signal.SIGKILL)
    import resource

    import jax

    from codellama_jax.errors import UserError

    def write(name: str, content: dict[str, Any]) -> None:
        write_atomically(folder / f"{name}.json", json.dumps(content))

    config = gin_files.load([str(folder / "config.gin")], []).resolve(*STEP_PARTS)
    try:
        lowered, step = _lower(config, slice_, pass_)
    except UserError as error:
        write("end", {"refused": str(error)})
        return
    write("step", step)
    try:
        memory = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        write("end", {"error": str(error)})
        return
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    write("end", {"program_bytes": memory.generated_code_size_in_bytes, "compiler_memory": rss})


def _lower(config: Config, slice_: Topology, pass_: str) -> tuple[Any, dict[str, Any]]:
    """Lowers the train or evaluation step of codellama_jax/train.py, or a program of the generation engine (`pass_` is
    ServingProgram.text), for abstract arguments. Returns the lowered step,
    and a dict with its mesh, the coordinates of the devices and the sizes of its arguments."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies
    from jax.sharding import NamedSharding

    from codellama_jax.planning.serving_programs import device_bytes, lower
    from codellama_jax.sharding import check_divides, make_mesh, spec
    from codellama_jax.training.frozen_base import abstract_base, base_shardings, with_shardings
    from codellama_jax.training.optimizer import make_optimizer
    from codellama_jax.training.step import (
        TrainState,
        abstract_params,
        make_loss,
        make_train_step,
        param_shardings,
        state_shardings,
    )

    stage, llama, lora, masked = config.stage, config.llama, config.lora, config.packing.mask_documents
    try:
        description = topologies.get_topology_desc(slice_.slice_name, "tpu", num_slices=slice_.slices, **slice_.options)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--topology={slice_.slice_name}: the compiler rejects this slice ({error})") from error
    if pass_.startswith("{"):
        return lower(llama, description.devices, ServingProgram(**json.loads(pass_)))
    windows = stage.batch_size // stage.micro_batches
    mesh = make_mesh(config.mesh, windows, description.devices)
    check_divides(mesh, windows, stage.sequence_length, llama)
    params, opt_state, bases = abstract_params(llama), (), []
    # shardings are made before the mesh is set, because arrays that are made after that are placed on it
    if pass_ == "train":
        optimizer, params = make_optimizer(config.adamw, stage.steps), abstract_params(llama, lora)
        opt_state = jax.eval_shape(optimizer.init, params)
        shardings: Any = state_shardings(llama, optimizer, mesh, lora)
        out_shardings: Any = (shardings, None)
        step: Any = make_train_step(llama, stage, config.adamw, masked, len(STREAMS), mesh, lora)
        if lora.rank:
            bases = [with_shardings(abstract_base(llama, lora), base_shardings(llama, lora, mesh))]
    else:
        replicated = NamedSharding(mesh, spec(()))
        shardings = TrainState(param_shardings(llama, mesh), (), replicated)  # type: ignore[arg-type]
        out_shardings = replicated
        loss = make_loss(llama, masked, mesh)

        def step(state: TrainState, batch: dict[str, jax.Array]) -> jax.Array:
            return loss(state.params, batch)[1]

    state = TrainState(params, opt_state, jax.ShapeDtypeStruct((), jnp.int32))  # type: ignore[arg-type]
    abstract_state = with_shardings(state, shardings)
    rows = NamedSharding(mesh, spec(("batch", "sequence")))
    shape = (stage.batch_size, stage.sequence_length)
    integers = ("tokens", "targets", "segment_ids", "positions", "stream_ids")
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows) for name in integers}
    batch["loss_weights"] = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=rows)

    def planned(state: TrainState, batch: dict[str, jax.Array], *bases: Any) -> Any:
        return step(state, batch, *bases)

    with jax.set_mesh(mesh):
        donated = 0 if pass_ == "train" else ()
        planned_step = jax.jit(planned, donate_argnums=donated, out_shardings=out_shardings)
        lowered = planned_step.lower(abstract_state, batch, *bases)

    parameter_bytes, optimizer_bytes = device_bytes(abstract_state.params), device_bytes(abstract_state.opt_state)
    batch_bytes, base_bytes = device_bytes(batch), device_bytes(bases)
    return lowered, {
        "mesh": dict(mesh.shape),
        "coordinates": [[getattr(device, "slice_index", 0), *device.coords] for device in mesh.devices.flat],
        "parameter_bytes": parameter_bytes,
        "optimizer_bytes": optimizer_bytes,
        "batch_bytes": batch_bytes,
        "base_bytes": base_bytes,
        "argument_bytes": parameter_bytes + optimizer_bytes + batch_bytes + base_bytes,
    }


if __name__ == "__main__":
    _main(Path(sys.argv[1]), topology(sys.argv[2], int(sys.argv[3])), sys.argv[4])
