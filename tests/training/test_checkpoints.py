"""Checkpoints: complete or absent, the same bits on any mesh, and not affected by failures."""

import dataclasses
import functools
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codellama_jax import sharding
from codellama_jax.config.model import Llama
from codellama_jax.config.training import AdamW, Checkpoints, Mesh
from codellama_jax.errors import UserError
from codellama_jax.runtime.run_dir import final_step
from codellama_jax.training import checkpoints
from codellama_jax.training.initialization import grow_vocabulary
from codellama_jax.training.optimizer import make_optimizer
from codellama_jax.training.step import TrainState, init_params, param_shardings, state_shardings

pytestmark = pytest.mark.compares_bits  # with those of other processes

ROOT = Path(__file__).resolve().parents[2]
TINY = Llama(dim=16, layers=2, heads=2, kv_heads=2, ffn_dim=24, vocab_size=32, compute_dtype="float32")
OPTIMIZER = make_optimizer(AdamW(peak_learning_rate=1e-3), 10)
STREAM = {"batch": 3, "positions": [[[1, 2, 3]]], "fingerprint": "f"}
METADATA = {"step": 3, "llama": dataclasses.asdict(TINY), "sequence_length": 8, "config": "Stage.steps = 3\n"}


@functools.cache
def state_on_one_device():
    """A training state; all values of an array differ."""

    def make():
        params = init_params(TINY, 0)
        opt_state = OPTIMIZER.init(params)
        moments = jax.tree.map(lambda x: 1.0 + jnp.arange(x.size).reshape(x.shape) if x.ndim else x, opt_state)
        return TrainState(params, moments, jnp.asarray(3, jnp.int32))

    return jax.jit(make)()


def state_on(mesh, factor=1.0):
    """The same state sharded over a mesh, with its parameters multiplied by a factor."""
    state = state_on_one_device()
    state = state._replace(params=jax.tree.map(lambda x: factor * np.asarray(x), state.params))
    return jax.device_put(state, state_shardings(TINY, OPTIMIZER, mesh))


def abstract_on(mesh):
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state_on_one_device(),
        state_shardings(TINY, OPTIMIZER, mesh),
    )


def equal(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


@pytest.fixture
def mesh():
    return sharding.make_mesh(Mesh(fsdp=8))


def test_a_checkpoint_is_restored_bit_for_bit_on_any_mesh(tmp_path, mesh):
    state = state_on(mesh)
    saves = checkpoints.StageCheckpoints(tmp_path, Checkpoints())
    assert saves.latest() is None
    saves.save(3, state, STREAM, METADATA)
    saves.close()
    for other in (Mesh(fsdp=8), Mesh(fsdp=4, tensor=2), Mesh(data=8, fsdp=1)):
        other_mesh = sharding.make_mesh(other)
        opened = checkpoints.StageCheckpoints(tmp_path, Checkpoints())
        restored = opened.restore(opened.latest(), abstract_on(other_mesh))
        opened.close()
        equal(restored.state, state)
        assert restored.state.params["blocks"]["wq"].sharding.mesh.shape == other_mesh.shape
        assert (restored.stream, restored.metadata) == (STREAM, METADATA)


def test_parameters_are_loaded_without_the_optimizer(tmp_path, mesh):
    state = state_on(mesh)
    saves = checkpoints.StageCheckpoints(tmp_path, Checkpoints())
    saves.save(3, state, STREAM, METADATA)
    saves.close()
    path = tmp_path / "checkpoints" / "3"
    assert checkpoints.read_metadata(path) == METADATA
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state.params, param_shardings(TINY, mesh)
    )
    equal(checkpoints.load_params(path, abstract), state.params)


def test_incomplete_checkpoints_are_ignored_and_old_ones_removed(tmp_path, mesh):
    saves = checkpoints.StageCheckpoints(tmp_path, Checkpoints(keep=2))
    for step in (1, 2, 3):
        saves.save(step, state_on(mesh, factor=step), STREAM, METADATA)
    saves.close()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["2", "3"]
    incomplete = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp-123"
    (incomplete / "params").mkdir(parents=True)
    opened = checkpoints.StageCheckpoints(tmp_path, Checkpoints(keep=2))
    assert opened.latest() == 3
    equal(opened.restore(3, abstract_on(mesh)).state.params, state_on(mesh, factor=3).params)
    opened.close()


