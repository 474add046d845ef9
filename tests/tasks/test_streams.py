"""The streams of a stage: plain objects without TensorFlow, or the tasks of a mixture in SeqIO's registry."""

import dataclasses
import itertools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codellama_jax.config import data, gin_files
from codellama_jax.config.data import STREAMS, Chat, Corpus, Filters, Fim, Mixture, Packing
from codellama_jax.config.run import Config, operative_text
from codellama_jax.config.training import Evaluation, Stage
from codellama_jax.errors import UserError
from codellama_jax.runtime.console import quiet_stderr
from codellama_jax.tokenizer import Tokenizer
from tasks.loader import Batch, DataLoader
from tasks.packing import FEATURES
from tasks.stage_data import StageData
from tasks.streams import StageStreams, seqio_shares

with quiet_stderr():
    import seqio
    import tensorflow as tf

    from tasks import mixtures

ROOT = Path(__file__).parents[2]
LENGTH = 64
Fuzz = Callable[[np.random.Generator, int], str]


# --- without TensorFlow -----------------------------------------------------------------------------------------------


def test_training_data_needs_no_tensorflow(corpus: Corpus, small_tokenizer: Tokenizer, tmp_path: Path):
    """Batches of folders, JSON lines and the embedded corpus do not import it, nor does writing TensorBoard events."""
    (tmp_path / "a.model").write_bytes(small_tokenizer.model)
    flags = [f"--gin.{stream.upper()}_CORPUS={getattr(corpus, stream)}" for stream in ("code", "nl")]
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from codellama_jax.config import gin_files\n"
        "from codellama_jax.training.metrics.stage_log import TensorBoard\n"
        "from tasks.stage_data import StageData\n"
        "flags = gin_files.split_flags(sys.argv[2:])\n"
        "config = gin_files.load(flags.gin_files, flags.bindings, default_size='local').resolve()\n"
        "stage_data = StageData(config, Path(sys.argv[1]), 0, 1, print)\n"
        "stage_data.stream('train').next_batch(), stage_data.validation_batches()\n"
        "stage_data.long_windows(64), stage_data.excerpts(3)\n"
        "board = TensorBoard(Path(sys.argv[1]) / 'tensorboard', 0)\n"
        "board.write(1, {'loss': 1.0})\n"
        "board.close()\n"
        "print(sorted({'tensorflow', 'seqio', 'tensorflow_datasets'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), "--gin_file=gin/code.gin", *flags]
    command += [f"--gin.TOKENIZER={tmp_path}/a.model", "--gin.Corpus.validation_share=0.4"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout.splitlines()[-1:]) == (0, ["[]"]), run.stderr
    assert next(path.name for path in (tmp_path / "tensorboard").iterdir()).startswith("events.out.tfevents.")


# --- a mixture of SeqIO's registry ------------------------------------------------------------------------------------


LINE_END = "\x01"


@pytest.fixture(scope="module")
def text_files(tmp_path_factory: pytest.TempPathFactory, fuzzed: Fuzz) -> Path:
    """Lines for two tasks, in three and two files, train and validation; LINE_END is a line end within a text."""
    root = tmp_path_factory.mktemp("seqio")
    rng = np.random.default_rng(41)
    for task, files in (("programs", 3), ("letters", 2)):
        for split in ("train", "validation"):
            for number in range(files):
                texts = [fuzzed(rng, int(rng.integers(5, 400))).replace("\0", "") for _ in range(15)]
                # the reader of lines removes a carriage return at the end: none of a text is there
                lines = "".join(text.replace("\n", LINE_END) + LINE_END + "\n" for text in texts)
                (root / f"{task}-{split}-{number}.txt").write_text(lines, newline="")
    return root


def add_task(name: str, root: Path, **changes: Any) -> None:
    """Registers a task whose examples are the lines of root/NAME-SPLIT-*.txt."""

    def text_of(line: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"text": tf.strings.regex_replace(line, LINE_END, "\n")}

    patterns = {split: str(root / f"{name}-{split}-*.txt") for split in ("train", "validation")}
    settings: dict[str, Any] = {
        "source": seqio.TextLineDataSource(patterns),
        "preprocessors": [lambda dataset: dataset.map(text_of)],
        "output_features": {"text": seqio.Feature(seqio.PassThroughVocabulary(1), dtype=tf.string, rank=0)},
    }
    seqio.TaskRegistry.add(name, **settings | changes)


@pytest.fixture
def registered(text_files: Path) -> Iterator[None]:
    """The tasks programs and letters, and the mixture my_mixture with the rates 3 and 1."""
    for name in ("programs", "letters"):
        add_task(name, text_files)
    seqio.MixtureRegistry.add("my_mixture", [("programs", 3.0), ("letters", 1.0)])
    yield
    for name in ("programs", "letters", "programs_packed", "letters_packed"):
        seqio.TaskRegistry.remove(name)
    for name in ("my_mixture", "nested", "probe_mixture"):
        seqio.MixtureRegistry.remove(name)


