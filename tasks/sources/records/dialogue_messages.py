"""A message of a dialogue, as data sets write it: its role, its text, and whether an answer has a loss.

A field that changes the meaning of a message is honoured, or the dialogue is left out. Other fields are ignored, and
reported by name.
"""

import re
from collections.abc import Mapping
from typing import Any

from codellama_jax.chat import Message
from tasks.sources.filters import LeftOut
from tasks.sources.records.record_file import Damaged, RecordLocation

ROLE, CONTENT = ("role", "from"), ("content", "value")
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "ai"), "assistant"),
}
_TOOL_ROLES = frozenset(
    ("tool", "tools", "tool_call", "tool_calls", "tool_response", "tool_result", "ipython", "observation")
).union(("function", "function_call", "function_response"))

# Fields of a message or of a record.
TOOLS = frozenset(("tools", "functions", "tool_calls", "function_call", "tool_call_id", "tool_responses"))
MEDIA = frozenset(("image", "images", "image_url", "video", "videos", "audio", "audios", "input_audio", "file"))
# 1 or true: the answer has a loss; 0 or false: it has none.
LOSS = (
    *("weight", "loss_weight", "loss", "loss_mask", "loss_scale", "compute_loss", "has_loss"),
    *("train", "training", "trainable", "train_on", "train_on_turn", "is_train", "learn"),
)
# Other fields on the loss: programs read them in different ways, or they select parts of an answer (train_detail).
_OTHER_LOSS = re.compile(r"(?:^|_)(?:mask|masked|loss|weights?|train|training|trainable|learn|ignore)(?:_|$)", re.I)

_TEXT_PARTS = frozenset(("text", "input_text", "output_text"))
_TOOL_PARTS = frozenset(("tool_use", "tool_call", "tool_result", "function_call"))
_NO_TOOLS = (*("[]", "{}", "null"), *(b"[]", b"{}", b"null"))  # JSON in a text
_YES = (1, "1", "1.0", "true", b"1", b"true")
_NO = (0, "0", "0.0", "false", b"0", b"false")


def read_message(message: Any, location: RecordLocation) -> tuple[Message, list[str]]:
    """The message, and the names of its fields that are ignored.

    Args:
        message: a mapping with a role (or `from`) and a content (or `value`; without both, `text`): a text or a list of
            parts of text.

    Returns:
        role, content and, for an answer without a loss, weight 0.

    Raises:
        Damaged: it is not such a mapping.
        LeftOut: for the reasons
            roles         a role that is neither system, user nor assistant
            tool_use      calls of tools, or their results
            non_text      images, audio or other parts that are not text
            refusal       a refusal instead of an answer
            no_content    null instead of a text
            loss_weight   a weight that is neither 0 nor 1, or the loss on a message that is not an answer
            contradiction two fields that state the same and differ
            not_utf8
    """
    fields = as_mapping(message)
    if fields is None:
        raise Damaged(f"a message is of type {type(message).__name__}, not an object with role and content", location)
    used = {name: value for name, value in fields.items() if not is_empty(value)}
    names = [used[name] for name in ROLE if name in used]
    if not names:
        raise Damaged(f"a message has no role (found: {', '.join(map(str, fields)) or 'nothing'})", location)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise Damaged(f"the role of a message is of type {type(wrong[0]).__name__}", location)
    roles = [role_of(name) for name in names]
    if len(set(roles)) > 1:
        raise LeftOut("contradiction")
    if uses_tools(used):
        raise LeftOut("tool_use")
    if MEDIA & used.keys():
        raise LeftOut("non_text")
    if "refusal" in used:
        raise LeftOut("refusal")
    text_fields = CONTENT if any(name in fields for name in CONTENT) else ("text",)
    contents = [fields[name] for name in text_fields if fields.get(name) is not None]
    texts, ignored = [], set(used) - {*ROLE, *text_fields, *LOSS, *TOOLS}
    for content in contents:
        text, ignored_parts = text_of(content, location)
        texts.append(text)
        ignored |= ignored_parts
    if not texts:
        raise LeftOut("no_content")
    if len(set(texts)) > 1:
        raise LeftOut("contradiction")
    read: Message = {"role": roles[0], "content": texts[0]}
    weight = _loss_weight(used)
    if weight == 0 and roles[0] == "assistant":
        read["weight"] = 0
    elif weight == 1 and roles[0] != "assistant":
        raise LeftOut("loss_weight")
    return read, sorted(ignored)