def test_the_best_and_every_nth_checkpoint_are_kept(tmp_path, mesh):
    settings = Checkpoints(every=1, keep=2, keep_every=4)
    losses = {1: 3.0, 2: 1.5, 3: None, 4: 2.0, 5: float("nan"), 6: 1.75, 7: None, 8: 2.0, 9: 1.8, 10: 1.9}
    for steps in (range(1, 6), range(6, 11)):  # the best checkpoint is still known after reopening
        saves = checkpoints.StageCheckpoints(tmp_path, settings)
        for step in steps:
            saves.save(step, state_on(mesh), STREAM, METADATA, losses[step])
        saves.close()
    assert saves.steps() == [2, 4, 8, 9, 10]


def two_saves(folder, mesh):
    saves = checkpoints.StageCheckpoints(folder, Checkpoints())
    for step in (2, 3):
        saves.save(step, state_on(mesh), STREAM, METADATA)
    saves.close()
    return saves.directory


def restore_newest(folder, mesh):
    """Restores the newest checkpoint, and closes the folder also after an error."""
    opened = checkpoints.StageCheckpoints(folder, Checkpoints())
    try:
        return opened.restore(opened.latest(), abstract_on(mesh))
    finally:
        opened.close()


def test_damage_is_reported_with_the_file_and_the_intact_step_before(tmp_path, mesh):
    """Each file in turn has a flipped bit, lacks its last byte, or is missing."""
    folder = two_saves(tmp_path, mesh) / "3"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) > 10
    rng = np.random.default_rng(0)
    for file in files:
        content = file.read_bytes()
        damages = [None] if file.name != "checksums.json" else []  # checksums are optional
        if content:
            at, bit = int(rng.integers(len(content))), 1 << int(rng.integers(8))
            damages += [content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :], content[:-1]]
        for damage in damages:
            file.unlink() if damage is None else file.write_bytes(damage)
            with pytest.raises(UserError) as caught:
                restore_newest(tmp_path, mesh)
            assert str(file.relative_to(folder)) in str(caught.value), caught.value
            assert "step 2 is intact: move 3 away and run the same command again" in str(caught.value)
            file.write_bytes(content)
    equal(restore_newest(tmp_path, mesh).state, state_on(mesh))


def test_damage_of_every_checkpoint_is_reported_with_the_way_to_start_over(tmp_path, mesh):
    directory = two_saves(tmp_path, mesh)
    for step in ("2", "3"):
        (directory / step / "metadata" / "metadata").write_text("{}")
    with pytest.raises(UserError, match=r"no other step is intact: move .*checkpoints away"):
        restore_newest(tmp_path, mesh)


def test_a_damaged_or_missing_parent_checkpoint_is_reported(tmp_path, mesh):
    path = two_saves(tmp_path, mesh) / "3"
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state_on(mesh).params,
        param_shardings(TINY, mesh),
    )
    data = max((path / "params").rglob("*"), key=lambda file: file.stat().st_size if file.is_file() else 0)
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{data.name} has .* bytes instead of .*; replace it by an intact copy"):
        checkpoints.load_params(path, abstract)
    with pytest.raises(UserError, match="99 is not a checkpoint: name a folder"):
        checkpoints.read_metadata(path.parent / "99")


