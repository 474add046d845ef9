"""Prompts of the protocols of editors: holes, and raw text that may have infilling markers."""

from collections.abc import Sequence

from codellama_jax.generation import fitting
from codellama_jax.generation.fitting import Fitted
from codellama_jax.serving.api import Api
from codellama_jax.serving.http import ApiError


def room(api: Api, max_tokens: int) -> int:
    """Number of tokens that a prompt may have: the context without the answer, for which a quarter is enough."""
    context = api.service.context
    return context - max(1, min(max_tokens, context // 4))


async def hole(api: Api, prefix: str, suffix: str, max_tokens: int, snippets: Sequence[str] = ()) -> Fitted:
    """The prompt of a hole, cut to the context.

    Raises:
        UserError: the model has no infilling ids.
    """
    order, limit = api.order, room(api, max_tokens)
    return await api.prompt(
        lambda: fitting.infill(api.tokenizer, api.texts, prefix, suffix, order, limit, tuple(snippets))
    )


async def marked(api: Api, text: str, max_tokens: int) -> Fitted | None:
    """The prompt of a hole, if a raw text has infilling markers (sentinels.py).

    Raises:
        ApiError: it has, but the model has no infilling ids.
    """
    return await api.marked(text, lambda prefix, suffix: hole(api, prefix, suffix, max_tokens))


async def plain(api: Api, text: str, max_tokens: int, cut: bool) -> Fitted:
    """The prompt of a text to continue.

    Args:
        api: the server.
        text: the text.
        max_tokens: maximum number of tokens of the answer.
        cut: whether a text that is too long loses its beginning.

    Raises:
        ApiError: it is too long.
    """
    limit = room(api, max_tokens) if cut else api.service.context - 1
    fitted = await api.prompt(lambda: fitting.complete(api.tokenizer, api.texts, text, limit))
    if fitted.truncated and not cut:
        raise ApiError(400, f"the prompt is longer than the context of {api.service.context:,} tokens: shorten it")
    return fitted


async def raw(api: Api, text: str, max_tokens: int, cut: bool) -> Fitted:
    """The prompt of a raw text, with infilling markers or without. Arguments and errors are those of both."""
    return await marked(api, text, max_tokens) or await plain(api, text, max_tokens, cut)
