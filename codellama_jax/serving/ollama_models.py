"""What Ollama's clients ask about models: /api/show, /api/tags, /api/ps and /api/version."""

import datetime
import hashlib
from typing import Any

import jax
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama_jax.serving import error_forms, http, lenient_fields
from codellama_jax.serving.api import Api
from codellama_jax.serving.http import ApiError

# The version of Ollama whose API this is. Clients compare it with the one that they need.
VERSION = "0.12.0"

# Clients send a suffix only if the template has ".Suffix". With Code Llama's markers, this is the template of Code
# Llama in Ollama's library.
_INFILLING_TEMPLATE = "{{- if .Suffix }}%s{{ .Prompt }}%s{{ .Suffix }}%s{{ else }}{{ .Prompt }}{{ end }}{{ .Response }}"
_CODE_LLAMA = ("<PRE> ", " <SUF>", " <MID>")
_PLAIN_TEMPLATE = "{{ .Prompt }}{{ .Response }}"

# Paths of Ollama's API that change models or embed text.
_MISSING = ("pull", "push", "create", "copy", "delete", "embed", "embeddings", "blobs/{digest:path}")


def routes(api: Api) -> list[Route]:
    @http.endpoint(error_forms.ollama)
    async def tags(request: Request) -> Response:
        return http.json_response({"models": [_listed(api, name) for name in api.names]})

    @http.endpoint(error_forms.ollama)
    async def running(request: Request) -> Response:
        never = "2318-01-01T00:00:00Z"
        memory = {"size_vram": 0 if jax.default_backend() == "cpu" else api.model.bytes}
        state = {"expires_at": never, "context_length": api.service.context, **memory}
        return http.json_response({"models": [_listed(api, name) | state for name in api.names]})

    @http.endpoint(error_forms.ollama)
    async def show(request: Request) -> Response:
        fields = await lenient_fields.fields(request)
        request.scope["state"]["model"] = fields.text("model", fields.text("name", api.name))
        api.adapter(request)  # raises for an unknown name
        fields.finish(("verbose", "system", "template", "options"))
        return http.json_response(_shown(api))

    @http.endpoint(error_forms.ollama)
    async def version(request: Request) -> Response:
        return http.json_response({"version": VERSION})

    @http.endpoint(error_forms.ollama)
    async def missing(request: Request) -> Response:
        raise ApiError(501, f"this server serves one model, {api.name}: {request.scope['path'][:100]} is not supported")

    async def alive(request: Request) -> Response:
        """Clients ask whether a server is there with HEAD /."""
        return Response()

    return [
        Route("/api/tags", tags),
        Route("/api/ps", running),
        Route("/api/show", show, methods=["POST"]),
        Route("/api/version", version),
        *(Route(f"/api/{path}", missing, methods=["GET", "POST", "DELETE", "HEAD"]) for path in _MISSING),
        Route("/", alive, methods=["HEAD"]),
    ]


def _listed(api: Api, name: str) -> dict[str, Any]:
    digest = hashlib.sha256(f"{name}\0{api.tokenizer.fingerprint}".encode()).hexdigest()
    name = name if ":" in name else f"{name}:latest"
    modified = _time(api)
    return {"name": name, "model": name, "modified_at": modified, "size": api.model.bytes, "digest": digest} | {
        "details": _details(api)
    }


def _shown(api: Api) -> dict[str, Any]:
    llama, tokenizer = api.model.llama, api.tokenizer
    markers = tokenizer.markers.in_prompts if tokenizer.markers else _CODE_LLAMA
    return {
        "modelfile": "",
        "parameters": "",
        "template": _INFILLING_TEMPLATE % markers if tokenizer.infilling else _PLAIN_TEMPLATE,
        "license": "",
        "details": _details(api),
        "model_info": {
            "general.architecture": "llama",
            "general.basename": api.name,
            "general.parameter_count": api.model.llama.parameters,
            "llama.attention.head_count": llama.heads,
            "llama.attention.head_count_kv": llama.kv_heads,
            "llama.attention.layer_norm_rms_epsilon": llama.norm_eps,
            "llama.block_count": llama.layers,
            "llama.context_length": api.service.context,
            "llama.embedding_length": llama.dim,
            "llama.feed_forward_length": llama.ffn_dim,
            "llama.rope.dimension_count": llama.head_dim,
            "llama.rope.freq_base": llama.rope_theta,
            "llama.vocab_size": tokenizer.rows,
            "tokenizer.ggml.bos_token_id": tokenizer.bos_id,
            "tokenizer.ggml.eos_token_id": tokenizer.eos_id,
            "tokenizer.ggml.model": "llama" if tokenizer.implicit_space else "gpt2",
        },
        "capabilities": ["completion", *(["insert"] if tokenizer.infilling else [])],
        "modified_at": _time(api),
    }


def _details(api: Api) -> dict[str, Any]:
    count, dtype = api.model.llama.parameters, api.model.llama.compute_dtype
    size = f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.2f}M"
    return {
        "parent_model": "",
        "format": api.model.format,
        "family": "llama",
        "families": ["llama"],
        "parameter_size": size,
        "quantization_level": {"float32": "F32", "bfloat16": "BF16"}.get(dtype, dtype),
    }


def _time(api: Api) -> str:
    return datetime.datetime.fromtimestamp(api.started, datetime.UTC).isoformat().replace("+00:00", "Z")
