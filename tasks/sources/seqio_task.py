"""A registered SeqIO task: finding it, and reading its examples as the fields of records.

SeqIO and TensorFlow are imported when a task is looked up.
"""

import concurrent.futures
import difflib
import functools
import hashlib
import inspect
import itertools
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from codellama_jax.config.data import Corpus
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from codellama_jax.runtime.console import quiet_stderr
from tasks.sources import files
from tasks.sources.files import Found
from tasks.sources.records import dialogue_shapes
from tasks.sources.records.dialogue_shapes import LISTS, PAIRS, PROMPT_COMPLETION
from tasks.sources.records.record_fields import METADATA, REPOSITORY, metadata_fields, text_fields
from tasks.sources.records.record_file import RecordLocation, message_of
from tasks.sources.records.tf_examples import elements, tensorflow

PAIR = ("inputs", "targets")

_IMPORT = "import the module that registers it: `import my_package.tasks` in a gin file, or --import=my_package.tasks"
_BUILDING = threading.Lock()  # SeqIO keeps the seed of the next preprocessor in a global variable


def find_task(name: str, where: str) -> Any:
    """The registered seqio.Task of this name.

    Raises:
        UserError: there is none. `where` is the setting that the message names.
    """
    tensorflow()
    with quiet_stderr():
        import seqio

    if name in seqio.TaskRegistry.names():
        return seqio.TaskRegistry.get(name)
    if name in seqio.MixtureRegistry.names():
        raise UserError(f"{where}: {name} is a SeqIO mixture, not a task: name one of its tasks")
    near = difflib.get_close_matches(name, seqio.TaskRegistry.names(), 2)
    hint = f"did you mean {' or '.join(near)}? Otherwise " if near else ""
    raise UserError(f"{where}: no SeqIO task {name!r} is registered: {hint}{_IMPORT}")


