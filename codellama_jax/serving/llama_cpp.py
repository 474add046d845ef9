"""The API of llama.cpp's server: /infill, /completion, and what its clients ask about the server.

llama.vim and llama.vscode use /infill; docs/protocols.md lists the fields.
"""

import dataclasses
import secrets
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama_jax.config.generation import MOST_LOGPROBS, Sampling
from codellama_jax.generation.fitting import Fitted
from codellama_jax.generation.prompts import of_ids
from codellama_jax.serving import error_forms, http, lenient_fields, raw_prompts, sampling_fields
from codellama_jax.serving import llama_cpp_answers as answers
from codellama_jax.serving.api import Api
from codellama_jax.serving.http import ApiError, Fields
from codellama_jax.serving.jobs import Job, Running
from codellama_jax.serving.llama_cpp_answers import Answer, Form

# Fields that change nothing that is generated here.
IGNORED: tuple[str, ...] = ("model", "user", "cache_prompt", "t_max_prompt_ms", "n_keep", "n_discard", "n_cache_reuse")
IGNORED += ("repeat_last_n", "min_keep", "timings_per_token", "return_progress", "sse_ping_interval")
IGNORED += ("post_sampling_probs", "dynatemp_exponent", "dry_base", "dry_allowed_length", "dry_penalty_last_n")
IGNORED += ("dry_sequence_breakers", "xtc_threshold", "mirostat_tau", "mirostat_eta")
IGNORED += ("speculative.n_max", "speculative.n_min", "speculative.p_min")

# Settings that are not supported, with the values that switch them off.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "dynatemp_range": (0,),
    "typical_p": (1,),
    "top_n_sigma": (-1,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
    "mirostat": (0,),
    "logit_bias": ([], {}),
    "ignore_eos": (False,),
    "lora": ([],),
    "grammar": ("",),
    "json_schema": ({},),
}

# The samplers of llama.cpp that have no setting here, or one that is refused unless it switches them off.
_NO_EFFECT = ("dry", "typical_p", "typ_p", "top_n_sigma", "xtc", "penalties", "adaptive_p")
_SAMPLERS = ("top_k", "top_p", "min_p", "temperature", "infill", *_NO_EFFECT)
_LETTERS = {"k": "top_k", "p": "top_p", "m": "min_p", "t": "temperature", "i": "infill", "e": "penalties"}
_LETTERS |= {"d": "dry", "y": "typical_p", "s": "top_n_sigma", "x": "xtc", "a": "adaptive_p"}
# The sampler "infill" keeps the few tokens that are likely. At a likelihood of 0.4, it keeps those above half of it.
_INFILL_MIN_P = 0.5
_RANDOM_SEEDS = (-1, 2**32 - 1)
_INFILL_TOKENS = 128  # what llama.vim asks for. llama.cpp's own default is no limit


def routes(api: Api) -> list[Route]:
    @http.endpoint(error_forms.llama_cpp)
    async def infill(request: Request) -> Response:
        if not api.tokenizer.infilling:
            raise ApiError(501, "Infill is not supported by this model: prefix token is missing. " + _WITHOUT_INFILLING)
        fields = await lenient_fields.fields(request)
        prefix, suffix = fields.text("input_prefix"), fields.text("input_suffix")
        prompt = fields.text("prompt", "")
        snippets = _snippets(fields)
        read = _Settings(api, fields, _INFILL_TOKENS, prompt)
        fields.finish(IGNORED)
        # A request that fills the cache must cut as the one that follows it does.
        tokens = _INFILL_TOKENS if not read.sampling.max_tokens else read.sampling.max_tokens
        fitted = await raw_prompts.hole(api, prefix + prompt, suffix, tokens, snippets)
        return await _answer(api, request, [fitted], read, many=read.n > 1)

    @http.endpoint(error_forms.llama_cpp)
    async def completion(request: Request) -> Response:
        fields = await lenient_fields.fields(request)
        given = fields.raw("prompt")
        read = _Settings(api, fields, api.service.context, given if isinstance(given, str) else "")
        fields.finish(IGNORED)
        prompts, several = _prompts(given)
        fitted = [
            await raw_prompts.raw(api, prompt, read.sampling.max_tokens, cut=False)
            if isinstance(prompt, str)
            else Fitted(of_ids(api.tokenizer, prompt), truncated=False)
            for prompt in prompts
        ]
        return await _answer(api, request, fitted, read, many=several or read.n > 1)

    @http.endpoint(error_forms.llama_cpp)
    async def tokenize(request: Request) -> Response:
        fields = await lenient_fields.fields(request)
        text, special = fields.text("content"), fields.boolean("add_special", False)
        pieces = fields.boolean("with_pieces", False)
        fields.finish(("parse_special", "model"))
        ids = (await api.prompt(lambda: api.tokenizer.encode(text))).tolist()
        ids = [*api.tokenizer.start_ids, *ids] if special else ids
        return http.json_response({"tokens": [_piece(api, id) for id in ids] if pieces else ids})

    @http.endpoint(error_forms.llama_cpp)
    async def detokenize(request: Request) -> Response:
        fields = await lenient_fields.fields(request)
        ids = _ids(fields.raw("tokens"), "tokens")
        fields.finish(("model",))
        if any(id >= api.tokenizer.rows for id in ids):
            raise ApiError(400, f"tokens has ids outside 0 to {api.tokenizer.rows - 1}", "tokens")
        return http.json_response({"content": api.tokenizer.decode_continuation(ids)})

    @http.endpoint(error_forms.llama_cpp)
    async def props(request: Request) -> Response:
        return http.json_response(_props(api))

    @http.endpoint(error_forms.llama_cpp)
    async def health(request: Request) -> Response:
        _check_ready(api)
        return http.json_response({"status": "ok"})

    @http.endpoint(error_forms.llama_cpp)
    async def slots(request: Request) -> Response:
        total, active = api.service.engine.serving.slots, api.service.active
        if request.query_params.get("fail_on_no_slot") and active >= total:
            raise ApiError(503, "no slot available", retry_after=1)
        state = {"id_task": -1, "n_ctx": api.service.context, "speculative": False}
        return http.json_response([{"id": id, **state, "is_processing": id < active} for id in range(total)])

    return [
        Route("/infill", infill, methods=["POST"]),
        Route("/completion", completion, methods=["POST"]),
        Route("/completions", completion, methods=["POST"]),
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
        Route("/props", props),
        Route("/health", health),
        Route("/slots", slots),
    ]