@pytest.fixture
def config(small_tokenizer: Tokenizer, tmp_path: Path) -> Config:
    (tmp_path / "a.model").write_bytes(small_tokenizer.model)
    return Config(
        stage=Stage("probe", "local", None, steps=10, batch_tokens=8 * LENGTH, sequence_length=LENGTH),
        evaluation=Evaluation(batches=2),
        corpus=Corpus(shuffle_bytes=600),
        filters=Filters(),
        tokenizer=data.Tokenizer(model=str(tmp_path / "a.model")),
        mixture=Mixture({"code": 1.0}, seqio="my_mixture"),
        fim=Fim(),
        packing=Packing(queue=2),
        data_loader=data.DataLoader(seed=3, readers=4),
        chat=Chat(),
    )


def stage_data(
    config: Config, tmp_path: Path, host: int = 0, hosts: int = 1, messages: list | None = None
) -> StageData:
    return StageData(config, tmp_path, host, hosts, ([] if messages is None else messages).append)


def batches_of(loader: DataLoader, count: int) -> list[Batch]:
    return [loader.next_batch() for _ in range(count)]


@pytest.mark.usefixtures("registered")
def test_the_tasks_of_a_seqio_mixture_are_the_streams(config: Config, tmp_path: Path):
    """They have their own names, ids after the built-in streams, and rates as shares of tokens. Infilling applies."""
    messages: list[str] = []
    stage = stage_data(config, tmp_path, messages=messages)
    assert stage.stream_names == (*STREAMS, "letters", "programs")
    assert stage.shares == {"letters": 0.25, "programs": 0.75}
    (message,) = messages
    assert message == "SeqIO mixture my_mixture instead of the stage's Mixture.shares: letters 25.0%, programs 75.0%"
    loader = stage.stream("train")
    batches = batches_of(loader, 36)
    ids = Counter(index for batch in batches for index in batch.arrays["stream_ids"][:, 0].tolist())
    assert set(ids) == {5, 6} and abs(ids[6] / ids.total() - 0.75) < 0.02
    kinds = sum((counts for batch in batches for counts in batch.tokens.values()), Counter[str]())
    assert set(kinds) == {"plain", "psm", "spm", "cut"}
    assert set(loader.epochs(batches[-1].state)) == {"letters", "programs"}
    assert loader.epochs(batches[-1].state)["programs"] > 1
    assert stage.excerpts(3)[0][0] == "letters" and len(stage.validation_batches()) == 2


@pytest.mark.usefixtures("registered")
def test_a_seqio_mixture_resumes_exactly_on_any_number_of_hosts(config: Config, tmp_path: Path):
    stage = stage_data(config, tmp_path)
    loader = stage.stream("train")
    batches = batches_of(loader, 20)
    for hosts, resumed_at in itertools.product((1, 2, 4), (3, 14)):
        saved = json.loads(json.dumps(stage.saved(batches[resumed_at - 1].state, loader.fingerprint())))
        loaders = []
        for host in range(hosts):
            of_host = stage_data(config, tmp_path, host, hosts)
            loaders.append(of_host.stream("train", of_host.stream_state(saved)))
            assert loaders[-1].fingerprint() == saved["fingerprint"]
        for expected in batches[resumed_at : resumed_at + 6]:
            arrays = [loader.next_batch().arrays for loader in loaders]
            for name in FEATURES:
                assert np.array_equal(np.concatenate([part[name] for part in arrays]), expected.arrays[name])


@pytest.mark.usefixtures("registered")
def test_the_windows_of_registered_tasks_are_those_of_the_trainer(config: Config, small_tokenizer: Tokenizer):
    """mixtures.register packs the tasks of the mixture, under other names than the tasks themselves."""
    registered = mixtures.register(config, small_tokenizer)
    assert {task.name: registered.get_rate(task) for task in registered.tasks} == {
        "letters_packed": 0.25,
        "programs_packed": 0.75,
    }
    streams = StageStreams(config, small_tokenizer)
    for stream in streams.inputs("train"):
        loader = DataLoader(
            [stream],
            {stream.name: 1.0},
            seed=0,
            readers=1,
            batch_size=1,
            length=LENGTH,
            mask_documents=False,
            queue=2,
            names=streams.names,
        )
        task = seqio.TaskRegistry.get(f"{stream.name}_packed")
        (pack,) = task.preprocessors
        windows = pack(task.source.get_dataset("train", shuffle=True), {"tokens": LENGTH}).as_numpy_iterator()
        for window, batch in zip(windows, batches_of(loader, 8), strict=False):
            for name in FEATURES:
                assert np.array_equal(window[name], batch.arrays[name][0])


