"""Mistral's infilling API: /v1/fim/completions."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama_jax.serving import error_forms, http, sampling_fields
from codellama_jax.serving.answers import Answers
from codellama_jax.serving.api import Api
from codellama_jax.serving.jobs import Choice, Delta, Job
from codellama_jax.serving.openai import IGNORED, stream_options

MAX_TOKENS = 256  # of an answer, if the request has no limit


def routes(api: Api) -> list[Route]:
    @http.endpoint(error_forms.mistral)
    async def complete(request: Request) -> Response:
        fields = await http.fields(request)
        prefix, suffix = fields.text("prompt"), fields.text("suffix", "")
        stream, _ = stream_options(fields)
        sampling = sampling_fields.read(
            fields, api.service.context, max_tokens=MAX_TOKENS, temperature=0.0, seed="random_seed"
        )
        api.finish(fields, IGNORED)
        running = api.submit(request, Job((await api.infill(prefix, suffix),), sampling))
        return await Messages(api, running).respond(request, stream, usage=True)

    return [Route("/v1/fim/completions", complete, methods=["POST"])]


class Messages(Answers):
    """Answers of /v1/fim/completions: messages of an assistant."""

    prefix, kind, part_kind = "fim", "chat.completion", "chat.completion.chunk"
    error_form = staticmethod(error_forms.mistral)
    usage_beside_text = True

    def whole(self, choice: Choice, delta: Delta) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": delta.text, "tool_calls": None, "prefix": False}}

    def part(self, choice: Choice, delta: Delta) -> dict[str, Any]:
        return {"delta": {"content": delta.text}}

    def opening(self, choice: Choice) -> dict[str, Any] | None:
        return {"delta": {"role": "assistant", "content": ""}}
