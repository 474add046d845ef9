"""Ollama's API: /api/generate with infilling, and /api/chat.

Any model name is answered, by the served model: clients choose prompt templates by the name that their user has
configured. docs/protocols.md lists the fields.
"""

import datetime
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama_jax.chat import Message
from codellama_jax.config.generation import MOST_LOGPROBS, Sampling
from codellama_jax.generation.logprobs import TokenLogprobs
from codellama_jax.generation.prompts import Prompt
from codellama_jax.serving import error_forms, http, lenient_fields, ollama_models, raw_prompts, sampling_fields
from codellama_jax.serving.api import Api
from codellama_jax.serving.chat import LEFT_OUT, joined
from codellama_jax.serving.http import ApiError, Fields
from codellama_jax.serving.jobs import Delta, Job, Running
from codellama_jax.serving.lenient_fields import LenientFields

# Options that change nothing that is generated here.
IGNORED_OPTIONS: tuple[str, ...] = ("num_ctx", "num_batch", "num_gpu", "num_thread", "num_keep", "numa", "main_gpu")
IGNORED_OPTIONS += ("low_vram", "f16_kv", "logits_all", "vocab_only", "use_mmap", "use_mlock", "embedding_only")
IGNORED_OPTIONS += ("repeat_last_n", "mirostat_tau", "mirostat_eta", "penalize_newline", "draft_num_predict")

Text = Callable[[str], dict[str, Any]]  # the fields of an answer that have its text


def routes(api: Api) -> list[Route]:
    @http.endpoint(error_forms.ollama)
    async def generate(request: Request) -> Response:
        fields = await lenient_fields.fields(request)
        name, stream = fields.text("model", api.name), fields.boolean("stream", True)
        text, suffix = fields.text("prompt", ""), fields.text("suffix", "")
        raw, cut = fields.boolean("raw", False), fields.boolean("truncate", True)
        system = fields.text("system", "")  # the template of models for completion has none
        fields.refuse("template", "the prompt is used as it is", ("",))
        fields.refuse("context", "send the text itself", ([],))
        _refuse(fields)
        sampling = _sampling(api, fields.object("options"), _logprobs(fields))
        unload = _unload(fields)
        fields.finish(("width", "height", "steps", "shift"))

        def shown(part: str) -> dict[str, Any]:
            return {"response": part}

        if not text and not suffix:
            return _loaded(name, shown, unload)
        if suffix and not api.tokenizer.infilling:
            raise ApiError(400, f"{name} does not support insert: {_NO_INSERT}", "suffix")
        tokens = sampling.max_tokens
        if suffix:
            prompt = (await raw_prompts.hole(api, text, suffix, tokens)).prompt
        elif (fitted := await raw_prompts.marked(api, text, tokens)) is not None:
            prompt = fitted.prompt
        elif api.model.dialogues and not raw:
            messages: list[Message] = [{"role": "system", "content": system}] if system else []
            prompt, _ = await api.chat([*messages, {"role": "user", "content": text}], tokens, "prompt")
        else:
            prompt = (await raw_prompts.plain(api, text, tokens, cut)).prompt
        return await _answer(api, request, prompt, sampling, name, shown, stream)

    @http.endpoint(error_forms.ollama)
    async def chat(request: Request) -> Response:
        fields = await lenient_fields.fields(request)
        name, stream = fields.text("model", api.name), fields.boolean("stream", True)
        messages = _messages(fields.raw("messages", []))
        fields.refuse("tools", "the model calls no tools", ([],))
        _refuse(fields)
        sampling = _sampling(api, fields.object("options"), _logprobs(fields))
        unload = _unload(fields)
        fields.finish(("truncate", "shift"))

        def shown(part: str) -> dict[str, Any]:
            return {"message": {"role": "assistant", "content": part}}

        if not messages:
            return _loaded(name, shown, unload)
        prompt, left_out = await api.chat(messages, sampling.max_tokens)
        return await _answer(api, request, prompt, sampling, name, shown, stream, left_out)

    return [
        Route("/api/generate", generate, methods=["POST"]),
        Route("/api/chat", chat, methods=["POST"]),
        *ollama_models.routes(api),
    ]


_NO_INSERT = "it has no infilling ids. Serve Code Llama 7B or 13B (not Python), or send no suffix"


def _refuse(fields: Fields) -> None:
    fields.refuse("format", "answers are text", ("",))
    fields.refuse("images", "the model reads text", ([],))
    fields.refuse("think", "the model does not think", (False,))


def _unload(fields: Fields) -> bool:
    """Whether a request asks that the model leaves the memory afterwards. Here it stays."""
    return fields.raw("keep_alive") in (0, "0", "0s")


def _messages(values: Any) -> list[Message]:
    """The messages of a dialogue, checked for their types; see chat.joined."""
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ApiError(400, "messages must be a list of objects", "messages")
    for value in values:
        if value.get("role") not in ("system", "user", "assistant"):
            raise ApiError(400, f"the role of a message is {value.get('role')!r:.40}: use system, user or assistant")
        if not isinstance(value.get("content") or "", str):
            raise ApiError(400, "the content of a message must be a string", "messages")
        if value.get("images") or value.get("tool_calls"):
            raise ApiError(400, "images and tool_calls of messages are not supported: the model reads text", "messages")
    return joined([{"role": value["role"], "content": value.get("content") or ""} for value in values])


