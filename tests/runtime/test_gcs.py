"""Cloud Storage: checksums of objects, conditional writes, and errors that name the fix."""

import base64

import google_crc32c
import pytest

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem, gcs


@pytest.fixture
def folder(store, bucket_folder):
    return filesystem.to_path(f"gs://bucket/{bucket_folder}")


def test_sizes_and_checksums_of_all_objects_below_a_folder(store, folder, bucket_folder):
    contents = {"a": b"", "b/c": b"content"}
    for name, content in contents.items():
        store.put(f"{bucket_folder}/{name}", content)
    store.put(f"{bucket_folder}/b/", b"")  # represents a folder
    store.put(f"{bucket_folder}-2/a", b"another folder")
    expected = {
        name: (len(content), base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode())
        for name, content in contents.items()
    }
    assert gcs.object_checksums(folder) == expected


def test_an_object_is_written_only_if_it_has_the_expected_generation(store, folder):
    versioned = gcs.VersionedObject(folder / "object")
    assert versioned.read() is None
    first = versioned.write("first", 0)
    assert first and versioned.read() == (first, "first")
    assert versioned.write("second", 0) is None
    second = versioned.write("second", first)
    assert second not in (None, first) and versioned.read() == (second, "second")
    assert versioned.write("third", first) is None
    versioned.delete(second)
    assert versioned.read() is None


def test_errors_of_a_bucket_name_the_fix(store, monkeypatch, folder):
    gcs.check_bucket(folder)
    with pytest.raises(UserError, match="there is no bucket nothing: run gcloud storage buckets create gs://nothing"):
        gcs.check_bucket(filesystem.to_path("gs://nothing/runs"))
    store.refuse((".*", "object", 403))
    with (
        pytest.raises(UserError, match="may not use the bucket bucket: give them roles"),
        gcs.errors_as_user_errors(folder),
    ):
        gcs.VersionedObject(folder / "object").write("text", 0)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setattr(gcs, "ACCESS_CHECK_SECONDS", 1.0)
    with pytest.raises(UserError, match="the bucket bucket cannot be reached"):
        gcs.check_bucket(folder)
