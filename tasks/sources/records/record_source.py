"""Source over record files: JSON lines, Parquet, TFRecord, and datasets that TFDS has prepared.

tasks/sources/records/record_fields.py lists the fields that are recognized. A shard is the smallest part of a file that
can be read by itself: Corpus.shuffle_bytes of plain JSON lines, a row group of Parquet, or a complete file of the other
formats. A block is consecutive records of about Corpus.shuffle_bytes.
"""

import bisect
import concurrent.futures
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from codellama_jax.config.data import NAMED, STOP, Corpus, Filters
from codellama_jax.errors import UserError
from tasks.sources import inventory
from tasks.sources.base import (
    READING_RULES,
    Block,
    Sample,
    Source,
    binding,
    changed,
    hash_of,
    left_out_text,
    read_first,
)
from tasks.sources.documents import check_document_characters, grouped, parts
from tasks.sources.duplicates import FilesRead, Identity, check_not_repeated
from tasks.sources.files import UNKNOWN_SIZE, Found
from tasks.sources.filters import LeftOut
from tasks.sources.inventory import PlaceInventory
from tasks.sources.named_splits import COLUMNS
from tasks.sources.records.find_record_files import DATASET, RecordFiles, find_files, with_size
from tasks.sources.records.record_fields import (
    REPOSITORY,
    FieldChoice,
    choose_fields,
    dialogue_of,
    document_of,
    repository_of,
    select_fields,
)
from tasks.sources.records.record_file import Damaged, DamagedFile, Format, Record, RecordLocation, layout_of
from tasks.sources.records.record_formats import open_file
from tasks.sources.records.record_splits import RecordSplit, split_files
from tasks.sources.records.repository_files import expanded
from tasks.sources.splits import EmptySplit, check_split, validation_keys

# A corpus of at most this many bytes is read completely when it is opened, so that neither split is empty
# (splits.validation_keys).
SMALL = 4 << 20
# Number of shards, besides the first, in which a large corpus is searched for records that name their split.
SAMPLED_SHARDS = 31


def open_records(
    path: str,
    split: str,
    *,
    name: str,
    corpus: Corpus,
    settings: Filters,
    found: RecordFiles | None = None,
    files_read: FilesRead | None = None,
) -> Source:
    """Opens the records of a path: Source[Dialogue] for the stream instruct, else Source[Document].

    Args:
        path: a record file, a pattern of such files, a folder, or tfds:NAME?data_dir=DIR&split=SPLIT (prepared by TFDS
            as TFRecord; the default split of the dataset is train). Local or remote.
        split: train or validation.
        name: name of the stream.
        corpus: how records are read, split and cut.
        settings: which records are removed.
        found: the record files of the path; None lists them.
        files_read: the files that earlier places of the stream read. They are not read again.

    Raises:
        UserError: there are no such files, they cannot be read, they are damaged and Corpus.on_damage is "stop",
            earlier places read all of them, or they have no usable record for this split.
        ValueError: no such split.
    """
    where = f"{binding(name)}={path}"
    check_split(split, corpus)
    columns: dict[str, None] = {}

    def select(names: Sequence[str], location: RecordLocation) -> list[str]:
        read = select_fields(name, corpus, names, location)
        columns.update(dict.fromkeys(names))
        return [*read, *(column for column in COLUMNS if column in names and column not in read)]

    def open_format(file: Found) -> Format:
        try:
            return open_file(with_size(file), corpus.shuffle_bytes, select)
        except Damaged as damage:
            if corpus.on_damage == STOP:
                raise _damage_error(where, damage) from None
            return DamagedFile(damage)

    found = found or find_files(path, where, settings)
    splits = split_files(found, corpus, where)
    new, repeated = (files_read or FilesRead()).add(path, splits.read)
    check_not_repeated(where, new, repeated)
    chosen, single = splits.of(split, new)
    if not chosen:
        reason = "all of its files are for validation" if split == "train" else "none of its files is for validation"
        raise EmptySplit(f"{where}: no file for {split}: {reason} ({splits.by_split['validation'][0].path}, ...)")
    with concurrent.futures.ThreadPoolExecutor(
        32
    ) as pool:  # each size of a remote file and each footer is a slow request
        formats = list(pool.map(open_format, chosen))
    sized = {form.file.path: form.file for form in formats}
    kind = "TFDS dataset" if found.kind == DATASET else "records"
    read = [sized.get(file.path, file) for file in new]
    place = inventory.of_listing(name, path, kind, read, found.listing, repeated)
    if splits.note:
        place = place.noted(splits.note)
    if splits.named:
        place = dataclasses.replace(place, splits=splits.counts)
    return Records(
        formats,
        split,
        name=name,
        corpus=corpus,
        settings=settings,
        where=where,
        single_split=single,
        named_files=splits.named,
        place=place,
        columns=columns,
    )


