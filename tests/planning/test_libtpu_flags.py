"""Each bundle of flags compiles with the real compiler: unknown flags abort it, and some flags are incompatible."""

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest

from codellama_jax.config.gin_files import ROOT
from codellama_jax.errors import UserError
from codellama_jax.planning.chips import CHIPS
from codellama_jax.planning.libtpu_flags import FLAGS, NONE, libtpu_init_args

COMPILER = ROOT / ".venv" / "tpu_compiler"  # where `make test` installs it
SLICES = {"v4": "v4:2x2x2", "v5e": "v5e:4x4", "v5p": "v5p:2x2x2", "v6e": "v6e:4x4", "tpu7x": "tpu7x:2x2x2"}
# A small training step: parameters are all-gathered over one axis in a scan, gradients are summed over the other.
PROGRAM = """
    import sys
    import jax, jax.numpy as jnp
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
    from codellama_jax.planning.chips import topology
    slice_ = topology(sys.argv[1])
    devices = topologies.get_topology_desc(slice_.slice_name, "tpu", **slice_.options).devices
    mesh = Mesh(__import__("numpy").array(devices).reshape(2, -1), ("data", "fsdp"))
    def put(shape, spec, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
    def loss(w, x):
        def layer(x, w):
            return jax.nn.relu(x @ w.astype(jnp.bfloat16)), None
        return jax.lax.scan(jax.checkpoint(layer), x, w)[0].astype(jnp.float32).sum()
    def step(w, x):
        return w - 1e-3 * jax.grad(loss)(w, x)
    w = put((4, 1024, 1024), P(None, "fsdp", None), jnp.float32)
    x = put((512, 1024), P(("data", "fsdp"), None), jnp.bfloat16)
    jax.jit(step, out_shardings=w.sharding).lower(w, x).compile()
    print("compiled")
"""


def compile_with(slice_: str, flags: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", ""), str(COMPILER)])
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "LIBTPU_INIT_ARGS": flags}
    environment["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # other tests compile at the same time
    environment |= {"PYTHONPATH": path, "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5p-128"}
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), slice_]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def compiler():
    if importlib.util.find_spec("libtpu") is None and not (COMPILER / "libtpu").is_dir():
        pytest.skip("libtpu is not installed")


@pytest.mark.parametrize("chip", FLAGS)
def test_bundle_compiles(compiler, chip):
    result = compile_with(SLICES[chip], libtpu_init_args(CHIPS[chip]))
    assert result.stdout == "compiled\n", result.stderr[-2000:]


def test_unknown_flag_is_an_error(compiler):
    result = compile_with("v5p:2x2x2", "--xla_tpu_no_such_flag=true")
    assert result.returncode and "no_such_flag" in result.stderr


def test_the_default_is_the_fast_bundle_and_the_environment_overrides_it(monkeypatch):
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    assert FLAGS.keys() == CHIPS.keys()
    assert all(libtpu_init_args(chip) == " ".join(FLAGS[chip.name]) for chip in CHIPS.values())
    assert all(libtpu_init_args(chip, NONE) == "" for chip in CHIPS.values())
    with pytest.raises(UserError, match="--libtpu_bundle=overlap: v5e has fast, none"):
        libtpu_init_args(CHIPS["v5e"], "overlap")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--mine=1")
    assert libtpu_init_args(CHIPS["v5p"], "overlap") == "--mine=1"
