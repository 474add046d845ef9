"""What every HTTP API needs of the server: the model, the service, and whom a request belongs to."""

import dataclasses
import time
from collections.abc import Callable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from codellama_jax.config.serving import Server
from codellama_jax.conversion.generation_model import GenerationModel
from codellama_jax.serving.sentinels import Sentinels
from codellama_jax.serving.service import Job, Running, Service

T = TypeVar("T")


class Api:
    """The served model.

    Attributes:
        model: the opened checkpoint.
        service: answers jobs.
        settings: the server's.
        name: the model's name in answers.
        started: seconds since the epoch.
        sentinels: reads infilling markers in raw prompts.
    """

    def __init__(self, model: GenerationModel, service: Service, settings: Server, name: str):
        self.model, self.service, self.settings, self.name = model, service, settings, name
        self.tokenizer, self.texts = service.tokenizer, service.texts
        self.started = int(time.time())
        self.sentinels = Sentinels(settings.sentinels)

    async def prompt(self, encode: Callable[[], T]) -> T:
        """Encodes a prompt in another thread: a long text takes longer than others should wait."""
        return await run_in_threadpool(encode)

    def submit(self, request: Request, job: Job) -> Running:
        """Submits a job for the client of a request; raises as Service.submit does."""
        return self.service.submit(dataclasses.replace(job, client=client_of(request)))


def client_of(request: Request) -> str:
    """Whom a request belongs to: its API key or address, and the program that sends it.

    On one machine all requests have the same address; the program separates an editor from a script.
    """
    key = request.headers.get("authorization") or request.headers.get("x-api-key") or ""
    address = request.client.host if request.client else ""
    return "\0".join((key or address, request.headers.get("user-agent", "")[:100]))
