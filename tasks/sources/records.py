"""Sources over files of records: JSON lines, Parquet, TFRecord, and what TFDS has prepared.

What is recognised in a record, the first name that is there and neither null nor (but for the text) empty:

    text        content, text, code
    path        path, max_stars_repo_path, file_path, filepath, file_name
    language    lang, language, programming_language; else by the extension of the path
    repository  max_stars_repo_name, repository, repo_name, repository_name, repo
    licence     licence, license, max_stars_repo_licenses, licenses, detected_licenses; a list is joined with ", "
    dialogue    messages, a list of role and content or that as JSON; or prompt and completion

These are the columns of The Stack and StarCoderData among others.

A piece is what can be entered without reading what is before it: Corpus.shuffle_bytes of plain JSON lines, a row group
of Parquet, a whole file of the other formats. A block is consecutive records of about Corpus.shuffle_bytes.
"""

import bisect
import concurrent.futures
import dataclasses
import functools
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from codellama_jax.config.data import STOP, Corpus, Filters
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from tasks.sources import files, filters, languages
from tasks.sources.files import Found
from tasks.sources.filters import LeftOut
from tasks.sources.folder import (
    CODE_STREAMS,
    Block,
    Dialogue,
    Document,
    Message,
    Source,
    binding,
    grouped,
    hash_of,
    left_out_of,
    parts,
    usable,
)
from tasks.sources.record_formats import (
    KINDS,
    Broken,
    Damaged,
    Format,
    Record,
    RecordLocation,
    is_record_file,
    open_file,
    tensorflow,
)
from tasks.sources.splits import Unusable, check_split, share_of, validation_sides

TEXT = ("content", "text", "code")
PATH = ("path", "max_stars_repo_path", "file_path", "filepath", "file_name")
LANGUAGE = ("lang", "language", "programming_language")
REPOSITORY = ("max_stars_repo_name", "repository", "repo_name", "repository_name", "repo")
LICENCE = ("licence", "license", "max_stars_repo_licenses", "licenses", "detected_licenses")
MESSAGES, TURNS = "messages", ("prompt", "completion")
ROLES = ("system", "user", "assistant")
TFDS = "tfds:"

# Up to so many bytes, all records are looked through when a source is opened, so that no side of the split is empty.
SMALL = 4 << 20

_MAGIC = re.compile(r"[*?\[]")


def is_corpus_file(name: str) -> bool:
    """Whether a file of a folder is one of records: package.json and its like are everywhere, and are none."""
    return is_record_file(name) and not name.lower().endswith(".json")


def open_records(place: str, split: str, *, name: str, corpus: Corpus, settings: Filters) -> Source:
    """Opens the records of a place: Source[Dialogue] for the stream instruct, else Source[Document].

    Args:
        place: a file of records, a pattern of such files, a folder, or tfds:NAME?data_dir=DIR&split=SPLIT (TFDS has to
            have prepared it, as TFRecord; its split is train where none is named). Local or remote.
        split: train or validation.
        name: of the stream.
        corpus: how records are read, split and cut.
        settings: which of them are left out.

    Raises:
        UserError: there are no such files, they cannot be read, they are damaged and Corpus.on_damage is "stop", or
            they have no usable record for this split.
        ValueError: the split has another name.
    """
    where = f"{binding(name)}={place}"
    needed = functools.partial(_needed, name)

    def opened(file: Found) -> Format:
        try:
            return open_file(_sized(file), corpus.shuffle_bytes, needed)
        except Damaged as damage:
            if corpus.on_damage == STOP:
                raise _refusal(where, damage) from None
            return Broken(damage)

    found = _prepared(place.removeprefix(TFDS), where) if place.startswith(TFDS) else _found(place, where, settings)
    with concurrent.futures.ThreadPoolExecutor(32) as pool:  # sizes of remote files and footers take a while each
        formats = list(pool.map(opened, found))
    return Records(formats, split, name=name, corpus=corpus, settings=settings, where=where)