@pytest.mark.usefixtures("registered")
def test_rates_may_have_any_scale_and_come_from_nested_mixtures():
    seqio.MixtureRegistry.add("nested", [("my_mixture", 20.0), ("letters", 20.0)])
    assert seqio_shares("nested") == {"letters": 0.625, "programs": 0.375}


@pytest.mark.usefixtures("registered")
def test_a_task_named_like_a_stream_has_its_id(config: Config, small_tokenizer: Tokenizer, text_files: Path):
    add_task("nl", text_files, source=seqio.TextLineDataSource({"train": str(text_files / "letters-train-*.txt")}))
    seqio.MixtureRegistry.add("nested", [("nl", 1.0), ("programs", 1.0)])
    try:
        mixture = Mixture(seqio="nested")
        streams = StageStreams(dataclasses.replace(config, mixture=mixture), small_tokenizer)
        assert streams.names == (*STREAMS, "programs")
        assert streams.source("nl", "train").name == "nl"
    finally:
        seqio.TaskRegistry.remove("nl")


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    "name, message",
    [
        ("my_mixtur", "no mixture of this name: did you mean my_mixture"),
        ("unknown", "no mixture of this name: import the module that registers it, with --import=MODULE"),
        ("programs", "is a task, not a mixture: to read one task, bind a corpus such as seqio:programs"),
    ],
)
def test_an_unknown_mixture_is_an_error(config: Config, tmp_path: Path, name: str, message: str):
    with pytest.raises(UserError) as error:
        stage_data(dataclasses.replace(config, mixture=Mixture(seqio=name)), tmp_path)
    assert message in str(error.value) and str(error.value).startswith(f"Mixture.seqio={name}")


@pytest.mark.usefixtures("registered")
def test_a_tokenized_task_of_a_mixture_is_rejected(config: Config, tmp_path: Path, text_files: Path):
    def tokenized(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.map(lambda line: {"text": tf.constant([1, 2, 3])})

    feature = {"text": seqio.Feature(seqio.PassThroughVocabulary(9))}
    add_task(
        "letters_ids",
        text_files,
        preprocessors=[tokenized],
        output_features=feature,
        source=seqio.TextLineDataSource({"train": str(text_files / "letters-train-*.txt")}),
    )
    seqio.MixtureRegistry.add("nested", [("letters_ids", 1.0)])
    try:
        stage = stage_data(dataclasses.replace(config, mixture=Mixture(seqio="nested")), tmp_path)
        with pytest.raises(UserError, match=r"Mixture\.seqio=nested: task letters_ids: .*tokenized"):
            stage.stream("train")
    finally:
        seqio.TaskRegistry.remove("letters_ids")


# --- settings ---------------------------------------------------------------------------------------------------------


def test_a_flag_with_a_seqio_mixture_replaces_the_shares_of_the_stage(tmp_path: Path):
    loaded = gin_files.load(["gin/code.gin"], ["Mixture.seqio=my_mixture"], default_size="local")
    config = loaded.resolve()
    assert config.mixture.seqio == "my_mixture" and config.mixture.shares
    (tmp_path / "config.gin").write_text(operative_text(config))
    assert gin_files.load([str(tmp_path / "config.gin")], []).resolve() == config


def test_a_seqio_mixture_needs_no_shares():
    assert Mixture(seqio="my_mixture").shares == {}
    with pytest.raises(ValueError, match="must be shares that add up to 1"):
        Mixture()


def test_shares_and_a_seqio_mixture_of_the_same_level_contradict_each_other(tmp_path: Path):
    both = ["Mixture.seqio=my_mixture", "Mixture.shares={'code': 1.0}"]
    with pytest.raises(UserError, match=r"Mixture\.shares and Mixture\.seqio contradict each other"):
        gin_files.load(["gin/code.gin"], both, default_size="local")
    own = tmp_path / "own.gin"
    own.write_text("Mixture.seqio = 'my_mixture'\nMixture.shares = {'code': 1.0}\n")
    with pytest.raises(UserError, match=rf"\({own}:2 and {own}:1\): bind one of them"):
        gin_files.load(["gin/code.gin", str(own)], [], default_size="local")
    own.write_text("Mixture.seqio = None\nMixture.shares = {'code': 1.0}\n")
    assert gin_files.load(["gin/code.gin", str(own)], [], default_size="local").resolve().mixture.seqio is None


def test_runs_of_earlier_versions_can_resume():
    """A saved configuration without Mixture.seqio is equivalent to one with None."""
    text = operative_text(gin_files.load(["gin/code.gin"], [], default_size="local").resolve())
    earlier = text.replace("Mixture.seqio = None\n", "")
    assert earlier != text and gin_files.differences(earlier, text) == []
    other = text.replace("Mixture.seqio = None", "Mixture.seqio = 'my_mixture'")
    assert gin_files.differences(earlier, other) == ["Mixture.seqio: None before, 'my_mixture' now"]
