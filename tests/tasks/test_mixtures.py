"""The streams through SeqIO: what is registered, that a task's windows are the packer's, and the vocabulary's laws."""

import dataclasses
import itertools
import json
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codellama_jax.config import data
from codellama_jax.config.data import STREAMS, Chat, Corpus, Filters, Fim, Mixture, Packing
from codellama_jax.config.training import Evaluation, Stage
from codellama_jax.errors import UserError
from codellama_jax.runtime.console import quiet_stderr
from codellama_jax.tokenizer import Tokenizer
from tasks.loader import Batch, DataLoader, task_seed
from tasks.packing import FEATURES, Cursor, Encoder, Packer
from tasks.reader import Reader
from tasks.sources.base import Dialogue, Document, Source, items
from tasks.sources.filters import LeftOut

with quiet_stderr():
    import seqio
    import tensorflow as tf

    from tasks import mixtures
    from tasks.stage_data import StageData
    from tasks.vocabulary import LlamaVocabulary

LENGTH = 64
SHARES = {"code": 0.6, "nl": 0.3, "instruct": 0.1}
Fuzz = Callable[[np.random.Generator, int], str]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, fuzzed: Fuzz) -> Corpus:
    """A folder for each stream, with files that fit a window and files that do not, and some that are left out."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(21)
    for stream, extension in (("code", "c"), ("python", "py"), ("nl_code", "md"), ("nl", "txt")):
        (root / stream).mkdir()
        for number in range(30):
            text = fuzzed(rng, int(rng.integers(1, 500))).replace("\0", "")
            (root / stream / f"{number}.{extension}").write_bytes(text.encode())
        (root / stream / f"binary.{extension}").write_bytes(b"a\0b")
    lines = []
    for _ in range(30):
        question, answer = (fuzzed(rng, int(rng.integers(5, 80))).replace("[", "").replace("<", "") for _ in "ab")
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": messages}) + "\n")
    (root / "instruct.jsonl").write_text("".join(lines))
    folders = {stream: str(root / stream) for stream in STREAMS[:-1]}
    return Corpus(
        **folders,
        instruct=str(root / "instruct.jsonl"),
        validation_share=0.4,
        document_characters=300,
        shuffle_bytes=1500,  # so that there are several blocks of dialogues
    )


@pytest.fixture
def register(corpus: Corpus, small_tokenizer: Tokenizer) -> Iterator[Callable[..., seqio.Mixture]]:
    """mixtures.register with settings that serve here; keywords change them. What it registered goes in the end."""
    stages = {"probe"}

    def register(stage: str = "probe", **changes: Any) -> seqio.Mixture:
        stages.add(stage)
        settings: dict[str, Any] = {
            "mixture": Mixture(SHARES),
            "corpus": corpus,
            "filters": Filters(),
            "tokenizer": small_tokenizer,
            "fim": Fim(),
            "packing": Packing(),
            "chat": Chat(),
            "seed": 3,
        }
        settings |= changes
        return mixtures.register(stage, settings.pop("mixture"), **settings)

    yield register
    for stage in stages:
        seqio.MixtureRegistry.remove(f"{stage}_mixture")
    for stream in STREAMS:
        seqio.TaskRegistry.remove(stream)


def windows_of(provider: Any, split: str, number: int | None = None, **how: Any) -> list[dict[str, np.ndarray]]:
    dataset = provider.get_dataset({"tokens": LENGTH}, split=split, **({"shuffle": False} | how))
    return list(itertools.islice(dataset.as_numpy_iterator(), number))


def paths_of(source: Source, piece: int) -> list[str]:
    return [item.path for item in items(source, piece)]


def encoder_of(task: seqio.Task) -> Encoder:
    (preprocessor,) = task.preprocessors
    return preprocessor.keywords["encoder"]


def places_of(source: Source, encoder: Encoder) -> list[tuple[Cursor, Any]]:
    """The documents of a source that are taken, with where they stand, in its own order."""
    found: list[tuple[Cursor, Any]] = []
    for piece in range(len(source)):
        for number, block in enumerate(source.read(piece)):
            taken = [item for item in block.items if not left_out(encoder, item)]
            found += [((piece, number, index), item) for index, item in enumerate(taken)]
    return found


def left_out(encoder: Encoder, item: Document | Dialogue) -> bool:
    try:
        encoder.check(item)
    except LeftOut:
        return True
    return False


class Listed:
    """Documents with their places, as a packer takes them."""

    def __init__(self, found: list[tuple[Cursor, Any]]):
        self._found = found

    def find(self, place: Cursor) -> tuple[Cursor, Any] | None:
        return next(((there, item) for there, item in self._found if there >= place), None)

    def key(self, place: Cursor) -> tuple[int, ...]:
        return place


# --- what is registered -----------------------------------------------------------------------------------------------


def test_tasks_and_mixture_are_there_under_their_names(register: Callable[..., seqio.Mixture]):
    registered = register("probe")
    assert set(STREAMS) <= set(seqio.TaskRegistry.names())
    assert seqio.get_mixture_or_task("probe_mixture") is registered
    assert {task.name for task in registered.tasks} == set(SHARES)
    assert mixtures.shares(registered) == SHARES
    for stream in STREAMS:
        task = seqio.get_mixture_or_task(stream)
        assert {name: feature.dtype.as_numpy_dtype for name, feature in task.output_features.items()} == FEATURES


def test_a_stream_without_a_share_is_no_part_of_the_mixture(register: Callable[..., seqio.Mixture]):
    registered = register(mixture=Mixture({"code": 1.0, "nl": 0.0}))
    assert [task.name for task in registered.tasks] == ["code"]


def test_stream_tasks_are_the_registered_ones(register: Callable[..., seqio.Mixture]):
    registered = register()
    for split in ("train", "validation"):
        for task in mixtures.stream_tasks(registered, split):
            there = seqio.get_mixture_or_task(task.name)
            assert task.source is there.source.files(split) and task.encoder is encoder_of(there)
            assert task.encoder.seed == task_seed(3, f"probe/{task.name}")
    seeds = [task.encoder.seed for task in mixtures.stream_tasks(registered, "train")]
    assert len(set(seeds)) == len(seeds)


def test_registering_again_replaces(register: Callable[..., seqio.Mixture], corpus: Corpus, small_tokenizer: Tokenizer):
    """Tasks and mixture, and the tasks within the mixture: nothing of what was registered before is used."""
    first = register()
    before = windows_of(seqio.get_mixture_or_task("code"), "validation", 5)
    tokenizer = Tokenizer(small_tokenizer.model, infilling=False)
    other = dataclasses.replace(corpus, code=corpus.python)
    second = register(mixture=Mixture({"code": 1.0}), corpus=other, tokenizer=tokenizer, fim=Fim(rate=0.0), seed=4)
    assert seqio.get_mixture_or_task("probe_mixture") is second is not first
    assert second.tasks == [seqio.get_mixture_or_task("code")]
    (task,) = mixtures.stream_tasks(second, "train")
    assert task.encoder.tokenizer is tokenizer and task.encoder.seed == task_seed(4, "probe/code")
    assert {path.partition("#")[0][-3:] for piece in range(9) for path in paths_of(task.source, piece)} == {".py"}
    after = windows_of(seqio.get_mixture_or_task("code"), "validation", 5)
    assert not all(np.array_equal(one["tokens"], new["tokens"]) for one, new in zip(before, after, strict=True))
    assert max(window["tokens"].max() for window in after) < tokenizer.pieces


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_a_later_stage_does_not_read_again_what_its_parent_read_first(register: Callable[..., seqio.Mixture]):
    """One seed and one source, but another stage: another order of files, and other infilling."""
    seen = []
    for stage in ("parent", "child"):
        registered = register(stage)
        seen.append(next(task for task in mixtures.stream_tasks(registered, "train") if task.name == "code"))
    parent, child = seen
    paths = [
        [path for path, _, _ in documents_of(Reader(t.source, 0, 1, t.encoder.seed, t.encoder.check))] for t in seen
    ]
    assert sorted(paths[0]) == sorted(paths[1]) and paths[0] != paths[1]
    document = next(items(parent.source, 0))
    cuts = [[task.encoder.cut(document, (0, number)) for number in range(20)] for task in (parent, child)]
    assert cuts[0] != cuts[1]


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
def test_unshuffled_a_tasks_windows_are_the_packers(
    register: Callable[..., seqio.Mixture], split: str, packing: Packing
):
    """Byte for byte, over the same files in their natural order."""
    register(packing=packing)
    kinds = set()
    for stream in STREAMS:
        task = seqio.get_mixture_or_task(stream)
        encoder = encoder_of(task)
        documents = Listed(places_of(task.source.files(split), encoder))
        packer = Packer(documents, encoder, LENGTH, packing.mask_documents, packing.queue)
        windows = windows_of(task, split)
        assert len(windows) > 3
        for window in windows:
            expected = packer.next_window()
            assert expected is not None
            kinds |= {packed.kind for packed in expected.begun}
            for name, values in expected.arrays.items():
                assert window[name].tobytes() == values.tobytes() and window[name].dtype == values.dtype
            assert (window["stream_ids"] == STREAMS.index(stream)).all()
        assert packer.next_window() is None
    assert kinds == {"plain", "psm", "spm", "cut"}


@pytest.mark.parametrize("queue", [0, 5])
def test_shuffled_a_tasks_windows_are_the_trainers_first(register: Callable[..., seqio.Mixture], queue: int):
    """Of one lane, until its first epoch ends."""
    packing = Packing(queue=queue)
    registered = register(packing=packing)
    for task in mixtures.stream_tasks(registered, "train"):
        stream = DataLoader(
            [task],
            {task.name: 1.0},
            seed=0,
            readers=1,
            batch_size=1,
            length=LENGTH,
            mask_documents=False,
            queue=queue,
        )
        documents = seqio.get_mixture_or_task(task.name).source.get_dataset("train", shuffle=True)
        dataset = mixtures.pack(
            documents, {"tokens": LENGTH}, encoder=task.encoder, stream=task.name, packing=packing
        )  # a task would shuffle its windows once more
        windows = list(dataset.as_numpy_iterator())
        for window in windows:
            batch = stream.next_batch()
            if batch.state.positions[0, 0, 0, 0] >= len(task.source):
                break  # a document of the second epoch may be in it
            for name in FEATURES:
                assert np.array_equal(window[name], batch.arrays[name][0])
        assert batch.state.batch > 3


def test_a_dataset_gives_the_same_each_time(register: Callable[..., seqio.Mixture]):
    register()
    dataset = seqio.get_mixture_or_task("code").get_dataset({"tokens": LENGTH}, split="train", shuffle=False)
    once, again = (list(dataset.as_numpy_iterator()) for _ in range(2))
    together = list(zip(dataset.as_numpy_iterator(), dataset.as_numpy_iterator(), strict=True))
    assert len(once) == len(again) == len(together)
    for one, other, pair in zip(once, again, together, strict=True):
        for name in FEATURES:
            assert len({values[name].tobytes() for values in (one, other, *pair)}) == 1


def documents_of(lane: Reader) -> list[tuple[str, str, list[int]]]:
    """Path, text or messages and key of the documents of a lane's first epoch."""
    found = []
    place, document = lane.find((0, 0, 0))
    while lane.number(place[0]) < lane.pieces:
        content = json.dumps(document.messages) if isinstance(document, Dialogue) else document.text
        found.append((document.path, content, list(lane.key(place))))
        piece, block, number = place
        place, document = lane.find((piece, block, number + 1))
    return found