class Records:
    """A Source over formats."""

    def __init__(
        self,
        formats: Sequence[Format],
        split: str,
        *,
        name: str,
        corpus: Corpus,
        settings: Filters,
        where: str,
        one_side: bool = False,
    ):
        """Reads as far as the first usable record; all of a small corpus. See open_records.

        `one_side`: all records are of this split.
        """
        limit = corpus.document_characters
        if limit is not None and limit < 1:
            raise UserError(f"Corpus.document_characters={limit} must be at least 1, or None")
        check_split(split, corpus)
        self.name = name
        self._formats, self._split, self._corpus, self._settings, self._where = formats, split, corpus, settings, where
        self._ends = list(itertools.accumulate(map(len, formats)))
        self._one_side = one_side
        if split == "validation" and not corpus.validation_share and not one_side:
            raise Unusable(f"{where}: nothing is left for validation, since Corpus.validation_share is 0")
        small = sum(form.file.size for form in formats) <= SMALL
        self._validation = self._sides_of_validation() if small and not one_side else None
        if not usable(self):
            kind = "dialogue" if name == "instruct" else "document"
            raise Unusable(f"{where}: no usable {kind} for {split} in {_files(len(formats))}{left_out_of(self)}")

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, piece: int, skip: int = 0) -> Iterator[Block]:
        for stretch in itertools.islice(self._stretches(piece), skip, None):
            taken, left_out = self._taken(stretch, self._wanted)
            items = [item for _, item in taken]
            if self.name != "instruct":
                documents = grouped(items) if self._corpus.group_by_repository else items
                items = [part for document in documents for part in parts(document, self._corpus.document_characters)]
            yield Block(items, left_out)

    def fingerprint(self) -> str:
        corpus = self._corpus
        rules = (
            *("records", self._split, corpus.validation_share, corpus.shuffle_bytes, corpus.document_characters),
            # Corpus.on_damage is none of them: as far as a run got that stops at damage, one that skips gives the same
            *(corpus.group_by_repository, self._settings),
        )
        return hash_of(self.name, rules, ((form.file.path, form.file.size) for form in self._formats))

    def _stretches(self, piece: int) -> Iterator[list[Record | Damaged]]:
        """The blocks of a piece, unparsed. What ends a piece before its time is the last of its block."""
        index = bisect.bisect_right(self._ends, piece)
        records = self._formats[index].read(piece - (self._ends[index - 1] if index else 0))
        stretch: list[Record | Damaged] = []
        size = 0
        try:
            for record in records:
                stretch.append(record)
                size += record.size
                if size >= self._corpus.shuffle_bytes:
                    yield stretch
                    stretch, size = [], 0
        except Damaged as damage:
            stretch.append(damage)
        if stretch:
            yield stretch

    def _taken(
        self, stretch: Iterable[Record | Damaged], wanted: Callable[[str], bool]
    ) -> tuple[list[tuple[str, Any]], list[tuple[str, object]]]:
        """(what the split goes by, item) of the records that are wanted, and what is left out of them.

        What cannot be parsed is counted on both sides: whose it would be is not known.
        """
        taken: list[tuple[str, Any]] = []
        left_out: list[tuple[str, object]] = []
        for record in stretch:
            try:
                if isinstance(record, Damaged):
                    raise record
                fields = record.fields()
                repository = _known(fields, REPOSITORY)
                side = repository or record.place.key
                if wanted(side):
                    taken.append((side, self._item(fields, repository, record.place)))
            except LeftOut as refusal:
                left_out.append((refusal.reason, record.place))
            except Damaged as damage:
                if self._corpus.on_damage == STOP:
                    raise _refusal(self._where, damage) from None
                left_out.append(("damaged", damage.place))
        return taken, left_out

    def _wanted(self, side: str) -> bool:
        if self._one_side:
            return True
        if self._validation is None:
            validation = share_of(side, "split") < self._corpus.validation_share
        else:
            validation = side in self._validation
        return validation == (self._split == "validation")

    def _sides_of_validation(self) -> frozenset[str]:
        """What belongs to validation in a small corpus, by the rule of `chosen`, which leaves no side empty."""
        stretches = itertools.chain.from_iterable(map(self._stretches, range(len(self))))
        sides = [side for stretch in stretches for side, _ in self._taken(stretch, lambda _: True)[0]]
        return frozenset(validation_sides(sides, self._split, self._corpus, self._where))

    def _item(self, fields: Mapping[str, Any], repository: str, place: RecordLocation) -> Document | Dialogue:
        """Raises Damaged and LeftOut."""
        if self.name == "instruct":
            messages = _messages(fields, place)
            filters.decoded("\n".join(message["content"] for message in messages), self._settings)
            return Dialogue(messages, place.path, place)
        _needed(self.name, fields, place)
        text = next((fields[name] for name in TEXT if fields.get(name) is not None), None)
        if text is None:
            raise LeftOut("blank")
        if not isinstance(text, str | bytes):
            raise Damaged(f"its text is no text, but of type {type(text).__name__}", place)
        path = _known(fields, PATH)
        language = _known(fields, LANGUAGE)
        language = languages.named(language) or languages.of_path(path)
        if self.name == "python" and language not in ("", "Python"):
            raise LeftOut("language")
        text = filters.decoded(text, self._settings)
        if self.name in CODE_STREAMS:
            filters.check_code(text, language, self._settings)
        if path and repository and not path.startswith(f"{repository}/"):
            path = f"{repository}/{path.lstrip('/')}"
        return Document(text, path or place.path, language, repository, _known(fields, LICENCE))