_WITHOUT_INFILLING = (
    "Use /completion, or serve a model that was trained with infilling: Code Llama 7B or 13B (not Python), or a stage"
    " of this project."
)


class _Settings:
    """The fields that /infill and /completion share.

    Attributes:
        sampling: how tokens are chosen.
        n: number of answers of each prompt.
        stream: whether the answers are streamed.
        line_seconds: seconds of decoding after which an answer ends, if it has a line end.
        form: the form of the answers.
    """

    def __init__(self, api: Api, fields: Fields, max_tokens: int, prompt: str):
        predict = fields.integer("n_predict", fields.integer("max_tokens", max_tokens, -2), -2)
        seed = fields.integer("seed", -1, -1, 2**64 - 1)
        most = api.service.most_choices
        self.n = fields.integer("n_cmpl", fields.integer("n", 1, 1, most), 1, most)
        self.stream = fields.boolean("stream", False)
        milliseconds = fields.number("t_max_predict_ms", 0)
        self.line_seconds = milliseconds / 1e3 if milliseconds > 0 else None
        for name, off in _UNSUPPORTED.items():
            fields.refuse(name, "leave it out", off)
        filters = {
            "temperature": max(0.0, fields.number("temperature", 0.8)),
            "top_k": max(0, fields.integer("top_k", 40)),
            "top_p": min(1.0, max(fields.number("top_p", 0.95, 0), 1e-6)),
            "min_p": fields.number("min_p", 0.05, 0, 1),
            "repetition_penalty": fields.number("repeat_penalty", 1.0, 0.01, 100),
        }
        self.sampling = Sampling(
            max_tokens=predict if predict >= 0 else api.service.context,
            presence_penalty=fields.number("presence_penalty", 0.0),
            frequency_penalty=fields.number("frequency_penalty", 0.0),
            logprobs=fields.integer("n_probs", 0, 0, MOST_LOGPROBS) or None,
            seed=secrets.randbits(32) if seed in _RANDOM_SEEDS else seed,
            stop=sampling_fields.stop_strings(fields, empty=True),
            **_applied(filters, fields.raw("samplers")),
        )
        names = (
            "max_tokens",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "presence_penalty",
            "frequency_penalty",
            "seed",
            "stop",
        )
        report = {name: getattr(self.sampling, name) for name in names}
        report |= {"repeat_penalty": self.sampling.repetition_penalty, "n_probs": self.sampling.logprobs or 0}
        self.form = Form(
            model=api.name,
            prompt=prompt,
            texts=api.texts,
            settings={**report, "n_predict": predict, "n_ctx": api.service.context, "stream": self.stream},
            indentation=fields.integer("n_indent", 0, 0),
            return_tokens=fields.boolean("return_tokens", False),
            fields=fields.texts("response_fields"),
            slot=fields.integer("id_slot", -1),
        )


