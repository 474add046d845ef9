"""Answers in the form that OpenAI's API and those modelled on it share: one object, or a stream of its parts."""

import abc
import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from codellama_jax.serving import http
from codellama_jax.serving.api import Api
from codellama_jax.serving.jobs import Choice, Delta, Running


class Answers(abc.ABC):
    """The answers of one request. Subclasses say what a choice has besides its number and finish reason.

    Attributes:
        prefix: of the identifier.
        kind, part_kind: the field `object` of an answer, and of a part of a stream.
        error_form: the form of errors within a stream.
        usage_beside_text: whether the counts of tokens are in the last part of a stream with a choice, or after it.
    """

    prefix, kind, part_kind = "cmpl", "text_completion", "text_completion"
    error_form = staticmethod(http.error_form)
    usage_beside_text = False

    def __init__(self, api: Api, running: Running):
        self.running = running
        name = api.names[running.job.adapter]
        self._head = {"id": f"{self.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": name}

    @abc.abstractmethod
    def whole(self, choice: Choice, delta: Delta) -> dict[str, Any]:
        """The fields of a choice, from a delta with the whole answer."""

    @abc.abstractmethod
    def part(self, choice: Choice, delta: Delta) -> dict[str, Any]:
        """The fields of a part of a choice."""

    def opening(self, choice: Choice) -> dict[str, Any] | None:
        """The fields of what comes before the first part of a choice; None: nothing."""
        return None

    def selected(self, deltas: list[Delta]) -> list[Delta]:
        """Which answers are returned, in order."""
        return deltas

    async def respond(
        self, request: Request, stream: bool, usage: bool = False, headers: dict[str, str] | None = None
    ) -> Response:
        """The response to the request.

        Args:
            request: the request.
            stream: whether the answer is sent as server-sent events while it is generated.
            usage: whether a stream ends with the counts of tokens. Other answers always have them.
            headers: further headers.
        """
        if stream:
            response: Response = http.Stream(self._events(usage))
        else:
            deltas = self.selected(await http.until_disconnect(request, self.running.finish()))
            choices = [
                _numbered(number, self.whole(self.running.choices[delta.choice], delta), delta.finish_reason)
                for number, delta in enumerate(deltas)
            ]
            response = http.json_response(
                {**self._head, "object": self.kind, "choices": choices, "usage": counts(self.running)}
            )
        response.headers.update(headers or {})
        return response

    async def _events(self, usage: bool) -> AsyncGenerator[bytes, None]:
        opened: set[int] = set()
        head = {**self._head, "object": self.part_kind}
        no_usage = {"usage": None} if usage else {}
        ready = b""  # with the last part of the answers goes what ends the stream: one write instead of three
        try:
            async for delta in self.running:
                choice, parts = self.running.choices[delta.choice], []
                if delta.choice not in opened and (opening := self.opening(choice)) is not None:
                    parts.append(_numbered(delta.choice, opening, None))
                opened.add(delta.choice)
                if delta.text or delta.logprobs or delta.finish_reason is not None:
                    parts.append(_numbered(delta.choice, self.part(choice, delta), delta.finish_reason))
                for part in parts:
                    last = self.usage_beside_text and part["finish_reason"] is not None
                    counted = {"usage": counts(self.running)} if usage and last else no_usage
                    ready += http.event({**head, "choices": [part], **counted})
                if ready and not self.running.ended:
                    yield ready
                    ready = b""
            if usage and not self.usage_beside_text:
                ready += http.event({**head, "choices": [], "usage": counts(self.running)})
        except Exception as problem:
            ready += http.event(self.error_form(http.api_error(problem)))
        yield ready + http.DONE


def _numbered(number: int, fields: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    reason = "length" if finish_reason == "timeout" else finish_reason
    return {"index": number, **fields, "finish_reason": reason}


def counts(running: Running) -> dict[str, Any]:
    """The counts of tokens of a request."""
    prompt, answer = running.prompt_tokens, running.answer_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": running.cached_tokens},
    }
