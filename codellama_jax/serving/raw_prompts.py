"""Prompts of the protocols of editors: holes, and raw text that may have infilling markers."""

from collections.abc import Sequence

from codellama_jax.errors import UserError
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
    order, limit = api.settings.order, room(api, max_tokens)
    return await api.prompt(
        lambda: fitting.infill(api.tokenizer, api.texts, prefix, suffix, order, limit, tuple(snippets))
    )


async def raw(api: Api, text: str, max_tokens: int, cut: bool) -> Fitted:
    """The prompt of a text to continue, or of a hole if the text has infilling markers.

    Args:
        api: the server.
        text: the raw prompt.
        max_tokens: maximum number of tokens of the answer.
        cut: whether a text that is too long loses its beginning. Holes are always cut.

    Raises:
        ApiError: the text has infilling markers, but the model has no infilling ids; or it is too long.
    """
    split = api.sentinels.split(text)
    if split is not None:
        try:
            return await hole(api, *split, max_tokens)
        except UserError as error:
            raise ApiError(400, f"the prompt has infilling markers, but the {error}", "prompt") from None
    limit = room(api, max_tokens) if cut else api.service.context - 1
    fitted = await api.prompt(lambda: fitting.complete(api.tokenizer, api.texts, text, limit))
    if fitted.truncated and not cut:
        raise ApiError(400, f"the prompt is longer than the context of {api.service.context:,} tokens: shorten it")
    return fitted
