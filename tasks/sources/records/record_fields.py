"""The fields of a record, and the document or dialogue that they contain.

The text is the first of these fields that the record has, whatever its value:

    code, python    content, code, func_code_string, whole_func_string, source_code, body, solution, text
    other streams   content, text, body, markdown, article, code

A record of code with a description beside it often has `text` and `code`, so that for code `text` comes last. For each
other property, the first of these fields is used that exists and is neither null nor empty:

    path        path, max_stars_repo_path, file_path, filepath, func_path_in_repository, file_name, filename
    language    lang, language, programming_language; otherwise by the extension of the path
    repository  max_stars_repo_name, repository, repo_name, repository_name, repo
    licence     licence, license, max_stars_repo_licenses, licenses, detected_licenses; a list is joined with ", "
    dialogue    the fields of tasks/sources/records/dialogue_shapes.py

These are the columns of The Stack, StarCoderData, CodeSearchNet and other corpora. Corpus.text_field and the settings
like it name a field instead.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from codellama_jax.config.data import Corpus, Filters
from tasks.sources import filters, languages, metadata_line
from tasks.sources.base import CODE_STREAMS, Dialogue, Document
from tasks.sources.filters import LeftOut
from tasks.sources.merge_conflicts import has_conflict
from tasks.sources.records import dialogue_shapes
from tasks.sources.records.record_file import Damaged, RecordLocation

_CODE = ("content", "code", "func_code_string", "whole_func_string", "source_code", "body", "solution", "text")
_PROSE = ("content", "text", "body", "markdown", "article", "code")
PATH = (
    *("path", "max_stars_repo_path", "file_path", "filepath", "func_path_in_repository"),
    *("file_name", "filename"),
)
LANGUAGE = ("lang", "language", "programming_language")
REPOSITORY = ("max_stars_repo_name", "repository", "repo_name", "repository_name", "repo")
LICENCE = ("licence", "license", "max_stars_repo_licenses", "licenses", "detected_licenses")
_NO_CONTENT = (  # The Stack v2 before its files are downloaded
    "it has the ids of files (blob_id) and not their content: download each file from"
    " s3://softwareheritage/content/BLOB_ID, as the data set's page describes, and store it as the field content"
)
METADATA = {"path": PATH, "language": LANGUAGE, "repository": REPOSITORY, "licence": LICENCE}


@dataclasses.dataclass(frozen=True)
class FieldChoice:
    """Which fields of a record are read.

    Attributes:
        taken: property (text, path, language, repository, licence) -> the field that is read for it. Of the properties
            other than the text, later fields of the list are read where this one is empty.
        ignored: the other fields.
    """

    taken: Mapping[str, str]
    ignored: tuple[str, ...]


class MissingField(ValueError):
    """A required field is not among those of a record."""


def text_fields(stream: str, corpus: Corpus) -> tuple[str, ...]:
    """The fields that may hold a document's text, the preferred one first."""
    bound = corpus.field("text", stream)
    return (bound,) if bound else _CODE if stream in CODE_STREAMS else _PROSE


def metadata_fields(name: str, stream: str, corpus: Corpus) -> tuple[str, ...]:
    """The fields that may hold a property of METADATA, the preferred one first."""
    bound = corpus.field(name, stream)
    return (bound,) if bound else METADATA[name]


def choose_fields(names: Iterable[str], stream: str, corpus: Corpus) -> FieldChoice:
    """Chooses the fields of a document.

    Args:
        names: the fields of a record, or the columns of a file.
        stream: the stream that reads them; of dialogues, see select_fields.
        corpus: its settings text_field, path_field, language_field, repository_field and licence_field.

    Raises:
        MissingField: no field holds the text, or a setting names a field that does not exist.
    """
    bound = tuple(corpus.field(name, stream) for name in ("text", *METADATA))
    return _choice(tuple(names), stream in CODE_STREAMS, bound)


@functools.lru_cache(maxsize=1024)  # called for every record of a file of JSON lines
def _choice(names: tuple[str, ...], code: bool, bound: tuple[str | None, ...]) -> FieldChoice:
    found = _shown(names)
    candidates = {"text": _CODE if code else _PROSE} | METADATA
    taken, read = {}, set()
    for (name, fields), field in zip(candidates.items(), bound, strict=True):
        if field is not None and field not in names:
            raise MissingField(f"it has no field {field}, the value of Corpus.{name}_field (found: {found})")
        present = [field] if field is not None else [option for option in fields if option in names]
        if present:
            taken[name] = present[0]
            read |= set(present[:1] if name == "text" else present)
    if "text" not in taken:
        if "blob_id" in names:
            raise MissingField(_NO_CONTENT)
        required = f"none of {', '.join(candidates['text'])}"
        raise MissingField(f"it has {required} (found: {found}); bind Corpus.text_field to the field of the text")
    return FieldChoice(taken, tuple(name for name in names if name not in read))


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "nothing"


