"""The default mesh, the distribution of batches over hosts, and training in two processes."""

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from runs import program_outputs

from codellama_jax import sharding
from codellama_jax.config.model import Llama
from codellama_jax.config.training import Mesh
from codellama_jax.errors import UserError
from codellama_jax.runtime.distributed import initialize
from tests import fast_compilation

LLAMA = Llama(dim=32, layers=2, heads=4, kv_heads=2, ffn_dim=64, vocab_size=64)


@pytest.mark.parametrize(
    "devices, slices, windows, sizes",
    [
        (64, 1, 1024, (1, 64, 1, 1)),  # 7B code training on 64 chips: FSDP over all of them
        (256, 1, 1024, (1, 256, 1, 1)),
        (256, 1, 128, (1, 128, 2, 1)),  # long-context fine-tuning: more chips than windows
        (256, 1, 64, (1, 64, 4, 1)),
        (64, 1, 96, (1, 32, 2, 1)),
        (512, 2, 1024, (2, 256, 1, 1)),  # a copy of the parameters on each of two slices
        (512, 2, 128, (2, 64, 4, 1)),
        (64, 1, 1, (1, 1, 64, 1)),
        (1, 1, 4, (1, 1, 1, 1)),
        (8, 1, None, (1, 8, 1, 1)),
    ],
)
def test_default_mesh(devices, slices, windows, sizes):
    assert sharding.axis_sizes(Mesh(), devices, slices, windows) == sizes


@pytest.mark.parametrize(
    "shape, sizes",
    [
        (Mesh(tensor=4), (1, 16, 1, 4)),
        (Mesh(context=2), (1, 32, 2, 1)),
        (Mesh(context=1), (1, 64, 1, 1)),
        (Mesh(fsdp=16), (4, 16, 1, 1)),
        (Mesh(data=2), (2, 32, 1, 1)),
        (Mesh(data=2, fsdp=4, context=4, tensor=2), (2, 4, 4, 2)),
    ],
)
def test_axes_that_are_set_are_kept(shape, sizes):
    assert sharding.axis_sizes(shape, 64, 1, 1024) == sizes


@pytest.mark.parametrize(
    "shape, slices, message",
    [
        (Mesh(fsdp=3), 1, "Mesh.fsdp=3, Mesh.tensor=1 do not multiply to 8 devices"),
        (Mesh(data=3), 1, "do not multiply to 8 devices"),
        (Mesh(tensor=16), 1, "do not multiply to 8 devices"),
        (Mesh(data=2, fsdp=2, context=1), 1, "do not multiply to 8 devices"),
        (Mesh(data=1), 2, "Mesh.data=1 must be a multiple of the 2 slices"),
    ],
)
def test_mesh_that_does_not_match_the_devices_is_an_error(shape, slices, message):
    with pytest.raises(UserError, match=message):
        sharding.axis_sizes(shape, 8, slices, 1024)


def test_axis_sizes_below_one_are_errors():
    with pytest.raises(ValueError, match=r"Mesh\.fsdp=0 must be at least 1"):
        Mesh(fsdp=0)
    with pytest.raises(ValueError, match=r"Mesh\.data=-1 must be at least 1"):
        Mesh(data=-1)


def test_indivisible_settings_and_unknown_dims_are_errors():
    mesh = sharding.make_mesh(Mesh(fsdp=2, tensor=4))
    with pytest.raises(UserError, match=r"Llama.kv_heads = 2 is not divisible by 4"):
        sharding.check_divides(mesh, 8, 32, LLAMA)
    with pytest.raises(UserError, match=r"Llama.dim = 36 is not divisible by 8 \(mesh axis fsdp x context\)"):
        sharding.check_divides(sharding.make_mesh(Mesh()), 8, 32, dataclasses.replace(LLAMA, dim=36, heads=2))
    with pytest.raises(KeyError):
        sharding.spec(("batch", "sequnce"))


def mesh_of_hosts(processes, **axes):
    """A fake mesh whose devices belong to these processes, in order."""
    devices = np.array([SimpleNamespace(process_index=process) for process in processes], object)
    shape = {axis: axes.get(axis, 1) for axis in sharding.AXES}
    return SimpleNamespace(devices=devices.reshape(tuple(shape.values())), shape=shape)


@pytest.mark.parametrize(
    "mesh, groups",
    [
        (mesh_of_hosts([0, 0, 1, 1], fsdp=4), [0, 1]),
        (mesh_of_hosts([0, 1, 0, 1], fsdp=4), [0, 1]),  # a host's windows need not be adjacent
        (mesh_of_hosts([0, 0, 1, 1], context=4), [0, 0]),  # all hosts share one window
        (mesh_of_hosts([0, 0, 1, 1, 2, 2, 3, 3], fsdp=2, context=4), [0, 0, 1, 1]),
        (
            mesh_of_hosts([0, 1, 0, 1, 2, 3, 2, 3], fsdp=4, context=2),
            [0, 0, 1, 1],
        ),  # 2 x 2 chips per host, context over hosts
    ],
)
def test_hosts_that_share_windows_form_a_group(mesh, groups, monkeypatch):
    results = []
    for process in range(len(groups)):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        results.append(sharding.host_group(mesh))
    assert results == [(group, max(groups) + 1) for group in groups]


def test_hosts_that_share_only_some_windows_are_an_error(monkeypatch):
    mesh = mesh_of_hosts([0, 0, 0, 1, 1, 1], fsdp=3, context=2)
    with pytest.raises(UserError, match="share all their windows or none"):
        sharding.host_group(mesh)


# ---------------------------------------------------------------- two processes


def losses_of(mesh_shape):
    """Losses and gradient norms of three steps on all devices; each process makes only its own rows."""
    sys.path.insert(0, str(Path(__file__).parent / "training"))
    from test_step import SETTINGS, STAGE, STREAMS, TINY, batch, initial_state

    from codellama_jax.training.optimizer import make_optimizer
    from codellama_jax.training.step import make_train_step, state_shardings

    mesh = sharding.make_mesh(mesh_shape, STAGE.batch_size)
    group, groups = sharding.host_group(mesh)
    rows = STAGE.batch_size // groups
    optimizer = make_optimizer(SETTINGS, STAGE.steps)
    shardings = state_shardings(TINY, optimizer, mesh)
    with jax.set_mesh(mesh):
        state = jax.tree.map(
            lambda x, s: jax.make_array_from_callback(x.shape, s, x.__getitem__), initial_state(), shardings
        )
        step = jax.jit(make_train_step(TINY, STAGE, SETTINGS, True, STREAMS, mesh), out_shardings=(shardings, None))
        losses = []
        for seed in range(3):
            local = {name: x[group * rows : (group + 1) * rows] for name, x in batch(seed).items()}
            state, metrics = step(state, sharding.put_batch(mesh, local))
            losses.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    return losses


MESHES = [Mesh(tensor=2), Mesh(fsdp=1, context=8)]


def run(processes):
    """Runs losses_of for every mesh in these processes, which have eight devices together; the results by process."""
    printed = program_outputs(Path(__file__), processes=processes, devices=8 // processes)
    return [json.loads(output.splitlines()[-1]) for output in printed]


def test_two_processes_have_the_losses_of_one():
    """The processes connect over loopback; rows and sequences are sharded over them. Equal up to the order of sums."""
    [one], two = run(1), run(2)
    assert two[0] == two[1]
    np.testing.assert_allclose(two[0], one, atol=1e-6)


if __name__ == "__main__":
    initialize()
    with fast_compilation.in_this_process():
        print(json.dumps([losses_of(mesh) for mesh in MESHES]))