class TaskReader:
    """Reads the examples of one split of a task, shard by shard.

    Attributes:
        where: the setting that error messages name.
        shards: the shards of the task's source, with sizes if they are files.
        taken: property of a document -> the feature that it is taken from, after select_features.
    """

    def __init__(self, task: Any, split: str, where: str):
        self.where = where
        self._task, self._split = task, split
        names = self._checked("list its shards", lambda: list(task.source.list_shards(split)))
        if not names:
            raise UserError(f"{where}: the split {split} of the task has no files")
        self.shards = self._with_sizes(names)
        self._spec = self._checked("build its dataset", lambda: self._dataset(0).element_spec)
        self._features: list[str] = []
        self.taken: dict[str, str] = {}

    @property
    def has_messages(self) -> bool:
        """Whether the examples have a list of messages, or prompt and completion."""
        return any(map(self._is_text, LISTS)) or all(map(self._is_text, PROMPT_COMPLETION))

    def select_features(self, dialogues: bool, stream: str, corpus: Corpus) -> None:
        """Chooses the features to read.

        Args:
            dialogues: whether the examples are dialogues.
            stream: name of the stream that reads them.
            corpus: names the features, if it binds them (Corpus.text_field, Corpus.dialogue_fields and so on).

        Raises:
            UserError: the examples have no text, or are tokenized.
        """
        if dialogues:
            bound = corpus.dialogue_fields
            options = [tuple(dict.fromkeys((bound[0], bound[-1])))] if bound else [*((name,) for name in LISTS), *PAIRS]
            required = (
                f"no {' or no '.join(options[0])} (Corpus.dialogue_fields)"
                if bound
                else "neither messages, nor prompt and completion, nor inputs and targets, nor another known shape"
            )
        else:
            names = text_fields(stream, corpus)
            options = [(name,) for name in names]
            if corpus.field("text", stream) is None:
                options += [PAIR, ("targets",)]
            required = f"none of {', '.join(dict.fromkeys(option[-1] for option in options))}"
        chosen = next((names for names in options if all(map(self._is_text, names))), None)
        if chosen is None:
            spec = self._spec if isinstance(self._spec, Mapping) else {}
            content = {name for names in options for name in names}
            tokenized = [name for name in spec if name in content and self._dtype(name).is_integer]
            if tokenized:
                kind = self._dtype(tokenized[0]).name
                raise UserError(
                    f"{self.where}: the task is already tokenized ({tokenized[0]} is {kind}), but documents are cut,"
                    " infilled and packed as text: name a task whose output is text, without"
                    " seqio.preprocessors.tokenize and append_eos"
                )
            raise UserError(
                f"{self.where}: the task's examples have {required} as a string (found: {', '.join(spec) or 'nothing'})"
            )
        self._dialogues = dialogues
        metadata = REPOSITORY if dialogues else [f for name in METADATA for f in metadata_fields(name, stream, corpus)]
        if dialogues:  # also the features that change the meaning of a dialogue, and other shapes, which must agree
            location = RecordLocation(self.shards[0])
            named = dialogue_shapes.columns(self._spec, corpus.dialogue_fields, location)
            text = [name for name in named if self._is_text(name, scalar=False) or name in dialogue_shapes.BESIDE]
            chosen = (*chosen, *(name for name in text if name not in chosen))
        self._features = [*chosen, *(name for name in metadata if self._is_text(name, scalar=False))]
        self.taken = {"messages" if dialogues else "text": ", ".join(chosen)}
        if not dialogues:
            properties = {name: metadata_fields(name, stream, corpus) for name in METADATA}
            known = {kind: [name for name in names if name in self._features] for kind, names in properties.items()}
            self.taken |= {kind: names[0] for kind, names in known.items() if names}

    @property
    def features(self) -> list[str]:
        """The features that are read."""
        return self._features

    @property
    def ignored(self) -> tuple[str, ...]:
        """The features that are not read."""
        return tuple(name for name in self._spec if name not in self._features)

    def fields(self, example: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields of an example under the names of tasks/sources/records/record_fields.py."""
        fields = dict(example)
        if not self._dialogues and "targets" in self._features:
            inputs = fields.get("inputs", b"")
            separator = b"" if not inputs or inputs.endswith(b"\n") else b"\n"
            fields["text"] = inputs + separator + fields["targets"]
        return fields

    def examples(self, shard: int) -> Iterator[dict[str, Any]]:
        """The selected features of a shard's examples, in an order that is always the same."""
        features = self._features

        def selected() -> Any:
            return self._dataset(shard).map(lambda example: {name: example[name] for name in features})

        for example in elements(self._checked("build its dataset", selected)):
            yield {name: value.tolist() if hasattr(value, "tolist") else value for name, value in example.items()}

    def identity(self) -> tuple:
        """What the examples depend on besides the shards. Its repr is the same in every process."""
        folder = _common_folder([shard.location for shard in self.shards])
        arguments = {name: value for name, value in vars(self._task.source).items() if isinstance(value, int | str)}
        source = re.sub(r" at 0x[0-9a-f]+", "", f"{self._task.source!r} {sorted(arguments.items())}")
        preprocessors = [_description(function) for function in self._task.preprocessors]
        return self._task.name, self._split, source.replace(folder, ""), preprocessors, self._features

    def _dataset(self, shard: int) -> Any:
        """The preprocessed examples of a shard."""
        import seqio

        task, count = self._task, len(self.shards)
        seed = int.from_bytes(hashlib.sha256(f"{task.name}/{shard}".encode()).digest()[:4], "big") >> 1
        with _BUILDING:
            dataset = task.source.get_dataset(
                self._split,
                shuffle=False,
                seed=seed if _accepts_seed(task.source) else None,
                shard_info=seqio.ShardInfo(index=shard, num_shards=count) if count > 1 else None,
            )
            dataset = task.preprocess_precache(dataset, seed=seed)
            return task.preprocess_postcache(dataset, sequence_length=None, seed=seed)

    def _checked(self, action: str, call: Any) -> Any:
        """The result of a call to the task's own code, whose errors become UserErrors."""
        try:
            with quiet_stderr():
                return call()
        except UserError:
            raise
        except Exception as error:
            cause = " ".join(f"{type(error).__name__}: {message_of(error)}".split())[:500]
            raise UserError(f"{self.where}: the task cannot {action} ({cause}): correct the task") from error

    def _dtype(self, name: str) -> Any:
        return getattr(self._spec[name], "dtype", None)

    def _is_text(self, name: str, scalar: bool = True) -> bool:
        """Whether a feature is a string tensor; with `scalar`, whether it is a scalar string."""
        tf = tensorflow()
        spec = self._spec.get(name) if isinstance(self._spec, Mapping) else None
        return isinstance(spec, tf.TensorSpec) and spec.dtype == tf.string and not (scalar and spec.shape.rank)

    def _with_sizes(self, names: Sequence[str]) -> list[Found]:
        import seqio

        if not isinstance(self._task.source, seqio.FileDataSource | seqio.TfdsDataSource):
            return [Found(f"{self._task.name}/{name}", name, files.UNKNOWN_SIZE, "") for name in names]
        with concurrent.futures.ThreadPoolExecutor(32) as pool:  # a request for each remote file
            sizes = list(pool.map(_size_or_unknown, names))
        folder = _common_folder(names)
        return [
            Found(f"{self._task.name}/{name.removeprefix(folder)}", name, size, "")
            for name, size in zip(names, sizes, strict=True)
        ]


def _size_or_unknown(location: str) -> int:
    try:
        return filesystem.size(location)
    except OSError:
        return files.UNKNOWN_SIZE


def _common_folder(paths: Sequence[str]) -> str:
    """The folder that all paths are below, with a slash at its end; "" for none."""
    folders = [path.split("/")[:-1] for path in paths]
    common = list(itertools.takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False)))
    return "/".join(names[0] for names in common) + "/" if common else ""


def _accepts_seed(source: Any) -> bool:
    """Whether get_dataset takes a seed: a FunctionDataSource does if its function does."""
    function = getattr(source, "_dataset_fn", None)
    return function is None or "seed" in inspect.signature(function).parameters


def _description(value: Any) -> Any:
    """A preprocessor or an argument of one as a value whose repr is the same in every process."""
    if isinstance(value, functools.partial):
        keywords = {name: _description(argument) for name, argument in sorted(value.keywords.items())}
        return _description(value.func), [_description(argument) for argument in value.args], keywords
    if value is None or isinstance(value, str | bytes | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): _description(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_description(entry) for entry in value]
    kind = value if hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"
