"""A user's own SeqIO tasks as sources: their documents, exact resume, and the tasks that are rejected."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import seqio
import tensorflow as tf
from written_folders import everything
from written_records import codes, framed, one_line, talks
from written_records import example as serialized

from codellama_jax.config.data import Chat, Corpus, Filters, Fim
from codellama_jax.errors import UserError
from codellama_jax.tokenizer import Tokenizer
from tasks import sources
from tasks.loader import DataLoader, StreamInput
from tasks.packing import Encoder
from tasks.sources import seqio_source
from tasks.sources.base import ConcatenatedSource, Document, Source
from tasks.sources.filters import TEXT_ONLY
from tasks.sources.seqio_source import open_task

TEXT = seqio.Feature(seqio.PassThroughVocabulary(size=1), add_eos=False, dtype=tf.string, rank=0)


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered tasks and mixtures are removed after each test."""
    for kind in (seqio.TaskRegistry, seqio.MixtureRegistry):
        monkeypatch.setattr(kind, "_REGISTRY", dict(kind._REGISTRY))


def opened(name: str, split: str = "train", stream: str = "code", filters: Filters = TEXT_ONLY, **corpus) -> Source:
    settings = Corpus(**({"validation_share": 0.0, "shuffle_bytes": 300} | corpus))
    return sources.open(f"seqio:{name}", stream, split, settings, filters)