def _applied(filters: dict[str, Any], samplers: Any) -> dict[str, Any]:
    """The settings of the samplers that a request names; the others are left out. Their order here is fixed."""
    if samplers is None:
        return filters
    if isinstance(samplers, str):
        samplers = [_LETTERS.get(letter, letter) for letter in samplers]
    if not isinstance(samplers, list) or not all(isinstance(name, str) for name in samplers):
        raise ApiError(400, "samplers must be a list of names, or a string of their letters", "samplers")
    if unknown := [name for name in samplers if name not in _SAMPLERS]:
        raise ApiError(400, f"samplers has {unknown[0]!r:.40}: it may have {', '.join(_SAMPLERS)}", "samplers")
    off = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    applied = {name: value if name in samplers else off.get(name, value) for name, value in filters.items()}
    if "infill" in samplers:
        applied["min_p"] = max(applied["min_p"], _INFILL_MIN_P)
    if filters["temperature"] == 0:
        applied["temperature"] = 0.0
    return applied


def _snippets(fields: Fields) -> list[str]:
    """The texts of other files."""
    chunks = fields.raw("input_extra", [])
    if not isinstance(chunks, list):
        raise ApiError(400, 'input_extra must be a list of {"filename": string, "text": string}', "input_extra")
    for chunk in chunks:
        if not isinstance(chunk, dict) or not isinstance(chunk.get("text"), str):
            raise ApiError(400, 'an element of input_extra has no string "text"', "input_extra")
        if not isinstance(chunk.get("filename", ""), str):
            raise ApiError(400, 'the "filename" of an element of input_extra is not a string', "input_extra")
    return [chunk["text"] for chunk in chunks]


def _prompts(prompt: Any) -> tuple[list[str | list[int]], bool]:
    """The prompts of a request, each a text or ids, and whether it has a list of them."""
    if prompt is None:
        raise ApiError(
            400, '"prompt" is missing: it must be a string, a list of token ids, or a list of these', "prompt"
        )
    if isinstance(prompt, str):
        return [prompt], False
    if not isinstance(prompt, list) or not prompt:
        raise ApiError(400, "prompt must be a string, a list of token ids, or a list of these", "prompt")
    if all(isinstance(part, str | list) for part in prompt):
        return [part if isinstance(part, str) else _ids(part, "prompt") for part in prompt], True
    return [_ids(prompt, "prompt")], False


def _ids(value: Any, name: str) -> list[int]:
    if not isinstance(value, list) or not all(isinstance(id, int) and not isinstance(id, bool) for id in value):
        raise ApiError(400, f"{name} must be a list of token ids", name)
    if any(not 0 <= id < 2**31 for id in value):
        raise ApiError(400, f"{name} has an id that is negative or too large", name)
    return value


async def _answer(api: Api, request: Request, fitted: list[Fitted], read: _Settings, many: bool) -> Response:
    if len(fitted) * read.n > api.service.most_choices:
        raise ApiError(400, f"the request has more than {api.service.most_choices} answers", "n_cmpl")
    job = Job(tuple(one.prompt for one in fitted), read.sampling, read.n, line_seconds=read.line_seconds)
    running: Running = api.submit(request, job)
    form = dataclasses.replace(read.form, model=api.names[running.job.adapter])
    whole = [Answer(choice, form, fitted[choice.number // read.n].truncated) for choice in running.choices]
    if read.stream:
        return http.Stream(answers.events(running, whole))
    replies = await http.until_disconnect(request, answers.finished(running, whole))
    return http.json_response(replies if many else replies[0])


def _piece(api: Api, id: int) -> dict[str, Any]:
    data = api.texts(id)
    try:
        return {"id": id, "piece": data.decode()}
    except UnicodeDecodeError:  # a part of a character
        return {"id": id, "piece": list(data)}


def _props(api: Api) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "n_predict": -1,
        "seed": _RANDOM_SEEDS[1],
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.95,
    }
    defaults |= {"min_p": 0.05, "repeat_penalty": 1.0, "stop": [], "stream": False}
    context = {"n_ctx": api.service.context, "speculative": False, "is_processing": api.service.active > 0}
    return {
        "default_generation_settings": {"id": 0, "id_task": -1, **context, "params": defaults},
        "total_slots": api.service.engine.serving.slots,
        "model_alias": api.name,
        "model_path": api.name,
        "chat_template": "",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "modalities": {"vision": False, "audio": False},
        "build_info": "codellama_jax",
        "is_sleeping": False,
    }


def meta(api: Api) -> dict[str, Any]:
    """What llama.cpp's /v1/models says of a model; llama.vscode reads it."""
    llama = api.model.llama
    return {
        "n_ctx": api.service.context,
        "n_ctx_train": api.model.context,
        "n_embd": llama.dim,
        "n_params": llama.parameters,
        "n_vocab": api.tokenizer.rows,
        "size": api.model.bytes,
    }


def _check_ready(api: Api) -> None:
    if api.service.failure is not None:
        raise ApiError(500, "the engine has ended with an error; restart the server")
    if not api.service.ready:
        raise ApiError(503, "Loading model", retry_after=5)
