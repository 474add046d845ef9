"""Dialogues in a tokenizer's own chat template, as token ids, with the loss on answers only.

A template is a Jinja program that renders messages as text (the chat_template of tokenizer_config.json, or
chat_template.jinja). It runs in Jinja's sandbox, with the names that transformers gives it.

Control tokens in the template's own text become their ids, and the same spelling inside a message stays text. To tell
them apart, a private-use character that occurs nowhere else is put into every spelling in a message, and at the ends of
a message into parts of a spelling, before the template is rendered. It is removed after the text has been split at the
control tokens.

Which ids belong to an answer is found by rendering the beginnings of a dialogue. Each rendering must be the beginning
of the next one; a template that writes earlier messages in another way later on is refused, because a model would be
trained on texts that it is never asked to continue.
"""

import datetime
import functools
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from codellama_jax.errors import UserError
from codellama_jax.tokenizer import Tokenizer

Message = Mapping[str, Any]

# The date that training shows templates with the current date: the same tokens on every day.
TRAINING_DATE = datetime.datetime(2024, 7, 26)  # the default of Llama 3.1's template


class TemplateRefusal(UserError):
    """A template's own error about a dialogue, such as roles that it does not know."""


def encode_dialogue(
    tokenizer: Tokenizer, messages: Sequence[Message], weights: Sequence[float], where: str = "dialogue"
) -> tuple[list[int], list[float]]:
    """Encodes a dialogue that ends with an answer.

    Args:
        tokenizer: it has a chat template.
        messages: role and content of each.
        weights: the weight of each message's ids as targets; only those of answers count.
        where: names the dialogue in error messages.

    Returns:
        The ids that transformers' apply_chat_template gives, where no message spells a control token, and the weight of
        each id as a target. An answer ends with the token that ends it; text after it has weight 0.

    Raises:
        TemplateRefusal: the template raises an error for the dialogue.
        UserError: there is no template, it is not usable, or it writes earlier messages in another way later on.
    """
    sentinel = _sentinel(tokenizer, messages)
    marked = [_marked(tokenizer, message, sentinel) for message in messages]
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    texts = []  # what precedes each answer, and what ends with it
    for index in answers:
        texts.append(_render(tokenizer, marked[:index], True, TRAINING_DATE, where))
        texts.append(_render(tokenizer, marked[: index + 1], False, TRAINING_DATE, where))
    for earlier, later in itertools.pairwise(texts):
        if not later.startswith(earlier):
            _refuse_rewriting(earlier, later, sentinel, where)
    ids = _ids(tokenizer, texts[-1], sentinel)
    target = [0.0] * len(ids)
    for index, prompt, answered in zip(answers, texts[::2], texts[1::2], strict=True):
        start, stop = (_common(_ids(tokenizer, text, sentinel), ids) for text in (prompt, answered))
        stop = _end_of_answer(tokenizer, ids, start, stop, where)
        target[start:stop] = [weights[index]] * (stop - start)
    return ids, target


def encode_open_dialogue(tokenizer: Tokenizer, messages: Sequence[Message], where: str = "dialogue") -> list[int]:
    """Encodes a dialogue that ends with a question, followed by the start of the model's answer.

    A template that shows the date shows today's. Raises as encode_dialogue.
    """
    sentinel = _sentinel(tokenizer, messages)
    marked = [_marked(tokenizer, message, sentinel) for message in messages]
    return _ids(tokenizer, _render(tokenizer, marked, True, datetime.datetime.now(), where), sentinel)


def check(tokenizer: Tokenizer, messages: Sequence[Message]) -> None:
    """Raises TemplateRefusal if the template raises an error for a dialogue, and UserError if there is none."""
    _render(tokenizer, messages, False, TRAINING_DATE, "dialogue")


