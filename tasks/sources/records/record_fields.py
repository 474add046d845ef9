"""The fields of a record, and the document or dialogue that they contain.

For each property, the first of these fields is used that exists and is neither null nor (except for the text) empty:

    text        content, text, code
    path        path, max_stars_repo_path, file_path, filepath, file_name
    language    lang, language, programming_language; otherwise by the extension of the path
    repository  max_stars_repo_name, repository, repo_name, repository_name, repo
    licence     licence, license, max_stars_repo_licenses, licenses, detected_licenses; a list is joined with ", "
    dialogue    messages, a list of role and content, or such a list as JSON; or prompt and completion

These are the columns of The Stack, StarCoderData and other corpora.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from codellama_jax.config.data import Filters
from tasks.sources import filters, languages
from tasks.sources.base import CODE_STREAMS, Dialogue, Document, Message
from tasks.sources.filters import LeftOut
from tasks.sources.records.record_file import Damaged, RecordLocation

TEXT = ("content", "text", "code")
PATH = ("path", "max_stars_repo_path", "file_path", "filepath", "file_name")
LANGUAGE = ("lang", "language", "programming_language")
REPOSITORY = ("max_stars_repo_name", "repository", "repo_name", "repository_name", "repo")
LICENCE = ("licence", "license", "max_stars_repo_licenses", "licenses", "detected_licenses")
MESSAGES, TURNS = "messages", ("prompt", "completion")
ROLES = ("system", "user", "assistant")


def select_fields(dialogues: bool, names: Iterable[str], location: RecordLocation) -> list[str]:
    """Selects the field names that are read.

    Raises:
        Damaged: the text, or the messages of a dialogue, are not among them.
    """
    names = list(names)
    if dialogues:
        missing = MESSAGES not in names and not all(turn in names for turn in TURNS)
        required = "neither messages nor prompt and completion"
    else:
        missing, required = not any(name in names for name in TEXT), f"none of {', '.join(TEXT)}"
    if missing:
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise Damaged(f"it has {required} (found: {shown or 'nothing'})", location)
    read = (MESSAGES, *TURNS, *REPOSITORY) if dialogues else TEXT + PATH + LANGUAGE + REPOSITORY + LICENCE
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


def dialogue_of(fields: Mapping[str, Any], location: RecordLocation, settings: Filters) -> Dialogue:
    """The dialogue of a record.

    Raises:
        Damaged: the record has no messages, or they are not a list of role and content.
        LeftOut: a filter removes it.
    """
    messages = _messages(fields, location)
    filters.decode("\n".join(message["content"] for message in messages), settings)
    return Dialogue(messages, location.path, location)


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


def _messages(fields: Mapping[str, Any], location: RecordLocation) -> list[Message]:
    select_fields(True, fields, location)
    messages = fields.get(MESSAGES)
    if messages is None:
        contents = [fields.get(turn) for turn in TURNS]
        messages = [{"role": role, "content": text} for role, text in zip(ROLES[1:], contents, strict=True)]
    elif isinstance(messages, str | bytes):
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError) as error:
            raise Damaged(f"its messages are not JSON ({error})", location) from None
    if not isinstance(messages, list) or not messages:
        raise Damaged("its messages are not a list, or the list is empty", location)
    return [_message(message, location) for message in messages]


def _message(message: Any, location: RecordLocation) -> Message:
    if not isinstance(message, Mapping):
        raise Damaged("a message has no role and content", location)
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str):
        raise Damaged("a message has no role and content", location)
    if role not in ROLES:
        raise LeftOut("roles")
    if isinstance(content, bytes):
        try:
            content = content.decode("utf-8")
        except UnicodeDecodeError:
            raise LeftOut("not_utf8") from None
    if not isinstance(content, str):
        raise Damaged(f"the content of a message is of type {type(content).__name__}", location)
    return {"role": role, "content": content}
