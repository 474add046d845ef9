"""Settings of the data, as plain dataclasses that gin files and flags bind. This module imports no TensorFlow."""

import dataclasses
import math
from collections.abc import Sequence

from codellama_jax.config import locations

# The streams a stage may mix, in the order of their ids in `stream_ids`.
STREAMS = ("code", "python", "nl_code", "nl", "instruct")
SPLITS = ("train", "validation")

Paths = str | Sequence[str] | None
FieldName = str | dict[str, str] | None

# The properties of a record whose field a setting can name: Corpus.text_field and so on.
FIELDS = ("text", "path", "language", "repository", "licence")

# The values of Corpus.on_damage.
STOP, SKIP = "stop", "skip"
# The values of Corpus.splits.
NAMED, HASH = "named", "hash"
# The values of Corpus.held_out; HASH is one of them too.
NEWEST = "newest"
# The values of Packing.long_dialogues.
LAST_TURNS, LEAVE_OUT = "last_turns", "leave_out"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Where the documents of each stream come from, and how they are divided.

    Attributes:
        code, python, nl_code, nl, instruct: a path or a sequence of paths, local or gs://: a folder of text files, a
            record file (.jsonl, .json, .csv, .parquet, .arrow, .tfrecord; docs/data.md), a pattern of such files
            ("gs://b/c/*.parquet"), or a folder of them; tfds:NAME for a dataset of TFDS; seqio:NAME for a registered
            SeqIO task (tasks/sources/records/record_fields.py lists the columns that are read). None is the embedded
            corpus, text that every machine with Python has (tasks/sources/embedded/corpus.py), whose name in a sequence
            is embedded:library; embedded:exercises are generated functions (tasks/sources/embedded/exercises.py).
        validation_share: share of the documents in validation, chosen by a hash: of the repository, if a record names
            one or group_by_repository is set, otherwise of the file's path or the record's location. Curated datasets,
            SeqIO tasks with a validation split, and records with named splits keep their own splits.
        splits: "named" honours the splits that the names of record files and folders give, or a column of the records
            (tasks/sources/named_splits.py): files for testing are not read, and files for validation, if there are any,
            are the validation split. "hash" reads all of them and divides them by the hash.
        held_out: how the files of folders are divided: "hash", or "newest", which holds out files of a repository that
            changed last, by the history of git, or by the time of modification without git
            (tasks/sources/newest_files.py). Files for training that are nearly equal to a held-out one are left out.
            Records and generated corpora are divided by the hash.
        document_characters: files longer than this are cut at line ends into documents of at most this many
            characters; None does not cut, as in the paper. Size local sets a limit (ours): its windows have
            256 tokens, which few source files fit, and infilling is applied only to documents that fit.
        group_by_repository: the files of a repository become one document, each file after a line with its path. A
            repository is the nearest folder with .git, or else the first folder below the corpus; for records, it is
            consecutive records with the same repository.
        neighbour_bytes: consecutive files of a folder, in the order of folders and names, stay together in runs of this
            many bytes: a run is read in order, and the runs are shuffled. 0: single files are shuffled.
        ignored_by_git: whether to read the files of a checkout that git ignores, such as an installed environment.
        shuffle_bytes: the records of a file are read and shuffled in blocks of this many bytes. With
            group_by_repository, also the maximum size of a repository's document.
        dialogue_fields: the fields of a dialogue in a record: one with a list of messages, ("messages",), or those of
            the user's text and of the answer, ("question", "answer"); fields between the two are appended to the user's
            text. None recognizes common shapes (tasks/sources/records/dialogue_shapes.py).
        on_damage: "stop" ends the run at a damaged file or record and names it; "skip" counts it and continues.
        text_field, path_field, language_field, repository_field, licence_field: the field of a record that holds this
            property: a name for all streams, or {stream: name}. None chooses among the names that public corpora use.
            A record without the field is damaged.
        metadata_line: whether to remove a line such as "<reponame>a/b<filename>c.py<gh_stars>10-100" before a text,
            and to use its repository and path (tasks/sources/metadata_line.py).
        key_characters: length of the longest documents of embedded:keys (tasks/sources/embedded/keys.py); 700 is about
            250 tokens. document_characters does not cut them.
    """

    code: Paths = None
    python: Paths = None
    nl_code: Paths = None
    nl: Paths = None
    instruct: Paths = None
    validation_share: float = 0.05
    splits: str = NAMED
    held_out: str = HASH
    document_characters: int | None = None
    group_by_repository: bool = False
    neighbour_bytes: int = 0
    ignored_by_git: bool = True
    shuffle_bytes: int = 1 << 20
    dialogue_fields: Sequence[str] | None = None
    on_damage: str = STOP
    text_field: FieldName = None
    path_field: FieldName = None
    language_field: FieldName = None
    repository_field: FieldName = None
    licence_field: FieldName = None
    metadata_line: bool = True
    key_characters: int = 700

    def __post_init__(self):
        if self.key_characters < 100:
            raise ValueError(f"Corpus.key_characters={self.key_characters} must be at least 100")
        names = self.dialogue_fields
        if names is not None and (
            isinstance(names, str) or not names or not all(isinstance(name, str) and name for name in names)
        ):
            raise ValueError(
                f"Corpus.dialogue_fields={names!r} must be names of fields, such as ('messages',) or"
                " ('question', 'answer'), or None"
            )
        if self.on_damage not in (STOP, SKIP):
            raise ValueError(f"Corpus.on_damage={self.on_damage!r} must be 'stop' or 'skip'")
        if self.splits not in (NAMED, HASH):
            raise ValueError(f"Corpus.splits={self.splits!r} must be 'named' or 'hash'")
        if self.held_out not in (HASH, NEWEST):
            raise ValueError(f"Corpus.held_out={self.held_out!r} must be 'hash' or 'newest'")
        if self.held_out == NEWEST and self.group_by_repository:
            raise ValueError(
                "Corpus.held_out='newest' divides the files of a repository, which Corpus.group_by_repository=True"
                " joins: bind one of them otherwise"
            )
        if self.neighbour_bytes < 0:
            raise ValueError(f"Corpus.neighbour_bytes={self.neighbour_bytes} must not be negative")
        if self.neighbour_bytes and self.group_by_repository:
            raise ValueError(
                "Corpus.neighbour_bytes orders the files that Corpus.group_by_repository=True joins into one document:"
                " bind one of them otherwise"
            )
        if self.shuffle_bytes < 1:
            raise ValueError(f"Corpus.shuffle_bytes={self.shuffle_bytes} must be at least 1")
        for name in FIELDS:
            value = getattr(self, f"{name}_field")
            if not isinstance(value, str | dict | None) or value == "":
                raise ValueError(f"Corpus.{name}_field={value!r} must be a field name, {{stream: field name}}, or None")
            unknown = sorted(value.keys() - set(STREAMS)) if isinstance(value, dict) else []
            if unknown:
                raise ValueError(f"Corpus.{name}_field names unknown streams {unknown}: {', '.join(STREAMS)} exist")
        for stream in STREAMS:
            paths = getattr(self, stream)
            for path in (paths,) if isinstance(paths, str) else paths or ():
                if problem := locations.problem(path):
                    raise ValueError(f"Corpus.{stream}={problem}")

    def paths(self, stream: str) -> Paths:
        """The paths of a stream. Raises ValueError if there is no such stream."""
        if stream not in STREAMS:
            raise ValueError(f"stream is {stream!r}: it is one of {', '.join(STREAMS)}")
        return getattr(self, stream)

    def __hash__(self) -> int:
        return hash(repr(self))  # the mapping of a field setting has no hash

    def field(self, name: str, stream: str) -> str | None:
        """The field that holds a property of FIELDS in the records of a stream; None if none is bound."""
        value = getattr(self, f"{name}_field")
        return value.get(stream) if isinstance(value, dict) else value

    def fields(self, stream: str) -> tuple[str | None, ...]:
        """`field` for each property of FIELDS."""
        return tuple(self.field(name, stream) for name in FIELDS)


@dataclasses.dataclass(frozen=True)
class Filters:
    """Filters that exclude documents, and count them by the name of the filter (tasks/sources/filters.py).

    The paper has no such filters: all of them are ours. Text that is not UTF-8, binary or blank is always excluded.

    Attributes:
        longest_bytes: maximum size of a document in bytes; None: no limit.
        longest_line: maximum length of a line of code, in characters: longer lines are mostly data or minified code.
            None: no limit.
        generated: whether to exclude code that is marked as generated.
        ignore: patterns (fnmatch) of paths below a corpus that are not read.
        languages: programming languages to read (tasks/sources/languages.py lists them); None reads all.
    """

    longest_bytes: int | None = 1 << 20
    longest_line: int | None = 1_000
    generated: bool = True
    ignore: Sequence[str] = ("*.min.js", "*.min.css", "*/vendor/*", "*/third_party/*")
    languages: Sequence[str] | None = None

    def __post_init__(self):
        for field in ("longest_bytes", "longest_line"):
            limit = getattr(self, field)
            if limit is not None and limit < 1:
                raise ValueError(f"Filters.{field}={limit} must be at least 1, or None")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Attributes:
    model: a SentencePiece model such as Llama 2's tokenizer.model, a tokenizer.json, or a folder with one of them and
        the files beside it; None trains a SentencePiece model on the corpus, once.
    vocab_size: number of pieces of the tokenizer that is trained if `model` is None.
    infilling: whether it has infilling ids. A tokenizer.json that names tokens for infilling has its own
        (codellama_jax/tokenizer/infilling.py); otherwise rows are added after the last id: sixteen to a SentencePiece
        model (32,016 rows instead of 32,000), four to a tokenizer.json.
    infilling_tokens: the tokens of infilling in a tokenizer.json, instead of those: the names of prefix, suffix, middle
        and end, such as reserved tokens of Llama 3; empty: as described.
    bos, eos: the tokens that begin and end a text in a tokenizer.json, if the files beside it state others. "" as bos:
        texts begin without one.
    """

    model: str | None = None
    vocab_size: int = 2048
    infilling: bool = True
    infilling_tokens: Sequence[str] = ()
    bos: str | None = None
    eos: str | None = None

    def __post_init__(self):
        names = self.infilling_tokens
        if names and (isinstance(names, str) or len(names) != 4 or len(set(names[:3])) < 3):
            raise ValueError(
                f"Tokenizer.infilling_tokens={names!r} must be four names: of prefix, suffix, middle and end"
            )
        if (names or self.bos is not None or self.eos is not None) and self.model is None:
            raise ValueError("Tokenizer.bos, eos and infilling_tokens need Tokenizer.model, a tokenizer.json")
        if self.model is not None and (problem := locations.problem(self.model)):
            raise ValueError(f"Tokenizer.model={problem}")


