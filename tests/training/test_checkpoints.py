"""Checkpoints: whole or absent, the same bits on any mesh, and nothing lost by a failure."""

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
from codellama_jax.training.metrics import JsonLines
from codellama_jax.training.optimizer import make_optimizer
from codellama_jax.training.step import TrainState, init_params, param_shardings, state_shardings

ROOT = Path(__file__).resolve().parents[2]
TINY = Llama(dim=16, layers=2, heads=2, kv_heads=2, ffn_dim=24, vocab_size=32, compute_dtype="float32")
OPTIMIZER = make_optimizer(AdamW(peak_learning_rate=1e-3), 10)
STREAM = {"batch": 3, "positions": [[[1, 2, 3]]], "fingerprint": "f"}
METADATA = {"step": 3, "llama": dataclasses.asdict(TINY), "sequence_length": 8, "config": "Stage.steps = 3\n"}


@functools.cache
def state_on_one_device():
    """A training state in which no two numbers of an array are equal."""

    def make():
        params = init_params(TINY, 0)
        opt_state = OPTIMIZER.init(params)
        moments = jax.tree.map(lambda x: 1.0 + jnp.arange(x.size).reshape(x.shape) if x.ndim else x, opt_state)
        return TrainState(params, moments, jnp.asarray(3, jnp.int32))

    return jax.jit(make)()


def state_on(mesh, factor=1.0):
    """That state spread over a mesh, its parameters times a factor."""
    state = state_on_one_device()
    state = state._replace(params=jax.tree.map(lambda x: factor * np.asarray(x), state.params))
    return jax.device_put(state, state_shardings(TINY, OPTIMIZER, mesh))


def abstract_on(mesh):
    shapes = jax.eval_shape(state_on_one_device)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        state_shardings(TINY, OPTIMIZER, mesh),
    )


def equal(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


@pytest.fixture
def mesh():
    return sharding.make_mesh(Mesh(fsdp=8))


def test_restored_bit_for_bit_on_any_mesh(tmp_path, mesh):
    state = state_on(mesh)
    saves = checkpoints.StageCheckpoints(tmp_path, Checkpoints())
    assert saves.latest() is None
    saves.save(3, state, STREAM, METADATA)
    saves.close()
    for other in (Mesh(fsdp=8), Mesh(fsdp=4, tensor=2), Mesh(data=8, fsdp=1)):
        onto = sharding.make_mesh(other)
        opened = checkpoints.StageCheckpoints(tmp_path, Checkpoints())
        restored = opened.restore(opened.latest(), abstract_on(onto))
        opened.close()
        equal(restored.state, state)
        assert restored.state.params["blocks"]["wq"].sharding.mesh.shape == onto.shape
        assert (restored.stream, restored.metadata) == (STREAM, METADATA)


def test_the_next_stage_takes_the_parameters_alone(tmp_path, mesh):
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


def test_only_whole_checkpoints_count_and_only_some_are_kept(tmp_path, mesh):
    saves = checkpoints.StageCheckpoints(tmp_path, Checkpoints(keep=2))
    for step in (1, 2, 3):
        saves.save(step, state_on(mesh, factor=step), STREAM, METADATA)
    saves.close()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["2", "3"]
    half = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp-123"
    (half / "params").mkdir(parents=True)
    opened = checkpoints.StageCheckpoints(tmp_path, Checkpoints(keep=2))
    assert opened.latest() == 3
    equal(opened.restore(3, abstract_on(mesh)).state.params, state_on(mesh, factor=3).params)
    opened.close()


def test_the_best_and_every_nth_are_kept_as_well(tmp_path, mesh):
    settings = Checkpoints(every=1, keep=2, keep_every=4)
    losses = {1: 3.0, 2: 1.5, 3: None, 4: 2.0, 5: float("nan"), 6: 1.75, 7: None, 8: 2.0, 9: 1.8, 10: 1.9}
    for opening in (range(1, 6), range(6, 11)):  # what was the best is not forgotten
        saves = checkpoints.StageCheckpoints(tmp_path, settings)
        for step in opening:
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
    """Without a try: what fails is the test's."""
    opened = checkpoints.StageCheckpoints(folder, Checkpoints())
    try:
        return opened.restore(opened.latest(), abstract_on(mesh))
    finally:
        opened.close()


def test_any_damage_is_found_and_named_and_the_one_before_is_offered(tmp_path, mesh):
    """A bit of any file turned over, any file cut short, any file gone."""
    folder = two_saves(tmp_path, mesh) / "3"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) > 10
    rng = np.random.default_rng(0)
    for file in files:
        content = file.read_bytes()
        damages = [None] if file.name != "checksums.json" else []  # without: as one that never had any
        if content:
            at, bit = int(rng.integers(len(content))), 1 << int(rng.integers(8))
            damages += [content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :], content[:-1]]
        for damage in damages:
            file.unlink() if damage is None else file.write_bytes(damage)
            with pytest.raises(UserError) as caught:
                restore_newest(tmp_path, mesh)
            assert str(file.relative_to(folder)) in str(caught.value), caught.value
            assert "step 2 is whole: move 3 away and run the same command again" in str(caught.value)
            file.write_bytes(content)
    equal(restore_newest(tmp_path, mesh).state, state_on(mesh))


