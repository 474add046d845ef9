"""The shapes of a dialogue in a record: which fields contain its turns.

    a list        messages, conversations, conversation: a list of messages, or such a list as JSON. Texts instead of
                  messages are those of the user and the assistant in turn
    a pair        a field with the user's text and one with the answer (PAIRS), as text or as lists of messages;
                  `instruction` is followed by `input` or `context`; `history` has earlier pairs
    beside both   system, system_prompt, system_message: the system text

A record that has several shapes is read if they agree. Otherwise it is left out as a contradiction, and
Corpus.dialogue_fields names the fields to read.
"""

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from codellama_jax.chat import Message
from tasks.sources.filters import LeftOut
from tasks.sources.records.dialogue_messages import (
    MEDIA,
    TOOLS,
    decoded,
    is_empty,
    loss_of,
    read_message,
    role_of,
    text_of,
    uses_tools,
)
from tasks.sources.records.record_file import Damaged, RecordLocation

LISTS = ("messages", "conversations", "conversation")
PROMPT_COMPLETION = ("prompt", "completion")
PAIRS = (
    PROMPT_COMPLETION,
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("problem", "solution"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "answer"),
    ("query", "response"),
    ("input", "output"),
    ("inputs", "targets"),
)
CONTEXT = ("input", "context")  # follows the instruction
SYSTEM = ("system", "system_prompt", "system_message")
HISTORY = "history"
# Fields of a record that change the meaning of its dialogue.
_WEIGHTS, _MASK = ("weight", "weights", "loss_weight", "loss_mask", "loss_scale", "train"), "mask"
_PREFERENCE = ("chosen", "rejected")
# Fields that are read beside any shape.
BESIDE = frozenset((*SYSTEM, HISTORY, *_WEIGHTS, _MASK, "label", *TOOLS, *MEDIA))


class Turns(NamedTuple):
    """The messages of a record, and the names of their fields that are ignored, once for each message that has them."""

    messages: list[Message]
    ignored: list[str]


def columns(names: Iterable[str], bound: Sequence[str] | None, location: RecordLocation) -> list[str]:
    """The fields that are read of a dialogue with these fields.

    Args:
        bound: Corpus.dialogue_fields.

    Raises:
        Damaged: there is no dialogue among them.
    """
    names = list(names)
    shapes = [tuple(bound)] if bound else [*((name,) for name in LISTS), *PAIRS]
    if not any(shape[0] in names and shape[-1] in names for shape in shapes):
        raise Damaged(_missing(names, bound), location)
    read = {name for shape in shapes for name in shape} | BESIDE | (set() if bound else set(CONTEXT))
    return [name for name in names if name in read]


def turns(fields: Mapping[str, Any], bound: Sequence[str] | None, location: RecordLocation) -> Turns:
    """The messages of a record.

    Raises:
        Damaged: it has no dialogue.
        LeftOut: a field cannot be honoured (see read_message), or the shapes of the record contradict each other;
            rejected: it is labelled as a wrong answer.
    """
    columns(fields, bound, location)
    _check_record(fields)
    shapes = _present(fields, bound)
    if not shapes:
        raise LeftOut("no_content")
    read = [_read(fields, shape, location) for shape in shapes]
    if any(_compared(other) != _compared(read[0]) for other in read[1:]):
        raise LeftOut("contradiction")
    messages, ignored = read[0]
    stated = (fields[name] for name in SYSTEM if not is_empty(fields.get(name)))
    texts = {text_of(value, location, "its system text")[0].strip() for value in stated}
    if messages[0]["role"] == "system":
        texts.add(messages[0]["content"].strip())
    elif texts:
        messages = [{"role": "system", "content": min(texts)}, *messages]
    if len(texts - {""}) > 1:
        raise LeftOut("contradiction")
    return Turns(messages, ignored)


def _missing(names: Sequence[str], bound: Sequence[str] | None) -> str:
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    if bound:
        required = " or no ".join(dict.fromkeys((bound[0], bound[-1])))
        return f"it has no {required} (Corpus.dialogue_fields; found: {shown or 'nothing'})"
    if all(name in names for name in _PREFERENCE):
        fields = "('prompt', 'chosen')" if "prompt" in names else "('chosen',)"
        return (
            "it is preference data (chosen and rejected), not a dialogue; to train on the chosen answers, bind"
            f" Corpus.dialogue_fields={fields}"
        )
    return (
        f"it has neither messages nor prompt and completion (found: {shown or 'nothing'}) nor another known shape of a"
        " dialogue (docs/data.md lists them); name its fields with Corpus.dialogue_fields"
    )


def _check_record(fields: Mapping[str, Any]) -> None:
    """Raises LeftOut for a field of the record that changes the meaning of its dialogue."""
    used = {name for name, value in fields.items() if not is_empty(value)}
    if uses_tools(fields):
        raise LeftOut("tool_use")
    if MEDIA & used:
        raise LeftOut("non_text")
    if _is_rejected(fields):
        raise LeftOut("rejected")
    if any(loss_of(fields[name]) != 1 for name in _WEIGHTS if name in used):
        raise LeftOut("loss_weight")
    mask = fields.get(_MASK)
    if _MASK in used and not (isinstance(mask, str) and role_of(mask) == "user"):
        raise LeftOut("loss_weight")