# --- fields -----------------------------------------------------------------------------------------------------------


def _known(fields: Mapping[str, Any], names: Iterable[str]) -> str:
    """What the first of the fields says that says anything: in TFRecord nothing is null, but much is empty."""
    return next(filter(None, (_named(fields[name]) for name in names if name in fields)), "")


def _named(value: Any) -> str:
    """What a field says that is not the text: "" for null and for what has parts with names."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list | tuple):
        return ", ".join(filter(None, map(_named, value)))
    if value is None or isinstance(value, Mapping):
        return ""
    return str(value).encode("utf-8", "replace").decode("utf-8")  # JSON can write half of a surrogate pair


def _needed(stream: str, names: Iterable[str], place: RecordLocation) -> list[str]:
    """Those of the fields that are read. Raises Damaged if what the stream is made of is not among them."""
    names = list(names)
    if stream == "instruct":
        missing = MESSAGES not in names and not all(turn in names for turn in TURNS)
        wanted = "neither messages nor prompt and completion"
    else:
        missing, wanted = not any(name in names for name in TEXT), f"none of {', '.join(TEXT)}"
    if missing:
        listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise Damaged(f"it has {wanted} (but {listed or 'nothing'})", place)
    read = (MESSAGES, *TURNS, *REPOSITORY) if stream == "instruct" else TEXT + PATH + LANGUAGE + REPOSITORY + LICENCE
    return [name for name in names if name in read]


def _messages(fields: Mapping[str, Any], place: RecordLocation) -> list[Message]:
    """The messages of a record. Raises Damaged if it is no dialogue."""
    _needed("instruct", fields, place)
    messages = fields.get(MESSAGES)
    if messages is None:
        contents = [fields.get(turn) for turn in TURNS]
        messages = [{"role": role, "content": text} for role, text in zip(ROLES[1:], contents, strict=True)]
    elif isinstance(messages, str | bytes):
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError) as error:
            raise Damaged(f"its messages are not JSON ({error})", place) from None
    if not isinstance(messages, list) or not messages:
        raise Damaged("its messages are no list, or an empty one", place)
    return [_message(message, place) for message in messages]


def _message(message: Any, place: RecordLocation) -> Message:
    if not isinstance(message, Mapping):
        raise Damaged("a message has no role and content", place)
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str):
        raise Damaged("a message has no role and content", place)
    if role not in ROLES:
        raise LeftOut("roles")
    if isinstance(content, bytes):
        try:
            content = content.decode("utf-8")
        except UnicodeDecodeError:
            raise LeftOut("not_utf8") from None
    if not isinstance(content, str):
        raise Damaged(f"the content of a message is no text, but of type {type(content).__name__}", place)
    return {"role": role, "content": content}


def _refusal(where: str, damage: Damaged) -> UserError:
    cure = "mend it, or bind Corpus.on_damage='skip' to count it and go on"
    return UserError(f"{where}: {damage.place} is damaged: {damage.what}; {cure}")


# --- places -----------------------------------------------------------------------------------------------------------


def _found(place: str, where: str, settings: Filters) -> list[Found]:
    """The files of records of a place that is not TFDS's, sorted by path; sizes of remote ones are not asked for."""
    root = filesystem.expand_home(place)
    if files.is_folder(root, where):
        if found := files.walk(root, is_corpus_file, ignore=tuple(settings.ignore), sizes=False, where=where):
            return found
        raise UserError(f"{where}: no file of records below the folder ({KINDS})")
    if files.exists(root, where):
        if is_record_file(root):
            return [_at(root, os.path.dirname(root))]
        raise UserError(f"{where}: the file's name does not end like one of records ({KINDS})")
    fixed = _MAGIC.split(root)[0]
    if fixed == root:
        raise UserError(f"{where}: no such file or folder")
    if found := [
        _at(location, os.path.dirname(fixed)) for location in files.matching(root, where) if is_record_file(location)
    ]:
        return found
    raise UserError(f"{where}: no file of records is matched ({KINDS})")


