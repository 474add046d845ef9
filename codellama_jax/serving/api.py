"""What every HTTP API needs of the server: the model, the service, prompts, and whom a request belongs to."""

import dataclasses
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from codellama_jax.chat import Message
from codellama_jax.config.serving import Server
from codellama_jax.conversion.generation_model import GenerationModel
from codellama_jax.errors import UserError
from codellama_jax.generation import prompts
from codellama_jax.generation.prompts import Prompt
from codellama_jax.serving.guard import given_keys
from codellama_jax.serving.http import ApiError, Fields
from codellama_jax.serving.jobs import Job, Running
from codellama_jax.serving.metrics import Metrics
from codellama_jax.serving.sentinels import Sentinels
from codellama_jax.serving.service import Service
from codellama_jax.tokenizer import Order

T = TypeVar("T")
_SHORT = 4_000  # characters, which are encoded in less than a millisecond


class Api:
    """The served model.

    Attributes:
        model: the opened checkpoint.
        service: answers jobs.
        settings: the server's.
        name: the model's name in answers.
        names: the names that a request can choose from: that of the model, and those of its adapters.
        started: seconds since the epoch.
        metrics: what was counted.
        sentinels: reads infilling markers in raw prompts.
        order: order of infilling prompts, unless a request names another.
    """

    def __init__(self, model: GenerationModel, service: Service, settings: Server, name: str):
        self.model, self.service, self.settings, self.name = model, service, settings, name
        self.names = name, *model.adapters
        self.tokenizer, self.texts = service.tokenizer, service.texts
        self.order: Order = settings.order or self.tokenizer.orders[0]
        self.started = int(time.time())
        self.metrics = Metrics(service)
        self.sentinels = Sentinels(settings.sentinels, self.metrics.sentinel_prompt, self.tokenizer)
        self._longest = max(len(self.texts(id)) for id in range(self.tokenizer.pieces))

    async def prompt(self, encode: Callable[[], T], *texts: str) -> T:
        """Encodes a prompt; a long one in another thread, because it takes longer than others should wait.

        Args:
            encode: makes the prompt.
            texts: all text of the prompt, whose length is checked first.

        Raises:
            ApiError: the text is certainly longer than the context.
        """
        characters = sum(map(len, texts))
        shortest = characters // self._longest
        if shortest > self.service.context:
            raise ApiError(
                400,
                f"the prompt has more than {shortest:,} tokens, and prompt and answer must fit"
                f" {self.service.context:,}: shorten it",
            )
        return await run_in_threadpool(encode) if characters > _SHORT else encode()

    async def complete(self, text: str, healing: bool = True) -> Prompt:
        """The prompt of a text to continue. Raises as `prompt` does."""
        return await self.prompt(lambda: prompts.complete(self.tokenizer, self.texts, text, healing), text)

    async def raw(self, text: str, healing: bool = True) -> Prompt:
        """The prompt of a text to continue at an endpoint of raw completion. Raises as `prompt` does.

        Infilling markers in the text make it the prompt of a hole (sentinels.py).
        """
        return await self.marked(text, self.infill) or await self.complete(text, healing)

    async def marked(self, text: str, hole: Callable[[str, str], Awaitable[T]]) -> T | None:
        """What `hole` makes of the prefix and suffix of a raw text with infilling markers; None if it has none.

        Raises:
            ApiError: it has, but the model has no infilling ids; and what `hole` raises.
        """
        split = self.sentinels.split(text)
        if split is None:
            return None
        try:
            return await hole(*split)
        except UserError as error:
            raise ApiError(400, f"the prompt has infilling markers, but the {error}", "prompt") from None

    async def infill(self, prefix: str, suffix: str, order: Order | None = None, healing: bool = True) -> Prompt:
        """The prompt of a hole between two texts, in an order or that of the settings.

        A model without infilling ids completes the prefix if the suffix is empty, as at the end of a file.

        Raises:
            ApiError: as `prompt` does.
            UserError: the model has no infilling ids.
        """
        if not suffix and not self.tokenizer.infilling:
            return await self.complete(prefix, healing)
        chosen = order or self.order
        return await self.prompt(
            lambda: prompts.infill(self.tokenizer, self.texts, prefix, suffix, chosen, healing), prefix, suffix
        )

    async def chat(self, messages: Sequence[Message], max_tokens: int, where: str = "messages") -> tuple[Prompt, int]:
        """The prompt of the next answer in a dialogue, and the number of turns that are left out to fit the context.

        `where` is the name of the dialogue in errors.

        Raises:
            UserError: as prompts.chat does, or the model's dialogues have a format that is not supported.
        """
        chat_format = self.model.dialogue_format(self.settings.chat_format)
        room = prompts.chat_room(self.service.context, max(max_tokens, 1))
        return await run_in_threadpool(prompts.chat, self.tokenizer, messages, chat_format, room, where)

    def finish(self, fields: Fields, ignored: Sequence[str]) -> None:
        """Refuses the fields of a request that were not read, and counts those that are ignored."""
        fields.finish(ignored)
        for name in ignored:
            if name in fields and name != "model":
                self.metrics.ignored_field(name)

    def adapter(self, request: Request) -> int:
        """Number of the adapter that a request names as its model, 0 for the model alone.

        A server without adapters answers any name, because editors send those of other services' models.

        Raises:
            ApiError: there is no such model.
        """
        name = request.scope["state"].get("model")
        if name is None or not self.model.adapters:
            return 0
        if isinstance(name, str) and (plain := name.removesuffix(":latest")) in self.names:
            return self.names.index(plain)
        raise ApiError(404, f"there is no model {name!r:.100}; this server has {', '.join(self.names)}", "model")

    def submit(self, request: Request, job: Job) -> Running:
        """Submits a job for the client of a request, to the adapter that it names; raises as Service.submit does.

        The job is cancelled when the request has ended, in whatever way (request_log.py).
        """
        job = dataclasses.replace(job, client=self._client(request), adapter=self.adapter(request))
        running = self.service.submit(job)
        request.scope["state"]["jobs"].append(running)
        return running

    def _client(self, request: Request) -> str:
        """Whom a request belongs to: its API key or address, and the program that sends it.

        On one machine all requests have the same address; the program separates an editor from a script.
        """
        keys = given_keys(request.headers) if self.settings.api_keys else []
        address = request.client.host if request.client else ""
        return "\0".join((repr(keys) if keys else address, request.headers.get("user-agent", "")[:100]))
