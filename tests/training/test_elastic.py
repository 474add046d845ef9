"""A checkpoint is restored bit for bit by other numbers of processes and devices than those that saved it."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from runs import program_outputs

from codellama_jax import sharding
from codellama_jax.config.model import Llama
from codellama_jax.config.training import AdamW, Checkpoints, Mesh
from codellama_jax.runtime import distributed
from codellama_jax.training.checkpoints import StageCheckpoints
from codellama_jax.training.optimizer import make_optimizer
from codellama_jax.training.step import TrainState, abstract_params, state_shardings

TINY = Llama(dim=16, layers=2, heads=2, kv_heads=2, ffn_dim=24, vocab_size=32, compute_dtype="float32")
OPTIMIZER = make_optimizer(AdamW(peak_learning_rate=1e-3), 10)


def values():
    """A training state on the host; all its values differ, also between arrays."""
    params = abstract_params(TINY)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    shapes, tree = jax.tree.flatten(TrainState(params, jax.eval_shape(OPTIMIZER.init, params), step))
    begins = np.cumsum([0, *(shape.size for shape in shapes)])
    arrays = [
        np.arange(begin, begin + shape.size, dtype=shape.dtype).reshape(shape.shape)
        for shape, begin in zip(shapes, begins[:-1], strict=True)
    ]
    return jax.tree.unflatten(tree, arrays)


def save_or_compare(folder, mesh):
    """Saves `values` if there is no checkpoint; otherwise restores it, and compares it with `values`."""
    mesh = sharding.make_mesh(mesh)
    expected = values()
    shardings = state_shardings(TINY, OPTIMIZER, mesh)
    saves = StageCheckpoints(folder, Checkpoints())
    if saves.latest() is None:
        placed = jax.tree.map(
            lambda x, where: jax.make_array_from_callback(x.shape, where, x.__getitem__), expected, shardings
        )
        saves.save(3, placed, {"batch": 3}, {"step": 3})
    else:
        abstract = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), expected, shardings
        )
        restored = saves.restore(3, abstract)
        assert (restored.stream, restored.metadata) == ({"batch": 3}, {"step": 3})

        def compare(x, want):
            assert x.dtype == want.dtype and x.shape == want.shape
            for shard in x.addressable_shards:
                np.testing.assert_array_equal(np.asarray(shard.data), want[shard.index])

        jax.tree.map(compare, restored.state, expected)
    saves.close()


def run(folder, processes, devices, mesh):
    """Runs save_or_compare in `processes` processes with `devices` devices each."""
    program_outputs(Path(__file__), str(folder), *map(str, mesh), processes=processes, devices=devices)


def test_restores_on_other_numbers_of_processes_and_devices(tmp_path):
    """Written by four processes of two devices; read by two of four, one of four and one of one."""
    run(tmp_path, 4, 2, (1, 8, 1, 1))
    assert (tmp_path / "checkpoints" / "3" / "checksums.json").exists()
    run(tmp_path, 2, 4, (1, 4, 1, 2))
    run(tmp_path, 1, 4, (1, 4, 1, 1))
    run(tmp_path, 1, 1, (1, 1, 1, 1))


if __name__ == "__main__":
    folder, *mesh = sys.argv[1:]
    distributed.initialize()
    save_or_compare(Path(folder), Mesh(*map(int, mesh)))