def examples_of(source: Any, shard_info: Any = None, shuffle: bool = True) -> list[tuple[str, str, list[int]]]:
    """The same of SeqIO's examples."""
    dataset = source.get_dataset("train", shuffle=shuffle, shard_info=shard_info)
    return [
        (example["path"].decode(), (example["text"] or example["messages"]).decode(), example["key"].tolist())
        for example in dataset.as_numpy_iterator()
    ]


@pytest.mark.parametrize("stream", ["code", "instruct"])
def test_shuffled_documents_come_as_in_the_trainers_first_epoch(register: Callable[..., seqio.Mixture], stream: str):
    """With the keys that the trainer draws their infilling by."""
    register()
    task = seqio.get_mixture_or_task(stream)
    encoder, files = encoder_of(task), task.source.files("train")
    expected = documents_of(Reader(files, 0, 1, task_seed(3, f"probe/{stream}"), encoder.check))
    assert examples_of(task.source) == expected
    natural = [(item.path, list(place)) for place, item in places_of(files, encoder)]
    assert [(path, key) for path, _, key in examples_of(task.source, shuffle=False)] == natural
    assert sorted(path for path, _ in natural) == sorted(path for path, _, _ in expected)
    assert [path for path, _ in natural] != [path for path, _, _ in expected]