def test_no_whole_checkpoint_is_left(tmp_path, mesh):
    directory = two_saves(tmp_path, mesh)
    for step in ("2", "3"):
        (directory / step / "metadata" / "metadata").write_text("{}")
    with pytest.raises(UserError, match=r"no other is whole: move .*checkpoints away"):
        restore_newest(tmp_path, mesh)


def test_a_damaged_start_is_named(tmp_path, mesh):
    path = two_saves(tmp_path, mesh) / "3"
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state_on(mesh).params,
        param_shardings(TINY, mesh),
    )
    data = max((path / "params").rglob("*"), key=lambda file: file.stat().st_size if file.is_file() else 0)
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{data.name} has .* bytes instead of .*; put a whole copy of it there"):
        checkpoints.load_params(path, abstract)
    with pytest.raises(UserError, match="99 is no checkpoint: name a folder"):
        checkpoints.read_metadata(path.parent / "99")


def test_a_save_that_fails_says_so_and_leaves_the_last_one_whole(tmp_path):
    """Files may not grow beyond 20 kB in the second save: the system's way of being full that needs no root."""
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
    assert "could not be written" in run.stdout and "goes on from step 1, which is whole" in run.stdout
    assert len(run.stdout.splitlines()) == 1
    opened = checkpoints.StageCheckpoints(tmp_path, Checkpoints())
    assert opened.latest() == 1
    mesh = sharding.make_mesh(Mesh(fsdp=8))
    equal(opened.restore(1, abstract_on(mesh)).state.params, state_on(mesh).params)
    opened.close()


def test_the_loss_of_a_process_is_no_fault_of_the_checkpoint(tmp_path, mesh, monkeypatch):
    """Neither in a save nor in reading: to move a whole checkpoint away would be bad advice."""
    two_saves(tmp_path, mesh)
    saves = checkpoints.StageCheckpoints(tmp_path, Checkpoints())

    def lose(*_, **__):
        raise RuntimeError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")

    monkeypatch.setattr(saves._manager, "save", lose)
    with pytest.raises(RuntimeError, match="Gloo"):
        saves.save(4, state_on(mesh), STREAM, METADATA)
    monkeypatch.setattr(checkpoints, "verify", lose)
    with pytest.raises(RuntimeError, match="Gloo"):
        saves.restore(3, abstract_on(mesh))
    saves.close()


def test_a_removal_that_is_cut_short_leaves_no_half_checkpoint(tmp_path, mesh):
    """The process ends when it has removed three files of an old checkpoint."""
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


def test_the_vocabulary_grows_by_the_mean(mesh):
    params = state_on(mesh).params
    grown = checkpoints.grow_vocabulary(params, 48)
    assert grown["embedding"].shape == (48, 16) and grown["head"].shape == (16, 48)
    np.testing.assert_array_equal(grown["embedding"][:32], params["embedding"])
    np.testing.assert_allclose(grown["embedding"][40], params["embedding"].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(grown["head"][:, :32], params["head"])
    np.testing.assert_allclose(grown["head"][:, 47], params["head"].mean(1), rtol=1e-6)
    assert checkpoints.grow_vocabulary(params, 32) is params
    with pytest.raises(UserError, match="rows cannot be dropped"):
        checkpoints.grow_vocabulary(params, 31)


def test_a_stage_is_finished_when_its_note_and_checkpoint_are_there(tmp_path):
    assert final_step(tmp_path) is None
    (tmp_path / "done.json").write_text('{"step": 7}')
    assert final_step(tmp_path) is None
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    assert final_step(tmp_path) == 7


def test_metrics_hold_every_step_once_after_a_crash(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.1}\n{"step": 2, "loss": 0.2}\n{"step": 3, "loss": 0.3}\n{"step": 4, "lo')
    lines = JsonLines(path, last_step=2)
    lines.write({"step": 3, "loss": 1 / 3})
    lines.sync()
    assert [line["step"] for line in lines.lines] == [1, 2, 3]
    assert path.read_text().splitlines()[2] == f'{{"step": 3, "loss": {1 / 3!r}}}'
