"""Runs in a bucket: what is saved there is whole, what is damaged is named, and one process has a run at a time.

The bucket is a stand-in on loopback (object_store.py), spoken to by the very libraries that speak to the real one.
"""

import os
import shutil
import socket
import subprocess
import time

import pytest

from codellama_jax import sharding
from codellama_jax.config.training import Checkpoints, Mesh
from codellama_jax.errors import UserError
from codellama_jax.runtime import checksums, filesystem, gcs
from codellama_jax.runtime.run_dir import saved_steps
from codellama_jax.training import checkpoints
from codellama_jax.training.json_lines import JsonLines
from codellama_jax.training.profiler import Profiler
from tests.object_store import object_store
from tests.training.test_checkpoints import METADATA, STREAM, abstract_on, equal, state_on


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One store for the whole file: TensorStore reads its address once."""
    with object_store(tmp_path_factory.mktemp("store")) as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        yield store


@pytest.fixture
def store(server):
    """The store, emptied, which takes whatever comes."""
    server.clear()
    return server


@pytest.fixture
def name(request):
    """Of the stage's folder in the bucket: each test has its own, since threads of a save that was refused in one may
    try again in the next."""
    return f"runs/{request.node.name}/code"


@pytest.fixture
def stage(store, name):
    return filesystem.to_path(f"gs://bucket/{name}")


@pytest.fixture
def mesh():
    return sharding.make_mesh(Mesh(fsdp=8))


def saved(stage, *steps, mesh, **settings):
    """Saves so many steps, the state of each its own."""
    saves = checkpoints.StageCheckpoints(stage, Checkpoints(**settings))
    for step in steps:
        saves.save(step, state_on(mesh, step), STREAM, METADATA)
    saves.close()


def restored(stage, step, mesh):
    opened = checkpoints.StageCheckpoints(stage, Checkpoints())
    found = opened.restore(step, abstract_on(mesh))
    opened.close()
    return found


def test_a_checkpoint_in_a_bucket_is_restored_bit_for_bit(store, stage, mesh):
    saved(stage, 3, 6, mesh=mesh)
    assert saved_steps(stage) == [3, 6]
    found = restored(stage, 6, mesh)
    equal(found.state, state_on(mesh, 6))
    assert (found.stream, found.metadata) == (STREAM, METADATA)
    params = checkpoints.load_params(stage / "checkpoints" / "3", abstract_on(mesh).params)
    equal(params, state_on(mesh, 3).params)


def test_a_save_that_was_not_finished_is_not_listed_and_makes_room(store, stage, mesh, name):
    saved(stage, 3, mesh=mesh)
    store.refuse(("POST|PUT", "/6/commit_success.txt", 403))
    with pytest.raises(UserError, match=r"step 6 could not be written .* resumes from step 3, which is complete"):
        saved(stage, 6, mesh=mesh)
    store.refuse()
    assert store.names(f"{name}/checkpoints/6/params") and saved_steps(stage) == [3]
    saved(stage, 6, mesh=mesh)
    assert saved_steps(stage) == [3, 6]
    equal(restored(stage, 6, mesh).state, state_on(mesh, 6))


def test_a_save_of_which_only_the_checksums_are_missing_is_not_lost(store, stage, mesh):
    store.refuse(("POST|PUT", "/6/checksums.json", 403))
    with pytest.raises(UserError, match="step 6 could not be written"):
        saved(stage, 6, mesh=mesh)
    store.refuse()
    assert saved_steps(stage) == []
    equal(restored(stage, 6, mesh).state, state_on(mesh, 6))
    assert saved_steps(stage) == [6]


def test_a_removal_that_was_not_finished_leaves_nothing_that_looks_whole(store, stage, mesh, name):
    saved(stage, 3, mesh=mesh)
    store.refuse(("DELETE", "/checkpoints/3/", 403), after=12)
    with pytest.raises(UserError):
        saved(stage, 6, mesh=mesh, keep=1)
    assert store.names(f"{name}/checkpoints/3/") and saved_steps(stage) == [6]


def test_damage_in_a_bucket_is_named(store, stage, mesh, name):
    saved(stage, 3, 6, mesh=mesh)
    damages = {"has changed": lambda data: data[:-1] + bytes([data[-1] ^ 1]), "has 0 bytes": lambda data: b""}
    for said, damage in damages.items():
        largest = max(store.names(f"{name}/checkpoints/6/params/"), key=lambda found: len(store.read(found)))
        whole = store.read(largest)
        store.put(largest, damage(whole))
        with pytest.raises(UserError, match=f"{largest.rpartition('/')[2]} {said}.*; step 3 is intact"):
            restored(stage, 6, mesh)
        store.put(largest, whole)
    equal(restored(stage, 6, mesh).state, state_on(mesh, 6))


def test_checkpoints_are_copied_to_and_fro(store, stage, mesh, tmp_path, name):
    saved(tmp_path, 3, mesh=mesh)
    filesystem.copy_tree(tmp_path / "checkpoints", stage / "checkpoints")  # as gcloud storage cp -r
    params = checkpoints.load_params(stage / "checkpoints" / "3", abstract_on(mesh).params)
    equal(params, state_on(mesh, 3).params)
    equal(restored(stage, 3, mesh).state, state_on(mesh, 3))
    saved(stage, 6, mesh=mesh)
    shutil.rmtree(tmp_path / "checkpoints")
    prefix = f"{name}/"
    for found in store.names(f"{prefix}checkpoints/"):
        if not found.endswith("/"):
            path = tmp_path / found.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(store.read(found))
    assert saved_steps(tmp_path) == [3, 6]
    equal(restored(tmp_path, 6, mesh).state, state_on(mesh, 6))
    largest = max((tmp_path / "checkpoints" / "6").rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"\0")
    with pytest.raises(UserError, match=f"{largest.name} has changed"):
        checksums.verify(tmp_path / "checkpoints" / "6")


def test_a_file_that_grows_is_written_anew_now_and_then(store, stage, monkeypatch, name):
    log = JsonLines(stage / "metrics.jsonl", -1)
    for step in range(1, 4):
        log.write({"step": step})
    assert store.text(f"{name}/metrics.jsonl") == ""
    log.sync()
    assert len(store.text(f"{name}/metrics.jsonl").splitlines()) == 3
    monkeypatch.setattr(filesystem, "UPLOAD_SECONDS", 0.0)
    log.write({"step": 4})
    assert _soon(lambda: len(store.text(f"{name}/metrics.jsonl").splitlines()) == 4)
    log.write({"step": 5})
    log.sync()
    again = JsonLines(stage / "metrics.jsonl", 4)
    assert [line["step"] for line in again.lines] == [1, 2, 3, 4] and again.dropped == [{"step": 5}]
    assert len(store.text(f"{name}/metrics.jsonl").splitlines()) == 4


def _soon(so, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not so():
        time.sleep(0.01)
    return so()


def test_a_bucket_is_not_asked_in_every_step_whether_to_trace(store, stage):
    profiler = Profiler(0, 0, trigger=stage / "profile", log_dir=stage / "tensorboard")
    for step in range(1, 50):
        profiler.step_done(step)
    assert 1 <= sum("profile" in path for _, path in store.requests()) <= 3


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(gcs, "REFRESH_SECONDS", 0.05)
    monkeypatch.setattr(gcs, "DEAD_SECONDS", 0.6)


def test_a_run_is_one_processs_at_a_time(store, stage, quick, name):
    held = gcs.Lock(stage)
    with pytest.raises(UserError, match=f"in use by process {os.getpid()} on {socket.gethostname()}: wait"):
        gcs.Lock(stage)
    held.check()
    held.release()
    assert store.names(f"{name}/") == []
    gcs.Lock(stage).release()


def test_the_run_of_a_process_that_was_killed_is_free(store, stage, quick, name):
    told = []
    store.put(f"{name}/.lock", b"1 on another-host\n")
    begun = time.monotonic()
    held = gcs.Lock(stage, told.append)
    assert time.monotonic() - begun >= gcs.DEAD_SECONDS and "1 on another-host" in told[0]
    held.release()
    gone = subprocess.Popen(["true"])
    gone.wait()
    store.put(f"{name}/.lock", f"{gone.pid} on {socket.gethostname()}\n".encode())
    told.clear()
    gcs.Lock(stage, told.append).release()  # of this host it is known at once
    assert not told


def test_an_answer_that_got_lost_is_no_loss_of_the_run(store, stage, quick, name):
    held = gcs.Lock(stage)
    store.put(f"{name}/.lock", store.read(f"{name}/.lock"))  # a generation that the holder was not told
    time.sleep(5 * gcs.REFRESH_SECONDS)
    held.check()
    held.release()
    assert store.names(f"{name}/") == []


def test_a_process_whose_run_was_taken_over_ends(store, stage, quick, name):
    held = gcs.Lock(stage)
    store.put(f"{name}/.lock", b"2 on another-host\n")

    def taken():
        try:
            return held.check()
        except UserError as error:
            return str(error)

    assert _soon(lambda: taken() is not None) and "was taken by another process" in taken()
    held.release()
    assert store.text(f"{name}/.lock").startswith("2 on another-host")


def test_a_bucket_that_cannot_be_used_is_told_in_a_line(store, monkeypatch, name):
    with pytest.raises(UserError, match="there is no bucket nothing: gcloud storage buckets create gs://nothing"):
        gcs.check_bucket(filesystem.to_path("gs://nothing/runs"))
    store.refuse((".*", r"\.lock", 403))
    with pytest.raises(UserError, match="may not use the bucket bucket: give them roles"):
        gcs.Lock(filesystem.to_path(f"gs://bucket/{name}"))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setattr(gcs, "PATIENCE_SECONDS", 1.0)
    with pytest.raises(UserError, match="the bucket bucket cannot be reached"):
        gcs.check_bucket(filesystem.to_path("gs://bucket/runs"))
