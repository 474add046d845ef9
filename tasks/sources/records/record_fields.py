"""The fields of a record, and the document or dialogue that they contain.

For each property, the first of these fields is used that exists and is neither null nor (except for the text) empty:

    text        content, text, code
    path        path, max_stars_repo_path, file_path, filepath, file_name
    language    lang, language, programming_language; otherwise by the extension of the path
    repository  max_stars_repo_name, repository, repo_name, repository_name, repo
    licence     licence, license, max_stars_repo_licenses, licenses, detected_licenses; a list is joined with ", "
    dialogue    the fields of tasks/sources/records/dialogue_shapes.py

These are the columns of The Stack, StarCoderData and other corpora.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from codellama_jax.config.data import Filters
from tasks.sources import filters, languages
from tasks.sources.base import CODE_STREAMS, Dialogue, Document
from tasks.sources.filters import LeftOut
from tasks.sources.records import dialogue_shapes
from tasks.sources.records.record_file import Damaged, RecordLocation

TEXT = ("content", "text", "code")
PATH = ("path", "max_stars_repo_path", "file_path", "filepath", "file_name")
LANGUAGE = ("lang", "language", "programming_language")
REPOSITORY = ("max_stars_repo_name", "repository", "repo_name", "repository_name", "repo")
LICENCE = ("licence", "license", "max_stars_repo_licenses", "licenses", "detected_licenses")


def select_fields(
    dialogues: bool, names: Iterable[str], location: RecordLocation, dialogue_fields: Sequence[str] | None = None
) -> list[str]:
    """Selects the field names that are read. `dialogue_fields` is Corpus.dialogue_fields.

    Raises:
        Damaged: the text, or the messages of a dialogue, are not among them.
    """
    names = list(names)
    if dialogues:
        read = (*dialogue_shapes.columns(names, dialogue_fields, location), *REPOSITORY)
        return [name for name in names if name in read]
    if not any(name in names for name in TEXT):
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise Damaged(f"it has none of {', '.join(TEXT)} (found: {shown or 'nothing'})", location)
    read = TEXT + PATH + LANGUAGE + REPOSITORY + LICENCE
    return [name for name in names if name in read]


def repository_of(fields: Mapping[str, Any]) -> str:
    """The repository that a record names; "" for none."""
    return _first_value(fields, REPOSITORY)


def document_of(fields: Mapping[str, Any], location: RecordLocation, stream: str, settings: Filters) -> Document:
    """The document of a record.

    Raises:
        Damaged: the record has no text.
        LeftOut: a filter removes it.
    """
    select_fields(False, fields, location)
    text = next((fields[name] for name in TEXT if fields.get(name) is not None), None)
    if text is None:
        raise LeftOut("blank")
    if not isinstance(text, str | bytes):
        raise Damaged(f"its text is of type {type(text).__name__}", location)
    path, repository = _first_value(fields, PATH), repository_of(fields)
    language = languages.canonical_name(_first_value(fields, LANGUAGE)) or languages.of_path(path)
    if stream == "python" and language not in ("", "Python"):
        raise LeftOut("language")
    text = filters.decode(text, settings)
    if stream in CODE_STREAMS:
        filters.check_code(text, language, settings)
    if path and repository and not path.startswith(f"{repository}/"):
        path = f"{repository}/{path.lstrip('/')}"
    return Document(text, path or location.path, language, repository, _first_value(fields, LICENCE))


def dialogue_of(
    fields: Mapping[str, Any], location: RecordLocation, settings: Filters, dialogue_fields: Sequence[str] | None = None
) -> Dialogue:
    """The dialogue of a record. `dialogue_fields` is Corpus.dialogue_fields.

    Raises:
        Damaged: the record has no messages, or they are not a list of role and content.
        LeftOut: a filter removes it, or a field that changes its meaning cannot be honoured (dialogue_shapes.turns).
    """
    messages, ignored = dialogue_shapes.turns(fields, dialogue_fields, location)
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