def _at(location: str, folder: str) -> Found:
    """A file and its path below a folder."""
    path = location.removeprefix(folder).lstrip("/")
    return Found(os.fsencode(path).decode("utf-8", "replace").replace(os.sep, "/"), location, files.UNKNOWN_SIZE, "")


def _sized(file: Found) -> Found:
    if file.size != files.UNKNOWN_SIZE:
        return file
    try:
        return dataclasses.replace(file, size=filesystem.size(file.location))
    except OSError as error:
        raise UserError(f"{file.location} cannot be read ({error.strerror or error}): mend or remove it") from None


def _files(number: int) -> str:
    return f"{number} file{'s' * (number != 1)}"


def _prepared(name: str, where: str) -> list[Found]:
    """The shards of NAME?data_dir=DIR&split=SPLIT, with paths below the dataset's full name.

    Looks at files and at nothing else: neither the dataset's own code nor the network.
    """
    name, _, rest = name.partition("?")
    options = dict(option.partition("=")[::2] for option in rest.split("&") if option)
    if not name or options.keys() - {"data_dir", "split"}:
        raise UserError(f"{where}: it must be tfds:NAME, with ?data_dir=DIR and &split=SPLIT where they are wanted")
    split, data_dir = options.get("split", "train"), options.get("data_dir")
    tensorflow()
    from tensorflow_datasets.core.read_only_builder import builder_from_files

    try:
        info = builder_from_files(name, data_dir=data_dir and filesystem.expand_home(data_dir)).info
        splits = dict(info.splits)  # a plain dict, which does not take "train[:5%]" for a key
    except Exception as error:  # TFDS raises errors of its own, and whatever its parsers of metadata raise
        reason = str(error).strip().partition("\n")[0]
        cure = "prepare it with `tfds build`, or name the folder that has it: ?data_dir=DIR"
        raise UserError(f"{where}: TFDS has not prepared {name} ({reason}); {cure}") from None
    if info.file_format is not None and info.file_format.value != "tfrecord":
        cure = "prepare it with `tfds build --file_format=tfrecord`"
        raise UserError(f"{where}: {info.full_name} is prepared as {info.file_format.value}; {cure}")
    if split not in splits:
        cure = f"name one of its splits, &split={' or &split='.join(sorted(splits))}"
        raise UserError(f"{where}: {info.full_name} has no split {split!r}; {cure}")
    paths = [os.fspath(path) for path in splits[split].filepaths]
    return [Found(f"{info.full_name}/{path.rpartition('/')[2]}", path, files.UNKNOWN_SIZE, "") for path in paths]
