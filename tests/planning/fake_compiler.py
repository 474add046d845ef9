"""A fake compiler whose results are simple formulas, and the configurations that tests use with it."""

from codellama_jax.config import gin_files
from codellama_jax.errors import UserError
from codellama_jax.planning.chips import topology
from codellama_jax.planning.step_config import shaping_config

# overrides the faster settings of the size files
PLAIN = ("Llama.remat=full", "Stage.micro_batches=1")
FLAGS = ["--gin_file=gin/code.gin", "--gin_file=gin/models/7b.gin", *(f"--gin.{binding}" for binding in PLAIN)]
SLICE = topology("v5p:4x4x4")


def shipped(*bindings, stage="code", size="7b"):
    """The configuration of the gin files."""
    return shaping_config(gin_files.load([f"gin/{stage}.gin", f"gin/models/{size}.gin"], bindings))


def load(*bindings, stage="code", size="7b"):
    """The configuration of the stage file, without the faster settings of the size file."""
    return shipped(*PLAIN, *bindings, stage=stage, size=size)


class FakeCompiler:
    """A step needs 160 GiB on a v5p of 64 chips; less on more chips, with more micro-batches and with full remat."""

    def __init__(self, progress=None, libtpu_bundle=None):
        self.requests = []

    def analyze(self, config, slice_, *, estimate=True, forward=False):
        self.requests.append((config.stage.micro_batches, config.llama.remat, slice_.name, estimate))
        peak = int(160 * 2**30 * 64 / slice_.chips / config.stage.micro_batches)
        peak *= 4 if config.llama.remat != "full" else 1
        analysis = {
            "fits": peak <= slice_.chip.hbm_bytes,
            "peak_bytes": peak,
            "hbm_bytes": slice_.chip.hbm_bytes,
            "mesh": {"data": 1, "fsdp": slice_.devices, "context": 1, "tensor": 1},
            **dict.fromkeys(("argument_bytes", "parameter_bytes", "optimizer_bytes", "batch_bytes"), 2**30),
            "seconds": 1.0,
        }
        return analysis | {
            "product_flops": 4e15,
            "attention_flops": 2e14,
            "attention_blocks": {"fwd": 1024, "dq": 1024, "dkv": 1024},
            "memory_bytes": 1e12,
            "collective_bytes": {"all-gather": {"fsdp": 1e10}},
            "bound": {"compute": 9.0, "memory": 1.0, "interconnect": 2.0},
            "estimate": {"total": 12.0, "instructions": 9.0, "attention": 2.0, "collectives": 1.0}
            if estimate
            else None,
            "program_bytes": 1,
            "unknown_loops": [],
            "recomputed": 0,
        }


class SearchCompiler(FakeCompiler):
    """Saved activations need memory and save time; a tensor axis of 4 is an error; offloading is slow."""

    def analyze(self, config, slice_, *, estimate=True, forward=False):
        if config.mesh.tensor == 4:
            raise UserError("not divisible")
        analysis = super().analyze(config, slice_, estimate=estimate)
        saved = len(config.llama.saved) if config.llama.remat != "none" else 8
        peak = int((20 + 30 * saved) * 2**30 / config.stage.micro_batches)
        compute = 10.0 - saved / 2 + 0.001 * config.stage.micro_batches
        bound = {"compute": compute, "memory": 1.0, "host": 12.0 * bool(config.llama.offload)}
        return analysis | {"peak_bytes": peak, "fits": peak <= analysis["hbm_bytes"], "bound": bound}
