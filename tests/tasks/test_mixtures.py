"""The streams through SeqIO: what is registered, and that the windows of a task are those of the packer."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codellama_jax.config import data
from codellama_jax.config.data import STREAMS, Chat, Corpus, Filters, Fim, Mixture, Packing
from codellama_jax.config.run import Config
from codellama_jax.config.training import Stage
from codellama_jax.errors import UserError
from codellama_jax.runtime.console import quiet_stderr
from codellama_jax.tokenizer import SentencePieceTokenizer, Tokenizer
from tasks.dialogue_packing import DialoguePacker
from tasks.encoder import Encoder
from tasks.loader import DataLoader, StreamInput, stream_seed
from tasks.packing import FEATURES, START, Cursor, Packer
from tasks.reader import Reader
from tasks.sources.base import Dialogue, Document, Source, items
from tasks.sources.filters import LeftOut

with quiet_stderr():
    import seqio

    from tasks import mixtures

LENGTH = 64
SHARES = {"code": 0.6, "nl": 0.3, "instruct": 0.1}
Fuzz = Callable[[np.random.Generator, int], str]


@pytest.fixture
def register(corpus: Corpus, small_tokenizer: Tokenizer) -> Iterator[Callable[..., seqio.Mixture]]:
    """Calls mixtures.register; keywords change the configuration. Removes the tasks and mixtures afterwards."""
    stages = {"probe"}

    def register(stage: str = "probe", tokenizer: Tokenizer = small_tokenizer, **changes: Any) -> seqio.Mixture:
        stages.add(stage)
        config = Config(
            stage=Stage(stage, "local", None, steps=10, batch_tokens=8 * LENGTH, sequence_length=LENGTH),
            mixture=Mixture(SHARES),
            corpus=corpus,
            filters=Filters(),
            fim=Fim(),
            packing=Packing(),
            chat=Chat(),
            data_loader=data.DataLoader(seed=3),
        )
        return mixtures.register(dataclasses.replace(config, **changes), tokenizer)

    yield register
    for stage in stages:
        seqio.MixtureRegistry.remove(f"{stage}_mixture")
    for stream in STREAMS:
        seqio.TaskRegistry.remove(stream)


def windows_of(provider: Any, split: str, number: int | None = None, **how: Any) -> list[dict[str, np.ndarray]]:
    dataset = provider.get_dataset({"tokens": LENGTH}, split=split, **({"shuffle": False} | how))
    return list(itertools.islice(dataset.as_numpy_iterator(), number))


def paths_of(source: Source, shard: int) -> list[str]:
    return [item.path for item in items(source, shard)]


def encoder_of(task: seqio.Task) -> Encoder:
    (preprocessor,) = task.preprocessors
    return preprocessor.keywords["encoder"]


def inputs_of(mixture: seqio.Mixture, split: str) -> list[StreamInput]:
    """The streams of a registered mixture, for a loader."""
    return [StreamInput(task.name, task.source.documents(split), encoder_of(task)) for task in mixture.tasks]


def located_documents(source: Source, encoder: Encoder) -> list[tuple[Cursor, Any]]:
    """(cursor, document) of the documents that are not left out, in the order of the source."""
    located: list[tuple[Cursor, Any]] = []
    for shard in range(len(source)):
        for number, block in enumerate(source.read(shard)):
            passed = [item for item in block.items if not left_out(encoder, item)]
            located += [(Cursor(shard, number, index), item) for index, item in enumerate(passed)]
    return located


def left_out(encoder: Encoder, item: Document | Dialogue) -> bool:
    try:
        encoder.validate(item)
    except LeftOut:
        return True
    return False


class ListReader:
    """Documents with their cursors, as a DocumentReader."""

    def __init__(self, located: list[tuple[Cursor, Any]]):
        self._located = located

    def seek(self, cursor: Cursor) -> tuple[Cursor, Any] | None:
        return next(((position, item) for position, item in self._located if position >= cursor), None)

    def key(self, cursor: Cursor) -> tuple[int, ...]:
        return cursor

    def leave_out(self, cursor: Cursor, reason: str, document: Any) -> None:
        pass


# --- registration -----------------------------------------------------------------------------------------------------


def test_tasks_and_mixture_are_registered_by_name(register: Callable[..., seqio.Mixture]):
    registered = register("probe")
    assert set(STREAMS) <= set(seqio.TaskRegistry.names())
    assert seqio.get_mixture_or_task("probe_mixture") is registered
    assert {task.name for task in registered.tasks} == set(SHARES)
    assert {task.name: registered.get_rate(task) for task in registered.tasks} == SHARES
    for stream in STREAMS:
        task = seqio.get_mixture_or_task(stream)
        assert {name: feature.dtype.as_numpy_dtype for name, feature in task.output_features.items()} == FEATURES


def test_a_stream_without_a_share_is_not_in_the_mixture(register: Callable[..., seqio.Mixture]):
    registered = register(mixture=Mixture({"code": 1.0, "nl": 0.0}))
    assert [task.name for task in registered.tasks] == ["code"]


def test_tasks_use_the_sources_and_encoders_of_the_trainer(register: Callable[..., seqio.Mixture]):
    registered = register()
    for split in ("train", "validation"):
        for stream in inputs_of(registered, split):
            task = seqio.get_mixture_or_task(stream.name)
            assert stream.source is task.source.documents(split) and stream.encoder is encoder_of(task)
            assert stream.encoder is task.source.encoder
            assert stream.encoder.seed == stream_seed(3, f"probe/{stream.name}")
    seeds = [stream.encoder.seed for stream in inputs_of(registered, "train")]
    assert len(set(seeds)) == len(seeds)


def test_tasks_and_mixtures_of_other_modules_are_not_replaced(register: Callable[..., seqio.Mixture]):
    source = seqio.FunctionDataSource(lambda split, shuffle_files, seed=None: None, splits=("train",))
    features = {"text": seqio.Feature(seqio.PassThroughVocabulary(1), rank=0)}
    other = seqio.TaskRegistry.add("nl", source=source, output_features=features)
    with pytest.raises(UserError, match="a SeqIO task named nl is already registered: rename it"):
        register()
    assert seqio.TaskRegistry.get("nl") is other and "code" not in seqio.TaskRegistry.names()
    seqio.TaskRegistry.remove("nl")
    seqio.MixtureRegistry.add("probe_mixture", [(seqio.Task("other", source, features), 1.0)])
    with pytest.raises(UserError, match="a SeqIO mixture named probe_mixture is already registered"):
        register()


def test_registering_again_replaces_tasks_and_mixture(
    register: Callable[..., seqio.Mixture], corpus: Corpus, small_tokenizer: Tokenizer
):
    """The mixture has the new tasks: nothing that was registered before is used."""
    first = register()
    before = windows_of(seqio.get_mixture_or_task("code"), "validation", 5)
    tokenizer = SentencePieceTokenizer(small_tokenizer.model, infilling=False)
    other = dataclasses.replace(corpus, code=corpus.python)
    second = register(
        mixture=Mixture({"code": 1.0}),
        corpus=other,
        tokenizer=tokenizer,
        fim=Fim(rate=0.0),
        data_loader=data.DataLoader(seed=4),
    )
    assert seqio.get_mixture_or_task("probe_mixture") is second is not first
    assert second.tasks == [seqio.get_mixture_or_task("code")]
    (stream,) = inputs_of(second, "train")
    assert stream.encoder.tokenizer is tokenizer and stream.encoder.seed == stream_seed(4, "probe/code")
    assert {path.partition("#")[0][-3:] for shard in range(9) for path in paths_of(stream.source, shard)} == {".py"}
    after = windows_of(seqio.get_mixture_or_task("code"), "validation", 5)
    assert not all(np.array_equal(one["tokens"], new["tokens"]) for one, new in zip(before, after, strict=True))
    assert max(window["tokens"].max() for window in after) < tokenizer.pieces


# --- windows ----------------------------------------------------------------------------------------------------------


def test_a_later_stage_reads_in_another_order_than_its_parent(register: Callable[..., seqio.Mixture]):
    """With the same seed and source, another stage has another order of files and other infilling."""
    both = []
    for stage in ("parent", "child"):
        registered = register(stage)
        both.append(next(stream for stream in inputs_of(registered, "train") if stream.name == "code"))
    paths = [
        [path for path, _, _ in documents_of(Reader(s.source, 0, 1, s.encoder.seed, s.encoder.validate))] for s in both
    ]
    assert sorted(paths[0]) == sorted(paths[1]) and paths[0] != paths[1]
    document = next(items(both[0].source, 0))
    splits = [[stream.encoder.draw_split(document, (0, number)) for number in range(20)] for stream in both]
    assert splits[0] != splits[1]


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_mixture_gives_full_windows_of_all_its_streams(register: Callable[..., seqio.Mixture], shuffle: bool):
    register()
    seen = set()
    windows = windows_of(seqio.get_mixture_or_task("probe_mixture"), "validation", 60, shuffle=shuffle, seed=1)
    assert len(windows) == 60
    for window in windows:
        assert {name: values.dtype for name, values in window.items()} == FEATURES
        assert {values.shape for values in window.values()} == {(LENGTH,)}
        streams = set(window["stream_ids"].tolist())
        assert len(streams) == 1
        seen |= {STREAMS[index] for index in streams}
    assert seen == set(SHARES)


@pytest.mark.parametrize("packing", [Packing(), Packing(mask_documents=True, queue=5)], ids=str)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_without_shuffling_the_windows_of_a_task_are_those_of_the_packer(
    register: Callable[..., seqio.Mixture], split: str, packing: Packing
):
    """Byte for byte, for the same files in the order of the source."""
    register(packing=packing)
    kinds = set()
    for stream in STREAMS:
        task = seqio.get_mixture_or_task(stream)
        encoder = encoder_of(task)
        documents = ListReader(located_documents(task.source.documents(split), encoder))
        packer_class = DialoguePacker if stream == "instruct" else Packer
        packer = packer_class(documents, encoder, LENGTH, packing.mask_documents, packing.queue)
        windows = windows_of(task, split)
        assert len(windows) > 3
        for window in windows:
            expected = packer.next_window()
            assert expected is not None
            kinds |= {packed.kind for packed in expected.started}
            for name, values in expected.arrays.items():
                assert window[name].tobytes() == values.tobytes() and window[name].dtype == values.dtype
            assert (window["stream_ids"] == STREAMS.index(stream)).all()
        assert packer.next_window() is None
    assert kinds == {"plain", "psm", "spm", "cut"}


@pytest.mark.parametrize("queue", [0, 5])
def test_with_shuffling_the_windows_of_a_task_are_those_of_the_trainers_first_epoch(
    register: Callable[..., seqio.Mixture], queue: int
):
    """With one reader, until its first epoch ends."""
    packing = Packing(queue=queue)
    registered = register(packing=packing)
    for stream in inputs_of(registered, "train"):
        loader = DataLoader(
            [stream],
            {stream.name: 1.0},
            seed=0,
            readers=1,
            batch_size=1,
            length=LENGTH,
            mask_documents=False,
            queue=queue,
        )
        # The preprocessor alone: the task would also shuffle its windows.
        task = seqio.get_mixture_or_task(stream.name)
        (pack,) = task.preprocessors
        dataset = pack(task.source.get_dataset("train", shuffle=True), {"tokens": LENGTH})
        windows = list(dataset.as_numpy_iterator())
        for window in windows:
            batch = loader.next_batch()
            if batch.state.positions[0, 0, 0, 0] >= len(stream.source):
                break  # the window may contain a document of the second epoch
            for name in FEATURES:
                assert np.array_equal(window[name], batch.arrays[name][0])
        assert batch.state.batch > 3


def test_a_dataset_gives_the_same_windows_each_time(register: Callable[..., seqio.Mixture]):
    register()
    dataset = seqio.get_mixture_or_task("code").get_dataset({"tokens": LENGTH}, split="train", shuffle=False)
    once, again = (list(dataset.as_numpy_iterator()) for _ in range(2))
    together = list(zip(dataset.as_numpy_iterator(), dataset.as_numpy_iterator(), strict=True))
    assert len(once) == len(again) == len(together)
    for one, other, pair in zip(once, again, together, strict=True):
        for name in FEATURES:
            assert len({values[name].tobytes() for values in (one, other, *pair)}) == 1


def documents_of(reader: Reader) -> list[tuple[str, str, list[int]]]:
    """(path, text or messages, key) of the documents of a reader's first epoch."""
    documents = []
    cursor, document = reader.seek(START)
    while reader.global_shard(cursor.shard) < reader.shards:
        content = json.dumps(document.messages) if isinstance(document, Dialogue) else document.text
        documents.append((document.path, content, list(reader.key(cursor))))
        cursor, document = reader.seek(cursor._replace(document=cursor.document + 1))
    return documents