def _logprobs(fields: Fields) -> int | None:
    """Number of alternatives that are reported beside each token; None: no log-probabilities."""
    wanted, count = fields.boolean("logprobs", False), fields.integer("top_logprobs", 0, 0, MOST_LOGPROBS)
    return count if wanted or count else None


def _sampling(api: Api, options: LenientFields, logprobs: int | None) -> Sampling:
    """The settings of a request, with Ollama's defaults, except that tokens are not penalized by default."""
    predict = options.integer("num_predict", -1, -2)
    for name, off in (("mirostat", (0,)), ("tfs_z", (1,)), ("typical_p", (1,))):
        options.refuse(name, "leave it out", off)
    seed = options.integer("seed", 0)
    sampling = Sampling(
        max_tokens=predict if predict > 0 else api.service.context,
        temperature=options.number("temperature", 0.8, 0),
        top_k=max(0, options.integer("top_k", 40)),
        top_p=min(1.0, options.number("top_p", 0.9, 0)) or 1.0,
        min_p=options.number("min_p", 0.0, 0, 1),
        presence_penalty=options.number("presence_penalty", 0.0),
        frequency_penalty=options.number("frequency_penalty", 0.0),
        repetition_penalty=options.number("repeat_penalty", 1.0, 0, 100) or 1.0,
        seed=seed % 2**64 if seed > 0 else secrets.randbits(63),
        stop=sampling_fields.stop_strings(options, empty=True),
        logprobs=logprobs,
    )
    options.finish(IGNORED_OPTIONS)
    return sampling


async def _answer(
    api: Api,
    request: Request,
    prompt: Prompt,
    sampling: Sampling,
    name: str,
    shown: Text,
    stream: bool,
    left_out: int = 0,
) -> Response:
    """The response to a request; `left_out`: number of turns of its dialogue that did not fit the context."""
    received = time.monotonic()
    running = api.submit(request, Job((prompt,), sampling))
    head = _head(name) | ({"turns_left_out": left_out} if left_out else {})
    if stream:
        response: Response = http.Stream(_lines(api, running, received, head, shown), "application/x-ndjson")
    else:
        [delta] = await http.until_disconnect(request, running.finish())
        answer = {**shown(delta.text), **_reported(api, delta.logprobs), **_end(running, delta, received)}
        response = http.json_response({**head, **_now(), **answer})
    response.headers.update({LEFT_OUT: str(left_out)} if left_out else {})
    return response


async def _lines(
    api: Api, running: Running, received: float, head: dict[str, Any], shown: Text
) -> AsyncGenerator[bytes, None]:
    try:
        async for delta in running:
            if delta.text or delta.logprobs:
                reported = _reported(api, delta.logprobs)
                yield http.line({**head, **_now(), **shown(delta.text), **reported, "done": False})
            if delta.finish_reason is not None:
                yield http.line({**head, **_now(), **shown(""), **_end(running, delta, received)})
    except Exception as problem:
        yield http.line(error_forms.ollama(http.api_error(problem)))


def _reported(api: Api, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
    """The log-probabilities of tokens, if they were asked for."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        text = api.texts(token)
        return {"token": text.decode(errors="replace"), "logprob": logprob, "bytes": list(text)}

    reported = [
        {**one(item.token, item.logprob), **({"top_logprobs": [one(*pair) for pair in item.top]} if item.top else {})}
        for item in logprobs
    ]
    return {"logprobs": reported} if reported else {}


def _head(name: str) -> dict[str, Any]:
    return {"model": name, **_now()}


def _now() -> dict[str, str]:
    now = datetime.datetime.now(datetime.UTC)
    return {"created_at": now.isoformat(timespec="microseconds").replace("+00:00", "Z")}


def _end(running: Running, delta: Delta, received: float) -> dict[str, Any]:
    """The last fields of an answer. Durations are in nanoseconds; the time of loading is that of waiting for a slot."""
    [choice] = running.choices
    now = time.monotonic()
    started, first, ended = choice.started or now, choice.first or now, choice.ended or now
    return {
        "done": True,
        "done_reason": "stop" if delta.finish_reason == "stop" else "length",
        "total_duration": _nanoseconds(now - received),
        "load_duration": _nanoseconds(started - choice.submitted),
        "prompt_eval_count": running.prompt_tokens,
        "prompt_eval_duration": _nanoseconds(first - started),
        "eval_count": running.answer_tokens,
        "eval_duration": _nanoseconds(ended - first),
    }


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _loaded(name: str, shown: Text, unload: bool) -> Response:
    """The answer to a request without a prompt, which loads a model in Ollama. Here it is always loaded."""
    return http.json_response({**_head(name), **shown(""), "done": True, "done_reason": "unload" if unload else "load"})
