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

from codellama_jax.errors import UserError
from codellama_jax.tokenizer import Tokenizer
from codellama_jax.training.config import Evaluation, Stage
from tasks import config
from tasks.config import STREAMS, Chat, Corpus, Fim, Mixture, Packing
from tasks.packing import FEATURES, Packer
from tasks.quiet import quiet_stderr
from tasks.sources import Dialogue
from tasks.stream import Batch, FileOrder, Stream, task_seed

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
    return Corpus(**folders, instruct=str(root / "instruct.jsonl"), validation_share=0.4, document_characters=300)


@pytest.fixture
def register(corpus: Corpus, small_tokenizer: Tokenizer) -> Iterator[Callable[..., seqio.Mixture]]:
    """mixtures.register with settings that serve here; keywords change them. What it registered goes in the end."""
    stages = {"probe"}

    def register(stage: str = "probe", **changes: Any) -> seqio.Mixture:
        stages.add(stage)
        settings: dict[str, Any] = {
            "mixture": Mixture(SHARES),
            "corpus": corpus,
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


def encoder_of(task: seqio.Task) -> Any:
    (preprocessor,) = task.preprocessors
    return preprocessor.keywords["encoder"]


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
    assert task.source.read(0)[0].path.endswith(".py#1") or task.source.read(0)[0].path.endswith(".py")
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
    orders = [FileOrder(task.source, 0, 1, task.encoder.seed) for task in seen]
    paths = [[document.path for file in range(len(parent.source)) for document in order.read(file)] for order in orders]
    assert sorted(paths[0]) == sorted(paths[1]) and paths[0] != paths[1]
    document = parent.source.read(0)[0]
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


@pytest.mark.parametrize("mask_documents", [False, True])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_unshuffled_a_tasks_windows_are_the_packers(
    register: Callable[..., seqio.Mixture], split: str, mask_documents: bool
):
    """Byte for byte, over the same files in their natural order."""
    register(packing=Packing(mask_documents=mask_documents))
    kinds = set()
    for stream in STREAMS:
        task = seqio.get_mixture_or_task(stream)
        files = task.source.files(split)
        packer = Packer(
            lambda file, files=files: files.read(file) if file < len(files) else None,
            lambda file, document: (file, document),
            encoder_of(task),
            LENGTH,
            mask_documents,
        )
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


def test_a_dataset_gives_the_same_each_time(register: Callable[..., seqio.Mixture]):
    register()
    dataset = seqio.get_mixture_or_task("code").get_dataset({"tokens": LENGTH}, split="train", shuffle=False)
    once, again = (list(dataset.as_numpy_iterator()) for _ in range(2))
    together = list(zip(dataset.as_numpy_iterator(), dataset.as_numpy_iterator(), strict=True))
    assert len(once) == len(again) == len(together)
    for one, other, pair in zip(once, again, together, strict=True):
        for name in FEATURES:
            assert len({values[name].tobytes() for values in (one, other, *pair)}) == 1


def documents_of(source: Any, shard_info: Any = None, shuffle: bool = True) -> list[tuple[str, str, list[int]]]:
    dataset = source.get_dataset("train", shuffle=shuffle, shard_info=shard_info)
    return [
        (example["path"].decode(), (example["text"] or example["messages"]).decode(), example["key"].tolist())
        for example in dataset.as_numpy_iterator()
    ]


@pytest.mark.parametrize("stream", ["code", "instruct"])
def test_shuffled_documents_come_as_in_the_trainers_first_epoch(register: Callable[..., seqio.Mixture], stream: str):
    """With the keys that the trainer draws their infilling by."""
    register()
    source = seqio.get_mixture_or_task(stream).source
    files = source.files("train")
    order = FileOrder(files, 0, 1, task_seed(3, f"probe/{stream}"))
    expected = [
        (
            document.path,
            json.dumps(document.messages) if isinstance(document, Dialogue) else document.text,
            list(order.key(file, number)),
        )
        for file in range(len(files))
        for number, document in enumerate(order.read(file))
    ]
    assert documents_of(source) == expected
    natural = documents_of(source, shuffle=False)
    assert sorted(path for path, _, _ in natural) == sorted(path for path, _, _ in expected)
    assert [path for path, _, _ in natural] != [path for path, _, _ in expected]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("shards", [2, 5])
def test_shards_share_the_documents_out(register: Callable[..., seqio.Mixture], shards: int, shuffle: bool):
    """Each document is in one of them, with the key that it has in the whole."""
    register()
    source = seqio.get_mixture_or_task("code").source
    parts = [documents_of(source, seqio.ShardInfo(index, shards), shuffle) for index in range(shards)]
    assert sorted(document for part in parts for document in part) == sorted(documents_of(source, shuffle=shuffle))
    assert all(parts)


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
        tokenizer=config.Tokenizer(model=str(model)),
        mixture=Mixture(SHARES),
        fim=Fim(),
        packing=Packing(),
        stream=config.Stream(seed=3, lanes=4),
        chat=Chat(),
    )
    (tmp_path / "run").mkdir()
    return lambda host=0, hosts=1: StageData(parts, tmp_path / "run", host, hosts, lambda line: None)


def same(one: Batch, other: Batch) -> bool:
    return all(np.array_equal(one.arrays[name], other.arrays[name]) for name in FEATURES) and np.array_equal(
        one.state.positions, other.state.positions
    )


def through_a_checkpoint(data: StageData, stream: Stream, batch: Batch) -> dict[str, Any]:
    return json.loads(json.dumps(data.saved(batch.state, stream.fingerprint())))


def test_a_saved_state_is_json_and_resumes(stage_data: Callable[..., StageData]):
    data = stage_data()
    stream = data.stream("train")
    batches = [stream.next_batch() for _ in range(12)]
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