def test_a_failed_save_is_reported_and_the_last_checkpoint_stays_intact(tmp_path):
    """The second save runs with a limit on file sizes, which fails like a full disk and needs no root."""
    program = textwrap.dedent("""
        import resource, signal, sys
        from pathlib import Path
        import jax
        from codellama_jax import sharding
        from codellama_jax.errors import UserError
        from codellama_jax.training import checkpoints
        from codellama_jax.config.training import Checkpoints, Mesh
        from tests.training.test_checkpoints import METADATA, STREAM, state_on
        saves = checkpoints.StageCheckpoints(Path(sys.argv[1]), Checkpoints())
        state = state_on(sharding.make_mesh(Mesh()))
        saves.save(1, state, STREAM, METADATA)
        saves.wait()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
        try:
            saves.save(2, state, STREAM, METADATA)
            saves.wait()
        except UserError as error:
            print(error)
    """)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    run = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert "could not be written" in run.stdout and "resumes from step 1, which is complete" in run.stdout
    assert len(run.stdout.splitlines()) == 1
    opened = checkpoints.StageCheckpoints(tmp_path, Checkpoints())
    assert opened.latest() == 1
    mesh = sharding.make_mesh(Mesh(fsdp=8))
    equal(opened.restore(1, abstract_on(mesh)).state.params, state_on(mesh).params)
    opened.close()


def test_peer_loss_is_not_reported_as_a_damaged_checkpoint(tmp_path, mesh, monkeypatch):
    """Neither when saving nor when reading: moving an intact checkpoint away would be bad advice."""
    two_saves(tmp_path, mesh)
    saves = checkpoints.StageCheckpoints(tmp_path, Checkpoints())

    def lose_peer(*_, **__):
        raise RuntimeError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")

    monkeypatch.setattr(saves._manager, "save", lose_peer)
    with pytest.raises(RuntimeError, match="Gloo"):
        saves.save(4, state_on(mesh), STREAM, METADATA)
    monkeypatch.setattr(checkpoints, "verify", lose_peer)
    with pytest.raises(RuntimeError, match="Gloo"):
        saves.restore(3, abstract_on(mesh))
    saves.close()


def test_an_interrupted_removal_leaves_no_incomplete_checkpoint(tmp_path, mesh):
    """The process ends after removing three files of an old checkpoint."""
    program = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from codellama_jax import sharding
        from codellama_jax.training import checkpoints
        from codellama_jax.config.training import Checkpoints, Mesh
        from tests.training.test_checkpoints import METADATA, STREAM, state_on
        saves = checkpoints.StageCheckpoints(Path(sys.argv[1]), Checkpoints(keep=1))
        unlink, removed = os.unlink, []
        def unlink_three(*path, **keywords):
            removed.append(path)
            if len(removed) > 3:
                os._exit(9)
            unlink(*path, **keywords)
        for step in (1, 2, 3):
            saves.save(step, state_on(sharding.make_mesh(Mesh())), STREAM, METADATA)
            saves.wait()
            os.unlink = unlink_three
    """)
    assert subprocess.run([sys.executable, "-c", program, tmp_path], cwd=ROOT).returncode == 9
    opened = checkpoints.StageCheckpoints(tmp_path, Checkpoints(keep=1))
    assert opened.steps()
    for step in opened.steps():
        equal(opened.restore(step, abstract_on(mesh)).state, state_on(mesh))
    opened.save(4, state_on(mesh), STREAM, METADATA)
    opened.close()
    assert [path.name for path in opened.directory.iterdir()] == ["4"]


def test_new_vocabulary_rows_are_the_mean_of_the_existing_ones(mesh):
    params = state_on(mesh).params
    grown = grow_vocabulary(params, 48)
    assert grown["embedding"].shape == (48, 16) and grown["head"].shape == (16, 48)
    np.testing.assert_array_equal(grown["embedding"][:32], params["embedding"])
    np.testing.assert_allclose(grown["embedding"][40], params["embedding"].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(grown["head"][:, :32], params["head"])
    np.testing.assert_allclose(grown["head"][:, 47], params["head"].mean(1), rtol=1e-6)
    assert grow_vocabulary(params, 32) is params
    with pytest.raises(UserError, match="rows cannot be removed"):
        grow_vocabulary(params, 31)


def test_a_stage_is_finished_if_done_json_and_its_checkpoint_exist(tmp_path):
    assert final_step(tmp_path) is None
    (tmp_path / "done.json").write_text('{"step": 7}')
    assert final_step(tmp_path) is None
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    assert final_step(tmp_path) == 7
