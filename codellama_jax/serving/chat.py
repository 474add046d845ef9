"""OpenAI's dialogues: /v1/chat/completions."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama_jax.chat import Message
from codellama_jax.config.generation import MOST_LOGPROBS
from codellama_jax.serving import http, sampling_fields, shown_tokens
from codellama_jax.serving.answers import Answers
from codellama_jax.serving.api import Api
from codellama_jax.serving.http import ApiError, Fields
from codellama_jax.serving.jobs import Choice, Delta, Job, Running
from codellama_jax.serving.openai import IGNORED, stream_options
from codellama_jax.serving.shown_tokens import ShownTokens

LEFT_OUT = "X-Turns-Left-Out"  # header: number of turns that did not fit the context

# What is refused, why, and the values that ask for nothing.
REFUSED: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("tools", "the model calls no tools", ([],)),
    ("tool_choice", "the model calls no tools", ("none", "auto")),
    ("functions", "the model calls no functions", ([],)),
    ("function_call", "the model calls no functions", ("none", "auto")),
    ("response_format", "answers are text", ({"type": "text"},)),
    ("modalities", "answers are text", (["text"],)),
    ("audio", "answers are text", ()),
    ("prediction", "predicted text is not used", ()),
    ("reasoning_effort", "the model writes no reasoning", ("none",)),
    ("verbosity", "the model has no such setting", ("medium",)),
    ("web_search_options", "the server does not search", ()),
    ("logit_bias", "the sampling of tokens cannot be biased", ({},)),
)


def routes(api: Api) -> list[Route]:
    @http.endpoint(http.error_form)
    async def complete(request: Request) -> Response:
        return await _complete(api, request, await http.fields(request))

    return [Route("/v1/chat/completions", complete, methods=["POST"])]


async def _complete(api: Api, request: Request, fields: Fields) -> Response:
    dialogue = messages(fields.raw("messages"))
    n = fields.integer("n", 1, 1, api.service.most_choices)
    stream, usage = stream_options(fields)
    logprobs, top = fields.boolean("logprobs", False), fields.integer("top_logprobs", None, 0, MOST_LOGPROBS)
    if top is not None and not logprobs:
        raise ApiError(400, "top_logprobs needs logprobs=true", "top_logprobs")
    limit = "max_completion_tokens" if "max_completion_tokens" in fields else "max_tokens"
    if limit != "max_tokens" and "max_tokens" in fields:
        raise ApiError(400, "max_tokens is the old name of max_completion_tokens: send one of them", "max_tokens")
    sampling = sampling_fields.read(
        fields, api.service.context, max_tokens=None, length=limit, logprobs=(top or 0) if logprobs else None
    )
    ignore_eos = fields.boolean("ignore_eos", False)
    for name, reason, accepted in REFUSED:
        fields.refuse(name, reason, accepted)
    api.finish(fields, (*IGNORED, "parallel_tool_calls", "max_tokens", "max_completion_tokens"))
    prompt, left_out = await api.chat(dialogue, sampling.max_tokens)
    if ignore_eos:
        prompt = dataclasses.replace(prompt, stop_ids=(), stop=())
    running = api.submit(request, Job((prompt,), sampling, n))
    answers = Dialogue(api, running, logprobs, left_out)
    return await answers.respond(request, stream, usage, {LEFT_OUT: str(left_out)} if left_out else None)


def messages(value: Any) -> list[Message]:
    """The field `messages`: texts with their roles; see `joined`.

    Raises:
        ApiError: something else.
    """
    if not isinstance(value, list) or not value:
        raise ApiError(400, "messages must be a list of objects with role and content", "messages")
    return joined([_message(message, f"messages[{index}]") for index, message in enumerate(value)])


def joined(messages: Sequence[Message]) -> list[Message]:
    """Messages whose roles alternate: neighbours with one role become one message, as two paragraphs."""
    groups = itertools.groupby(messages, key=lambda message: message["role"])
    return [{"role": role, "content": "\n\n".join(one["content"] for one in group)} for role, group in groups]


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise ApiError(400, f"{where} must be an object with role and content", "messages")
    role = message.get("role")
    role = "system" if role == "developer" else role
    if role not in ("system", "user", "assistant"):
        raise ApiError(400, f"{where}.role is {role!r:.40}; it must be system, user or assistant", "messages")
    for name in message:
        if name not in ("role", "content", "name", "refusal") and message[name]:
            raise ApiError(400, f"{where}.{name[:100]} is not supported: messages are text", "messages")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part(part, where) for part in content)
    if not isinstance(content, str):
        raise ApiError(400, f"{where}.content must be a string, or a list of text parts", "messages")
    return {"role": role, "content": content}


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text" or not isinstance(part.get("text"), str):
        raise ApiError(400, f"{where}.content has a part of type {kind!r:.40}; only text is supported", "messages")
    return part["text"]


class Dialogue(Answers):
    """Answers of /v1/chat/completions.

    Args:
        api, running: as for Answers.
        logprobs: whether log-probabilities are reported.
        left_out: number of turns that did not fit the context.
    """

    prefix, kind, part_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, api: Api, running: Running, logprobs: bool, left_out: int):
        super().__init__(api, running)
        self._logprobs = logprobs
        if left_out:
            self._head["turns_left_out"] = left_out
        self._shown = [ShownTokens(api.tokenizer, api.texts, strip=True) for _ in running.choices]

    def whole(self, choice: Choice, delta: Delta) -> dict[str, Any]:
        message = {"role": "assistant", "content": delta.text, "refusal": None}
        return {"message": message, "logprobs": self._form(choice, delta)}

    def part(self, choice: Choice, delta: Delta) -> dict[str, Any]:
        return {"delta": {"content": delta.text}, "logprobs": self._form(choice, delta)}

    def opening(self, choice: Choice) -> dict[str, Any] | None:
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def _form(self, choice: Choice, delta: Delta) -> dict[str, Any] | None:
        return shown_tokens.of_chat(self._shown[choice.number].add(delta)) if self._logprobs else None
