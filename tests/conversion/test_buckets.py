"""Imports from and exports to a bucket (a local server): the same files as on a disk, and nothing that looks complete.

Any scheme other than gs:// is refused.
"""

import dataclasses
import json

import jax.numpy as jnp
import pytest
from random_models import SIZES, Random, safetensors_content

from codellama_jax.config.training import Checkpoints
from codellama_jax.conversion import formats, hf, meta
from codellama_jax.conversion.canonical import Tensor
from codellama_jax.runtime import checksums, filesystem, gcs
from codellama_jax.training import assets
from codellama_jax.training.checkpoints import StageCheckpoints
from codellama_jax.training.step import TrainState, init_params


@pytest.fixture
def bucket(store, bucket_folder):
    return f"gs://bucket/{bucket_folder}"


@pytest.fixture
def theirs(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    hf.write(Random(SIZES["70b"]), folder, 300_000)
    return folder


def download(store, prefix, folder):
    for name in store.names(prefix):
        path = folder / name.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read(name))
    return folder


def files(store, prefix):
    return [name for name in store.names(prefix) if not name.endswith("/")]  # such an object represents a folder


@pytest.mark.parametrize("format", ["hf", "meta"])
def test_conversions_between_buckets_give_the_files_of_local_ones(
    tmp_path, monkeypatch, store, bucket, bucket_folder, theirs, run, format
):
    """Parts of a file are uploaded while the rest is written. The current folder gets no folder named gs:."""
    monkeypatch.setattr(gcs, "UPLOAD_PART_BYTES", 1 << 18)
    monkeypatch.chdir(tmp_path)
    run("export", "--from", theirs, "--to", f"{bucket}/theirs", f"--format={format}")
    assert any(method == "PUT" and "/session/" in path for method, path in store.requests())
    run("import", "--from", f"{bucket}/theirs", "--to", f"{bucket}/ours")
    checksums.verify(filesystem.to_path(f"{bucket}/ours"))
    run("export", "--from", f"{bucket}/ours", "--to", tmp_path / "back", f"--format={format}")
    run("export", "--from", theirs, "--to", tmp_path / "local", f"--format={format}")
    remote = download(store, f"{bucket_folder}/theirs/", tmp_path / "remote")
    for folder in (remote, tmp_path / "back"):
        assert {path.name for path in folder.iterdir()} == {path.name for path in (tmp_path / "local").iterdir()}
        result = json.loads(run("verify", "--a", folder, "--b", tmp_path / "local", "--json"))
        assert result["equal"] and result["same_dtypes"]
    if format == "hf":
        assert safetensors_content(remote) == safetensors_content(tmp_path / "back")
    assert json.loads(run("verify", "--a", f"{bucket}/ours", "--b", theirs, "--json"))["equal"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("gs")]


@pytest.mark.parametrize("argv, last", [
    (("import",), checksums.NAME),
    (("export", "--format=hf"), hf.CONFIG),
    (("export", "--format=meta"), meta.PARAMS),
])  # fmt: skip
def test_an_interrupted_conversion_leaves_nothing_and_a_killed_one_nothing_that_looks_complete(
    monkeypatch, store, bucket, bucket_folder, theirs, run, argv, last
):
    rows = hf.HuggingFace.rows

    def interrupted(self, tensor, start, stop):
        if tensor == Tensor("w2", 1):
            raise KeyboardInterrupt
        return rows(self, tensor, start, stop)

    with monkeypatch.context() as patch:
        patch.setattr(hf.HuggingFace, "rows", interrupted)
        assert "interrupted; nothing was written" in run(*argv, "--from", theirs, "--to", f"{bucket}/out", code=1)
    assert files(store, bucket_folder) == []
    run(*argv, "--from", theirs, "--to", f"{bucket}/out")
    written = [path for method, path in store.requests() if method in ("POST", "PUT")]
    assert last in [path for path in written if f"{bucket_folder}/out" in path][-1]
    assert f"{bucket}/out exists" in run(*argv, "--from", theirs, "--to", f"{bucket}/out", code=1)
    # a kill before the last file
    filesystem.to_path(f"{bucket}/out/{last}").unlink()
    output = run("verify", "--a", f"{bucket}/out", "--b", theirs, code=1)
    assert last in output
    output = run(*argv, "--from", theirs, "--to", f"{bucket}/out", code=1)
    assert f"has no {last}" in output and "gcloud storage rm -r" in output


def test_a_store_that_fails_is_reported_and_leaves_nothing(store, bucket, bucket_folder, theirs, run):
    store.refuse(("POST|PUT", "/out/model-00002", 403))
    argv = ("export", "--format=hf", "--shard_size=300000")
    output = run(*argv, "--from", theirs, "--to", f"{bucket}/out", code=1)
    assert "may not use the bucket" in output and files(store, bucket_folder) == []
    assert "there is no bucket nothing" in run("import", "--from", "gs://nothing/a", "--to", f"{bucket}/out", code=1)
    assert "no such file" in run("import", "--from", f"{bucket}/none", "--to", f"{bucket}/out", code=1)


@pytest.mark.parametrize("path", ["s3://bucket/out", "hdfs://host/out", "file:///tmp/out", "gs:/b/out"])
def test_other_schemes_are_refused_everywhere(tmp_path, monkeypatch, theirs, run, path):
    monkeypatch.chdir(tmp_path)
    for argv in (
        ("import", "--from", theirs, "--to", path),
        ("import", "--from", path, "--to", "out"),
        ("import", "--from", theirs, "--to", "out", "--tokenizer", path),
        ("export", "--format=hf", "--from", theirs, "--to", path),
        ("verify", "--a", theirs, "--b", path),
    ):
        assert f"{path}: " in run(*argv, code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_file_in_a_bucket_is_read_in_parts(store, bucket, bucket_folder):
    store.put(f"{bucket_folder}/file", bytes(range(200)))
    reader = gcs.ObjectReader(filesystem.to_path(f"{bucket}/file"))
    assert (reader.size, reader.read(10, 3), reader.read(198, 9), reader.read(300, 1)) == (
        200, bytes([10, 11, 12]), bytes([198, 199]), b"",
    )  # fmt: skip
    assert formats.llama2c.find(filesystem.to_path(f"{bucket}/file")) is None


def test_a_stage_in_a_bucket_is_exported_from_its_newest_complete_checkpoint(
    tmp_path, store, bucket, bucket_folder, run
):
    llama = SIZES["7b"]
    state = TrainState(init_params(llama, 0), (), jnp.asarray(0, jnp.int32))
    saves = StageCheckpoints(filesystem.to_path(f"{bucket}/run/stage"), Checkpoints())
    for step in (3, 6):
        saves.save(step, state, {}, {"step": step, "llama": dataclasses.asdict(llama), "sequence_length": 64})
    saves.close()
    filesystem.to_path(f"{bucket}/run/stage/checkpoints/6/checksums.json").unlink()
    store.put(f"{bucket_folder}/run/tokenizer.model", b"not read with --tokenizer")
    run("verify", "--a", f"{bucket}/run/stage", "--b", f"{bucket}/run/stage/checkpoints/3")
    source = formats.open_checkpoint(filesystem.to_path(f"{bucket}/run/stage"))
    assert source.trained and source.files == {assets.MODEL: b"not read with --tokenizer"}
    output = run("verify", "--a", f"{bucket}/run/stage/checkpoints/6", "--b", f"{bucket}/run/stage", code=1)
    assert "has no checksums.json: it is incomplete" in output
