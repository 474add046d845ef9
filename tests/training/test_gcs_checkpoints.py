"""Checkpoints in a bucket: complete checkpoints only, damage is detected, and they can be copied to and from a bucket.

The bucket is a local server (tests/object_store.py), accessed through the same libraries as a real bucket.
"""

import shutil

import pytest

from codellama_jax import sharding
from codellama_jax.config.training import Checkpoints, Mesh
from codellama_jax.errors import UserError
from codellama_jax.runtime import checksums, filesystem
from codellama_jax.runtime.run_dir import saved_steps
from codellama_jax.training import assets, checkpoints
from codellama_jax.training.profiler import Profiler
from tests.training.test_checkpoints import METADATA, STREAM, abstract_on, equal, state_on


@pytest.fixture
def stage(store, bucket_folder):
    return filesystem.to_path(f"gs://bucket/{bucket_folder}")


@pytest.fixture
def mesh():
    return sharding.make_mesh(Mesh(fsdp=8))


FILES = {"tokenizer.model": b"pieces", "additional_chat_templates/tools.jinja": b"{{ 1 }}"}


def save(stage, *steps, mesh, **settings):
    """Saves a checkpoint for each step, each with a different state."""
    saves = checkpoints.StageCheckpoints(stage, Checkpoints(**settings))
    for step in steps:
        saves.save(step, state_on(mesh, step), STREAM, METADATA, files=FILES)
    saves.close()


def restore(stage, step, mesh):
    opened = checkpoints.StageCheckpoints(stage, Checkpoints())
    checkpoint = opened.restore(step, abstract_on(mesh))
    opened.close()
    return checkpoint


def test_a_restored_checkpoint_equals_the_saved_one(store, stage, mesh):
    save(stage, 3, 6, mesh=mesh)
    assert saved_steps(stage) == [3, 6]
    checkpoint = restore(stage, 6, mesh)
    equal(checkpoint.state, state_on(mesh, 6))
    assert assets.read(stage / "checkpoints/6") == FILES
    assert (checkpoint.stream, checkpoint.metadata) == (STREAM, METADATA)
    params = checkpoints.load_params(stage / "checkpoints" / "3", abstract_on(mesh).params)
    equal(params, state_on(mesh, 3).params)


def test_an_unfinished_save_is_not_listed_and_can_be_repeated(store, stage, mesh, bucket_folder):
    save(stage, 3, mesh=mesh)
    store.refuse(("POST|PUT", "/6/commit_success.txt", 403))
    with pytest.raises(UserError, match=r"step 6 could not be written .* resumes from step 3, which is complete"):
        save(stage, 6, mesh=mesh)
    store.refuse()
    assert store.names(f"{bucket_folder}/checkpoints/6/params") and saved_steps(stage) == [3]
    save(stage, 6, mesh=mesh)
    assert saved_steps(stage) == [3, 6]
    equal(restore(stage, 6, mesh).state, state_on(mesh, 6))


def test_a_save_that_lacks_only_checksums_is_completed(store, stage, mesh):
    store.refuse(("POST|PUT", "/6/checksums.json", 403))
    with pytest.raises(UserError, match="step 6 could not be written"):
        save(stage, 6, mesh=mesh)
    store.refuse()
    assert saved_steps(stage) == []
    equal(restore(stage, 6, mesh).state, state_on(mesh, 6))
    assert saved_steps(stage) == [6]


def test_a_checkpoint_whose_removal_was_interrupted_is_not_listed(store, stage, mesh, bucket_folder):
    save(stage, 3, mesh=mesh)
    store.refuse(("DELETE", "/checkpoints/3/", 403), after=12)
    with pytest.raises(UserError):
        save(stage, 6, mesh=mesh, keep=1)
    assert store.names(f"{bucket_folder}/checkpoints/3/") and saved_steps(stage) == [6]


def test_damaged_files_are_named(store, stage, mesh, bucket_folder):
    save(stage, 3, 6, mesh=mesh)
    damages = {"has changed": lambda data: data[:-1] + bytes([data[-1] ^ 1]), "has 0 bytes": lambda data: b""}
    for message, damage in damages.items():
        largest = max(store.names(f"{bucket_folder}/checkpoints/6/params/"), key=lambda name: len(store.read(name)))
        content = store.read(largest)
        store.put(largest, damage(content))
        with pytest.raises(UserError, match=f"{largest.rpartition('/')[2]} {message}.*; step 3 is intact"):
            restore(stage, 6, mesh)
        store.put(largest, content)
    equal(restore(stage, 6, mesh).state, state_on(mesh, 6))


def test_checkpoints_can_be_copied_to_and_from_a_bucket(store, stage, mesh, tmp_path, bucket_folder):
    save(tmp_path, 3, mesh=mesh)
    filesystem.copy_tree(tmp_path / "checkpoints", stage / "checkpoints")  # like gcloud storage cp -r
    params = checkpoints.load_params(stage / "checkpoints" / "3", abstract_on(mesh).params)
    equal(params, state_on(mesh, 3).params)
    equal(restore(stage, 3, mesh).state, state_on(mesh, 3))
    save(stage, 6, mesh=mesh)
    shutil.rmtree(tmp_path / "checkpoints")
    prefix = f"{bucket_folder}/"
    for name in store.names(f"{prefix}checkpoints/"):
        if not name.endswith("/"):
            path = tmp_path / name.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(store.read(name))
    assert saved_steps(tmp_path) == [3, 6]
    equal(restore(tmp_path, 6, mesh).state, state_on(mesh, 6))
    largest = max((tmp_path / "checkpoints" / "6").rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"\0")
    with pytest.raises(UserError, match=f"{largest.name} has changed"):
        checksums.verify(tmp_path / "checkpoints" / "6")


def test_the_profiler_does_not_send_requests_in_every_step(store, stage):
    profiler = Profiler(0, 0, trigger=stage / "profile", log_dir=stage / "tensorboard")
    for step in range(1, 50):
        profiler.step_done(step)
    assert 1 <= sum("profile" in path for _, path in store.requests()) <= 3