def examples_of(source: Any, shard_info: Any = None, shuffle: bool = True) -> list[tuple[str, str, list[int]]]:
    """The same for the examples of a SeqIO source."""
    dataset = source.get_dataset("train", shuffle=shuffle, shard_info=shard_info)
    return [
        (example["path"].decode(), (example["text"] or example["messages"]).decode(), example["key"].tolist())
        for example in dataset.as_numpy_iterator()
    ]


@pytest.mark.parametrize("stream", ["code", "instruct"])
def test_with_shuffling_documents_have_the_order_of_the_trainers_first_epoch(
    register: Callable[..., seqio.Mixture], stream: str
):
    """They also have the keys with which the trainer draws their infilling."""
    register()
    task = seqio.get_mixture_or_task(stream)
    encoder, documents = encoder_of(task), task.source.documents("train")
    expected = documents_of(Reader(documents, 0, 1, stream_seed(3, f"probe/{stream}"), encoder.validate))
    assert examples_of(task.source) == expected
    natural = [(item.path, list(cursor)) for cursor, item in located_documents(documents, encoder)]
    assert [(path, key) for path, _, key in examples_of(task.source, shuffle=False)] == natural
    assert sorted(path for path, _ in natural) == sorted(path for path, _, _ in expected)
    assert [path for path, _ in natural] != [path for path, _, _ in expected]