@functools.lru_cache(maxsize=8)
def end_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The id with which the template ends an answer; none if it ends answers without one. Raises as encode_dialogue."""
    answer = _sentinel(tokenizer, [])
    dialogue = [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]
    _, _, rest = _render(tokenizer, dialogue, False, TRAINING_DATE, "dialogue").rpartition(answer)
    found = _spellings(tokenizer).search(rest)
    return (tokenizer.control_ids[found[0]],) if found else ()


# --- rendering --------------------------------------------------------------------------------------------------------


def _render(
    tokenizer: Tokenizer, messages: Sequence[Message], prompt: bool, date: datetime.datetime, where: str
) -> str:
    """The text of a dialogue, with the start of the next answer if `prompt`."""
    import jinja2

    if tokenizer.chat_template is None:
        raise UserError(
            "Chat.format='template' needs a chat template, and the tokenizer has none: bind TOKENIZER to the model's"
            " folder, with tokenizer_config.json or chat_template.jinja, or choose another Chat.format"
        )
    program = _compiled(tokenizer.chat_template)
    plain = [{"role": message["role"], "content": message["content"]} for message in messages]
    try:
        return program.render(
            messages=plain,
            tools=None,
            documents=None,
            add_generation_prompt=prompt,
            strftime_now=date.strftime,
            **tokenizer.token_names,
        )
    except _Raised as error:
        raise TemplateRefusal(f"{where}: the chat template refuses it: {' '.join(str(error).split())}") from None
    except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{where}: the chat template fails ({reason}): correct it, or choose another Chat.format"
        ) from None


class _Raised(Exception):
    """What a template raises with raise_exception."""


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    """The program of a template, with the names and settings that transformers gives templates."""
    import jinja2
    from jinja2 import ext, nodes, sandbox

    class Generation(ext.Extension):
        """The block {% generation %}, which marks answers: it renders what it contains."""

        tags = {"generation"}  # noqa: RUF012  # Jinja's interface

        def parse(self, parser: Any) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> NoReturn:
        raise _Raised(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        raise UserError(f"the chat template is not valid ({error}): fetch the tokenizer's files again") from None


def _refuse_rewriting(earlier: str, later: str, sentinel: str, where: str) -> NoReturn:
    """Raises UserError with the first difference."""
    at = _common(earlier, later)
    first, second = (text[at : at + 30].replace(sentinel, "") for text in (earlier, later))
    raise UserError(
        f"{where}: the chat template rewrites earlier messages ({first!r} becomes {second!r} with the next message), so"
        " training would differ from generation: use a template that only appends, or another Chat.format"
    )


# --- control tokens ---------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def _spellings(tokenizer: Tokenizer) -> re.Pattern[str]:
    """The names of the control tokens, the longest first.

    Added tokens of one character are letters that a vocabulary lacks, as in DeepSeek-Coder's. They stay text.
    """
    names = sorted((name for name in tokenizer.control_ids if len(name) > 1), key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, names)) or r"(?!)")


@functools.lru_cache(maxsize=8)
def _parts(tokenizer: Tokenizer) -> tuple[frozenset[str], frozenset[str]]:
    """The beginnings and the ends of the names of the control tokens."""
    names = tokenizer.control_ids
    beginnings = frozenset(name[:size] for name in names for size in range(1, len(name)))
    return beginnings, frozenset(name[-size:] for name in names for size in range(1, len(name)))


def _sentinel(tokenizer: Tokenizer, messages: Sequence[Message]) -> str:
    """A private-use character that is in no message, and not in the template."""
    texts = "".join([tokenizer.chat_template or "", *tokenizer.control_ids, *(str(m["content"]) for m in messages)])
    return next(chr(code) for code in (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE)) if chr(code) not in texts)


def _marked(tokenizer: Tokenizer, message: Message, sentinel: str) -> dict[str, Any]:
    """A message in which no control token is spelled, also not together with the text around it.

    The character goes after the first one of a spelling. At the end of a message, it does so for the beginning of a
    spelling; at the start, it goes before the last character of the end of one. White space at the ends of a message
    does not count, because templates remove it.
    """
    content = str(message["content"])
    places = {match.start() + 1 for match in re.finditer(f"(?={_spellings(tokenizer).pattern})", content)}
    body = content.strip()
    start = content.find(body)
    beginnings, ends = _parts(tokenizer)
    for size in range(1, min(max(map(len, tokenizer.control_ids)), len(body)) + 1):
        if body[-size:] in beginnings:
            places.add(start + len(body) - size + 1)
        if body[:size] in ends:
            places.add(start + size - 1)
    for place in sorted(places, reverse=True):
        content = content[:place] + sentinel + content[place:]
    return {**message, "content": content}


def _ids(tokenizer: Tokenizer, text: str, sentinel: str) -> list[int]:
    """The ids of a rendered text: control tokens as their ids, and the text between them."""
    ids: list[int] = []
    position, strip = 0, False

    def add(segment: str, strip_start: bool, strip_end: bool) -> None:
        segment = segment.lstrip() if strip_start else segment
        segment = (segment.rstrip() if strip_end else segment).replace(sentinel, "")
        if segment:
            ids.extend(tokenizer.encode_segment(segment, first=not ids).tolist())

    for match in _spellings(tokenizer).finditer(text):
        before, after = tokenizer.stripping.get(match[0], (False, False))
        add(text[position : match.start()], strip, before)
        id = tokenizer.control_ids[match[0]]
        if id >= tokenizer.rows:
            raise UserError(
                f"the chat template uses {match[0]!r}, id {id}, which the {tokenizer.file_name} does not have: bind"
                " TOKENIZER to the tokenizer.json of the model"
            )
        ids.append(id)
        position, strip = match.end(), after
    add(text[position:], strip, False)
    return ids


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The number of ids or characters at the start that two sequences share."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _end_of_answer(tokenizer: Tokenizer, ids: Sequence[int], start: int, stop: int, where: str) -> int:
    """The position after the last control token of ids [start, stop)."""
    control = set(tokenizer.control_ids.values())
    end = next((place for place in range(stop - 1, start - 1, -1) if ids[place] in control), None)
    if end is None:
        raise UserError(
            f"{where}: the chat template ends an answer without a control token, so a model would not learn to stop:"
            " use another template or Chat.format"
        )
    return end + 1
