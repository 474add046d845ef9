"""The parts of a configuration that determine the compiled step."""

import dataclasses

from codellama_jax.config.bindings import Bindings
from codellama_jax.config.data import Packing, Tokenizer
from codellama_jax.config.lora import Lora
from codellama_jax.config.model import Llama
from codellama_jax.config.run import DEFAULTS, Config
from codellama_jax.config.training import AdamW, Evaluation, Mesh, Stage

STEP_PARTS = (Stage, Llama, AdamW, Lora, Mesh, Packing)


def shaping_config(bindings: Bindings) -> Config:
    """Resolves STEP_PARTS, and what the cost of evaluations depends on. A vocabulary size that is derived from the
    tokenizer is filled in."""
    config = bindings.resolve(*STEP_PARTS, Evaluation)
    if not config.llama.vocab_size:
        return with_vocabulary(config, bindings.resolve(Tokenizer).tokenizer)
    # only this setting: the tokenizer's file need not be named
    infilling = bindings.setting("Tokenizer.infilling", DEFAULTS["Tokenizer.infilling"])
    return dataclasses.replace(config, tokenizer=Tokenizer(infilling=infilling))


def with_vocabulary(config: Config, tokenizer: Tokenizer) -> Config:
    """Returns the configuration with this tokenizer and, if it is not set, its vocabulary size."""
    config = dataclasses.replace(config, tokenizer=tokenizer)
    if config.llama.vocab_size:
        return config
    rows = tokenizer.vocab_size + 16 * tokenizer.infilling  # as Tokenizer.rows of codellama_jax/tokenizer.py
    return dataclasses.replace(config, llama=dataclasses.replace(config.llama, vocab_size=rows))