@pytest.mark.parametrize("stream, shards", [("code", 2), ("code", 5), ("instruct", 3), ("code", 0)])
@pytest.mark.parametrize("shuffle", [False, True])
def test_shards_share_the_documents_out(
    register: Callable[..., seqio.Mixture], shards: int, shuffle: bool, stream: str
):
    """Each document is in one of them and no two have one key; where there are as many shards as files (0), one whose
    file holds no document is empty."""
    register()
    source = seqio.get_mixture_or_task(stream).source
    each = shards or len(source.files("train"))
    parts = [examples_of(source, seqio.ShardInfo(index, each), shuffle) for index in range(each)]
    every = [example for part in parts for example in part]
    assert sorted(example[:2] for example in every) == sorted(example[:2] for example in examples_of(source))
    assert len({tuple(key) for _, _, key in every}) == len(every)
    assert not shards or all(parts)


def test_more_shards_than_documents_are_served(register: Callable[..., seqio.Mixture], corpus: Corpus, tmp_path: Path):
    (tmp_path / "a.c").write_text("int a;\n")
    register(corpus=dataclasses.replace(corpus, code=str(tmp_path)))
    source = seqio.get_mixture_or_task("code").source
    for shuffle in (False, True):
        parts = [examples_of(source, seqio.ShardInfo(index, 3), shuffle) for index in range(3)]
        assert sorted(map(len, parts)) == [0, 0, 1]


