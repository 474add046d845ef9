"""A checkpoint of any format, opened as the client that commands ask."""

import dataclasses
from pathlib import Path

from codellama_jax.config.generation import Serving
from codellama_jax.conversion.generation_model import open_model
from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.evaluation.clients.local import LocalModel
from codellama_jax.generation.engine import Engine
from codellama_jax.runtime import cache

_SLOTS = 16


@dataclasses.dataclass(frozen=True)
class Opening:
    """How a checkpoint is opened.

    Attributes:
        tokenizer: its tokenizer's file; None: its own.
        dtype: "float32" or "bfloat16"; None: float32 on a CPU, otherwise bfloat16.
        cache_dtype: of keys and values; None: dtype.
        tensor: number of devices that share the model; 0: all that fit.
        context: the most tokens of prompt and answer; 0: as in training.
        slots: answers that are generated at a time; 0: 16.
        chat_format: of dialogues; None: the checkpoint's.
    """

    tokenizer: Path | None = None
    dtype: str | None = None
    cache_dtype: str | None = None
    tensor: int = 0
    context: int = 0
    slots: int = 0
    chat_format: str | None = None


def open_local_model(checkpoint: Path, opening: Opening) -> LocalModel:
    """Opens a checkpoint.

    Raises:
        UserError: it cannot be opened, or the context is too small.
    """
    cache.keep_programs()
    model = open_model(checkpoint, opening.tokenizer, opening.dtype, opening.tensor)
    context = opening.context or model.context
    if context < 2:
        raise UserError(f"--context={context} must be at least 2", EXIT_USAGE)
    # Prompt lookup (Serving.draft_tokens) is for few answers at a time; here the slots are full.
    serving = Serving(slots=opening.slots or _SLOTS, context=context, cache_dtype=opening.cache_dtype)
    engine = Engine(model.weights, model.llama, serving, model.tokenizer.rows, model.mesh)

    def dialogue_format() -> str:
        return model.dialogue_format(opening.chat_format)

    return LocalModel(engine, model.tokenizer, model.name, model.weights, dialogue_format, model.context)
