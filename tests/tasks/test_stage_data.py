"""The data of a stage: batches, saved states, validation and the tokenizer of the run."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codellama_jax.config import data
from codellama_jax.config.data import Chat, Corpus, Filters, Fim, Mixture, Packing
from codellama_jax.config.run import Config
from codellama_jax.config.training import Evaluation, Stage
from codellama_jax.errors import UserError
from codellama_jax.tokenizer import Tokenizer
from tasks.loader import Batch, DataLoader
from tasks.packing import FEATURES
from tasks.stage_data import StageData

LENGTH = 64
SHARES = {"code": 0.6, "nl": 0.3, "instruct": 0.1}


@pytest.fixture
def stage_data(corpus: Corpus, small_tokenizer: Tokenizer, tmp_path: Path) -> Callable[..., StageData]:
    """Creates the data of a stage for one of several hosts, always in the same run folder."""
    model = tmp_path / "a.model"
    model.write_bytes(small_tokenizer.model)
    config = Config(
        stage=Stage("probe", "local", None, steps=10, batch_tokens=8 * LENGTH, sequence_length=LENGTH),
        evaluation=Evaluation(batches=3),
        corpus=corpus,
        filters=Filters(),
        tokenizer=data.Tokenizer(model=str(model)),
        mixture=Mixture(SHARES),
        fim=Fim(),
        packing=Packing(queue=3),
        data_loader=data.DataLoader(seed=3, readers=4),
        chat=Chat(),
    )
    (tmp_path / "run").mkdir()
    return lambda host=0, hosts=1: StageData(config, tmp_path / "run", host, hosts, lambda line: None)


def same_batch(one: Batch, other: Batch) -> bool:
    return all(np.array_equal(one.arrays[name], other.arrays[name]) for name in FEATURES) and np.array_equal(
        one.state.positions, other.state.positions
    )


def through_a_checkpoint(data: StageData, loader: DataLoader, batch: Batch) -> dict[str, Any]:
    return json.loads(json.dumps(data.saved(batch.state, loader.fingerprint())))


def test_a_saved_state_is_json_and_resumes(stage_data: Callable[..., StageData]):
    data = stage_data()
    loader = data.stream("train")
    batches = [loader.next_batch() for _ in range(12)]
    assert batches[0].state.positions.shape[2] == 3 + 2  # the queue's length and two
    for k in (1, 2, 5, 8):
        saved = through_a_checkpoint(data, loader, batches[k - 1])
        restarted = stage_data()
        resumed = restarted.stream("train", restarted.stream_state(saved))
        assert resumed.fingerprint() == saved["fingerprint"]
        for expected in batches[k : k + 4]:
            assert same_batch(resumed.next_batch(), expected), k


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_any_number_of_hosts_resumes_from_a_saved_state(stage_data: Callable[..., StageData], hosts: int):
    data = stage_data()
    loader = data.stream("train")
    batches = [loader.next_batch() for _ in range(6)]
    saved = through_a_checkpoint(data, loader, batches[2])
    loaders = []
    for host in range(hosts):
        of_host = stage_data(host, hosts)
        loaders.append(of_host.stream("train", of_host.stream_state(saved)))
        assert loaders[-1].fingerprint() == saved["fingerprint"]
    for expected in batches[3:]:
        parts = [loader.next_batch().arrays for loader in loaders]
        for name in FEATURES:
            assert np.array_equal(np.concatenate([part[name] for part in parts]), expected.arrays[name])


def test_validation_is_always_the_same_and_separate_from_training(stage_data: Callable[..., StageData]):
    data = stage_data()
    one, other = data.validation_batches(), stage_data().validation_batches()
    assert len(one) == 3
    for batch, again in zip(one, other, strict=True):
        assert all(np.array_equal(batch[name], again[name]) for name in FEATURES)
    paths = {
        split: {packed.document.path for _ in range(20) for _, packed in loader.next_batch().started}
        for split in ("train", "validation")
        for loader in [data.stream(split)]
    }
    assert paths["train"] and paths["validation"] and not paths["train"] & paths["validation"]


def test_the_inventory_counts_the_documents_that_were_read(stage_data: Callable[..., StageData]):
    data = stage_data()
    before = {place.stream: place for place in data.inventory().places}
    assert list(before) == list(SHARES) and before["code"].documents == 1
    loader = data.stream("train")
    for _ in range(40):  # more than an epoch
        loader.next_batch()
    after = {place.stream: place for place in data.inventory().places}
    assert after["code"].read == before["code"].read == {".c": 31}
    assert after["code"].scope == "read" and after["code"].documents >= after["code"].splits["train"] - 1
    assert data.inventory().lines()[0].startswith("code: ") and after["instruct"].fields == {"messages": "messages"}
    assert sum(place.left_out.get("binary", 0) for place in after.values()) == sum(
        reasons["binary"] for reasons in loader.left_out().values()
    )


def test_a_run_keeps_its_first_tokenizer(stage_data: Callable[..., StageData], tmp_path: Path):
    assert stage_data().tokenizer.model == (tmp_path / "run/tokenizer.model").read_bytes()
    (tmp_path / "run/tokenizer.model").write_bytes(b"another")
    with pytest.raises(UserError, match=r"differs from the tokenizer .*: use another --name"):
        stage_data()


def test_an_epoch_has_the_tokens_of_all_training_documents_of_the_largest_stream(
    stage_data: Callable[..., StageData], small_tokenizer: Tokenizer
):
    data = stage_data()
    epoch = data.epoch()
    assert (epoch.stream, epoch.share) == ("code", 0.6)
    source = data._streams.source("code", "train")
    texts = [document.text for shard in range(len(source)) for block in source.read(shard) for document in block.items]
    assert (epoch.documents, epoch.tokens) == (len(texts), sum(len(small_tokenizer.encode(text)) + 2 for text in texts))
    assert stage_data().epoch() == epoch


def test_infilling_files_are_complete_validation_files(stage_data: Callable[..., StageData]):
    data = stage_data()
    files = data.infilling_files(3)
    assert 0 < len(files) <= 3 and data.infilling_files(3) == files
    source = data._streams.source("code", "validation")
    texts = {block.items[0].text[:20] for shard in range(len(source)) for block in source.read(shard)}
    assert {text[:20] for _, text in files} <= texts
    assert not {"#" in path for path, _ in files} - {False}, "no parts of files"


def test_general_files_are_of_another_corpus(stage_data: Callable[..., StageData], tmp_path: Path):
    data = stage_data()
    embedded = data.general_files(5)
    assert len(embedded) == 5 and all(text for _, text in embedded)
    for number in range(6):
        (tmp_path / f"{number}.py").write_text(f"general = {number}\n")
    evaluation = Evaluation(general_corpus=str(tmp_path))
    data._config = dataclasses.replace(data._config, evaluation=evaluation)
    assert [text for _, text in data.general_files(5)] and all("general" in text for _, text in data.general_files(5))
    data._config = dataclasses.replace(data._config, evaluation=Evaluation(general_corpus=()))
    assert data.general_files(5) == []
