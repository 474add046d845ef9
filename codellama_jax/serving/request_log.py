"""What is recorded of every request: one line in the log, and its counts in the metrics."""

import logging
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codellama_jax.serving import http
from codellama_jax.serving.api import Api
from codellama_jax.serving.jobs import Running

logger = logging.getLogger(__name__)

_PROBES = ("/livez", "/readyz", "/health", "/metrics")  # asked every few seconds


class RequestLog:
    """Records requests, and cancels the jobs that a request leaves behind.

    The line has no content of prompts and answers, and neither query nor headers. `Server.log_prompts` adds lines with
    prompts and answers.
    """

    def __init__(self, app: ASGIApp, api: Api):
        self._app, self._api = app, api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), http.CLIENT_GONE
        jobs: list[Running] = []
        scope.setdefault("state", {})["jobs"] = jobs  # Api.submit adds to them

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            for job in jobs:
                job.cancel()
            self._record(scope, status, time.monotonic() - started, jobs)

    def _record(self, scope: Scope, status: int, seconds: float, jobs: list[Running]) -> None:
        endpoint = getattr(scope.get("route"), "path", "other")
        self._api.metrics.answered(endpoint, status, seconds)
        tokens = "".join(f", {job.prompt_tokens:,} + {job.answer_tokens:,} tokens" for job in jobs)
        path, client = ascii(scope["path"][:100])[1:-1], (scope.get("client") or ("?",))[0]
        level = logging.DEBUG if endpoint in _PROBES else logging.INFO
        logger.log(level, "%s %s %s %d in %.3f s%s", client, scope["method"], path, status, seconds, tokens)
        if self._api.settings.log_prompts:
            for choice in (choice for job in jobs for choice in job.choices):
                logger.info("prompt %s answer %s", *map(ascii, self._texts(choice)))

    def _texts(self, choice: Any) -> tuple[str, str]:
        return self._api.tokenizer.decode(choice.prompt.ids), choice.stream.text