def _is_rejected(fields: Mapping[str, Any]) -> bool:
    """Whether the label of a pair says that its answer is wrong. A label that is a number may be that of a class."""
    label = fields.get("label")
    if isinstance(label, str | bytes):
        return label.strip().lower() in ("false", b"false")
    return label is False or (label == 0 and all(name in fields for name in PROMPT_COMPLETION))


def _present(fields: Mapping[str, Any], bound: Sequence[str] | None) -> list[tuple[str, ...]]:
    """The shapes whose fields are not null."""

    def has(names: Sequence[str]) -> bool:
        return all(fields.get(name) is not None for name in names)

    if bound:
        return [tuple(bound)] if has(bound[:1]) and has(bound[-1:]) else []
    lists: list[tuple[str, ...]] = [(name,) for name in LISTS if has((name,))]
    pairs = [pair for pair in PAIRS if has(pair)]
    if any(pair[0] == "instruction" for pair in pairs):  # `input` belongs to the instruction
        pairs = [pair for pair in pairs if pair != ("input", "output")]
    shapes = [*lists, *pairs]
    return [shape for shape in shapes if not is_empty(fields[shape[0]])] or shapes


def _read(fields: Mapping[str, Any], shape: Sequence[str], location: RecordLocation) -> Turns:
    """The messages of one shape, without the system text beside it."""
    if len(shape) == 1:
        items = _as_list(fields[shape[0]], location)
        if items and all(isinstance(item, str | bytes) for item in items):
            return Turns(_alternating(items, location), [])
        return _listed(items, location)
    first, *middle, last = shape
    middle = list(CONTEXT) if first == "instruction" and not middle else middle
    prompt = _side(fields, [first, *middle], "user", location)
    answer = _side(fields, [last], "assistant", location)
    earlier = _history(fields.get(HISTORY))
    # A prompt is not trained on, its answers included. Some data sets repeat it in the completion.
    messages = [m | {"weight": 0} if m["role"] == "assistant" else m for m in prompt.messages]
    repeated = _compared(Turns(answer.messages[: len(messages)], [])) == _compared(prompt)
    messages = [*earlier, *messages, *answer.messages[len(messages) if repeated else 0 :]]
    return Turns(messages, prompt.ignored + answer.ignored)


def _side(fields: Mapping[str, Any], names: Sequence[str], role: str, location: RecordLocation) -> Turns:
    """One side of a pair: texts, which become one message, or a list of messages."""
    first, *others = (fields.get(name) for name in names)
    messages = _json_messages(first) if isinstance(first, str | bytes) else first
    if isinstance(messages, list) and all(map(is_empty, others)):
        return _listed(messages, location)
    texts = []
    for name, value in zip(names, [first, *others], strict=True):
        if value is None:
            continue
        if not isinstance(value, str | bytes):
            raise Damaged(f"its {name} is of type {type(value).__name__}", location)
        texts += [decoded(value)] if value.strip() else []
    return Turns([{"role": role, "content": "\n\n".join(texts)}], [])


def _as_list(value: Any, location: RecordLocation) -> list:
    """The list of messages of a field: a list, JSON, or a struct of lists."""
    if isinstance(value, str | bytes):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise Damaged(f"its messages are not JSON ({error})", location) from None
    if isinstance(value, Mapping) and value and all(isinstance(column, list) for column in value.values()):
        # `datasets` stores a sequence of structs as a struct of lists
        return [dict(zip(value, row, strict=False)) for row in itertools.zip_longest(*value.values())]
    if not isinstance(value, list):
        raise Damaged("its messages are not a list", location)
    return value


def _json_messages(text: str | bytes) -> list | None:
    """The messages of a text that is a list of messages as JSON; None for other texts."""
    bracket, brace = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if text[:1] != bracket or brace not in text[:20]:  # type: ignore[operator]
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if all(isinstance(item, dict) and {"role", "content"} <= item.keys() for item in value) else None


def _listed(items: list, location: RecordLocation) -> Turns:
    if not items:
        raise LeftOut("no_content")
    read = [read_message(item, location) for item in items]
    return Turns([message for message, _ in read], [name for _, names in read for name in names])


def _alternating(texts: list[str | bytes], location: RecordLocation) -> list[Message]:
    """Messages of the user and the assistant in turn."""
    contents = [decoded(text) for text in texts]
    if any(re.match(r"\s*\{\s*\"(?:role|from|content|value)\"", content) for content in contents):
        raise Damaged("its messages are texts with JSON; write them as objects, or the complete list as JSON", location)
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(contents)]


def _history(value: Any) -> list[Message]:
    """Earlier turns as pairs of texts. Raises LeftOut if they are written in another way."""
    if is_empty(value):
        return []
    messages: list[Message] = []
    for pair in value if isinstance(value, list) else [value]:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise LeftOut("history")
        messages += [{"role": role, "content": text} for role, text in zip(("user", "assistant"), pair, strict=True)]
    return messages


def _compared(read: Turns) -> list[tuple[str, str]]:
    """What two shapes of one record must agree on."""
    return [(m["role"], m["content"].strip()) for m in read.messages if m["role"] != "system"]
