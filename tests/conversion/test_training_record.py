"""What a checkpoint says of the training that its parameters went through."""

from codellama_jax.conversion.native import Training


def test_a_stage_names_what_it_started_from_and_counts_all_tokens():
    metadata = {"stage": "lcft", "step": 100, "tokens": {"code": 3, "lineage": 9}}
    assert Training.of(metadata) == Training("lcft", 100, None, 9)
    assert Training.of({**metadata, "parent": {"path": "/runs/local/code/checkpoints/1500"}}) == Training(
        "lcft", 100, "code", 9
    )
    assert Training.of({**metadata, "parent": {"path": "gs://bucket/llama2-7b"}}).parent == "llama2-7b"


def test_an_import_has_no_training():
    assert Training.of({"stage": "import", "step": 0, "imported": {"notes": {}}}) is None