@dataclasses.dataclass(frozen=True)
class Fim:
    """The infilling transform (arXiv 2308.12950, section 2.3). It applies to every document of text, not to dialogues.

    Attributes:
        rate: probability that a document is transformed, if it fits its window.
        psm_share: share of the transformed documents in prefix-suffix-middle order; the others are in
            suffix-prefix-middle order.
        cut: where a document may be split: before any "character", as in the paper, or before any "line" (an ablation),
            or "both": a share of the documents before lines, the others before characters.
        line_share: with cut "both", the share of the transformed documents that are split before lines.
    """

    rate: float = 0.9
    psm_share: float = 0.5
    cut: str = "character"
    line_share: float = 0.5

    def __post_init__(self):
        if self.cut not in ("character", "line", "both"):
            raise ValueError(f"Fim.cut={self.cut!r} must be 'character', 'line' or 'both'")
        for field in ("rate", "psm_share", "line_share"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"Fim.{field}={getattr(self, field)} must be between 0 and 1")


@dataclasses.dataclass(frozen=True)
class Packing:
    """How documents are packed into windows.

    Attributes:
        mask_documents: if True, the documents of a window do not attend to one another, and positions restart with
            each document. If False, attention and positions run over the complete window, as in Llama (assumption).
        queue: number of documents that a packer may hold back until they fit a window. 0 concatenates documents, as in
            the paper. With more, fewer documents are cut, so more of them can take their infilling form (ours).
            Dialogues are never cut: with more, there is less padding.
        long_dialogues: "last_turns": a dialogue that is longer than a window keeps its last turns, and is left out if
            not even one fits. "leave_out": it is left out. Both are counted (ours).
    """

    mask_documents: bool = False
    queue: int = 0
    long_dialogues: str = LAST_TURNS

    def __post_init__(self):
        if self.long_dialogues not in (LAST_TURNS, LEAVE_OUT):
            raise ValueError(f"Packing.long_dialogues={self.long_dialogues!r} must be 'last_turns' or 'leave_out'")
        if self.queue < 0:
            raise ValueError(f"Packing.queue={self.queue} must be at least 0")


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The streams that a stage mixes.

    Attributes:
        shares: stream -> share of the tokens. The shares add up to 1.
        seqio: name of a mixture in SeqIO's registry, which a module registers (Config.imports: --import=MODULE, or
            `import MODULE` in a gin file). It replaces `shares`, which stage files bind. Each of its tasks becomes a
            stream with the task's name, and its rate becomes the stream's share of the tokens. The metrics are
            loss/TASK and tokens/TASK. The id in `stream_ids` of a task named like one of STREAMS is that stream's; the
            other tasks have the ids after STREAMS, in alphabetical order. The tasks must give text or dialogues
            (tasks/sources/seqio_source.py lists the features); tokenized tasks are rejected. Documents of text are
            transformed for infilling like those of the other streams. The corpora of STREAMS are then used only to
            train a tokenizer, if Tokenizer.model is None.
    """

    shares: dict[str, float] = dataclasses.field(default_factory=dict)
    seqio: str | None = None

    def __post_init__(self):
        unknown = [name for name in self.shares if name not in STREAMS]
        if unknown:
            raise ValueError(f"Mixture.shares names unknown streams {unknown}: the streams are {', '.join(STREAMS)}")
        if not self.shares and self.seqio is not None:
            return
        if not math.isclose(sum(self.shares.values()), 1.0, abs_tol=1e-6) or min(self.shares.values()) < 0:
            raise ValueError(f"Mixture.shares={self.shares} must be shares that add up to 1")


@dataclasses.dataclass(frozen=True)
class DataLoader:
    """How the global batches are read.

    Attributes:
        seed: seed of the document order, of mixing and of infilling.
        readers: number of independent readers that together produce the global batch. It stays the same for a run, even
            if the number of hosts changes. It must divide the batch size and be a multiple of the number of hosts.
    """

    seed: int = 0
    readers: int = 8

    def __post_init__(self):
        if self.readers < 1 or self.seed < 0:
            raise ValueError(
                f"DataLoader.readers={self.readers} must be above 0, DataLoader.seed={self.seed} at least 0"
            )


TEMPLATE = "template"  # the tokenizer's own chat template
CHAT_FORMATS = ("inst", "source", TEMPLATE)


@dataclasses.dataclass(frozen=True)
class Chat:
    """The dialogue format.

    Attributes:
        format: "inst" ([INST] ... [/INST], used by 7B to 34B), "source" (Source: ..., used by 70B), or "template": the
            chat template of the files beside the tokenizer, which TOKENIZER=FOLDER names (docs/tokenizers.md).
    """

    format: str = "inst"

    def __post_init__(self):
        if self.format not in CHAT_FORMATS:
            raise ValueError(f"Chat.format={self.format!r} must be 'inst', 'source' or 'template'")
