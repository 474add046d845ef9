"""OpenAI's API: /v1/completions with infilling, and /v1/models."""

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama_jax.config.generation import Sampling
from codellama_jax.generation import prompts
from codellama_jax.serving import http, llama_cpp, tabby
from codellama_jax.serving.api import Api
from codellama_jax.serving.http import ApiError, Fields
from codellama_jax.serving.service import Delta, Job, Running


def error(problem: ApiError) -> dict[str, Any]:
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(problem.status, "invalid_request_error" if problem.status < 500 else "server_error")
    return {"error": {"message": problem.message, "type": kind, "param": problem.parameter, "code": problem.status}}


# Fields that change nothing that is generated.
IGNORED = ("model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")


def routes(api: Api) -> list[Route]:
    @http.endpoint(error)
    async def completions(request: Request) -> Response:
        fields = await http.fields(request)
        if "segments" in fields and "prompt" not in fields:
            return await tabby.completions(api, request, fields)
        text, suffix = fields.text("prompt"), fields.raw("suffix")
        if suffix is None and (split := api.sentinels.split(text)) is not None:
            text, suffix = split
        n = fields.integer("n", 1, 1, api.settings.choices)
        stream = fields.boolean("stream", False)
        usage = fields.object("stream_options").boolean("include_usage", False)
        sampling = _sampling(fields)
        fields.finish(IGNORED)
        prompt = await api.prompt(
            lambda: (
                prompts.complete(api.tokenizer, api.texts, text)
                if suffix is None
                else prompts.infill(api.tokenizer, api.texts, text, suffix, api.settings.order)
            )
        )
        running = api.submit(request, Job((prompt,), sampling, n))
        head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": api.name,
        }
        if stream:
            return http.streamed(_events(running, head, usage))
        answers = await http.until_disconnect(request, running.finish())
        return http.json_response({**head, "choices": [_choice(delta) for delta in answers], "usage": _usage(running)})

    @http.endpoint(error)
    async def models(request: Request) -> Response:
        model = {"id": api.name, "object": "model", "created": api.started, "owned_by": "codellama_jax"}
        model["meta"] = llama_cpp.meta(api)
        return http.json_response({"object": "list", "data": [model]})

    return [Route("/v1/completions", completions, methods=["POST"]), Route("/v1/models", models)]


async def _events(running: Running, head: dict[str, Any], usage: bool) -> AsyncIterator[bytes]:
    try:
        async for delta in running:
            if delta.text or delta.finish_reason is not None:
                yield http.event({**head, "choices": [_choice(delta)]})
        if usage:
            yield http.event({**head, "choices": [], "usage": _usage(running)})
    except Exception as problem:
        yield http.event(error(http.api_error(problem)))
    yield http.DONE


def _sampling(fields: Fields) -> Sampling:
    return Sampling(
        max_tokens=fields.integer("max_tokens", 16, 1),
        temperature=fields.number("temperature", 1.0, 0),
        top_p=fields.number("top_p", 1.0, 0, 1),
        seed=fields.integer("seed", secrets.randbits(63)) % 2**64,
        stop=fields.texts("stop"),
    )


def _choice(delta: Delta) -> dict[str, Any]:
    reason = {"timeout": "length"}.get(delta.finish_reason or "", delta.finish_reason)
    return {"index": delta.choice, "text": delta.text, "logprobs": None, "finish_reason": reason}


def _usage(running: Running) -> dict[str, Any]:
    prompt, answer = running.prompt_tokens, running.answer_tokens
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