def select_fields(stream: str, corpus: Corpus, names: Iterable[str], location: RecordLocation) -> list[str]:
    """Selects the field names that are read.

    Raises:
        Damaged: the text, or the messages of a dialogue, are not among them.
    """
    names = list(names)
    if stream == "instruct":
        read = (*dialogue_shapes.columns(names, corpus.dialogue_fields, location), *REPOSITORY)
        return [name for name in names if name in read]
    try:
        ignored = choose_fields(names, stream, corpus).ignored
    except MissingField as error:
        raise Damaged(error, location) from None
    return [name for name in names if name not in ignored]


def repository_of(fields: Mapping[str, Any], stream: str, corpus: Corpus) -> str:
    """The repository that a record names, in a field or in the line of metadata before its text; "" for none."""
    repository = _first_value(fields, metadata_fields("repository", stream, corpus))
    if repository or stream == "instruct" or not corpus.metadata_line:
        return repository
    text = next((fields[name] for name in text_fields(stream, corpus) if name in fields), None)
    metadata = metadata_line.find(text) if isinstance(text, str | bytes) else None
    return metadata.repository if metadata else ""


def document_of(
    fields: Mapping[str, Any], location: RecordLocation, stream: str, corpus: Corpus, settings: Filters
) -> Document:
    """The document of a record.

    Raises:
        Damaged: the record has no text.
        LeftOut: a filter removes it.
    """
    try:
        field = choose_fields(fields, stream, corpus).taken["text"]
    except MissingField as error:
        raise Damaged(error, location) from None
    text = fields[field]
    if text is None:
        raise LeftOut("blank")
    if not isinstance(text, str | bytes):
        kind = type(text).__name__
        raise Damaged(f"its text, the field {field}, is of type {kind}; bind Corpus.text_field to a text", location)
    path, language, repository, licence = (
        _first_value(fields, metadata_fields(name, stream, corpus)) for name in METADATA
    )
    text = filters.decode(text, settings)
    metadata = metadata_line.find(text) if corpus.metadata_line else None
    if metadata:
        text, path, repository = text[metadata.end :], path or metadata.path, repository or metadata.repository
        text = filters.decode(text, settings)  # raises LeftOut if nothing is left
    language = languages.canonical_name(language) or languages.of_path(path, text)
    if stream == "python" and language not in ("", "Python"):
        raise LeftOut("language")
    if stream in CODE_STREAMS:
        filters.check_code(text, language, settings)
    elif has_conflict(text, prose=True):
        raise LeftOut("merge_conflict")
    if path and repository and not path.startswith(f"{repository}/"):
        path = f"{repository}/{path.lstrip('/')}"
    changed = (metadata_line.NAME,) if metadata else ()
    return Document(text, path or location.path, language, repository, licence, changed)


def dialogue_of(fields: Mapping[str, Any], location: RecordLocation, corpus: Corpus, settings: Filters) -> Dialogue:
    """The dialogue of a record.

    Raises:
        Damaged: the record has no messages, or they are not a list of role and content.
        LeftOut: a filter removes it, or a field that changes its meaning cannot be honoured (dialogue_shapes.turns).
    """
    messages, ignored = dialogue_shapes.turns(fields, corpus.dialogue_fields, location)
    filters.decode("\n".join(message["content"] for message in messages), settings)
    return Dialogue(messages, location.path, location, tuple(ignored))


def _first_value(fields: Mapping[str, Any], names: Iterable[str]) -> str:
    """The first of the fields that is not empty. TFRecord has no null, so records have empty values instead."""
    return next(filter(None, (_as_text(fields[name]) for name in names if name in fields)), "")


def _as_text(value: Any) -> str:
    """The value of a field other than the text: "" for null and for values with named parts."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list | tuple):
        return ", ".join(filter(None, map(_as_text, value)))
    if value is None or isinstance(value, Mapping):
        return ""
    return str(value).encode("utf-8", "replace").decode("utf-8")  # JSON can contain half of a surrogate pair