def role_of(name: str) -> str:
    """The role that a name stands for, in any case. Raises LeftOut for other names."""
    name = name.strip().casefold().replace("-", "_").replace(" ", "_")
    if name in _TOOL_ROLES:
        raise LeftOut("tool_use")
    if name not in ROLES:
        raise LeftOut("roles")
    return ROLES[name]


def loss_of(value: Any) -> int:
    """1 or 0, for a value that states whether there is a loss. Raises LeftOut for other values, such as 0.5."""
    value = value.strip().lower() if isinstance(value, str | bytes) else value
    if value in _YES:
        return 1
    if value in _NO:
        return 0
    raise LeftOut("loss_weight")


def uses_tools(fields: Mapping[str, Any]) -> bool:
    """Whether a message or a record has calls of tools, or tools that may be called."""
    values = (fields[name] for name in TOOLS & fields.keys())
    return any(
        not is_empty(value) and not (isinstance(value, str | bytes) and value.strip() in _NO_TOOLS) for value in values
    )


def is_empty(value: Any) -> bool:
    """Whether a field states nothing: null, an empty text or list, or a struct of nulls, as Parquet has it."""
    if isinstance(value, Mapping):
        return all(map(is_empty, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_empty, value))
    return value is None or (isinstance(value, str | bytes) and not value.strip())


def as_mapping(value: Any) -> Mapping[str, Any] | None:
    """A mapping, also from the (key, value) pairs that Arrow reads from a map; None for other values."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list) and value and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        return dict(value)
    return None


def decoded(text: str | bytes) -> str:
    """Text of a field. Raises LeftOut if it is not UTF-8."""
    try:
        return text.decode("utf-8") if isinstance(text, bytes) else text
    except UnicodeDecodeError:
        raise LeftOut("not_utf8") from None


def text_of(content: Any, location: RecordLocation, name: str = "the content of a message") -> tuple[str, set[str]]:
    """The text of a content, whose parts are joined without a separator, and the ignored fields of the parts.

    Args:
        name: names the content in messages.

    Raises:
        Damaged, LeftOut: as read_message does.
    """
    if isinstance(content, str | bytes):
        return decoded(content), set()
    if not isinstance(content, list | tuple):
        raise Damaged(f"{name} is of type {type(content).__name__}", location)
    texts: list[str] = []
    ignored: set[str] = set()
    for part in content:
        if isinstance(part, str | bytes):
            texts.append(decoded(part))
            continue
        fields = as_mapping(part)
        if fields is None:
            raise Damaged(f"a part of {name} is of type {type(part).__name__}", location)
        used = {name: value for name, value in fields.items() if not is_empty(value)}
        kind = used.pop("type", "text")
        if kind in _TOOL_PARTS:
            raise LeftOut("tool_use")
        if kind == "refusal":
            raise LeftOut("refusal")
        if kind not in _TEXT_PARTS or MEDIA & used.keys():
            raise LeftOut("non_text")
        text = fields.get("text")
        if text is not None and not isinstance(text, str | bytes):
            raise Damaged(f"the text of a message's part is of type {type(text).__name__}", location)
        texts += [] if text is None else [decoded(text)]
        ignored |= {f"content.{name}" for name in used.keys() - {"text"}}
    if not texts:
        raise LeftOut("no_content")
    return "".join(texts), ignored


def _loss_weight(used: Mapping[str, Any]) -> int | None:
    """1 or 0 as the message states it; None if it does not."""
    if any(_OTHER_LOSS.search(name) for name in used.keys() - set(LOSS)):
        raise LeftOut("loss_weight")
    stated = {loss_of(used[name]) for name in LOSS if name in used}
    if len(stated) > 1:
        raise LeftOut("contradiction")
    return stated.pop() if stated else None
