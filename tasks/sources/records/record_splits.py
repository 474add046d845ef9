"""The split of the record files of a place, and of a record.

In this order: the split that a record names, the split that the name of its file names, a hash of its split key
(tasks/sources/splits.py). With Corpus.splits="hash", only the hash decides.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from codellama_jax.config.data import NAMED, Corpus
from tasks.sources.files import Found
from tasks.sources.filters import LeftOut
from tasks.sources.named_splits import TEST, TRAIN, VALIDATION, divide, split_of_record
from tasks.sources.records.find_record_files import DATASET, FOLDER, RecordFiles
from tasks.sources.splits import EmptySplit, hash_fraction


@dataclasses.dataclass(frozen=True)
class FileSplits:
    """The files of a place by split.

    Attributes:
        by_split: split -> its files. Without files for validation, those of train are divided by a hash.
        named: whether the names of the files decide.
        note: a remark for the user; "" for none.
    """

    by_split: Mapping[str, list[Found]]
    named: bool = False
    note: str = ""

    def of(self, split: str, kept: Sequence[Found]) -> tuple[list[Found], bool]:
        """The files of train or validation that are among `kept`, and whether they contain only this split."""
        known = set(map(id, kept))
        files = {name: [file for file in members if id(file) in known] for name, members in self.by_split.items()}
        if files[VALIDATION]:
            return files[split], True
        return files[TRAIN], False

    @property
    def read(self) -> list[Found]:
        """The files for training and validation."""
        return self.by_split[TRAIN] + self.by_split[VALIDATION]

    @property
    def counts(self) -> dict[str, int]:
        """Split -> number of files."""
        return {split: len(files) for split, files in self.by_split.items() if files}


def split_files(path: str, found: RecordFiles, corpus: Corpus, where: str) -> FileSplits:
    """Divides the files of a place by the splits that their names give.

    A file or folder that the user names is read under any name, and so is a pattern whose files all belong to one
    split. `path` is the place.

    Raises:
        EmptySplit: the place is a folder that has only files for testing.
    """
    files = found.listing.found
    everything = FileSplits({TRAIN: files, VALIDATION: [], TEST: []})
    splits = divide([file.path for file in files]) if found.kind != DATASET else None
    if splits is None:
        folder = path.rstrip("/").rpartition("/")[2]
        named_folder = divide([folder]) if found.kind == FOLDER and corpus.splits == NAMED else None
        return dataclasses.replace(everything, note=_in_spite(named_folder[0], folder)) if named_folder else everything
    named = ", ".join(file.path for file in files[:3]) + ", ..." * (len(files) > 3)
    if corpus.splits != NAMED:
        counts = ", ".join(f"{count:,} for {split}" for split, count in Counter(splits).items() if split)
        return dataclasses.replace(everything, note=f"read in spite of their names: {counts} (Corpus.splits='hash')")
    if found.kind != FOLDER and len(set(splits)) == 1:
        return dataclasses.replace(everything, note=_in_spite(splits[0], named))
    if set(splits) == {TEST}:
        raise EmptySplit(
            f"{where}: it has only files for testing ({named}): name the files themselves to read them, or bind"
            " Corpus.splits='hash'"
        )
    by_split: dict[str, list[Found]] = {TRAIN: [], VALIDATION: [], TEST: []}
    for file, split in zip(files, splits, strict=True):
        by_split[split or TRAIN].append(file)
    unnamed = splits.count("")
    note = f"for train, because their names give no split: {unnamed:,}" if unnamed else ""
    return FileSplits(by_split, True, note)


def _in_spite(split: str, named: str) -> str:
    return f"named for {split}, and read because you name it: {named}"


class RecordSplit:
    """Decides which records belong to a split.

    Attributes:
        single: the files contain only this split.
        column: whether records that were read so far name a split.
        has_validation: whether a record of the place is known to name validation. Then no hash divides the others.
        keys: the split keys of validation, if all of them are known.
    """

    def __init__(self, split: str, corpus: Corpus, single: bool):
        self.split, self.single = split, single
        self.column = self.has_validation = False
        self.keys: frozenset[str] | None = None
        self._corpus = corpus

    def named(self, fields: Mapping[str, Any]) -> str:
        """The split that a record names; "" for none, and with Corpus.splits="hash"."""
        return split_of_record(fields) if self._corpus.splits == NAMED else ""

    def contains(self, key: str, fields: Mapping[str, Any]) -> bool:
        """Whether a record with this split key belongs to the split.

        Raises:
            LeftOut: it belongs to a split that the place does not read.
        """
        named = self.named(fields)
        if named == TEST:
            raise LeftOut("test_split")
        if named == VALIDATION and self.split == TRAIN and (self.single or not self._corpus.validation_share):
            raise LeftOut("validation_split")  # from a build, and from a file that is named for training
        if self.single:
            return True
        if named == VALIDATION or self.has_validation:
            return (named == VALIDATION) == (self.split == VALIDATION)
        if self.keys is None:
            validation = hash_fraction(key, "split") < self._corpus.validation_share
        else:
            validation = key in self.keys
        return validation == (self.split == VALIDATION)

    @property
    def own_validation(self) -> bool:
        """Whether the data set has its own validation split."""
        return self.single or self.has_validation

    def anywhere(self, key: str, fields: Mapping[str, Any]) -> bool:
        """Whether a record belongs to a split that is read. Takes note of the split that it names. Raises LeftOut."""
        self.find([fields])
        if self.named(fields) == TEST:
            raise LeftOut("test_split")
        return True

    def find(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Takes note of the splits that some records of the place name."""
        splits = set(map(self.named, records))
        self.column |= splits != {""} and bool(splits)
        self.has_validation |= VALIDATION in splits

    def rules(self, named_files: bool) -> tuple:
        """What decides the split, for the fingerprint; empty if only the hash does."""
        return (("files",) if named_files else ()) + (("column", self.has_validation) if self.column else ())

    def description(self, named_files: bool) -> str:
        """What decides the split, for the inventory."""
        names = ["the names of the files"] if named_files else []
        names += ["a column of the records"] if self.column else []
        if not self.own_validation and self._corpus.validation_share:
            names.append("the hash of a record's location or repository")
        return " and ".join(names)