def as_text(name: str, dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.map(lambda line: {name: line})


def register_lines(folder: Path, name: str = "lines", splits: tuple[str, ...] = ("train",), shards: int = 4) -> None:
    """A task over text files with a line for each document."""
    patterns = {}
    for split in splits:
        for shard in range(shards):
            (folder / f"{split}-{shard}.txt").write_text(
                "".join(f"{split} {shard} {i} {'word ' * (i % 7)}\n" for i in range(20))
            )
        patterns[split] = str(folder / f"{split}-*.txt")
    seqio.TaskRegistry.add(
        name,
        source=seqio.TextLineDataSource(patterns),
        preprocessors=[functools.partial(as_text, "text")],
        output_features={"text": TEXT},
    )


def register_function(
    examples: list[dict], name: str = "function", splits: tuple[str, ...] = ("train",), preprocessors=(), **options
) -> None:
    """A task over a function that yields these examples."""

    def dataset_fn(split: str, shuffle_files: bool) -> tf.data.Dataset:
        columns = {key: tf.constant([example[key] for example in examples]) for key in examples[0]}
        return tf.data.Dataset.from_tensor_slices(columns)

    features = {key: TEXT for key in examples[0]}
    source = seqio.FunctionDataSource(dataset_fn, splits=splits)
    seqio.TaskRegistry.add(name, source=source, preprocessors=preprocessors, output_features=features, **options)


# --- documents --------------------------------------------------------------------------------------------------------


def test_the_documents_of_every_shard_are_read(tmp_path: Path):
    register_lines(tmp_path)
    source = opened("lines")
    assert len(source) == 4
    expected = [(f"lines/train-{shard}.txt#{i + 1}", shard, i) for shard in range(4) for i in range(20)]
    documents = everything(source)
    assert [document.path for document in documents] == [path for path, _, _ in expected]
    assert all(
        document.text.startswith(f"train {s} {i} ") for document, (_, s, i) in zip(documents, expected, strict=True)
    )
    for shard in range(4):
        complete = list(source.read(shard))
        assert len(complete) > 1
        assert all(list(source.read(shard, skip)) == complete[skip:] for skip in range(len(complete) + 2))


def test_a_task_can_be_one_of_several_paths(tmp_path: Path):
    register_lines(tmp_path)
    (tmp_path / "more.jsonl").write_text('{"text": "more"}\n')
    paths = [str(tmp_path / "more.jsonl"), "seqio:lines"]
    source = sources.open(paths, "nl", "train", Corpus(validation_share=0.0), TEXT_ONLY)
    assert isinstance(source, ConcatenatedSource) and len(everything(source)) == 81


def test_columns_are_recognized_in_tf_examples(tmp_path: Path):
    records = [{**record, "licenses": "MIT"} for record in codes(40)]
    for shard in range(3):
        (tmp_path / f"{shard}.tfrecord").write_bytes(framed([serialized(record) for record in records[shard::3]]))
    description = {name: tf.io.FixedLenFeature([], tf.string) for name in records[0]}
    seqio.TaskRegistry.add(
        "stack",
        source=seqio.TFExampleDataSource({"train": str(tmp_path / "*.tfrecord")}, description),
        preprocessors=[],
        output_features={"content": TEXT},
    )
    documents = everything(opened("stack"))
    assert sorted(document.text for document in documents) == sorted(record["content"] for record in records)
    assert {document.licence for document in documents} == {"MIT"}
    assert all(document.path.startswith(f"{document.repository}/src/m") for document in documents)
    splits = [
        {d.repository for d in everything(opened("stack", s, validation_share=0.3))} for s in ("train", "validation")
    ]
    assert splits[0] and splits[1] and not splits[0] & splits[1]


@pytest.mark.parametrize(
    "example, text",
    [
        ({"text": "a", "targets": "b"}, "a"),
        ({"targets": "b", "other": "c"}, "b"),
        ({"inputs": "a", "targets": "b"}, "a\nb"),
        ({"inputs": "a\n", "targets": "b"}, "a\nb"),
        ({"inputs": "", "targets": "b"}, "b"),
    ],
)
def test_the_text_is_the_text_feature_or_inputs_and_targets(example: dict, text: str):
    register_function([example])
    assert [document.text for document in everything(opened("function"))] == [text]


def test_dialogues_are_messages_prompt_and_completion_or_inputs_and_targets(tmp_path: Path):
    expected = [[{"role": "user", "content": f"How é {i}?"}, {"role": "assistant", "content": "So."}] for i in range(5)]
    register_function([{"messages": json.dumps(messages)} for messages in expected], "messages")
    register_function([{"prompt": m[0]["content"], "completion": m[1]["content"]} for m in expected], "turns")
    register_function([{"inputs": m[0]["content"], "targets": m[1]["content"]} for m in expected], "pairs")
    for name in ("messages", "turns", "pairs"):
        assert [dialogue.messages for dialogue in everything(opened(name, stream="instruct"))] == expected
    bound = ("ask", "reply")
    register_function([{"ask": m[0]["content"], "reply": m[1]["content"], "prompt": "-"} for m in expected], "bound")
    source = opened("bound", stream="instruct", dialogue_fields=bound)
    assert [dialogue.messages for dialogue in everything(source)] == expected
    with pytest.raises(UserError, match=r"no ask or no reply .Corpus.dialogue_fields. as a string .found: messages"):
        opened("messages", stream="instruct", dialogue_fields=bound)
    register_function([{"messages": "[{}]"}], "wrong")
    with pytest.raises(UserError, match=r"seqio:wrong: wrong/train#1 is damaged: a message has no role"):
        opened("wrong", stream="instruct")


def test_filters_and_cutting_apply(tmp_path: Path):
    register_function([{"text": text} for text in ("x = 1\n" * 20, " ", "# Code generated by me. DO NOT EDIT.\n")])
    source = opened("function", filters=Filters(), document_characters=60)
    assert [document.path for document in everything(source)] == ["function/train#1#1", "function/train#1#2"]
    ((block,),) = [list(source.read(0))]
    assert [reason for reason, _ in block.left_out] == ["blank", "generated"]


def test_without_a_stream_the_source_has_the_name_of_the_task():
    """Without a stream, the examples decide between documents and dialogues, and filters for code do not apply."""
    register_function([{"text": "# Code generated by me. DO NOT EDIT.\n"}], "texts")
    register_function([{"messages": json.dumps(talks(1)[0]["messages"])}], "dialogues")
    for name, kind in (("texts", "Document"), ("dialogues", "Dialogue")):
        source = open_task(name, "train", corpus=Corpus(validation_share=0.0), filters=Filters())
        assert source.name == name and [type(item).__name__ for item in everything(source)] == [kind]


# --- splits -----------------------------------------------------------------------------------------------------------


def test_own_splits_are_used_and_test_is_never_read(tmp_path: Path):
    register_lines(tmp_path, splits=("train", "validation", "test"))
    for split in ("train", "validation"):
        documents = everything(opened("lines", split, validation_share=0.5))
        assert len(documents) == 80 and all(document.text.startswith(split) for document in documents)


@pytest.mark.parametrize("kind", ["files", "function"])
def test_without_a_validation_split_a_hash_divides_train(tmp_path: Path, kind: str):
    if kind == "files":
        register_lines(tmp_path, "task", splits=("train", "test"))
    else:
        register_function([{"text": f"text {i}"} for i in range(5)], "task", splits=("train", "test"))
    splits = [everything(opened("task", split, validation_share=0.1)) for split in ("train", "validation")]
    texts = [document.text for documents in splits for document in documents]
    assert all(splits) and len(set(texts)) == len(texts) == (80 if kind == "files" else 5)


# --- exact resume -----------------------------------------------------------------------------------------------------


@seqio.map_over_dataset(num_seeds=1)
def with_random_number(example: dict, seed: tf.Tensor) -> dict:
    number = tf.random.stateless_uniform((), seed, 0, 10**6, tf.int32)
    return {"text": tf.strings.join([example["text"], tf.strings.as_string(number)])}


def batches(source: Source, tokenizer: Tokenizer, count: int, state=None, readers: int = 4) -> Iterator:
    loader = DataLoader(
        [StreamInput("code", source, Encoder(tokenizer, Fim(rate=0.5), Chat(), (0, 1)))],
        {"code": 1.0},
        seed=0,
        readers=readers,
        batch_size=readers,
        length=48,
        mask_documents=True,
        queue=2,
        state=state,
    )
    for _ in range(count):
        yield loader.next_batch()


@pytest.mark.parametrize("kind", ["files", "function", "random"])
def test_resuming_gives_the_batches_of_an_uninterrupted_run(tmp_path: Path, small_tokenizer: Tokenizer, kind: str):
    """With more and fewer shards than readers, over several epochs, and with a preprocessor that draws numbers."""
    if kind == "files":
        register_lines(tmp_path, "task", shards=6)
    else:
        preprocessors = [with_random_number] if kind == "random" else []
        register_function([{"text": f"text {i} " * (i % 9)} for i in range(60)], "task", preprocessors=preprocessors)
    uninterrupted = list(batches(opened("task"), small_tokenizer, 40))
    assert any("psm" in batch.tokens["code"] for batch in uninterrupted)
    for step in (1, 17, 38):
        resumed = batches(opened("task"), small_tokenizer, 40 - step, uninterrupted[step - 1].state)
        for one, other in zip(uninterrupted[step:], resumed, strict=True):
            assert one.documents == other.documents
            for name, values in one.arrays.items():
                np.testing.assert_array_equal(values, other.arrays[name])


def test_random_preprocessors_repeat_their_numbers_and_differ_between_shards(tmp_path: Path):
    register_lines(tmp_path, shards=2)
    task = seqio.TaskRegistry.get("lines")
    random_task = task.replace(name="random", preprocessors=[*task.preprocessors, with_random_number])
    seqio.TaskRegistry.add_provider("random", random_task)
    texts = [document.text for document in everything(opened("random"))]
    assert texts == [document.text for document in everything(opened("random"))]
    numbers = [text.split()[-1] for text in texts]
    assert numbers[:20] != numbers[20:]


def test_the_fingerprint_covers_task_files_and_preprocessors(tmp_path: Path):
    register_lines(tmp_path)
    task = seqio.TaskRegistry.get("lines")

    def fingerprint(name: str = "lines", split: str = "train", **corpus) -> str:
        return opened(name, split, **corpus).fingerprint()

    first = fingerprint()
    assert first == fingerprint()
    different = {first, fingerprint(shuffle_bytes=9), fingerprint(document_characters=9)}
    for name, preprocessors in (
        ("same", task.preprocessors),
        ("more", [*task.preprocessors, with_random_number]),
        ("argument", [functools.partial(as_text, "content")]),
    ):
        seqio.TaskRegistry.add_provider(name, task.replace(name=name, preprocessors=preprocessors))
        different.add(fingerprint(name))
    with open(tmp_path / "train-2.txt", "a") as file:
        file.write("another line\n")
    different.add(fingerprint())
    (tmp_path / "train-4.txt").write_text("another file\n")
    pattern = str(tmp_path / "train-*.tx*")  # another one: SeqIO caches the files of a pattern
    for header_lines in (0, 1):
        source = seqio.TextLineDataSource({"train": pattern}, skip_header_lines=header_lines)
        seqio.TaskRegistry.remove("lines")
        seqio.TaskRegistry.add_provider("lines", task.replace(source=source))
        different.add(fingerprint())
    assert len(different) == 9


def test_the_fingerprint_does_not_depend_on_the_folder(tmp_path: Path):
    fingerprints = set()
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        seqio.TaskRegistry.remove("lines")
        register_lines(tmp_path / folder)
        fingerprints.add(opened("lines").fingerprint())
    assert len(fingerprints) == 1


# --- rejected tasks ---------------------------------------------------------------------------------------------------


def test_a_task_that_is_not_registered_names_the_nearest_and_the_remedy(tmp_path: Path):
    register_lines(tmp_path, "my_lines")
    with pytest.raises(
        UserError, match=r"seqio:my_line: no SeqIO task 'my_line' is registered: did you mean my_lines\?"
    ):
        opened("my_line")
    with pytest.raises(UserError, match=r"CODE_CORPUS=seqio:zzz: no SeqIO task .* --import=my_package\.tasks") as error:
        opened("zzz")
    one_line(error)


def test_a_mixture_is_not_a_task(tmp_path: Path):
    register_lines(tmp_path)
    seqio.MixtureRegistry.add("blend", [("lines", 1.0)])
    with pytest.raises(UserError, match="blend is a SeqIO mixture, not a task"):
        opened("blend")


def test_a_tokenized_task_is_rejected(tmp_path: Path):
    register_lines(tmp_path)
    task = seqio.TaskRegistry.get("lines")
    features = {"targets": seqio.Feature(seqio.ByteVocabulary())}
    steps = [functools.partial(as_text, "targets"), seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]
    seqio.TaskRegistry.add("tokens", source=task.source, preprocessors=steps, output_features=features)
    seqio.TaskRegistry.add("pretokens", source=task.source, preprocessors=steps[:1], output_features=features)
    for stream in ("code", "instruct"):
        with pytest.raises(
            UserError, match=r"seqio:tokens: the task is already tokenized \(targets is int32\)"
        ) as error:
            opened("tokens", stream=stream)
        assert "seqio.preprocessors.tokenize and append_eos" in one_line(error)
    # without these two preprocessors the task is accepted, although its output features are still those of tokens
    assert len(everything(opened("pretokens"))) == 80


def test_a_task_without_text_is_rejected():
    register_function([{"label": 1}], "labels")
    with pytest.raises(UserError, match=r"none of content, code, .*text, targets as a string \(found: label\)"):
        opened("labels")
    register_function([{"text": "a"}], "texts")
    with pytest.raises(UserError, match=r"neither messages, nor prompt and completion, nor inputs and targets"):
        opened("texts", stream="instruct")
    register_function([{"text": ["a", "b"]}], "lists")
    with pytest.raises(UserError, match=r"as a string \(found: text\)"):
        opened("lists")


def test_a_task_without_a_train_split_is_rejected():
    register_function([{"text": "a"}], splits=("validation", "test"))
    with pytest.raises(UserError, match=r"the task has no split train \(found: validation, test\)"):
        opened("function")


def test_a_task_without_files_is_rejected(tmp_path: Path):
    seqio.TaskRegistry.add(
        "missing",
        source=seqio.TextLineDataSource({"train": str(tmp_path / "none-*.txt")}),
        preprocessors=[functools.partial(as_text, "text")],
        output_features={"text": TEXT},
    )
    with pytest.raises(UserError, match=r"seqio:missing: (the split train of the task has no files|the task cannot)"):
        opened("missing")


def test_errors_of_a_task_are_one_line():
    def fails(dataset: tf.data.Dataset) -> tf.data.Dataset:
        raise KeyError("no\nsuch column")

    def fails_later(dataset: tf.data.Dataset) -> tf.data.Dataset:
        def check(example: dict) -> dict:
            with tf.control_dependencies([tf.debugging.assert_less(tf.strings.length(example["text"]), 3)]):
                return {"text": tf.identity(example["text"])}

        return dataset.map(check)

    register_function([{"text": "a"}], "fails", preprocessors=[fails])
    with pytest.raises(
        UserError, match=r"seqio:fails: the task cannot build its dataset \(KeyError: .*\): correct"
    ) as e:
        opened("fails")
    one_line(e)
    register_function([{"text": "a"}, {"text": "long"}], "later", preprocessors=[fails_later])
    with pytest.raises(
        UserError, match=r"seqio:later: example 2 of later/train cannot be read \(.*\): correct the"
    ) as e:
        everything(opened("later", shuffle_bytes=1))
    one_line(e)


def test_documents_are_plain_values():
    register_function([{"text": "é", "path": "a.py", "lang": "python"}])
    assert everything(opened("function")) == [Document("é", "a.py", "Python")]
    assert seqio_source.find_task("function", "here") is seqio.TaskRegistry.get("function")