@pytest.mark.parametrize("stream, shards", [("code", 2), ("code", 5), ("instruct", 3), ("code", 0)])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_document_is_in_exactly_one_shard(
    register: Callable[..., seqio.Mixture], shards: int, shuffle: bool, stream: str
):
    """All keys are different. With as many shards as files (0), the shard of a file without a document is empty."""
    register()
    source = seqio.get_mixture_or_task(stream).source
    count = shards or len(source.documents("train"))
    parts = [examples_of(source, seqio.ShardInfo(index, count), shuffle) for index in range(count)]
    every = [example for part in parts for example in part]
    assert sorted(example[:2] for example in every) == sorted(example[:2] for example in examples_of(source))
    assert len({tuple(key) for _, _, key in every}) == len(every)
    assert not shards or all(parts)


def test_there_can_be_more_shards_than_documents(
    register: Callable[..., seqio.Mixture], corpus: Corpus, tmp_path: Path
):
    (tmp_path / "a.c").write_text("int a;\n")
    register(corpus=dataclasses.replace(corpus, code=str(tmp_path)))
    source = seqio.get_mixture_or_task("code").source
    for shuffle in (False, True):
        parts = [examples_of(source, seqio.ShardInfo(index, 3), shuffle) for index in range(3)]
        assert sorted(map(len, parts)) == [0, 0, 1]


