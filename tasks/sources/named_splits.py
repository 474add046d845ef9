"""Splits that a data set names: in the names of its record files and folders, or in a column of its records.

train.jsonl beside test.jsonl, data/train-00000-of-00004.parquet, default-train-*, and the folders train/, validation/
and test/ are the layouts of Hugging Face's datasets, whose keywords these are (datasets/data_files.py); holdout, and
keywords followed by "set" (testset), are ours. A record may name its split itself, as those of CodeSearchNet do. Only
records have such splits: a folder named test in a repository of source code contains code.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

TRAIN, VALIDATION, TEST = "train", "validation", "test"

_KEYWORDS = {
    TRAIN: ("train", "training"),
    VALIDATION: ("validation", "valid", "dev", "val"),
    TEST: ("test", "testing", "eval", "evaluation", "holdout", "heldout"),
}
_SPLITS = {word: split for split, keywords in _KEYWORDS.items() for key in keywords for word in (key, f"{key}set")}
_SHARD = re.compile(r"[-_. ]*\d+([-_. ]of[-_. ]\d+)?([-_.][0-9a-f]{8,})?$")  # of a name without its extension
_SEPARATORS = re.compile(r"[-._ 0-9]+")

COLUMNS = ("split", "partition", "split_name")


def split_of_value(value: Any) -> str:
    """The split that the value of a column names; "" for none."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return _SPLITS.get(value.strip().lower(), "") if isinstance(value, str) else ""


def split_of_record(fields: Mapping[str, Any]) -> str:
    """The split that a record names in one of COLUMNS; "" for none."""
    return next(filter(None, (split_of_value(fields[name]) for name in COLUMNS if name in fields)), "")


def divide(paths: Sequence[str]) -> list[str] | None:
    """The split of each record file of a place by its name, "" for a file that names none.

    A file or a folder may be named by a keyword alone: test.jsonl, valid/a.jsonl, train-00000-of-00004.parquet. Such a
    name always counts, and the name of the file before that of its folders. A keyword that is one of several words, as
    in default-test-0.parquet, counts only if there are also files for training: it may describe the content.

    Args:
        paths: of the files below the place.

    Returns:
        the splits; None if no name is that of a split other than train.
    """
    splits = [_exact(path) for path in paths]
    words = [split or _by_word(path) for split, path in zip(splits, paths, strict=True)]
    if TRAIN in words:
        splits = words
    return splits if {VALIDATION, TEST} & set(splits) else None


def names_split(path: str) -> bool:
    """Whether a record file, or one of its folders, is named by a keyword alone."""
    return bool(_exact(path))


def _exact(path: str) -> str:
    """The split of the last part of a path that is a keyword, without extensions and the number of a shard."""
    *folders, name = path.lower().split("/")
    parts = [_SHARD.sub("", name.partition(".")[0]), *reversed(folders)]
    return next(filter(None, (_SPLITS.get(part, "") for part in parts)), "")


def _by_word(path: str) -> str:
    """The split of the last keyword among the words of a file's name, or else of the nearest folder with one."""
    for part in reversed(path.lower().split("/")):
        for word in reversed(_SEPARATORS.split(part)):
            if word in _SPLITS:
                return _SPLITS[word]
    return ""