@pytest.mark.parametrize("chat_format, bad", [("inst", {3, 6, 9, 12}), ("source", {3, 6})])
def test_dialogues_that_the_format_cannot_have_are_left_out_in_both_ways(
    register: Callable[..., seqio.Mixture], corpus: Corpus, tmp_path: Path, chat_format: str, bad: set[int]
):
    """By SeqIO's tasks as by the trainer, which counts them."""
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
    tasks = mixtures.stream_tasks(registered, "train")
    stream = DataLoader(
        tasks, {"instruct": 1.0}, seed=3, readers=2, batch_size=2, length=LENGTH, mask_documents=True, queue=2
    )
    begun = [packed.document for _ in range(20) for _, packed in stream.next_batch().begun]
    assert {document.messages[0]["content"] for document in begun if isinstance(document, Dialogue)} == set(good)
    counts = stream.left_out()["instruct"]
    assert counts["roles"] > 0 and (counts["reserved_tag"] > 0) == (chat_format == "inst")
    assert all("talks.jsonl" in line for line in stream.left_out_lines())


# --- the stage's data -------------------------------------------------------------------------------------------------


@pytest.fixture
def stage_data(
    register: Callable[..., seqio.Mixture], corpus: Corpus, small_tokenizer: Tokenizer, tmp_path: Path
) -> Callable[..., StageData]:
    """The data of a stage in a run's folder; a host's, if told which."""
    model = tmp_path / "a.model"
    model.write_bytes(small_tokenizer.model)
    register()
    parts = types.SimpleNamespace(
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
    return lambda host=0, hosts=1: StageData(parts, tmp_path / "run", host, hosts, lambda line: None)


def same(one: Batch, other: Batch) -> bool:
    return all(np.array_equal(one.arrays[name], other.arrays[name]) for name in FEATURES) and np.array_equal(
        one.state.positions, other.state.positions
    )


def through_a_checkpoint(data: StageData, stream: DataLoader, batch: Batch) -> dict[str, Any]:
    return json.loads(json.dumps(data.saved(batch.state, stream.fingerprint())))


def test_a_saved_state_is_json_and_resumes(stage_data: Callable[..., StageData]):
    data = stage_data()
    stream = data.stream("train")
    batches = [stream.next_batch() for _ in range(12)]
    assert batches[0].state.positions.shape[2] == 3 + 2  # the queue's length and two
    for k in (1, 2, 5, 8):
        saved = through_a_checkpoint(data, stream, batches[k - 1])
        restarted = stage_data()
        resumed = restarted.stream("train", restarted.stream_state(saved))
        assert resumed.fingerprint() == saved["fingerprint"]
        for expected in batches[k : k + 4]:
            assert same(resumed.next_batch(), expected), k


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_any_number_of_hosts_share_a_saved_state_out(stage_data: Callable[..., StageData], hosts: int):
    data = stage_data()
    stream = data.stream("train")
    batches = [stream.next_batch() for _ in range(6)]
    saved = through_a_checkpoint(data, stream, batches[2])
    served = []
    for host in range(hosts):
        one = stage_data(host, hosts)
        served.append(one.stream("train", one.stream_state(saved)))
        assert served[-1].fingerprint() == saved["fingerprint"]
    for expected in batches[3:]:
        parts = [stream.next_batch().arrays for stream in served]
        for name in FEATURES:
            assert np.array_equal(np.concatenate([part[name] for part in parts]), expected.arrays[name])


def test_validation_is_the_same_each_time_and_apart_from_training(stage_data: Callable[..., StageData]):
    data = stage_data()
    one, other = data.validation_batches(), stage_data().validation_batches()
    assert len(one) == 3
    for batch, again in zip(one, other, strict=True):
        assert all(np.array_equal(batch[name], again[name]) for name in FEATURES)
    paths = {
        split: {packed.document.path for _ in range(20) for _, packed in stream.next_batch().begun}
        for split in ("train", "validation")
        for stream in [data.stream(split)]
    }
    assert paths["train"] and paths["validation"] and not paths["train"] & paths["validation"]


def test_a_run_keeps_the_tokenizer_it_began_with(stage_data: Callable[..., StageData], tmp_path: Path):
    assert stage_data().tokenizer.model == (tmp_path / "run/tokenizer.model").read_bytes()
    (tmp_path / "run/tokenizer.model").write_bytes(b"another")
    with pytest.raises(UserError, match=r"another tokenizer than .*: use another --name"):
        stage_data()


# --- the vocabulary ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["small", "llama"])
def vocabulary(request: pytest.FixtureRequest) -> LlamaVocabulary:
    return LlamaVocabulary(request.getfixturevalue(f"{request.param}_tokenizer"))


@pytest.fixture(scope="module")
def strings(fuzzed: Fuzz) -> list[str]:
    """Fuzzed strings, and whole source files with their newlines."""
    rng = np.random.default_rng(4)
    drawn = [fuzzed(rng, int(rng.integers(0, 80))) for _ in range(300)]
    files = [Path(module.__file__ or "").read_text(encoding="utf-8") for module in (json, types, json.decoder)]
    return ["", " ", "\n", "\n\n  x", "\r\n", "a\tb", *drawn, *files, files[0].replace("\n", "\r\n")]


def test_encode_and_encode_tf_agree(vocabulary: LlamaVocabulary, strings: list[str]):
    """With one another and with the tokenizer, for one string and for many at once."""
    expected = [vocabulary.tokenizer.encode(text).tolist() for text in strings]
    assert [vocabulary.encode(text) for text in strings] == expected
    assert vocabulary.encode_tf(tf.constant(strings)).to_list() == expected
    for text, ids in list(zip(strings, expected, strict=True))[::10]:
        encoded = vocabulary.encode_tf(tf.constant(text))
        assert encoded.dtype == tf.int32 and encoded.numpy().tolist() == ids


def test_decoding_what_was_encoded_gives_the_text_back(vocabulary: LlamaVocabulary, strings: list[str]):
    assert [vocabulary.decode(vocabulary.encode(text)) for text in strings] == strings
    ragged = vocabulary.encode_tf(tf.constant(strings[:40]))
    for ids in (ragged, ragged.to_tensor(), ragged.to_tensor(vocabulary.pad_id)):
        assert [text.decode() for text in vocabulary.decode_tf(ids).numpy()] == strings[:40]
    for text in [*strings[::10], strings[-1]]:
        decoded = vocabulary.decode_tf(vocabulary.encode_tf(tf.constant(text)))
        assert decoded.shape == () and decoded.numpy().decode() == text


def test_it_decodes_in_a_graph_with_any_number_of_axes(vocabulary: LlamaVocabulary):
    ids = vocabulary.encode_tf(tf.constant(["ab", "ab", "cd", "ab"])).to_tensor()
    for shape, expected in (((4,), [b"ab", b"ab", b"cd", b"ab"]), ((2, 2), [[b"ab", b"ab"], [b"cd", b"ab"]])):
        reshaped = tf.reshape(ids, (*shape, -1))
        decode = tf.function(vocabulary.decode_tf, input_signature=[tf.TensorSpec((*shape, None), tf.int32)])
        assert decode(reshaped).numpy().tolist() == expected
    dataset = tf.data.Dataset.from_tensors("a b").map(vocabulary.encode_tf).map(vocabulary.decode_tf)
    assert list(dataset.as_numpy_iterator()) == [b"a b"]


def test_rows_beyond_the_pieces_have_no_text(vocabulary: LlamaVocabulary):
    tokenizer = vocabulary.tokenizer
    assert vocabulary.vocab_size == tokenizer.rows == tokenizer.pieces + 16
    ids = [1, tokenizer.prefix_id, *tokenizer.encode("a <EOT>"), tokenizer.eot_id, tokenizer.step_id, 2]
    assert vocabulary.decode(ids) == "a <EOT>"
    assert vocabulary.decode_tf(tf.constant(ids)).numpy() == b"a <EOT>"
    assert (vocabulary.bos_id, vocabulary.eos_id, vocabulary.unk_id) == (1, 2, 0)


def test_vocabularies_of_one_tokenizer_are_equal(small_tokenizer: Tokenizer):
    """As SeqIO asks: a mixture refuses tasks whose vocabularies differ."""
    one, other = LlamaVocabulary(small_tokenizer), LlamaVocabulary(Tokenizer(small_tokenizer.model, infilling=True))
    assert one == other and hash(one) == hash(other)
    assert one != LlamaVocabulary(Tokenizer(small_tokenizer.model, infilling=False))