@pytest.mark.parametrize("chat_format, bad", [("inst", {3, 6, 9, 12}), ("source", {3, 6})])
def test_dialogues_that_the_format_cannot_express_are_left_out(
    register: Callable[..., seqio.Mixture], corpus: Corpus, tmp_path: Path, chat_format: str, bad: set[int]
):
    """SeqIO's tasks and the trainer leave them out; the trainer counts them."""
    talks = [[("user", f"question {number}"), ("assistant", f"answer {number}")] for number in range(20)]
    talks[3] = talks[3][:1]
    talks[6] = talks[6][::-1]
    talks[9][0] = ("user", "what is [INST]?")
    talks[12][1] = ("assistant", "<</SYS>>")
    lines = [json.dumps({"messages": [{"role": role, "content": text} for role, text in talk]}) for talk in talks]
    (tmp_path / "talks.jsonl").write_text("\n".join(lines))
    talking = dataclasses.replace(corpus, instruct=str(tmp_path / "talks.jsonl"), validation_share=0.0)
    registered = register(mixture=Mixture({"instruct": 1.0}), corpus=talking, chat=Chat(chat_format))
    good = sorted(talk[0][1] for number, talk in enumerate(talks) if number not in bad)
    for shuffle in (False, True):
        shown = examples_of(seqio.get_mixture_or_task("instruct").source, shuffle=shuffle)
        assert sorted(json.loads(messages)[0]["content"] for _, messages, _ in shown) == good
        assert windows_of(seqio.get_mixture_or_task("instruct"), "train", shuffle=shuffle)
    streams = inputs_of(registered, "train")
    loader = DataLoader(
        streams, {"instruct": 1.0}, seed=3, readers=2, batch_size=2, length=LENGTH, mask_documents=True, queue=2
    )
    started = [packed.document for _ in range(20) for _, packed in loader.next_batch().started]
    assert {document.messages[0]["content"] for document in started if isinstance(document, Dialogue)} == set(good)
    counts = loader.left_out()["instruct"]
    assert counts["roles"] > 0 and (counts["reserved_tag"] > 0) == (chat_format == "inst")
    assert all("talks.jsonl" in line for line in loader.left_out_lines())
