"""The state of a run folder, read from its files."""

import json

import pytest

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem, run_dir


def test_saved_steps_are_in_numerical_order(tmp_path):
    for name in ("10", "9", "100", "11.orbax-checkpoint-tmp", ".removed"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert run_dir.saved_steps(tmp_path) == [9, 10, 100]
    assert run_dir.saved_steps(tmp_path / "missing") == []


def test_a_checkpoint_in_a_bucket_counts_once_it_has_checksums(store, bucket_folder):
    store.put(f"{bucket_folder}/checkpoints/3/checksums.json", b"{}")
    store.put(f"{bucket_folder}/checkpoints/6/params", b"")
    assert run_dir.saved_steps(filesystem.to_path(f"gs://bucket/{bucket_folder}")) == [3]


def test_a_stage_has_finished_if_its_last_checkpoint_exists(tmp_path):
    assert run_dir.final_step(tmp_path) is None
    (tmp_path / "done.json").write_text(json.dumps({"step": 6}))
    assert run_dir.final_step(tmp_path) is None
    (tmp_path / "checkpoints" / "6").mkdir(parents=True)
    assert run_dir.final_step(tmp_path) == 6


def test_a_stage_with_checkpoints_refuses_another_configuration(tmp_path):
    run_dir.check_same_configuration(tmp_path, "Stage.steps = 5\n")
    (tmp_path / "config.gin").write_text("Stage.steps = 6\n")
    run_dir.check_same_configuration(tmp_path, "Stage.steps = 5\n")  # no checkpoint yet
    (tmp_path / "checkpoints" / "6").mkdir(parents=True)
    run_dir.check_same_configuration(tmp_path, "Stage.steps = 6\n")
    with pytest.raises(UserError, match=r"made with another configuration \(.*Stage.steps: 6 before, 5 now"):
        run_dir.check_same_configuration(tmp_path, "Stage.steps = 5\n")


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../code", "/runs", "a/"])
def test_name_of_a_run_is_one_folder(name):
    with pytest.raises(UserError, match="must be the name of one folder"):
        run_dir.check_name(name)
    assert run_dir.check_name("Run 7b..") == "Run 7b.."
