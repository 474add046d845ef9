"""The page at /: an editor with infilling, a chat, the model's card and live figures.

    GET /             one HTML document, made of the files in web/; it loads nothing else
    GET /page/state   the card and the figures, as JSON

The document needs no API key, because it says nothing of the model; everything that it requests needs one. Its
Content-Security-Policy names its script and its style by their hashes, and allows requests to this server only.
"""

import base64
import hashlib
import statistics
from importlib import resources
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama_jax.serving import http
from codellama_jax.serving.api import Api

PATH = "/"
# Joined into one script in this order: a page under a policy of hashes cannot import modules.
SCRIPTS = ("server.js", "ghost.js", "suggestions.js", "editor.js", "chat.js", "figures.js", "main.js")


def routes(api: Api) -> list[Route]:
    document, headers = _document()

    async def page(request: Request) -> Response:
        return Response(document, headers=headers, media_type="text/html")

    async def state(request: Request) -> Response:
        return http.json_response(
            {"model": _card(api), "figures": _figures(api)}, headers={"Cache-Control": "no-store"}
        )

    return [Route(PATH, page), Route("/page/state", state)]


def _document() -> tuple[str, dict[str, str]]:
    """The page, and the headers that restrict what it can do."""
    web = resources.files("codellama_jax.serving") / "web"
    style = (web / "style.css").read_text("utf-8")
    script = "\n".join((web / name).read_text("utf-8") for name in SCRIPTS)
    document = (web / "index.html").read_text("utf-8").replace("{style}", style).replace("{script}", script)
    policy = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    headers = {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-cache",
    }
    return document, headers


def _hash(text: str) -> str:
    """The source expression that allows one inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _card(api: Api) -> dict[str, Any]:
    """What is known of the model."""
    model, llama = api.model, api.model.llama
    return {
        "name": api.name,
        "parameters": llama.parameters,
        "layers": llama.layers,
        "dim": llama.dim,
        "heads": llama.heads,
        "kv_heads": llama.kv_heads,
        "vocabulary": llama.vocab_size,
        "context": api.service.context,
        "trained_context": model.context,
        "rope_theta": llama.rope_theta,
        "dtype": llama.compute_dtype,
        "format": model.format,
        "infilling": api.order if api.tokenizer.infilling else None,
        "chat": model.chat_format if model.dialogues else None,
        "training": None if model.training is None else model.training._asdict(),
    }


def _figures(api: Api) -> dict[str, Any]:
    """Figures of the running server."""
    service = api.service
    pool, first = service.engine.pool, list(service.first_token_seconds)
    return {
        "state": "failed" if service.failure is not None else "ready" if service.ready else "loading",
        "generated_tokens": service.generated_tokens,
        "first_token_seconds": statistics.median(first) if first else None,
        "active": service.active,
        "slots": service.engine.serving.slots,
        "waiting": service.waiting,
        "pages_used": pool.used,
        "pages": pool.count,
    }