class Records:
    """A Source over record files.

    Attributes:
        dialogues: whether the records are read as dialogues.
    """

    def __init__(
        self,
        formats: Sequence[Format],
        split: str,
        *,
        name: str,
        corpus: Corpus,
        settings: Filters,
        where: str,
        place: PlaceInventory,
        single_split: bool = False,
        named_files: bool = False,
        dialogues: bool | None = None,
        columns: Iterable[str] = (),
    ):
        """Reads as far as the first usable record, or all records of a small corpus.

        Args:
            formats: the files.
            split, name, corpus, settings: see open_records.
            where: the setting that error messages name.
            place: the inventory of the files.
            single_split: all records belong to this split.
            named_files: the names of the files decide the split.
            dialogues: whether records are dialogues; None: those of the stream instruct are.
            columns: names of all columns, as far as they are known. A dictionary may gain names while records are read.

        Raises:
            UserError: as open_records does.
            ValueError: no such split.
        """
        check_document_characters(corpus)
        check_split(split, corpus)
        self.name = name
        self._formats, self._split, self._corpus, self._settings, self._where = formats, split, corpus, settings, where
        self._ends = list(itertools.accumulate(map(len, formats)))
        self._records = RecordSplit(split, corpus, single_split)
        self._named_files = named_files
        self.dialogues = name == "instruct" if dialogues is None else dialogues
        self._columns: dict[str, None] | None = columns if isinstance(columns, dict) else dict.fromkeys(columns)
        self._find_column()
        if split == "validation" and not corpus.validation_share and not self._records.own_validation:
            raise EmptySplit(f"{where}: validation is empty, since Corpus.validation_share is 0")
        documents = None
        if not single_split and self._is_small():
            documents = self._set_validation_keys()
        sample = read_first(self)
        if not sample.documents:
            kind = "dialogue" if self.dialogues else "document"
            count = f"{len(formats)} file{'s' * (len(formats) != 1)}"
            other = f"; {documents:,} are in the other split" if documents else ""
            raise EmptySplit(f"{where}: no usable {kind} for {split} in {count}{other}{left_out_text(sample.left_out)}")
        self._place = self._described(place, sample, documents)
        self._columns = None  # the inventory has them

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, shard: int, skip: int = 0) -> Iterator[Block]:
        for records in itertools.islice(self._record_blocks(shard), skip, None):
            selected, left_out = self._select(records, self._records.contains)
            items = [item for _, item in selected]
            rewritten = [] if self.dialogues else changed(items)
            if not self.dialogues:
                documents = grouped(items) if self._corpus.group_by_repository else items
                items = [part for document in documents for part in parts(document, self._corpus.document_characters)]
            yield Block(items, left_out, rewritten)

    def fingerprint(self) -> str:
        corpus = self._corpus
        rules: tuple = (
            *("records", self._split, corpus.validation_share, corpus.shuffle_bytes, corpus.document_characters),
            # Corpus.on_damage is not included: up to the damage, both of its values give the same documents
            *(corpus.group_by_repository, self._settings),
            *self._records.rules(self._named_files and self._records.single),
            *(() if self.dialogues else (READING_RULES, corpus.fields(self.name), corpus.metadata_line)),
        )
        if self.dialogues and corpus.dialogue_fields:
            rules += (tuple(corpus.dialogue_fields),)
        return hash_of(self.name, rules, ((form.file.path + layout_of(form), form.file.size) for form in self._formats))

    def inventory(self) -> Sequence[PlaceInventory]:
        return [self._place]

    def place(self, shard: int) -> int:
        return 0

    def file_splits(self) -> Mapping[Identity, str]:
        # With a hash, the path of a file is part of the split key of its records.
        files = (form.file for form in self._formats)
        by_hash = not self._records.own_validation
        return {
            file.identity: f"the hash of {file.path}" if by_hash else self._split
            for file in files
            if file.identity is not None
        }

    def _record_blocks(self, shard: int) -> Iterator[list[Record | Damaged]]:
        """The unparsed blocks of a shard. Damage that ends the shard early is the last entry of its block."""
        index = bisect.bisect_right(self._ends, shard)
        records = self._formats[index].read(shard - (self._ends[index - 1] if index else 0))
        block: list[Record | Damaged] = []
        size = 0
        try:
            for record in records:
                block.append(record)
                size += record.size
                if size >= self._corpus.shuffle_bytes:
                    yield block
                    block, size = [], 0
        except Damaged as damage:
            block.append(damage)
        if block:
            yield block

    def _select(
        self, records: Iterable[Record | Damaged], in_split: Callable[[str, Mapping[str, Any]], bool]
    ) -> tuple[list[tuple[str, Any]], list[tuple[str, object]]]:
        """(split key, item) of the records whose key is in the split, and the records that filters remove from them.

        Records that cannot be parsed are counted in both splits: their key is not known.
        """
        selected: list[tuple[str, Any]] = []
        left_out: list[tuple[str, object]] = []
        for record in expanded(records):
            try:
                if isinstance(record, Damaged):
                    raise record
                fields = record.fields()
                if self._columns is not None:
                    self._columns |= dict.fromkeys(fields)
                key = repository_of(fields, self.name, self._corpus) or record.location.key
                if in_split(key, fields):
                    if self.dialogues:
                        item: Any = dialogue_of(fields, record.location, self._corpus, self._settings)
                    else:
                        item = document_of(fields, record.location, self.name, self._corpus, self._settings)
                    selected.append((key, item))
            except LeftOut as error:
                left_out.append((error.reason, record.location))
            except Damaged as damage:
                if self._corpus.on_damage == STOP:
                    raise _damage_error(self._where, damage) from None
                left_out.append(("damaged", damage.location))
        return selected, left_out

    def _find_column(self) -> None:
        """Finds out whether records name splits, from the first blocks of a few shards."""
        columns = self._columns or COLUMNS
        if self._records.single or self._corpus.splits != NAMED or set(COLUMNS).isdisjoint(columns):
            return
        spread = {(len(self) - 1) * index // SAMPLED_SHARDS for index in range(SAMPLED_SHARDS + 1)}
        for shard in sorted(spread) if len(self) else ():
            fields = map(_fields_or_none, next(self._record_blocks(shard), []))
            records = [record for record in fields if record is not None]
            self._records.find(records)
            if self._records.has_validation or (records and not self._records.column):
                return

    def _set_validation_keys(self) -> int:
        """Finds the split keys of validation in a small corpus, so that neither split is empty.

        Returns:
            the number of documents of both splits.
        """
        blocks = itertools.chain.from_iterable(map(self._record_blocks, range(len(self))))
        keys = [key for records in blocks for key, _ in self._select(records, self._records.anywhere)[0]]
        if not self._records.has_validation:
            self._records.keys = frozenset(validation_keys(keys, self._split, self._corpus, self._where))
        return len(keys)

    def _described(self, place: PlaceInventory, sample: Sample, documents: int | None) -> PlaceInventory:
        """The inventory with what reading has shown."""
        choice = FieldChoice(place.fields, place.ignored_fields)
        if not place.fields:
            choice = self._choice(list(self._columns or ()))
        empty = [form.file.path for form in self._formats if not len(form)]
        if empty:
            place = place.noted(f"empty: {', '.join(empty[:3])}" + f", and {len(empty) - 3:,} more" * (len(empty) > 3))
        if documents is not None:
            place = place.counted(documents, sample.left_out, inventory.IN_BOTH_SPLITS)
        else:
            place = place.counted(sample.documents, sample.left_out, inventory.ON_OPENING)
        by = place.split_by or self._records.description(self._named_files)
        return dataclasses.replace(
            place,
            fields=dict(choice.taken),
            ignored_fields=choice.ignored,
            split_by=by,
        )

    def _choice(self, names: Sequence[str]) -> FieldChoice:
        """The fields that are read, of the columns of files or the fields of the records that were read."""
        taken: dict[str, str] = {}
        ignored = tuple(names)
        if self.dialogues and names:
            read = select_fields("instruct", self._corpus, names, RecordLocation(self._formats[0].file))
            taken = {"messages": ", ".join(name for name in read if name not in REPOSITORY)}
            if repository := next((name for name in REPOSITORY if name in names), None):
                taken["repository"] = repository
            ignored = tuple(name for name in names if name not in read)
        elif names:
            choice = choose_fields(names, self.name, self._corpus)
            taken, ignored = dict(choice.taken), choice.ignored
        if split := next((column for column in COLUMNS if column in names), None):
            taken["split"] = split
        return FieldChoice(taken, tuple(name for name in ignored if name != taken.get("split")))

    def _is_small(self) -> bool:
        sizes = [form.file.size for form in self._formats]
        if UNKNOWN_SIZE not in sizes:
            return sum(sizes) <= SMALL
        total = 0
        for records in itertools.chain.from_iterable(map(self._record_blocks, range(len(self)))):
            total += sum(record.size for record in records if not isinstance(record, Damaged))
            if total > SMALL:
                return False
        return True


def _fields_or_none(record: Record | Damaged) -> Mapping[str, Any] | None:
    """The fields of a record; None if it is damaged."""
    try:
        return None if isinstance(record, Damaged) else record.fields()
    except Damaged:
        return None


def _damage_error(where: str, damage: Damaged) -> UserError:
    remedy = "fix it, or bind Corpus.on_damage='skip' to count it and continue"
    return UserError(f"{where}: {damage.location} is damaged: {damage.reason}; {remedy}")
