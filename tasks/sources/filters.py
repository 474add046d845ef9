"""Filters: which documents are removed. Removed documents are counted by the name of the filter.

too_large, not_utf8, binary, blank      any document
generated, long_line, language          code
merge_conflict                          texts
lfs_pointer                             files that git-lfs has not downloaded; of records, if Corpus.on_damage is "skip"
roles, reserved_tag, no_loss            dialogues (tasks/dialogues.py)
roles, tool_use, non_text, refusal, no_content, loss_weight, history, rejected, contradiction
                                        dialogues (dialogue_messages.py and dialogue_shapes.py in tasks/sources/records)
too_long                                dialogues that do not fit a window (tasks/dialogue_packing.py)
test_split, validation_split            records that name a split which this place does not read
damaged                                 files and records that cannot be parsed, if Corpus.on_damage is "skip";
                                        notebooks that cannot be parsed
"""

from collections.abc import Mapping

from codellama_jax.config.data import Filters
from codellama_jax.runtime import git_lfs
from tasks.sources import languages, merge_conflicts
from tasks.sources.generated import is_generated

# Removes only what is never a document: binary, blank, not UTF-8.
TEXT_ONLY = Filters(longest_bytes=None, longest_line=None, generated=False, ignore=())

# The setting of each filter, and of each rule that changes a text, that has one.
BINDINGS = {
    "too_large": "Filters.longest_bytes",
    "generated": "Filters.generated",
    "long_line": "Filters.longest_line",
    "language": "Filters.languages",
    "reserved_tag": "Chat.format",
    "metadata_line": "Corpus.metadata_line",
    "ignored": "Filters.ignore",
    "test_split": "Corpus.splits",
    "validation_split": "Corpus.splits",
    "contradiction": "Corpus.dialogue_fields",
    "too_long": "Packing.long_dialogues",
    "lfs_pointer": git_lfs.REMEDY,
}


class LeftOut(Exception):
    """Raised if a filter removes a document.

    Attributes:
        reason: the filter's name.
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def check_size(size: int, filters: Filters) -> None:
    """Raises LeftOut if a document of `size` bytes is too large. Needs only the size, so the file is not read."""
    if filters.longest_bytes is not None and size > filters.longest_bytes:
        raise LeftOut("too_large")


def decode(data: bytes | str, filters: Filters) -> str:
    """The text of a document. Line ends and a byte order mark are kept.

    Raises:
        LeftOut: too large, not UTF-8, binary (it contains a NUL), or blank.
    """
    check_size(len(data), filters)
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        if isinstance(data, str):
            # JSON can contain half of a surrogate pair, which UTF-8 cannot encode. The limit is in bytes.
            check_size(len(data.encode("utf-8")), filters)
    except UnicodeError:
        raise LeftOut("binary" if isinstance(data, bytes) and b"\0" in data else "not_utf8") from None
    if "\0" in text:
        raise LeftOut("binary")
    if not text.strip():
        raise LeftOut("blank")
    return text


def text_or_none(data: bytes | str | None) -> str | None:
    """The text of a file; None if it is binary, not UTF-8 or blank, or if `data` is None."""
    try:
        return None if data is None else decode(data, TEXT_ONLY)
    except LeftOut:
        return None


def check_code(text: str, language: str, filters: Filters) -> None:
    """Raises LeftOut if code is not in one of Filters.languages, looks generated, or has too long a line or a conflict.

    An unknown language ("") is not in Filters.languages. Lines end with a line feed, a carriage return or both.
    """
    if filters.languages is not None and language not in map(languages.canonical_name, filters.languages):
        raise LeftOut("language")
    if filters.generated and is_generated(text):
        raise LeftOut("generated")
    limit = filters.longest_line
    if limit is not None and len(text) > limit and max(map(len, text.replace("\r", "\n").split("\n"))) > limit:
        raise LeftOut("long_line")
    if merge_conflicts.has_conflict(text):
        raise LeftOut("merge_conflict")


def format_counts(counts: Mapping[str, int], bindings: Mapping[str, str] = BINDINGS) -> str:
    """The counts of documents by filter, with its setting: "3 too_large (Filters.longest_bytes), 1 blank"."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    settings = {reason: f" ({binding})" for reason, binding in bindings.items()}
    return ", ".join(f"{count:,} {reason}" + settings.get(reason, "") for reason, count in ordered)
