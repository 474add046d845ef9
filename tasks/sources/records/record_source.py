"""Source over record files: JSON lines, Parquet, TFRecord, and datasets that TFDS has prepared.

tasks/sources/records/record_fields.py lists the fields that are recognized. A shard is the smallest part of a file that
can be read by itself: Corpus.shuffle_bytes of plain JSON lines, a row group of Parquet, or a complete file of the other
formats. A block is consecutive records of about Corpus.shuffle_bytes.
"""

import bisect
import concurrent.futures
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from codellama_jax.config.data import STOP, Corpus, Filters
from codellama_jax.errors import UserError
from tasks.sources.base import Block, Source, binding, has_documents, hash_of, left_out_summary
from tasks.sources.documents import check_document_characters, grouped, parts
from tasks.sources.files import UNKNOWN_SIZE, Found
from tasks.sources.filters import LeftOut
from tasks.sources.records.find_record_files import find_files, with_size
from tasks.sources.records.record_fields import dialogue_of, document_of, repository_of, select_fields
from tasks.sources.records.record_file import Damaged, DamagedFile, Format, Record, layout_of
from tasks.sources.records.record_formats import open_file
from tasks.sources.records.repository_files import expanded
from tasks.sources.splits import EmptySplit, check_split, hash_fraction, validation_keys

# A corpus of at most this many bytes is read completely when it is opened, so that neither split is empty
# (splits.validation_keys).
SMALL = 4 << 20


def open_records(path: str, split: str, *, name: str, corpus: Corpus, settings: Filters) -> Source:
    """Opens the records of a path: Source[Dialogue] for the stream instruct, else Source[Document].

    Args:
        path: a record file, a pattern of such files, a folder, or tfds:NAME?data_dir=DIR&split=SPLIT (prepared by TFDS
            as TFRecord; the default split of the dataset is train). Local or remote.
        split: train or validation.
        name: name of the stream.
        corpus: how records are read, split and cut.
        settings: which records are removed.

    Raises:
        UserError: there are no such files, they cannot be read, they are damaged and Corpus.on_damage is "stop", or
            they have no usable record for this split.
        ValueError: no such split.
    """
    where = f"{binding(name)}={path}"
    select = functools.partial(select_fields, name == "instruct")

    def open_format(file: Found) -> Format:
        try:
            return open_file(with_size(file), corpus.shuffle_bytes, select)
        except Damaged as damage:
            if corpus.on_damage == STOP:
                raise _damage_error(where, damage) from None
            return DamagedFile(damage)

    with concurrent.futures.ThreadPoolExecutor(
        32
    ) as pool:  # each size of a remote file and each footer is a slow request
        formats = list(pool.map(open_format, find_files(path, where, settings)))
    return Records(formats, split, name=name, corpus=corpus, settings=settings, where=where)


class Records:
    """A Source over record files."""

    def __init__(
        self,
        formats: Sequence[Format],
        split: str,
        *,
        name: str,
        corpus: Corpus,
        settings: Filters,
        where: str,
        single_split: bool = False,
        dialogues: bool | None = None,
    ):
        """Reads as far as the first usable record, or all records of a small corpus.

        Args:
            formats: the files.
            split, name, corpus, settings: see open_records.
            where: the setting that error messages name.
            single_split: all records belong to this split.
            dialogues: whether records are dialogues; None: those of the stream instruct are.

        Raises:
            UserError: as open_records does.
            ValueError: no such split.
        """
        check_document_characters(corpus)
        check_split(split, corpus)
        self.name = name
        self._formats, self._split, self._corpus, self._settings, self._where = formats, split, corpus, settings, where
        self._ends = list(itertools.accumulate(map(len, formats)))
        self._single_split = single_split
        self._dialogues = name == "instruct" if dialogues is None else dialogues
        if split == "validation" and not corpus.validation_share and not single_split:
            raise EmptySplit(f"{where}: validation is empty, since Corpus.validation_share is 0")
        self._validation = self._validation_keys() if not single_split and self._is_small() else None
        if not has_documents(self):
            kind = "dialogue" if self._dialogues else "document"
            count = f"{len(formats)} file{'s' * (len(formats) != 1)}"
            raise EmptySplit(f"{where}: no usable {kind} for {split} in {count}{left_out_summary(self)}")

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, shard: int, skip: int = 0) -> Iterator[Block]:
        for records in itertools.islice(self._record_blocks(shard), skip, None):
            selected, left_out = self._select(records, self._in_split)
            items = [item for _, item in selected]
            if not self._dialogues:
                documents = grouped(items) if self._corpus.group_by_repository else items
                items = [part for document in documents for part in parts(document, self._corpus.document_characters)]
            yield Block(items, left_out)

    def fingerprint(self) -> str:
        corpus = self._corpus
        rules = (
            *("records", self._split, corpus.validation_share, corpus.shuffle_bytes, corpus.document_characters),
            # Corpus.on_damage is not included: up to the damage, both of its values give the same documents
            *(corpus.group_by_repository, self._settings),
        )
        return hash_of(self.name, rules, ((form.file.path + layout_of(form), form.file.size) for form in self._formats))

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
        self, records: Iterable[Record | Damaged], in_split: Callable[[str], bool]
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
                key = repository_of(fields) or record.location.key
                if in_split(key):
                    if self._dialogues:
                        item: Any = dialogue_of(fields, record.location, self._settings)
                    else:
                        item = document_of(fields, record.location, self.name, self._settings)
                    selected.append((key, item))
            except LeftOut as error:
                left_out.append((error.reason, record.location))
            except Damaged as damage:
                if self._corpus.on_damage == STOP:
                    raise _damage_error(self._where, damage) from None
                left_out.append(("damaged", damage.location))
        return selected, left_out

    def _in_split(self, key: str) -> bool:
        if self._single_split:
            return True
        if self._validation is None:
            validation = hash_fraction(key, "split") < self._corpus.validation_share
        else:
            validation = key in self._validation
        return validation == (self._split == "validation")

    def _validation_keys(self) -> frozenset[str]:
        """The split keys of validation in a small corpus. Neither split is empty."""
        blocks = itertools.chain.from_iterable(map(self._record_blocks, range(len(self))))
        keys = [key for records in blocks for key, _ in self._select(records, lambda _: True)[0]]
        return frozenset(validation_keys(keys, self._split, self._corpus, self._where))

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


def _damage_error(where: str, damage: Damaged) -> UserError:
    remedy = "fix it, or bind Corpus.on_damage='skip' to count it and continue"
    return UserError(f"{where}: {damage.location} is damaged: {damage.reason}; {remedy}")
