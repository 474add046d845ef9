"""OpenAI's API: /v1/completions with infilling, and /v1/models. DeepSeek's /beta/completions is the same."""

import dataclasses
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama_jax.config.generation import MOST_LOGPROBS
from codellama_jax.generation.prompts import Prompt, of_ids
from codellama_jax.serving import http, llama_cpp, sampling_fields, shown_tokens, tabby
from codellama_jax.serving.answers import Answers
from codellama_jax.serving.api import Api
from codellama_jax.serving.http import ApiError, Fields
from codellama_jax.serving.jobs import Choice, Delta, Job, Running
from codellama_jax.serving.shown_tokens import ShownTokens
from codellama_jax.tokenizer import Order

# Fields that change nothing that is generated, except that `model` can name an adapter (Api.adapter).
IGNORED: tuple[str, ...] = ("model", "user", "metadata", "store", "service_tier", "safety_identifier")
IGNORED += ("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options")


def routes(api: Api) -> list[Route]:
    def completions(max_tokens: int) -> http.Handler:
        @http.endpoint(http.error_form)
        async def answer(request: Request) -> Response:
            fields = await http.fields(request)
            if "segments" in fields and "prompt" not in fields:
                return await tabby.completions(api, request, fields)
            return await _complete(api, request, fields, max_tokens)

        return answer

    @http.endpoint(http.error_form)
    async def models(request: Request) -> Response:
        return http.json_response({"object": "list", "data": [_model(api, name) for name in api.names]})

    @http.endpoint(http.error_form)
    async def model(request: Request) -> Response:
        if (name := request.path_params["name"]) not in api.names:
            known = ", ".join(map(repr, api.names))
            raise ApiError(404, f"there is no model {name[:100]!r}; this server has {known}", "model")
        return http.json_response(_model(api, name))

    return [
        Route("/v1/completions", completions(max_tokens=16), methods=["POST"]),
        Route("/beta/completions", completions(max_tokens=256), methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
    ]


def _model(api: Api, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": api.started,
        "owned_by": "codellama_jax",
        **({} if name == api.name else {"parent": api.name}),
        "max_model_len": api.service.context,
        "meta": llama_cpp.meta(api),
    }


async def _complete(api: Api, request: Request, fields: Fields, max_tokens: int) -> Response:
    n = fields.integer("n", 1, 1, api.service.most_choices)
    best_of = fields.integer("best_of", n, n, api.service.most_choices)
    echo, stream, usage = fields.boolean("echo", False), *stream_options(fields)
    logprobs = fields.integer("logprobs", None, 0, MOST_LOGPROBS)
    texts, after = _texts(fields.raw("prompt")), fields.text("suffix", "")
    suffix = after if "suffix" in fields else None  # an empty one is a hole too
    needs_logprobs = logprobs if logprobs is not None else 0 if best_of > n else None
    sampling = sampling_fields.read(
        fields,
        api.service.context,
        max_tokens=max_tokens,
        logprobs=needs_logprobs,
        prompt_logprobs=echo and logprobs is not None,
    )
    ignore_eos = fields.boolean("ignore_eos", False)
    healing, order = fields.boolean("token_healing", True), _order(fields)
    fields.refuse("logit_bias", "the sampling of tokens cannot be biased", accepted=({},))
    api.finish(fields, IGNORED)
    if stream and best_of > n:
        raise ApiError(400, "best_of cannot be streamed: the answers are compared when all have ended", "best_of")
    if sampling.prompt_logprobs and (
        suffix is not None or any(isinstance(text, str) and text in api.sentinels for text in texts)
    ):
        raise ApiError(400, "logprobs of the prompt (echo) are not possible with a suffix or infilling markers", "echo")
    prompts = [
        # the log-probabilities of a prompt are those of all its tokens, so none is generated again
        await _prompt(api, text, suffix, order, healing and not sampling.prompt_logprobs and sampling.max_tokens > 0)
        for text in texts
    ]
    if ignore_eos:
        prompts = [dataclasses.replace(prompt, stop_ids=()) for prompt in prompts]
    running = api.submit(request, Job(tuple(prompts), sampling, best_of))
    shown = [_shown(api, text) if echo else "" for text in texts]
    return await Completions(api, running, shown, logprobs, n).respond(request, stream, usage)


def stream_options(fields: Fields) -> tuple[bool, bool]:
    """Whether the answer is streamed, and whether the stream ends with the counts of tokens."""
    options = fields.object("stream_options")
    usage = options.boolean("include_usage", False)
    options.finish(ignored=("include_obfuscation",))
    return fields.boolean("stream", False), usage


def _texts(value: Any) -> list[Any]:
    """The prompts of a request, each a text or a list of token ids: `value` is one of them, or a list of them."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(text, str) for text in value):
            return value
        for ids in ([value], value):
            if all(isinstance(prompt, list) and prompt and all(type(id) is int for id in prompt) for prompt in ids):
                return ids
    raise ApiError(400, "prompt must be a string, a list of strings, a list of ids, or a list of such lists", "prompt")


def _order(fields: Fields) -> Order | None:
    """The field `infill_order`, an extension of this server; None: not given."""
    match fields.text("infill_order", ""):
        case "psm" | "spm" as order:
            return order
        case "":
            return None
        case other:
            raise ApiError(400, f"infill_order is {other!r:.40}; it must be psm or spm", "infill_order")


async def _prompt(api: Api, text: str | list[int], suffix: str | None, order: Order | None, healing: bool) -> Prompt:
    if isinstance(text, str):
        return await (api.raw(text, healing) if suffix is None else api.infill(text, suffix, order, healing))
    if suffix is not None:
        raise ApiError(400, "suffix needs a prompt that is a string, not token ids", "suffix")
    api.service.check(text, 0)
    return of_ids(api.tokenizer, text)


def _shown(api: Api, text: str | list[int]) -> str:
    return text if isinstance(text, str) else api.tokenizer.decode(text)


class Completions(Answers):
    """Answers of /v1/completions.

    Args:
        api, running: as for Answers.
        prompts: what `echo` shows of each prompt; "": nothing.
        logprobs: number of alternatives beside each token; None: no log-probabilities.
        n: number of answers of each prompt that are returned; the job may have more.
    """

    def __init__(self, api: Api, running: Running, prompts: list[str], logprobs: int | None, n: int):
        super().__init__(api, running)
        self._api, self._prompts, self._logprobs, self._n = api, prompts, logprobs, n
        self._shown = [
            ShownTokens(api.tokenizer, api.texts, choice.prompt.skip, len(self._echo(choice)), choice.prompt.crlf)
            for choice in running.choices
        ]

    def whole(self, choice: Choice, delta: Delta) -> dict[str, Any]:
        opening, rest = self.opening(choice), self.part(choice, delta)
        if opening is None:
            return rest
        both = rest["logprobs"]
        if both is not None:
            both = {
                name: before + both[name] if (before := opening["logprobs"][name]) is not None else None
                for name in both
            }
        return {"text": opening["text"] + rest["text"], "logprobs": both}

    def part(self, choice: Choice, delta: Delta) -> dict[str, Any]:
        tokens = self._shown[choice.number].add(delta) if self._logprobs is not None else []
        return {"text": delta.text, "logprobs": self._form(tokens)}

    def opening(self, choice: Choice) -> dict[str, Any] | None:
        text = self._echo(choice)
        if not text:
            return None
        tokens = []
        if self._logprobs is not None and choice.request is not None:
            # the space before a text is SentencePiece's; the first token of a text is BOS
            prompt, skip = choice.prompt.ids, b"" if text.startswith(" ") else b" "
            shown = ShownTokens(self._api.tokenizer, self._api.texts, skip)
            tokens = [shown.next(*pair) for pair in zip(prompt, choice.request.prompt_logprobs, strict=False)]
        return {"text": text, "logprobs": self._form(tokens)}

    def selected(self, deltas: list[Delta]) -> list[Delta]:
        size, chosen = self.running.job.n, list[Delta]()
        if size == self._n:
            return deltas
        for start in range(0, len(deltas), size):
            chosen += sorted(deltas[start : start + size], key=_mean_logprob, reverse=True)[: self._n]
        return chosen

    def _echo(self, choice: Choice) -> str:
        return self._prompts[choice.number // self.running.job.n]

    def _form(self, tokens: list[shown_tokens.ShownToken]) -> dict[str, Any] | None:
        return shown_tokens.of_completion(tokens, bool(self._logprobs)) if self._logprobs is not None else None


def _mean_logprob(delta: Delta) -> float:
    values = [token.logprob for token in delta.logprobs]
    return sum(values) / len(values) if values else float("-inf")
